package main

import (
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	adminv1 "github.com/charon-kdc/charon/proto/charon/admin/v1"
)

func newTokenCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "token", Short: "tokens that let a node join, once each"}
	cmd.AddCommand(tokenCreate(), tokenList(), tokenRevoke())
	return cmd
}

func tokenCreate() *cobra.Command {
	var ttl string
	var recertify bool
	cmd := &cobra.Command{
		Use: "create NAME", Short: "make a join token for a new node; it is shown once", Args: cobra.MaximumNArgs(1),
		Example: "  charon token create kdc2 --ttl 30m",
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 || args[0] == "" {
				return usage(cmd, "give the new node's name")
			}
			life, err := parseLife(ttl, time.Now())
			if err != nil || life == 0 {
				return usage(cmd, "--ttl %q is not a length of time such as 30m", ttl)
			}
			return withConnection(cmd, func(ctx context.Context, c *connection) error {
				r, err := mutate(ctx, cmd, func(ctx context.Context, id []byte) (*adminv1.CreateTokenResponse, error) {
					return c.cluster().CreateToken(ctx, &adminv1.CreateTokenRequest{RequestId: id, NodeName: args[0], Ttl: life, Recertify: recertify})
				})
				if err != nil {
					return err
				}
				return show(cmd, r, func(w io.Writer, _ bool) error {
					_, err := fmt.Fprintln(w, r.GetToken())
					return err
				})
			})
		},
	}
	cmd.Flags().BoolVar(&recertify, "recertify", false, "for a node that is a member: it is given a new certificate by charon node recertify")
	cmd.Flags().StringVar(&ttl, "ttl", "30m", "how long it is good; at most 7d")
	return cmd
}

func tokenList() *cobra.Command {
	var local bool
	cmd := &cobra.Command{
		Use: "list [GLOB]", Short: "list join tokens by node name, without their secrets", Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return withConnection(cmd, func(ctx context.Context, c *connection) error {
				r, err := c.cluster().ListTokens(ctx, &adminv1.ListTokensRequest{Filter: strings.Join(args, ""), Consistency: consistency(local)})
				if err != nil {
					return err
				}
				return showList(cmd, r.GetTokens(), func(w io.Writer, _ bool) error {
					var rows [][]string
					for _, t := range r.GetTokens() {
						used := ""
						if t.GetUsedAt() != 0 {
							used = when(t.GetUsedAt())
						}
						rows = append(rows, []string{hex.EncodeToString(t.GetId()), t.GetNodeName(), when(t.GetExpiresAt()), used, when(t.GetCreatedAt()), t.GetCreatedBy()})
					}
					return table(w, "ID NODE EXPIRES USED CREATED BY", rows)
				})
			})
		},
	}
	localFlag(cmd, &local)
	return cmd
}

func tokenRevoke() *cobra.Command {
	return &cobra.Command{
		Use: "revoke ID", Short: "take a join token back", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := hex.DecodeString(args[0])
			if err != nil {
				return usage(cmd, "%q is not a token's id; see: charon token list", args[0])
			}
			return withConnection(cmd, func(ctx context.Context, c *connection) error {
				if _, err := mutate(ctx, cmd, func(ctx context.Context, rid []byte) (*adminv1.RevokeTokenResponse, error) {
					return c.cluster().RevokeToken(ctx, &adminv1.RevokeTokenRequest{RequestId: rid, Id: id})
				}); err != nil {
					return err
				}
				_, err := fmt.Fprintf(cmd.OutOrStdout(), "token %s revoked\n", args[0])
				return err
			})
		},
	}
}

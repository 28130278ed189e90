package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	adminv1 "github.com/charon-kdc/charon/proto/charon/admin/v1"
)

func newRoleCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "role", Short: "who may do what"}
	cmd.AddCommand(roleGrant(), roleRevoke(), roleList())
	return cmd
}

func roleGrant() *cobra.Command {
	var target, id string
	var own bool
	var revision uint64
	cmd := &cobra.Command{
		Use: "grant SUBJECT VERB...", Short: "give rights to a certificate's holder", Args: cobra.MinimumNArgs(2),
		Long: "Gives rights to cert:NAME (NAME may hold *). `charon init` makes the certificate cert:root, which has every right. Charon\n" +
			"does not issue others yet: a grant to another name has no effect until it does.\n" +
			"Verbs: add modify delete list inquire changepw extract setkey policy cluster role; '*' is all of them but extract.\n" +
			"extract reads keys. cluster can let a node in, which then knows every key: give it as you would give root.",
		Example: "  charon role grant cert:helpdesk inquire list changepw --over '*@EXAMPLE.COM'\n  charon role grant 'cert:web-*' extract add --over 'HTTP/*'",
		RunE: func(cmd *cobra.Command, args []string) error {
			role := &adminv1.Role{Id: id, Subject: args[0], Verbs: args[1:], Target: target, Own: own}
			return withConnection(cmd, func(ctx context.Context, c *connection) error {
				r, err := mutate(ctx, cmd, func(ctx context.Context, rid []byte) (*adminv1.GrantRoleResponse, error) {
					return c.roles().GrantRole(ctx, &adminv1.GrantRoleRequest{RequestId: rid, Role: role, ExpectedRevision: revision})
				})
				if err != nil {
					return err
				}
				return show(cmd, r.GetRole(), func(w io.Writer, _ bool) error {
					_, err := fmt.Fprintf(w, "%s may %s over %s  (role %s)\n", r.GetRole().GetSubject(), strings.Join(r.GetRole().GetVerbs(), " "), roleTarget(r.GetRole()), r.GetRole().GetId())
					return err
				})
			})
		},
	}
	f := cmd.Flags()
	f.StringVar(&target, "over", "", "glob over principal names; default, and * alone: everything. Else a * stays within one component")
	f.BoolVar(&own, "own", false, "only the subject's own entry: of cert:alice the principal alice")
	f.StringVar(&id, "id", "", "name of the grant; default: made from the subject")
	f.Uint64Var(&revision, "expected-revision", 0, "replace the grant of that id, which must have this revision")
	return cmd
}

func roleTarget(r *adminv1.Role) string {
	out := r.GetTarget()
	if out == "" {
		out = "everything"
	}
	if r.GetOwn() {
		out += ", own entry only"
	}
	return out
}

func roleRevoke() *cobra.Command {
	return &cobra.Command{
		Use: "revoke ID", Short: "take a grant back", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return withConnection(cmd, func(ctx context.Context, c *connection) error {
				if _, err := mutate(ctx, cmd, func(ctx context.Context, id []byte) (*adminv1.RevokeRoleResponse, error) {
					return c.roles().RevokeRole(ctx, &adminv1.RevokeRoleRequest{RequestId: id, Id: args[0]})
				}); err != nil {
					return err
				}
				_, err := fmt.Fprintf(cmd.OutOrStdout(), "role %s revoked\n", args[0])
				return err
			})
		},
	}
}

func roleList() *cobra.Command {
	var local bool
	cmd := &cobra.Command{
		Use: "list [GLOB]", Short: "list grants by subject", Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return withConnection(cmd, func(ctx context.Context, c *connection) error {
				req := &adminv1.ListRolesRequest{Filter: strings.Join(args, ""), Consistency: consistency(local)}
				var list []*adminv1.Role
				for {
					r, err := c.roles().ListRoles(ctx, req)
					if err != nil {
						return err
					}
					list = append(list, r.GetRoles()...)
					if req.PageToken = r.GetNextPageToken(); req.PageToken == "" {
						break
					}
				}
				return showList(cmd, list, func(w io.Writer, _ bool) error {
					var rows [][]string
					for _, r := range list {
						rows = append(rows, []string{r.GetId(), r.GetSubject(), strings.Join(r.GetVerbs(), " "), roleTarget(r), when(r.GetModifiedAt()), r.GetModifiedBy()})
					}
					return table(w, "ID SUBJECT VERBS OVER CHANGED BY", rows)
				})
			})
		},
	}
	localFlag(cmd, &local)
	return cmd
}

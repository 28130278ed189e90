package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/charon-kdc/charon/kdc/krb5/kcrypto"
	adminv1 "github.com/charon-kdc/charon/proto/charon/admin/v1"
)

func newRealmCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "realm", Short: "the realm's bounds and enctypes"}
	cmd.AddCommand(realmShow(), realmSet())
	return cmd
}

func realmShow() *cobra.Command {
	var local bool
	cmd := &cobra.Command{
		Use: "show [REALM]", Short: "show a realm", Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return withConnection(cmd, func(ctx context.Context, c *connection) error {
				r, err := c.cluster().GetRealm(ctx, &adminv1.GetRealmRequest{Name: strings.Join(args, ""), Consistency: consistency(local)})
				if err != nil {
					return err
				}
				return show(cmd, r.GetRealm(), func(w io.Writer, _ bool) error {
					printRealm(w, r.GetRealm())
					_, err := fmt.Fprintf(w, "%-18s %x\n", "cluster", r.GetClusterId())
					return err
				})
			})
		},
	}
	localFlag(cmd, &local)
	return cmd
}

func printRealm(w io.Writer, r *adminv1.Realm) {
	var etypes []string
	for _, e := range r.GetEtypes() {
		etypes = append(etypes, kcrypto.EType(e).Short())
	}
	fmt.Fprintf(w, "%-18s %s\n", "realm", r.GetName())
	fmt.Fprintf(w, "%-18s %s  renewable %s\n", "max life", span(r.GetMaxLife()), span(r.GetMaxRenewableLife()))
	fmt.Fprintf(w, "%-18s %s\n", "enctypes", strings.Join(etypes, " "))
	rotation := "none by itself"
	if r.GetKrbtgtRotation() > 0 {
		rotation = "every " + span(r.GetKrbtgtRotation())
	}
	if r.GetKrbtgtRotatesAt() != 0 {
		rotation += ", next " + when(r.GetKrbtgtRotatesAt())
	}
	fmt.Fprintf(w, "%-18s %s\n", "krbtgt rotation", rotation)
	fmt.Fprintf(w, "%-18s %d\n", "revision", r.GetRevision())
}

func realmSet() *cobra.Command {
	var maxLife, maxRenew, krbtgtRotation string
	var etypes []string
	var revision uint64
	cmd := &cobra.Command{
		Use: "set [REALM]", Short: "change a realm", Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			req := &adminv1.UpdateRealmRequest{Name: strings.Join(args, ""), ExpectedRevision: revision}
			for _, f := range []struct {
				flag, text string
				dst        **int64
			}{{"max-life", maxLife, &req.MaxLife}, {"max-renewable-life", maxRenew, &req.MaxRenewableLife}} {
				if !cmd.Flags().Changed(f.flag) {
					continue
				}
				v, err := parseLife(f.text, time.Now())
				if err != nil {
					return usage(cmd, "--%s: %v", f.flag, err)
				}
				*f.dst = &v
			}
			if cmd.Flags().Changed("krbtgt-rotation") {
				v, err := rotationSeconds(krbtgtRotation)
				if err != nil {
					return usage(cmd, "--krbtgt-rotation: %v", err)
				}
				req.KrbtgtRotation = &v
			}
			for _, text := range etypes {
				e, err := kcrypto.ParseEType(text)
				if err != nil {
					return usage(cmd, "--etypes: %v", err)
				}
				req.Etypes = append(req.Etypes, int32(e))
			}
			return withConnection(cmd, func(ctx context.Context, c *connection) error {
				r, err := mutate(ctx, cmd, func(ctx context.Context, id []byte) (*adminv1.UpdateRealmResponse, error) {
					req.RequestId = id
					return c.cluster().UpdateRealm(ctx, req)
				})
				if err != nil {
					return err
				}
				return show(cmd, r.GetRealm(), func(w io.Writer, _ bool) error { printRealm(w, r.GetRealm()); return nil })
			})
		},
	}
	f := cmd.Flags()
	f.StringVar(&maxLife, "max-life", "", "longest ticket, as 10h; at least 1m")
	f.StringVar(&maxRenew, "max-renewable-life", "", "longest renewable ticket, as 7d; at least 1m")
	f.StringVar(&krbtgtRotation, "krbtgt-rotation", "", "how often krbtgt gets new keys by itself, as 90d; at least 1h; off; default")
	f.StringSliceVar(&etypes, "etypes", nil, "enctypes in order of preference: aes256-sha2,aes128-sha2,aes256-sha1,aes128-sha1")
	revisionFlag(cmd, &revision)
	return cmd
}

// rotationSeconds reads 90d, off or default.
func rotationSeconds(text string) (int64, error) {
	switch text {
	case "off":
		return -1, nil
	case "default":
		return 0, nil
	}
	v, err := parseLife(text, time.Now())
	if err == nil && v <= 0 {
		err = errors.New("a time as 90d, off or default")
	}
	return v, err
}

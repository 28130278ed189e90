package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	adminv1 "github.com/charon-kdc/charon/proto/charon/admin/v1"
)

func newKrbtgtCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "krbtgt", Short: "the keys that ticket-granting tickets are sealed with"}
	cmd.AddCommand(krbtgtRotate())
	return cmd
}

func krbtgtRotate() *cobra.Command {
	var realm, retireAfter string
	var revoke, force bool
	cmd := &cobra.Command{
		Use: "rotate", Short: "give the realm's krbtgt new keys", Args: cobra.NoArgs,
		Long: "Give the realm's krbtgt new keys: held by every node first, then used. Tickets under the old ones are good until they end.\n" +
			"With --revoke-old they are refused at once: everybody has to log in again. Tickets for services that were issued before are good until they end.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			retire, err := retireSeconds(cmd, retireAfter)
			if err != nil {
				return err
			}
			if revoke {
				if err := confirm(cmd, force, "Refuse every ticket-granting ticket that was issued so far?"); err != nil {
					return err
				}
			}
			return withConnection(cmd, func(ctx context.Context, c *connection) error {
				r, err := mutate(ctx, cmd, func(ctx context.Context, id []byte) (*adminv1.RotateKrbtgtResponse, error) {
					return c.rotation().RotateKrbtgt(ctx, &adminv1.RotateKrbtgtRequest{RequestId: id, Realm: realm, RevokeOld: revoke, RetireAfter: retire})
				})
				if err != nil {
					return err
				}
				return show(cmd, r, func(w io.Writer, _ bool) error {
					_, err := fmt.Fprintln(w, krbtgtLine(r))
					return err
				})
			})
		},
	}
	f := cmd.Flags()
	f.StringVar(&realm, "realm", "", "of this realm; default: the default realm")
	f.BoolVar(&revoke, "revoke-old", false, "refuse tickets under earlier keys at once")
	f.BoolVarP(&force, "force", "f", false, "do not ask")
	f.StringVar(&retireAfter, "retire-after", "", "earlier keys go on opening tickets for this long, as 12h; default: as long as a ticket can live")
	cmd.MarkFlagsMutuallyExclusive("revoke-old", "retire-after")
	return cmd
}

func krbtgtLine(r *adminv1.RotateKrbtgtResponse) string {
	out := fmt.Sprintf("kvno %d -> %d, active on %d/%d nodes", r.GetPreviousKvno(), r.GetKvno(), r.GetNodes(), r.GetMembers())
	if late := r.GetLate(); len(late) > 0 {
		out += fmt.Sprintf(" (no answer from %s)", strings.Join(late, ", "))
	}
	switch {
	case r.GetPreviousKvno() == 0:
		return out + "."
	case r.GetAcceptsUntil() != 0:
		return out + fmt.Sprintf(". kvno %d accepts until the last old TGT dies: %s.", r.GetPreviousKvno(), when(r.GetAcceptsUntil()))
	}
	return out + fmt.Sprintf(". kvno %d and older are gone: tickets under them are refused, log in again.", r.GetPreviousKvno())
}

package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	adminv1 "github.com/charon-kdc/charon/proto/charon/admin/v1"
)

func newNodeCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "node", Short: "members of the cluster"}
	cmd.AddCommand(nodeList(), nodeRemove(), nodeTransfer(), nodeAutoRemove(), nodeMoved(), nodeSurvivors(), nodeRecertify())
	return cmd
}

func nodeList() *cobra.Command {
	var local bool
	cmd := &cobra.Command{
		Use: "list [GLOB]", Short: "list nodes and their addresses", Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return withConnection(cmd, func(ctx context.Context, c *connection) error {
				r, err := c.cluster().ListNodes(ctx, &adminv1.ListNodesRequest{Filter: strings.Join(args, ""), Consistency: consistency(local)})
				if err != nil {
					return err
				}
				return showList(cmd, r.GetNodes(), func(w io.Writer, wide bool) error {
					heading := "NODE ROLE KDC ADMIN PEER VERSION JOINED"
					if wide {
						heading += " HTTP ID"
					}
					var rows [][]string
					for _, n := range r.GetNodes() {
						row := []string{n.GetName(), n.GetRole(), n.GetKdcAddress(), n.GetAdminAddress(), n.GetPeerAddress(), n.GetVersion(), when(n.GetJoinedAt())}
						if wide {
							row = append(row, n.GetHttpAddress(), fmt.Sprintf("%x", n.GetId()))
						}
						rows = append(rows, row)
					}
					return table(w, heading, rows)
				})
			})
		},
	}
	localFlag(cmd, &local)
	return cmd
}

func nodeRemove() *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use: "remove NAME", Short: "take a node out of the cluster for good", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := confirm(cmd, force, "Remove node "+args[0]+" from the cluster?"); err != nil {
				return err
			}
			return withConnection(cmd, func(ctx context.Context, c *connection) error {
				r, err := mutate(ctx, cmd, func(ctx context.Context, id []byte) (*adminv1.RemoveNodeResponse, error) {
					return c.cluster().RemoveNode(ctx, &adminv1.RemoveNodeRequest{RequestId: id, Name: args[0], Force: force})
				})
				if err != nil {
					return err
				}
				return show(cmd, r, func(w io.Writer, _ bool) error {
					_, err := fmt.Fprintf(w, removedText, args[0], r.GetVoters(), strings.Join(r.GetRotate(), ", "))
					return err
				})
			})
		},
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "do not ask, and remove it even if the rest can then lose no node")
	return cmd
}

// removedText: name, voters, and the commands that rotate what the removed disk opens.
const removedText = `%s removed; %d voters remain. Its disk opens every key that the realm has now: wipe it. If others may have it (docs/rotation.md):
  %s,
  then new passwords and keytabs: charon principal password, charon keytab rotate.
No command rotates the keys of the certificate authorities (who has them makes certificates of nodes and administrators: make a new realm from a
backup) and the replay key (it forges nothing).
`

func nodeTransfer() *cobra.Command {
	return &cobra.Command{
		Use: "transfer [NAME]", Short: "hand leadership to a node; without a name, to any other voter", Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return withConnection(cmd, func(ctx context.Context, c *connection) error {
				r, err := c.cluster().TransferLeadership(ctx, &adminv1.TransferLeadershipRequest{To: strings.Join(args, "")})
				if err != nil {
					return err
				}
				return show(cmd, r, func(w io.Writer, _ bool) error {
					_, err := fmt.Fprintf(w, "leader is %s\n", orNone(r.GetLeader()))
					return err
				})
			})
		},
	}
}

func nodeAutoRemove() *cobra.Command {
	var after time.Duration
	var voters uint32
	cmd := &cobra.Command{
		Use: "auto-remove [off]", Short: "let a dead node go by itself once another votes in its place",
		Long: `Allows the leader to remove a voter that no node has heard of for a while, and at first forbids it. It is removed only when as many voters
stay as there are now (or as --voters says), so after another has joined and been promoted; one at a time; never down to fewer than 3; and never while half of the voters
are silent. Each removal is audited.`,
		Example: "  charon node auto-remove --after 24h\n  charon node auto-remove off",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			off := len(args) == 1
			switch {
			case off && args[0] != "off":
				return usage(cmd, "it is --after DURATION, or off")
			case off && (after != 0 || voters != 0):
				return usage(cmd, "off takes no --after and no --voters")
			case !off && (after < time.Second || after%time.Second != 0):
				return usage(cmd, "--after is needed, in whole seconds, such as 24h; or off")
			}
			return withConnection(cmd, func(ctx context.Context, c *connection) error {
				r, err := mutate(ctx, cmd, func(ctx context.Context, id []byte) (*adminv1.SetAutoRemovalResponse, error) {
					return c.cluster().SetAutoRemoval(ctx, &adminv1.SetAutoRemovalRequest{RequestId: id, After: int64(after / time.Second), Voters: voters})
				})
				if err != nil {
					return err
				}
				return show(cmd, r, func(w io.Writer, _ bool) error {
					text := "dead nodes stay until charon node remove\n"
					if r.GetAfter() != 0 {
						text = fmt.Sprintf("a node that is silent for %v is removed, while %d voters stay\n", time.Duration(r.GetAfter())*time.Second, r.GetVoters())
					}
					_, err := io.WriteString(w, text)
					return err
				})
			})
		},
	}
	cmd.Flags().DurationVar(&after, "after", 0, "how long no node has heard of it, at least 1m")
	cmd.Flags().Uint32Var(&voters, "voters", 0, "so many voters must stay (default: as many as there are now)")
	return cmd
}

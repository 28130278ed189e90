package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	adminv1 "github.com/charon-kdc/charon/proto/charon/admin/v1"
)

func newNodeCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "node", Short: "members of the cluster"}
	cmd.AddCommand(nodeList(), nodeRemove(), nodeTransfer())
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
					_, err := fmt.Fprintf(w, "%s removed; %d voters remain. Its disk opens every key that the realm has now: wipe it. If others may have it: %s, and new passwords and keytabs (docs/rotation.md).\n",
						args[0], r.GetVoters(), strings.Join(r.GetRotate(), ", "))
					return err
				})
			})
		},
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "do not ask, and remove it even if the rest can then lose no node")
	return cmd
}

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

package main

import (
	"context"
	"fmt"
	"io"
	"slices"

	"github.com/spf13/cobra"

	adminv1 "github.com/charon-kdc/charon/proto/charon/admin/v1"
)

func newUpgradeCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "upgrade", Short: "from one release to the next, node by node"}
	cmd.AddCommand(upgradePlan(), upgradeFinalize())
	return cmd
}

func (c *connection) upgrade() adminv1.UpgradeClient { return adminv1.NewUpgradeClient(c) }

func upgradePlan() *cobra.Command {
	return &cobra.Command{
		Use: "plan", Short: "what each node runs, what is left to do, and what stands in the way", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return withConnection(cmd, func(ctx context.Context, c *connection) error {
				p, err := c.upgrade().GetUpgradePlan(ctx, &adminv1.GetUpgradePlanRequest{})
				if err != nil {
					return err
				}
				return show(cmd, p, func(w io.Writer, _ bool) error { return printPlan(w, p) })
			})
		},
	}
}

func printPlan(w io.Writer, p *adminv1.GetUpgradePlanResponse) error {
	level := fmt.Sprintf("Feature level %d", p.GetFeatureLevel())
	if p.GetFeatureLevelAt() != 0 {
		level += " since " + when(p.GetFeatureLevelAt())
	}
	if p.GetFeatureLevelNext() != 0 {
		level += fmt.Sprintf("; %d once all nodes support it", p.GetFeatureLevelNext())
	}
	fmt.Fprintf(w, "%s. The newest release that runs is %s.\n", level, p.GetVersion())
	var rows [][]string
	for _, n := range p.GetNodes() {
		state := "ok"
		switch {
		case !n.GetReachable():
			state = "down"
		case n.GetDone():
			state = "done"
		}
		rows = append(rows, []string{n.GetName(), n.GetRole(), n.GetVersion(), fmt.Sprint(n.GetFeatureLevelMax()), state})
	}
	if err := table(w, "NODE ROLE RUNS SUPPORTS STATE", rows); err != nil {
		return err
	}
	for _, b := range p.GetBlocks() {
		fmt.Fprintf(w, "BLOCKED  %s\n", b)
	}
	if p.GetFeatureLevelNext() == 0 && !slices.ContainsFunc(p.GetNodes(), (*adminv1.UpgradeNode).GetDone) {
		fmt.Fprintln(w, "No upgrade is under way. For one to the next release:")
	}
	for i, s := range p.GetSteps() {
		fmt.Fprintf(w, "%3d. %s\n", i+1, s)
	}
	return nil
}

func upgradeFinalize() *cobra.Command {
	return &cobra.Command{
		Use: "finalize", Short: "raise the feature level: from then on there is no way back to the older release",
		Long: `Raises the cluster's feature level by one, which every node must support; each is asked. From then on what is new in the release can be
used, and nodes of the older release do not start any more. The level never falls; a backup of before can only be restored into another cluster.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return withConnection(cmd, func(ctx context.Context, c *connection) error {
				r, err := mutate(ctx, cmd, func(ctx context.Context, id []byte) (*adminv1.FinalizeUpgradeResponse, error) {
					return c.upgrade().FinalizeUpgrade(ctx, &adminv1.FinalizeUpgradeRequest{RequestId: id})
				})
				if err != nil {
					return err
				}
				return show(cmd, r, func(w io.Writer, _ bool) error {
					text := fmt.Sprintf("feature level %d -> %d\n", r.GetWas(), r.GetFeatureLevel())
					if r.GetWas() == r.GetFeatureLevel() {
						text = fmt.Sprintf("unchanged: feature level %d is the newest that the nodes support\n", r.GetFeatureLevel())
					}
					_, err := io.WriteString(w, text)
					return err
				})
			})
		},
	}
}

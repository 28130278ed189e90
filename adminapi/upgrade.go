package adminapi

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	adminv1 "github.com/charon-kdc/charon/proto/charon/admin/v1"
	statev1 "github.com/charon-kdc/charon/proto/charon/state/v1"
	"github.com/charon-kdc/charon/raftstore"
)

type upgradeServer struct {
	adminv1.UnimplementedUpgradeServer
	*Service
}

// GetUpgradePlan is what the asked node sees, quorum or not.
func (s upgradeServer) GetUpgradePlan(ctx context.Context, _ *adminv1.GetUpgradePlanRequest) (*adminv1.GetUpgradePlanResponse, error) {
	if err := requireEverywhere(ctx, VerbCluster); err != nil {
		return nil, err
	}
	meta := s.readMeta()
	cl, err := s.Reader.Cluster()
	if err != nil {
		return nil, err
	}
	p := planUpgrade(s.Store.Status(ctx), cl.GetFeatureLevel())
	p.Meta, p.FeatureLevelAt = meta, cl.GetFeatureLevelAt()
	return p, nil
}

// planUpgrade orders the nodes and says what is left to do with each: those that do not vote first, leaders last, so that leadership moves once, and to
// a node that is done.
func planUpgrade(st raftstore.Status, level uint32) *adminv1.GetUpgradePlanResponse {
	p := &adminv1.GetUpgradePlanResponse{FeatureLevel: level}
	nodes := slices.Clone(st.Nodes)
	slices.SortStableFunc(nodes, func(a, b raftstore.NodeStatus) int {
		return cmp.Or(cmp.Compare(upgradeTurn(st, a), upgradeTurn(st, b)), cmp.Compare(a.Name, b.Name))
	})
	newest, oldest, mixed := "", "", false
	for i, n := range nodes {
		if i == 0 || compareVersions(n.Version, newest) > 0 {
			newest = n.Version
		}
		if i == 0 || compareVersions(n.Version, oldest) < 0 {
			oldest = n.Version
		}
		if n.FeatureLevelMax > level {
			p.FeatureLevelNext = level + 1
		}
	}
	mixed = compareVersions(oldest, newest) != 0
	p.Version = newest
	for _, n := range nodes {
		p.Nodes = append(p.Nodes, &adminv1.UpgradeNode{
			Name: n.Name, Role: n.Role, Version: n.Version, FeatureLevelMax: n.FeatureLevelMax, Reachable: n.Reachable,
			Done: mixed && compareVersions(n.Version, newest) == 0,
		})
	}
	p.Blocks = upgradeBlocks(st, level)
	p.Steps = upgradeSteps(st, p, mixed)
	return p
}

// upgradeTurn is a node's place in the order.
func upgradeTurn(st raftstore.Status, n raftstore.NodeStatus) int {
	switch {
	case n.ID == st.Leader.ID:
		return 3
	case n.ID == st.ReplayLeader.ID:
		return 2
	case n.Role == roleNonVoter:
		return 0
	}
	return 1
}

// upgradeBlocks is what must be mended before any node is restarted.
func upgradeBlocks(st raftstore.Status, level uint32) (out []string) {
	if !st.Quorum {
		out = append(out, "there is no quorum: bring the other nodes back first")
	}
	for _, n := range st.Nodes {
		switch {
		case !n.Reachable:
			out = append(out, fmt.Sprintf("%[1]s does not answer: start it, or if it is gone for good: charon node remove %[1]s", n.Name))
		case n.Role == roleNonVoter:
			out = append(out, fmt.Sprintf("%s does not vote yet: wait until it does (charon status)", n.Name))
		case n.ReplayState == "cut-off":
			out = append(out, fmt.Sprintf("%s is cut off from the replay cache: charon doctor", n.Name))
		}
		if n.FeatureLevelMax != 0 && n.FeatureLevelMax > level+1 {
			out = append(out, fmt.Sprintf("%s supports feature level %d, and the cluster is at %d: releases in between were skipped", n.Name, n.FeatureLevelMax, level))
		}
	}
	return out
}

// upgradeSteps are the commands; for the next release while no upgrade is under way.
func upgradeSteps(st raftstore.Status, p *adminv1.GetUpgradePlanResponse, mixed bool) (out []string) {
	if !mixed && p.GetFeatureLevelNext() != 0 {
		return []string{"charon backup save, then charon upgrade finalize: there is no way back to the older release from then on"}
	}
	release := "the new release"
	if mixed {
		release = p.GetVersion()
	}
	for _, n := range p.GetNodes() {
		if n.GetDone() {
			continue
		}
		if to := successor(p, st.Leader.Name); n.GetName() == st.Leader.Name && to != "" {
			out = append(out, "charon node transfer "+to)
		}
		out = append(out, fmt.Sprintf("%[1]s: install %[2]s, systemctl restart charon, wait until charon status says that %[1]s is ok and votes", n.GetName(), release))
	}
	return append(out, "charon upgrade plan, which then says whether to finalize")
}

// successor is the voter that leads while the leader is upgraded, last of all.
func successor(p *adminv1.GetUpgradePlanResponse, leader string) string {
	for _, n := range p.GetNodes() {
		if n.GetName() != leader && n.GetRole() != roleNonVoter {
			return n.GetName()
		}
	}
	return ""
}

// compareVersions compares the numbers of "1.2.3-suffix"; a release comes after what leads up to it. What is no version is the oldest.
func compareVersions(a, b string) int {
	an, as := versionNumbers(a)
	bn, bs := versionNumbers(b)
	if c := slices.Compare(an, bn); c != 0 {
		return c
	}
	switch {
	case as == bs:
		return 0
	case as == "":
		return 1
	case bs == "":
		return -1
	}
	return cmp.Compare(as, bs)
}

func versionNumbers(v string) (numbers []int, suffix string) {
	v = strings.TrimPrefix(v, "v")
	core, suffix, _ := strings.Cut(v, "-")
	for _, part := range strings.Split(core, ".") {
		n, err := strconv.Atoi(part)
		if err != nil {
			return nil, v
		}
		numbers = append(numbers, n)
	}
	return numbers, suffix
}

// FinalizeUpgrade raises the feature level. The store asks every node before it proposes, and the state machine looks at their records.
func (s upgradeServer) FinalizeUpgrade(ctx context.Context, req *adminv1.FinalizeUpgradeRequest) (*adminv1.FinalizeUpgradeResponse, error) {
	if err := requireEverywhere(ctx, VerbCluster); err != nil {
		return nil, err
	}
	resp := &adminv1.FinalizeUpgradeResponse{}
	res, err := s.mutate(ctx, req, resp, false, func() (*change, error) {
		cl, err := s.Reader.Cluster()
		if err != nil {
			return nil, err
		}
		level := cl.GetFeatureLevel()
		for _, n := range s.Store.Status(ctx).Nodes {
			if n.FeatureLevelMax > cl.GetFeatureLevel() {
				level = cl.GetFeatureLevel() + 1
			}
		}
		return &change{what: "the feature level", answer: &adminv1.FinalizeUpgradeResponse{FeatureLevel: level, Was: cl.GetFeatureLevel()},
			cmd: &statev1.Command{Op: &statev1.Command_SetFeatureLevel{SetFeatureLevel: &statev1.SetFeatureLevel{Level: level}}}}, nil
	})
	if err != nil {
		return nil, err
	}
	resp.Meta = s.meta(res)
	return resp, nil
}

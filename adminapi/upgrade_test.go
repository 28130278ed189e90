package adminapi

import (
	"fmt"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"

	adminv1 "github.com/charon-kdc/charon/proto/charon/admin/v1"
	"github.com/charon-kdc/charon/raftstore"
)

func TestCompareVersions(t *testing.T) {
	order := []string{"nonsense", "1.0.0-dev", "1.0.0-rc1", "1.0.0", "1.0.1", "1.2", "1.10.0-dev", "1.10.0", "2.0.0"}
	for i, a := range order {
		for j, b := range order {
			got := compareVersions(a, b)
			if got < 0 != (i < j) || got > 0 != (i > j) {
				t.Errorf("%s and %s: %d", a, b, got)
			}
		}
	}
}

// upgrading is a cluster of three, of which n1 leads the realm and n2 the replay group.
func upgrading(versions ...string) raftstore.Status {
	st := raftstore.Status{Quorum: true}
	for i, v := range versions {
		n := member(byte(i+1), "follower", true)
		n.Version, n.FeatureLevelMax = v, 1
		if v != "1.0.0" {
			n.FeatureLevelMax = 2
		}
		st.Nodes = append(st.Nodes, n)
	}
	st.Nodes[0].Role = "leader"
	st.Leader, st.Self, st.ReplayLeader = st.Nodes[0].NodeRef, st.Nodes[0].NodeRef, st.Nodes[1].NodeRef
	return st
}

func TestPlan(t *testing.T) {
	down := upgrading("1.0.0", "1.0.0", "1.1.0")
	down.Nodes[1].Reachable, down.Quorum = false, true
	skipped := upgrading("1.0.0", "1.0.0", "1.2.0")
	skipped.Nodes[2].FeatureLevelMax = 3
	for name, c := range map[string]struct {
		st    raftstore.Status
		next  uint32
		order string
		steps []string // the beginning of each
		block string   // part of the only one
	}{
		"before": {upgrading("1.0.0", "1.0.0", "1.0.0"), 0, "n3 n2 n1", []string{"n3: install the new release", "n2: ", "charon node transfer n3", "n1: ", "charon upgrade plan"}, ""},
		"first":  {upgrading("1.0.0", "1.0.0", "1.1.0"), 2, "n3* n2 n1", []string{"n2: install 1.1.0", "charon node transfer n3", "n1: ", "charon upgrade plan"}, ""},
		"last":   {upgrading("1.0.0", "1.1.0", "1.1.0"), 2, "n3* n2* n1", []string{"charon node transfer n3", "n1: ", "charon upgrade plan"}, ""},
		"done":   {upgrading("1.1.0", "1.1.0", "1.1.0"), 2, "n3 n2 n1", []string{"charon backup save, then charon upgrade finalize"}, ""},
		"down":   {down, 2, "n3* n2 n1", []string{"n2: install", "charon node transfer", "n1: ", "charon upgrade plan"}, "n2 does not answer"},
		"skip":   {skipped, 2, "n3* n2 n1", []string{"n2: install", "charon node transfer", "n1: ", "charon upgrade plan"}, "releases in between were skipped"},
	} {
		p := planUpgrade(c.st, 1)
		var order []string
		for _, n := range p.GetNodes() {
			order = append(order, n.GetName()+map[bool]string{true: "*"}[n.GetDone()])
		}
		if p.GetFeatureLevelNext() != c.next || strings.Join(order, " ") != c.order {
			t.Errorf("%s: next %d, %v", name, p.GetFeatureLevelNext(), order)
		}
		if len(p.GetBlocks()) > 1 || !strings.Contains(strings.Join(p.GetBlocks(), ""), c.block) || c.block == "" && len(p.GetBlocks()) > 0 {
			t.Errorf("%s: blocked by %q", name, p.GetBlocks())
		}
		if len(p.GetSteps()) != len(c.steps) {
			t.Errorf("%s: %q", name, p.GetSteps())
			continue
		}
		for i, s := range c.steps {
			if !strings.HasPrefix(p.GetSteps()[i], s) {
				t.Errorf("%s: step %q, want %q", name, p.GetSteps()[i], s)
			}
		}
	}
}

func TestFinalize(t *testing.T) {
	b := newBench(t)
	api := adminv1.NewUpgradeClient(b.peer)
	id := b.fresh()
	r, err := api.FinalizeUpgrade(as("root"), &adminv1.FinalizeUpgradeRequest{RequestId: id})
	if err != nil || r.GetFeatureLevel() != r.GetWas() || r.GetFeatureLevel() == 0 {
		t.Fatalf("nothing to raise: %v, %v", r, err)
	}
	if again, err := api.FinalizeUpgrade(as("root"), &adminv1.FinalizeUpgradeRequest{RequestId: id}); err != nil || !again.GetMeta().GetReplayed() {
		t.Errorf("again: %v, %v", again, err)
	}
	e := &raftstore.LevelError{Needs: 2, Level: 1, Behind: []string{"n3"}, Supports: []uint32{1}}
	st := toStatus(fmt.Errorf("proposing: %w", &raftstore.NotAppliedError{Err: e}), "n1", nil)
	wantReason(t, st, codes.FailedPrecondition, "FEATURE_LEVEL")
	if !strings.Contains(st.Error(), "nothing was done: this needs feature level 2; node n3 supports only 1") {
		t.Error(st)
	}
}

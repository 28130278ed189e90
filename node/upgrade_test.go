package node

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/charon-kdc/charon/node/join"
	adminv1 "github.com/charon-kdc/charon/proto/charon/admin/v1"
	statev1 "github.com/charon-kdc/charon/proto/charon/state/v1"
	"github.com/charon-kdc/charon/raftstore/realm"
)

// runHeld runs a node that supports feature levels up to level only, and gives what Run returned.
func runHeld(t *testing.T, c *Config, level uint32) *testNode {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	n := &testNode{t: t, c: c, cancel: cancel, done: make(chan error, 1), reopen: make(chan struct{})}
	go func() {
		n.done <- Run(ctx, RunOptions{Config: c, Version: "1.0.0", Logger: testLogger(t), Reopen: n.reopen, FeatureLevelMax: level})
	}()
	t.Cleanup(n.stop)
	return n
}

func (n *testNode) finalize() (*adminv1.FinalizeUpgradeResponse, error) {
	ctx, cancel := context.WithTimeout(n.t.Context(), 20*time.Second)
	defer cancel()
	return adminv1.NewUpgradeClient(n.dial()).FinalizeUpgrade(ctx, &adminv1.FinalizeUpgradeRequest{RequestId: requestID()})
}

// writes makes a principal, a write of feature level 1.
func (n *testNode) writes(name string) {
	n.t.Helper()
	within(n.t, 30*time.Second, "principal "+name, func() error {
		ctx, cancel := context.WithTimeout(n.t.Context(), 5*time.Second)
		defer cancel()
		_, err := adminv1.NewPrincipalsClient(n.dial()).CreatePrincipal(ctx, &adminv1.CreatePrincipalRequest{
			RequestId: requestID(), Name: name, Keys: &adminv1.NewKeys{Source: &adminv1.NewKeys_Password{Password: "correct horse battery"}},
		})
		if status.Code(err) == codes.AlreadyExists {
			return nil
		}
		return err
	})
}

// One node is of the older release: the cluster stays at its level. Once it is upgraded the level rises, and the older release is out.
func TestUpgradeOfACluster(t *testing.T) {
	c1 := testConfig(t)
	if _, err := Init(t.Context(), InitOptions{Realm: "EXAMPLE.COM", Name: "kdc1", Config: c1, Version: "1.0.0", Logger: testLogger(t), FeatureLevel: 1}); err != nil {
		t.Fatal(err)
	}
	n1 := runNode(t, c1)
	n1.waitReady()
	n2 := joinNode(t, n1.token("kdc2"), "kdc2")
	c3 := testConfig(t)
	if _, err := Join(t.Context(), JoinOptions{Token: n1.token("kdc3"), Name: "kdc3", Config: c3, Version: "1.0.0", Timeout: 30 * time.Second, FeatureLevelMax: 1}); err != nil {
		t.Fatal(err)
	}
	n3 := runHeld(t, c3, 1)
	n1.waitVoters(3)
	for _, n := range []*testNode{n1, n2, n3} {
		n.waitReady() // each asks itself for a ticket
	}
	if r, err := n1.finalize(); status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "node kdc3 supports only 1") {
		t.Fatalf("finalized: %v, %v", r, err)
	}
	plan, err := adminv1.NewUpgradeClient(n2.dial()).GetUpgradePlan(t.Context(), &adminv1.GetUpgradePlanRequest{})
	if err != nil || plan.GetFeatureLevel() != 1 || plan.GetFeatureLevelNext() != 2 || len(plan.GetNodes()) != 3 || len(plan.GetSteps()) == 0 {
		t.Fatal(plan, err)
	}
	n3.writes("through-the-older")
	n1.writes("through-the-newer")
	n1.finding("level.versions", "", adminv1.Severity_SEVERITY_WARN, "1.0.0 on kdc3")

	n3.stop()
	n3 = runNode(t, c3)
	n3.waitReady()
	n1.waitVoters(3)
	n1.finding("level.finalize", "", adminv1.Severity_SEVERITY_WARN, "all nodes support feature level 2")
	within(t, 30*time.Second, "finalizing", func() error {
		r, err := n2.finalize()
		if err == nil && r.GetFeatureLevel() != realm.FeatureLevelMax {
			err = fmt.Errorf("%v", r)
		}
		return err
	})
	if r, err := n1.finalize(); err != nil || r.GetWas() != r.GetFeatureLevel() {
		t.Errorf("again: %v, %v", r, err)
	}
	n1.finding("level.finalize", "", adminv1.Severity_SEVERITY_OK, "feature level 2")
	for _, n := range []*testNode{n1, n2, n3} {
		n.waitReady()
	}

	// The older release: not with a finalized state, and not as a new node.
	n3.stop()
	if err := Run(t.Context(), RunOptions{Config: c3, Version: "1.0.0", Logger: testLogger(t), FeatureLevelMax: 1}); !errors.Is(err, realm.ErrTooNew) || !strings.Contains(err.Error(), "the cluster is at feature level 2") {
		t.Errorf("it started: %v", err)
	}
	c4 := testConfig(t)
	_, err = Join(t.Context(), JoinOptions{Token: n1.token("kdc4"), Name: "kdc4", Config: c4, Version: "1.0.0", Timeout: 30 * time.Second, FeatureLevelMax: 1})
	if !errors.Is(err, join.ErrRefused) || !strings.Contains(err.Error(), "supports feature level 1, and the cluster is at 2") {
		t.Errorf("it joined: %v", err)
	}
}

// A cluster that is made at an older level holds nothing that a node of then could not apply.
func TestGenesisAtAnOlderLevel(t *testing.T) {
	for level := uint32(realm.FeatureLevelMin); level <= realm.FeatureLevelMax; level++ {
		g, err := newGenesis("EXAMPLE.COM", time.Now(), zeroes{}, false, level)
		if err != nil {
			t.Fatal(err)
		}
		if got := realm.CommandLevel(&statev1.Command{Op: &statev1.Command_Batch{Batch: &statev1.Batch{Commands: g.commands}}}); got > level {
			t.Errorf("made at %d, needs %d", level, got)
		}
	}
}

type zeroes struct{}

func (zeroes) Read(p []byte) (int, error) { clear(p); return len(p), nil }

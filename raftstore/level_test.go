package raftstore

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/charon-kdc/charon/kdc/kdb"
	peerv1 "github.com/charon-kdc/charon/proto/charon/peer/v1"
	statev1 "github.com/charon-kdc/charon/proto/charon/state/v1"
	"github.com/charon-kdc/charon/raftstore/peer"
	"github.com/charon-kdc/charon/raftstore/realm"
)

// newer is a command that a node of feature level 1 can't apply.
func (c *cluster) newer() *statev1.Command {
	return &statev1.Command{Op: &statev1.Command_PutCluster{PutCluster: &statev1.PutCluster{Cluster: &statev1.Cluster{
		Id: c.id[:], DefaultRealm: testRealm, MasterKeyVersion: 1, FeatureLevelAt: 1,
	}}}}
}

func setLevel(l uint32) *statev1.Command {
	return &statev1.Command{Op: &statev1.Command_SetFeatureLevel{SetFeatureLevel: &statev1.SetFeatureLevel{Level: l}}}
}

// refused proposes at n what must be refused for its feature level, with nothing done.
func (n *testNode) refused(cmd *statev1.Command, want string) {
	n.c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	before := n.store.DB().FeatureLevel()
	r, err := n.store.Propose(ctx, cmd)
	var na *NotAppliedError
	if !errors.As(err, &na) || !strings.Contains(err.Error(), want) {
		n.c.t.Fatalf("%s: %v, %v; want a refusal that says %q", n.name, r, err, want)
	}
	if got := n.store.DB().FeatureLevel(); got != before {
		n.c.t.Fatalf("level %d, was %d", got, before)
	}
}

// A cluster of two releases works at the older one's level, until the last node is upgraded and the level is raised.
func TestMixedCluster(t *testing.T) {
	var held atomic.Bool
	held.Store(true)
	c := newCluster(t, 0, func(cfg *Config) {
		if held.Load() && cfg.Self.GetName() == "n3" {
			cfg.FeatureLevelMax = 1
		}
	})
	c.madeAt = 1
	for _, name := range []string{"n1", "n2", "n3"} {
		c.add(name)
	}
	n1, n3 := c.nodes[0], c.nodes[2]
	for _, n := range c.nodes {
		n.refused(c.newer(), "node n3 supports only 1")
		n.refused(setLevel(2), "node n3 supports only 1")
		n.propose(create(c.principal("of-"+n.name, 1)))
		if v := n.verdict("proof "+n.name, "request"); !accepted(v) {
			t.Fatal(v)
		}
	}
	if v := n3.verdict("proof n1", "another request"); v != kdb.Repeat {
		t.Fatal(v)
	}

	// Down, it could come back in either release.
	n3.stop()
	c.waitLeader()
	n1.refused(setLevel(2), "node n3 does not answer")
	held.Store(false)
	n3.start(nil)
	c.waitReady()
	c.waitFor("n3 says what it supports", func() bool {
		rec, err := n1.store.DB().Node(n3.id[:])
		return err == nil && rec.GetFeatureLevelMax() == realm.FeatureLevelMax
	})
	n1.refused(c.newer(), "all nodes support it: run charon upgrade finalize")
	n1.refused(setLevel(realm.FeatureLevelMax+1), "raised one by one")
	n3.propose(setLevel(2))
	for _, n := range c.nodes {
		n.propose(c.newer())
		c.waitFor(n.name+" at level 2", func() bool { return n.store.DB().FeatureLevel() == 2 })
	}
	cl, err := n1.store.DB().Cluster()
	if err != nil || cl.GetFeatureLevel() != 2 || time.Since(time.UnixMilli(cl.GetFeatureLevelAt())).Abs() > time.Minute {
		t.Fatal(cl, err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if r, err := n1.store.Propose(ctx, setLevel(1)); err != nil || r.GetCode() != statev1.Code_CODE_INVALID {
		t.Fatalf("the level fell: %v, %v", r, err)
	}

	// Back to the older release: it does not start any more, and says why.
	n3.stop()
	held.Store(true)
	if s, err := Open(n3.config(nil)); !errors.Is(err, realm.ErrTooNew) {
		if err == nil {
			s.Shutdown(ctx)
		}
		t.Fatal("a node of the older release opened the state:", err)
	}
}

// What the others say of the level counts, too: a node's own state may be from before it rose.
func TestJudgeLevel(t *testing.T) {
	c := newCluster(t, 1, nil)
	s := c.nodes[0].store
	for level, ok := range map[uint32]bool{0: true, 1: true, realm.FeatureLevelMax: true, realm.FeatureLevelMax + 1: false} {
		err := s.judgeLevel(map[peer.NodeID]*peerv1.InfoResponse{s.id: {FeatureLevel: level, Version: "9.0.0"}})
		if ok != (err == nil) || !ok && (!errors.Is(err, realm.ErrTooNew) || !strings.Contains(err.Error(), "9.0.0")) {
			t.Errorf("level %d: %v", level, err)
		}
	}
}

// A node of an older release is not let in, by record or by the leader's word.
func TestOldNodeIsNotAdmitted(t *testing.T) {
	c := newCluster(t, 1, nil)
	n := newcomer(9, "old", "127.0.0.1:1")
	n.FeatureLevelMax = 1
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := c.nodes[0].store.AddNode(ctx, n); !errors.Is(err, ErrTaken) || !strings.Contains(err.Error(), "node old supports feature level 1, and the cluster is at 2") {
		t.Fatal(err)
	}
	r, err := c.nodes[0].store.Propose(ctx, &statev1.Command{Op: &statev1.Command_PutNode{PutNode: &statev1.PutNode{Node: n}}})
	if err != nil || r.GetCode() != statev1.Code_CODE_INVALID {
		t.Fatal(r, err)
	}
}

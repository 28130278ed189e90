package raftstore

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/charon-kdc/charon/kdc/kdb"
	statev1 "github.com/charon-kdc/charon/proto/charon/state/v1"
)

func TestOneNode(t *testing.T) {
	c := newCluster(t, 1, nil)
	n := c.nodes[0]
	r := n.propose(create(c.principal("alice", 1)))
	if r.GetIndex() == 0 {
		t.Error("result without an index")
	}
	p, err := n.lookup("alice")
	if err != nil || p.KVNO != 1 || len(p.Keys) != 1 {
		t.Fatalf("lookup: %+v, %v", p, err)
	}
	if _, err := n.lookup("nobody"); !errors.Is(err, kdb.ErrNotFound) {
		t.Errorf("unknown principal: %v", err)
	}
	c.restart(n)
	c.waitReady()
	if p, err := n.lookup("alice"); err != nil || p.KVNO != 1 {
		t.Fatalf("lookup after a restart: %+v, %v", p, err)
	}
	cfg := n.configOn("127.0.0.1:0", nil)
	if _, err := Open(cfg); err == nil {
		t.Error("two stores on one directory")
	}
	n.stop()
	s, err := Open(n.config(&Bootstrap{}))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(t.Context()); err == nil {
		t.Error("a cluster was made where there is one")
	}
}

func (c *cluster) restart(n *testNode) {
	c.t.Helper()
	n.stop()
	n.start(nil)
}

// One cluster, several short tests of what three nodes do together.
func TestThreeNodes(t *testing.T) {
	c := newCluster(t, 3, nil)
	c.waitReady()
	t.Run("propose on a follower", func(t *testing.T) {
		f := c.follower()
		f.propose(create(c.principal("alice", 1)))
		// It is applied where it was asked for, at once; elsewhere soon.
		if _, err := f.store.KDB().Principal(testRealm, krbName("alice")); err != nil && !errors.Is(err, kdb.ErrStale) {
			t.Errorf("at the follower that proposed: %v", err)
		}
		for _, n := range c.nodes {
			c.waitFor("alice on "+n.name, func() bool {
				_, err := n.store.KDB().Principal(testRealm, krbName("alice"))
				return err == nil
			})
		}
	})
	t.Run("new keys reach the cache of every node", func(t *testing.T) {
		for _, n := range c.nodes {
			if p, err := n.lookup("alice"); err != nil || p.KVNO != 1 {
				t.Fatalf("%s: %+v, %v", n.name, p, err)
			}
		}
		rec, err := c.nodes[0].store.DB().GetPrincipal(testRealm, []string{"alice"})
		if err != nil {
			t.Fatal(err)
		}
		next := c.principal("alice", 2)
		next.Id = rec.GetId()
		k := proto.CloneOf(next.Keys[0])
		c.reseal(next, k)
		next.Keys = []*statev1.Key{k}
		l := c.waitLeader()
		r := l.propose(replace(next))
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		begun := time.Now()
		late, err := l.store.WaitAllApplied(ctx, r.GetIndex())
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("all applied after %v, late %v", time.Since(begun), late)
		for _, n := range c.nodes {
			// The rule that an acknowledgement rests on: who is fresh now has the new key.
			if n.store.KDB().Fresh() {
				if p, err := n.store.KDB().Principal(testRealm, krbName("alice")); err != nil || p.KVNO != 2 {
					t.Errorf("%s is fresh with %+v, %v", n.name, p, err)
				}
			}
		}
	})
	t.Run("replay verdicts across nodes", func(t *testing.T) {
		for i, n := range c.nodes {
			proof := fmt.Sprintf("authenticator %d", i)
			if v := n.verdict(proof, "request"); !accepted(v) {
				t.Errorf("%s: first: %v", n.name, v)
			}
			for _, o := range c.nodes {
				if v := o.verdict(proof, "request"); v != kdb.Same {
					t.Errorf("%s then %s, same bytes: %v", n.name, o.name, v)
				}
				if v := o.verdict(proof, "other request"); v != kdb.Repeat {
					t.Errorf("%s then %s, other bytes: %v", n.name, o.name, v)
				}
			}
		}
	})
	t.Run("one authenticator at all nodes at once is fresh once", func(t *testing.T) {
		for i := range 20 {
			proof := fmt.Sprintf("raced %d", i)
			verdicts := make([]kdb.Verdict, len(c.nodes))
			var wg sync.WaitGroup
			for j, n := range c.nodes {
				wg.Add(1)
				go func() {
					defer wg.Done()
					verdicts[j] = n.verdict(proof, fmt.Sprintf("request of %s", n.name))
				}()
			}
			wg.Wait()
			fresh := 0
			for _, v := range verdicts {
				if accepted(v) {
					fresh++
				} else if v != kdb.Repeat {
					t.Errorf("verdict %v", v)
				}
			}
			if fresh != 1 {
				t.Fatalf("accepted %d times", fresh)
			}
		}
	})
	t.Run("stale proof", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		old := kdb.Proof{Ciphertext: []byte("old"), Request: []byte("r"), Time: time.Now().Add(-time.Hour)}
		if v, err := c.follower().store.Proofs().Submit(old).Wait(ctx); v != kdb.Stale {
			t.Errorf("an hour old: %v, %v", v, err)
		}
	})
	t.Run("failures are counted once, everywhere", func(t *testing.T) { testAttempts(t, c) })
	t.Run("request id acts once", func(t *testing.T) { testRequestID(t, c) })
	t.Run("reads at the leader", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		c.waitFor("a leader that proves it", func() bool {
			l := c.leader()
			return l != nil && l.store.VerifyLeader(ctx) == nil
		})
		var na *NotAppliedError
		if err := c.follower().store.VerifyLeader(ctx); !errors.As(err, &na) || na.Leader.ID.IsZero() {
			t.Errorf("follower verified its leadership, or does not name the leader: %v", err)
		}
	})
	t.Run("status", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		c.waitFor("a whole status", func() bool {
			st := c.follower().store.Status(ctx)
			whole := st.Quorum && st.Voters == 3 && st.Tolerates == 1 && len(st.Nodes) == 3 && st.Leader.Name != "" && st.ReplayLeader.Name != ""
			for _, n := range st.Nodes {
				whole = whole && n.Reachable && n.Version == "test" && n.ClockOffset.Abs() < time.Second
			}
			return whole
		})
	})
	t.Run("transfer", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		to := c.follower()
		c.waitFor(to.name+" leads", func() bool {
			// On a busy machine leadership may move on by itself before anyone looks.
			if err := c.follower().store.TransferLeadership(ctx, to.name); err != nil {
				t.Logf("try: %v", err)
				return false
			}
			return c.waitLeader() == to
		})
		if err := to.store.TransferLeadership(ctx, "nobody"); !errors.Is(err, ErrNotMember) {
			t.Errorf("to a stranger: %v", err)
		}
	})
}

func testAttempts(t *testing.T, c *cluster) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	id := kdb.ID{1, 2, 3}
	attempt := func(n *testNode, proof string, failed bool) kdb.Verdict {
		t.Helper()
		a := kdb.Attempt{Proof: kdb.Proof{Ciphertext: []byte(proof), Request: []byte(proof), Time: c.ctime}, Client: id, Failed: failed}
		v, err := n.store.Proofs().Attempt(a).Wait(ctx)
		if err != nil {
			t.Fatalf("%s: %v", n.name, err)
		}
		return v
	}
	for i, n := range c.nodes {
		proof := fmt.Sprintf("guess %d", i)
		if v := attempt(n, proof, true); !accepted(v) {
			t.Errorf("guess: %v", v)
		}
		if v := attempt(c.nodes[(i+1)%3], proof, true); v != kdb.Same {
			t.Errorf("the same guess resent to another node: %v", v)
		}
	}
	for _, n := range c.nodes {
		c.waitFor("three failures at "+n.name, func() bool { return n.store.Proofs().Activity(id).Failures == 3 })
	}
	attempt(c.nodes[0], "password", false)
	for _, n := range c.nodes {
		c.waitFor("failures cleared at "+n.name, func() bool {
			a := n.store.Proofs().Activity(id)
			return a.Failures == 0 && !a.LastSuccess.IsZero()
		})
	}
	before := c.nodes[0].store.Proofs().Activity(id).LastSuccess
	attempt(c.nodes[0], "password again", false)
	if got := c.nodes[0].store.Proofs().Activity(id).LastSuccess; !got.Equal(before) {
		t.Error("a success soon after another was counted: every login would write")
	}
	p := kdb.Proof{Ciphertext: []byte("seen"), Request: []byte("one"), Time: c.ctime}
	n := c.nodes[1]
	for range 2 {
		if n.store.Proofs().SeenHere(p) {
			t.Error("a new proof, or the same request again, was taken for a copy")
		}
	}
	p.Request = []byte("two")
	if !n.store.Proofs().SeenHere(p) {
		t.Error("a copied proof went unnoticed")
	}
}

func testRequestID(t *testing.T, c *cluster) {
	cmd := create(c.principal("carol", 1))
	first := c.follower().propose(cmd)
	// A retry, to another node, with keys made anew as a retried call would.
	again := create(c.principal("carol", 1))
	again.RequestId = cmd.GetRequestId()
	second := c.waitLeader().propose(again)
	if !second.GetReplayed() || second.GetRevision() != first.GetRevision() {
		t.Errorf("retry: %v; first: %v", second, first)
	}
	// Another caller's create is told the truth.
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	r, err := c.follower().store.Propose(ctx, create(c.principal("carol", 1)))
	if err != nil || r.GetCode() != statev1.Code_CODE_EXISTS {
		t.Errorf("second create: %v, %v", r, err)
	}
}

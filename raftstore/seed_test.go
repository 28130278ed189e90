package raftstore

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"github.com/charon-kdc/charon/kdc/kdb"
	"github.com/charon-kdc/charon/raftstore/realm"
)

// A cluster that goes on from a snapshot of another: its state, its indexes, none of its nodes; others join, and what the first one may have accepted is
// refused.
func TestSeed(t *testing.T) {
	old := newCluster(t, 1, nil)
	first := old.nodes[0]
	first.propose(create(old.principal("alice", 3)))
	var b bytes.Buffer
	info, err := first.store.DB().WriteSnapshot(&b)
	if err != nil {
		t.Fatal(err)
	}
	used := old.ctime
	if v := first.verdict("authenticator", "request"); v != kdb.Fresh {
		t.Fatal(v)
	}
	first.stop()

	c := &cluster{t: t, id: old.id, ca: newAuthority(t), ring: old.ring, ctime: used}
	t.Cleanup(c.close)
	n := c.newNode("k1")
	edit := func(r realm.Record) (bool, error) { return r.Kind != realm.KindNode, nil }
	if _, err := Seed(n.dir, n.id, n.addr, 64<<20, &b, edit); err != nil {
		t.Fatal(err)
	}
	epoch := EpochAfter(time.Now(), 5*time.Minute)
	n.start(&Bootstrap{Restored: true, Epoch: epoch})
	c.waitFor("k1 ready", func() bool { _, tgs, _ := n.store.Ready(); return tgs })
	if p, err := n.lookup("alice"); err != nil || p.KVNO != 3 {
		t.Fatalf("%+v, %v", p, err)
	}
	r := n.propose(create(c.principal("bob", 1)))
	if r.GetIndex() <= info.Index || r.GetRevision() <= 4 {
		t.Errorf("index %d after %d, revision %d", r.GetIndex(), info.Index, r.GetRevision())
	}
	c.restart(n)
	c.waitReady()
	c.add("k2")
	c.add("k3")
	c.sameState()
	for _, n := range c.nodes {
		if p, err := n.lookup("bob"); err != nil || p.KVNO != 1 {
			t.Errorf("%s: %+v, %v", n.name, p, err)
		}
		if got := n.store.Epoch(); !got.Equal(epoch.Truncate(time.Millisecond)) {
			t.Errorf("%s: epoch until %v, want %v", n.name, got, epoch)
		}
		stolen := kdb.Proof{Ciphertext: []byte("authenticator"), Request: []byte("another request"), Time: used}
		if v, err := n.store.Proofs().Submit(stolen).Wait(t.Context()); !errors.Is(err, kdb.ErrUnavailable) {
			t.Errorf("%s: what the lost cluster accepted: %v, %v", n.name, v, err)
		}
	}
	c.ctime = epoch.Add(time.Second)
	if v := n.verdict("later", "request"); !accepted(v) {
		t.Errorf("an authenticator of after the epoch: %v", v)
	}
	nodes, err := n.store.DB().Nodes()
	if err != nil || len(nodes) != 3 {
		t.Errorf("%v, %v", nodes, err)
	}
	// A seeded directory becomes a cluster once.
	n.stop()
	s, err := Open(n.config(&Bootstrap{Restored: true}))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(t.Context()); err == nil {
		t.Error("a cluster was made of a directory that has run")
	}
}

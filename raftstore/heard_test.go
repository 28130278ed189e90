package raftstore

import (
	"fmt"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/charon-kdc/charon/kdc/kdb"
	"github.com/charon-kdc/charon/raftstore/replay"
)

// guess is a wrong password for id, its bytes told apart by text.
func guess(id kdb.ID, text string) kdb.Attempt {
	p := kdb.Proof{Ciphertext: []byte(text), Request: []byte(text), Time: time.Now()}
	return kdb.Attempt{Proof: p, Client: id, Failed: true}
}

// A node that starts alone after a power cut of all knows who is locked out: its log says so, though nobody can tell it what is committed.
func TestLockoutSurvivesAPowerCut(t *testing.T) {
	c := newCluster(t, 3, func(cfg *Config) { cfg.Timing.CutOff = time.Second })
	c.waitReady()
	id := kdb.ID{9}
	for i := range 5 {
		if i == 3 { // some of it in a snapshot, some behind it
			for _, n := range c.nodes {
				if err := n.store.replay.await(t.Context(), func() raft.Future { return n.store.replay.raft.Snapshot() }); err != nil {
					t.Fatal(err)
				}
			}
		}
		if v, err := c.nodes[i%3].store.Proofs().Attempt(guess(id, fmt.Sprint("guess ", i))).Wait(t.Context()); err != nil || !accepted(v) {
			t.Fatal(v, err)
		}
	}
	c.nodes[1].verdict("seen", "one")
	for _, n := range c.nodes {
		c.waitFor("the last entry in the log of "+n.name, func() bool { return n.store.state.Activity(id).Failures == 5 })
		c.waitFor("the proof in the log of "+n.name, func() bool {
			p, err := n.store.proofs.hash(kdb.Proof{Ciphertext: []byte("seen"), Request: []byte("one"), Time: c.ctime})
			return err == nil && n.store.state.Contains(p) == replay.Same
		})
	}
	for _, n := range c.nodes {
		n.kill()
	}
	n := c.nodes[0]
	n.start(nil)
	if got := n.store.Proofs().Activity(id); got.Failures != 5 || got.LastFailure.IsZero() {
		t.Errorf("alone after the power cut: %+v, want 5 failures", got)
	}
	if !n.store.Proofs().SeenHere(kdb.Proof{Ciphertext: []byte("seen"), Request: []byte("two"), Time: c.ctime}) {
		t.Error("alone after the power cut it takes a copied proof")
	}
	if got := n.store.state.Activity(id).Failures; got >= 5 {
		t.Errorf("the applied state has %d failures: it learned of entries that nobody committed", got)
	}
	if v, err := n.store.Proofs().Attempt(guess(id, "alone")).Wait(t.Context()); err != nil || v != kdb.Fresh {
		t.Errorf("a guess without quorum: %v, %v", v, err)
	}
	if got := n.store.Proofs().Activity(id).Failures; got != 6 {
		t.Errorf("%d failures after another guess, want 6", got)
	}
	for _, o := range c.nodes[1:] {
		o.start(nil)
	}
	c.waitReady()
	for _, n := range c.nodes {
		c.waitFor("six failures in the state of "+n.name, func() bool { return n.store.state.Activity(id).Failures == 6 })
		c.waitFor(n.name+" to need nothing but its state", func() bool { return n.store.heard.view.Load() == nil })
	}
	if got := n.store.Proofs().Activity(id).Failures; got != 6 {
		t.Errorf("%d failures after all, want 6", got)
	}
}

// Guesses at a node that is cut off are counted there, each once, and everywhere when it is back.
func TestCutOffNodeCountsGuesses(t *testing.T) {
	c := newCluster(t, 3, func(cfg *Config) { cfg.Timing.CutOff = time.Second })
	c.waitReady()
	id, other := kdb.ID{5}, kdb.ID{6}
	left := c.nodes[0]
	if _, err := left.store.Proofs().Attempt(guess(id, "before")).Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.waitFor("one failure", func() bool { return left.store.state.Activity(id).Failures == 1 })
	c.nodes[1].kill()
	c.nodes[2].kill()
	failures := func(id kdb.ID) uint32 { return left.store.Proofs().Activity(id).Failures }
	for i, text := range []string{"one", "two", "two", "before", "three"} { // the first is held for the whole time
		if v, err := left.store.Proofs().Attempt(guess(id, text)).Wait(t.Context()); err != nil || !accepted(v) {
			t.Fatalf("guess %d: %v, %v", i, v, err)
		}
		if got, want := failures(id), []uint32{2, 3, 3, 3, 4}[i]; got != want {
			t.Errorf("%d failures after guess %d, want %d", got, i, want)
		}
	}
	left.store.Proofs().Attempt(guess(other, "other's"))
	good := guess(other, "good")
	good.Failed = false
	left.store.Proofs().Attempt(good)
	if got := failures(other); got != 0 {
		t.Errorf("%d failures after a success", got)
	}
	if got := left.store.state.Activity(id).Failures; got != 1 {
		t.Errorf("%d failures in the applied state, want 1", got)
	}
	c.nodes[1].start(nil)
	c.nodes[2].start(nil)
	c.waitReady()
	for _, n := range c.nodes {
		c.waitFor("four failures at "+n.name, func() bool { return n.store.state.Activity(id).Failures == 4 })
		c.waitFor("the other's success at "+n.name, func() bool {
			a := n.store.state.Activity(other)
			return a.Failures == 0 && a.LastSuccess > 0
		})
		c.waitFor(n.name+" to need nothing but its state", func() bool { return n.store.heard.view.Load() == nil })
	}
	if got := failures(id); got != 4 {
		t.Errorf("%d failures when healed, want 4", got)
	}
}

package raftstore

import (
	"fmt"
	"testing"
	"time"

	"github.com/charon-kdc/charon/kdc/kdb"
)

// An attempt is counted by what it brings of its client, whether or not this node has looked that client up lately.
func TestAttemptBringsItsPolicy(t *testing.T) {
	c := newCluster(t, 1, nil)
	n := c.nodes[0]
	id := kdb.ID{7}
	proof := 0
	failures := func(a kdb.Attempt) uint32 {
		t.Helper()
		proof++
		text := fmt.Appendf(nil, "guess %d", proof)
		a.Proof, a.Client, a.Failed = kdb.Proof{Ciphertext: text, Request: text, Time: time.Now()}, id, true
		if _, err := n.store.Proofs().Attempt(a).Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		return n.store.Proofs().Activity(id).Failures
	}
	failures(kdb.Attempt{})
	if got := failures(kdb.Attempt{}); got != 2 {
		t.Fatalf("%d failures, want 2", got)
	}
	if got := failures(kdb.Attempt{UnlockedAt: time.Now().Add(time.Second)}); got != 1 {
		t.Errorf("%d failures after an unlocking, want 1", got)
	}
	if got := failures(kdb.Attempt{FailureWindow: time.Hour}); got != 2 {
		t.Errorf("%d failures within the window, want 2", got)
	}
	last := n.store.Proofs().Activity(id).LastFailure
	c.waitFor("more than a second to pass in the log", func() bool { return time.Since(last) > 1500*time.Millisecond })
	if got := failures(kdb.Attempt{FailureWindow: 300 * time.Millisecond}); got != 1 {
		t.Errorf("%d failures past the window, want 1", got)
	}
}

// A wrong guess whose count was acknowledged is counted at the node that tells the guesser so: else guesses one after the other at a follower go by a count
// that is as old as the log's way to it. (Found by the simulation: twice as many guesses as lock, on a slow network.)
func TestGuessIsCountedWhereItIsTold(t *testing.T) {
	c := newCluster(t, 3, nil)
	c.waitReady()
	id := kdb.ID{8}
	for i := range 30 {
		n := c.nodes[i%3]
		text := fmt.Appendf(nil, "guess %d", i)
		a := kdb.Attempt{Proof: kdb.Proof{Ciphertext: text, Request: text, Time: time.Now()}, Client: id, Failed: true}
		if _, err := n.store.Proofs().Attempt(a).Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := n.store.Proofs().Activity(id).Failures; got != uint32(i+1) {
			t.Fatalf("%s counts %d failures after %d were acknowledged, the last one here", n.name, got, i+1)
		}
	}
}

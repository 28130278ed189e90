package raftstore

import (
	"strings"
	"testing"

	"github.com/hashicorp/raft"
)

// gated is a replay state machine that applies nothing until it is let.
type gated struct {
	*replayFSM
	open <-chan struct{}
}

func (g gated) Apply(l *raft.Log) any { <-g.open; return g.replayFSM.Apply(l) }

// A node whose verdicts come from the leader already, but whose own replay state lags behind what it missed, is not ready for TGS.
func TestReadyWaitsForTheReplayState(t *testing.T) {
	c := newCluster(t, 3, nil)
	c.waitReady()
	n := c.follower()
	n.stop()
	c.waitLeader().verdict("missed", "r")

	open := make(chan struct{})
	n.startWith(func(s *Store) { s.replay.fsm = gated{s.caching, open} })
	c.waitFor("verdicts to arrive", func() bool { return n.store.proofs.stateName() == stateNames[stateReady] })
	if v := n.verdict("missed", "other"); accepted(v) {
		t.Errorf("a leader's verdict: %v", v)
	}
	if as, tgs, reason := n.store.Ready(); !as || tgs || !strings.Contains(reason, "catching up") {
		t.Errorf("ready: AS %v, TGS %v, %q", as, tgs, reason)
	}
	close(open)
	c.waitFor("ready", n.ready)
	if n.store.counted.get() < n.store.proofs.joinedAt {
		t.Error("ready before the state has what was committed when it joined")
	}
}

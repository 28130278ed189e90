package raftstore

import (
	"testing"
	"time"
)

// A larger clock skew counts from the moment the replay log has it, whichever node was told to allow it, leader or not; a smaller one at once.
func TestSkewIsRaisedThroughTheLog(t *testing.T) {
	skews := map[string]time.Duration{"n1": 5 * time.Minute, "n2": 5 * time.Minute, "n3": 10 * time.Minute}
	c := newCluster(t, 3, func(cfg *Config) { cfg.ClockSkew = skews[cfg.Self.GetName()] })
	c.waitReady()
	n3 := c.nodes[2]
	if n3.store.replay.leader() == n3.store.replay.id {
		t.Fatal("the node that joined last leads: the test shows nothing")
	}
	for _, n := range c.nodes {
		c.waitFor("ten minutes in the state of "+n.name, func() bool { return n.store.state.Skew() == 10*time.Minute })
		if got := n.store.ClockSkew(); got != skews[n.name] {
			t.Errorf("%s allows %v, want %v", n.name, got, skews[n.name])
		}
	}
	skews["n3"] = 2 * time.Minute
	n3.stop()
	n3.start(nil)
	if got := n3.store.ClockSkew(); got != 2*time.Minute {
		t.Errorf("lowered to 2m, %s allows %v", n3.name, got)
	}

	n3.stop()
	skews["n3"] = 20 * time.Minute
	for _, n := range c.nodes[:2] {
		n.stop()
	}
	n3.start(nil) // alone: nothing can be raised
	if got := n3.store.ClockSkew(); got > 10*time.Minute {
		t.Errorf("%s allows %v, which the replay log does not know", n3.name, got)
	}
}

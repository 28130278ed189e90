package raftstore

import (
	"testing"

	"github.com/hashicorp/raft"
)

// A replay leader that is told that its disk is slow hands over: it would delay every TGS of the realm.
func TestSlowDiskHandsOver(t *testing.T) {
	c := newCluster(t, 3, nil)
	c.waitReady()
	var l *testNode
	c.waitFor("a replay leader", func() bool {
		for _, n := range c.nodes {
			if n.store.replay.ready.Load() {
				l = n
			}
		}
		return l != nil
	})
	for _, n := range c.nodes {
		if n != l {
			n.store.replay.handOverSlow() // leads nothing: nothing to do
		}
	}
	if l.store.replay.raft.State() != raft.Leader {
		t.Fatal("leadership moved for a follower's disk")
	}
	c.waitFor("another replay leader", func() bool {
		if l.store.replay.ready.Load() {
			l.store.replay.handOverSlow()
		}
		for _, n := range c.nodes {
			if n != l && n.store.replay.ready.Load() {
				return true
			}
		}
		return false
	})
	if v := l.verdict("after", "r"); !accepted(v) {
		t.Error(v)
	}
}

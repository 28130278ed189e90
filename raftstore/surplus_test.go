package raftstore

import (
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/charon-kdc/charon/raftstore/peer"
)

// A replay leader takes a server out only on a view of the realm that the realm's leader has just confirmed: with an older one, a node that
// just joined looks like one that has left.
func TestOnlyACurrentViewRemoves(t *testing.T) {
	c := newCluster(t, 3, func(cfg *Config) { cfg.Timing.RPC = time.Second })
	c.waitReady()
	stranger := serverID(peer.NodeID{1, 2, 3})
	n := c.follower()
	if !n.store.surplus(t.Context(), stranger) {
		t.Error("a server of no node is kept")
	}
	for _, o := range c.nodes {
		if n.store.surplus(t.Context(), serverID(o.store.replayID)) {
			t.Errorf("%s is a member and would be removed", o.name)
		}
	}

	servers, _ := n.store.replay.servers()
	n.cut()
	c.waitFor("the cut-off node to lose its leader", func() bool { return n.store.realm.raft.State() != raft.Follower || n.store.realm.leader() == "" })
	if n.store.surplus(t.Context(), stranger) {
		t.Error("a node that is cut off would remove on a view that nobody confirms")
	}
	n.heal()
	if got, _ := n.store.replay.servers(); len(got) != len(servers) {
		t.Errorf("%d replay servers, want %d", len(got), len(servers))
	}
}

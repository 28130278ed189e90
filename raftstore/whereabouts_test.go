package raftstore

import (
	"net"
	"strings"
	"testing"

	statev1 "github.com/charon-kdc/charon/proto/charon/state/v1"
	"github.com/charon-kdc/charon/raftstore/peer"
)

// move gives a stopped node another address.
func (n *testNode) move() {
	n.c.t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		n.c.t.Fatal(err)
	}
	n.addr = ln.Addr().String()
	ln.Close()
}

// waitMoved waits until every node's record has its present address.
func (c *cluster) waitMoved() {
	c.t.Helper()
	c.waitFor("the records to have the addresses", func() bool {
		l := c.leader()
		if l == nil {
			return false
		}
		for _, n := range c.nodes {
			if rec, err := l.store.db.Node(n.id[:]); err != nil || rec.GetPeerAddress() != n.addr {
				return false
			}
		}
		return true
	})
}

// A node that starts at another address tells the others; two at once find each other by the third; and a new node may have a former address.
func TestNodesMove(t *testing.T) {
	c := newCluster(t, 3, nil)
	c.waitReady()
	f := c.follower()
	former := f.addr
	f.stop()
	f.move()
	f.start(nil)
	c.waitReady()
	c.waitMoved()
	f.propose(create(c.principal("alice", 1)))

	l := c.waitLeader()
	for _, n := range []*testNode{l, f} {
		n.kill()
		n.move()
	}
	l.start(nil)
	f.start(nil)
	c.waitReady()
	c.waitMoved()
	f.propose(create(c.principal("bob", 1)))
	c.sameState()

	n := c.newNode("n4")
	n.addr = former
	c.join(n)
	c.waitFor("n4 to vote", func() bool { return c.votes(n) && n.ready() })
}

// The others were down while a node moved.
func TestNodeMovesWhileTheOthersAreDown(t *testing.T) {
	c := newCluster(t, 3, nil)
	c.waitReady()
	for _, n := range c.nodes {
		n.kill()
	}
	c.nodes[0].move()
	for _, n := range c.nodes {
		n.start(nil)
	}
	c.waitReady()
	c.waitMoved()
	c.nodes[0].propose(create(c.principal("alice", 1)))
}

// All have moved while all were down: none can tell another, so an operator does, on one of them.
func TestAllNodesMove(t *testing.T) {
	c := newCluster(t, 3, nil)
	c.waitReady()
	to := map[string]string{}
	for _, n := range c.nodes {
		n.kill()
		n.move()
		to[n.name] = n.addr
	}
	if err := NoteMoves(c.nodes[0].dir, map[string]string{"n9": "127.0.0.1:1"}); err == nil || !strings.Contains(err.Error(), "no such node") {
		t.Errorf("an unknown node: %v", err)
	}
	if err := NoteMoves(c.nodes[0].dir, to); err != nil {
		t.Fatal(err)
	}
	for _, n := range c.nodes {
		n.start(nil)
	}
	c.waitReady()
	c.waitMoved()
	c.nodes[2].propose(create(c.principal("alice", 1)))
	// Once the records tell, the note counts no more: n1 finds a node that moves again.
	n := c.nodes[1]
	n.kill()
	n.move()
	n.start(nil)
	c.waitReady()
	c.waitMoved()
}

func TestWhereabouts(t *testing.T) {
	w, err := newWhereabouts(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	id := peer.NodeID{1}
	rec := &statev1.Node{PeerAddress: "a:1", BootCounter: 5}
	w.notes[id] = move{Address: "noted:1", Was: "a:1"}
	for _, s := range []struct {
		what, report string
		boot         uint64
		rec          *statev1.Node
		want         string
		wantBoot     uint64
	}{
		{"noted", "", 0, rec, "noted:1", 0},
		{"said at a start that the record counts", "b:1", 5, rec, "noted:1", 0},
		{"said at a later start", "b:2", 6, rec, "b:2", 6},
		{"said at an earlier start, late", "b:1", 4, rec, "b:2", 6},
		{"no address", "nonsense", 9, rec, "b:2", 6},
		{"too long", strings.Repeat("x", 400) + ":1", 9, rec, "b:2", 6},
		{"said without a start", "b:3", 0, rec, "b:2", 6},
		{"the record counts that start", "", 0, &statev1.Node{PeerAddress: "b:2", BootCounter: 6}, "", 0},
		{"no record", "", 0, nil, "b:2", 6},
	} {
		w.report(id, s.report, s.boot)
		if addr, boot := w.of(id, s.rec); addr != s.want || boot != s.wantBoot {
			t.Errorf("%s: %q at start %d, want %q at %d", s.what, addr, boot, s.want, s.wantBoot)
		}
	}
}

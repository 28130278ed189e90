package raftstore

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/hashicorp/raft"

	statev1 "github.com/charon-kdc/charon/proto/charon/state/v1"
	"github.com/charon-kdc/charon/raftstore/peer"
	"github.com/charon-kdc/charon/raftstore/realm"
)

func hasServer(g *group, id []byte) bool {
	servers, _ := g.servers()
	return slices.ContainsFunc(servers, func(v raft.Server) bool { return v.ID == serverID(toNodeID(id)) })
}

func newcomer(b byte, name, addr string) *statev1.Node {
	id, replayID := peer.NodeID{b, 1}, peer.NodeID{b, 2}
	return &statev1.Node{Id: id[:], ReplayId: replayID[:], Name: name, PeerAddress: addr, FeatureLevelMax: realm.FeatureLevelMax}
}

// A node that is let in under the identity of another one would be that node to everybody.
func TestAddNodeRefusesAnothersIdentity(t *testing.T) {
	c := newCluster(t, 1, nil)
	s := c.nodes[0].store
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	self, err := s.DB().Node(s.id[:])
	if err != nil {
		t.Fatal(err)
	}
	for what, change := range map[string]func(n *statev1.Node){
		"id":          func(n *statev1.Node) { n.Id = self.Id },
		"id and name": func(n *statev1.Node) { n.Id, n.Name = self.Id, self.Name },
		"ids, name and place": func(n *statev1.Node) {
			n.Id, n.ReplayId, n.Name, n.PeerAddress = self.Id, self.ReplayId, self.Name, self.PeerAddress
		},
		"replay id": func(n *statev1.Node) { n.ReplayId = self.ReplayId },
		"name":      func(n *statev1.Node) { n.Name = self.Name },
		"address":   func(n *statev1.Node) { n.PeerAddress = self.PeerAddress },
	} {
		n := newcomer(0x77, "n7", "127.0.0.1:1")
		n.KeyHash = slices.Repeat([]byte{7}, 32)
		change(n)
		if err := s.AddNode(ctx, n); !errors.Is(err, ErrTaken) {
			t.Errorf("with n1's %s: %v, want ErrTaken", what, err)
		}
	}
	if nodes, err := s.DB().Nodes(); err != nil || len(nodes) != 1 {
		t.Errorf("%v, %v", nodes, err)
	}
}

// What AddNode's caller gives away next is for members alone: of both groups, committed.
func TestAddNodeReturnsWhenBothGroupsHaveIt(t *testing.T) {
	c := newCluster(t, 1, nil)
	s := c.nodes[0].store
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	n := newcomer(0x77, "n7", "127.0.0.1:1")
	for range 2 { // a join that resumes does it again
		if err := s.AddNode(ctx, n); err != nil {
			t.Fatal(err)
		}
		if !hasServer(s.realm, n.Id) || !hasServer(s.replay, n.ReplayId) {
			t.Error("let in before both groups have it")
		}
	}
	// Recorded, but a group has no room for it now: no success.
	late := newcomer(0x78, "n8", "127.0.0.1:2")
	short, stop := context.WithCancel(ctx)
	stop()
	if err := s.AddNode(short, late); err == nil {
		t.Error("no time at all, and yet let in")
	}
}

// A crash of the leader between a removal's steps leaves a server without a record; the leader finishes the removal.
func TestHalfDoneRemovalIsFinished(t *testing.T) {
	c := newCluster(t, 3, nil)
	c.waitReady()
	l := c.waitLeader()
	gone := c.follower()
	rec, err := l.store.DB().Node(gone.id[:])
	if err != nil {
		t.Fatal(err)
	}
	l.propose(&statev1.Command{Op: &statev1.Command_DeleteNode{DeleteNode: &statev1.DeleteNode{Id: gone.id[:]}}})
	c.waitFor("both groups to be without "+gone.name, func() bool {
		l := c.leader()
		return l != nil && !hasServer(l.store.realm, rec.Id) && !hasServer(l.store.replay, rec.ReplayId)
	})
}

// A join that was cut short leaves a record without a server: it is shown, and can be removed.
func TestHalfDoneJoinIsShownAndRemoved(t *testing.T) {
	c := newCluster(t, 1, nil)
	s := c.nodes[0].store
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	n := newcomer(0x77, "n7", "127.0.0.1:1")
	c.nodes[0].propose(&statev1.Command{Op: &statev1.Command_PutNode{PutNode: &statev1.PutNode{Node: n}}})
	st := s.Status(ctx)
	if i := slices.IndexFunc(st.Nodes, func(m NodeStatus) bool { return m.Name == "n7" && m.Role == RoleNonVoter && !m.Reachable }); i < 0 || st.Voters != 1 {
		t.Errorf("%+v", st)
	}
	if err := s.RemoveNode(ctx, toNodeID(n.Id)); err != nil {
		t.Error(err)
	}
	if err := s.RemoveNode(ctx, toNodeID(n.Id)); !errors.Is(err, ErrNotMember) {
		t.Errorf("again: %v", err)
	}
}

// A node that stops hands over what it leads, and pulls nothing onto itself.
func TestHandOverMovesOnlyWhatThisNodeLeads(t *testing.T) {
	c := newCluster(t, 3, nil)
	c.waitReady()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	l := c.waitLeader()
	other := c.follower()
	c.waitFor("the groups to be led by two nodes", func() bool {
		if err := l.store.transfer(ctx, l.store.replay, other.id); err != nil {
			t.Logf("try: %v", err)
			return false
		}
		return c.leader() == l && l.store.moved(ctx, l.store.replay, "", other.id)
	})
	term := other.store.replay.raft.Stats()["term"]
	if err := l.store.HandOver(ctx); err != nil {
		t.Errorf("handing over: %v", err)
	}
	if l.store.realm.raft.State() == raft.Leader {
		t.Error("the realm group was not handed over")
	}
	if other.store.replay.raft.State() != raft.Leader || other.store.replay.raft.Stats()["term"] != term {
		t.Error("another node's group was moved")
	}
	// And the operator's transfer brings both to one node, wherever they are.
	c.waitFor("one leader of both groups", func() bool {
		if err := l.store.TransferLeadership(ctx, l.name); err != nil {
			t.Logf("try: %v", err)
			return false
		}
		return l.store.realm.raft.State() == raft.Leader && l.store.replay.raft.State() == raft.Leader
	})
	if err := l.store.TransferLeadership(ctx, ""); err != nil {
		t.Errorf("transfer to whoever: %v", err)
	} else if l.store.realm.raft.State() == raft.Leader || l.store.replay.raft.State() == raft.Leader {
		t.Error("transfer to whoever left something here")
	}
}

package raftstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/raft"
	"google.golang.org/protobuf/proto"

	statev1 "github.com/charon-kdc/charon/proto/charon/state/v1"
	"github.com/charon-kdc/charon/raftstore/peer"
	"github.com/charon-kdc/charon/raftstore/realm"
)

// AddNode records a node and makes it a non-voter of both groups; it returns when both have committed that. The leaders promote it once
// it keeps up. Again for the same node, by name, ids, key and token, it does nothing. Leader only. Errors: ErrTaken, *NotAppliedError,
// *UnknownOutcomeError, ctx's.
func (s *Store) AddNode(ctx context.Context, n *statev1.Node) error {
	id, replayID := toNodeID(n.GetId()), toNodeID(n.GetReplayId())
	if id.IsZero() || replayID.IsZero() || n.GetName() == "" || n.GetPeerAddress() == "" {
		return fmt.Errorf("%w: ids, name and peer address are required", ErrTaken)
	}
	if err := s.VerifyLeader(ctx); err != nil {
		return err
	}
	// The record first: a server without one is taken for a node that is being removed.
	if err := s.record(ctx, n); err != nil {
		return err
	}
	servers, index, err := s.realm.settled(ctx)
	if err != nil {
		return &NotAppliedError{Err: err, again: true}
	}
	if !has(servers, serverID(id)) {
		err := s.realm.await(ctx, func() raft.Future {
			return s.realm.raft.AddNonvoter(serverID(id), addressIn(servers, id, n.GetPeerAddress()), index, s.cfg.Timing.RPC)
		})
		if err != nil {
			return s.classify(err)
		}
		s.membershipChanged()
	}
	for g, id := range map[*group]peer.NodeID{s.realm: id, s.replay: replayID} {
		if err := g.committed(ctx, serverID(id)); err != nil {
			return &UnknownOutcomeError{Err: fmt.Errorf("waiting for node %s in the %s group: %w", n.GetName(), g.name, err)}
		}
	}
	// Unless it was removed meanwhile.
	if o, err := s.db.Node(n.GetId()); err != nil || !sameNode(o, n) {
		return fmt.Errorf("%w: node %s was removed", ErrTaken, n.GetName())
	}
	return nil
}

// addressIn is the address by which a configuration lists a new server. It is not changed when the node moves, since the library races with itself
// when an address changes, and since nobody dials by it but a node that has no record of the other yet. So it may be what another node once had: then
// the server's id is added, because the library wants no address twice.
func addressIn(servers []raft.Server, id peer.NodeID, addr string) raft.ServerAddress {
	if slices.ContainsFunc(servers, func(v raft.Server) bool { return string(v.Address) == addr }) {
		addr += "/" + id.String()
	}
	return raft.ServerAddress(addr)
}

// dialable is the address in a configuration without what addressIn has added.
func dialable(a raft.ServerAddress) string {
	addr, _, _ := strings.Cut(string(a), "/")
	return addr
}

// record puts the record of a new node, or finds it there.
func (s *Store) record(ctx context.Context, n *statev1.Node) error {
	nodes, err := s.db.Nodes()
	if err != nil {
		return &NotAppliedError{Err: fmt.Errorf("adding node %s: %w", n.GetName(), err)}
	}
	for _, o := range nodes {
		if sameNode(o, n) {
			return nil
		}
		if why := clash(o, n); why != "" {
			return fmt.Errorf("%w: node %s, at %s, has %s; if it is lost for good: charon node remove %s", ErrTaken, o.GetName(), o.GetPeerAddress(), why, o.GetName())
		}
	}
	if l := s.level(); l > 1 && n.GetFeatureLevelMax() < l {
		return fmt.Errorf("%w: node %s supports feature level %d, and the cluster is at %d: install the release that the other nodes run, then join again",
			ErrTaken, n.GetName(), n.GetFeatureLevelMax(), l)
	}
	n = proto.CloneOf(n)
	realm.Prune(n, s.level())
	r, err := s.Propose(ctx, &statev1.Command{Op: &statev1.Command_PutNode{PutNode: &statev1.PutNode{
		Node: n, Expect: &statev1.Expect{Condition: &statev1.Expect_Absent{Absent: true}},
	}}})
	if err != nil {
		return err
	}
	switch c := r.GetCode(); c {
	case statev1.Code_CODE_OK:
		return nil
	case statev1.Code_CODE_EXISTS, statev1.Code_CODE_TOKEN_REFUSED, statev1.Code_CODE_INVALID:
		if o, err := s.db.Node(n.GetId()); err == nil && sameNode(o, n) {
			return nil // the same join, a moment ago
		}
		return fmt.Errorf("%w: %s", ErrTaken, r.GetMessage())
	default:
		return &NotAppliedError{Err: fmt.Errorf("adding node %s: %v: %s", n.GetName(), c, r.GetMessage())}
	}
}

// sameNode tells whether two records are of one node, let in by one join. An address may have changed.
func sameNode(a, b *statev1.Node) bool {
	return a.GetName() == b.GetName() && bytes.Equal(a.GetId(), b.GetId()) && bytes.Equal(a.GetReplayId(), b.GetReplayId()) &&
		bytes.Equal(a.GetKeyHash(), b.GetKeyHash()) && bytes.Equal(a.GetTokenId(), b.GetTokenId())
}

// clash is what o has of n, another node.
func clash(o, n *statev1.Node) string {
	switch {
	case o.GetName() == n.GetName():
		return "that name"
	case o.GetPeerAddress() == n.GetPeerAddress():
		return "that peer address"
	case bytes.Equal(o.GetId(), n.GetId()), bytes.Equal(o.GetReplayId(), n.GetReplayId()):
		return "that identity"
	case len(n.GetKeyHash()) > 0 && bytes.Equal(o.GetKeyHash(), n.GetKeyHash()):
		return "that key"
	}
	return ""
}

func has(servers []raft.Server, id raft.ServerID) bool {
	return slices.ContainsFunc(servers, func(v raft.Server) bool { return v.ID == id })
}

// committed waits until id is a server of g by a configuration that is committed. The library tells only the latest one: it is committed
// when all is that the log held after it was seen.
func (g *group) committed(ctx context.Context, id raft.ServerID) error {
	var seen uint64
	for {
		servers, _ := g.servers()
		switch {
		case !has(servers, id):
			seen = 0
		case seen == 0:
			seen = g.raft.LastIndex()
		}
		if seen > 0 && g.raft.CommitIndex() >= seen {
			return nil
		}
		pause(ctx, 10*time.Millisecond)
		if err := ctx.Err(); err != nil {
			return err
		}
	}
}

// RemoveNode deletes a node's record, with its join token, and returns when no group change is needed for it any more. Leader only; the leader can't
// remove itself. Errors: ErrNotMember, *NotAppliedError, *UnknownOutcomeError.
func (s *Store) RemoveNode(ctx context.Context, id peer.NodeID) error {
	if err := s.VerifyLeader(ctx); err != nil {
		return err
	}
	if id == s.id {
		return &NotAppliedError{Err: errors.New("this node leads the realm: transfer leadership first, or ask another node")}
	}
	r, err := s.Propose(ctx, &statev1.Command{Op: &statev1.Command_DeleteNode{DeleteNode: &statev1.DeleteNode{Id: id[:]}}})
	if err != nil {
		return err
	}
	servers, _ := s.realm.servers()
	switch c := r.GetCode(); {
	case c == statev1.Code_CODE_NOT_FOUND && !has(servers, serverID(id)):
		return ErrNotMember
	case c != statev1.Code_CODE_OK && c != statev1.Code_CODE_NOT_FOUND:
		return &NotAppliedError{Err: fmt.Errorf("removing node: %v: %s", c, r.GetMessage())}
	}
	return s.AwaitRemovals(ctx)
}

// LockRemovals keeps every other removal on this node from beginning until unlock is called: who looks what a removal would leave behind holds it
// until the record is gone.
func (s *Store) LockRemovals() (unlock func()) {
	s.changing.Lock()
	return s.changing.Unlock
}

// AwaitRemovals takes every node whose record is gone out of the realm group, and returns when that is committed; the replay group follows. The record
// goes first: from then on the leader, this one or the next, goes on until no group has the node, whatever happens to this call. Error:
// *UnknownOutcomeError: the removal goes on by itself.
func (s *Store) AwaitRemovals(ctx context.Context) error {
	for {
		s.dismiss(ctx)
		servers, index := s.realm.servers()
		if index > 0 && !slices.ContainsFunc(servers, func(v raft.Server) bool { return s.dismissed(v.ID) }) {
			s.membershipChanged()
			return nil
		}
		pause(ctx, 10*time.Millisecond)
		switch {
		case ctx.Err() != nil:
			return &UnknownOutcomeError{Err: fmt.Errorf("the node's record is gone, and the leader goes on removing it: %w", ctx.Err())}
		case !s.realm.ready.Load():
			return &UnknownOutcomeError{Err: fmt.Errorf("the node's record is gone, and the next leader goes on removing it: %w", raft.ErrLeadershipLost)}
		}
	}
}

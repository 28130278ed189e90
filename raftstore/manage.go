package raftstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/hashicorp/raft"

	peerv1 "github.com/charon-kdc/charon/proto/charon/peer/v1"
	statev1 "github.com/charon-kdc/charon/proto/charon/state/v1"
	"github.com/charon-kdc/charon/raftstore/peer"
)

// promoteLag is how many entries a non-voter may be behind and still be promoted.
const promoteLag = 1000

// leadRealm is what the leader of the realm group does: it promotes non-voters that keep up.
func (s *Store) leadRealm(ctx context.Context) {
	healthy := map[raft.ServerID]time.Time{}
	s.every(ctx, func() {
		s.promote(ctx, s.realm, healthy, func(v raft.Server) (peer.NodeID, bool) { return nodeID(v.ID), true })
	})
}

// leadReplay is what the leader of the replay group does: it commits frames, and makes the group follow the realm's.
func (s *Store) leadReplay(ctx context.Context) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		healthy := map[raft.ServerID]time.Time{}
		s.every(ctx, func() {
			s.reconcile(ctx)
			s.promote(ctx, s.replay, healthy, s.votesInRealm)
		})
	}()
	s.commit.lead(ctx)
	<-done
}

// every runs f until ctx ends, ten times in the time that a promotion takes, but at most once in 50 ms.
func (s *Store) every(ctx context.Context, f func()) {
	t := time.NewTicker(min(time.Second, max(50*time.Millisecond, s.cfg.Timing.PromoteAfter/10)))
	defer t.Stop()
	for {
		f()
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}

// votesInRealm is the node of a replay server, if it votes in the realm group.
func (s *Store) votesInRealm(v raft.Server) (peer.NodeID, bool) {
	n, ok := s.nodeOfReplay(nodeID(v.ID))
	if !ok {
		return n, false
	}
	for _, r := range s.realm.voters() {
		if nodeID(r.ID) == n {
			return n, true
		}
	}
	return n, false
}

// promote makes a voter of one non-voter that has kept up for long enough. eligible names its node.
func (s *Store) promote(ctx context.Context, g *group, healthy map[raft.ServerID]time.Time, eligible func(raft.Server) (peer.NodeID, bool)) {
	servers, index := g.servers()
	for _, v := range servers {
		if v.Suffrage == raft.Voter {
			continue
		}
		node, ok := eligible(v)
		if !ok || !s.keepsUp(ctx, g, node) {
			delete(healthy, v.ID)
			continue
		}
		since, ok := healthy[v.ID]
		if !ok {
			healthy[v.ID] = time.Now()
			since = healthy[v.ID]
		}
		if time.Since(since) < s.cfg.Timing.PromoteAfter {
			continue
		}
		if err := g.await(ctx, func() raft.Future { return g.raft.AddVoter(v.ID, v.Address, index, s.cfg.Timing.RPC) }); err != nil {
			s.cfg.Logger.Warn("promoting", "group", g.name, "node", s.ref(node).Name, "err", err)
			return
		}
		s.cfg.Logger.Info("promoted to voter", "group", g.name, "node", s.ref(node).Name)
		delete(healthy, v.ID)
		return // one change at a time
	}
}

func (s *Store) keepsUp(ctx context.Context, g *group, node peer.NodeID) bool {
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	info := s.ask(ctx, node)
	if info == nil {
		return false
	}
	at := info.GetLastIndex()
	if g.name == replayGroup {
		at = info.GetReplayLastIndex()
	}
	return at > 0 && at+promoteLag >= g.raft.LastIndex()
}

// reconcile makes the replay group's servers those of the realm group: one change a round, add before remove, except that a server whose
// address the new one has goes first.
func (s *Store) reconcile(ctx context.Context) {
	want, ok := s.wantedReplay()
	if !ok {
		return
	}
	have, index := s.replay.servers()
	missing := without(want, have)
	surplus := without(have, want)
	if len(missing) > 0 {
		add := missing[0]
		i := slices.IndexFunc(surplus, func(v raft.Server) bool { return v.Address == add.Address })
		if i < 0 {
			err := s.replay.await(ctx, func() raft.Future { return s.replay.raft.AddNonvoter(add.ID, add.Address, index, s.cfg.Timing.RPC) })
			if err != nil {
				s.cfg.Logger.Warn("adding to the replay group", "server", string(add.ID), "err", err)
			}
			return
		}
		surplus = surplus[i:]
	}
	if len(surplus) == 0 || !s.surplus(ctx, surplus[0].ID) {
		return
	}
	if surplus[0].ID == s.replay.id {
		// This node has left the realm: whoever leads next removes it here.
		if err := s.replay.await(ctx, func() raft.Future { return s.replay.raft.LeadershipTransfer() }); err != nil {
			s.cfg.Logger.Warn("handing leadership over", "group", replayGroup, "err", err)
		}
		return
	}
	if err := s.replay.await(ctx, func() raft.Future { return s.replay.raft.RemoveServer(surplus[0].ID, index, s.cfg.Timing.RPC) }); err != nil {
		s.cfg.Logger.Warn("removing from the replay group", "server", string(surplus[0].ID), "err", err)
	}
}

// without is the servers of a that b lacks.
func without(a, b []raft.Server) []raft.Server {
	var out []raft.Server
	for _, v := range a {
		if !slices.ContainsFunc(b, func(w raft.Server) bool { return w.ID == v.ID }) {
			out = append(out, v)
		}
	}
	return out
}

// wantedReplay is the realm's servers under their replay ids. False while not every one of them can be named.
func (s *Store) wantedReplay() ([]raft.Server, bool) {
	servers, _ := s.realm.servers()
	var out []raft.Server
	for _, v := range servers {
		id := nodeID(v.ID)
		n, err := s.db.Node(id[:])
		if err != nil || toNodeID(n.GetReplayId()).IsZero() {
			return nil, false
		}
		out = append(out, raft.Server{ID: serverID(toNodeID(n.GetReplayId())), Address: v.Address})
	}
	return out, len(out) > 0
}

// AddNode adds a node to the realm group as non-voter and stores its record; the leaders add it to the replay group and promote it once
// it keeps up. Again for the same node it does nothing. Leader only. Errors: *NotAppliedError, *UnknownOutcomeError.
func (s *Store) AddNode(ctx context.Context, n *statev1.Node) error {
	id := toNodeID(n.GetId())
	if id.IsZero() || toNodeID(n.GetReplayId()).IsZero() || n.GetName() == "" || n.GetPeerAddress() == "" {
		return &NotAppliedError{Err: errors.New("adding a node: ids, name and peer address are required")}
	}
	if err := s.VerifyLeader(ctx); err != nil {
		return err
	}
	if err := s.checkNewNode(n); err != nil {
		return &NotAppliedError{Err: err}
	}
	if _, err := s.db.Node(n.GetId()); err != nil {
		r, err := s.Propose(ctx, &statev1.Command{Op: &statev1.Command_PutNode{PutNode: &statev1.PutNode{
			Node: n, Expect: &statev1.Expect{Condition: &statev1.Expect_Absent{Absent: true}},
		}}})
		if err != nil {
			return err
		}
		if c := r.GetCode(); c != statev1.Code_CODE_OK && c != statev1.Code_CODE_EXISTS {
			return &NotAppliedError{Err: fmt.Errorf("adding node %s: %v: %s", n.GetName(), c, r.GetMessage())}
		}
	}
	servers, index := s.realm.servers()
	if slices.ContainsFunc(servers, func(v raft.Server) bool { return v.ID == serverID(id) }) {
		return nil
	}
	err := s.realm.await(ctx, func() raft.Future {
		return s.realm.raft.AddNonvoter(serverID(id), raft.ServerAddress(n.GetPeerAddress()), index, s.cfg.Timing.RPC)
	})
	if err != nil {
		return s.classify(err)
	}
	s.membershipChanged()
	return nil
}

// checkNewNode refuses a name or address that another member has: it must be removed first.
func (s *Store) checkNewNode(n *statev1.Node) error {
	nodes, err := s.db.Nodes()
	if err != nil {
		return fmt.Errorf("adding node %s: %w", n.GetName(), err)
	}
	for _, o := range nodes {
		if bytes.Equal(o.GetId(), n.GetId()) {
			continue
		}
		if o.GetName() == n.GetName() || o.GetPeerAddress() == n.GetPeerAddress() {
			return fmt.Errorf("node %s at %s is a member under another identity; remove it first: charon node remove %s",
				o.GetName(), o.GetPeerAddress(), o.GetName())
		}
	}
	return nil
}

// RemoveNode takes a node out of both groups and deletes its record. Leader only; the leader can't remove itself. Errors: ErrNotMember,
// *NotAppliedError, *UnknownOutcomeError.
func (s *Store) RemoveNode(ctx context.Context, id peer.NodeID) error {
	if err := s.VerifyLeader(ctx); err != nil {
		return err
	}
	if id == s.id {
		return &NotAppliedError{Err: errors.New("this node leads the realm: transfer leadership first, or ask another node")}
	}
	servers, index := s.realm.servers()
	member := slices.ContainsFunc(servers, func(v raft.Server) bool { return v.ID == serverID(id) })
	if member {
		err := s.realm.await(ctx, func() raft.Future { return s.realm.raft.RemoveServer(serverID(id), index, s.cfg.Timing.RPC) })
		if err != nil {
			return s.classify(err)
		}
		s.membershipChanged()
	}
	r, err := s.Propose(ctx, &statev1.Command{Op: &statev1.Command_DeleteNode{DeleteNode: &statev1.DeleteNode{Id: id[:]}}})
	switch {
	case err != nil:
		return err
	case r.GetCode() == statev1.Code_CODE_NOT_FOUND && !member:
		return ErrNotMember
	case r.GetCode() != statev1.Code_CODE_OK && r.GetCode() != statev1.Code_CODE_NOT_FOUND:
		return &NotAppliedError{Err: fmt.Errorf("removing node: %v: %s", r.GetCode(), r.GetMessage())}
	}
	return nil
}

// transferTries is how often a transfer is tried: the library gives up after one election timeout, and leadership may
// move by itself meanwhile.
const transferTries = 3

// TransferLeadership hands both groups to that node ("" lets raft choose) and returns when this node knows that it leads them. Any node.
// Errors: ErrNotMember, ErrNoLeader, ctx's, or why the leader refuses.
func (s *Store) TransferLeadership(ctx context.Context, name string) error {
	var to peer.NodeID
	if name != "" {
		nodes, err := s.db.Nodes()
		if err != nil {
			return fmt.Errorf("transferring leadership: %w", err)
		}
		i := slices.IndexFunc(nodes, func(n *statev1.Node) bool { return n.GetName() == name })
		if i < 0 {
			return fmt.Errorf("transferring leadership to %s: %w", name, ErrNotMember)
		}
		to = toNodeID(nodes[i].GetId())
	}
	for _, g := range []*group{s.replay, s.realm} {
		before := g.leader()
		var err error
		for range transferTries {
			err = s.transfer(ctx, g, to)
			if s.moved(ctx, g, before, to) {
				err = nil
				break
			}
			if err == nil {
				err = errors.New("another node leads")
			}
		}
		if err != nil {
			return fmt.Errorf("transferring leadership of the %s group: %w", g.name, err)
		}
	}
	return nil
}

// moved waits, for two election timeouts, until g is led by to, or by another node than before if to is zero.
func (s *Store) moved(ctx context.Context, g *group, before raft.ServerID, to peer.NodeID) bool {
	ctx, cancel := context.WithTimeout(ctx, 2*s.cfg.Timing.Heartbeat)
	defer cancel()
	for {
		changed := g.changes()
		if now := g.leader(); now != "" {
			node, _, ok := s.locate(g, now)
			if ok && (node == to || to.IsZero() && now != before) {
				return true
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return false
		}
	}
}

// transfer asks the group's leader, this node or another.
func (s *Store) transfer(ctx context.Context, g *group, to peer.NodeID) error {
	leader, _, ok := s.locate(g, g.leader())
	switch {
	case !ok:
		return ErrNoLeader
	case leader == to:
		return nil
	case leader == s.id:
		return s.transferFrom(ctx, g, to)
	}
	cc, err := s.fwd.Conn(leader)
	if err != nil {
		return err
	}
	_, err = peerv1.NewPeerClient(cc).Transfer(ctx, &peerv1.TransferRequest{Replay: g == s.replay, To: to[:]})
	return err
}

// transferFrom hands g over from this node.
func (s *Store) transferFrom(ctx context.Context, g *group, to peer.NodeID) error {
	if g.raft.State() != raft.Leader {
		return raft.ErrNotLeader
	}
	if to.IsZero() {
		if len(g.voters()) < 2 {
			return errors.New("there is no other voter")
		}
		return g.await(ctx, func() raft.Future { return g.raft.LeadershipTransfer() })
	}
	for _, v := range g.voters() {
		if node, _, ok := s.locate(g, v.ID); ok && node == to {
			return g.await(ctx, func() raft.Future { return g.raft.LeadershipTransferToServer(v.ID, v.Address) })
		}
	}
	return fmt.Errorf("%s is no voter of the %s group", s.ref(to).Name, g.name)
}

// lag is how far applied is behind last.
func lag(last, applied uint64) uint64 {
	if applied >= last {
		return 0
	}
	return min(last-applied, math.MaxInt64)
}

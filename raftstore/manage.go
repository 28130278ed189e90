package raftstore

import (
	"context"
	"errors"
	"math"
	"slices"
	"time"

	"github.com/hashicorp/raft"

	"github.com/charon-kdc/charon/raftstore/peer"
	"github.com/charon-kdc/charon/raftstore/realm"
)

// promoteLag is how many entries a non-voter may be behind and still be promoted.
const promoteLag = 1000

// leadRealm is what the leader of the realm group does: it promotes non-voters that keep up, and finishes removals.
func (s *Store) leadRealm(ctx context.Context) {
	healthy := map[raft.ServerID]time.Time{}
	recovered := false
	s.every(ctx, func() {
		recovered = recovered || s.finishRecovery(ctx)
		s.dismiss(ctx)
		s.removeDead(ctx)
		s.promote(ctx, s.realm, healthy, func(v raft.Server) candidate {
			return candidate{node: nodeID(v.ID), known: !s.dismissed(v.ID), mayVote: true}
		})
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
			s.promote(ctx, s.replay, healthy, s.replayCandidate)
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

// candidate is a non-voter as its group's leader sees it.
type candidate struct {
	node    peer.NodeID
	known   bool // it has a record
	mayVote bool // nothing but its health stands against it
}

// replayCandidate is a replay server, which votes once its node votes in the realm group. Its health counts from before: a node that
// votes in one group only leaves the other with less to lose than status says.
func (s *Store) replayCandidate(v raft.Server) candidate {
	n, ok := s.nodeOfReplay(nodeID(v.ID))
	votes := slices.ContainsFunc(s.realm.voters(), func(r raft.Server) bool { return nodeID(r.ID) == n })
	return candidate{node: n, known: ok, mayVote: ok && votes}
}

// promote makes a voter of one non-voter that has kept up for long enough.
func (s *Store) promote(ctx context.Context, g *group, healthy map[raft.ServerID]time.Time, judge func(raft.Server) candidate) {
	servers, index := g.servers()
	if index == 0 {
		return // another change is under way
	}
	for _, v := range servers {
		if v.Suffrage == raft.Voter {
			continue
		}
		c := judge(v)
		if !c.known || !s.keepsUp(ctx, g, c.node) {
			delete(healthy, v.ID)
			continue
		}
		since, ok := healthy[v.ID]
		if !ok {
			healthy[v.ID] = time.Now()
			since = healthy[v.ID]
		}
		if !c.mayVote || time.Since(since) < s.cfg.Timing.PromoteAfter {
			continue
		}
		if err := g.await(ctx, func() raft.Future { return g.raft.AddVoter(v.ID, v.Address, index, s.cfg.Timing.RPC) }); err != nil {
			s.cfg.Logger.Warn("promoting", "group", g.name, "node", s.ref(c.node).Name, "err", err)
			return
		}
		s.cfg.Logger.Info("promoted to voter", "group", g.name, "node", s.ref(c.node).Name)
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
	if index == 0 {
		return
	}
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

// dismissed tells whether a server of the realm group has no record: one that joins has it before it is a server.
func (s *Store) dismissed(id raft.ServerID) bool {
	n := nodeID(id)
	_, err := s.db.Node(n[:])
	return errors.Is(err, realm.ErrNotFound)
}

// dismiss removes one server whose record is gone.
func (s *Store) dismiss(ctx context.Context) {
	servers, index := s.realm.servers()
	if index == 0 {
		return
	}
	for _, v := range servers {
		if v.ID == s.realm.id || !s.dismissed(v.ID) {
			continue
		}
		err := s.realm.await(ctx, func() raft.Future { return s.realm.raft.RemoveServer(v.ID, index, s.cfg.Timing.RPC) })
		if err != nil {
			s.cfg.Logger.Warn("finishing a node's removal", "node", string(v.ID), "err", err)
			return
		}
		s.membershipChanged()
		return // one change at a time
	}
}

// lag is how far applied is behind last.
func lag(last, applied uint64) uint64 {
	if applied >= last {
		return 0
	}
	return min(last-applied, math.MaxInt64)
}

package raftstore

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/hashicorp/raft"

	"github.com/charon-kdc/charon/raftstore/peer"
)

const (
	// silentAfter is when a member that does not answer is reported as dead.
	silentAfter = 10 * time.Second
	// removalsApart is the least time between two automatic removals.
	removalsApart = 10 * time.Minute
)

// ballotMember is a voter as the removal of dead ones sees it.
type ballotMember struct {
	id      peer.NodeID
	self    bool
	silence time.Duration // the shortest that any member has of it
}

// deadVoter is the voter to be removed by itself, if there is one: what the operator allowed (DESIGN.md, "Dead nodes"). A replacement must vote
// already, so that as many voters stay as he wants, 3 at least; those that live must be a majority of all; and of several dead ones, the
// one dead for longest goes first.
func deadVoter(voters []ballotMember, after time.Duration, keep int) (peer.NodeID, bool) {
	if after <= 0 || len(voters)-1 < max(keep, 3) {
		return peer.NodeID{}, false
	}
	var dead []ballotMember
	for _, v := range voters {
		if v.silence > silentAfter && !v.self {
			dead = append(dead, v)
		}
	}
	if 2*len(dead) >= len(voters) {
		return peer.NodeID{}, false // it may be this node that is cut off
	}
	dead = slices.DeleteFunc(dead, func(v ballotMember) bool { return v.silence < after })
	if len(dead) == 0 {
		return peer.NodeID{}, false
	}
	return slices.MaxFunc(dead, func(a, b ballotMember) int { return cmp.Compare(a.silence, b.silence) }).id, true
}

// removeDead removes one dead voter if that is allowed. Nothing else may be under way in either group.
func (s *Store) removeDead(ctx context.Context) {
	cl, err := s.db.Cluster()
	if err != nil || cl.GetAutoRemoveAfter() == 0 || time.Since(s.removedAt) < removalsApart && !s.removedAt.IsZero() {
		return
	}
	unlock := s.LockRemovals()
	defer unlock()
	after := time.Duration(cl.GetAutoRemoveAfter()) * time.Second
	voters, ok := s.ballot(ctx, after)
	if !ok {
		return
	}
	id, found := deadVoter(voters, after, int(cl.GetAutoRemoveVoters()))
	if !found {
		return
	}
	n := s.ref(id)
	s.cfg.Logger.Warn("removing a node that nobody has heard of for long, as the operator has allowed", "node", n.Name, "after", after)
	s.removedAt = time.Now()
	err = s.RemoveNode(ctx, id)
	if observe := s.cfg.Observe.NodeRemoved; observe != nil {
		observe(n, after, err)
	}
	if err != nil {
		s.cfg.Logger.Warn("removing a dead node", "node", n.Name, "err", err)
	}
}

// ballot is the voters of the realm group, when both groups are settled and have the same ones. Where one seems to be dead, the others are asked.
func (s *Store) ballot(ctx context.Context, after time.Duration) (voters []ballotMember, ok bool) {
	servers, index := s.realm.servers()
	replays, replayIndex := s.replayServers()
	if index == 0 || replayIndex == 0 {
		return nil, false
	}
	dead := false
	for _, v := range servers {
		if v.Suffrage != raft.Voter {
			continue
		}
		m := ballotMember{id: nodeID(v.ID), self: v.ID == s.realm.id}
		if !replays[m.id] {
			return nil, false
		}
		if !m.self {
			m.silence = s.where.silence(m.id)
		}
		dead = dead || m.silence >= after
		voters = append(voters, m)
	}
	if !dead || len(voters) != len(replays) {
		return nil, false
	}
	return s.hearsay(ctx, voters), true
}

// replayServers are the nodes that vote in the replay group. The index is 0 while that changes.
func (s *Store) replayServers() (map[peer.NodeID]bool, uint64) {
	servers, index := s.replay.servers()
	out := map[peer.NodeID]bool{}
	for _, v := range servers {
		n, ok := s.nodeOfReplay(nodeID(v.ID))
		if !ok {
			return nil, 0
		}
		if v.Suffrage == raft.Voter {
			out[n] = true
		}
	}
	return out, index
}

// hearsay shortens silences by what the other members have heard.
func (s *Store) hearsay(ctx context.Context, voters []ballotMember) []ballotMember {
	for _, info := range s.askAll(ctx) {
		told := map[peer.NodeID]time.Duration{}
		for _, q := range info.GetSilent() {
			told[toNodeID(q.GetId())] = time.Duration(q.GetFor()) * time.Millisecond
		}
		for i := range voters {
			// A member that the answer does not name was heard of lately.
			if v := &voters[i]; v.id != toNodeID(info.GetId()) {
				v.silence = min(v.silence, told[v.id])
			}
		}
	}
	for i := range voters {
		if !voters[i].self {
			voters[i].silence = min(voters[i].silence, s.where.silence(voters[i].id))
		}
	}
	return voters
}

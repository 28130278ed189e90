package raftstore

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/charon-kdc/charon/internal/mutant"
	peerv1 "github.com/charon-kdc/charon/proto/charon/peer/v1"
	"github.com/charon-kdc/charon/raftstore/peer"
)

// lease is this node's claim to be fresh. It asks the leader again and again; a grant, which the leader gives only after it
// has proved that it still leads, carries the index that the leader has applied. From the moment the node *asked*, and for the
// length of the lease, everything acknowledged before that moment is within that index. So a write that the leader has applied
// can be unknown to a fresh node only under a grant older than the write, and those are gone one lease after it: that is
// what WaitAllApplied waits for, whatever the network does.
type lease struct {
	s *Store
	// grant in force; nil: none.
	grant atomic.Pointer[grant]
	// contact is when a leader was last heard of.
	contact atomic.Pointer[contact]
	// lost: this process has run for CutOff and not heard of one.
	lost atomic.Bool
}

// contact is one moment by both clocks.
type contact struct{ at, wall time.Time }

type grant struct {
	asked time.Time // its monotonic part counts
	wall  time.Time // then
	until time.Time // monotonic
	index uint64
}

// newLease starts with the last contact that an earlier process had, gap before this one.
func newLease(s *Store, gap time.Duration) *lease {
	l := &lease{s: s}
	l.contact.Store(&contact{time.Now().Add(-gap), s.cfg.Now().Add(-gap).Round(0)})
	return l
}

// fresh tells whether a grant is in force and its index applied.
func (l *lease) fresh() bool {
	g := l.grant.Load()
	if g == nil || l.s.applied.get() < g.index {
		return false
	}
	now := time.Now()
	return mutant.On(mutant.LeaseNeverEnds) || now.Before(g.until) && l.inStep(g, now)
}

// inStep tells whether the wall clock has moved as far as the monotonic clock since the grant was asked for. A machine that was suspended or paused wakes
// with a monotonic clock that stood still, under a grant that is over everywhere else; mostly its wall clock is set right at once. A step for another
// reason costs no more than the time to the next grant.
func (l *lease) inStep(g *grant, now time.Time) bool {
	return (l.s.cfg.Now().Sub(g.wall) - now.Sub(g.asked)).Abs() < l.s.cfg.Timing.Fresh/2
}

// catchUpPoll is how often who waits for a grant looks. Grants come every quarter of a lease.
const catchUpPoll = 5 * time.Millisecond

// catchUp returns when this node has applied everything that was acknowledged before the call, or with ctx's error, or ErrNoQuorum.
func (l *lease) catchUp(ctx context.Context) error {
	begun := time.Now()
	t := time.NewTicker(catchUpPoll)
	defer t.Stop()
	for {
		if g := l.grant.Load(); g != nil && g.asked.After(begun) {
			return l.s.applied.wait(ctx, g.index)
		}
		if l.lost.Load() {
			return ErrNoQuorum // it would be a wait for nothing
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-t.C:
		}
	}
}

// age of the last contact with a leader, that of an earlier process included; unheard or more if there is none on record.
func (l *lease) age() time.Duration { return time.Since(l.contact.Load().at) }

// stale is age by the clock that says more: the monotonic one stands still while the machine sleeps, the other one may be put back.
func (l *lease) stale() time.Duration {
	return max(l.age(), l.s.cfg.Now().Sub(l.contact.Load().wall))
}

// known is age, or negative if there is none.
func (l *lease) known() time.Duration {
	if age := l.stale(); age < unheard {
		return age
	}
	return -time.Millisecond
}

func (l *lease) run(ctx context.Context) {
	every := l.s.cfg.Timing.Fresh / 4
	t := time.NewTicker(every)
	defer t.Stop()
	for {
		changed := l.s.realm.changes()
		l.renew(ctx)
		select {
		case <-ctx.Done():
			return
		case <-changed:
		case <-t.C:
		}
	}
}

func (l *lease) renew(ctx context.Context) {
	asked, wall := time.Now(), l.s.cfg.Now().Round(0)
	ctx, cancel := context.WithTimeout(ctx, l.s.cfg.Timing.Fresh)
	defer cancel()
	index, ok := l.ask(ctx)
	if !ok {
		return
	}
	l.contact.Store(&contact{time.Now(), l.s.cfg.Now().Round(0)})
	l.lost.Store(false)
	l.grant.Store(&grant{asked: asked, wall: wall, until: asked.Add(l.s.cfg.Timing.Fresh), index: index})
}

func (l *lease) ask(ctx context.Context) (uint64, bool) {
	leader := nodeID(l.s.realm.leader())
	switch {
	case leader.IsZero():
		return 0, false
	case leader == l.s.id:
		return l.s.grantLease(ctx, l.s.id)
	}
	cc, err := l.s.fwd.Conn(leader)
	if err != nil {
		return 0, false
	}
	resp, err := peerv1.NewPeerClient(cc).Lease(ctx, &peerv1.LeaseRequest{})
	if err != nil || !resp.GetGranted() {
		return 0, false
	}
	return resp.GetIndex(), true
}

// grants is the leader's memory of when each member last asked it for a lease.
type grants struct {
	mu    sync.Mutex
	asked map[peer.NodeID]time.Time
	// since is when this node last began to lead: earlier leaders' grants were asked for before it.
	since time.Time
}

// lead begins a term of leadership.
func (g *grants) lead(now time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.since, g.asked = now, map[peer.NodeID]time.Time{}
}

// note remembers a question. Membership bounds the map: only members are granted anything.
func (g *grants) note(id peer.NodeID, now time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.asked == nil {
		g.asked = map[peer.NodeID]time.Time{}
	}
	g.asked[id] = now
}

// last is the latest moment at which id can have asked for a grant that is in force.
func (g *grants) last(id peer.NodeID) time.Time {
	g.mu.Lock()
	defer g.mu.Unlock()
	if t := g.asked[id]; t.After(g.since) {
		return t
	}
	return g.since
}

// grantLease is the leader's side. The index is read first and leadership proved after, so the index holds everything that
// was acknowledged when the question came. The question is noted before the index is read: a grant that lacks a write is
// known to whoever waits for the write to be everywhere.
func (s *Store) grantLease(ctx context.Context, to peer.NodeID) (uint64, bool) {
	if !s.started.Load() || !s.realm.ready.Load() || !s.configuredMember(to) {
		return 0, false
	}
	s.grants.note(to, time.Now())
	index := s.applied.get()
	if err := s.realm.await(ctx, func() raft.Future { return s.realm.raft.VerifyLeader() }); err != nil {
		return 0, false
	}
	return index, true
}

func (s *Store) configuredMember(id peer.NodeID) bool {
	servers, _ := s.realm.servers()
	for _, v := range servers {
		if v.ID == serverID(id) {
			return true
		}
	}
	return false
}

// WaitAllApplied returns when every member has applied index or its freshness lease has run out (DESIGN.md, "Reads after writes"), at most about
// the lease after the call; a member that has been away for longer than that is not waited for. index must be a Result's: applied on
// the leader. late names the members that have not, as far as was asked. The error is ctx's.
func (s *Store) WaitAllApplied(ctx context.Context, index uint64) (late []NodeRef, err error) {
	if mutant.On(mutant.AckBeforeAllApplied) {
		return nil, nil
	}
	leads := s.realm.ready.Load()
	now := time.Now()
	var mu sync.Mutex
	var wg sync.WaitGroup
	for id := range s.members.all() {
		until := s.leaseEnd(now)
		if leads {
			until = s.leaseEnd(s.grants.last(id))
		}
		wg.Go(func() {
			limited, cancel := context.WithDeadline(ctx, until)
			defer cancel()
			if !s.appliedAt(limited, id, index) {
				<-limited.Done()
				mu.Lock()
				defer mu.Unlock()
				late = append(late, s.ref(id))
			}
		})
	}
	wg.Wait()
	return late, ctx.Err()
}

// leaseEnd is when a lease that was asked for at that moment is over on every clock: a hundredth more, since clocks run at slightly other rates.
func (s *Store) leaseEnd(asked time.Time) time.Time {
	return asked.Add(s.cfg.Timing.Fresh + s.cfg.Timing.Fresh/100 + time.Millisecond)
}

// appliedAt asks one member, and waits there.
func (s *Store) appliedAt(ctx context.Context, id peer.NodeID, index uint64) bool {
	if id == s.id {
		return s.applied.wait(ctx, index) == nil
	}
	cc, err := s.fwd.Conn(id)
	if err != nil {
		return false
	}
	resp, err := peerv1.NewPeerClient(cc).WaitApplied(ctx, &peerv1.WaitAppliedRequest{Index: index})
	return err == nil && resp.GetApplied() >= index
}

// quorum tells whether a leader is known and was heard of within the lease.
func (s *Store) quorum() bool {
	if !s.started.Load() {
		return false
	}
	if s.realm.raft.State() == raft.Leader {
		return s.realm.ready.Load()
	}
	return s.realm.leader() != "" && s.lease.age() < 2*s.cfg.Timing.Fresh
}

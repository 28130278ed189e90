package raftstore

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// The offsets from the cluster's time at which a node warns, alarms, and takes itself out of service; the offset at which it comes back, and how long it must
// have kept to it.
const (
	offsetWarn  = 500 * time.Millisecond
	offsetAlarm = 5 * time.Second
	offsetOut   = 30 * time.Second
	offsetBack  = 5 * time.Second
	backAfter   = 3 * time.Second
	// agreeWithin is how near to the median a clock must be to bear witness for it. Less than a third of offsetOut: see guard.
	agreeWithin = 7500 * time.Millisecond
	// confirmAfter is how long an offset beyond offsetOut must last.
	confirmAfter = 2 * time.Second
)

// The states of the clock guard, in status, metrics and audit.
const (
	ClockOK    = "ok"
	ClockWarn  = "warn"
	ClockAlarm = "alarm"
	ClockOut   = "out"
)

// guard decides whether this node's clock takes it out of service. It is pure: a view of the clocks in, a decision out.
//
// A node leaves only if more than half of all members, itself not among them, bear witness against it: each is in service, lies within agreeWithin of the
// median, and was asked after this node's own clock had begun to be off.
//
// So at no time have half of the members or more left. Let L be the one among those who have left whose clock was the last to go off. Each other one, X,
// had gone off when L asked it, and stayed so until it left; or it said that it had left. So X bears no witness for L: it lies more than offsetOut from the median that
// it saw, and that one lies within 2 agreeWithin of L's, since two majorities of witnesses have a member in common. L's witnesses are then more than half
// of the members, and all in service.
type guard struct {
	out bool
	// leaving: it has decided to, and is handing over. Others must count on it no more.
	leaving bool
	since   time.Time // in service: since when the clock is off by more than offsetOut; zero: it is not
	right   time.Time // out of service: since when it is back within offsetBack
}

// step looks at the clocks. leave: this node is to take itself out; the caller calls left when it has handed over.
// off is this node's offset from the cluster's time, ref.
func (g *guard) step(v view, ref int64) (off time.Duration, leave bool) {
	off = time.Duration(v.own-ref) * time.Millisecond
	if g.out {
		g.recover(v.at, off)
		return off, false
	}
	fromMedian := (time.Duration(v.own-v.median) * time.Millisecond).Abs()
	if fromMedian <= offsetOut || !v.witnessed(time.Time{}) {
		g.since = time.Time{}
		return off, false
	}
	if g.since.IsZero() {
		g.since = v.at
	}
	g.leaving = v.at.Sub(g.since) >= confirmAfter && v.witnessed(g.since)
	return off, g.leaving
}

// left notes that this node has taken itself out of service.
func (g *guard) left() { *g = guard{out: true} }

func (g *guard) recover(now time.Time, off time.Duration) {
	switch {
	case off.Abs() > offsetBack:
		g.right = time.Time{}
	case g.right.IsZero():
		g.right = now
	case now.Sub(g.right) >= backAfter:
		g.out, g.right = false, time.Time{}
	}
}

// witnessed tells whether more than half of the members, all of them others, bear witness for the median, asked after since.
func (v *view) witnessed(since time.Time) bool {
	n := 0
	for _, r := range v.others {
		if !r.out && v.near(r.wall) && !r.asked.Before(since) {
			n++
		}
	}
	return 2*n > v.members
}

// clockState is the guard as others read it.
type clockState struct {
	mu    sync.Mutex
	guard guard
	level string
	out   atomic.Bool // guard.out; every look-up asks
}

// announced tells whether other members must not count on this node: its clock has taken it out, or is about to.
func (c *clockState) announced() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.guard.out || c.guard.leaving
}

func levelOf(off time.Duration, out bool) string {
	switch {
	case out:
		return ClockOut
	case off.Abs() > offsetAlarm:
		return ClockAlarm
	case off.Abs() > offsetWarn:
		return ClockWarn
	}
	return ClockOK
}

// watchClock takes one look. It tells whether to look again soon.
func (s *Store) watchClock(ctx context.Context) (soon bool) {
	now := time.Now()
	ref := s.clocks.update(now)
	c := &s.clock
	c.mu.Lock()
	_, leave := c.guard.step(s.clocks.look(now), ref)
	soon = c.guard.out || !c.guard.since.IsZero()
	c.mu.Unlock()
	if leave {
		// First hand over, then go: a leader that does not answer clients is of less use than one that does.
		if err := s.HandOver(ctx); err != nil {
			s.cfg.Logger.Warn("handing leadership over, since this node's clock is wrong", "err", err)
		}
	}
	c.mu.Lock()
	if leave {
		c.guard.left()
	}
	out := c.guard.out
	c.out.Store(out)
	off := s.clocks.own()
	level, was := levelOf(off, out), c.level
	c.level = level
	c.mu.Unlock()
	s.reportClock(was, level, off)
	if out && !leave {
		s.passLeadership(ctx)
	}
	return soon
}

// passLeadership gives away what an election has brought to a node that is out of service.
func (s *Store) passLeadership(ctx context.Context) {
	if !s.realm.ready.Load() && !s.replay.ready.Load() {
		return
	}
	if err := s.HandOver(ctx); err != nil {
		s.cfg.Logger.Warn("handing leadership over, since this node's clock is wrong", "err", err)
	}
}

func (s *Store) reportClock(was, level string, off time.Duration) {
	if f := s.cfg.Observe.Clock; f != nil && was != level {
		f(level, off)
	}
	news, _ := s.clockTold.News(level, time.Now())
	if was == level && !news {
		return
	}
	switch level {
	case ClockOut:
		s.cfg.Logger.Error("clock is off by so much that this node has left service", "offset", off)
	case ClockAlarm:
		s.cfg.Logger.Error("clock is off the median of the nodes", "offset", off)
	case ClockWarn:
		s.cfg.Logger.Warn("clock is off the median of the nodes", "offset", off)
	default:
		if was != "" && was != ClockOK {
			s.cfg.Logger.Info("clock is right again", "offset", off)
		}
	}
}

// Clock is this node's offset from the cluster's time and what follows from it: ClockOK, ClockWarn, ClockAlarm or ClockOut.
func (s *Store) Clock() (off time.Duration, level string) {
	off = s.clocks.own()
	return off, levelOf(off, s.clock.out.Load())
}

// wrongClock is why the clock keeps this node out of service; empty when it does not.
func (s *Store) wrongClock() string {
	if !s.clock.out.Load() {
		return ""
	}
	return fmt.Sprintf("clock is off by %v", s.clocks.own().Round(time.Millisecond))
}

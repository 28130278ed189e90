package raftstore

import (
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/charon-kdc/charon/internal/mutant"
	"github.com/charon-kdc/charon/raftstore/peer"
)

const (
	// reportMax is the age at which a member's clock report no longer counts.
	reportMax = 10 * time.Second
	// frameError is how late a clock that rides in a frame may be: it has no round trip to correct it by.
	frameError = time.Second
	// driftMax is by how much two clocks may part in the time between reports, as a part of it. Beyond it one of them was set.
	driftMax = 1.0 / 1000
	// leapMax is a step of the cluster's time that is taken at once; a greater one must last for leapHold first (DESIGN.md, "Clocks").
	leapMax  = 30 * time.Second
	leapHold = 30 * time.Second
	// clocksMax bounds the reports kept.
	clocksMax = 64
)

// clocks is what this node knows of the members' wall clocks, and the cluster's time that follows from it.
type clocks struct {
	now     func() time.Time // wall clock
	members func() int       // this node included

	// ref is the cluster's time when a majority last agreed on it. Nothing but the monotonic clock moves it on.
	ref atomic.Pointer[reference]

	mu      sync.Mutex
	reports map[peer.NodeID]report
	leap    time.Time // since when the majority's time lies leapMax and more from ref; zero: it does not
}

type reference struct {
	wall int64     // ms since the epoch
	at   time.Time // its monotonic part counts
}

// projected to a moment, in ms.
func (r reference) projected(to time.Time) int64 { return r.wall + to.Sub(r.at).Milliseconds() }

type report struct {
	reference
	within time.Duration // how far off it may be
	asked  time.Time     // when the question was asked whose answer last bore it out
	out    bool          // it has taken itself out of service
}

func newClocks(now func() time.Time, members func() int) *clocks {
	return &clocks{now: now, members: members, reports: map[peer.NodeID]report{}}
}

// answered notes a member's wall clock, in ms since the epoch, that came with the answer to a question. The answer was made at some moment between asked and
// now; half of that is how far off the middle may be. A report of less doubt stays while the new one does not contradict it.
func (c *clocks) answered(id peer.NodeID, wall int64, out bool, asked, now time.Time) {
	rtt := now.Sub(asked)
	n := report{reference: reference{wall, asked.Add(rtt / 2)}, within: rtt/2 + time.Millisecond, asked: asked, out: out}
	c.mu.Lock()
	defer c.mu.Unlock()
	if old, ok := c.reports[id]; ok && now.Sub(old.at) <= reportMax {
		doubt := old.within + time.Duration(driftMax*float64(now.Sub(old.at)))
		apart := time.Duration(n.wall-old.projected(n.at)) * time.Millisecond
		if doubt < n.within && apart.Abs() <= doubt+n.within {
			old.asked, old.out = asked, out
			c.reports[id] = old
			return
		}
	}
	c.put(id, n, now)
}

// framed notes the clock in a frame, which was written some time ago, where there is nothing better.
func (c *clocks) framed(id peer.NodeID, wall int64, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	old, ok := c.reports[id]
	if ok && now.Sub(old.at) <= reportMax && old.within < frameError {
		return
	}
	c.put(id, report{reference: reference{wall, now}, within: frameError, asked: old.asked, out: old.out}, now)
}

func (c *clocks) put(id peer.NodeID, r report, now time.Time) {
	if _, known := c.reports[id]; !known && len(c.reports) >= clocksMax {
		for k, r := range c.reports {
			if now.Sub(r.at) > reportMax {
				delete(c.reports, k)
			}
		}
		if len(c.reports) >= clocksMax {
			return
		}
	}
	c.reports[id] = r
}

// reading is one clock, projected to the moment of a view.
type reading struct {
	wall  int64 // ms
	asked time.Time
	out   bool
}

// view is all the clocks at one moment.
type view struct {
	at      time.Time // monotonic
	own     int64
	others  []reading
	members int
	median  int64 // the lower one of all, this node's included
}

func (c *clocks) look(now time.Time) view {
	v := view{at: now, own: c.now().UnixMilli(), members: c.members()}
	all := []int64{v.own}
	c.mu.Lock()
	for _, r := range c.reports {
		if now.Sub(r.at) <= reportMax {
			w := r.projected(now)
			v.others = append(v.others, reading{w, r.asked, r.out})
			all = append(all, w)
		}
	}
	c.mu.Unlock()
	slices.Sort(all)
	v.median = lowerMedian(all)
	return v
}

func lowerMedian(sorted []int64) int64 { return sorted[(len(sorted)-1)/2] }

// agreed tells whether more than half of the members are known to be within agreeWithin of the median.
func (v *view) agreed() bool {
	n := 0
	if v.near(v.own) {
		n++
	}
	for _, r := range v.others {
		if v.near(r.wall) {
			n++
		}
	}
	return 2*n > v.members
}

func (v *view) near(wall int64) bool {
	return (time.Duration(wall-v.median) * time.Millisecond).Abs() <= agreeWithin
}

// update takes the majority's time over, unless it has just leapt, and returns the cluster's time at now, in ms since the epoch. While no majority
// agrees it is what was last agreed on and the time since, so that one clock of two that is set, or the only one that is left, moves nothing.
func (c *clocks) update(now time.Time) int64 {
	v := c.look(now)
	old := c.ref.Load()
	switch {
	case !v.agreed():
		c.settle()
		if old == nil {
			return v.median // nobody knows better
		}
	case old == nil || c.settled(v, *old):
		c.ref.Store(&reference{v.median, now})
		return v.median
	}
	return old.projected(now)
}

// settle forgets a leap.
func (c *clocks) settle() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.leap = time.Time{}
}

// settled tells whether the majority's time may be taken: it lies where the last one would be now, or has lain elsewhere for leapHold.
func (c *clocks) settled(v view, old reference) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if (time.Duration(v.median-old.projected(v.at)) * time.Millisecond).Abs() <= leapMax {
		c.leap = time.Time{}
		return true
	}
	if c.leap.IsZero() {
		c.leap = v.at
	}
	if v.at.Sub(c.leap) < leapHold {
		return false
	}
	c.leap = time.Time{}
	return true
}

// time is the cluster's time at now, as update last found it.
func (c *clocks) time(now time.Time) int64 {
	if r := c.ref.Load(); r != nil {
		return r.projected(now)
	}
	v := c.look(now)
	return v.median
}

// replayStamp and realmStamp are the times of the next entries of each log, in ms since the epoch: never before what is in the log.
// On a leader that has passed its barrier the applied state knows.
func (s *Store) replayStamp() int64 {
	if mutant.On(mutant.ExpiryByLocalClock) {
		return max(s.cfg.Now().UnixMilli(), s.state.Now())
	}
	return max(s.clocks.update(time.Now()), s.state.Now())
}

func (s *Store) realmStamp() int64 { return max(s.clocks.update(time.Now()), s.db.Now()) }

// Now is the cluster's time: what the logs' next entries will be stamped with, as far as this node knows. Deadlines in the state are held against it and
// made from it, never by one machine's clock.
func (s *Store) Now() time.Time {
	return time.UnixMilli(max(s.clocks.time(time.Now()), s.db.Now(), s.state.Now())).UTC()
}

// RequestTime is what requests are judged by: this node's clock, but the cluster's time where that clock is so far off that the guard takes the node out. The
// guard needs some seconds for it, and nobody is to be told meanwhile that his ticket has expired a year ago.
func (s *Store) RequestTime() time.Time { return s.clocks.requestTime(time.Now()) }

func (c *clocks) requestTime(at time.Time) time.Time {
	wall, ref := c.now(), c.time(at)
	if off := time.Duration(wall.UnixMilli()-ref) * time.Millisecond; off.Abs() > offsetOut {
		return time.UnixMilli(ref).UTC()
	}
	return wall
}

// ClockSkew is how far a client's clock may be off at this node now: Config.ClockSkew, but no more than what the replay log says,
// since the replay cache remembers no longer. A larger one goes to the leader with the next frame and counts when it is applied here.
func (s *Store) ClockSkew() time.Duration { return min(s.cfg.ClockSkew, s.state.Skew()) }

// wholeSeconds, rounded up, within what the formats hold.
func wholeSeconds(d time.Duration) uint32 {
	return uint32(min(max(0, (d+time.Second-1)/time.Second), math.MaxUint32))
}

// offset of a member's clock from the cluster's time, as of its last report.
func (c *clocks) offset(id peer.NodeID) (time.Duration, bool) {
	now := time.Now()
	c.mu.Lock()
	r, ok := c.reports[id]
	c.mu.Unlock()
	if !ok || now.Sub(r.at) > reportMax {
		return 0, false
	}
	return time.Duration(r.projected(now)-c.time(now)) * time.Millisecond, true
}

// own is this node's offset from the cluster's time.
func (c *clocks) own() time.Duration {
	return time.Duration(c.now().UnixMilli()-c.time(time.Now())) * time.Millisecond
}

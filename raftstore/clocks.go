package raftstore

import (
	"math"
	"slices"
	"sync"
	"time"

	"github.com/charon-kdc/charon/raftstore/peer"
)

const (
	// reportMax is the age at which a member's clock report no longer counts.
	reportMax = 10 * time.Second
	// Offsets from the median at which a node warns, alarms and takes itself out of service.
	offsetWarn  = 500 * time.Millisecond
	offsetAlarm = 5 * time.Second
	offsetOut   = 30 * time.Second
	// clocksMax bounds the reports kept.
	clocksMax = 64
)

// clocks is what this node knows of the members' wall clocks.
type clocks struct {
	now func() time.Time // wall clock

	mu      sync.Mutex
	reports map[peer.NodeID]report
}

type report struct {
	wall int64     // ms since the epoch, there
	at   time.Time // here; its monotonic part counts
}

func newClocks(now func() time.Time) *clocks {
	return &clocks{now: now, reports: map[peer.NodeID]report{}}
}

// heard notes a member's wall clock, in ms since the epoch.
func (c *clocks) heard(id peer.NodeID, wall int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	if len(c.reports) >= clocksMax {
		for k, r := range c.reports {
			if now.Sub(r.at) > reportMax {
				delete(c.reports, k)
			}
		}
		if len(c.reports) >= clocksMax {
			return
		}
	}
	c.reports[id] = report{wall, now}
}

// readings are all members' clocks projected to now, this node's included, ascending, in ms.
func (c *clocks) readings() (own int64, all []int64) {
	own = c.now().UnixMilli()
	all = append(all, own)
	mono := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range c.reports {
		if age := mono.Sub(r.at); age <= reportMax {
			all = append(all, r.wall+age.Milliseconds())
		}
	}
	slices.Sort(all)
	return own, all
}

// stamp is the cluster's time by its clocks: the lower median of the members' clocks, so that one broken
// clock, the leader's or another's, moves nothing. In ms since the epoch.
func (c *clocks) stamp() int64 {
	_, all := c.readings()
	return lowerMedian(all)
}

// replayStamp and realmStamp are the times of the next entries of each log, in ms since the epoch: never before what is in the log.
// On a leader that has passed its barrier the applied state knows.
func (s *Store) replayStamp() int64 { return max(s.clocks.stamp(), s.state.Now()) }
func (s *Store) realmStamp() int64  { return max(s.clocks.stamp(), s.db.Now()) }

// ClockSkew is how far a client's clock may be off at this node now: Config.ClockSkew, but no more than what the replay log says,
// since the replay cache remembers no longer. A larger one goes to the leader with the next frame and counts when it is applied here.
func (s *Store) ClockSkew() time.Duration { return min(s.cfg.ClockSkew, s.state.Skew()) }

// wholeSeconds, rounded up, within what the formats hold.
func wholeSeconds(d time.Duration) uint32 {
	return uint32(min(max(0, (d+time.Second-1)/time.Second), math.MaxUint32))
}

func lowerMedian(sorted []int64) int64 { return sorted[(len(sorted)-1)/2] }

// offset of a member's clock from this node's, as of its last report.
func (c *clocks) offset(id peer.NodeID) (time.Duration, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r, ok := c.reports[id]
	age := time.Since(r.at)
	if !ok || age > reportMax {
		return 0, false
	}
	return time.Duration(r.wall+age.Milliseconds()-c.now().UnixMilli()) * time.Millisecond, true
}

// fromMedian is this node's offset from the median, and whether it must leave service for it: only while a majority
// of the clocks agree with the median, so that never a majority leaves at once.
func (c *clocks) fromMedian() (off time.Duration, out bool) {
	own, all := c.readings()
	m := lowerMedian(all)
	off = time.Duration(own-m) * time.Millisecond
	agree := 0
	for _, v := range all {
		if d := time.Duration(v-m) * time.Millisecond; d.Abs() <= offsetOut {
			agree++
		}
	}
	return off, off.Abs() > offsetOut && agree*2 > len(all)
}

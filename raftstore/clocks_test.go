package raftstore

import (
	"testing"
	"time"

	"github.com/charon-kdc/charon/raftstore/peer"
)

// bell is a set of clocks under test: this node's, off by own, at a true time that starts at mono(0).
type bell struct {
	at  time.Duration
	own time.Duration
	n   int
	*clocks
}

func newBell(members int) *bell {
	b := &bell{n: members}
	b.clocks = newClocks(func() time.Time { return mono(b.at + b.own) }, func() int { return b.n })
	return b
}

// hear has member id answer with a clock that is off, after rtt.
func (b *bell) hear(id byte, off, rtt time.Duration) {
	asked := mono(b.at)
	wall := mono(b.at + rtt/2 + off).UnixMilli()
	b.at += rtt
	b.answered(peer.NodeID{id}, wall, false, asked, mono(b.at))
}

// time is the cluster's time minus the true one.
func (b *bell) error() time.Duration {
	return time.Duration(b.update(mono(b.at))-mono(b.at).UnixMilli()) * time.Millisecond
}

func (b *bell) want(t *testing.T, what string, want time.Duration) {
	t.Helper()
	if got := b.error(); (got - want).Abs() > 20*time.Millisecond {
		t.Errorf("%s: the cluster's time is %v off, want %v", what, got, want)
	}
}

func TestClusterTime(t *testing.T) {
	b := newBell(3)
	b.hear(1, 0, 2*time.Millisecond)
	b.hear(2, 0, 2*time.Millisecond)
	b.want(t, "all right", 0)
	b.own = year
	b.want(t, "own clock a year on", 0)
	b.own = -year
	b.want(t, "own clock a year back", 0)
	b.at += 11 * time.Second // the reports are too old
	b.want(t, "nobody is heard", 0)
	b.hear(1, 0, time.Millisecond)
	b.want(t, "two are heard, and ours is wrong", 0)
	b.own = 0
	b.hear(1, time.Hour, time.Millisecond)
	b.want(t, "two are heard, and theirs is wrong", 0)
	b.at += 12 * time.Hour
	b.want(t, "twelve hours alone", 0)
}

// A cluster whose clocks are all set on by a year for a moment must not find itself in the next year: nothing takes a log's time back.
func TestClusterTimeLeaps(t *testing.T) {
	for _, members := range []int{1, 3} {
		b := newBell(members)
		set := func(off time.Duration) {
			b.own = off
			for i := 1; i < members; i++ {
				b.hear(byte(i), off, time.Millisecond)
			}
		}
		set(0)
		b.want(t, "start", 0)
		set(20 * time.Second)
		b.want(t, "a small step is taken at once", 20*time.Second)
		set(0)
		b.want(t, "and back", 0)
		set(year)
		b.want(t, "a year, at once", 0)
		b.at += leapHold / 2
		set(year)
		b.want(t, "a year, for half of the hold", 0)
		set(0)
		b.want(t, "back", 0)
		b.at += leapHold
		set(year)
		b.want(t, "again, and the first time counts no more", 0)
		for range 4 {
			b.at += leapHold / 3
			set(year)
			b.error()
		}
		b.want(t, "a year, for good", year)
		set(-year)
		b.error()
		b.at += 2 * leapHold
		set(-year)
		b.want(t, "two years back, for good", -year)
	}
}

func TestReportsOfLessDoubtStay(t *testing.T) {
	b := newBell(3)
	b.hear(1, 0, 2*time.Millisecond)
	// An answer that took long the one way and not the other says 400 ms too little.
	asked := mono(b.at)
	wall := mono(b.at).UnixMilli()
	b.at += 800 * time.Millisecond
	b.answered(peer.NodeID{1}, wall, true, asked, mono(b.at))
	v := b.look(mono(b.at))
	if off := time.Duration(v.others[0].wall-v.own) * time.Millisecond; off.Abs() > 5*time.Millisecond {
		t.Errorf("a slow answer moved a good report by %v", off)
	}
	if !v.others[0].asked.Equal(asked) || !v.others[0].out {
		t.Error("the slow answer bears the report out, and brings news")
	}
	b.hear(1, 10*time.Second, 800*time.Millisecond) // slow, but it contradicts
	v = b.look(mono(b.at))
	if off := time.Duration(v.others[0].wall-v.own) * time.Millisecond; (off - 10*time.Second).Abs() > 500*time.Millisecond {
		t.Errorf("a clock that was set is seen %v off, want 10 s", off)
	}
	b.framed(peer.NodeID{1}, mono(b.at).UnixMilli(), mono(b.at))
	v = b.look(mono(b.at))
	if off := time.Duration(v.others[0].wall-v.own) * time.Millisecond; off < 9*time.Second {
		t.Errorf("a frame's clock pushed an answer out: %v", off)
	}
}

// TestClockJumpsAreNotServed: found by the chaos test, whose clients were refused with KDC_ERR_NEVER_VALID until the guard had taken the node out.
func TestClockJumpsAreNotServed(t *testing.T) {
	b := newBell(3)
	b.hear(1, 0, 2*time.Millisecond)
	b.hear(2, 0, 2*time.Millisecond)
	b.want(t, "all right", 0)
	for own, want := range map[time.Duration]time.Duration{
		0: 0, 20 * time.Second: 20 * time.Second, -20 * time.Second: -20 * time.Second,
		time.Minute: 0, -time.Minute: 0, year: 0, -year: 0,
	} {
		b.own = own
		if off := b.requestTime(mono(b.at)).Sub(mono(b.at)); (off - want).Abs() > 20*time.Millisecond {
			t.Errorf("own clock off by %v: requests are judged by a time off by %v, want %v", own, off, want)
		}
	}
}

package raftstore

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/charon-kdc/charon/kdc/kdb"
	"github.com/charon-kdc/charon/raftstore/peer"
)

// mono is a moment of the tests' monotonic clock.
func mono(d time.Duration) time.Time { return time.Unix(1_000_000, 0).Add(d) }

const (
	day  = 24 * time.Hour
	year = 365 * day
)

// views of a node whose own clock is off by own, from members of whom those in others answer every half second, for as long as told.
func runGuard(g *guard, from, to time.Duration, members int, own time.Duration, others ...time.Duration) (off time.Duration, leave bool) {
	for at := from; at <= to; at += 500 * time.Millisecond {
		v := view{at: mono(at), own: own.Milliseconds(), members: members}
		all := []int64{v.own}
		for _, o := range others {
			v.others = append(v.others, reading{wall: o.Milliseconds(), asked: mono(at)})
			all = append(all, o.Milliseconds())
		}
		v.median = lowerMedian(sorted(all))
		off, leave = g.step(v, v.median)
		if leave {
			return off, true
		}
	}
	return off, false
}

func sorted(in []int64) []int64 {
	out := append([]int64(nil), in...)
	for i := range out {
		for j := i; j > 0 && out[j] < out[j-1]; j-- {
			out[j], out[j-1] = out[j-1], out[j]
		}
	}
	return out
}

func TestGuardLeaves(t *testing.T) {
	for _, c := range []struct {
		name    string
		members int
		own     time.Duration
		others  []time.Duration
		want    bool
	}{
		{"right", 3, 0, []time.Duration{0, 0}, false},
		{"a second", 3, time.Second, []time.Duration{0, 0}, false},
		{"ten seconds", 3, 10 * time.Second, []time.Duration{0, 0}, false},
		{"just within", 3, 30 * time.Second, []time.Duration{0, 0}, false},
		{"just beyond", 3, 30*time.Second + time.Millisecond, []time.Duration{0, 0}, true},
		{"five minutes", 3, 5 * time.Minute, []time.Duration{0, 0}, true},
		{"five minutes back", 3, -5 * time.Minute, []time.Duration{0, 0}, true},
		{"a year", 3, year, []time.Duration{0, 0}, true},
		{"a year back", 3, -year, []time.Duration{0, 0}, true},
		{"two alive disagree: neither leaves", 3, year, []time.Duration{0}, false},
		{"alone", 3, year, nil, false},
		{"cluster of two", 2, year, []time.Duration{0}, false},
		{"cluster of one", 1, year, nil, false},
		{"three that all disagree", 3, year, []time.Duration{0, day}, false},
		{"the witnesses are far apart", 3, year, []time.Duration{0, 20 * time.Second}, false},
		{"five, one is off", 5, year, []time.Duration{0, 0, 0, 0}, true},
		{"five, two are off", 5, year, []time.Duration{0, 0, 0, year}, true},
		{"five, one is off and one is away", 5, year, []time.Duration{0, 0, 0}, true},
		{"five, two are off and one is away: no majority of witnesses", 5, year, []time.Duration{0, 0, year}, false},
		{"four, one is off", 4, -year, []time.Duration{0, 0, 0}, true},
		{"four, two are off", 4, year, []time.Duration{0, 0, year}, false},
	} {
		if _, got := runGuard(&guard{}, 0, 10*time.Second, c.members, c.own, c.others...); got != c.want {
			t.Errorf("%s: leaves %v, want %v", c.name, got, c.want)
		}
	}
}

func TestGuardNeedsFreshWitnesses(t *testing.T) {
	g := &guard{}
	for at := time.Duration(0); at < 8*time.Second; at += 500 * time.Millisecond {
		v := view{at: mono(at), own: year.Milliseconds(), members: 3, others: []reading{{asked: mono(-time.Second)}, {asked: mono(-time.Second)}}}
		if _, leave := g.step(v, 0); leave {
			t.Fatalf("after %v: leaves by what was asked before its clock went off", at)
		}
	}
}

func TestGuardConfirms(t *testing.T) {
	g := &guard{}
	if _, leave := runGuard(g, 0, confirmAfter-time.Second, 3, year, 0, 0); leave {
		t.Error("left before the offset had lasted")
	}
	if _, leave := runGuard(g, 3*time.Second, 3*time.Second, 3, 0, 0, 0); leave {
		t.Error("left with a clock that is right")
	}
	if _, leave := runGuard(g, 4*time.Second, 4*time.Second+confirmAfter-time.Second, 3, year, 0, 0); leave {
		t.Error("the time off before did not start anew")
	}
}

func TestGuardComesBack(t *testing.T) {
	g := &guard{}
	if _, leave := runGuard(g, 0, 10*time.Second, 3, time.Minute, 0, 0); !leave {
		t.Fatal("did not leave")
	}
	g.left()
	runGuard(g, 11*time.Second, 20*time.Second, 3, 6*time.Second, 0, 0)
	if !g.out {
		t.Error("back at 6 s: between the two limits it stays where it is")
	}
	runGuard(g, 21*time.Second, 21*time.Second+backAfter-time.Second, 3, time.Second, 0, 0)
	if !g.out {
		t.Error("back at once")
	}
	runGuard(g, 24*time.Second, 24*time.Second, 3, time.Hour, 0, 0)
	runGuard(g, 25*time.Second, 25*time.Second+backAfter-time.Second, 3, time.Second, 0, 0)
	if !g.out {
		t.Error("the time right before the relapse counted")
	}
	runGuard(g, 28*time.Second, 29*time.Second, 3, time.Second, 0, 0)
	if g.out {
		t.Error("not back although the clock is right")
	}
}

func TestClockLevels(t *testing.T) {
	for _, c := range []struct {
		off  time.Duration
		out  bool
		want string
	}{
		{500 * time.Millisecond, false, ClockOK}, {-501 * time.Millisecond, false, ClockWarn}, {5 * time.Second, false, ClockWarn},
		{-5001 * time.Millisecond, false, ClockAlarm}, {time.Hour, false, ClockAlarm}, {0, true, ClockOut},
	} {
		if got := levelOf(c.off, c.out); got != c.want {
			t.Errorf("%v, out %v: %s, want %s", c.off, c.out, got, c.want)
		}
	}
}

// simNode is one node of TestGuardNeverAMajority: a true clock with an offset, its reports, and its guard.
type simNode struct {
	offset  time.Duration
	c       *clocks
	g       guard
	leaveAt time.Duration // it hands over until then; 0: it does not
	down    bool
}

// Nodes whose clocks are set at random, at once and one after the other, ask each other over links that lag and fail. At no time are half of them or more
// out of service, and when the clocks have been right for long enough none is.
func TestGuardNeverAMajority(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	left := 0
	for round := range 60 {
		n := []int{1, 2, 3, 3, 3, 4, 5, 5, 7}[rng.IntN(9)]
		if err := simulate(rng, n, &left); err != nil {
			t.Fatalf("seed %d, round %d, %d nodes: %v", seed, round, n, err)
		}
	}
	if left < 20 {
		t.Errorf("seed %d: only %d times did a node leave: this shows nothing", seed, left)
	}
}

func simulate(rng *rand.Rand, n int, left *int) error {
	var now time.Duration
	wall := func(x *simNode) int64 { return mono(now + x.offset).UnixMilli() }
	nodes := make([]*simNode, n)
	for i := range nodes {
		x := &simNode{}
		x.c = newClocks(func() time.Time { return time.UnixMilli(wall(x)) }, func() int { return n })
		nodes[i] = x
	}
	steps := []time.Duration{0, 0, 0, 29 * time.Second, 31 * time.Second, -31 * time.Second, 5 * time.Minute, 5 * time.Minute, -year, year, 10 * time.Second, 38 * time.Second}
	const tick = 100 * time.Millisecond
	const trouble = 150 * time.Second
	type question struct {
		from, to int
		asked    time.Duration
		wall     int64
		out      bool
		back     time.Duration
	}
	var open []question
	for ; now < trouble+90*time.Second; now += tick {
		if now < trouble && rng.IntN(20) == 0 {
			// Several clocks may be set at the same moment.
			to := steps[rng.IntN(len(steps))]
			for _, x := range nodes {
				if rng.IntN(3) == 0 {
					x.offset = to
				}
			}
			x := nodes[rng.IntN(n)]
			x.down = !x.down
		}
		if now == trouble {
			for _, x := range nodes {
				x.offset, x.down = 0, false
			}
		}
		for i, x := range nodes {
			for j, y := range nodes {
				if i != j && !x.down && !y.down && rng.IntN(7) == 0 {
					out := time.Duration(rng.IntN(500)) * time.Millisecond
					open = append(open, question{i, j, now, wall(y), y.g.out || y.g.leaving, now + out})
				}
			}
		}
		kept := open[:0]
		for _, q := range open {
			if q.back > now {
				kept = append(kept, q)
				continue
			}
			nodes[q.from].c.answered(peer.NodeID{byte(q.to) + 1}, q.wall, q.out, mono(q.asked), mono(now))
		}
		open = kept
		for _, x := range nodes {
			if x.leaveAt > 0 && now >= x.leaveAt {
				x.g.left()
				x.leaveAt = 0
				*left++
			}
			if rng.IntN(5) > 0 || x.leaveAt > 0 {
				continue
			}
			ref := x.c.update(mono(now))
			if _, leave := x.g.step(x.c.look(mono(now)), ref); leave {
				x.leaveAt = now + time.Duration(1+rng.IntN(2000))*time.Millisecond
			}
		}
		out := 0
		for _, x := range nodes {
			if x.g.out {
				out++
			}
		}
		if 2*out >= n && out > 0 {
			return fmt.Errorf("at %v %d are out of service", now, out)
		}
	}
	for i, x := range nodes {
		if x.g.out {
			return fmt.Errorf("node %d is out although all clocks have been right for long", i)
		}
	}
	return nil
}

// A node whose clock is far off the others' hands over, answers nobody, says why, and comes back when its clock is right, while the others go on.
func TestWrongClockLeavesService(t *testing.T) {
	var mu sync.Mutex
	offsets := map[string]time.Duration{}
	put := func(name string, off time.Duration) {
		mu.Lock()
		defer mu.Unlock()
		offsets[name] = off
	}
	levels := map[string][]string{}
	c := newCluster(t, 3, func(cfg *Config) {
		name := cfg.Self.GetName()
		cfg.Now = func() time.Time {
			mu.Lock()
			defer mu.Unlock()
			return time.Now().Round(0).Add(offsets[name])
		}
		cfg.Observe.Clock = func(level string, _ time.Duration) {
			mu.Lock()
			defer mu.Unlock()
			levels[name] = append(levels[name], level)
		}
	})
	c.waitReady()
	leads := func(n *testNode) bool { return n.store.realm.ready.Load() || n.store.replay.ready.Load() }
	for _, off := range []time.Duration{5 * time.Minute, -year} {
		n := c.waitLeader()
		n.propose(create(c.principal(fmt.Sprintf("user%d", off), 1)))
		before := n.store.Now()
		put(n.name, off)
		c.waitFor("the leader hands over and leaves service", func() bool {
			_, err := n.store.KDB().Principal(testRealm, krbName(fmt.Sprintf("user%d", off)))
			as, _, reason := n.store.Ready()
			return errors.Is(err, kdb.ErrStale) && !as && strings.Contains(reason, "clock is off by") && !leads(n)
		})
		for _, o := range c.nodes {
			if o == n {
				continue
			}
			if _, level := o.store.Clock(); level != ClockOK {
				t.Errorf("%s: %s, although its clock is right", o.name, level)
			}
		}
		var l *testNode
		c.waitFor("another node leads", func() bool { l = c.leader(); return l != nil && l != n })
		if v := l.verdict(fmt.Sprintf("proof%d", off), "r"); !accepted(v) {
			t.Errorf("the others' replay cache says %v", v)
		}
		if since := l.store.Now().Sub(before); since < 0 || since > time.Minute {
			t.Errorf("one node's clock moved the cluster's time by %v", since)
		}
		c.waitFor("status of another node shows it", func() bool {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			for _, st := range l.store.Status(ctx).Nodes {
				if st.Name == n.name {
					return st.ClockOut && (st.ClockOffset-off).Abs() < time.Second
				}
			}
			return false
		})
		put(n.name, 0)
		c.waitFor("it is back", func() bool { return n.ready() })
	}
	mu.Lock()
	defer mu.Unlock()
	for name, l := range levels {
		if len(l) == 0 || l[len(l)-1] != ClockOK {
			t.Errorf("%s: the levels told are %v", name, l)
		}
	}
}

// A pause of the machine stops the monotonic clock, not the leases of others; the wall clock shows it. A step of the clock for another reason
// costs freshness for a moment.
func TestLeaseEndsWithAnyStepOfTheClock(t *testing.T) {
	var step atomic.Int64
	c := newCluster(t, 1, func(cfg *Config) {
		cfg.Now = func() time.Time { return time.Now().Round(0).Add(time.Duration(step.Load())) }
	})
	l := c.nodes[0].store.lease
	for _, by := range []time.Duration{30 * time.Second, -30 * time.Second, year, -year} {
		c.waitFor("fresh", l.fresh)
		g, now := *l.grant.Load(), time.Now()
		if !l.inStep(&g, now) {
			continue // a renewal came between
		}
		step.Add(int64(by))
		if l.inStep(&g, now) {
			t.Errorf("the clock was set by %v, and the lease of before holds", by)
		}
	}
	c.waitFor("fresh again", l.fresh)
}

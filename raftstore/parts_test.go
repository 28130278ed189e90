package raftstore

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/charon-kdc/charon/raftstore/peer"
	"github.com/charon-kdc/charon/raftstore/replay"
)

// One broken clock, the leader's own or another's, moves nothing; with two alive time may lag but not leap.
func TestStampIsTheLowerMedian(t *testing.T) {
	now := time.UnixMilli(1_000_000_000)
	for _, c := range []struct {
		name   string
		own    int64
		others []int64
		want   int64
	}{
		{"alone", 0, nil, 0},
		{"leader a year ahead", 1e10, []int64{0, 5}, 5},
		{"leader a year behind", -1e10, []int64{0, 5}, 0},
		{"another a year ahead", 0, []int64{1e10, 5}, 5},
		{"two: the lower", 1e10, []int64{0}, 0},
		{"five", 7, []int64{-1e10, 1e10, 6, 8}, 7},
	} {
		k := newClocks(func() time.Time { return now.Add(time.Duration(c.own) * time.Millisecond) }, func() int { return len(c.others) + 1 })
		for i, o := range c.others {
			k.framed(peer.NodeID{byte(i + 1)}, now.UnixMilli()+o, time.Now())
		}
		// Reports are projected forward by the time since they came.
		if got := k.update(time.Now()) - now.UnixMilli(); got < c.want || got > c.want+1000 {
			t.Errorf("%s: %d, want %d", c.name, got, c.want)
		}
	}
}

func TestClockReportsExpire(t *testing.T) {
	k := newClocks(func() time.Time { return time.UnixMilli(0) }, func() int { return 2 })
	k.framed(peer.NodeID{1}, -1e9, time.Now().Add(-reportMax-time.Second))
	if got := k.update(time.Now()); got != 0 {
		t.Errorf("a report older than %v counts: %d", reportMax, got)
	}
	for i := range 4 * clocksMax {
		k.framed(peer.NodeID{byte(i), byte(i >> 8), 1}, 0, time.Now())
	}
	if len(k.reports) > clocksMax {
		t.Errorf("%d reports kept", len(k.reports))
	}
}

func TestCache(t *testing.T) {
	c := newCache[int](shards * 4)
	key := func(i int) []byte { return fmt.Appendf(nil, "key %d", i) }
	_, gen, ok := c.get(key(1))
	if ok {
		t.Fatal("found in an empty cache")
	}
	c.put(key(1), gen, 1)
	if v, _, ok := c.get(key(1)); !ok || v != 1 {
		t.Fatalf("%d, %v", v, ok)
	}
	// A reader that began before the record changed must not put the old one back.
	_, gen, _ = c.get(key(1))
	c.drop(key(1))
	c.put(key(1), gen, 1)
	if _, _, ok := c.get(key(1)); ok {
		t.Error("a slow reader put back what a writer had dropped")
	}
	_, gen, _ = c.get(key(2))
	c.clear()
	c.put(key(2), gen, 2)
	if _, _, ok := c.get(key(2)); ok {
		t.Error("a slow reader put back what was cleared")
	}
	for i := range 10_000 {
		_, gen, _ := c.get(key(i))
		c.put(key(i), gen, i)
	}
	n := 0
	for i := range c.shards {
		n += len(c.shards[i].m)
	}
	if n == 0 || n > shards*4 {
		t.Errorf("%d entries; at most %d", n, shards*4)
	}
	// What is used stays: a hot entry outlives many cold ones.
	hot := 0
	_, gen, _ = c.get(key(-1))
	c.put(key(-1), gen, -1)
	for i := range 1000 {
		_, gen, _ := c.get(key(i + 20_000))
		c.put(key(i+20_000), gen, i)
		if _, gen, ok := c.get(key(-1)); ok {
			hot++
		} else {
			c.put(key(-1), gen, -1)
		}
	}
	if hot < 600 {
		t.Errorf("a hot entry was there %d times of 1000", hot)
	}
}

func TestWatermark(t *testing.T) {
	w := newWatermark(3)
	if err := w.wait(t.Context(), 3); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			if err := w.wait(t.Context(), uint64(4+i)); err != nil {
				t.Error(err)
			}
			if w.get() < uint64(4+i) {
				t.Error("woken too early")
			}
		}()
	}
	w.advance(7)
	w.advance(5) // never back
	w.advance(11)
	wg.Wait()
	if w.get() != 11 {
		t.Errorf("at %d", w.get())
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := w.wait(ctx, 12); err == nil {
		t.Error("waited for what never came, without an error")
	}
	if len(w.waiters) != 0 {
		t.Errorf("%d waiters left", len(w.waiters))
	}
}

func TestSeenSetIsBounded(t *testing.T) {
	s := newSeenSet(time.Hour, 100)
	p := replay.Proof{K: [16]byte{1}, R: [8]byte{1}}
	for range 2 {
		if s.check(p) {
			t.Error("seen at first, or the same request taken for another")
		}
	}
	p.R[0] = 2
	if !s.check(p) {
		t.Error("a copy in another request went unnoticed")
	}
	for i := range 1000 {
		s.check(replay.Proof{K: [16]byte{2, byte(i), byte(i >> 8), byte(i >> 16), byte(i >> 24)}})
	}
	if len(s.cur)+len(s.prev) > 200 {
		t.Errorf("%d and %d proofs held", len(s.cur), len(s.prev))
	}
}

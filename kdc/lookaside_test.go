package kdc

import (
	"encoding/binary"
	"net/netip"
	"testing"
	"time"
)

// TestLookasideBounds: it holds no more than it may, for no longer than it may, and accounts for every octet.
func TestLookasideBounds(t *testing.T) {
	l := newLookaside()
	reply := make([]byte, 4000)
	req := make([]byte, 100)
	const n = 3 * lookasideBytesMax / 4100
	for i := range n {
		binary.BigEndian.PutUint32(req, uint32(i))
		e, seen := l.claim(req, testPeer, false, testNow)
		if e == nil || seen != nil {
			t.Fatalf("request %d is not new", i)
		}
		l.finish(e, reply, true, true, testNow)
	}
	held := check(t, l)
	if held > lookasideBytesMax || held < lookasideBytesMax/2 {
		t.Fatalf("%d octets held", held)
	}
	if _, seen := l.claim(req, testPeer, false, testNow.Add(lookasideTTL-1)); seen == nil {
		t.Fatal("the newest request is forgotten")
	}
	e, seen := l.claim(req, testPeer, false, testNow.Add(lookasideTTL))
	if e == nil || seen != nil {
		t.Fatal("a request outlived its time")
	}
	l.finish(e, nil, false, false, testNow)
	for i := range n { // every shard sees the time
		binary.BigEndian.PutUint32(req, uint32(i))
		e, _ := l.claim(req, testPeer, false, testNow.Add(time.Hour))
		l.finish(e, nil, false, false, testNow)
	}
	if held := check(t, l); held != 0 {
		t.Fatalf("%d octets held an hour later", held)
	}
}

// TestLookasideInWork: the packet again from the same UDP address is dropped, since the answer goes there; from anywhere else, and over TCP, it joins.
func TestLookasideInWork(t *testing.T) {
	l := newLookaside()
	if mine, _ := l.claim([]byte("a"), testPeer, false, testNow); mine == nil {
		t.Fatal("not new")
	}
	elsewhere := netip.AddrPortFrom(testPeer.Addr(), testPeer.Port()+1)
	for _, c := range []struct {
		peer  netip.AddrPort
		tcp   bool
		joins bool
	}{{testPeer, false, false}, {testPeer, true, true}, {elsewhere, false, true}, {elsewhere, true, true}} {
		mine, seen := l.claim([]byte("a"), c.peer, c.tcp, testNow)
		if mine != nil || (seen != nil) != c.joins {
			t.Errorf("%v tcp %v: mine %v, seen %v", c.peer, c.tcp, mine != nil, seen != nil)
		}
	}
}

// TestLookasideClockBackwards: entries from the future are dropped, not kept for ever.
func TestLookasideClockBackwards(t *testing.T) {
	l := newLookaside()
	e, _ := l.claim([]byte("a"), testPeer, false, testNow)
	l.finish(e, []byte("b"), true, true, testNow)
	if e, _ := l.claim([]byte("a"), testPeer, false, testNow.Add(-time.Minute)); e == nil {
		t.Fatal("kept")
	}
}

func check(t *testing.T, l *lookaside) (held int) {
	t.Helper()
	for i := range l.shards {
		s := &l.shards[i]
		sum := 0
		for _, e := range s.order {
			sum += len(e.request) + len(e.reply)
			if s.byHash[e.hash] != e {
				t.Fatal("an entry of order is not in byHash")
			}
		}
		if sum != s.bytes || len(s.byHash) != len(s.order) {
			t.Fatalf("shard %d: %d octets counted, %d there; %d and %d entries", i, s.bytes, sum, len(s.byHash), len(s.order))
		}
		held += sum
	}
	return held
}

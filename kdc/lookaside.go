package kdc

import (
	"bytes"
	"hash/maphash"
	"net/netip"
	"sync"
	"time"
)

const (
	lookasideTTL      = 5 * time.Second
	lookasideShards   = 64
	lookasideBytesMax = 32 << 20 // requests and replies together, all shards
)

// lookaside gives a packet which is sent again the reply it got before (RFC 4120 section 3.1.2), and joins it to the work if there is
// no reply yet. It is a matter of this node and of seconds; the replay cache is another thing (raftstore/DESIGN.md, "The replay state machine").
//
// A packet is its bytes and the host it came from: a ticket may be bound to an address, and only the work finds that out. (The same bytes from
// another host are Same to the replay cache, and are answered unless the address forbids.)
//
// Only tickets are kept, as they were before any bound on the reply: a request which was too big for UDP is the same bytes over TCP.
type lookaside struct {
	seed   maphash.Seed
	shards [lookasideShards]lookasideShard
}

// lookasideShard: every entry of order is in byHash, oldest first, and bytes counts them all. Entries in work are in byHash only.
type lookasideShard struct {
	mu     sync.Mutex
	byHash map[uint64]*lookasideEntry
	order  []*lookasideEntry
	bytes  int
}

type lookasideEntry struct {
	hash    uint64
	request []byte // a copy
	peer    netip.AddrPort
	result
	at    time.Time
	done  chan struct{} // made by the first who joins; closed when result is set
	ready bool
}

// result is what came of a request: whom it gets sent to and what an Event says of it are the same for the packet that is sent again.
type result struct {
	reply  []byte // nil: the work came to nothing
	proven bool   // the sender had proved something
	keep   bool   // beyond those who joined
	// As in Event.
	client, server, ticketID, fromTicketID string
}

func (e *lookasideEntry) size() int {
	return len(e.request) + len(e.reply) + len(e.client) + len(e.server) + len(e.ticketID) + len(e.fromTicketID)
}

// host is where a peer is, whichever port it sends from.
func host(peer netip.AddrPort) netip.Addr { return peer.Addr().Unmap() }

func newLookaside() *lookaside {
	l := &lookaside{seed: maphash.MakeSeed()}
	for i := range l.shards {
		l.shards[i].byHash = make(map[uint64]*lookasideEntry)
	}
	return l
}

// claim finds out what to do with a request. mine: the caller does the work and calls finish. Otherwise seen is the same request before,
// ready or in work, for resultOf; and neither: drop the packet, since its answer is under way to the same address.
func (l *lookaside) claim(request []byte, peer netip.AddrPort, tcp bool, now time.Time) (mine, seen *lookasideEntry) {
	h := maphash.Bytes(l.seed, request) ^ maphash.Comparable(l.seed, host(peer))
	s := &l.shards[h%lookasideShards]
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expire(now)
	old, ok := s.byHash[h]
	switch {
	case !ok:
		e := &lookasideEntry{hash: h, request: bytes.Clone(request), peer: peer}
		s.byHash[h] = e
		return e, nil
	case !bytes.Equal(old.request, request) || host(old.peer) != host(peer):
		return &lookasideEntry{hash: h}, nil // two requests with one hash: the newcomer is served without a place
	case !old.ready && !tcp && old.peer == peer:
		return nil, nil
	}
	return nil, old
}

// finish ends the work on e.
func (l *lookaside) finish(e *lookasideEntry, o result, now time.Time) {
	s := &l.shards[e.hash%lookasideShards]
	s.mu.Lock()
	defer s.mu.Unlock()
	e.result, e.ready = o, true
	if e.done != nil {
		close(e.done)
	}
	if e.request == nil {
		return
	}
	size := e.size()
	if !o.keep || size > lookasideBytesMax/lookasideShards {
		delete(s.byHash, e.hash)
		return
	}
	e.at = now
	s.order = append(s.order, e)
	s.bytes += size
	for s.bytes > lookasideBytesMax/lookasideShards {
		s.dropOldest()
	}
}

// resultOf is that of a ready entry. For one in work it is the channel that closes when it is ready.
func (l *lookaside) resultOf(e *lookasideEntry) (o result, done <-chan struct{}) {
	s := &l.shards[e.hash%lookasideShards]
	s.mu.Lock()
	defer s.mu.Unlock()
	if e.ready {
		return e.result, nil
	}
	if e.done == nil {
		e.done = make(chan struct{})
	}
	return result{}, e.done
}

func (s *lookasideShard) expire(now time.Time) {
	for len(s.order) > 0 {
		if age := now.Sub(s.order[0].at); age >= 0 && age < lookasideTTL {
			return
		}
		s.dropOldest()
	}
}

func (s *lookasideShard) dropOldest() {
	e := s.order[0]
	s.order[0] = nil
	s.order = s.order[1:]
	s.bytes -= e.size()
	delete(s.byHash, e.hash)
}

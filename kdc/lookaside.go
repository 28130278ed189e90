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
// no reply yet. It is a matter of this node and of seconds; the replay cache is another thing (RAFT.md section 2).
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
	reply   []byte
	at      time.Time
	done    chan struct{} // made by the first who joins; closed when reply is set, or the work came to nothing
	proven  bool
	ready   bool
}

func newLookaside() *lookaside {
	l := &lookaside{seed: maphash.MakeSeed()}
	for i := range l.shards {
		l.shards[i].byHash = make(map[uint64]*lookasideEntry)
	}
	return l
}

// claim finds out what to do with a request. mine: the caller does the work and calls finish. Otherwise seen is the same request before,
// ready or in work, for replyOf; and neither: drop the packet, since its answer is under way to the same address.
func (l *lookaside) claim(request []byte, peer netip.AddrPort, tcp bool, now time.Time) (mine, seen *lookasideEntry) {
	h := maphash.Bytes(l.seed, request)
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
	case !bytes.Equal(old.request, request):
		return &lookasideEntry{hash: h}, nil // two requests with one hash: the newcomer is served without a place
	case !old.ready && !tcp && old.peer == peer:
		return nil, nil
	}
	return nil, old
}

// finish ends the work on e. The reply is kept when keep is set, and goes to those who joined in any case.
func (l *lookaside) finish(e *lookasideEntry, reply []byte, proven, keep bool, now time.Time) {
	s := &l.shards[e.hash%lookasideShards]
	s.mu.Lock()
	defer s.mu.Unlock()
	e.reply, e.proven, e.ready = reply, proven, true
	if e.done != nil {
		close(e.done)
	}
	if e.request == nil {
		return
	}
	size := len(e.request) + len(reply)
	if !keep || size > lookasideBytesMax/lookasideShards {
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

// replyOf is the reply of a ready entry, nil when its work came to nothing, and whether its sender had proved anything. For one in work it is the
// channel that closes when it is ready.
func (l *lookaside) replyOf(e *lookasideEntry) (reply []byte, proven bool, done <-chan struct{}) {
	s := &l.shards[e.hash%lookasideShards]
	s.mu.Lock()
	defer s.mu.Unlock()
	if e.ready {
		return e.reply, e.proven, nil
	}
	if e.done == nil {
		e.done = make(chan struct{})
	}
	return nil, false, e.done
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
	s.bytes -= len(e.request) + len(e.reply)
	delete(s.byHash, e.hash)
}

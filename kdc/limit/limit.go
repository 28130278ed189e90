// Package limit holds what bounds the rate of requests: token buckets by key in bounded memory, and the address prefix that counts as one sender.
//
// It owns the tables and their forgetting. It must not know what is counted, nor what happens to what is refused.
package limit

import (
	"fmt"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// Prefixes says which addresses count as one sender: an attacker has as many addresses as his prefix, and a site's clients share theirs.
type Prefixes struct {
	V4, V6 int // bits, at most 32 and 128; zero means 24 and 56
}

const v4Default, v6Default = 24, 56

// Of is the prefix of a. The zone of a link-local address is left out.
func (p Prefixes) Of(a netip.Addr) netip.Prefix {
	a = a.Unmap().WithZone("")
	bits, zero := p.V4, v4Default
	if a.Is6() {
		bits, zero = p.V6, v6Default
	}
	if bits == 0 {
		bits = zero
	}
	out, err := a.Prefix(bits)
	if err != nil {
		return netip.Prefix{} // no address: all such are one
	}
	return out
}

// Rate is how often something may happen. The zero value is no limit.
type Rate struct {
	PerSecond float64
	// Burst may happen at once. Zero means ten seconds' worth, at least 1.
	Burst int
}

const (
	shards       = 16
	burstSeconds = 10
)

// Table is a token bucket for each key. It remembers a bounded number of keys that were used lately, and as many again that were not; a key that it has forgotten has a full bucket. So who comes
// with many keys makes it forget nothing but those, and grows nothing. Safe for concurrent use. A nil Table allows everything.
type Table struct {
	limit  rate.Limit
	burst  int
	max    int // a shard's generation
	shards [shards]shard
}

type shard struct {
	mu        sync.Mutex
	cur, prev map[uint64]*rate.Limiter
}

// NewTable makes one of at most so many keys, 1 and more, or gives nil when r is no limit.
func NewTable(r Rate, keys int) *Table {
	if r.PerSecond <= 0 {
		return nil
	}
	t := &Table{limit: rate.Limit(r.PerSecond), burst: r.Burst, max: (keys + shards - 1) / shards}
	if t.burst <= 0 {
		t.burst = burstSeconds * int(r.PerSecond)
	}
	t.burst = max(t.burst, 1)
	if t.max < 1 {
		panic(fmt.Sprintf("limit: a table of %d keys", keys))
	}
	for i := range t.shards {
		t.shards[i].cur = map[uint64]*rate.Limiter{}
	}
	return t
}

// Allow takes a token of key's, and tells whether there was one. now must not step: the monotonic clock.
func (t *Table) Allow(key uint64, now time.Time) bool {
	if t == nil {
		return true
	}
	s := &t.shards[key%shards]
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.find(key)
	if l == nil {
		l = rate.NewLimiter(t.limit, t.burst)
	}
	s.use(key, l, t.max)
	return l.AllowN(now, 1)
}

// Has tells whether a token of key's is left, and takes none.
func (t *Table) Has(key uint64, now time.Time) bool {
	if t == nil {
		return true
	}
	s := &t.shards[key%shards]
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.find(key)
	return l == nil || l.TokensAt(now) >= 1
}

// Len is how many keys are remembered.
func (t *Table) Len() int {
	if t == nil {
		return 0
	}
	n := 0
	for i := range t.shards {
		s := &t.shards[i]
		s.mu.Lock()
		n += len(s.cur)
		for k := range s.prev {
			if _, again := s.cur[k]; !again {
				n++
			}
		}
		s.mu.Unlock()
	}
	return n
}

func (s *shard) find(key uint64) *rate.Limiter {
	if l, ok := s.cur[key]; ok {
		return l
	}
	return s.prev[key]
}

// use keeps l in the generation of those that were used lately.
func (s *shard) use(key uint64, l *rate.Limiter, max int) {
	if _, ok := s.cur[key]; ok {
		return
	}
	if len(s.cur) >= max {
		s.prev, s.cur = s.cur, map[uint64]*rate.Limiter{}
	}
	s.cur[key] = l
}

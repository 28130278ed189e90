package node

import (
	"math/bits"
	"sync"
	"time"

	"github.com/charon-kdc/charon/kdc"
)

// rateSeconds is how far back charon status looks.
const rateSeconds = 10

// rates counts requests by the second for charon status: fixed size, one short lock a request.
type rates struct {
	elapsed func() time.Duration // since some moment in the past

	mu    sync.Mutex
	slots [rateSeconds + 1]rateSlot // one for each second, the current one included
}

type rateSlot struct {
	second  int64
	as, tgs uint32
	// latency: by eighths of a power of two of microseconds, so that a percentile is right within 12 percent.
	latency [8 * 25]uint32
}

// newRates counts by the monotonic clock: a step of the other one would mix the seconds up.
func newRates() *rates {
	begun := time.Now()
	return &rates{elapsed: func() time.Duration { return time.Since(begun) }}
}

func (r *rates) second() int64 { return rateSeconds + 1 + int64(r.elapsed()/time.Second) }

func (r *rates) observe(e *kdc.Event) {
	if e.Dropped {
		return
	}
	second := r.second()
	b := bucketOf(e.Duration)
	r.mu.Lock()
	defer r.mu.Unlock()
	s := &r.slots[second%int64(len(r.slots))]
	if s.second != second {
		*s = rateSlot{second: second}
	}
	switch e.Type {
	case "AS":
		s.as++
	case "TGS":
		s.tgs++
	}
	s.latency[b]++
}

// read gives exchanges a second over the last ten whole seconds, and the 99th percentile of their duration.
func (r *rates) read() (as, tgs float64, p99 time.Duration) {
	current := r.second()
	var sum [len(rateSlot{}.latency)]uint32
	var nAS, nTGS, total uint32
	r.mu.Lock()
	for i := range r.slots {
		s := &r.slots[i]
		if s.second >= current || s.second < current-rateSeconds {
			continue
		}
		nAS, nTGS = nAS+s.as, nTGS+s.tgs
		for b, n := range s.latency {
			sum[b] += n
			total += n
		}
	}
	r.mu.Unlock()
	if total > 0 {
		left := total / 100
		for b := len(sum) - 1; b >= 0; b-- {
			if sum[b] > left {
				p99 = durationOf(b)
				break
			}
			left -= sum[b]
		}
	}
	return float64(nAS) / rateSeconds, float64(nTGS) / rateSeconds, p99
}

// bucketOf: 8 buckets for each doubling, from 8 us.
func bucketOf(d time.Duration) int {
	us := uint64(max(d.Microseconds(), 0))
	if us < 8 {
		return int(us)
	}
	exp := bits.Len64(us) - 4 // us>>exp is 8 to 15
	return min(8*exp+int(us>>exp), len(rateSlot{}.latency)-1)
}

// durationOf is the upper end of a bucket.
func durationOf(b int) time.Duration {
	if b < 8 {
		return time.Duration(b) * time.Microsecond
	}
	exp := b/8 - 1
	return time.Duration(uint64(b%8+8+1)<<exp-1) * time.Microsecond
}

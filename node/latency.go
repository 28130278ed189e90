package node

import (
	"slices"
	"sync"
	"time"
)

const (
	latencyKept = 1024 // writes of a group
	latencySpan = 5 * time.Minute
)

// latencies are the durable writes to the logs of the last minutes, for charon doctor: fixed size, one short lock a write.
type latencies struct {
	elapsed func() time.Duration // since some moment in the past

	mu     sync.Mutex
	groups map[string]*latencyRing
}

type latencyRing struct {
	writes [latencyKept]latencyWrite
	kept   int
	next   int
}

type latencyWrite struct{ at, took time.Duration }

func newLatencies() *latencies {
	begun := time.Now()
	return &latencies{elapsed: func() time.Duration { return time.Since(begun) }, groups: map[string]*latencyRing{"realm": {}, "replay": {}}}
}

func (l *latencies) observe(group string, d time.Duration) {
	at := l.elapsed()
	l.mu.Lock()
	defer l.mu.Unlock()
	if r := l.groups[group]; r != nil {
		r.writes[r.next] = latencyWrite{at, d}
		r.next, r.kept = (r.next+1)%latencyKept, min(r.kept+1, latencyKept)
	}
}

// read gives the 99th percentile and the longest of a group; 0 when nothing was written lately.
func (l *latencies) read(group string) (p99, longest time.Duration) {
	now := l.elapsed()
	var all []time.Duration
	l.mu.Lock()
	if r := l.groups[group]; r != nil {
		for _, w := range r.writes[:r.kept] {
			if now-w.at < latencySpan {
				all = append(all, w.took)
			}
		}
	}
	l.mu.Unlock()
	if len(all) == 0 {
		return 0, 0
	}
	slices.Sort(all)
	return all[(len(all)-1)*99/100], all[len(all)-1]
}

package peer

import (
	"sync"
	"time"
)

const (
	repeatEvery = time.Minute
	// repeatQuiet without a line makes the next one news again. Raft's longest pause between tries is about 10 s.
	repeatQuiet = 30 * time.Second
	repeatsMax  = 256
)

// Repeats keeps lines that repeat out of a log: of one key the first is news, and then one in a minute while they go on. It holds at
// most 256 keys; those beyond count as one more. The zero value is ready for use by any number of goroutines.
type Repeats struct {
	mu   sync.Mutex
	seen map[string]*repeat
}

type repeat struct {
	told, last time.Time
	left       int
}

// News tells whether a line is to be logged now, and how many of its key were left out since the last one that was.
func (r *Repeats) News(key string, now time.Time) (news bool, left int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e := r.seen[key]
	if e == nil {
		e = r.add(key, now)
	}
	quiet := now.Sub(e.last) >= repeatQuiet
	e.last = now
	if !quiet && now.Sub(e.told) < repeatEvery {
		e.left++
		return false, 0
	}
	left, e.left, e.told = e.left, 0, now
	return true, left
}

// add makes room for key, or gives the entry that all keys without room share.
func (r *Repeats) add(key string, now time.Time) *repeat {
	if len(r.seen) >= repeatsMax {
		for k, e := range r.seen {
			if now.Sub(e.last) >= repeatEvery {
				delete(r.seen, k)
			}
		}
	}
	if len(r.seen) >= repeatsMax {
		key = ""
		if e := r.seen[key]; e != nil {
			return e
		}
	}
	if r.seen == nil {
		r.seen = map[string]*repeat{}
	}
	e := &repeat{}
	r.seen[key] = e
	return e
}

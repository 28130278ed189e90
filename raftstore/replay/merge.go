package replay

import (
	"slices"
	"sort"
)

// HeldMax bounds the items that are kept beyond their time for journals to come, about 30 bytes each. Beyond it the oldest bucket goes.
const HeldMax = 1 << 20

// conflictsMax bounds the doubles that are remembered one by one, so that a journal which is submitted again is not counted again.
const conflictsMax = 1 << 12

// merging is what lets journals of nodes that were cut off meet what others accepted meanwhile, however late they come. While members are away, the
// log holds (EncodeHold): buckets that time leaves behind are not dropped but kept here. Journalled items are added to them, so
// that the journals of two nodes meet as well.
//
// Invariants: past is in ascending order of numbers, all below low, and held counts its items; nothing is in it unless holding.
type merging struct {
	holding bool
	// from is the first bucket of which everything that the log accepted is still known.
	from int64
	past []passed
	held int
	// doubles counts the authenticators that turned out to be accepted in two requests, the last one at lastDouble, in ms.
	doubles    uint64
	lastDouble int64
	conflicts  []item // those that a journal brought, in the order of the log
	maxHeld    int    // for tests; 0 means HeldMax
}

type passed struct {
	number int64
	*bucket
}

// hold begins or ends holding. The end forgets everything but the count.
func (c *cache) hold(on bool) {
	c.holding = on
	if !on {
		c.past, c.held, c.conflicts, c.from = nil, 0, nil, c.low
	}
}

// leaveBehind takes a bucket that time has passed. Buckets come in the order of their numbers.
func (c *cache) leaveBehind(number int64, b *bucket) {
	if c.holding {
		c.past = append(c.past, passed{number, b})
		c.held += b.n
	}
}

// trim keeps to the bound.
func (c *cache) trim() {
	limit := HeldMax
	if c.maxHeld > 0 {
		limit = c.maxHeld
	}
	n := 0
	for ; c.held > limit; n++ {
		c.held -= c.past[n].n
		c.from = max(c.from, c.past[n].number+1)
	}
	if n > 0 {
		c.past = slices.Delete(c.past, 0, n)
	}
}

// merge takes one item of a journal.
func (c *cache) merge(entryTime int64, p Proof) Verdict {
	c.holding = true
	number := bucketOf(p.CTime)
	if number >= c.low {
		if c.outside(entryTime, p.CTime) {
			return Stale
		}
		v := c.insert(p)
		if v == Repeat {
			c.double(p)
		}
		return v
	}
	b := c.passedBucket(number)
	r, seen := b.lookup(p.K)
	switch {
	case seen && r == p.R:
		return Same
	case seen:
		c.double(p)
		return Repeat
	case b.add(item{p.K, p.R}):
		c.held++
	}
	known := number >= c.from
	c.trim()
	if known {
		return Fresh
	}
	return Stale
}

// passedBucket finds or makes a bucket below low.
func (c *cache) passedBucket(number int64) *bucket {
	i := sort.Search(len(c.past), func(i int) bool { return c.past[i].number >= number })
	if i == len(c.past) || c.past[i].number != number {
		c.past = slices.Insert(c.past, i, passed{number, new(bucket)})
	}
	return c.past[i].bucket
}

// double counts p, whose K is known with another R, once.
func (c *cache) double(p Proof) {
	it := item{p.K, p.R}
	if slices.Contains(c.conflicts, it) {
		return
	}
	if len(c.conflicts) < conflictsMax {
		c.conflicts = append(c.conflicts, it)
	}
	c.doubles++
	c.lastDouble = c.now
}

// Holding tells whether the log keeps what it would forget.
func (s *State) Holding() bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.holding
}

// Doubles is how many authenticators turned out to be accepted in two requests, and when the last one did, in ms.
func (s *State) Doubles() (n uint64, last int64) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.doubles, s.lastDouble
}

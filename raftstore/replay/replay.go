// Package replay is the replicated replay cache: which authenticators and pre-authentication proofs the cluster has seen,
// and how often each principal failed to prove its password. It lives in memory, is changed by log entries only, and is
// written out whole as a snapshot (raftstore/DESIGN.md, "The replay state machine").
//
// It owns the format of its log entries and of its snapshot. It is deterministic: two States that applied the same entries
// write the same snapshot, byte for byte. So it must not know a clock, randomness, Raft, what a proof looks like or what a
// policy says: time is the leader's stamp in the entry, proofs come as keyed hashes, limits as numbers in the item.
package replay

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/charon-kdc/charon/internal/mutant"
)

var (
	// ErrCorrupt says that an entry or a snapshot does not pass its checks.
	ErrCorrupt = errors.New("corrupt replay state")
	// ErrTooNew says that an entry or a snapshot was written by a release that this one can't follow.
	ErrTooNew = errors.New("replay state of a newer release")
)

// Verdict is the answer to one item. The values are kdb.Verdict's.
type Verdict uint8

const (
	// Fresh: unknown until now, and now stored.
	Fresh Verdict = iota + 1
	// Same: known, from a request of the same bytes.
	Same
	// Repeat: known, from another request.
	Repeat
	// Stale: too old for the cache to tell, or too far in the future. Not stored.
	Stale
)

// Proof is one authenticator or pre-authentication proof.
type Proof struct {
	// K is the first 16 bytes of a keyed hash of the proof's ciphertext.
	K [16]byte
	// R is the first 8 bytes of a keyed hash of the request it came in.
	R [8]byte
	// CTime is the time inside the proof in seconds since the epoch. Of a failed proof, which can't be opened, it is
	// the time of its arrival.
	CTime int64
}

// Attempt is a proof of a principal's password, which is counted when it is Fresh.
type Attempt struct {
	Proof
	Principal [16]byte
	// Failed: the proof did not open under any key of the principal's. Otherwise it clears the count.
	Failed bool
	// Window in seconds: a failure more than this after the last one starts the count anew. 0: never.
	Window uint32
	// UnlockedAt in ms since the epoch: failures counted up to it are void, as readers of the count have it. 0: never unlocked.
	UnlockedAt int64
}

const (
	// SkewDefault is the largest clock skew that nodes allow until EncodeSkew's command says otherwise; SkewMax its bound.
	SkewDefault = 5 * time.Minute
	SkewMax     = time.Hour
	// Slack keeps honest proofs at the edge of the skew from becoming Stale.
	Slack = 60 * time.Second

	bucketSeconds = 2
	slackSeconds  = int64(Slack / time.Second)
	// A failed attempt is looked for in so many buckets before and after its own, since its time is that of its arrival
	// and a client's resend of the same bytes arrives later, perhaps at a node with another clock.
	resendBucketsBefore = 15
	resendBucketsAfter  = 1
)

// State is the replay cache. Readers may call from any goroutine; Apply and Restore from one at a time.
type State struct {
	mu sync.RWMutex
	cache
}

// cache is what a snapshot holds. Invariants: low never goes down; buckets[i] holds the proofs of bucket low+i, nil when
// there are none; len(buckets) is bounded by skew and slack, since nothing further ahead is stored.
type cache struct {
	now      int64 // ms, the latest leader time
	low      int64 // first bucket still held
	skew     int64 // seconds
	epoch    Epoch
	buckets  []*bucket
	items    int
	counters counters
	merging
}

// Epoch is the start of a new life of the cache after it lost track. Zero: it never did.
type Epoch struct {
	ID [16]byte
	// NotBefore in ms since the epoch: an authenticator whose time is not later is Stale, since it may have been
	// accepted before the cache lost track. Attempts are taken all the same.
	NotBefore int64
}

// New is an empty cache with SkewDefault.
func New() *State {
	s := &State{cache: cache{skew: int64(SkewDefault / time.Second)}}
	s.low = s.lowest()
	s.from = s.low
	return s
}

// bucketOf is the bucket of a time in seconds since the epoch, which may be negative.
func bucketOf(ctime int64) int64 {
	return floorDiv(ctime, bucketSeconds)
}

func floorDiv(a, b int64) int64 {
	q := a / b
	if a%b < 0 {
		q--
	}
	return q
}

// lowest is the first bucket that does not end before now - (skew + slack).
func (c *cache) lowest() int64 {
	horizon := c.now - (c.skew+slackSeconds)*1000 // a bucket b ends at (b+1) * 2000 ms
	return -floorDiv(-horizon, bucketSeconds*1000) - 1
}

// Apply applies one log entry and returns one verdict an item, proofs, attempts and journalled proofs in their order in the entry. After
// an error (ErrTooNew, ErrCorrupt) nothing of the entry is in the state, and the caller must stop the process: a replica
// that skips what others applied is worse than one that stops.
func (s *State) Apply(entry []byte) ([]Verdict, error) {
	parts, n, err := decodeEntry(entry)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	verdicts := make([]Verdict, 0, n)
	for _, p := range parts {
		s.advance(p.time)
		switch p.kind {
		case kindProofs:
			for i := range p.n {
				verdicts = append(verdicts, s.applyProof(p.time, p.proof(i)))
			}
		case kindAttempts:
			for i := range p.n {
				verdicts = append(verdicts, s.applyAttempt(p.time, p.attempt(i)))
			}
		case kindSkew:
			s.skew = p.skew()
			s.advance(p.time)
		case kindEpoch:
			if e := p.epoch(); e.NotBefore >= s.epoch.NotBefore {
				s.epoch = e
			}
		case kindJournal:
			for i := range p.n {
				verdicts = append(verdicts, s.merge(p.time, p.proof(i)))
			}
		case kindHold:
			s.hold(p.items[0] == 1)
		}
	}
	return verdicts, nil
}

// advance moves time and drops the buckets that it leaves behind.
func (c *cache) advance(leaderTime int64) {
	c.now = max(c.now, leaderTime)
	low := c.lowest()
	if low <= c.low {
		return
	}
	drop := int(min(low-c.low, int64(len(c.buckets))))
	for i, b := range c.buckets[:drop] {
		if b != nil {
			c.items -= b.n
			c.leaveBehind(c.low+int64(i), b)
		}
	}
	c.buckets = append(c.buckets[:0], c.buckets[drop:]...)
	clear(c.buckets[len(c.buckets):cap(c.buckets)])
	c.low = low
	if !c.holding {
		c.from = low
	}
	c.trim()
}

// outside tells whether a time can't be judged: before low, or too far ahead of the entry's time.
func (c *cache) outside(entryTime int64, ctime int64) bool {
	return bucketOf(ctime) < c.low || ctime > floorDiv(entryTime, 1000)+c.skew+slackSeconds
}

func (c *cache) applyProof(entryTime int64, p Proof) Verdict {
	if c.outside(entryTime, p.CTime) || c.epoch.voids(p.CTime) {
		return Stale
	}
	return c.insert(p)
}

// voids tells whether an authenticator of that time may have been accepted before the epoch.
func (e Epoch) voids(ctime int64) bool {
	return e.NotBefore > 0 && ctime <= floorDiv(e.NotBefore, 1000)
}

func (c *cache) applyAttempt(entryTime int64, a Attempt) Verdict {
	if c.outside(entryTime, a.CTime) {
		return Stale
	}
	if a.Failed {
		if v := c.seenNear(a.Proof); v != Fresh {
			return v
		}
	}
	v := c.insert(a.Proof)
	if v == Fresh || mutant.On(mutant.AttemptCountedTwice) {
		c.counters.count(a, c.now)
	}
	return v
}

// seenNear looks for a proof in the buckets around its own.
func (c *cache) seenNear(p Proof) Verdict {
	b := bucketOf(p.CTime)
	for i := b - resendBucketsBefore; i <= b+resendBucketsAfter; i++ {
		if v := c.lookup(i, p); v != Fresh {
			return v
		}
	}
	return Fresh
}

// lookup is the verdict on p by bucket number b alone; Fresh when it is not there.
func (c *cache) lookup(b int64, p Proof) Verdict {
	if b < c.low || b-c.low >= int64(len(c.buckets)) || c.buckets[b-c.low] == nil {
		return Fresh
	}
	r, seen := c.buckets[b-c.low].lookup(p.K)
	switch {
	case !seen:
		return Fresh
	case r == p.R && !mutant.On(mutant.ResendIsRepeat), mutant.On(mutant.RequestTagIgnored):
		return Same
	}
	return Repeat
}

// insert notes a proof once for the cluster. Expiry is low alone, which only the log moves.
func (c *cache) insert(p Proof) Verdict {
	b := bucketOf(p.CTime)
	if v := c.lookup(b, p); v != Fresh {
		return v
	}
	if !c.bucket(b).add(item{p.K, p.R}) {
		return Stale
	}
	c.items++
	return Fresh
}

// bucket returns bucket number b, which is not below low, making it where there is none.
func (c *cache) bucket(b int64) *bucket {
	for int64(len(c.buckets)) <= b-c.low {
		c.buckets = append(c.buckets, nil)
	}
	if c.buckets[b-c.low] == nil {
		c.buckets[b-c.low] = new(bucket)
	}
	return c.buckets[b-c.low]
}

// Contains is what this node's applied state says of a proof, without recording it. Fresh means not seen yet.
func (s *State) Contains(p Proof) Verdict {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if bucketOf(p.CTime) < s.low {
		return Stale
	}
	return s.lookup(bucketOf(p.CTime), p)
}

// Activity is what was counted for a principal; zero for one that is not known.
func (s *State) Activity(principal [16]byte) Activity {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.counters.activity(principal)
}

// Now is the latest leader time applied, in ms since the epoch.
func (s *State) Now() int64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.now
}

// Skew is the largest clock skew that a node may allow.
func (s *State) Skew() time.Duration {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return time.Duration(s.skew) * time.Second
}

// Void tells whether a proof of that time, in seconds since the epoch, may have been accepted before the cache lost track.
func (s *State) Void(ctime int64) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.epoch.voids(ctime)
}

// Epoch is the last one begun.
func (s *State) Epoch() Epoch {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.epoch
}

// Stats are for metrics.
type Stats struct {
	// Items is the number of proofs held, Buckets of the 2-second buckets that hold any, Counters of principals counted.
	Items, Buckets, Counters int
	// Low is the time, in seconds since the epoch, before which every proof is Stale.
	Low int64
	// Holding, Held, Doubles and LastDouble (ms since the epoch; 0: never): see EncodeHold and EncodeJournal.
	Holding    bool
	Held       int
	Doubles    uint64
	LastDouble int64
}

func (s *State) Stats() Stats {
	s.mu.RLock()
	defer s.mu.RUnlock()
	st := Stats{Items: s.items, Counters: s.counters.len(), Low: s.low * bucketSeconds}
	st.Holding, st.Held, st.Doubles, st.LastDouble = s.holding, s.held, s.doubles, s.lastDouble
	for _, b := range s.buckets {
		if b != nil {
			st.Buckets++
		}
	}
	return st
}

func (v Verdict) String() string {
	switch v {
	case Fresh:
		return "FRESH"
	case Same:
		return "SAME"
	case Repeat:
		return "REPEAT"
	case Stale:
		return "STALE"
	}
	return fmt.Sprintf("verdict %d", uint8(v))
}

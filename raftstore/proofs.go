package raftstore

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"sync"
	"sync/atomic"
	"time"

	"github.com/charon-kdc/charon/internal/mutant"
	"github.com/charon-kdc/charon/kdc/kdb"
	"github.com/charon-kdc/charon/kdc/kdb/masterkey"
	"github.com/charon-kdc/charon/raftstore/replay"
)

// ReplayKeyName is the cluster secret under which proofs are hashed: 32 bytes, sealed.
const ReplayKeyName = "replay-key"

const (
	// queueMax bounds the proofs of this node that wait for a verdict.
	queueMax = 20_000
	// initialMax bounds those of AS exchanges among them, so that a flood of those, which anybody can send, leaves room for TGS exchanges, which need a ticket.
	initialMax = queueMax / 2
	// framesInFlight is how many frames may be unanswered.
	framesInFlight = 4
	// successResolution: a success is counted only if the last one on record is older, or it clears failures.
	successResolution = 10 * time.Minute
)

// The states of the replay client (DESIGN.md, "The pipeline").
const (
	stateHolding = iota // no leader, or not heard of it yet
	stateReady          // verdicts arrive
	stateCutOff         // no leader or no verdict for CutOff
)

var stateNames = [...]string{stateHolding: "holding", stateReady: "ready", stateCutOff: "cut-off"}

// errDropped is what a proof gets that found the queue full: like a request that the network lost.
var errDropped = fmt.Errorf("replay queue is full: %w", context.DeadlineExceeded)

// proofs is the kdb.Proofs, and the node's side of the replay pipeline.
type proofs struct {
	s    *Store
	seen *seenSet

	keyMu  sync.Mutex
	keyGen uint64
	key    atomic.Pointer[hashKey]

	// trusted is when this node may judge authenticators alone again after it lost track of what it had accepted; zero: it did not.
	trusted time.Time
	// alone: the journal is there, so that the node may judge alone.
	alone    atomic.Bool
	reported reported

	mu      sync.Mutex
	state   int
	queue   []*pending // not sent yet, oldest first
	flight  []*sent    // unanswered frames, oldest first
	waiting int        // pendings in queue and flight
	initial int        // those of AS exchanges among them
	nextID  uint64
	again   func()    // ends the session
	up      bool      // a stream to the leader stands
	upAt    time.Time // when it last did, while it does not
	spokeAt time.Time // when a frame was last sent
	// joinedAt is the first entry that a leader committed for this process; 0: none yet.
	joinedAt uint64
	wake     chan struct{}
}

// pending is one submitted proof. It implements kdb.Pending and kdb.Tagged.
type pending struct {
	item item
	// journal: it was counted while this node was cut off, and nobody waits for it.
	journal, sent bool
	// initial: it comes from an AS exchange.
	initial bool
	// relaxable as in kdb.Proof. answered: by this node's own memory (replay = async), so nobody waits for the verdict.
	relaxable, answered bool
	at                  time.Time
	done                chan struct{}
	v                   kdb.Verdict
	err                 error
	// index of the entry with the verdict, once done; counted is the node's, patience how long it may take to get there.
	index    uint64
	counted  *watermark
	patience time.Duration
}

// sent is a frame whose answer is not in.
type sent struct {
	id      uint64
	probe   bool
	at      time.Time // of the last sending
	pending []*pending
}

func newProofs(s *Store) *proofs {
	return &proofs{
		s: s, seen: newSeenSet(2*s.cfg.ClockSkew+time.Minute, seenMax),
		upAt: time.Now(), wake: make(chan struct{}, 1),
	}
}

// Wait implements kdb.Pending.
func (p *pending) Wait(ctx context.Context) (kdb.Verdict, error) {
	select {
	case <-p.done:
		return p.result(ctx)
	default:
	}
	select {
	case <-p.done:
		return p.result(ctx)
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

// result is the verdict. That of a wrong guess waits until this node has applied the count: the next guess here is held against it.
func (p *pending) result(ctx context.Context) (kdb.Verdict, error) {
	if p.err != nil || p.counted == nil || !p.item.attempt || !p.item.Failed {
		return p.v, p.err
	}
	limited, cancel := context.WithTimeout(ctx, p.patience)
	defer cancel()
	switch err := p.counted.wait(limited, p.index); {
	case err == nil:
		return p.v, nil
	case ctx.Err() != nil:
		return 0, ctx.Err()
	}
	return 0, fmt.Errorf("%w: the replay log does not come here", kdb.ErrUnavailable)
}

// Tag implements kdb.Tagged.
func (p *pending) Tag() [8]byte { return tagOf(p.item.Proof) }

func tagOf(p replay.Proof) [8]byte { return [8]byte(p.K[:8]) }

// decided is a kdb.Pending that was decided at once.
type decided struct {
	proof replay.Proof
	v     kdb.Verdict
	err   error
}

func (d decided) Wait(context.Context) (kdb.Verdict, error) { return d.v, d.err }
func (d decided) Tag() [8]byte                              { return tagOf(d.proof) }

// Submit implements kdb.Proofs. With replay = async a relaxable proof is judged by what this node has seen, and recorded behind the answer.
func (p *proofs) Submit(proof kdb.Proof) kdb.Pending {
	pr, err := p.hash(proof)
	if err != nil {
		return decided{err: err}
	}
	if p.s.state.Void(pr.CTime) {
		return decided{pr, 0, kdb.ErrUnavailable} // not the client's fault: it may come again, or ask elsewhere
	}
	w := &pending{item: item{Attempt: replay.Attempt{Proof: pr}}, relaxable: proof.Relaxable}
	if !proof.Relaxable {
		return p.enqueue(w)
	}
	if p.s.heard.copied(pr) {
		return decided{pr, kdb.Repeat, nil} // what this node accepted alone, the leader may have yet to hear
	}
	if !p.s.cfg.AsyncReplay {
		return p.enqueue(w)
	}
	if p.s.state.Judge(pr) == replay.Stale {
		return decided{pr, kdb.Stale, nil} // by the log's time, whatever this node's clock says
	}
	if p.seen.check(pr) {
		return decided{pr, kdb.Repeat, nil}
	}
	w.answered = true
	switch q := p.enqueue(w).(type) {
	case *pending:
		return decided{pr, kdb.Unconfirmed, nil}
	default:
		return q
	}
}

// Attempt implements kdb.Proofs. A success that would change nothing goes as a plain proof.
func (p *proofs) Attempt(a kdb.Attempt) kdb.Pending {
	pr, err := p.hash(a.Proof)
	if err != nil {
		return decided{err: err}
	}
	p.seen.check(pr)
	it := item{attempt: true, Attempt: replay.Attempt{
		Proof: pr, Principal: a.Client, Failed: a.Failed, Window: wholeSeconds(a.FailureWindow),
	}}
	if !a.UnlockedAt.IsZero() {
		it.UnlockedAt = a.UnlockedAt.UnixMilli()
	}
	if !a.Failed {
		act := p.s.heard.activity(a.Client)
		it.attempt = act.Failures > 0 || p.s.Now().UnixMilli()-act.LastSuccess >= successResolution.Milliseconds()
	}
	return p.enqueue(&pending{item: it, initial: true})
}

// SeenHere implements kdb.Proofs. It notes the proof, so that of two copies that come at once only one is new; and it looks into the
// cluster's state as far as it has heard of it, which knows what other nodes saw.
func (p *proofs) SeenHere(proof kdb.Proof) bool {
	pr, err := p.hash(proof)
	if err != nil {
		return false
	}
	return p.seen.check(pr) || p.s.heard.copied(pr)
}

// Activity implements kdb.Proofs: what was applied, and what this node has heard of beyond that.
func (p *proofs) Activity(id kdb.ID) kdb.Activity {
	a := p.s.heard.activity(id)
	return kdb.Activity{Failures: a.Failures, LastFailure: millis(a.LastFailure), LastSuccess: millis(a.LastSuccess)}
}

func (p *proofs) enqueue(w *pending) kdb.Pending {
	p.mu.Lock()
	switch {
	case p.state == stateCutOff:
		p.mu.Unlock()
		w.answered = false
		v, err := p.decideAlone(w)
		return decided{w.item.Proof, v, err}
	case p.waiting >= queueMax || w.initial && p.initial >= initialMax:
		p.mu.Unlock()
		if f := p.s.cfg.Observe.ReplayDropped; f != nil {
			f()
		}
		return decided{w.item.Proof, 0, errDropped}
	}
	w.at, w.done, w.counted, w.patience = time.Now(), make(chan struct{}), p.s.counted, p.s.cfg.Timing.CutOff
	p.queue = append(p.queue, w)
	p.count(1, w)
	p.mu.Unlock()
	p.signal()
	return w
}

// count notes that ws wait from now on, or, with by -1, no more; mu is held.
func (p *proofs) count(by int, ws ...*pending) {
	p.waiting += by * len(ws)
	for _, w := range ws {
		if w.initial {
			p.initial += by
		}
	}
}

func (p *proofs) signal() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// cutOff tells whether there was no leader or no verdict for CutOff.
func (p *proofs) cutOff() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.state == stateCutOff
}

func (p *proofs) stateName() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return stateNames[p.state]
}

// caughtUp tells whether this node's replay state holds everything that was committed before a leader first answered it.
func (p *proofs) caughtUp() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.joinedAt > 0 && p.s.counted.get() >= p.joinedAt
}

// setState is called with mu held.
func (p *proofs) setState(state int) {
	if p.state == state {
		return
	}
	p.state = state
	if f := p.s.cfg.Observe.ReplayState; f != nil {
		f(stateNames[state])
	}
}

// hashKey is the replay key with a pool of keyed hashes: making one costs more than using it.
type hashKey struct{ pool sync.Pool }

func newHashKey(key []byte) *hashKey {
	return &hashKey{pool: sync.Pool{New: func() any { return hmac.New(sha256.New, key) }}}
}

func (k *hashKey) sum(out, data []byte) {
	h := k.pool.Get().(hash.Hash)
	h.Reset()
	h.Write(data)
	var buf [sha256.Size]byte
	copy(out, h.Sum(buf[:0]))
	k.pool.Put(h)
}

// hash makes K and R (DESIGN.md, "The replay state machine").
func (p *proofs) hash(proof kdb.Proof) (replay.Proof, error) {
	k := p.key.Load()
	if k == nil {
		var err error
		if k, err = p.loadKey(); err != nil {
			return replay.Proof{}, errors.Join(kdb.ErrUnavailable, err)
		}
	}
	out := replay.Proof{CTime: proof.Time.Unix()}
	if mutant.On(mutant.ProofWithoutAuthenticator) {
		proof.Ciphertext = proof.Request
	}
	k.sum(out.K[:], proof.Ciphertext)
	k.sum(out.R[:], proof.Request)
	return out, nil
}

func (p *proofs) loadKey() (*hashKey, error) {
	p.keyMu.Lock()
	gen := p.keyGen
	p.keyMu.Unlock()
	if p.s.cfg.Ring == nil {
		return nil, errors.New("no master key on this node")
	}
	sec, err := p.s.db.Secret(ReplayKeyName)
	if err != nil {
		return nil, fmt.Errorf("reading the replay key: %w", err)
	}
	plain, err := p.s.cfg.Ring.Open(masterkey.SecretAAD(p.s.identity.ClusterID[:], ReplayKeyName), sec.GetKey())
	if err != nil {
		return nil, err
	}
	if len(plain) != 32 {
		return nil, fmt.Errorf("replay key of %d bytes; want 32", len(plain))
	}
	k := newHashKey(plain)
	p.keyMu.Lock()
	defer p.keyMu.Unlock()
	if p.keyGen == gen {
		p.key.Store(k)
	}
	return k, nil
}

// forgetKey has the key read again at the next use.
func (p *proofs) forgetKey() {
	p.keyMu.Lock()
	defer p.keyMu.Unlock()
	p.keyGen++
	p.key.Store(nil)
}

// seenMax bounds each of the two generations of seenSet.
const seenMax = 1 << 19

// seenSet is this node's own memory of proofs: K to R, in two generations of one period each, or less when they fill up.
type seenSet struct {
	period time.Duration
	max    int

	mu        sync.Mutex
	cur, prev map[[16]byte][8]byte
	since     time.Time
}

func newSeenSet(period time.Duration, max int) *seenSet {
	return &seenSet{period: period, max: max, cur: map[[16]byte][8]byte{}, since: time.Now()}
}

// copied tells whether p is there with another R, and notes nothing.
func (s *seenSet) copied(p replay.Proof) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, ok := s.cur[p.K]
	if !ok {
		r, ok = s.prev[p.K]
	}
	return ok && r != p.R
}

// check notes p and tells whether it was there with another R.
func (s *seenSet) check(p replay.Proof) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now := time.Now(); now.Sub(s.since) > s.period || len(s.cur) >= s.max {
		s.prev, s.cur, s.since = s.cur, map[[16]byte][8]byte{}, now
	}
	r, ok := s.cur[p.K]
	if !ok {
		r, ok = s.prev[p.K]
	}
	if !ok {
		s.cur[p.K] = p.R
	}
	return ok && r != p.R
}

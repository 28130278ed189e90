package kdc

import (
	"context"
	"sync"
	"time"

	"github.com/charon-kdc/charon/kdc/kdb"
)

// lockedOut is MIT's rule: as many failures as the policy allows, none of them before an administrator unlocked, until the lockout has
// run out. The counter itself drops failures that lie further apart than the policy's window.
func lockedOut(p *kdb.Principal, a kdb.Activity, now time.Time) bool {
	switch {
	case p.Policy == nil || p.Policy.MaxFailures == 0 || a.Failures < p.Policy.MaxFailures:
		return false
	case !a.LastFailure.After(p.UnlockedAt):
		return false
	case p.Policy.LockoutDuration == 0:
		return true
	}
	return now.Before(a.LastFailure.Add(p.Policy.LockoutDuration))
}

// canLockOut tells whether failures of p are worth a look.
func canLockOut(p *kdb.Principal) bool { return p.Policy != nil && p.Policy.MaxFailures > 0 }

const guessShards = 64

// guesses lets one guess at a time be made at a client that can be locked out: the next one begins when the failure before it was counted.
// Guesses sent in parallel would all pass before the first of them is. (RAFT.md section 5)
type guesses struct{ shards [guessShards]guessShard }

type guessShard struct {
	mu   sync.Mutex
	busy map[kdb.ID]*guess
}

// guess is held by one; waiting counts it and those who wait. Invariant: in busy while waiting > 0.
type guess struct {
	turn    chan struct{} // one token: whoever has it guesses
	waiting int
}

func newGuesses() *guesses {
	g := &guesses{}
	for i := range g.shards {
		g.shards[i].busy = make(map[kdb.ID]*guess)
	}
	return g
}

// enter waits for the turn to guess at id; leave must be called after a nil error.
func (g *guesses) enter(ctx context.Context, id kdb.ID) (leave func(), err error) {
	s := &g.shards[id[0]%guessShards]
	s.mu.Lock()
	one, ok := s.busy[id]
	if !ok {
		one = &guess{turn: make(chan struct{}, 1)}
		s.busy[id] = one
	}
	one.waiting++
	s.mu.Unlock()
	out := func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if one.waiting--; one.waiting == 0 {
			delete(s.busy, id)
		}
	}
	select {
	case one.turn <- struct{}{}:
		return func() { <-one.turn; out() }, nil
	case <-ctx.Done():
		out()
		return nil, ctx.Err()
	}
}

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

// triesLeft is how many more failures p's policy allows, as far as the cluster's counter goes.
func triesLeft(p *kdb.Principal, a kdb.Activity, now time.Time) int {
	limit := int(p.Policy.MaxFailures)
	if !a.LastFailure.After(p.UnlockedAt) || p.Policy.FailureWindow > 0 && now.Sub(a.LastFailure) > p.Policy.FailureWindow {
		return limit
	}
	return max(0, limit-int(min(a.Failures, p.Policy.MaxFailures)))
}

const (
	guessShards = 64
	// guessWaitersMax bounds who waits for a turn at one client. Who comes when it is reached gets no reply, and will ask again.
	guessWaitersMax = 8
	// guessPatience is how long a failure's count may take before another try passes it.
	guessPatience = 250 * time.Millisecond
	// guessClientsMax bounds the clients that a shard remembers for nothing but tries which nobody could count.
	guessClientsMax = 1024
	// lostFor is how long such tries weigh on this node after the last of them.
	lostFor = time.Minute
	// nodesUsual stands for Config.Nodes where that is not set.
	nodesUsual = 3
)

// guesses admits proofs at clients that can be locked out, so that guesses sent in parallel do not all pass before the first of them
// is counted.
//
// A try is open from before the proof is looked at until it held, which is at once, or until its failure was counted, which takes as long as the
// majority does. One at a time is open at a client. So guesses sent to all nodes at once overstep the limit by at most one try a node.
//
// When the count of a failure does not come, as between leaders, a good proof shall pass it nevertheless. After
// guessPatience another try is let in, and another after that, up to this node's share of the tries that are left: each may have 1 + left/nodes open.
// Nothing is counted anywhere meanwhile, so all nodes together still keep to the same bound. A client that is so close to its limit that
// the share is nothing waits for the count, whatever its proof.
//
// Two kinds of tries have left their turn and weigh on this node alone: held ones, which are wrong as far as this node knows and wait for it to
// know, and lost ones, which nobody could count. When those have used up the limit, a node that is cut off answers neither good nor bad: it would
// tell who guesses for as long as it is alone.
type guesses struct {
	nodes  func() int
	now    func() time.Time
	shards [guessShards]guessShard
}

type guessShard struct {
	mu   sync.Mutex
	busy map[kdb.ID]*guessed
}

// guessed is one client's tries. Invariant: in busy while anything in it is not zero.
type guessed struct {
	open, held, lost int
	openAt, lostAt   time.Time // of the last of them
	waiting          int
	freed            chan struct{} // closed and replaced when a try leaves open or held
}

func newGuesses(nodes func() int, now func() time.Time) *guesses {
	if nodes == nil {
		nodes = func() int { return nodesUsual }
	}
	g := &guesses{nodes: nodes, now: now}
	for i := range g.shards {
		g.shards[i].busy = make(map[kdb.ID]*guessed)
	}
	return g
}

// turn is one open try. Exactly one of done, leave, lose and hold ends it, and heldOver ends a hold. A nil turn is that of a client which can't be locked out.
type turn struct {
	g  *guesses
	id kdb.ID
}

func (g *guesses) shard(id kdb.ID) *guessShard { return &g.shards[id[0]%guessShards] }

// enter waits for a turn at id. left tells how many failures the cluster's counter still allows; it is asked again whenever a try ended.
// kdb.ErrStale: what this node could not count has used up the limit here. silence: too many wait. waiting is called before it waits.
func (g *guesses) enter(ctx context.Context, id kdb.ID, left func() int, waiting func()) (*turn, error) {
	s := g.shard(id)
	s.mu.Lock()
	defer s.mu.Unlock()
	one := s.of(id, g.now())
	waits := false
	defer func() {
		if waits {
			one.waiting--
		}
		s.drop(id, one)
	}()
	for {
		now := g.now()
		switch ok, err := one.admits(left(), g.nodes, now); {
		case err != nil:
			return nil, err
		case ok:
			one.open, one.openAt = one.open+1, now
			return &turn{g, id}, nil
		}
		if !waits {
			if one.waiting == guessWaitersMax {
				return nil, silence{"TOO_MANY_GUESSES"}
			}
			one.waiting, waits = one.waiting+1, true
		}
		freed := one.freed
		s.mu.Unlock()
		waiting()
		err := waitTurn(ctx, freed)
		s.mu.Lock()
		if err != nil {
			return nil, err
		}
	}
}

func waitTurn(ctx context.Context, freed <-chan struct{}) error {
	patience := time.NewTimer(guessPatience)
	defer patience.Stop()
	select {
	case <-freed:
	case <-patience.C:
	case <-ctx.Done():
		return ctx.Err()
	}
	return nil
}

func (o *guessed) admits(left int, nodes func() int, now time.Time) (bool, error) {
	if o.open+o.held+o.lost == 0 {
		return true, nil // the rules said already that the client is not locked out
	}
	left -= o.held + o.lost
	switch {
	case left <= 0 && o.open+o.held == 0:
		return false, kdb.ErrStale
	case o.open == 0:
		return left > 0, nil
	case now.Sub(o.openAt) < guessPatience:
		return false, nil
	}
	return o.open < min(left, 1+left/max(nodes(), 1)), nil
}

// of is the entry of id, which the caller must drop when it is done with it.
func (s *guessShard) of(id kdb.ID, now time.Time) *guessed {
	one, ok := s.busy[id]
	if !ok {
		if len(s.busy) >= guessClientsMax {
			s.forget(now)
		}
		one = &guessed{freed: make(chan struct{})}
		s.busy[id] = one
	}
	if one.lost > 0 && now.Sub(one.lostAt).Abs() >= lostFor {
		one.lost = 0
	}
	return one
}

// forget makes room: entries that hold nothing but lost tries go, those that have run out first, and if there are none any one.
func (s *guessShard) forget(now time.Time) {
	var idle kdb.ID
	found, gone := false, false
	for id, o := range s.busy {
		switch {
		case o.open+o.held+o.waiting > 0:
		case now.Sub(o.lostAt).Abs() >= lostFor:
			delete(s.busy, id)
			gone = true
		default:
			idle, found = id, true
		}
	}
	if found && !gone {
		delete(s.busy, idle)
	}
}

func (s *guessShard) drop(id kdb.ID, o *guessed) {
	if o.open+o.held+o.lost+o.waiting == 0 {
		delete(s.busy, id)
	}
}

// change lets f change the client's tries, and those who wait look at them again.
func (t *turn) change(f func(o *guessed)) {
	if t == nil {
		return
	}
	s := t.g.shard(t.id)
	s.mu.Lock()
	defer s.mu.Unlock()
	o := s.busy[t.id]
	f(o)
	close(o.freed)
	o.freed = make(chan struct{})
	s.drop(t.id, o)
}

// lost counts a try at id that has left its turn and could not be counted.
func (g *guesses) lost(id kdb.ID) {
	s := g.shard(id)
	s.mu.Lock()
	defer s.mu.Unlock()
	o := s.of(id, g.now())
	o.lost++
	o.lostAt = g.now()
}

// done ends a try whose failure is counted. The counters can be reached, so what was lost before weighs no more.
func (t *turn) done() { t.change(func(o *guessed) { o.open--; o.lost = 0 }) }

// leave ends a try that held, or came to nothing.
func (t *turn) leave() { t.change(func(o *guessed) { o.open-- }) }

// lose ends a try whose failure nobody could count.
func (t *turn) lose() {
	t.change(func(o *guessed) { o.open--; o.lost++; o.lostAt = t.g.now() })
}

// hold takes a try out of its turn until this node knows whether it is wrong.
func (t *turn) hold() { t.change(func(o *guessed) { o.open--; o.held++ }) }

// heldOver ends a hold. lost: the node did not come to know.
func (t *turn) heldOver(lost bool) {
	t.change(func(o *guessed) {
		o.held--
		if lost {
			o.lost++
			o.lostAt = t.g.now()
		}
	})
}

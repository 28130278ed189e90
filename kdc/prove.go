package kdc

import (
	"context"
	"errors"
	"time"

	"github.com/charon-kdc/charon/internal/mutant"
	"github.com/charon-kdc/charon/kdc/kdb"
	"github.com/charon-kdc/charon/kdc/krb5"
	"github.com/charon-kdc/charon/kdc/preauth"
)

const (
	// freshPoll is how often a held reply looks whether the node's lease on its freshness is back.
	freshPoll = 10 * time.Millisecond
	// freshHoldMax is when a node is cut off rather than between leaders (raftstore/DESIGN.md, "The pipeline").
	freshHoldMax = 3 * time.Second
)

// proved is the outcome of pre-authentication. The zero value proves nothing.
type proved struct {
	by       preauth.Mechanism // nil: nothing was proved
	hardware bool
}

// flags is the one place where PRE-AUTHENT and HW-AUTHENT come from.
func (p proved) flags() krb5.TicketFlags {
	switch {
	case p.by == nil:
		return 0
	case p.hardware:
		return krb5.FlagPreAuthent | krb5.FlagHWAuthent
	}
	return krb5.FlagPreAuthent
}

// checkProof refuses a ticket to whom it asks more proof of than there was. Client and service may both ask.
func checkProof(f *asFacts, p proved) error {
	need := f.client.Attributes | f.server.Attributes
	status := ""
	switch {
	case need.Has(kdb.RequiresPreAuth) && !p.flags().Has(krb5.FlagPreAuthent):
		status = "NEEDED_PREAUTH"
	case need.Has(kdb.RequiresHWAuth) && !p.flags().Has(krb5.FlagHWAuthent):
		status = "NEEDED_HW_PREAUTH"
	default:
		return nil
	}
	return withMethodData(f, refused(krb5.ErrPreauthRequired, status))
}

// withMethodData tells the client how to do better (RFC 4120 section 5.9.1).
func withMethodData(f *asFacts, e *krb5.Error) error {
	md, err := methodData(f)
	if err != nil {
		return err
	}
	e.EData = md
	return e
}

// errAgain asks for the proof to be looked at again: the client it was held against is no longer the newest.
var errAgain = errors.New("the client has changed")

// proveAS verifies the one proof a request is allowed. One that holds is answered at once; one that does not waits where it has to: until
// this node is sure that it knows the newest password, and until the failure is counted.
func (s *Server) proveAS(ctx context.Context, q *request, f *asFacts) (proved, error) {
	m, pa := findProof(q.msg.PAData)
	if m == nil {
		return proved{}, nil
	}
	if err := s.limits.mayTry(q, s.cfg.Elapsed()); err != nil {
		return proved{}, err
	}
	for again := false; ; again = true {
		p, err := s.try(ctx, q, f, m, pa, again)
		if !errors.Is(err, errAgain) {
			return p, err
		}
	}
}

// try looks at the proof once, in the client's turn, and leaves the turn where it would wait for freshness.
func (s *Server) try(ctx context.Context, q *request, f *asFacts, m preauth.Mechanism, pa krb5.PAData, again bool) (proved, error) {
	id := f.client.ID
	t, err := s.takeTurn(ctx, q, f)
	if err != nil {
		if again && canLockOut(f.client) {
			s.guesses.lost(id)
		}
		return proved{}, err
	}
	end := t.leave
	defer func() { end() }()
	if t != nil || again {
		// What was read before the wait may be old: whoever was before us may have been the last allowed, the password may be another.
		if err := s.readAS(f); err != nil {
			return proved{}, err
		}
		if err := checkASRules(f); err != nil {
			return proved{}, err
		}
		if f.client.ID != id || t == nil && canLockOut(f.client) {
			return proved{}, errAgain // this is not the turn for it
		}
	}
	proof, err := m.Verify(&preauth.Exchange{Client: f.client, Now: f.now, Skew: f.skew}, pa)
	if err == nil {
		return s.proven(q, f, m, proof)
	}
	e, ok := errors.AsType[*krb5.Error](err)
	switch {
	case !ok:
		return proved{}, err
	case !f.fresh && !s.cfg.Store.Degraded() && e.Code != krb5.ErrSkew: // wrong, as far as this node knows
		if proof.Seen != nil {
			t.hold()
			end = func() { t.heldOver(true) }
		} else {
			t.leave()
			end = func() {}
		}
		if err := s.waitFresh(ctx, q); err != nil {
			return proved{}, err
		}
		if proof.Seen != nil {
			end = func() { t.heldOver(false) }
		}
		return proved{}, errAgain
	case proof.Seen != nil:
		s.limits.failed(q, s.cfg.Elapsed())
		end = t.lose
		if err := s.count(ctx, q, f, proof); err != nil {
			return proved{}, err
		}
		end = t.done
	}
	if e.Code == krb5.ErrPreauthFailed {
		return proved{}, withMethodData(f, &krb5.Error{Code: e.Code, Status: e.Status, Err: e.Err})
	}
	return proved{}, e
}

func (s *Server) takeTurn(ctx context.Context, q *request, f *asFacts) (*turn, error) {
	if !canLockOut(f.client) {
		return nil, nil
	}
	return s.guesses.enter(ctx, f.client.ID, func() int {
		return triesLeft(f.client, s.cfg.Proofs.Activity(f.client.ID), f.stateNow)
	}, q.waits)
}

// proven is a proof that holds, unless it is a copy.
func (s *Server) proven(q *request, f *asFacts, m preauth.Mechanism, proof preauth.Proof) (proved, error) {
	q.proven, q.ev.PreAuth = true, m.Name()
	p := kdb.Proof{Ciphertext: proof.Seen, Request: q.Data, Time: proof.Time}
	if s.cfg.Proofs.SeenHere(p) {
		q.ev.Replay = "local"
		return proved{}, refused(krb5.ErrRepeat, "REPEAT")
	}
	s.cfg.Proofs.Attempt(attempt(f, p, false)) // a good proof does not wait for its record
	return proved{by: m, hardware: proof.Hardware}, nil
}

// fresh tells whether this node surely knows all that was acknowledged before, and remembers since when it does not. What is read after it was
// true is the newest there is; what was read before may not be.
func (s *Server) fresh() bool {
	if s.cfg.Store.Fresh() {
		if s.staleSince.Load() != nil {
			s.staleSince.Store(nil)
		}
		return true
	}
	now := s.cfg.Elapsed()
	s.staleSince.CompareAndSwap(nil, &now)
	return false
}

// waitFresh holds a reply until the node's lease on its freshness is back, or the node is to answer without: freshHoldMax from when it was lost, not
// from when the request came.
func (s *Server) waitFresh(ctx context.Context, q *request) error {
	q.waits()
	left := freshHoldMax
	if since := s.staleSince.Load(); since != nil {
		left -= s.cfg.Elapsed().Sub(*since)
	}
	cutOff := time.NewTimer(left)
	defer cutOff.Stop()
	poll := time.NewTicker(freshPoll)
	defer poll.Stop()
	for !s.fresh() && !s.cfg.Store.Degraded() {
		if left <= 0 {
			return kdb.ErrStale
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-cutOff.C:
			return kdb.ErrStale
		case <-poll.C:
		}
	}
	return nil
}

// count counts a wrong guess before anyone hears of it.
func (s *Server) count(ctx context.Context, q *request, f *asFacts, proof preauth.Proof) error {
	a := attempt(f, kdb.Proof{Ciphertext: proof.Seen, Request: q.Data, Time: f.stateNow}, true)
	counted := s.cfg.Proofs.Attempt(a)
	if mutant.On(mutant.GuessNotAwaited) {
		return nil
	}
	q.waits()
	switch v, err := counted.Wait(ctx); {
	case err != nil:
		return err
	case v == kdb.Stale: // this node's idea of the log's time is far off, and the failure stands nowhere
		return kdb.ErrStale
	}
	q.ev.Failures = s.cfg.Proofs.Activity(f.client.ID).Failures
	if f.client.Policy != nil {
		q.ev.FailuresMax = f.client.Policy.MaxFailures
	}
	return nil
}

func attempt(f *asFacts, p kdb.Proof, failed bool) kdb.Attempt {
	a := kdb.Attempt{Proof: p, Client: f.client.ID, Failed: failed, UnlockedAt: f.client.UnlockedAt}
	if f.client.Policy != nil {
		a.FailureWindow = f.client.Policy.FailureWindow
	}
	return a
}

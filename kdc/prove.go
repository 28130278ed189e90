package kdc

import (
	"context"
	"errors"
	"time"

	"github.com/charon-kdc/charon/kdc/kdb"
	"github.com/charon-kdc/charon/kdc/krb5"
	"github.com/charon-kdc/charon/kdc/preauth"
)

const (
	// freshPoll is how often a held reply looks whether the node's lease on its freshness is back.
	freshPoll = 10 * time.Millisecond
	// freshHoldMax is when a node is cut off rather than between leaders (RAFT.md section 5).
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

// proveAS verifies the one proof a request is allowed. It waits where the answer to a wrong one has to: until it is counted, and
// until this node is sure that it knows the newest password.
func (s *Server) proveAS(ctx context.Context, q *request, f *asFacts) (proved, error) {
	m, pa := findProof(q.msg.PAData)
	if m == nil {
		return proved{}, nil
	}
	if canLockOut(f.client) {
		leave, err := s.guesses.enter(ctx, f.client.ID)
		if err != nil {
			return proved{}, err
		}
		defer leave()
		f.activity = s.cfg.Proofs.Activity(f.client.ID) // whoever was before us may have been the last allowed
		if err := checkASRules(f); err != nil {
			return proved{}, err
		}
	}
	proof, err := s.verify(ctx, f, m, pa)
	if err != nil {
		return proved{}, s.wrong(ctx, q, f, proof, err)
	}
	q.proven, q.ev.PreAuth = true, m.Name()
	p := kdb.Proof{Ciphertext: proof.Seen, Request: q.Data, Time: proof.Time}
	if s.cfg.Proofs.SeenHere(p) {
		q.ev.Replay = "local"
		return proved{}, refused(krb5.ErrRepeat, "REPEAT")
	}
	s.cfg.Proofs.Attempt(attempt(f, p, false)) // a good proof does not wait for its record
	return proved{by: m, hardware: proof.Hardware}, nil
}

// verify tries the proof; when it is wrong while this node may not know the newest password, it waits for the node to be sure and tries again.
func (s *Server) verify(ctx context.Context, f *asFacts, m preauth.Mechanism, pa krb5.PAData) (preauth.Proof, error) {
	for {
		fresh := s.cfg.Store.Fresh() // before the keys are looked at: what was fresh then is what was tried
		proof, err := m.Verify(&preauth.Exchange{Client: f.client, Now: f.now, Skew: f.skew}, pa)
		if e, ok := errors.AsType[*krb5.Error](err); fresh || err == nil || ok && e.Code == krb5.ErrSkew {
			return proof, err
		}
		if err := s.waitFresh(ctx); err != nil {
			return preauth.Proof{}, err
		}
		if err := s.readClient(f); err != nil {
			return preauth.Proof{}, err
		}
		if err := checkASRules(f); err != nil {
			return preauth.Proof{}, err
		}
	}
}

// waitFresh holds a reply until the node's lease on its freshness is back.
func (s *Server) waitFresh(ctx context.Context) error {
	cutOff := time.NewTimer(freshHoldMax)
	defer cutOff.Stop()
	poll := time.NewTicker(freshPoll)
	defer poll.Stop()
	for !s.cfg.Store.Fresh() {
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

// wrong counts a wrong guess before anyone hears of it, and words the refusal.
func (s *Server) wrong(ctx context.Context, q *request, f *asFacts, proof preauth.Proof, cause error) error {
	e, ok := errors.AsType[*krb5.Error](cause)
	if !ok {
		return cause
	}
	if proof.Seen != nil {
		a := attempt(f, kdb.Proof{Ciphertext: proof.Seen, Request: q.Data, Time: f.now}, true)
		if _, err := s.cfg.Proofs.Attempt(a).Wait(ctx); err != nil {
			return err
		}
		q.ev.Failures = s.cfg.Proofs.Activity(f.client.ID).Failures
		if f.client.Policy != nil {
			q.ev.FailuresMax = f.client.Policy.MaxFailures
		}
	}
	if e.Code == krb5.ErrPreauthFailed {
		return withMethodData(f, &krb5.Error{Code: e.Code, Status: e.Status, Err: e.Err})
	}
	return e
}

func attempt(f *asFacts, p kdb.Proof, failed bool) kdb.Attempt {
	a := kdb.Attempt{Proof: p, Client: f.client.ID, Failed: failed, UnlockedAt: f.client.UnlockedAt}
	if f.client.Policy != nil {
		a.FailureWindow = f.client.Policy.FailureWindow
	}
	return a
}

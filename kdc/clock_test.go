package kdc

import (
	"testing"
	"time"

	"github.com/charon-kdc/charon/kdc/kdb"
	"github.com/charon-kdc/charon/kdc/krb5"
)

// A node's clock that jumps ahead ends no lockout: those are held by the log's time.
func TestLockoutEndsByTheLogsTime(t *testing.T) {
	state := testNow
	w := newWorld(t, func(c *Config) { c.StateNow = func() time.Time { return state } })
	w.proofs.now = func() time.Time { return state }
	w.user("alice").Policy = &kdb.Policy{MaxFailures: 1, LockoutDuration: time.Hour}
	code := func(password string) krb5.ErrorCode {
		t.Helper()
		b := w.kdc.Answer(t.Context(), Request{Data: w.asReq(asReq{client: "alice", password: password}), Peer: testPeer, TCP: true})
		if e, err := krb5.DecodeKRBError(b); err == nil {
			return e.ErrorCode
		}
		return 0
	}
	if got := code("wrong"); got != krb5.ErrPreauthFailed {
		t.Fatal(got)
	}
	w.pass(2 * time.Hour) // the node's clock alone
	if got := code("pw-alice"); got != krb5.ErrClientRevoked {
		t.Errorf("the node's clock jumped two hours, the log's time did not: %v", got)
	}
	state = state.Add(2 * time.Hour)
	if got := code("pw-alice"); got != 0 {
		t.Errorf("the lockout is over: %v", got)
	}
}

// A failure that the log calls stale was not counted, so nobody hears of it: else a node whose time is wrong would let guesses go uncounted.
func TestUncountedFailureIsNotAnswered(t *testing.T) {
	w := newWorld(t)
	w.user("alice")
	w.proofs.answer = func() (kdb.Verdict, error) { return kdb.Stale, nil }
	b := w.kdc.Answer(t.Context(), Request{Data: w.asReq(asReq{client: "alice", password: "wrong"}), Peer: testPeer, TCP: true})
	if e, err := krb5.DecodeKRBError(b); err != nil || e.ErrorCode != krb5.ErrSvcUnavailable {
		t.Errorf("%s, want KDC_ERR_SVC_UNAVAILABLE", describe(b))
	}
}

// What measures how long something takes is no business of the wall clock: a year's step, either way, makes no duration of a year and keeps nobody waiting.
func TestDurationsStandAboveTheWallClock(t *testing.T) {
	mono := time.Unix(5000, 0)
	w := newWorld(t, func(c *Config) { c.Elapsed = func() time.Time { return mono } })
	w.user("alice")
	for _, step := range []time.Duration{365 * 24 * time.Hour, -2 * 365 * 24 * time.Hour} {
		w.pass(step)
		b := w.kdc.Answer(t.Context(), Request{Data: w.asReq(asReq{client: "alice", password: "pw-alice"}), Peer: testPeer, TCP: true})
		if _, err := krb5.DecodeKDCRep(b); err != nil {
			t.Fatalf("after a step of %v: %s", step, describe(b))
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, e := range w.events {
		if e.Duration != 0 || e.ReplayWait != 0 {
			t.Errorf("%s took %v, waited %v", e.Status, e.Duration, e.ReplayWait)
		}
	}
}

package kdc

import (
	"testing"

	"github.com/charon-kdc/charon/kdc/kdb"
	"github.com/charon-kdc/charon/kdc/krb5"
)

// TestCutOffNodeAnswers: a node that serves without the others says what it knows at once, wrong passwords included, and never that somebody does not exist.
func TestCutOffNodeAnswers(t *testing.T) {
	w := newWorld(t)
	w.user("alice")
	w.princ("HTTP/web")
	w.store.change("alice", func(p *kdb.Principal) { p.Policy = &kdb.Policy{MaxFailures: 2} })
	w.store.cutOff()

	tgt := w.login(asReq{client: "alice"})
	if ev := w.lastEvent(); !ev.Degraded || ev.Status != "ISSUE" {
		t.Errorf("event of a ticket: %+v", ev)
	}
	w.wantRefusal(w.send(w.asReq(asReq{client: "nobody"})), krb5.ErrSvcUnavailable, "STATE_STALE")
	w.wantRefusal(w.send(w.tgsReq(tgsReq{tgt: tgt, server: "HTTP/none"})), krb5.ErrSvcUnavailable, "STATE_STALE")
	for i := range 2 {
		w.wantRefusal(w.send(w.asReq(asReq{client: "alice", password: "wrong"})), krb5.ErrPreauthFailed, "PREAUTH_FAILED")
		if ev := w.lastEvent(); ev.Failures != uint32(i+1) {
			t.Errorf("guess %d: %d failures", i, ev.Failures)
		}
	}
	w.wantRefusal(w.send(w.asReq(asReq{client: "alice"})), krb5.ErrClientRevoked, "LOCKED_OUT")
}

// TestCutOffNodeJudgesAlone: what the node's own memory says of an authenticator is answered, and told apart from what the cluster says.
func TestCutOffNodeJudgesAlone(t *testing.T) {
	w := newWorld(t)
	w.user("alice")
	w.princ("HTTP/web")
	r := tgsReq{tgt: w.login(asReq{client: "alice"}), server: "HTTP/web"}
	w.store.cutOff()
	for _, c := range []struct {
		verdict kdb.Verdict
		err     error
		code    krb5.ErrorCode
		status  string
		replay  string
	}{
		{kdb.Unconfirmed, nil, 0, "", "unconfirmed"},
		{kdb.Repeat, nil, krb5.ErrRepeat, "REPEAT", "repeat"},
		{kdb.Stale, nil, krb5.ErrSkew, "STALE", "stale"},
		{0, kdb.ErrUnavailable, krb5.ErrSvcUnavailable, "NO_QUORUM", "unavailable"},
	} {
		w.proofs.answer = func() (kdb.Verdict, error) { return c.verdict, c.err }
		reply := w.send(w.tgsReq(r))
		if c.code == 0 {
			w.openTGS(reply, r)
		} else {
			w.wantRefusal(reply, c.code, c.status)
		}
		if ev := w.lastEvent(); ev.Replay != c.replay || !ev.Degraded {
			t.Errorf("%v: event %+v", c.verdict, ev)
		}
	}
	if !w.proofs.relaxable {
		t.Error("a TGS authenticator is not relaxable")
	}
}

// TestHeldGuessIsAnsweredWhenCutOff: a wrong password that waits for freshness is counted and answered once the node is to serve alone.
func TestHeldGuessIsAnsweredWhenCutOff(t *testing.T) {
	w := newWorld(t)
	id := w.user("alice").ID
	w.store.setStale(true)
	held := w.answers([]*Server{w.kdc}, w.wrongs(1)...)
	waitFor(t, func() bool { return w.kdc.staleSince.Load() != nil })
	select {
	case b := <-held:
		t.Fatalf("answered by a node that may not know: %s", describe(b))
	default:
	}
	w.store.cutOff()
	w.wantRefusal(<-held, krb5.ErrPreauthFailed, "PREAUTH_FAILED")
	if got := w.proofs.Activity(id).Failures; got != 1 {
		t.Errorf("%d failures", got)
	}
}

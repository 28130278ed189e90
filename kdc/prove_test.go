package kdc

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/charon-kdc/charon/kdc/kdb"
	"github.com/charon-kdc/charon/kdc/krb5"
	"github.com/charon-kdc/charon/kdc/krb5/kcrypto"
)

// TestCVE_2015_2694_PreauthBypass is the class of MIT's bypass: the truth table of who asks for a proof and what is sent. A ticket where one
// was asked for needs a good proof, and only a good proof gives PRE-AUTHENT.
func TestCVE_2015_2694_PreauthBypass(t *testing.T) {
	w := newWorld(t)
	w.user("alice")
	w.princ("HTTP/web")
	right, wrong := w.user("alice").Keys[2].Key, mustKey(t, kcrypto.AES256SHA1, "wrong")
	junk := func(pt krb5.PADataType, v string) krb5.PAData {
		return krb5.PAData{PADataType: pt, PADataValue: []byte(v)}
	}
	tgt := w.login(asReq{client: "alice"})
	sent := []struct {
		name   string
		pas    func() []krb5.PAData
		proves bool
		tries  bool // a proof is there and wrong: refused, whoever asks
	}{
		{"nothing", func() []krb5.PAData { return nil }, false, false},
		{"empty PA-ENC-TIMESTAMP", func() []krb5.PAData { return []krb5.PAData{junk(krb5.PAEncTimestamp, "")} }, false, true},
		{"PA-ENC-TIMESTAMP that is no EncryptedData", func() []krb5.PAData { return []krb5.PAData{junk(krb5.PAEncTimestamp, "\x30\x00")} }, false, true},
		{"right", func() []krb5.PAData { return []krb5.PAData{w.encTimestampWith(right, w.now())} }, true, false},
		{"wrong", func() []krb5.PAData { return []krb5.PAData{w.encTimestampWith(wrong, w.now())} }, false, true},
		{"right but old", func() []krb5.PAData { return []krb5.PAData{w.encTimestampWith(right, w.now().Add(-time.Hour))} }, false, true},
		{"wrong, then right", func() []krb5.PAData {
			return []krb5.PAData{w.encTimestampWith(wrong, w.now()), w.encTimestampWith(right, w.now())}
		}, false, true},
		{"right, then wrong", func() []krb5.PAData {
			return []krb5.PAData{w.encTimestampWith(right, w.now()), w.encTimestampWith(wrong, w.now())}
		}, true, false},
		{"PA-PK-AS-REQ", func() []krb5.PAData { return []krb5.PAData{junk(krb5.PAPKASReq, "\x30\x00")} }, false, false},
		{"PA-SPAKE", func() []krb5.PAData { return []krb5.PAData{junk(krb5.PASPAKE, "\xa0\x00")} }, false, false},
		{"PA-ENCRYPTED-CHALLENGE out of armor", func() []krb5.PAData { return []krb5.PAData{junk(krb5.PAEncryptedChallenge, "\x30\x00")} }, false, false},
		{"PA-FX-FAST", func() []krb5.PAData { return []krb5.PAData{junk(krb5.PAFXFast, "\xa0\x00")} }, false, false},
		{"PA-FX-COOKIE", func() []krb5.PAData { return []krb5.PAData{junk(krb5.PAFXCookie, "MIT")} }, false, false},
		{"PA-REQ-ENC-PA-REP", func() []krb5.PAData { return []krb5.PAData{junk(krb5.PAReqEncPARep, "")} }, false, false},
		{"PA-TGS-REQ", func() []krb5.PAData {
			m, _ := krb5.DecodeKDCReq(w.tgsReq(tgsReq{tgt: tgt, server: "HTTP/web"}))
			return m.PAData
		}, false, false},
		{"type 0", func() []krb5.PAData { return []krb5.PAData{junk(0, "")} }, false, false},
		{"type -1", func() []krb5.PAData { return []krb5.PAData{junk(-1, "x")} }, false, false},
	}
	for _, s := range sent {
		for bits := range 16 {
			clientPre, clientHW, serverPre, serverHW := bits&1 != 0, bits&2 != 0, bits&4 != 0, bits&8 != 0
			w.store.change("alice", func(p *kdb.Principal) { p.Attributes = ask(clientPre, clientHW) })
			w.store.change("HTTP/web", func(p *kdb.Principal) { p.Attributes = ask(serverPre, serverHW) })
			reply := w.send(w.asReq(asReq{client: "alice", server: "HTTP/web", etypes: []kcrypto.EType{18}, edit: func(m *krb5.KDCReq) { m.PAData = s.pas() }}))
			issued := !s.tries && !clientHW && !serverHW && (s.proves || !clientPre && !serverPre)
			what := fmt.Sprintf("%s; client asks %v/%v, service %v/%v", s.name, clientPre, clientHW, serverPre, serverHW)
			if !issued {
				if _, err := krb5.DecodeKRBError(reply); err != nil {
					t.Errorf("%s: %s", what, describe(reply))
				}
				continue
			}
			if c := w.openAS(reply, right); c.part.Flags.Has(krb5.FlagPreAuthent) != s.proves || c.part.Flags.Has(krb5.FlagHWAuthent) {
				t.Errorf("%s: flags %v", what, c.part.Flags)
			}
		}
	}
}

func ask(pre, hw bool) (a kdb.Attributes) {
	if pre {
		a |= kdb.RequiresPreAuth
	}
	if hw {
		a |= kdb.RequiresHWAuth
	}
	return a
}

func mustKey(t *testing.T, e kcrypto.EType, password string) *kcrypto.Key {
	k, err := testStringToKey(e, password, "")
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// TestOneGuessARequest: MIT tries each of several timestamps, so 80 guesses did not lock an account with three.
func TestOneGuessARequest(t *testing.T) {
	w := newWorld(t)
	p := w.user("alice")
	p.Policy = &kdb.Policy{MaxFailures: 3}
	for n := range 5 {
		reply := w.send(w.asReq(asReq{client: "alice", etypes: []kcrypto.EType{18}, edit: func(m *krb5.KDCReq) {
			for i := range 80 {
				m.PAData = append(m.PAData, w.encTimestampWith(mustKey(t, kcrypto.AES256SHA1, fmt.Sprint(n, i)), w.now()))
			}
			m.PAData = append(m.PAData, w.encTimestampWith(p.Keys[2].Key, w.now()))
		}}))
		want := krb5.ErrPreauthFailed
		if n >= 3 {
			want = krb5.ErrClientRevoked
		}
		if e := w.refusalOf(reply); e.ErrorCode != want {
			t.Fatalf("request %d: %s", n, describe(reply))
		}
	}
	if got := w.proofs.Activity(p.ID).Failures; got != 3 {
		t.Fatalf("%d failures counted", got)
	}
}

// TestFailureIsCountedBeforeItsReply, and a good login does not wait for its record.
func TestFailureIsCountedBeforeItsReply(t *testing.T) {
	w := newWorld(t)
	w.user("alice")
	w.proofs.hold = make(chan struct{})
	w.login(asReq{client: "alice"})

	replied := make(chan []byte)
	go func() { replied <- w.send(w.asReq(asReq{client: "alice", password: "wrong"})) }()
	waitFor(t, func() bool { w.proofs.mu.Lock(); defer w.proofs.mu.Unlock(); return len(w.proofs.attempts) == 2 })
	select {
	case b := <-replied:
		t.Fatalf("a reply before the count: %s", describe(b))
	default:
	}
	close(w.proofs.hold)
	w.wantRefusal(<-replied, krb5.ErrPreauthFailed, "PREAUTH_FAILED")
}

// TestFailureThatCannotBeCounted gets no PREAUTH_FAILED: not when the node is cut off, and not when the caller gives up.
func TestFailureThatCannotBeCounted(t *testing.T) {
	w := newWorld(t)
	w.user("alice")
	w.proofs.answer = func() (kdb.Verdict, error) { return 0, kdb.ErrUnavailable }
	w.wantRefusal(w.send(w.asReq(asReq{client: "alice", password: "wrong"})), krb5.ErrSvcUnavailable, "NO_QUORUM")

	w.proofs.answer, w.proofs.hold = nil, make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if b := w.kdc.Answer(ctx, Request{Data: w.asReq(asReq{client: "alice", password: "wrong"}), Peer: testPeer}); b != nil {
		t.Fatalf("%s", describe(b))
	}
	if ev := w.lastEvent(); !ev.Dropped || ev.Status != "HELD_TOO_LONG" {
		t.Fatalf("event %+v", ev)
	}
}

// TestStaleNodeHoldsPreauthFailed: a node that may not know the newest password holds its answer, and tries again with what it learns.
func TestStaleNodeHoldsPreauthFailed(t *testing.T) {
	w := newWorld(t)
	w.user("alice")
	w.store.setStale(true)
	w.login(asReq{client: "alice"}) // the old password still does: nobody said otherwise here

	replied := make(chan []byte)
	b := w.asReq(asReq{client: "alice", password: "new"})
	go func() { replied <- w.send(b) }()
	select {
	case b := <-replied:
		t.Fatalf("answered while stale: %s", describe(b))
	case <-time.After(5 * freshPoll):
	}
	w.store.change("alice", func(p *kdb.Principal) { p.KVNO = 2; w.keys(p, "new", allAES...) })
	w.store.setStale(false)
	if rep, err := krb5.DecodeKDCRep(<-replied); err != nil || rep.EncPart.KVNO != 2 {
		t.Fatalf("after the password arrived: %v", err)
	}
	w.proofs.mu.Lock()
	defer w.proofs.mu.Unlock()
	for _, a := range w.proofs.attempts {
		if a.Failed {
			t.Fatal("the held attempt was counted as a failure")
		}
	}
}

// TestStaleNodeDisabledMeanwhile: what the wait brings may as well be that the client is gone.
func TestStaleNodeDisabledMeanwhile(t *testing.T) {
	w := newWorld(t)
	w.user("alice")
	w.store.setStale(true)
	replied := make(chan []byte)
	b := w.asReq(asReq{client: "alice", password: "wrong"})
	go func() { replied <- w.send(b) }()
	w.store.change("alice", func(p *kdb.Principal) { p.Attributes |= kdb.DisallowAllTix })
	w.store.setStale(false)
	e := w.refusalOf(<-replied)
	if e.ErrorCode != krb5.ErrClientRevoked {
		t.Fatalf("%v", e.ErrorCode)
	}
}

// TestStaleNodeUnknownPrincipal: "unknown" is a word for nodes that know.
func TestStaleNodeUnknownPrincipal(t *testing.T) {
	w := newWorld(t)
	w.user("alice")
	tgt := w.login(asReq{client: "alice"})
	w.store.setStale(true)
	w.wantRefusal(w.send(w.asReq(asReq{client: "nobody"})), krb5.ErrSvcUnavailable, "STATE_STALE")
	w.wantRefusal(w.send(w.asReq(asReq{client: "alice", server: "HTTP/new"})), krb5.ErrSvcUnavailable, "STATE_STALE")
	w.wantRefusal(w.send(w.tgsReq(tgsReq{tgt: tgt, server: "HTTP/new"})), krb5.ErrSvcUnavailable, "STATE_STALE")
}

// TestCopiedProof: an encrypted timestamp in another request is refused at this node, also from another address (MIT, Heimdal and Samba accept it).
func TestCopiedProof(t *testing.T) {
	w := newWorld(t)
	w.user("alice")
	b := w.asReq(asReq{client: "alice", password: "pw-alice"})
	if _, err := krb5.DecodeKDCRep(w.send(b)); err != nil {
		t.Fatal(err)
	}
	m, err := krb5.DecodeKDCReq(b)
	if err != nil {
		t.Fatal(err)
	}
	m.ReqBody.Nonce++
	other, err := krb5.EncodeKDCReq(m)
	if err != nil {
		t.Fatal(err)
	}
	w.wantRefusal(w.send(other), krb5.ErrRepeat, "REPEAT")
	if ev := w.lastEvent(); ev.Replay != "local" || ev.PreAuth != "enc-ts" {
		t.Fatalf("event %+v", ev)
	}
}

// TestAttemptCarriesPolicy: counting happens elsewhere, with what is handed over here.
func TestAttemptCarriesPolicy(t *testing.T) {
	w := newWorld(t)
	p := w.user("alice")
	p.Policy, p.UnlockedAt = &kdb.Policy{MaxFailures: 9, FailureWindow: time.Hour}, testNow.Add(-time.Minute)
	w.send(w.asReq(asReq{client: "alice", password: "wrong"}))
	a := w.proofs.attempts[0]
	if !a.Failed || a.Client != p.ID || a.FailureWindow != time.Hour || !a.UnlockedAt.Equal(p.UnlockedAt) || len(a.Ciphertext) == 0 || len(a.Request) == 0 || a.Time.IsZero() {
		t.Fatalf("%+v", a)
	}
	w.login(asReq{client: "alice"})
	if a := w.proofs.attempts[1]; a.Failed || a.Client != p.ID || !a.Time.Equal(testNow) {
		t.Fatalf("%+v", a)
	}
}

// waitFor polls until ok.
func waitFor(t testing.TB, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("waited in vain")
		}
	}
}

var errBroken = errors.New("disk on fire at /secret/place")

package kdc

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/charon-kdc/charon/kdc/kdb"
	"github.com/charon-kdc/charon/kdc/krb5"
)

// TestNoAnswerToAnAnswer: CVE-2002-2443. Two KDCs that are pointed at each other fall silent.
func TestNoAnswerToAnAnswer(t *testing.T) {
	w := newWorld(t)
	w.user("alice")
	good := w.asReq(asReq{client: "alice"})
	refusal := w.send(good)
	w.refusalOf(refusal)
	rep := w.send(w.asReq(asReq{client: "alice", password: "pw-alice"}))
	for _, c := range []struct {
		name string
		data []byte
		port uint16
	}{
		{"KRB-ERROR", refusal, 40000}, {"AS-REP", rep, 40000}, {"nothing", nil, 40000}, {"an octet", []byte{0x6a}, 40000},
		{"text", []byte("GET / HTTP/1.1\r\n"), 40000}, {"AP-REQ", []byte{0x6e, 0}, 40000},
		{"from port 88", good, 88}, {"from port 464", good, 464}, {"too long", append(good[:len(good):len(good)], make([]byte, requestBytesMax)...), 40000},
	} {
		r := Request{Data: c.data, Peer: netip.AddrPortFrom(testPeer.Addr(), c.port)}
		if b := w.kdc.Answer(t.Context(), r); b != nil {
			t.Errorf("%s: %s", c.name, describe(b))
		}
		if ev := w.lastEvent(); !ev.Dropped || ev.Status == "" {
			t.Errorf("%s: event %+v", c.name, ev)
		}
	}
}

// TestVerdicts: what the shared replay cache says decides, whatever was computed meanwhile.
func TestVerdicts(t *testing.T) {
	for _, c := range []struct {
		v      kdb.Verdict
		err    error
		want   string
		replay string
	}{
		{kdb.Fresh, nil, "KRB-TGS-REP", "fresh"},
		{kdb.Same, nil, "KRB-TGS-REP", "same"},
		{kdb.Repeat, nil, "KRB-ERROR KRB_AP_ERR_REPEAT status=REPEAT", "repeat"},
		{kdb.Stale, nil, "KRB-ERROR KRB_AP_ERR_SKEW status=STALE", "stale"},
		{0, nil, "KRB-ERROR KRB_AP_ERR_REPEAT status=REPEAT", "repeat"}, // a verdict nobody gave lets nobody in
		{0, kdb.ErrUnavailable, "KRB-ERROR KDC_ERR_SVC_UNAVAILABLE status=NO_QUORUM", "unavailable"},
		{0, context.DeadlineExceeded, "no reply", "unavailable"},
		{0, errBroken, "KRB-ERROR KRB_ERR_GENERIC status=", "unavailable"},
	} {
		w := newWorld(t)
		w.user("alice")
		w.princ("HTTP/web")
		tgt := w.login(asReq{client: "alice"})
		w.proofs.answer = func() (kdb.Verdict, error) { return c.v, c.err }
		if got := describe(w.send(w.tgsReq(tgsReq{tgt: tgt, server: "HTTP/web"}))); !strings.HasPrefix(got, c.want) {
			t.Errorf("verdict %d, %v: %s", c.v, c.err, got)
		}
		if ev := w.lastEvent(); ev.Replay != c.replay {
			t.Errorf("verdict %d, %v: event %+v", c.v, c.err, ev)
		}
	}
}

// TestHeldVerdict: the reply waits for the verdict; a resend over TCP joins, one from the same address is dropped; all in work are done once.
func TestHeldVerdict(t *testing.T) {
	w := newWorld(t)
	w.user("alice")
	w.princ("HTTP/web")
	b := w.tgsReq(tgsReq{tgt: w.login(asReq{client: "alice"}), server: "HTTP/web"})
	w.proofs.hold = make(chan struct{})
	first, joined := make(chan []byte, 1), make(chan []byte, 1)
	go func() { first <- w.kdc.Answer(t.Context(), Request{Data: b, Peer: testPeer}) }()
	waitFor(t, func() bool { w.proofs.mu.Lock(); defer w.proofs.mu.Unlock(); return w.proofs.submits == 1 })

	if r := w.kdc.Answer(t.Context(), Request{Data: b, Peer: testPeer}); r != nil {
		t.Fatalf("resend in work: %s", describe(r))
	}
	if ev := w.lastEvent(); ev.Status != "IN_WORK" || !ev.Dropped {
		t.Fatalf("event %+v", ev)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if r := w.kdc.Answer(ctx, Request{Data: b, Peer: testPeer, TCP: true}); r != nil {
		t.Fatalf("gave up, but: %s", describe(r))
	}
	go func() { joined <- w.kdc.Answer(t.Context(), Request{Data: b, Peer: testPeer, TCP: true}) }()
	select {
	case r := <-first:
		t.Fatalf("answered before the verdict: %s", describe(r))
	case r := <-joined:
		t.Fatalf("answered before the verdict: %s", describe(r))
	case <-time.After(20 * time.Millisecond):
	}
	close(w.proofs.hold)
	one, two := <-first, <-joined
	if one == nil || !bytes.Equal(one, two) {
		t.Fatalf("%s and %s", describe(one), describe(two))
	}
	if w.proofs.submits != 1 {
		t.Fatalf("%d submissions", w.proofs.submits)
	}
}

// TestAmplification: a stranger gets at most 512 octets or three times what it sent over UDP; who has proved something gets what it asked for.
func TestAmplification(t *testing.T) {
	w := newWorld(t)
	alice := w.user("alice")
	w.princ("HTTP/web")
	for i := range alice.Keys {
		alice.Keys[i].Salt = strings.Repeat("s", 200)
	}
	udp := func(b []byte, limit int) []byte {
		return w.kdc.Answer(t.Context(), Request{Data: b, Peer: testPeer, ReplyMax: limit})
	}
	stranger := w.asReq(asReq{client: "alice"})
	if full := w.send(stranger); len(full) <= max(512, 3*len(stranger)) {
		t.Fatalf("the test needs a longer refusal than %d", len(full))
	}
	for range 2 { // the second time out of the lookaside cache, had it been kept
		w.wantRefusal(udp(w.asReq(asReq{client: "alice"}), 0), krb5.ErrResponseTooBig, "")
	}
	w.store.change("alice", func(p *kdb.Principal) { p.Attributes = 0 })
	open := w.asReq(asReq{client: "alice"})
	for range 3 {
		reply := udp(open, 0)
		w.wantRefusal(reply, krb5.ErrResponseTooBig, "")
		if len(reply) > 512 {
			t.Fatalf("%d octets to a stranger", len(reply))
		}
	}
	if _, err := krb5.DecodeKDCRep(w.send(open)); err != nil {
		t.Fatal("over TCP:", err)
	}
	w.wantRefusal(udp(open, 0), krb5.ErrResponseTooBig, "") // still, with the reply at hand

	tgt := w.login(asReq{client: "alice"})
	req := w.tgsReq(tgsReq{tgt: tgt, server: "HTTP/web"})
	if _, err := krb5.DecodeKDCRep(udp(req, 0)); err != nil {
		t.Fatal("a proved client over UDP:", err)
	}
	w.wantRefusal(udp(w.tgsReq(tgsReq{tgt: tgt, server: "HTTP/web"}), 600), krb5.ErrResponseTooBig, "")
}

// TestPanicIsOneRequests: counted, logged, answered; the next request is served, and the same bytes are tried anew.
func TestPanicIsOneRequests(t *testing.T) {
	var log bytes.Buffer
	w := newWorld(t, func(c *Config) { c.Logger = slog.New(slog.NewTextHandler(&log, nil)) })
	w.user("alice")
	b := w.asReq(asReq{client: "alice"})
	proofs := w.kdc.cfg.Proofs
	w.kdc.cfg.Proofs = nil
	e := w.refusalOf(w.send(b))
	if e.ErrorCode != krb5.ErrGeneric || e.EText != "" || e.EData != nil {
		t.Fatalf("%+v", e)
	}
	if ev := w.lastEvent(); ev.Status != "PANIC" || ev.Code != krb5.ErrGeneric || !strings.Contains(log.String(), "panic in a request") {
		t.Fatalf("event %+v, log %s", ev, log.String())
	}
	w.kdc.cfg.Proofs = proofs
	w.wantRefusal(w.send(b), krb5.ErrPreauthRequired, "NEEDED_PREAUTH")
}

// brokenStore fails in a way that is our own fault.
type brokenStore struct{ kdb.Store }

func (brokenStore) Principal(string, krb5.PrincipalName) (*kdb.Principal, error) {
	return nil, fmt.Errorf("reading the principal: %w", errBroken)
}

// TestOurFaultSaysNothing: KRB_ERR_GENERIC without a word of what went wrong.
func TestOurFaultSaysNothing(t *testing.T) {
	var log bytes.Buffer
	w := newWorld(t, func(c *Config) {
		c.Store = brokenStore{c.Store}
		c.Logger = slog.New(slog.NewTextHandler(&log, nil))
	})
	reply := w.send(w.asReq(asReq{client: "alice"}))
	if e := w.refusalOf(reply); e.ErrorCode != krb5.ErrGeneric || e.EText != "" || bytes.Contains(reply, []byte("secret")) {
		t.Fatalf("%+v", e)
	}
	if !strings.Contains(log.String(), "/secret/place") {
		t.Fatalf("log: %s", log.String())
	}
}

// TestEventChain: the audit line of a service ticket leads back to the login, and says what was issued.
func TestEventChain(t *testing.T) {
	w := newWorld(t)
	w.user("alice").Policy = &kdb.Policy{MaxFailures: 5}
	w.princ("HTTP/web")
	tgt := w.login(asReq{client: "alice"})
	as := *w.lastEvent()
	svc := w.ticket(tgsReq{tgt: tgt, server: "HTTP/web"})
	tgs := *w.lastEvent()
	if as.Type != "AS" || as.Status != "ISSUE" || as.Client != "alice@"+testRealm || as.Server != "krbtgt/"+testRealm+"@"+testRealm || as.PreAuth != "enc-ts" ||
		as.SessionEType != 18 || as.TicketEType != 20 || as.ReplyEType != 18 || as.Peer != testPeer || as.Transport != "tcp" || len(as.ETypes) != 4 || as.Dropped {
		t.Errorf("AS event %+v", as)
	}
	if tgs.Type != "TGS" || tgs.Status != "ISSUE" || tgs.Client != as.Client || tgs.Server != "HTTP/web@"+testRealm || tgs.Replay != "fresh" ||
		tgs.FromTicketID != as.TicketID || tgs.TicketID != ticketID(&svc.ticket) || len(tgs.TicketID) != 16 || !tgs.AuthTime.Equal(testNow) || !tgs.EndTime.Equal(svc.part.EndTime) || tgs.Flags != svc.part.Flags {
		t.Errorf("TGS event %+v", tgs)
	}
	w.send(w.asReq(asReq{client: "alice", password: "wrong"}))
	if ev := w.lastEvent(); ev.Status != "PREAUTH_FAILED" || ev.Code != krb5.ErrPreauthFailed || ev.Failures != 1 || ev.FailuresMax != 5 || ev.TicketID != "" {
		t.Errorf("failed AS event %+v", ev)
	}
	if len(w.events) != 3 {
		t.Errorf("%d events for 3 requests", len(w.events))
	}
}

// TestOversize is what RFC 5021 wants said of a length that does not fit.
func TestOversize(t *testing.T) {
	w := newWorld(t)
	w.wantRefusal(w.kdc.Oversize(), krb5.ErrFieldTooLong, "")
}

func TestNewRefusesHalfAConfig(t *testing.T) {
	w := newWorld(t)
	whole := w.kdc.cfg
	for name, c := range map[string]Config{
		"store": {Proofs: whole.Proofs, Now: whole.Now, Rand: whole.Rand}, "proofs": {Store: whole.Store, Now: whole.Now, Rand: whole.Rand},
		"now": {Store: whole.Store, Proofs: whole.Proofs, Rand: whole.Rand}, "rand": {Store: whole.Store, Proofs: whole.Proofs, Now: whole.Now},
		"skew": {Store: whole.Store, Proofs: whole.Proofs, Now: whole.Now, Rand: whole.Rand, ClockSkew: 2 * time.Hour},
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("without %s: accepted", name)
				}
			}()
			New(c)
		}()
	}
}

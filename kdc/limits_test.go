package kdc

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/charon-kdc/charon/kdc/krb5"
	"github.com/charon-kdc/charon/kdc/limit"
)

// asker is a world with limits and a clock for them, and counts what comes of requests.
type asker struct {
	*world
	mono time.Time
}

func newAsker(t *testing.T, l Limits) *asker {
	a := &asker{mono: time.Unix(1000, 0)}
	a.world = newWorld(t, func(c *Config) { c.Limits, c.Elapsed = l, func() time.Time { return a.mono } })
	a.user("alice")
	a.user("bob")
	return a
}

// ask sends n different requests from an address and counts the answers by what they say.
func (a *asker) ask(n int, from string, r asReq) map[string]int {
	a.t.Helper()
	got := map[string]int{}
	for range n {
		b := a.kdc.Answer(a.t.Context(), Request{Data: a.asReq(r), Peer: netip.AddrPortFrom(netip.MustParseAddr(from), 1024), TCP: true})
		switch e, err := krb5.DecodeKRBError(b); {
		case b == nil:
			got[a.lastEvent().Status]++
		case err == nil:
			got[e.ErrorCode.String()]++
		default:
			got["ISSUE"]++
		}
	}
	return got
}

func (a *asker) want(what string, got, want map[string]int) {
	a.t.Helper()
	if fmt.Sprint(got) != fmt.Sprint(want) {
		a.t.Errorf("%s: %v, want %v", what, got, want)
	}
}

func TestPrincipalRate(t *testing.T) {
	a := newAsker(t, Limits{Principal: limit.Rate{PerSecond: 1, Burst: 5}, Exempt: []netip.Prefix{netip.MustParsePrefix("203.0.113.5/32")}})
	req := asReq{client: "alice"}
	need := krb5.ErrPreauthRequired.String()
	a.want("one prefix", a.ask(8, "192.0.2.1", req), map[string]int{need: 5, statusPrincipalRate: 3})
	a.want("another address of it", a.ask(2, "192.0.2.200", req), map[string]int{statusPrincipalRate: 2})
	a.want("another prefix: nobody is kept from his name", a.ask(5, "198.51.100.1", req), map[string]int{need: 5})
	a.want("another client", a.ask(5, "192.0.2.1", asReq{client: "bob"}), map[string]int{need: 5})
	a.want("a balancer", a.ask(50, "203.0.113.5", req), map[string]int{need: 50})
	a.mono = a.mono.Add(2 * time.Second)
	a.want("two seconds later", a.ask(5, "192.0.2.1", req), map[string]int{need: 2, statusPrincipalRate: 3})
}

func TestFailureRate(t *testing.T) {
	a := newAsker(t, Limits{Failures: limit.Rate{PerSecond: 1, Burst: 3}})
	bad, good := asReq{client: "alice", password: "wrong"}, asReq{client: "alice", password: "pw-alice"}
	failed := krb5.ErrPreauthFailed.String()
	a.want("good ones don't count", a.ask(20, "192.0.2.1", good), map[string]int{"ISSUE": 20})
	a.want("guesses", a.ask(10, "192.0.2.1", bad), map[string]int{failed: 3, statusFailureRate: 7})
	if n := len(a.proofs.attempts); n != 20+3 {
		t.Errorf("%d attempts, want 23: what is over the limit is not looked at", n)
	}
	a.want("a good one from there", a.ask(1, "192.0.2.1", good), map[string]int{statusFailureRate: 1})
	a.want("the client from elsewhere", a.ask(5, "198.51.100.1", good), map[string]int{"ISSUE": 5})
	a.want("asking for what is needed", a.ask(5, "192.0.2.1", asReq{client: "alice"}), map[string]int{krb5.ErrPreauthRequired.String(): 5})
	a.mono = a.mono.Add(time.Second)
	a.want("a second later", a.ask(1, "192.0.2.1", good), map[string]int{"ISSUE": 1})
}

func TestUnknownRate(t *testing.T) {
	a := newAsker(t, Limits{Unknown: limit.Rate{PerSecond: 1, Burst: 4}})
	unknown := krb5.ErrCPrincipalUnknown.String()
	got := map[string]int{}
	for i := range 10 {
		for k, n := range a.ask(1, "192.0.2.1", asReq{client: fmt.Sprintf("nobody%d", i)}) {
			got[k] += n
		}
	}
	a.want("a scan", got, map[string]int{unknown: 4, statusUnknownRate: 6})
	a.want("those that exist, from there", a.ask(20, "192.0.2.1", asReq{client: "alice", password: "pw-alice"}), map[string]int{"ISSUE": 20})
	a.want("a typing error elsewhere", a.ask(1, "198.51.100.1", asReq{client: "alcie"}), map[string]int{unknown: 1})
}

func TestNoLimitsByDefault(t *testing.T) {
	a := newAsker(t, Limits{})
	a.want("requests", a.ask(300, "192.0.2.1", asReq{client: "alice"}), map[string]int{krb5.ErrPreauthRequired.String(): 300})
	a.want("guesses", a.ask(300, "192.0.2.1", asReq{client: "alice", password: "wrong"}), map[string]int{krb5.ErrPreauthFailed.String(): 300})
	a.want("scan", a.ask(300, "192.0.2.1", asReq{client: "nobody"}), map[string]int{krb5.ErrCPrincipalUnknown.String(): 300})
}

// Who waits for the majority, for a turn or for the first of two equal packets says so to the transport before it does.
func TestWaitingIsTold(t *testing.T) {
	w := newWorld(t)
	w.user("alice")
	told := make(chan struct{}, 10)
	answer := func(b []byte) chan []byte {
		out := make(chan []byte, 1)
		go func() {
			out <- w.kdc.Answer(t.Context(), Request{Data: b, Peer: testPeer, TCP: true, Waiting: func() { told <- struct{}{} }})
		}()
		return out
	}
	if b := <-answer(w.asReq(asReq{client: "alice", password: "pw-alice"})); b == nil || len(told) != 0 {
		t.Fatalf("a good proof waits for nobody: told %d times", len(told))
	}
	w.proofs.hold = make(chan struct{})
	wrong := w.asReq(asReq{client: "alice", password: "wrong"})
	first := answer(wrong)
	<-told
	second := answer(wrong) // joins the first
	<-told
	w.proofs.release()
	if <-first == nil || <-second == nil {
		t.Error("no answer")
	}
}

package kdc

import (
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/charon-kdc/charon/kdc/kdb"
	"github.com/charon-kdc/charon/kdc/krb5"
)

func TestLockedOut(t *testing.T) {
	policy := &kdb.Policy{MaxFailures: 3, LockoutDuration: time.Hour}
	forever := &kdb.Policy{MaxFailures: 3}
	for _, c := range []struct {
		name     string
		policy   *kdb.Policy
		failures uint32
		ago      time.Duration
		unlocked time.Time
		want     bool
	}{
		{"no policy", nil, 99, time.Minute, time.Time{}, false},
		{"policy without a limit", &kdb.Policy{}, 99, time.Minute, time.Time{}, false},
		{"one short", policy, 2, time.Minute, time.Time{}, false},
		{"as many", policy, 3, time.Minute, time.Time{}, true},
		{"a second before it runs out", policy, 3, time.Hour - time.Second, time.Time{}, true},
		{"run out", policy, 3, time.Hour, time.Time{}, false},
		{"forever", forever, 3, 10000 * time.Hour, time.Time{}, true},
		{"unlocked since", forever, 3, time.Hour, testNow.Add(-time.Minute), false},
		{"unlocked at that moment", forever, 3, time.Hour, testNow.Add(-time.Hour), false},
		{"unlocked before", forever, 3, time.Hour, testNow.Add(-2 * time.Hour), true},
	} {
		p := &kdb.Principal{Policy: c.policy, UnlockedAt: c.unlocked}
		if got := lockedOut(p, kdb.Activity{Failures: c.failures, LastFailure: testNow.Add(-c.ago)}, testNow); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}

// answers sends each of those at once, over UDP from ports of their own, and gives the channel of their replies.
func (w *world) answers(nodes []*Server, reqs ...[]byte) <-chan []byte {
	out := make(chan []byte, len(reqs))
	var wg sync.WaitGroup
	for i, b := range reqs {
		wg.Go(func() {
			out <- nodes[i%len(nodes)].Answer(w.t.Context(), Request{Data: b, Peer: testPeer, TCP: true})
		})
	}
	go func() { wg.Wait(); close(out) }()
	return out
}

// tries waits until the proofs have at least n attempts, and no more come.
func (w *world) tries(n int) {
	w.t.Helper()
	waitFor(w.t, func() bool { w.proofs.mu.Lock(); defer w.proofs.mu.Unlock(); return len(w.proofs.attempts) >= n })
}

// waiting is how many wait for a turn at id.
func (g *guesses) waitingAt(id kdb.ID) int {
	s := g.shard(id)
	s.mu.Lock()
	defer s.mu.Unlock()
	if o := s.busy[id]; o != nil {
		return o.waiting
	}
	return 0
}

func (w *world) wrongs(n int) (out [][]byte) {
	for range n {
		out = append(out, w.asReq(asReq{client: "alice", password: "wrong"}))
	}
	return out
}

// TestParallelGuesses: a hundred guesses at once are no more than as many as the limit allows after each other. While one is at work, eight wait, and the
// others get no reply.
func TestParallelGuesses(t *testing.T) {
	const n = 100
	w := newWorld(t)
	p := w.user("alice")
	p.Policy = &kdb.Policy{MaxFailures: 5}
	w.proofs.hold = make(chan struct{})
	replies := w.answers([]*Server{w.kdc}, w.wrongs(n)...)
	waitFor(t, func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return len(w.events) == n-guessWaitersMax-1 && w.kdc.guesses.waitingAt(p.ID) == guessWaitersMax
	})
	w.mu.Lock()
	for _, ev := range w.events {
		if ev.Status != "TOO_MANY_GUESSES" || !ev.Dropped {
			t.Errorf("event %+v", ev)
		}
	}
	w.mu.Unlock()
	w.tries(1)
	w.proofs.release()
	var failed, locked int
	for b := range replies {
		switch e, err := krb5.DecodeKRBError(b); {
		case b == nil:
		case err == nil && e.ErrorCode == krb5.ErrPreauthFailed:
			failed++
		case err == nil && e.ErrorCode == krb5.ErrClientRevoked:
			locked++
		default:
			t.Errorf("%s", describe(b))
		}
	}
	if failed != 5 || locked != guessWaitersMax+1-5 || len(w.proofs.attempts) != 5 {
		t.Fatalf("%d guesses failed, %d found the client locked, %d attempts", failed, locked, len(w.proofs.attempts))
	}
	s := w.kdc.guesses.shard(p.ID)
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.busy) != 0 {
		t.Fatalf("%d entries left behind", len(s.busy))
	}
}

// TestLockoutOvershoot: guesses sent in parallel to all nodes, none of which hears of another's failures, overstep the limit by at most one try a node.
// So it is when each is counted soon, and when no count comes for a while.
func TestLockoutOvershoot(t *testing.T) {
	for _, nodes := range []int{1, 3, 5} {
		for _, limit := range []int{1, 2, 3, 5, 10, 50} {
			for _, before := range []int{0, limit / 2, limit - 1} {
				for _, electing := range []bool{false, true} {
					got := overshoot(t, nodes, limit, before, electing)
					if most := limit + nodes; got > most || got < limit && got < before+nodes*guessWaitersMax {
						t.Errorf("%d nodes, limit %d, %d failures before, electing %v: %d in all, %d at most", nodes, limit, before, electing, got, most)
					}
				}
			}
		}
	}
}

// overshoot is how many failures there are in the end.
func overshoot(t *testing.T, nodes, limit, before int, electing bool) int {
	w := newWorld(t, func(c *Config) { c.Nodes = func() int { return nodes } })
	p := w.user("alice")
	p.Policy = &kdb.Policy{MaxFailures: uint32(limit)}
	w.proofs.activity[p.ID] = kdb.Activity{Failures: uint32(before), LastFailure: testNow}
	w.proofs.hold = make(chan struct{})
	var servers []*Server
	for range nodes {
		servers = append(servers, New(w.kdc.cfg))
	}
	var replies []<-chan []byte
	sent := 0
	settled := func() bool { // each is open, waits, or has been sent away
		w.mu.Lock()
		n := len(w.events)
		w.mu.Unlock()
		for _, s := range servers {
			g := s.guesses.shard(p.ID)
			g.mu.Lock()
			if o := g.busy[p.ID]; o != nil {
				n += o.open + o.waiting
			}
			g.mu.Unlock()
		}
		return n == sent
	}
	for range limit + 2 {
		if electing {
			w.pass(guessPatience)
		}
		replies = append(replies, w.answers(servers, w.wrongs(nodes)...))
		sent += nodes
		waitFor(t, settled)
	}
	if electing && before == 0 && limit > nodes {
		w.proofs.mu.Lock()
		if n := len(w.proofs.attempts); n < 2*nodes {
			t.Errorf("%d nodes, limit %d: only %d tries while no count comes", nodes, limit, n)
		}
		w.proofs.mu.Unlock()
	}
	w.proofs.release()
	for _, c := range replies {
		for range c {
		}
	}
	return before + len(w.proofs.attempts)
}

// TestGoodProofPassesHeldFailure: while nobody leads, or this node does not know the newest, a wrong proof's reply is held and a good proof is answered.
func TestGoodProofPassesHeldFailure(t *testing.T) {
	for name, stale := range map[string]bool{"electing": false, "stale": true} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			p := w.user("alice")
			p.Policy = &kdb.Policy{MaxFailures: 3}
			w.proofs.hold = make(chan struct{})
			w.store.setStale(stale)
			held := w.answers([]*Server{w.kdc}, w.wrongs(1)...)
			waitFor(t, func() bool {
				s := w.kdc.guesses.shard(p.ID)
				s.mu.Lock()
				defer s.mu.Unlock()
				o := s.busy[p.ID]
				return o != nil && (stale && o.held == 1 || !stale && o.open == 1)
			})
			w.pass(guessPatience)
			w.login(asReq{client: "alice"})
			select {
			case b := <-held:
				t.Fatalf("%s", describe(b))
			default:
			}
			w.store.setStale(false)
			w.tries(2)
			w.proofs.release()
			w.wantRefusal(<-held, krb5.ErrPreauthFailed, "PREAUTH_FAILED")
		})
	}
}

// TestGuessesAtANodeAlone: a node that can neither know nor count does not tell good from bad for ever: what it could not count weighs on it.
func TestGuessesAtANodeAlone(t *testing.T) {
	for name, alone := range map[string]func(w *world, alone bool){
		"stale": func(w *world, alone bool) { w.store.setStale(alone) },
		"cut off": func(w *world, alone bool) {
			w.proofs.mu.Lock()
			defer w.proofs.mu.Unlock()
			w.proofs.answer = nil
			if alone {
				w.proofs.answer = func() (kdb.Verdict, error) { return 0, kdb.ErrUnavailable }
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			p := w.user("alice")
			p.Policy = &kdb.Policy{MaxFailures: 3}
			w.user("bob").Policy = p.Policy
			alone(w, true)
			w.login(asReq{client: "alice"})
			w.pass(freshHoldMax)
			for _, b := range w.wrongs(3) {
				if e := w.refusalOf(w.send(b)); e.ErrorCode != krb5.ErrSvcUnavailable {
					t.Fatalf("%v", e.ErrorCode)
				}
			}
			w.wantRefusal(w.send(w.asReq(asReq{client: "alice", password: "pw-alice"})), krb5.ErrSvcUnavailable, "STATE_STALE")
			w.login(asReq{client: "bob"})
			w.pass(lostFor)
			w.login(asReq{client: "alice"})
			for _, b := range w.wrongs(2) {
				w.send(b)
			}
			alone(w, false)
			w.wantRefusal(w.send(w.wrongs(1)[0]), krb5.ErrPreauthFailed, "PREAUTH_FAILED")
			w.wantRefusal(w.send(w.wrongs(1)[0]), krb5.ErrPreauthFailed, "PREAUTH_FAILED") // counted again, so nothing is lost any more
		})
	}
}

// TestStaleHoldIsTheNodes: how long a reply is held counts from when the node lost its freshness, not from each request.
func TestStaleHoldIsTheNodes(t *testing.T) {
	w := newWorld(t)
	w.user("alice")
	w.store.setStale(true)
	w.login(asReq{client: "alice"}) // whoever looks, sees it
	w.pass(freshHoldMax)
	began := time.Now()
	w.wantRefusal(w.send(w.wrongs(1)[0]), krb5.ErrSvcUnavailable, "STATE_STALE")
	if d := time.Since(began); d > freshHoldMax/2 {
		t.Errorf("held for %v", d)
	}
	w.store.setStale(false)
	w.login(asReq{client: "alice"})
	w.store.setStale(true)
	held := w.answers([]*Server{w.kdc}, w.wrongs(1)...) // a new loss, a new time
	select {
	case b := <-held:
		t.Fatalf("%s", describe(b))
	case <-time.After(5 * freshPoll):
	}
	w.store.setStale(false)
	w.wantRefusal(<-held, krb5.ErrPreauthFailed, "PREAUTH_FAILED")
}

// TestQueueReadsTheClientAgain: what changed while a request waited for its turn holds for it.
func TestQueueReadsTheClientAgain(t *testing.T) {
	for _, c := range []struct {
		name, password string
		change         func(w *world, p *kdb.Principal)
		want           string
	}{
		{"the password", "new", func(w *world, p *kdb.Principal) { p.KVNO = 2; w.keys(p, "new", allAES...) }, "KRB-AS-REP alice@EXAMPLE.COM -> krbtgt/EXAMPLE.COM"},
		{"its leave", "pw-alice", func(_ *world, p *kdb.Principal) { p.Attributes |= kdb.DisallowAllTix }, "KRB-ERROR KDC_ERR_CLIENT_REVOKED status=CLIENT LOCKED OUT"},
		{"the client", "pw-alice", func(w *world, p *kdb.Principal) { p.ID[15] ^= 1; w.keys(p, "another", allAES...) }, "KRB-ERROR KDC_ERR_PREAUTH_FAILED status=PREAUTH_FAILED"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			p := w.user("alice")
			p.Policy = &kdb.Policy{MaxFailures: 2}
			w.proofs.hold = make(chan struct{})
			first := w.answers([]*Server{w.kdc}, w.wrongs(1)...)
			w.tries(1)
			second := w.answers([]*Server{w.kdc}, w.asReq(asReq{client: "alice", password: c.password}))
			waitFor(t, func() bool { return w.kdc.guesses.waitingAt(p.ID) == 1 })
			w.store.change("alice", func(p *kdb.Principal) { c.change(w, p) })
			w.proofs.release()
			<-first
			if got := describe(<-second); got != c.want {
				t.Errorf("%s", got)
			}
		})
	}
}

// TestFreshIsAskedBeforeReading: a node that becomes fresh between its look-up and its answer has still answered from what it knew before.
func TestFreshIsAskedBeforeReading(t *testing.T) {
	w := newWorld(t)
	w.user("alice")
	w.princ("HTTP/web")
	tgt := w.login(asReq{client: "alice"})
	becomesFresh := func(name string, and func()) {
		var once atomic.Bool
		w.store.setStale(true)
		w.store.after = func(n string) {
			if n == name && once.CompareAndSwap(false, true) {
				and()
				w.store.setStale(false)
			}
		}
	}
	b := w.asReq(asReq{client: "alice", password: "new"})
	becomesFresh("alice", func() {
		w.store.change("alice", func(p *kdb.Principal) { p.KVNO = 2; w.keys(p, "new", allAES...) })
	})
	if got := describe(w.send(b)); got != "KRB-AS-REP alice@EXAMPLE.COM -> krbtgt/EXAMPLE.COM" {
		t.Errorf("the new password: %s", got)
	}
	nothing := func() {}
	becomesFresh("zoe", nothing)
	w.wantRefusal(w.send(w.asReq(asReq{client: "zoe"})), krb5.ErrSvcUnavailable, "STATE_STALE")
	becomesFresh("HTTP/new", nothing)
	w.wantRefusal(w.send(w.asReq(asReq{client: "alice", server: "HTTP/new"})), krb5.ErrSvcUnavailable, "STATE_STALE")
	becomesFresh("HTTP/new", nothing)
	w.wantRefusal(w.send(w.tgsReq(tgsReq{tgt: tgt, server: "HTTP/new"})), krb5.ErrSvcUnavailable, "STATE_STALE")
	// The first look-up finds that this kvno is not here, the second is for the keys.
	lookUps := 0
	w.store.setStale(true)
	w.store.after = func(n string) {
		if n == "krbtgt/"+testRealm {
			if lookUps++; lookUps == 2 {
				w.store.setStale(false)
			}
		}
	}
	w.wantRefusal(w.send(w.tgsReq(tgsReq{tgt: tgt, server: "HTTP/web", editAP: func(a *krb5.APReq) { a.Ticket.EncPart.KVNO = 9 }})), krb5.ErrSvcUnavailable, "STATE_STALE")
}

// TestGuessLedgerIsBounded: lost tries at many clients push each other out, never those in work.
func TestGuessLedgerIsBounded(t *testing.T) {
	now := testNow
	g := newGuesses(nil, func() time.Time { return now })
	id := func(n int) kdb.ID { return kdb.ID{1, byte(n), byte(n >> 8)} }
	busy, err := g.enter(t.Context(), id(0), func() int { return 3 }, func() {})
	if err != nil {
		t.Fatal(err)
	}
	for n := range 3 * guessClientsMax {
		tr, err := g.enter(t.Context(), id(n+1), func() int { return 3 }, func() {})
		if err != nil {
			t.Fatal(err)
		}
		tr.lose()
	}
	s := g.shard(id(0))
	if len(s.busy) > guessClientsMax || s.busy[id(0)] == nil {
		t.Fatalf("%d clients remembered", len(s.busy))
	}
	busy.leave()
	now = now.Add(lostFor)
	g.lost(id(1))
	g.lost(id(9998))
	g.lost(id(9999))
	if len(s.busy) > 3 {
		t.Fatalf("%d clients remembered when nothing of them counts", len(s.busy))
	}
	if _, err := g.enter(t.Context(), id(1), func() int { return 1 }, func() {}); !errors.Is(err, kdb.ErrStale) {
		t.Fatal(err)
	}
}

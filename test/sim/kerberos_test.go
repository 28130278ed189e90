package sim

import (
	"fmt"
	mrand "math/rand/v2"
	"sync"
	"time"

	"github.com/charon-kdc/charon/kdc/krb5"
	"github.com/charon-kdc/charon/kdc/krb5/client"
)

// users log in and get tickets for as long as the run lasts, now and then replaying what they sent.
func (w *world) user(i int, r *mrand.Rand) {
	name, from := userName(i), fmt.Sprintf("10.0.1.%d", i+1)
	var tgt *client.Credential
	for w.ctx.Err() == nil {
		pause(w, time.Duration(300+r.IntN(900))*time.Millisecond)
		order := shuffled(r, w.members())
		begun := time.Now()
		if tgt == nil || r.IntN(20) == 0 {
			o, ok := w.exchange(from, order, w.asRequest(name, passwordOf(name), realmName+name))
			w.served("AS", begun, o, ok && o.issued)
			if !ok || !o.issued {
				continue
			}
			c, err := w.openTGT(o, w.key(passwordOf(name), realmName+name))
			if err != nil {
				w.violation("C: tickets", "%s: %s can't read its AS-REP: %v", o.node, name, err)
				return
			}
			if c.StartTime.After(time.Now().Add(time.Minute)) || c.AuthTime.Before(time.Now().Add(-time.Hour)) {
				continue // of a node whose clock is wrong
			}
			tgt = c
			continue
		}
		service := serviceName(r.IntN(services))
		msg, _ := w.tgsRequest(tgt, service)
		a := w.authenticator(msg)
		if r.IntN(3) == 0 {
			own := mrand.New(mrand.NewPCG(r.Uint64(), 3))
			w.goDo(func() { w.replay(a, msg, from, own) })
		}
		o, ok := w.exchange(from, order, msg)
		if o.code != krb5.ErrRepeat { // an attacker was faster
			w.served("TGS", begun, o, ok && o.issued)
		}
		if !ok {
			continue
		}
		a.heard(w, 0, o)
		if o.issued {
			w.checkTicket(o, name, service)
		} else {
			tgt = nil
		}
	}
}

// served counts one exchange (docs/testing.md, F).
func (w *world) served(kind string, begun time.Time, o outcome, ok bool) {
	due := w.hadQuorum(begun.Add(-w.prof.election), time.Now()) && !w.clockFault(begun.Add(-time.Minute))
	w.rep.exchange(kind, ok, due)
	if due && !ok {
		w.note("%s exchange failed after %v: code %d %s (%s)", kind, time.Since(begun), o.code, o.text, o.node)
		if *showUnserved {
			w.dump(25)
		}
	}
}

func pause(w *world, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-w.ctx.Done():
	}
}

// authenticator is one proof and all requests that carry it. Request 0 is the client's own.
type authenticator struct {
	mu       sync.Mutex
	accepted map[int]string // request to node
	replayed bool           // another request with it was sent
}

func (w *world) authenticator(msg []byte) *authenticator {
	return &authenticator{accepted: map[int]string{}}
}

// heard holds one reply against what replays may do (docs/testing.md, E).
func (a *authenticator) heard(w *world, request int, o outcome) {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case o.issued:
		a.accepted[request] = o.node
		if len(a.accepted) > 1 {
			w.violation("E: replays", "one authenticator was accepted in different requests: %v", a.accepted)
		}
		w.rep.count("authenticators accepted")
	case o.code == krb5.ErrRepeat && !a.replayed:
		w.violation("E: replays", "%s refuses a client's own request, which nobody copied, as a repeat", o.node)
	case o.code == krb5.ErrRepeat && a.accepted[request] != "":
		w.violation("E: replays", "%s refuses the same bytes as a repeat that %s accepted", o.node, a.accepted[request])
	case o.code == krb5.ErrRepeat:
		w.rep.count("repeats refused")
	}
}

// replay resends a request to other nodes at once, or plays another one with its authenticator later.
func (w *world) replay(a *authenticator, msg []byte, from string, r *mrand.Rand) {
	same := r.IntN(2) == 0
	replies := make(chan answer, 64)
	if same {
		for range 1 + r.IntN(3) {
			w.ask(pick(r, w.members()), from, msg, replies)
		}
	} else {
		pause(w, time.Duration(r.IntN(8000))*time.Millisecond)
		a.mu.Lock()
		a.replayed = true
		a.mu.Unlock()
		nodes := w.members()
		for i := range 1 + r.IntN(3) {
			other, k := otherRequest(msg, i), i+1
			for range 1 + r.IntN(2) {
				own := make(chan answer, 4)
				w.ask(pick(r, nodes), fmt.Sprintf("10.0.2.%d", k), other, own)
				w.goDo(func() { w.collect(own, func(o outcome) { a.heard(w, k, o) }) })
			}
		}
		return
	}
	w.collect(replies, func(o outcome) { a.heard(w, 0, o) })
}

// collect reads replies until none can come any more.
func (w *world) collect(replies <-chan answer, f func(outcome)) {
	end := time.NewTimer(holdMax + 2*time.Second)
	defer end.Stop()
	for {
		select {
		case a := <-replies:
			f(read(a))
		case <-end.C:
			return
		case <-w.ctx.Done():
			return
		}
	}
}

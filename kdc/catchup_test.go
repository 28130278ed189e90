package kdc

import (
	"context"
	"testing"
	"time"

	"github.com/charon-kdc/charon/kdc/kdb"
	"github.com/charon-kdc/charon/kdc/krb5"
)

// TestTicketAhead: a TGT under a newer kvno than this node has makes it catch up first; it is never called a wrong key for that.
func TestTicketAhead(t *testing.T) {
	w := newWorld(t)
	w.user("alice")
	w.princ("HTTP/web")
	tgs := "krbtgt/" + testRealm
	tgt := w.login(asReq{client: "alice"})
	var next kdb.Principal
	w.store.change(tgs, func(p *kdb.Principal) { next = *p; next.KVNO = 2; w.keys(&next, "", allAES...) })
	ahead := *tgt
	var err error
	if ahead.ticket.EncPart, err = krb5.SealTicket(next.Keys[0].Key, 2, w.rand, tgt.part); err != nil {
		t.Fatal(err)
	}
	waits := 0
	set := func(f func(context.Context) error) {
		w.store.mu.Lock()
		defer w.store.mu.Unlock()
		w.store.catchUp = func(ctx context.Context) error { waits++; return f(ctx) }
	}
	send := func() []byte { return w.send(w.tgsReq(tgsReq{tgt: &ahead, server: "HTTP/web"})) }

	set(func(context.Context) error { return kdb.ErrStale })
	w.wantRefusal(send(), krb5.ErrSvcUnavailable, "STATE_STALE")
	set(func(context.Context) error { return nil }) // it knows all there is: there is no such key
	w.wantRefusal(send(), krb5.ErrBadKeyVer, statusHeader)
	second := w.tgsReq(tgsReq{tgt: tgt, server: "HTTP/web", options: krb5.KDCOptEncTktInSKey, second: &ahead})
	set(func(context.Context) error { return kdb.ErrStale })
	w.wantRefusal(w.send(second), krb5.ErrSvcUnavailable, "STATE_STALE")
	set(func(ctx context.Context) error {
		if end, ok := ctx.Deadline(); !ok || time.Until(end) > catchUpMax {
			t.Error("the wait has no bound")
		}
		w.store.change(tgs, func(p *kdb.Principal) { p.KVNO, p.Keys = 2, append(next.Keys, p.Keys...) })
		return nil
	})
	if _, err := krb5.DecodeKDCRep(send()); err != nil || waits != 4 {
		t.Errorf("after catching up: %v, %d waits", err, waits)
	}
	if _, err := krb5.DecodeKDCRep(send()); err != nil || waits != 4 {
		t.Errorf("again: %v, %d waits", err, waits)
	}
}

// TestTicketsAheadAreBounded: anybody can write a kvno into a ticket; whoever is too many is sent away at once.
func TestTicketsAheadAreBounded(t *testing.T) {
	w := newWorld(t)
	w.user("alice")
	w.princ("HTTP/web")
	req := tgsReq{tgt: w.login(asReq{client: "alice"}), server: "HTTP/web", editAP: func(a *krb5.APReq) { a.Ticket.EncPart.KVNO = 1 << 31 }}
	for range catchUpsMax {
		w.kdc.catchingUp <- struct{}{}
	}
	w.wantRefusal(w.send(w.tgsReq(req)), krb5.ErrSvcUnavailable, "STATE_STALE")
	<-w.kdc.catchingUp
	w.wantRefusal(w.send(w.tgsReq(req)), krb5.ErrBadKeyVer, statusHeader)
	// A node that is cut off does not wait for what can't come.
	w.store.setStale(true)
	w.send(w.tgsReq(req))
	w.pass(freshHoldMax + time.Second)
	w.store.mu.Lock()
	w.store.catchUp = func(context.Context) error { t.Error("waits"); return nil }
	w.store.mu.Unlock()
	w.wantRefusal(w.send(w.tgsReq(req)), krb5.ErrSvcUnavailable, "STATE_STALE")
}

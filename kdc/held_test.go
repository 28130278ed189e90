package kdc

import (
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/charon-kdc/charon/kdc/kdb"
	"github.com/charon-kdc/charon/kdc/krb5"
)

// TestHeldTicketIsOfToday: a TGS-REP that waited for its verdict is what would be issued when it leaves.
func TestHeldTicketIsOfToday(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(w *world)
		want   string // the refusal; empty: a ticket
		kvno   uint32
	}{
		{"nothing happened", func(*world) {}, "", 1},
		{"the client was disabled", func(w *world) {
			w.store.change("alice", func(p *kdb.Principal) { p.Attributes |= kdb.DisallowAllTix })
		}, "CLIENT LOCKED OUT", 0},
		{"the client was deleted", func(w *world) { w.store.remove("alice") }, "CLIENT_NOT_FOUND", 0},
		{"the client was made anew", func(w *world) { w.store.remove("alice"); w.user("alice") }, "PRINCIPAL_ID_MISMATCH", 0},
		{"the service was disabled", func(w *world) {
			w.store.change("HTTP/web", func(p *kdb.Principal) { p.Attributes |= kdb.DisallowAllTix })
		}, "SERVER LOCKED OUT", 0},
		{"the service was deleted", func(w *world) { w.store.remove("HTTP/web") }, "LOOKING_UP_SERVER", 0},
		{"the service has a new key", func(w *world) {
			w.store.change("HTTP/web", func(p *kdb.Principal) { p.KVNO = 2; w.keys(p, "", allAES...) })
		}, "", 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			w.user("alice")
			w.princ("HTTP/web")
			r := tgsReq{tgt: w.login(asReq{client: "alice"}), server: "HTTP/web"}
			w.proofs.hold = make(chan struct{})
			held := w.answers([]*Server{w.kdc}, w.tgsReq(r))
			waitFor(t, w.proofs.waits)
			c.change(w)
			w.proofs.release()
			reply := <-held
			ev := w.lastEvent()
			if c.want != "" {
				if e := w.refusalOf(reply); e.EText != c.want || ev.Status != c.want || ev.TicketID != "" || ev.Flags != 0 || !ev.EndTime.IsZero() {
					t.Fatalf("%s, event %+v", describe(reply), ev)
				}
				return
			}
			svc := w.openTGS(reply, r)
			if svc.ticket.EncPart.KVNO != c.kvno || ev.TicketID != ticketID(&svc.ticket) || svc.part.Flags&krb5.FlagPreAuthent == 0 {
				t.Fatalf("kvno %d, event %+v", svc.ticket.EncPart.KVNO, ev)
			}
		})
	}
}

// TestRevokedWhileHeld: a ticket under a key of the TGS that was taken away gets nothing any more, above all no ticket under the new one, wherever
// its request was.
func TestRevokedWhileHeld(t *testing.T) {
	tgs := "krbtgt/" + testRealm
	revoke := func(w *world) {
		w.store.change(tgs, func(p *kdb.Principal) { p.KVNO++; w.keys(p, "", allAES...) })
	}
	for _, c := range []struct {
		name string
		r    tgsReq
	}{
		{"service ticket", tgsReq{server: "HTTP/web"}},
		{"TGT", tgsReq{server: tgs}},
		{"renewed TGT", tgsReq{server: tgs, options: krb5.KDCOptRenew}},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, held := range []bool{true, false} {
				w := newWorld(t)
				w.user("alice")
				w.princ("HTTP/web")
				c.r.tgt = w.login(asReq{client: "alice", options: krb5.KDCOptRenewable, rtime: testNow.Add(48 * time.Hour)})
				req := w.tgsReq(c.r)
				if !held { // after its ticket was opened, before the service's key is read
					var once sync.Once
					w.store.after = func(name string) {
						if name == "alice" {
							once.Do(func() { revoke(w) })
						}
					}
					w.wantRefusal(w.send(req), krb5.ErrBadKeyVer, statusHeader)
					continue
				}
				w.proofs.hold = make(chan struct{})
				reply := w.answers([]*Server{w.kdc}, req)
				waitFor(t, w.proofs.waits)
				revoke(w)
				w.proofs.release()
				w.wantRefusal(<-reply, krb5.ErrBadKeyVer, statusHeader)
			}
		})
	}
}

// TestRotatedWhileHeld: a key that retires goes on opening what waits.
func TestRotatedWhileHeld(t *testing.T) {
	w := newWorld(t)
	w.user("alice")
	tgs := "krbtgt/" + testRealm
	r := tgsReq{tgt: w.login(asReq{client: "alice"}), server: tgs}
	w.proofs.hold = make(chan struct{})
	reply := w.answers([]*Server{w.kdc}, w.tgsReq(r))
	waitFor(t, w.proofs.waits)
	w.store.change(tgs, func(p *kdb.Principal) {
		old := slices.Clone(p.Keys)
		for i := range old {
			old[i].State, old[i].RetireAt = kdb.KeyRetiring, testNow.Add(time.Hour)
		}
		p.KVNO++
		w.keys(p, "", allAES...)
		p.Keys = append(p.Keys, old...)
	})
	w.proofs.release()
	if got := w.openTGS(<-reply, r); got.ticket.EncPart.KVNO != 2 {
		t.Errorf("kvno %d", got.ticket.EncPart.KVNO)
	}
}

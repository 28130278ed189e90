package kdc

import (
	"testing"

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

package kdc

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"
	"time"

	"github.com/charon-kdc/charon/kdc/krb5"
)

// TestLookasideBounds: it holds no more than it may, for no longer than it may, and accounts for every octet.
func TestLookasideBounds(t *testing.T) {
	l := newLookaside()
	reply := make([]byte, 4000)
	req := make([]byte, 100)
	const n = 3 * lookasideBytesMax / 4100
	for i := range n {
		binary.BigEndian.PutUint32(req, uint32(i))
		e, seen := l.claim(req, testPeer, false, testNow)
		if e == nil || seen != nil {
			t.Fatalf("request %d is not new", i)
		}
		l.finish(e, result{reply: reply, proven: true, keep: true}, testNow)
	}
	held := check(t, l)
	if held > lookasideBytesMax || held < lookasideBytesMax/2 {
		t.Fatalf("%d octets held", held)
	}
	if _, seen := l.claim(req, testPeer, false, testNow.Add(lookasideTTL-1)); seen == nil {
		t.Fatal("the newest request is forgotten")
	}
	e, seen := l.claim(req, testPeer, false, testNow.Add(lookasideTTL))
	if e == nil || seen != nil {
		t.Fatal("a request outlived its time")
	}
	l.finish(e, result{}, testNow)
	for i := range n { // every shard sees the time
		binary.BigEndian.PutUint32(req, uint32(i))
		e, _ := l.claim(req, testPeer, false, testNow.Add(time.Hour))
		l.finish(e, result{}, testNow)
	}
	if held := check(t, l); held != 0 {
		t.Fatalf("%d octets held an hour later", held)
	}
}

// TestLookasideInWork: the packet again from the same UDP address is dropped, since the answer goes there; from another port of
// that host, and over TCP, it joins; from another host it is another packet.
func TestLookasideInWork(t *testing.T) {
	l := newLookaside()
	if mine, _ := l.claim([]byte("a"), testPeer, false, testNow); mine == nil {
		t.Fatal("not new")
	}
	elsewhere := netip.AddrPortFrom(testPeer.Addr(), testPeer.Port()+1)
	for _, c := range []struct {
		peer  netip.AddrPort
		tcp   bool
		joins bool
	}{{testPeer, false, false}, {testPeer, true, true}, {elsewhere, false, true}, {elsewhere, true, true}} {
		mine, seen := l.claim([]byte("a"), c.peer, c.tcp, testNow)
		if mine != nil || (seen != nil) != c.joins {
			t.Errorf("%v tcp %v: mine %v, seen %v", c.peer, c.tcp, mine != nil, seen != nil)
		}
	}
}

// TestLookasideOtherHost: whether the packet was answered or is in work, from another host it is worked on its own: what an address may use is not another's.
func TestLookasideOtherHost(t *testing.T) {
	l := newLookaside()
	e, _ := l.claim([]byte("a"), testPeer, false, testNow)
	other := netip.MustParseAddrPort("192.0.2.8:40000")
	o, seen := l.claim([]byte("a"), other, true, testNow)
	if o == nil || seen != nil {
		t.Fatal("in work: joined")
	}
	l.finish(e, result{reply: []byte("b"), keep: true}, testNow)
	l.finish(o, result{reply: []byte("c"), keep: true}, testNow)
	for peer, want := range map[netip.AddrPort]string{testPeer: "b", other: "c", netip.MustParseAddrPort("[::ffff:192.0.2.7]:1"): "b"} {
		_, seen := l.claim([]byte("a"), peer, false, testNow)
		if seen == nil {
			t.Fatalf("%v: not seen", peer)
		}
		if out, _ := l.resultOf(seen); string(out.reply) != want {
			t.Errorf("%v: %q", peer, out.reply)
		}
	}
	check(t, l)
}

// TestAddressBoundResend: the resent bytes of a ticket that is bound to an address get it from there, and from elsewhere what the ticket says.
func TestAddressBoundResend(t *testing.T) {
	w := newWorld(t)
	w.user("alice")
	w.princ("HTTP/web")
	bound := w.login(asReq{client: "alice", addresses: []krb5.HostAddress{krb5.NewAddress(testPeer.Addr())}})
	free := w.login(asReq{client: "alice"})
	away := netip.MustParseAddrPort("192.0.2.8:40000")
	for _, c := range []struct {
		tgt  *cred
		want string
	}{{bound, "KRB-ERROR KRB_AP_ERR_BADADDR status=PROCESS_TGS"}, {free, "KRB-TGS-REP alice@EXAMPLE.COM -> HTTP/web"}} {
		b := w.tgsReq(tgsReq{tgt: c.tgt, server: "HTTP/web"})
		first := w.send(b)
		if got := describe(w.kdc.Answer(t.Context(), Request{Data: b, Peer: away, TCP: true})); got != c.want {
			t.Errorf("from elsewhere: %s", got)
		}
		if again := w.send(b); !bytes.Equal(first, again) || !w.lastEvent().Lookaside {
			t.Errorf("from there: %s", describe(again))
		}
	}
}

// TestResendIsAudited: a line about a resent packet names whom it is about, and chains as the first one does.
func TestResendIsAudited(t *testing.T) {
	w := newWorld(t)
	w.user("alice")
	w.princ("HTTP/web")
	as := w.asReq(asReq{client: "alice", password: "pw-alice"})
	w.send(as)
	tgs := w.tgsReq(tgsReq{tgt: w.login(asReq{client: "alice"}), server: "HTTP/web"})
	w.send(tgs)
	for _, b := range [][]byte{as, tgs} {
		w.send(b)
		again := w.lastEvent()
		var first *Event
		for _, ev := range w.events {
			if ev.TicketID == again.TicketID && !ev.Lookaside {
				first = ev
			}
		}
		if !again.Lookaside || first == nil || again.Client == "" || again.Client != first.Client || again.Server != first.Server || again.FromTicketID != first.FromTicketID {
			t.Errorf("event %+v", again)
		}
	}
}

// TestLookasideClockBackwards: entries from the future are dropped, not kept for ever.
func TestLookasideClockBackwards(t *testing.T) {
	l := newLookaside()
	e, _ := l.claim([]byte("a"), testPeer, false, testNow)
	l.finish(e, result{reply: []byte("b"), proven: true, keep: true}, testNow)
	if e, _ := l.claim([]byte("a"), testPeer, false, testNow.Add(-time.Minute)); e == nil {
		t.Fatal("kept")
	}
}

func check(t *testing.T, l *lookaside) (held int) {
	t.Helper()
	for i := range l.shards {
		s := &l.shards[i]
		sum := 0
		for _, e := range s.order {
			sum += e.size()
			if s.byHash[e.hash] != e {
				t.Fatal("an entry of order is not in byHash")
			}
		}
		if sum != s.bytes || len(s.byHash) != len(s.order) {
			t.Fatalf("shard %d: %d octets counted, %d there; %d and %d entries", i, s.bytes, sum, len(s.byHash), len(s.order))
		}
		held += sum
	}
	return held
}

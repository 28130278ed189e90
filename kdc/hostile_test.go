package kdc

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/charon-kdc/charon/kdc/kdb"
	"github.com/charon-kdc/charon/kdc/krb5"
	"github.com/charon-kdc/charon/kdc/krb5/kcrypto"
)

// node is a DER value: octets when primitive, others when constructed.
type node struct {
	tag  byte
	prim []byte
	kids []*node
}

// parseDER reads one value; the tests only give it what the codec wrote.
func parseDER(b []byte) (*node, []byte) {
	tag, n, head := b[0], int(b[1]), 2
	if n >= 0x80 {
		size := n & 0x7f
		n = 0
		for _, c := range b[2 : 2+size] {
			n = n<<8 | int(c)
		}
		head += size
	}
	body, rest := b[head:head+n], b[head+n:]
	out := &node{tag: tag}
	if tag&0x20 == 0 {
		out.prim = body
		return out, rest
	}
	for len(body) > 0 {
		var kid *node
		kid, body = parseDER(body)
		out.kids = append(out.kids, kid)
	}
	return out, rest
}

func (n *node) der() []byte {
	body := slices.Clone(n.prim)
	for _, k := range n.kids {
		body = append(body, k.der()...)
	}
	out := []byte{n.tag}
	switch l := len(body); {
	case l < 0x80:
		out = append(out, byte(l))
	case l < 0x100:
		out = append(out, 0x81, byte(l))
	default:
		out = append(out, 0x82, byte(l>>8), byte(l))
	}
	return append(out, body...)
}

// nodes lists n and all below it, each with its parent.
func (n *node) nodes(parent *node, visit func(parent, n *node)) {
	visit(parent, n)
	for _, k := range n.kids {
		k.nodes(n, visit)
	}
}

// spoiler is one way to spoil a value at one place.
type spoiler struct {
	name  string
	spoil func(parent, n *node) bool // false: does not apply
}

var spoilers = []spoiler{
	{"drop", func(p, n *node) bool {
		if p == nil {
			return false
		}
		p.kids = slices.DeleteFunc(p.kids, func(k *node) bool { return k == n })
		return true
	}},
	{"empty", func(_, n *node) bool { n.kids, n.prim = nil, nil; return true }},
	{"twice", func(p, n *node) bool {
		if p == nil {
			return false
		}
		p.kids = append(p.kids, n)
		return true
	}},
	{"another tag", func(_, n *node) bool { n.tag ^= 1; return true }},
	{"reversed", func(_, n *node) bool { slices.Reverse(n.kids); return len(n.kids) > 1 }},
	{"zero", func(_, n *node) bool { n.prim = make([]byte, len(n.prim)); return len(n.prim) > 0 }},
	{"ones", func(_, n *node) bool { n.prim = []byte(strings.Repeat("\xff", len(n.prim))); return len(n.prim) > 0 }},
	{"cut", func(_, n *node) bool {
		if len(n.prim) == 0 {
			return false
		}
		n.prim = n.prim[:len(n.prim)-1]
		return true
	}},
	{"longer", func(_, n *node) bool { n.prim = append(n.prim[:len(n.prim):len(n.prim)], 'x'); return len(n.kids) == 0 }},
	{"2^31-1", func(_, n *node) bool { n.prim = []byte{0x7f, 0xff, 0xff, 0xff}; return n.tag == 2 }},
	{"-2^31", func(_, n *node) bool { n.prim = []byte{0x80, 0, 0, 0}; return n.tag == 2 }},
	{"2^64", func(_, n *node) bool { n.prim = []byte{1, 0, 0, 0, 0, 0, 0, 0, 0}; return n.tag == 2 }},
	{"year 0", func(_, n *node) bool { n.prim = []byte("00000101000000Z"); return n.tag == 0x18 }},
	{"1970", func(_, n *node) bool { n.prim = []byte("19700101000000Z"); return n.tag == 0x18 }},
	{"year 9999", func(_, n *node) bool { n.prim = []byte("99991231235959Z"); return n.tag == 0x18 }},
	{"another name", func(_, n *node) bool { n.prim = []byte("EVIL.COM"); return n.tag == 0x1b }},
	{"all bits", func(_, n *node) bool { n.prim = []byte{0, 0xff, 0xff, 0xff, 0xff}; return n.tag == 3 }},
	{"a thousand", func(p, n *node) bool {
		if p == nil || p.tag != 0x30 {
			return false
		}
		for range 1000 {
			p.kids = append(p.kids, n)
		}
		return true
	}},
}

// each gives every spoiled form of the value b to use, by name. With pairs, every two places are spoiled at once by the first two spoilers.
func each(b []byte, pairs bool, use func(name string, b []byte)) {
	count := 0
	root, _ := parseDER(b)
	root.nodes(nil, func(_, _ *node) { count++ })
	spoil := func(at int, m spoiler, root *node) bool {
		i, done := 0, false
		type place struct{ p, n *node }
		var found *place
		root.nodes(nil, func(p, n *node) {
			if i == at {
				found = &place{p, n}
			}
			i++
		})
		if found != nil {
			done = m.spoil(found.p, found.n)
		}
		return done
	}
	for at := range count {
		for _, m := range spoilers {
			root, _ := parseDER(slices.Clone(b))
			if spoil(at, m, root) {
				use(fmt.Sprintf("%s %d", m.name, at), root.der())
			}
		}
		if !pairs {
			continue
		}
		for other := at + 1; other < count; other++ {
			for _, m := range spoilers[:2] {
				root, _ := parseDER(slices.Clone(b))
				if spoil(other, m, root) && spoil(at, m, root) {
					use(fmt.Sprintf("%s %d and %d", m.name, at, other), root.der())
				}
			}
		}
	}
}

// wantRightAnswer holds a reply to a spoiled request: silence, or a refusal that is meant, or a ticket that the realm's rules allow.
func (w *world) wantRightAnswer(name string, reply []byte, proofMayHold bool) {
	w.t.Helper()
	ev := w.lastEvent()
	w.events = w.events[:0]
	clear(w.proofs.seen) // the next one may use the same proof
	if ev.Lookaside {
		return // two mutants, the same octets
	}
	if ev.Status == "PANIC" || ev.Status == "INTERNAL" || ev.Status == "" {
		w.t.Errorf("%s: status %q", name, ev.Status)
	}
	if reply == nil {
		if !ev.Dropped {
			w.t.Errorf("%s: silence, but the event says %+v", name, ev)
		}
		return
	}
	if e, err := krb5.DecodeKRBError(reply); err == nil {
		if e.ErrorCode == krb5.ErrNone || e.EText == "" && e.ErrorCode != krb5.ErrResponseTooBig {
			w.t.Errorf("%s: %s", name, describe(reply))
		}
		return
	}
	if _, err := krb5.DecodeKDCRep(reply); err != nil {
		w.t.Errorf("%s: %s", name, describe(reply))
		return
	}
	life := 10 * time.Hour
	if ev.EndTime.After(w.now().Add(life)) && !ev.Flags.Has(krb5.FlagPostdated) || ev.Flags.Has(krb5.FlagHWAuthent) || !slices.Contains(ev.ETypes, ev.SessionEType) {
		w.t.Errorf("%s: issued %+v", name, ev)
	}
	if !proofMayHold || !ev.Flags.Has(krb5.FlagPreAuthent) {
		w.t.Errorf("%s: issued without a proof: %+v", name, ev)
	}
}

// TestHostileAS spoils every field of an AS-REQ, and of the encrypted timestamp in it.
func TestHostileAS(t *testing.T) {
	w := newWorld(t)
	w.user("alice")
	proved := w.asReq(asReq{client: "alice", password: "pw-alice", encPARep: true, options: krb5.KDCOptRenewable, from: testNow, rtime: testNow.Add(time.Hour),
		addresses: []krb5.HostAddress{{AddrType: krb5.AddrIPv4, Address: []byte{192, 0, 2, 7}}}})
	each(proved, true, func(name string, b []byte) { w.wantRightAnswer("proved: "+name, w.send(b), true) })

	plain := w.asReq(asReq{client: "alice"})
	each(plain, true, func(name string, b []byte) { w.wantRightAnswer("plain: "+name, w.send(b), false) })

	m, err := krb5.DecodeKDCReq(proved)
	if err != nil {
		t.Fatal(err)
	}
	each(m.PAData[0].PADataValue, true, func(name string, b []byte) {
		m.PAData[0].PADataValue = b
		w.wantRightAnswer("PA-ENC-TIMESTAMP: "+name, w.send(w.asReq(asReq{client: "alice", edit: func(o *krb5.KDCReq) { o.PAData = m.PAData }})), true)
	})
	key := w.store.principals["alice@"+testRealm].Keys[2].Key
	ts, err := krb5.EncodePAEncTSEnc(&krb5.PAEncTSEnc{PATimestamp: testNow, PAUSec: 5, HasPAUSec: true})
	if err != nil {
		t.Fatal(err)
	}
	each(ts, true, func(name string, b []byte) {
		ed, err := krb5.Seal(key, 0, w.rand, kcrypto.UsagePAEncTimestamp, b)
		if err != nil {
			t.Fatal(err)
		}
		v, err := krb5.EncodeEncryptedData(&ed)
		if err != nil {
			t.Fatal(err)
		}
		pa := []krb5.PAData{{PADataType: krb5.PAEncTimestamp, PADataValue: v}}
		w.wantRightAnswer("PA-ENC-TS-ENC: "+name, w.send(w.asReq(asReq{client: "alice", edit: func(o *krb5.KDCReq) { o.PAData = pa }})), true)
	})
}

// hostileTGS is a TGS-REQ with as many fields as it can have.
func hostileTGS(w *world) tgsReq {
	w.user("alice")
	w.princ("HTTP/web", kdb.RequiresPreAuth)
	tgt := w.login(asReq{client: "alice", options: krb5.KDCOptRenewable | krb5.KDCOptForwardable | krb5.KDCOptProxiable | krb5.KDCOptAllowPostdate})
	sub, err := kcrypto.GenerateKey(w.rand, kcrypto.AES128SHA2)
	if err != nil {
		w.t.Fatal(err)
	}
	return tgsReq{
		tgt: tgt, server: "HTTP/web", options: krb5.KDCOptRenewable, from: testNow, rtime: testNow.Add(time.Hour), subkey: sub, encPARep: true,
		addresses: []krb5.HostAddress{{AddrType: krb5.AddrIPv4, Address: []byte{192, 0, 2, 7}}},
		authData:  krb5.AuthorizationData{{ADType: krb5.ADIfRelevant, ADData: []byte{0x30, 0}}}, second: tgt,
		editAuth: func(a *krb5.Authenticator) { a.SeqNumber, a.HasSeqNumber = 7, true },
	}
}

// TestHostileTGS spoils every field of a TGS-REQ: as it stands, with a body that is signed again, in the AP-REQ, and inside what is sealed.
func TestHostileTGS(t *testing.T) {
	w := newWorld(t)
	r := hostileTGS(w)
	w.openTGS(w.send(w.tgsReq(r)), r) // nothing is wrong with it

	each(w.tgsReq(r), false, func(name string, b []byte) { w.wantRightAnswer("TGS-REQ: "+name, w.send(b), true) })

	var body []byte
	w.tgsReq(with(r, func(r *tgsReq) {
		r.edit = func(m *krb5.KDCReq) { body, _ = krb5.EncodeKDCReqBody(&m.ReqBody) }
	}))
	each(body, true, func(name string, b []byte) { w.wantRightAnswer("req-body: "+name, w.send(w.resigned(r, b)), true) })

	var ap []byte
	w.tgsReq(with(r, func(r *tgsReq) { r.edit = func(m *krb5.KDCReq) { ap = m.PAData[0].PADataValue } }))
	each(ap, true, func(name string, b []byte) {
		q := with(r, func(r *tgsReq) { r.edit = func(m *krb5.KDCReq) { m.PAData[0].PADataValue = b } })
		w.wantRightAnswer("AP-REQ: "+name, w.send(w.tgsReq(q)), true)
	})
}

// TestHostileSealed spoils what only holders of a key can: the authenticator and the ticket's enc-part.
func TestHostileSealed(t *testing.T) {
	w := newWorld(t)
	r := hostileTGS(w)
	var auth []byte
	w.tgsReq(with(r, func(r *tgsReq) {
		r.editAP = func(a *krb5.APReq) {
			auth, _ = r.tgt.session.Decrypt(kcrypto.UsageTGSReqAuthenticator, a.Authenticator.Cipher)
		}
	}))
	each(auth, true, func(name string, b []byte) {
		q := with(r, func(r *tgsReq) {
			r.editAP = func(a *krb5.APReq) {
				a.Authenticator, _ = krb5.Seal(r.tgt.session, 0, w.rand, kcrypto.UsageTGSReqAuthenticator, b)
			}
		})
		w.wantRightAnswer("Authenticator: "+name, w.send(w.tgsReq(q)), true)
	})

	part, err := krb5.EncodeEncTicketPart(r.tgt.part)
	if err != nil {
		t.Fatal(err)
	}
	key := ticketKey(w.store.principals["krbtgt/"+testRealm+"@"+testRealm])
	each(part, false, func(name string, b []byte) {
		q := with(r, func(r *tgsReq) {
			r.editAP = func(a *krb5.APReq) {
				a.Ticket.EncPart, _ = krb5.Seal(key.Key, key.KVNO, w.rand, kcrypto.UsageTicket, b)
			}
		})
		reply := w.send(w.tgsReq(q))
		if strings.Contains(name, "all bits") || strings.Contains(name, "ones") {
			w.events = w.events[:0] // such flags say HW-AUTHENT, and the KDC's own word counts
			return
		}
		w.wantRightAnswer("EncTicketPart: "+name, reply, true)
	})
}

func with(r tgsReq, f func(*tgsReq)) tgsReq {
	f(&r)
	return r
}

// resigned is r with another body, and an authenticator made for it.
func (w *world) resigned(r tgsReq, body []byte) []byte {
	w.t.Helper()
	r.editAuth = func(a *krb5.Authenticator) {
		sum, err := r.tgt.session.Checksum(kcrypto.UsageTGSReqChecksum, body)
		if err != nil {
			w.t.Fatal(err)
		}
		a.Cksum.Checksum = sum
	}
	root, _ := parseDER(w.tgsReq(r))
	fields := root.kids[0].kids
	last := fields[len(fields)-1] // req-body [4]
	last.kids, last.prim = nil, body
	last.tag = 0xa4
	return root.der()
}

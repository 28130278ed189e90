package kdc

import (
	"net/netip"
	"testing"
	"time"

	"github.com/charon-kdc/charon/kdc/kdb"
	"github.com/charon-kdc/charon/kdc/krb5"
	"github.com/charon-kdc/charon/kdc/krb5/kcrypto"
)

// TestHeader presents what RFC 4120 sections 3.2.3 and 3.3.2 refuse, one thing wrong at a time, and each beside what is right.
func TestHeader(t *testing.T) {
	const good = krb5.ErrNone
	flip := func(b []byte, i int) []byte {
		out := append([]byte(nil), b...)
		out[i] ^= 1
		return out
	}
	for _, c := range []struct {
		name string
		code krb5.ErrorCode
		edit func(w *world, r *tgsReq)
	}{
		{"nothing wrong", good, func(*world, *tgsReq) {}},
		{"no PA-TGS-REQ", krb5.ErrPADataTypeNoSupp, func(_ *world, r *tgsReq) { r.edit = func(m *krb5.KDCReq) { m.PAData = nil } }},
		{"PA-TGS-REQ is empty", krb5.ErrMsgType, func(_ *world, r *tgsReq) { r.edit = func(m *krb5.KDCReq) { m.PAData[0].PADataValue = nil } }},
		{"PA-TGS-REQ is no AP-REQ", krb5.ErrMsgType, func(_ *world, r *tgsReq) { r.edit = func(m *krb5.KDCReq) { m.PAData[0].PADataValue = []byte{0x30, 0} } }},
		{"USE-SESSION-KEY", krb5.ErrPolicy, func(_ *world, r *tgsReq) { r.apOptions = krb5.APOptUseSessionKey }},
		{"MUTUAL-REQUIRED", krb5.ErrPolicy, func(_ *world, r *tgsReq) { r.apOptions = krb5.APOptMutualRequired }},
		{"TGT of a realm that shares no key with ours", krb5.ErrNoKey, func(_ *world, r *tgsReq) { r.editAP = func(a *krb5.APReq) { a.Ticket.Realm = "OTHER.COM" } }},
		{"service ticket of another realm", krb5.ErrNotUs, func(_ *world, r *tgsReq) {
			r.editAP = func(a *krb5.APReq) { a.Ticket.Realm, a.Ticket.SName = "OTHER.COM", mustName("HTTP/web") }
		}},
		{"TGT for another realm", krb5.ErrNoKey, func(_ *world, r *tgsReq) {
			r.editAP = func(a *krb5.APReq) { a.Ticket.SName = krb5.TGSName("OTHER.COM") }
		}},
		{"ticket said to be for another service", krb5.ErrBadIntegrity, func(_ *world, r *tgsReq) {
			r.editAP = func(a *krb5.APReq) { a.Ticket.SName = mustName("HTTP/web") }
		}},
		{"ticket for nobody", krb5.ErrNoKey, func(_ *world, r *tgsReq) {
			r.editAP = func(a *krb5.APReq) { a.Ticket.SName = mustName("HTTP/nowhere") }
		}},
		{"kvno nobody has", krb5.ErrBadKeyVer, func(_ *world, r *tgsReq) { r.editAP = func(a *krb5.APReq) { a.Ticket.EncPart.KVNO = 9 } }},
		{"no kvno: every key is tried", good, func(_ *world, r *tgsReq) { r.editAP = func(a *krb5.APReq) { a.Ticket.EncPart.HasKVNO = false } }},
		{"ticket of an enctype without a key", krb5.ErrNoKey, func(_ *world, r *tgsReq) { r.editAP = func(a *krb5.APReq) { a.Ticket.EncPart.EType = 23 } }},
		{"ticket changed in its first octet", krb5.ErrBadIntegrity, func(_ *world, r *tgsReq) {
			r.editAP = func(a *krb5.APReq) { a.Ticket.EncPart.Cipher = flip(a.Ticket.EncPart.Cipher, 0) }
		}},
		{"ticket changed in its last octet", krb5.ErrBadIntegrity, func(_ *world, r *tgsReq) {
			r.editAP = func(a *krb5.APReq) {
				a.Ticket.EncPart.Cipher = flip(a.Ticket.EncPart.Cipher, len(a.Ticket.EncPart.Cipher)-1)
			}
		}},
		{"ticket one octet short", krb5.ErrBadIntegrity, func(_ *world, r *tgsReq) {
			r.editAP = func(a *krb5.APReq) { a.Ticket.EncPart.Cipher = a.Ticket.EncPart.Cipher[1:] }
		}},
		{"authenticator changed", krb5.ErrBadIntegrity, func(_ *world, r *tgsReq) {
			r.editAP = func(a *krb5.APReq) { a.Authenticator.Cipher = flip(a.Authenticator.Cipher, 20) }
		}},
		{"authenticator under another usage", krb5.ErrBadIntegrity, func(w *world, r *tgsReq) {
			r.editAP = func(a *krb5.APReq) {
				plain, err := r.tgt.session.Decrypt(kcrypto.UsageTGSReqAuthenticator, a.Authenticator.Cipher)
				if err != nil {
					t.Fatal(err)
				}
				a.Authenticator, _ = krb5.Seal(r.tgt.session, 0, w.rand, kcrypto.UsageAPReqAuthenticator, plain)
			}
		}},
		{"authenticator of another enctype", krb5.ErrBadIntegrity, func(_ *world, r *tgsReq) { r.editAP = func(a *krb5.APReq) { a.Authenticator.EType = 17 } }},
		{"authenticator of another client", krb5.ErrBadMatch, func(_ *world, r *tgsReq) { r.editAuth = func(a *krb5.Authenticator) { a.CName = mustName("bob") } }},
		{"authenticator of another realm", krb5.ErrBadMatch, func(_ *world, r *tgsReq) { r.editAuth = func(a *krb5.Authenticator) { a.CRealm = "OTHER.COM" } }},
		{"clock 301 s slow", krb5.ErrSkew, func(_ *world, r *tgsReq) { r.skew = -301 * time.Second }},
		{"clock 301 s fast", krb5.ErrSkew, func(_ *world, r *tgsReq) { r.skew = 301 * time.Second }},
		{"clock 300 s slow", good, func(_ *world, r *tgsReq) { r.skew = -300 * time.Second }},
		{"clock 300 s fast", good, func(_ *world, r *tgsReq) { r.skew = 300 * time.Second }},
		{"no checksum", krb5.ErrInappCksum, func(_ *world, r *tgsReq) { r.editAuth = func(a *krb5.Authenticator) { a.Cksum = nil } }},
		{"checksum that is not collision-proof", krb5.ErrInappCksum, func(_ *world, r *tgsReq) {
			r.editAuth = func(a *krb5.Authenticator) { a.Cksum.CksumType = cksumCRC32 }
		}},
		{"checksum of an unknown type", krb5.ErrSumTypeNoSupp, func(_ *world, r *tgsReq) {
			r.editAuth = func(a *krb5.Authenticator) { a.Cksum.CksumType = 999 }
		}},
		{"checksum of another enctype", krb5.ErrSumTypeNoSupp, func(_ *world, r *tgsReq) {
			r.editAuth = func(a *krb5.Authenticator) { a.Cksum.CksumType = kcrypto.HMACSHA196AES128 }
		}},
		{"checksum changed", krb5.ErrModified, func(_ *world, r *tgsReq) {
			r.editAuth = func(a *krb5.Authenticator) { a.Cksum.Checksum = flip(a.Cksum.Checksum, 3) }
		}},
		{"checksum one octet short", krb5.ErrModified, func(_ *world, r *tgsReq) {
			r.editAuth = func(a *krb5.Authenticator) { a.Cksum.Checksum = a.Cksum.Checksum[1:] }
		}},
		{"checksum empty", krb5.ErrModified, func(_ *world, r *tgsReq) { r.editAuth = func(a *krb5.Authenticator) { a.Cksum.Checksum = []byte{} } }},
		{"body changed", krb5.ErrModified, func(_ *world, r *tgsReq) { r.edit = func(m *krb5.KDCReq) { m.ReqBody.Nonce++ } }},
		{"other sname than the checksum's", krb5.ErrModified, func(_ *world, r *tgsReq) {
			r.edit = func(m *krb5.KDCReq) { n := mustName("bob"); m.ReqBody.SName = &n }
		}},
		{"rsa-md5, as Java sends it", good, func(_ *world, r *tgsReq) { useMD5(t, r, 0) }},
		{"rsa-md5 of another body", krb5.ErrModified, func(_ *world, r *tgsReq) { useMD5(t, r, 1) }},
		{"S4U2Self", krb5.ErrPADataTypeNoSupp, func(_ *world, r *tgsReq) {
			r.edit = func(m *krb5.KDCReq) { m.PAData = append(m.PAData, krb5.PAData{PADataType: krb5.PAForUser}) }
		}},
		{"an unknown realm", krb5.ErrSPrincipalUnknown, func(_ *world, r *tgsReq) { r.editBody = func(b *krb5.KDCReqBody) { b.Realm = "OTHER.COM" } }},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			w.user("alice")
			w.user("bob")
			w.princ("HTTP/web")
			r := tgsReq{tgt: w.login(asReq{client: "alice"}), server: "HTTP/web"}
			c.edit(w, &r)
			reply := w.send(w.tgsReq(r))
			if c.code == good {
				w.openTGS(reply, r)
				return
			}
			if e := w.refusalOf(reply); e.ErrorCode != c.code {
				t.Fatalf("%s, want %v", describe(reply), c.code)
			}
			if n := w.lastEvent(); n.Code != c.code || n.Status == "" || n.TicketID != "" {
				t.Fatalf("event %+v", n)
			}
		})
	}
}

func useMD5(t *testing.T, r *tgsReq, wrong byte) {
	var body *krb5.KDCReqBody
	r.editBody = func(b *krb5.KDCReqBody) { body = b }
	r.editAuth = func(a *krb5.Authenticator) {
		der, err := krb5.EncodeKDCReqBody(body)
		if err != nil {
			t.Fatal(err)
		}
		sum := md5Of(der)
		sum[0] ^= wrong
		a.Cksum = &krb5.Checksum{CksumType: kcrypto.MD5, Checksum: sum}
	}
}

// TestSubkey: the reply is sealed in the authenticator's subkey, whatever its enctype (RFC 4120 section 3.3.3).
func TestSubkey(t *testing.T) {
	w := newWorld(t)
	w.user("alice")
	w.princ("HTTP/web")
	tgt := w.login(asReq{client: "alice"})
	for _, e := range allAES {
		k, err := kcrypto.GenerateKey(w.rand, e)
		if err != nil {
			t.Fatal(err)
		}
		w.ticket(tgsReq{tgt: tgt, server: "HTTP/web", subkey: k})
		if got := w.lastEvent().ReplyEType; got != e {
			t.Errorf("reply sealed with %v, want %v", got, e)
		}
	}
}

// TestTGSKeyRollover: a TGT lives on under the krbtgt key it was issued with until that key retires; staged keys open and do not seal, because
// another node may have made them active a moment ago.
func TestTGSKeyRollover(t *testing.T) {
	w := newWorld(t)
	w.user("alice")
	w.princ("HTTP/web")
	old := w.login(asReq{client: "alice"})
	tgs := "krbtgt/" + testRealm

	var next kdb.Principal
	w.store.change(tgs, func(p *kdb.Principal) {
		next = *p
		next.KVNO = 2
		w.keys(&next, "", allAES...)
		keys := append([]kdb.Key(nil), next.Keys...)
		for i := range keys {
			keys[i].State = kdb.KeyStaged
		}
		p.Keys = append(keys, p.Keys...)
	})
	if got := w.login(asReq{client: "alice"}).ticket.EncPart.KVNO; got != 1 {
		t.Fatalf("a staged key sealed a ticket: kvno %d", got)
	}
	early := *old
	var err error
	if early.ticket.EncPart, err = krb5.SealTicket(next.Keys[0].Key, 2, w.rand, old.part); err != nil {
		t.Fatal(err)
	}
	w.ticket(tgsReq{tgt: &early, server: "HTTP/web"})

	w.store.change(tgs, func(p *kdb.Principal) {
		p.KVNO = 2
		p.Keys = append([]kdb.Key(nil), p.Keys...)
		for i := range p.Keys {
			p.Keys[i].State = kdb.KeyActive
			if p.Keys[i].KVNO == 1 {
				p.Keys[i].State, p.Keys[i].RetireAt = kdb.KeyRetiring, w.now().Add(time.Hour)
			}
		}
	})
	if got := w.login(asReq{client: "alice"}).ticket.EncPart.KVNO; got != 2 {
		t.Fatalf("kvno %d after activation", got)
	}
	w.ticket(tgsReq{tgt: old, server: "HTTP/web"})
	w.pass(time.Hour)
	w.wantRefusal(w.send(w.tgsReq(tgsReq{tgt: old, server: "HTTP/web"})), krb5.ErrBadKeyVer, statusHeader)

	w.store.setStale(true)
	unheard := tgsReq{tgt: old, server: "HTTP/web", editAP: func(a *krb5.APReq) { a.Ticket.EncPart.KVNO = 3 }}
	w.wantRefusal(w.send(w.tgsReq(unheard)), krb5.ErrSvcUnavailable, "STATE_STALE")
}

// TestServiceKeyStaged: a staged key of a service opens nothing here.
func TestServiceKeyStaged(t *testing.T) {
	w := newWorld(t)
	w.user("alice")
	w.princ("HTTP/web")
	svc := w.ticket(tgsReq{tgt: w.login(asReq{client: "alice", options: krb5.KDCOptRenewable}), server: "HTTP/web", options: krb5.KDCOptRenewable})
	renew := tgsReq{tgt: svc, server: "HTTP/web", options: krb5.KDCOptRenew}
	w.ticket(renew)
	w.store.change("HTTP/web", func(p *kdb.Principal) {
		p.Keys = append([]kdb.Key(nil), p.Keys...)
		for i := range p.Keys {
			p.Keys[i].State = kdb.KeyStaged
		}
	})
	w.wantRefusal(w.send(w.tgsReq(renew)), krb5.ErrBadKeyVer, statusHeader)
}

// TestTicketFromElsewhere: a ticket with addresses is good from those; one of which only NetBIOS names are known is good from anywhere, as Windows means it.
func TestTicketFromElsewhere(t *testing.T) {
	w := newWorld(t)
	w.user("alice")
	w.princ("HTTP/web")
	netbios := krb5.HostAddress{AddrType: krb5.AddrNetBIOS, Address: []byte("DESKTOP         ")}
	here, away := krb5.NewAddress(testPeer.Addr()), krb5.NewAddress(netip.MustParseAddr("192.0.2.8"))
	for _, c := range []struct {
		as   []krb5.HostAddress
		good bool
	}{
		{nil, true},
		{[]krb5.HostAddress{here}, true},
		{[]krb5.HostAddress{away}, false},
		{[]krb5.HostAddress{netbios}, true},
		{[]krb5.HostAddress{netbios, away}, false},
		{[]krb5.HostAddress{netbios, here}, true},
	} {
		reply := w.send(w.tgsReq(tgsReq{tgt: w.login(asReq{client: "alice", addresses: c.as}), server: "HTTP/web"}))
		if _, err := krb5.DecodeKDCRep(reply); (err == nil) != c.good {
			t.Errorf("%v: %s", c.as, describe(reply))
		}
	}
}

// TestRenewKeepsTheTicketsName: a renewed ticket is for the name it was for, alias or not, and its flags of today's making are made today.
func TestRenewKeepsTheTicketsName(t *testing.T) {
	w := newWorld(t)
	w.user("alice")
	web := w.princ("HTTP/web", kdb.OKAsDelegate)
	w.store.put(web, "HTTP/www")
	tgt := w.login(asReq{client: "alice", options: krb5.KDCOptRenewable})
	svc := w.ticket(tgsReq{tgt: tgt, server: "HTTP/www", options: krb5.KDCOptRenewable})
	if svc.ticket.SName.String() != "HTTP/www" || !svc.part.Flags.Has(krb5.FlagOKAsDelegate) {
		t.Fatalf("%v %v", svc.ticket.SName, svc.part.Flags)
	}
	w.store.change("HTTP/web", func(p *kdb.Principal) { p.Attributes = 0 })
	renewed := w.ticket(tgsReq{tgt: svc, server: "HTTP/web", options: krb5.KDCOptRenew | krb5.KDCOptDisableTransitedCheck})
	if renewed.ticket.SName.String() != "HTTP/www" || renewed.rep.SName.String() != "HTTP/www" {
		t.Errorf("renewed for %v", renewed.ticket.SName)
	}
	if renewed.part.Flags.Has(krb5.FlagOKAsDelegate) || renewed.part.Flags.Has(krb5.FlagTransitedPolicyChecked) {
		t.Errorf("renewed with %v", renewed.part.Flags)
	}
}

// TestTicketNotYetValid: one that begins in the future is of no use though it is not INVALID, beyond the skew (RFC 4120 section 3.2.3).
func TestTicketNotYetValid(t *testing.T) {
	w := newWorld(t)
	w.user("alice")
	w.princ("HTTP/web")
	tgt := w.login(asReq{client: "alice"})
	from := func(d time.Duration) tgsReq {
		return tgsReq{tgt: w.forge(tgt, func(p *krb5.EncTicketPart) { p.StartTime = testNow.Add(d) }), server: "HTTP/web"}
	}
	w.ticket(from(clockSkewDefault))
	w.wantRefusal(w.send(w.tgsReq(from(clockSkewDefault+time.Second))), krb5.ErrTktNYV, statusHeader)
	noStart := tgsReq{tgt: w.forge(tgt, func(p *krb5.EncTicketPart) { p.StartTime, p.AuthTime = time.Time{}, testNow.Add(time.Hour) }), server: "HTTP/web"}
	w.wantRefusal(w.send(w.tgsReq(noStart)), krb5.ErrTktNYV, statusHeader)
}

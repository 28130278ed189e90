package kdc

import (
	"bytes"
	"slices"
	"testing"
	"time"

	"github.com/charon-kdc/charon/kdc/kdb"
	"github.com/charon-kdc/charon/kdc/krb5"
	"github.com/charon-kdc/charon/kdc/krb5/kcrypto"
)

// Behaviour that clients rely on and new KDCs miss.

// TestClientsRetryTooBigOverTCP: the same octets come again over TCP, and get the ticket, not a replay error; at another node as well, where only the shared
// cache knows of them.
func TestClientsRetryTooBigOverTCP(t *testing.T) {
	w := newWorld(t)
	w.user("alice")
	w.princ("HTTP/web")
	tgt := w.login(asReq{client: "alice"})
	other := New(w.kdc.cfg)
	for _, retry := range []*Server{w.kdc, other} {
		r := tgsReq{tgt: tgt, server: "HTTP/web"}
		b := w.tgsReq(r)
		w.wantRefusal(w.kdc.Answer(t.Context(), Request{Data: b, Peer: testPeer, ReplyMax: 100}), krb5.ErrResponseTooBig, "")
		w.openTGS(retry.Answer(t.Context(), Request{Data: b, Peer: testPeer, TCP: true}), r)
	}
	login := w.asReq(asReq{client: "alice", password: "pw-alice"})
	w.wantRefusal(w.kdc.Answer(t.Context(), Request{Data: login, Peer: testPeer, ReplyMax: 100}), krb5.ErrResponseTooBig, "")
	if _, err := krb5.DecodeKDCRep(other.Answer(t.Context(), Request{Data: login, Peer: testPeer, TCP: true})); err != nil {
		t.Fatal(err)
	}
}

// TestNoETypeInfoForNewerClients: PA-ETYPE-INFO must not appear when the request lists AES, and must when it lists nothing newer than RC4.
func TestNoETypeInfoForNewerClients(t *testing.T) {
	w := newWorld(t)
	old := &kdb.Principal{Realm: testRealm, Name: mustName("old"), KVNO: 1, Attributes: kdb.RequiresPreAuth}
	w.keys(old, "pw-old", kcrypto.AES256SHA1, kcrypto.RC4HMAC)
	w.store.put(old)
	for _, c := range []struct {
		etypes []kcrypto.EType
		want   bool
	}{
		{[]kcrypto.EType{18, 23}, false}, {[]kcrypto.EType{23, 18}, false}, {[]kcrypto.EType{23}, true}, {[]kcrypto.EType{3, 16, 23, -128}, true}, {[]kcrypto.EType{26, 23}, false},
	} {
		e := w.refusalOf(w.send(w.asReq(asReq{client: "old", etypes: c.etypes})))
		md, err := krb5.DecodeMethodData(e.EData)
		if err != nil {
			t.Fatal(err)
		}
		_, info := findPA(md, krb5.PAETypeInfo)
		_, info2 := findPA(md, krb5.PAETypeInfo2)
		_, salt := findPA(md, krb5.PAPWSalt)
		if info != c.want || salt != c.want || !info2 {
			t.Errorf("%v: ETYPE-INFO %v, PW-SALT %v, ETYPE-INFO2 %v", c.etypes, info, salt, info2)
		}
	}
}

// TestSaltIsTheKeys: what a client is told to salt with is what its key was made with, not the default, when a rename has pinned it.
func TestSaltIsTheKeys(t *testing.T) {
	w := newWorld(t)
	p := w.user("alice")
	for i := range p.Keys {
		p.Keys[i].Salt, p.Keys[i].SaltDefault = "EXAMPLE.COMalicia", false
	}
	e := w.refusalOf(w.send(w.asReq(asReq{client: "alice", etypes: []kcrypto.EType{17, 18}})))
	md, err := krb5.DecodeMethodData(e.EData)
	if err != nil {
		t.Fatal(err)
	}
	pa, _ := findPA(md, krb5.PAETypeInfo2)
	info, err := krb5.DecodeETypeInfo2(pa.PADataValue)
	if err != nil || len(info) != 2 || info[0].EType != 17 || info[0].Salt != "EXAMPLE.COMalicia" || info[1].EType != 18 || info[0].S2KParams != nil {
		t.Fatalf("%+v %v", info, err)
	}
}

// TestASRepIsApplication25: strict clients (impacket) can't read the 26 which MIT sends.
func TestASRepIsApplication25(t *testing.T) {
	w := newWorld(t)
	p := w.user("alice")
	w.princ("HTTP/web")
	rep, err := krb5.DecodeKDCRep(w.send(w.asReq(asReq{client: "alice", password: "pw-alice"})))
	if err != nil {
		t.Fatal(err)
	}
	k, _ := p.CurrentKey(rep.EncPart.EType)
	plain, err := k.Decrypt(kcrypto.UsageASRepEncPart, rep.EncPart.Cipher)
	if err != nil || plain[0] != 0x60|25 {
		t.Fatalf("tag %#x, %v", plain[0], err)
	}
	r := tgsReq{tgt: w.login(asReq{client: "alice"}), server: "HTTP/web"}
	if rep, err = krb5.DecodeKDCRep(w.send(w.tgsReq(r))); err != nil {
		t.Fatal(err)
	}
	plain, err = r.tgt.session.Decrypt(kcrypto.UsageTGSRepSession, rep.EncPart.Cipher)
	if err != nil || plain[0] != 0x60|26 {
		t.Fatalf("tag %#x, %v", plain[0], err)
	}
}

// TestNonceOfAllOnes: 2^32-1 comes back as it was sent.
func TestNonceOfAllOnes(t *testing.T) {
	w := newWorld(t)
	w.user("alice")
	for _, n := range []uint32{0, 1, 1 << 31, 1<<32 - 1} {
		c := w.login(asReq{client: "alice", edit: func(m *krb5.KDCReq) { m.ReqBody.Nonce = n }})
		if c.rep.Nonce != n {
			t.Errorf("nonce %d came back as %d", n, c.rep.Nonce)
		}
	}
}

// TestNoSname: a request without sname gets an error, not silence.
func TestNoSname(t *testing.T) {
	w := newWorld(t)
	w.user("alice")
	w.wantRefusal(w.send(w.asReq(asReq{client: "alice", edit: func(m *krb5.KDCReq) { m.ReqBody.SName = nil }})), krb5.ErrSPrincipalUnknown, "NULL_SERVER")
	w.wantRefusal(w.send(w.asReq(asReq{client: "alice", edit: func(m *krb5.KDCReq) { m.ReqBody.CName = nil }})), krb5.ErrCPrincipalUnknown, "NULL_CLIENT")
	w.wantRefusal(w.send(w.tgsReq(tgsReq{tgt: w.login(asReq{client: "alice"})})), krb5.ErrSPrincipalUnknown, "NULL_SERVER")
}

// TestEncPARep: the checksum is over the request as it came, under the reply key; without the question there is no answer (RFC 6806 section 11).
func TestEncPARep(t *testing.T) {
	w := newWorld(t)
	alice := w.user("alice")
	w.princ("HTTP/web")
	check := func(what string, pas []krb5.PAData, key *kcrypto.Key, req []byte) {
		t.Helper()
		pa, ok := findPA(pas, krb5.PAReqEncPARep)
		if !ok {
			t.Fatalf("%s: no PA-REQ-ENC-PA-REP", what)
		}
		c, err := krb5.DecodeChecksum(pa.PADataValue)
		if err != nil {
			t.Fatal(err)
		}
		if err := key.VerifyChecksum(c.CksumType, kcrypto.UsageASReq, req, c.Checksum); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	for _, e := range allAES {
		b := w.asReq(asReq{client: "alice", password: "pw-alice", encPARep: true, etypes: []kcrypto.EType{e}})
		k, _ := alice.CurrentKey(e)
		check(e.String(), w.openAS(w.send(b), k).rep.EncryptedPAData, k, b)
	}
	tgt := w.login(asReq{client: "alice"})
	if tgt.rep.EncryptedPAData != nil {
		t.Fatal("encrypted-pa-data without the question")
	}
	sub, _ := kcrypto.GenerateKey(w.rand, kcrypto.AES128SHA1)
	r := tgsReq{tgt: tgt, server: "HTTP/web", encPARep: true, subkey: sub}
	b := w.tgsReq(r)
	check("TGS-REP", w.openTGS(w.send(b), r).rep.EncryptedPAData, sub, b)
}

// TestAliases: a name asked for comes back as asked, of an AS-REQ unless the client lets the KDC canonicalize; the ticket's client is one and the same by id.
func TestAliases(t *testing.T) {
	w := newWorld(t)
	p := w.user("alice")
	w.store.put(p, "al")
	web := w.princ("HTTP/web")
	w.store.put(web, "HTTP/www")
	key := p.Keys[2].Key
	asked := w.login(asReq{client: "al", key: key})
	canon := w.login(asReq{client: "al", key: key, options: krb5.KDCOptCanonicalize})
	if asked.cname.String() != "al" || canon.cname.String() != "alice" {
		t.Fatalf("%v, %v", asked.cname, canon.cname)
	}
	one := w.ticket(tgsReq{tgt: asked, server: "HTTP/www"})
	two := w.ticket(tgsReq{tgt: canon, server: "HTTP/www", options: krb5.KDCOptCanonicalize})
	for _, c := range []*cred{one, two} { // MIT's clients and Java's look for the ticket under the name they asked for
		if c.ticket.SName.String() != "HTTP/www" || c.rep.SName.String() != "HTTP/www" {
			t.Fatalf("%v, %v", c.ticket.SName, c.rep.SName)
		}
	}
	first := w.login(asReq{client: "alice", server: "HTTP/www", key: key, options: krb5.KDCOptCanonicalize})
	if first.ticket.SName.String() != "HTTP/web" { // RFC 6806 section 6 has it for the AS
		t.Fatalf("%v", first.ticket.SName)
	}
	w.store.remove("al") // and the alias is given to somebody else
	other := w.user("mallory")
	w.store.put(other, "al")
	w.wantRefusal(w.send(w.tgsReq(tgsReq{tgt: asked, server: "HTTP/web"})), krb5.ErrTGTRevoked, "PRINCIPAL_ID_MISMATCH")
}

// TestAliasOfTheTGS: a krbtgt name that is an alias of something else makes no TGT of that one's tickets.
func TestAliasOfTheTGS(t *testing.T) {
	w := newWorld(t)
	w.user("alice")
	w.princ("HTTP/web")
	w.store.realms["OTHER.COM"] = &kdb.Realm{Name: "OTHER.COM", MaxLife: time.Hour, MaxRenewableLife: time.Hour, ETypes: allAES}
	evil := w.princ("host/evil")
	tgt := w.login(asReq{client: "alice"})
	svc := w.ticket(tgsReq{tgt: tgt, server: "host/evil"})
	w.store.put(evil, "krbtgt/OTHER.COM") // of this realm, for another
	other := *evil
	other.Realm, other.Name = "OTHER.COM", mustName("host/evil")
	w.store.put(&other, "krbtgt/"+testRealm) // of another, for this one
	for name, edit := range map[string]func(*krb5.APReq){
		"in the other realm": func(a *krb5.APReq) { a.Ticket.Realm, a.Ticket.SName = "OTHER.COM", krb5.TGSName(testRealm) },
		"from this realm":    func(a *krb5.APReq) { a.Ticket.SName = krb5.TGSName("OTHER.COM") },
	} {
		r := tgsReq{tgt: svc, server: "HTTP/web", editAP: edit}
		if reply := w.send(w.tgsReq(r)); w.refusalOf(reply).ErrorCode != krb5.ErrNotUs {
			t.Errorf("%s: %s", name, describe(reply))
		}
	}
	second := *svc
	second.ticket.SName = krb5.TGSName(testRealm)
	u2u := w.tgsReq(tgsReq{tgt: tgt, server: "alice", second: &second, options: krb5.KDCOptEncTktInSKey})
	tgs := w.store.principals["krbtgt/"+testRealm+"@"+testRealm]
	w.store.principals["krbtgt/"+testRealm+"@"+testRealm] = evil // the worst that a database can say
	w.wantRefusal(w.send(w.tgsReq(tgsReq{tgt: svc, server: "HTTP/web", editAP: func(a *krb5.APReq) { a.Ticket.SName = krb5.TGSName(testRealm) }})), krb5.ErrNotUs, "BAD TGS SERVER NAME")
	evil.Keys = append(slices.Clone(evil.Keys), tgs.Keys...) // that header tickets open is not the point here
	evil.KVNO = 1
	if e := w.refusalOf(w.send(u2u)); e.ErrorCode != krb5.ErrPolicy || e.EText != "2ND_TKT_NOT_TGS" {
		t.Errorf("user to user: %v %s", e.ErrorCode, e.EText)
	}
}

// TestForgedTGT: one for a user who is not in the database is served by MIT; not here, and neither is one with another's id or without any.
func TestForgedTGT(t *testing.T) {
	w := newWorld(t)
	alice := w.user("alice")
	bob := w.user("bob")
	w.princ("HTTP/web")
	tgt := w.login(asReq{client: "alice"})
	for _, c := range []struct {
		name   string
		forge  func(*krb5.EncTicketPart)
		status string
	}{
		{"nobody", func(p *krb5.EncTicketPart) { p.CName = mustName("nobody") }, "CLIENT_NOT_FOUND"},
		{"another's name", func(p *krb5.EncTicketPart) { p.CName = mustName("bob") }, "PRINCIPAL_ID_MISMATCH"},
		{"another's id", func(p *krb5.EncTicketPart) {
			p.AuthorizationData = krb5.AuthorizationData{principalIDElement(bob.ID), principalIDElement(alice.ID)}
		}, "PRINCIPAL_ID_MISMATCH"},
		{"no id", func(p *krb5.EncTicketPart) { p.AuthorizationData = nil }, "PRINCIPAL_ID_MISSING"},
		{"id cut short", func(p *krb5.EncTicketPart) {
			e := principalIDElement(alice.ID)
			e.ADData = e.ADData[:len(e.ADData)-1]
			p.AuthorizationData = krb5.AuthorizationData{e}
		}, "PRINCIPAL_ID_MISSING"},
		{"id outside AD-IF-RELEVANT", func(p *krb5.EncTicketPart) {
			p.AuthorizationData = krb5.AuthorizationData{{ADType: adPrincipalID, ADData: principalIDElement(alice.ID).ADData}}
		}, "PRINCIPAL_ID_MISSING"},
		{"its own", func(*krb5.EncTicketPart) {}, ""},
	} {
		reply := w.send(w.tgsReq(tgsReq{tgt: w.forge(tgt, c.forge), server: "HTTP/web"}))
		if c.status == "" {
			if _, err := krb5.DecodeKDCRep(reply); err != nil {
				t.Errorf("%s: %s", c.name, describe(reply))
			}
			continue
		}
		if e := w.refusalOf(reply); e.EText != c.status {
			t.Errorf("%s: %s", c.name, describe(reply))
		}
	}
	imported := New(configured(w.kdc.cfg, func(c *Config) { c.AcceptIDLess = true }))
	idless := w.forge(tgt, func(p *krb5.EncTicketPart) { p.AuthorizationData = nil })
	b := w.tgsReq(tgsReq{tgt: idless, server: "HTTP/web"})
	if _, err := krb5.DecodeKDCRep(imported.Answer(t.Context(), Request{Data: b, Peer: testPeer, TCP: true})); err != nil {
		t.Fatal("after an import:", err)
	}
}

func configured(c Config, f func(*Config)) Config {
	f(&c)
	return c
}

// TestClientCannotSpeakForTheKDC: authorization data in a request is added, but not what only a KDC may say, and it never gets in front of the id.
func TestClientCannotSpeakForTheKDC(t *testing.T) {
	w := newWorld(t)
	w.user("alice")
	bob := w.user("bob")
	w.princ("HTTP/web")
	tgt := w.login(asReq{client: "alice"})
	wrap := func(ad ...krb5.AuthorizationDataElement) krb5.AuthorizationDataElement {
		b, err := krb5.EncodeAuthorizationData(ad)
		if err != nil {
			t.Fatal(err)
		}
		return krb5.AuthorizationDataElement{ADType: krb5.ADIfRelevant, ADData: b}
	}
	harmless := krb5.AuthorizationDataElement{ADType: 42, ADData: []byte("x")}
	pac := krb5.AuthorizationDataElement{ADType: krb5.ADWin2KPAC, ADData: []byte("p")}
	for _, c := range []struct {
		name string
		ad   krb5.AuthorizationData
		kept int
	}{
		{"harmless", krb5.AuthorizationData{harmless, wrap(harmless)}, 2},
		{"another's id", krb5.AuthorizationData{principalIDElement(bob.ID)}, 0},
		{"a PAC", krb5.AuthorizationData{pac, wrap(pac), wrap(harmless, pac), wrap(wrap(pac)), harmless}, 1},
		{"AD-KDC-ISSUED", krb5.AuthorizationData{{ADType: krb5.ADKDCIssued}}, 0},
		{"authentication indicators", krb5.AuthorizationData{{ADType: 97}, wrap(krb5.AuthorizationDataElement{ADType: 97}), harmless}, 1},
		{"AD-INITIAL-VERIFIED-CAS", krb5.AuthorizationData{{ADType: 9}, wrap(krb5.AuthorizationDataElement{ADType: 9})}, 0},
		{"types 70 and 71", krb5.AuthorizationData{{ADType: 70}, {ADType: 71}, wrap(harmless, krb5.AuthorizationDataElement{ADType: 71})}, 0},
		{"nonsense in AD-IF-RELEVANT", krb5.AuthorizationData{{ADType: krb5.ADIfRelevant, ADData: []byte("x")}}, 0},
	} {
		for _, subkey := range []bool{false, true} {
			r := tgsReq{tgt: tgt, server: "HTTP/web", authData: c.ad}
			if subkey {
				r.subkey, _ = kcrypto.GenerateKey(w.rand, kcrypto.AES256SHA2)
			}
			svc := w.ticket(r)
			if got := len(svc.part.AuthorizationData) - 1; got != c.kept {
				t.Errorf("%s: %d elements kept, want %d", c.name, got, c.kept)
			}
			if !bytes.Equal(svc.part.AuthorizationData[0].ADData, tgt.part.AuthorizationData[0].ADData) {
				t.Errorf("%s: the id is not in front", c.name)
			}
		}
	}
	mandatory := tgsReq{tgt: tgt, server: "HTTP/web", authData: krb5.AuthorizationData{{ADType: krb5.ADMandatoryForKDC}}}
	w.wantRefusal(w.send(w.tgsReq(mandatory)), krb5.ErrPolicy, "MANDATORY_AUTHDATA")
	wrongKey := with(mandatory, func(r *tgsReq) {
		r.editBody = func(b *krb5.KDCReqBody) { b.EncAuthorizationData.Cipher[5] ^= 1 }
	})
	w.wantRefusal(w.send(w.tgsReq(wrongKey)), krb5.ErrBadIntegrity, "AUTHDATA_DECRYPT")
}

// TestImportedPAC: a PAC signed for the TGS is not carried into a ticket for somebody else, and stays in a renewed TGT.
func TestImportedPAC(t *testing.T) {
	w := newWorld(t)
	w.user("alice")
	w.princ("HTTP/web")
	tgt := w.login(asReq{client: "alice", options: krb5.KDCOptRenewable})
	inner, err := krb5.EncodeAuthorizationData(krb5.AuthorizationData{{ADType: krb5.ADWin2KPAC, ADData: []byte("p")}})
	if err != nil {
		t.Fatal(err)
	}
	old := w.forge(tgt, func(p *krb5.EncTicketPart) {
		p.AuthorizationData = append(p.AuthorizationData, krb5.AuthorizationDataElement{ADType: krb5.ADIfRelevant, ADData: inner}, krb5.AuthorizationDataElement{ADType: 42})
	})
	if got := len(w.ticket(tgsReq{tgt: old, server: "HTTP/web"}).part.AuthorizationData); got != 2 {
		t.Errorf("%d elements in a service ticket", got)
	}
	if got := len(w.ticket(tgsReq{tgt: old, server: "krbtgt/" + testRealm, options: krb5.KDCOptRenew}).part.AuthorizationData); got != 3 {
		t.Errorf("%d elements in the renewed TGT", got)
	}
}

// TestCrossRealm: a neighbour's TGT is good for its own clients only, and opens under the key that both realms share.
func TestCrossRealm(t *testing.T) {
	w := newWorld(t)
	alice := w.user("alice")
	w.princ("HTTP/web")
	in := &kdb.Principal{Realm: "OTHER.COM", Name: krb5.TGSName(testRealm), KVNO: 1}
	w.keys(in, "", kcrypto.AES256SHA1)
	w.store.put(in)
	tgt := w.login(asReq{client: "alice"})
	foreign := func(f func(*krb5.EncTicketPart)) *cred {
		c := *tgt
		c.ticket.Realm = "OTHER.COM"
		return w.forge(&c, func(p *krb5.EncTicketPart) {
			p.CRealm, p.CName, p.AuthorizationData = "OTHER.COM", mustName("zoe"), nil
			f(p)
		})
	}
	svc := w.ticket(tgsReq{tgt: foreign(func(*krb5.EncTicketPart) {}), server: "HTTP/web"})
	if svc.part.CRealm != "OTHER.COM" || !svc.part.Flags.Has(krb5.FlagTransitedPolicyChecked) {
		t.Fatalf("%+v", svc.part)
	}
	for _, c := range []struct {
		name, status string
		forge        func(*krb5.EncTicketPart)
	}{
		{"a client of ours", "FOREIGN_TGT_LOCAL_CLIENT", func(p *krb5.EncTicketPart) {
			p.CRealm, p.CName, p.AuthorizationData = testRealm, mustName("alice"), krb5.AuthorizationData{principalIDElement(alice.ID)}
		}},
		{"a client of a third realm", "BAD_TRANSIT", func(p *krb5.EncTicketPart) { p.CRealm = "FAR.COM" }},
		{"through a third realm", "BAD_TRANSIT", func(p *krb5.EncTicketPart) { p.Transited.Contents = []byte("FAR.COM") }},
	} {
		if e := w.refusalOf(w.send(w.tgsReq(tgsReq{tgt: foreign(c.forge), server: "HTTP/web"}))); e.EText != c.status || e.ErrorCode != krb5.ErrPolicy {
			t.Errorf("%s: %v %s", c.name, e.ErrorCode, e.EText)
		}
	}
	out := w.princ("krbtgt/OTHER.COM")
	if c := w.ticket(tgsReq{tgt: tgt, server: "krbtgt/OTHER.COM"}); c.ticket.EncPart.EType != ticketKey(out).EType {
		t.Fatal("the ticket for the neighbour is sealed with another key")
	}
}

// TestKeylessPrincipals: one without keys is offered no proof it can't give, and no ticket is sealed for it.
func TestKeylessPrincipals(t *testing.T) {
	w := newWorld(t)
	w.user("alice")
	w.store.put(&kdb.Principal{Realm: testRealm, Name: mustName("nokeys")})
	w.wantRefusal(w.send(w.asReq(asReq{client: "nokeys"})), krb5.ErrEtypeNoSupp, "CANT_FIND_CLIENT_KEY")
	w.wantRefusal(w.send(w.asReq(asReq{client: "alice", server: "nokeys"})), krb5.ErrNullKey, "FINDING_SERVER_KEY")
	w.wantRefusal(w.send(w.tgsReq(tgsReq{tgt: w.login(asReq{client: "alice"}), server: "nokeys"})), krb5.ErrNullKey, "FINDING_SERVER_KEY")
}

// TestTimesAtTheEdge: `till` in the year 9999, the zero time, and a clock between two seconds.
func TestTimesAtTheEdge(t *testing.T) {
	w := newWorld(t)
	w.user("alice")
	w.pass(999 * time.Millisecond)
	for _, till := range []time.Time{endOfTime, time.Unix(0, 0).UTC()} {
		c := w.login(asReq{client: "alice", till: till})
		if !c.part.EndTime.Equal(testNow.Add(10*time.Hour)) || !c.part.AuthTime.Equal(testNow) {
			t.Errorf("till %v: %+v", till, c.part)
		}
		if ev := w.lastEvent(); !ev.EndTime.Equal(c.part.EndTime) || !ev.AuthTime.Equal(c.part.AuthTime) {
			t.Errorf("the event has other times than the ticket: %+v", ev)
		}
	}
}

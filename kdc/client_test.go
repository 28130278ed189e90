package kdc

import (
	"crypto/md5"
	"fmt"
	"testing"
	"time"

	"github.com/charon-kdc/charon/kdc/krb5"
	"github.com/charon-kdc/charon/kdc/krb5/kcrypto"
)

// cred is a ticket with what its owner knows of it, and with what only the KDC sees.
type cred struct {
	ticket  krb5.Ticket
	session *kcrypto.Key
	crealm  string
	cname   krb5.PrincipalName
	rep     *krb5.EncKDCRepPart // the client's view
	part    *krb5.EncTicketPart // the service's view; nil when the test does not know the key
	padata  []krb5.PAData
	kvno    uint32
}

// asReq is an AS-REQ before it is bytes: the zero value with a client is one that any client sends.
type asReq struct {
	client, server string
	password       string // "" for no PA-ENC-TIMESTAMP
	key            *kcrypto.Key
	etypes         []kcrypto.EType
	options        krb5.KDCOptions
	from, till     time.Time
	rtime          time.Time
	skew           time.Duration // of the client's clock
	addresses      []krb5.HostAddress
	encPARep       bool
	edit           func(*krb5.KDCReq) // last word before it is bytes
}

var nonce uint32

func (w *world) asReq(r asReq) []byte {
	w.t.Helper()
	nonce++
	m := &krb5.KDCReq{MsgType: krb5.MsgASReq}
	cname := mustName(r.client)
	if r.server == "" {
		r.server = "krbtgt/" + testRealm
	}
	sname := mustName(r.server)
	if r.etypes == nil {
		r.etypes = []kcrypto.EType{kcrypto.AES256SHA1, kcrypto.AES128SHA1, kcrypto.AES256SHA2, kcrypto.AES128SHA2}
	}
	if r.till.IsZero() {
		r.till = w.now().Add(24 * time.Hour)
	}
	m.ReqBody = krb5.KDCReqBody{
		KDCOptions: r.options, CName: &cname, Realm: testRealm, SName: &sname,
		From: r.from, Till: r.till, RTime: r.rtime, Nonce: nonce, EType: r.etypes, Addresses: r.addresses,
	}
	if r.password != "" || r.key != nil {
		m.PAData = append(m.PAData, w.encTimestamp(r))
	}
	if r.encPARep {
		m.PAData = append(m.PAData, krb5.PAData{PADataType: krb5.PAReqEncPARep})
	}
	if r.edit != nil {
		r.edit(m)
	}
	b, err := krb5.EncodeKDCReq(m)
	if err != nil {
		w.t.Fatal(err)
	}
	return b
}

func (w *world) encTimestamp(r asReq) krb5.PAData {
	w.t.Helper()
	k := r.key
	if k == nil {
		e := w.proofEType(r)
		var err error
		if k, err = testStringToKey(e, r.password, krb5.DefaultSalt(testRealm, mustName(r.client))); err != nil {
			w.t.Fatal(err)
		}
	}
	return w.encTimestampWith(k, w.now().Add(r.skew))
}

// proofEType is what a client that has read ETYPE-INFO2 uses: the first requested one that its principal has a key of.
func (w *world) proofEType(r asReq) kcrypto.EType {
	if p, err := w.store.Principal(testRealm, mustName(r.client)); err == nil {
		for _, e := range r.etypes {
			if hasCurrentKey(p, e) {
				return e
			}
		}
	}
	return kcrypto.AES256SHA1
}

func (w *world) encTimestampWith(k *kcrypto.Key, at time.Time) krb5.PAData {
	w.t.Helper()
	ts := krb5.PAEncTSEnc{HasPAUSec: true}
	ts.PATimestamp, ts.PAUSec = krb5.SplitTime(at)
	plain, err := krb5.EncodePAEncTSEnc(&ts)
	if err != nil {
		w.t.Fatal(err)
	}
	ed, err := krb5.Seal(k, 0, w.rand, kcrypto.UsagePAEncTimestamp, plain)
	if err != nil {
		w.t.Fatal(err)
	}
	v, err := krb5.EncodeEncryptedData(&ed)
	if err != nil {
		w.t.Fatal(err)
	}
	return krb5.PAData{PADataType: krb5.PAEncTimestamp, PADataValue: v}
}

// openAS reads the reply to an AS-REQ as the client with that key would.
func (w *world) openAS(reply []byte, key *kcrypto.Key) *cred {
	w.t.Helper()
	rep, err := krb5.DecodeKDCRep(reply)
	if err != nil {
		w.t.Fatalf("AS-REP: %v (%s)", err, describe(reply))
	}
	part, err := krb5.Open(key, kcrypto.UsageASRepEncPart, rep.EncPart, krb5.DecodeEncKDCRepPart)
	if err != nil {
		w.t.Fatalf("enc-part of the AS-REP: %v", err)
	}
	return w.cred(rep, part)
}

func (w *world) cred(rep *krb5.KDCRep, part *krb5.EncKDCRepPart) *cred {
	c := &cred{ticket: rep.Ticket, session: part.Key, crealm: rep.CRealm, cname: rep.CName, rep: part, padata: rep.PAData, kvno: rep.EncPart.KVNO}
	if p, err := w.store.Principal(rep.Ticket.Realm, rep.Ticket.SName); err == nil {
		for _, k := range p.Keys {
			if e := rep.Ticket.EncPart; !e.HasKVNO || k.KVNO != e.KVNO || k.EType != e.EType || !opens(p, &k, w.now()) {
				continue
			}
			if c.part, err = krb5.OpenTicket(k.Key, &rep.Ticket); err != nil {
				w.t.Fatalf("ticket for %v: %v", rep.Ticket.SName, err)
			}
			break
		}
	}
	return c
}

// login is an AS exchange that must succeed.
func (w *world) login(r asReq) *cred {
	w.t.Helper()
	if r.password == "" && r.key == nil {
		r.password = "pw-" + r.client
	}
	reply := w.send(w.asReq(r))
	key := r.key
	if key == nil {
		p, err := w.store.Principal(testRealm, mustName(r.client))
		if err != nil {
			w.t.Fatal(err)
		}
		rep, err := krb5.DecodeKDCRep(reply)
		if err != nil {
			w.t.Fatalf("login of %s: %s", r.client, describe(reply))
		}
		key, _ = p.CurrentKey(rep.EncPart.EType)
	}
	return w.openAS(reply, key)
}

// tgsReq is a TGS-REQ before it is bytes.
type tgsReq struct {
	tgt       *cred
	server    string
	options   krb5.KDCOptions
	etypes    []kcrypto.EType
	from      time.Time
	till      time.Time
	rtime     time.Time
	skew      time.Duration
	addresses []krb5.HostAddress
	second    *cred
	subkey    *kcrypto.Key
	authData  krb5.AuthorizationData
	encPARep  bool
	apOptions krb5.APOptions
	editBody  func(*krb5.KDCReqBody)
	editAuth  func(*krb5.Authenticator)
	editAP    func(*krb5.APReq)
	edit      func(*krb5.KDCReq)
}

func (w *world) tgsReq(r tgsReq) []byte {
	w.t.Helper()
	nonce++
	m := &krb5.KDCReq{MsgType: krb5.MsgTGSReq}
	if r.etypes == nil {
		r.etypes = []kcrypto.EType{kcrypto.AES256SHA1, kcrypto.AES128SHA1, kcrypto.AES256SHA2, kcrypto.AES128SHA2}
	}
	if r.till.IsZero() {
		r.till = w.now().Add(24 * time.Hour)
	}
	m.ReqBody = krb5.KDCReqBody{
		KDCOptions: r.options, Realm: testRealm, From: r.from, Till: r.till, RTime: r.rtime,
		Nonce: nonce, EType: r.etypes, Addresses: r.addresses,
	}
	if r.server != "" {
		sname := mustName(r.server)
		m.ReqBody.SName = &sname
	}
	if r.second != nil {
		m.ReqBody.AdditionalTickets = []krb5.Ticket{r.second.ticket}
	}
	if r.authData != nil {
		m.ReqBody.EncAuthorizationData = w.sealedAuthData(r)
	}
	if r.editBody != nil {
		r.editBody(&m.ReqBody)
	}
	m.PAData = []krb5.PAData{w.paTGSReq(r, m)}
	if r.encPARep {
		m.PAData = append(m.PAData, krb5.PAData{PADataType: krb5.PAReqEncPARep})
	}
	if r.edit != nil {
		r.edit(m)
	}
	b, err := krb5.EncodeKDCReq(m)
	if err != nil {
		w.t.Fatal(err)
	}
	return b
}

func (w *world) sealedAuthData(r tgsReq) *krb5.EncryptedData {
	plain, err := krb5.EncodeAuthorizationData(r.authData)
	if err != nil {
		w.t.Fatal(err)
	}
	k, usage := r.tgt.session, kcrypto.UsageTGSReqAuthDataSession
	if r.subkey != nil {
		k, usage = r.subkey, kcrypto.UsageTGSReqAuthDataSubKey
	}
	ed, err := krb5.Seal(k, 0, w.rand, usage, plain)
	if err != nil {
		w.t.Fatal(err)
	}
	return &ed
}

func (w *world) paTGSReq(r tgsReq, m *krb5.KDCReq) krb5.PAData {
	body, err := krb5.EncodeKDCReqBody(&m.ReqBody)
	if err != nil {
		w.t.Fatal(err)
	}
	sum, err := r.tgt.session.Checksum(kcrypto.UsageTGSReqChecksum, body)
	if err != nil {
		w.t.Fatal(err)
	}
	auth := &krb5.Authenticator{
		CRealm: r.tgt.crealm, CName: r.tgt.cname, SubKey: r.subkey,
		Cksum: &krb5.Checksum{CksumType: r.tgt.session.EType().ChecksumType(), Checksum: sum},
	}
	auth.CTime, auth.CUSec = krb5.SplitTime(w.now().Add(r.skew))
	if r.editAuth != nil {
		r.editAuth(auth)
	}
	plain, err := krb5.EncodeAuthenticator(auth)
	if err != nil {
		w.t.Fatal(err)
	}
	ap := &krb5.APReq{Ticket: r.tgt.ticket, APOptions: r.apOptions}
	if ap.Authenticator, err = krb5.Seal(r.tgt.session, 0, w.rand, kcrypto.UsageTGSReqAuthenticator, plain); err != nil {
		w.t.Fatal(err)
	}
	if r.editAP != nil {
		r.editAP(ap)
	}
	v, err := krb5.EncodeAPReq(ap)
	if err != nil {
		w.t.Fatal(err)
	}
	return krb5.PAData{PADataType: krb5.PATGSReq, PADataValue: v}
}

func md5Of(body []byte) []byte {
	s := md5.Sum(body)
	return s[:]
}

// openTGS reads the reply to r as its client would.
func (w *world) openTGS(reply []byte, r tgsReq) *cred {
	w.t.Helper()
	rep, err := krb5.DecodeKDCRep(reply)
	if err != nil {
		w.t.Fatalf("TGS-REP: %v (%s)", err, describe(reply))
	}
	k, usage := r.tgt.session, kcrypto.UsageTGSRepSession
	if r.subkey != nil {
		k, usage = r.subkey, kcrypto.UsageTGSRepSubKey
	}
	part, err := krb5.Open(k, usage, rep.EncPart, krb5.DecodeEncKDCRepPart)
	if err != nil {
		w.t.Fatalf("enc-part of the TGS-REP: %v", err)
	}
	return w.cred(rep, part)
}

// ticket is a TGS exchange that must succeed.
func (w *world) ticket(r tgsReq) *cred {
	w.t.Helper()
	return w.openTGS(w.send(w.tgsReq(r)), r)
}

// forge seals a ticket as a KDC with that key would, with whatever f makes of c's.
func (w *world) forge(c *cred, f func(*krb5.EncTicketPart)) *cred {
	w.t.Helper()
	out := *c
	part := *c.part
	f(&part)
	p, err := w.store.Principal(c.ticket.Realm, c.ticket.SName)
	if err != nil {
		w.t.Fatal(err)
	}
	k := ticketKey(p)
	if out.ticket.EncPart, err = krb5.SealTicket(k.Key, k.KVNO, w.rand, &part); err != nil {
		w.t.Fatal(err)
	}
	out.part, out.session, out.crealm, out.cname = &part, part.Key, part.CRealm, part.CName
	return &out
}

// refusalOf is the KRB-ERROR in a reply.
func (w *world) refusalOf(reply []byte) *krb5.KRBError {
	w.t.Helper()
	e, err := krb5.DecodeKRBError(reply)
	if err != nil {
		w.t.Fatalf("want a KRB-ERROR, have %s", describe(reply))
	}
	return e
}

// wantRefusal checks code and status of a refusal.
func (w *world) wantRefusal(reply []byte, code krb5.ErrorCode, status string) {
	w.t.Helper()
	if got, want := describe(reply), fmt.Sprintf("KRB-ERROR %v status=%s", code, status); got != want {
		w.t.Fatalf("reply: %s\n want: %s", got, want)
	}
}

// describe is a reply in a line, as far as anybody can read it.
func describe(b []byte) string {
	if b == nil {
		return "no reply"
	}
	if e, err := krb5.DecodeKRBError(b); err == nil {
		return fmt.Sprintf("KRB-ERROR %v status=%s", e.ErrorCode, e.EText)
	}
	if r, err := krb5.DecodeKDCRep(b); err == nil {
		return fmt.Sprintf("%v %s -> %s", r.MsgType, krb5.FormatPrincipal(r.CName, r.CRealm), r.Ticket.SName)
	}
	return fmt.Sprintf("%d octets of something else", len(b))
}

func TestLoginAndTicket(t *testing.T) {
	w := newWorld(t)
	w.user("alice")
	w.princ("HTTP/web")
	tgt := w.login(asReq{client: "alice"})
	if tgt.part == nil || !tgt.part.Flags.Has(krb5.FlagInitial|krb5.FlagPreAuthent|krb5.FlagEncPARep) {
		t.Fatalf("TGT: %+v", tgt.part)
	}
	svc := w.ticket(tgsReq{tgt: tgt, server: "HTTP/web"})
	if svc.part == nil || svc.part.Flags.Has(krb5.FlagInitial) || !svc.part.Flags.Has(krb5.FlagPreAuthent|krb5.FlagTransitedPolicyChecked) {
		t.Fatalf("service ticket: %+v", svc.part)
	}
	if !svc.part.Key.Equal(svc.session) || svc.part.AuthTime != tgt.part.AuthTime {
		t.Fatalf("service ticket: %+v", svc.part)
	}
}

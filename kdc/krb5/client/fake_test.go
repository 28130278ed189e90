package client_test

import (
	"context"
	"crypto/rand"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/charon-kdc/charon/kdc/krb5"
	"github.com/charon-kdc/charon/kdc/krb5/client"
	"github.com/charon-kdc/charon/kdc/krb5/kcrypto"
	"github.com/charon-kdc/charon/kdc/transport"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const realm = "EXAMPLE.COM"

var (
	alice = krb5.MkName(krb5.NTPrincipal, "alice")
	http  = krb5.MkName(krb5.NTSrvHst, "HTTP", "web")
)

// fakeKDC knows alice, krbtgt and HTTP/web, and gives what it is asked for without a policy. It is written from RFC 4120 for these tests, apart
// from package kdc, so that a misreading there is not shared. change may falsify a reply before it is sealed.
type fakeKDC struct {
	t         *testing.T
	preauth   bool
	password  string
	salt      string
	params    []byte
	etypes    []kcrypto.EType // of alice's keys
	key       *kcrypto.Key    // krbtgt's and the service's
	encPARep  bool
	refuse    krb5.ErrorCode // answered to everything
	clock     func() time.Time
	change    func(rep *krb5.KDCRep, part *krb5.EncKDCRepPart)
	spoil     func(reply []byte) []byte
	udpMax    int // above it KRB_ERR_RESPONSE_TOO_BIG
	mu        sync.Mutex
	requests  []*krb5.KDCReq
	raw       [][]byte
	transport []bool // TCP
}

func newFake(t *testing.T) *fakeKDC {
	k, err := kcrypto.GenerateKey(rand.Reader, kcrypto.AES256SHA2)
	if err != nil {
		t.Fatal(err)
	}
	return &fakeKDC{t: t, preauth: true, password: "secret", salt: "odd salt", etypes: client.DefaultETypes[2:], key: k, clock: time.Now}
}

// serve listens on a free port until the test ends, and gives the way there.
func (f *fakeKDC) serve() client.Via {
	f.t.Helper()
	s, err := transport.Listen(transport.Config{Addrs: []string{"127.0.0.1:0"}, Handler: f.answer, PoisonBuffers: true, UDPReaders: 1})
	if err != nil {
		f.t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { defer close(done); s.Serve(context.Background()) }()
	f.t.Cleanup(func() { s.Shutdown(context.Background()); <-done })
	return client.Via{KDCs: []string{s.Addrs()[0].String()}}
}

func (f *fakeKDC) last() *krb5.KDCReq {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.requests[len(f.requests)-1]
}

// set changes f while it serves.
func (f *fakeKDC) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

func (f *fakeKDC) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.requests)
}

func must[T any](f *fakeKDC) func(T, error) T {
	return func(v T, err error) T {
		if err != nil {
			f.t.Errorf("fake KDC: %v", err)
			panic(err)
		}
		return v
	}
}

func (f *fakeKDC) answer(_ context.Context, p transport.Packet) []byte {
	data := slices.Clone(p.Data)
	req := must[*krb5.KDCReq](f)(krb5.DecodeKDCReq(data))
	f.mu.Lock()
	defer f.mu.Unlock()
	f.requests, f.raw, f.transport = append(f.requests, req), append(f.raw, data), append(f.transport, p.TCP)
	if f.refuse != 0 {
		return f.error(req, f.refuse, nil)
	}
	var reply []byte
	if req.MsgType == krb5.MsgASReq {
		reply = f.as(req, data)
	} else {
		reply = f.tgs(req)
	}
	if f.spoil != nil {
		reply = f.spoil(reply)
	}
	if !p.TCP && f.udpMax > 0 && len(reply) > f.udpMax {
		return f.error(req, krb5.ErrResponseTooBig, nil)
	}
	return reply
}

func (f *fakeKDC) error(req *krb5.KDCReq, code krb5.ErrorCode, edata []byte) []byte {
	e := krb5.KRBError{ErrorCode: code, Realm: req.ReqBody.Realm, SName: *req.ReqBody.SName, EData: edata, EText: "STATUS"}
	e.STime, e.SUSec = krb5.SplitTime(f.clock().UTC())
	return must[[]byte](f)(krb5.EncodeKRBError(&e))
}

// aliceKey is alice's key of the first of her enctypes that the request lists.
func (f *fakeKDC) aliceKey(b *krb5.KDCReqBody) *kcrypto.Key {
	for _, e := range b.EType {
		if slices.Contains(f.etypes, e) {
			return must[*kcrypto.Key](f)(kcrypto.StringToKey(e, f.password, f.salt, f.params))
		}
	}
	return nil
}

func (f *fakeKDC) as(req *krb5.KDCReq, raw []byte) []byte {
	k := f.aliceKey(&req.ReqBody)
	if k == nil {
		return f.error(req, krb5.ErrEtypeNoSupp, nil)
	}
	info := must[[]byte](f)(krb5.EncodeETypeInfo2([]krb5.ETypeInfo2Entry{{EType: k.EType(), Salt: f.salt, HasSalt: true, S2KParams: f.params}}))
	padata := []krb5.PAData{{PADataType: krb5.PAETypeInfo2, PADataValue: info}}
	var proof []byte
	cookie := false
	for _, pa := range req.PAData {
		if pa.PADataType == krb5.PAEncTimestamp {
			proof = pa.PADataValue
		}
		cookie = cookie || pa.PADataType == krb5.PAFXCookie && string(pa.PADataValue) == "cookie"
	}
	if f.preauth {
		if proof == nil {
			method := append([]krb5.PAData{{PADataType: krb5.PAEncTimestamp}, {PADataType: krb5.PAFXCookie, PADataValue: []byte("cookie")}}, padata...)
			return f.error(req, krb5.ErrPreauthRequired, must[[]byte](f)(krb5.EncodeMethodData(method)))
		}
		ed := must[*krb5.EncryptedData](f)(krb5.DecodeEncryptedData(proof))
		ts, err := krb5.Open(k, kcrypto.UsagePAEncTimestamp, *ed, krb5.DecodePAEncTSEnc)
		if err != nil || !cookie {
			return f.error(req, krb5.ErrPreauthFailed, nil)
		}
		if ts.Time().Sub(f.clock()).Abs() > 5*time.Minute {
			return f.error(req, krb5.ErrSkew, nil)
		}
	}
	part := f.part(req, f.clock(), alice)
	part.Flags |= krb5.FlagInitial
	if f.encPARep {
		part.Flags |= krb5.FlagEncPARep
		sum := must[[]byte](f)(k.Checksum(kcrypto.UsageASReq, raw))
		der := must[[]byte](f)(krb5.EncodeChecksum(&krb5.Checksum{CksumType: k.EType().ChecksumType(), Checksum: sum}))
		part.EncryptedPAData = []krb5.PAData{{PADataType: krb5.PAReqEncPARep, PADataValue: der}}
	}
	return f.seal(req, krb5.MsgASRep, part, alice, padata, k, kcrypto.UsageASRepEncPart, f.key)
}

func (f *fakeKDC) tgs(req *krb5.KDCReq) []byte {
	var ap *krb5.APReq
	for _, pa := range req.PAData {
		if pa.PADataType == krb5.PATGSReq {
			ap = must[*krb5.APReq](f)(krb5.DecodeAPReq(pa.PADataValue))
		}
	}
	tgt := must[*krb5.EncTicketPart](f)(krb5.OpenTicket(f.key, &ap.Ticket))
	auth := must[*krb5.Authenticator](f)(krb5.Open(tgt.Key, kcrypto.UsageTGSReqAuthenticator, ap.Authenticator, krb5.DecodeAuthenticator))
	if err := tgt.Key.VerifyChecksum(auth.Cksum.CksumType, kcrypto.UsageTGSReqChecksum, req.RawBody, auth.Cksum.Checksum); err != nil {
		f.t.Errorf("fake KDC: the checksum over the body: %v", err)
	}
	if ad := req.ReqBody.EncAuthorizationData; ad != nil {
		got := must[krb5.AuthorizationData](f)(krb5.Open(auth.SubKey, kcrypto.UsageTGSReqAuthDataSubKey, *ad, krb5.DecodeAuthorizationData))
		if len(got) != 1 || string(got[0].ADData) != "for the service" {
			f.t.Errorf("fake KDC: authorization data %v", got)
		}
	}
	part := f.part(req, tgt.AuthTime, tgt.CName)
	key := f.key
	if len(req.ReqBody.AdditionalTickets) > 0 {
		key = must[*krb5.EncTicketPart](f)(krb5.OpenTicket(f.key, &req.ReqBody.AdditionalTickets[0])).Key
	}
	return f.seal(req, krb5.MsgTGSRep, part, tgt.CName, nil, auth.SubKey, kcrypto.UsageTGSRepSubKey, key)
}

// part gives what was asked for.
func (f *fakeKDC) part(req *krb5.KDCReq, authTime time.Time, cname krb5.PrincipalName) *krb5.EncKDCRepPart {
	b := &req.ReqBody
	now := f.clock().UTC().Truncate(time.Second)
	const same = krb5.KDCOptForwardable | krb5.KDCOptForwarded | krb5.KDCOptProxiable | krb5.KDCOptProxy | krb5.KDCOptRenewable
	p := &krb5.EncKDCRepPart{
		Key: must[*kcrypto.Key](f)(kcrypto.GenerateKey(rand.Reader, b.EType[0])), Nonce: b.Nonce, LastReq: []krb5.LastReq{{LRValue: now}},
		Flags: krb5.TicketFlags(b.KDCOptions & same), AuthTime: authTime.UTC().Truncate(time.Second), StartTime: now, EndTime: b.Till,
		SRealm: b.Realm, SName: *b.SName, CAddr: b.Addresses,
	}
	if !b.From.IsZero() {
		p.StartTime, p.Flags = b.From, p.Flags|krb5.FlagPostdated|krb5.FlagInvalid
	}
	if b.KDCOptions.Has(krb5.KDCOptRenewable) {
		p.RenewTill = b.RTime
	}
	return p
}

func (f *fakeKDC) seal(req *krb5.KDCReq, t krb5.MsgType, p *krb5.EncKDCRepPart, cname krb5.PrincipalName, padata []krb5.PAData, k *kcrypto.Key, u kcrypto.Usage, ticketKey *kcrypto.Key) []byte {
	enc := must[krb5.EncryptedData](f)(krb5.SealTicket(ticketKey, 1, rand.Reader, &krb5.EncTicketPart{
		Flags: p.Flags, Key: p.Key, CRealm: realm, CName: cname, AuthTime: p.AuthTime, StartTime: p.StartTime, EndTime: p.EndTime, RenewTill: p.RenewTill, CAddr: p.CAddr,
	}))
	rep := &krb5.KDCRep{MsgType: t, PAData: padata, CRealm: realm, CName: cname, Ticket: krb5.Ticket{Realm: p.SRealm, SName: p.SName, EncPart: enc}}
	if f.change != nil {
		f.change(rep, p)
	}
	plain := must[[]byte](f)(krb5.EncodeEncKDCRepPart(t, p))
	rep.EncPart = must[krb5.EncryptedData](f)(krb5.Seal(k, 0, rand.Reader, u, plain))
	return must[[]byte](f)(krb5.EncodeKDCRep(rep))
}

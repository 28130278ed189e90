package krb5

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"net/netip"
	"testing"
	"time"

	"github.com/charon-kdc/charon/kdc/krb5/kcrypto"
)

// testRand is a stream of octets that is the same in every run.
type testRand struct{ n [32]byte }

func (r *testRand) Read(p []byte) (int, error) {
	for done := 0; done < len(p); {
		r.n = sha256.Sum256(r.n[:])
		done += copy(p[done:], r.n[:])
	}
	return len(p), nil
}

var (
	apNow     = time.Date(2026, 11, 24, 12, 0, 0, 123456789, time.UTC)
	apRealm   = "EXAMPLE.COM"
	apClient  = MkName(NTPrincipal, "alice")
	apService = MkName(NTSrvHst, "host", "a.example")
)

// apSetup is a ticket for apService and what opens it.
type apSetup struct {
	rand    io.Reader
	service *kcrypto.Key
	session *kcrypto.Key
	part    EncTicketPart
	ticket  Ticket
}

func newAPSetup(t testing.TB, e kcrypto.EType, change func(*EncTicketPart)) *apSetup {
	t.Helper()
	s := &apSetup{rand: &testRand{}}
	var err error
	if s.service, err = kcrypto.GenerateKey(s.rand, e); err != nil {
		t.Fatal(err)
	}
	if s.session, err = kcrypto.GenerateKey(s.rand, e); err != nil {
		t.Fatal(err)
	}
	s.part = EncTicketPart{
		Flags: FlagInitial | FlagPreAuthent, Key: s.session, CRealm: apRealm, CName: apClient, Transited: TransitedEncoding{TRType: TRDomainX500Compress},
		AuthTime: apNow.Add(-time.Hour), EndTime: apNow.Add(time.Hour),
	}
	if change != nil {
		change(&s.part)
	}
	enc, err := SealTicket(s.service, 3, s.rand, &s.part)
	if err != nil {
		t.Fatal(err)
	}
	s.ticket = Ticket{Realm: apRealm, SName: apService, EncPart: enc}
	return s
}

func (s *apSetup) lookup(realm string, sname PrincipalName, kvno uint32, e kcrypto.EType) (*kcrypto.Key, error) {
	if realm != apRealm || !sname.Equal(apService) || kvno != 3 || e != s.service.EType() {
		return nil, errors.New("no such key")
	}
	return s.service, nil
}

func (s *apSetup) request(t testing.TB, o APReqOptions) ([]byte, *Authenticator) {
	t.Helper()
	req, auth, err := NewAPReq(s.rand, apNow, s.ticket, s.session, apRealm, apClient, o)
	if err != nil {
		t.Fatal(err)
	}
	return req, auth
}

func wantCode(t *testing.T, err error, want ErrorCode) {
	t.Helper()
	if e, ok := errors.AsType[*Error](err); !ok || e.Code != want {
		t.Errorf("got %v, want %v", err, want)
	}
}

func TestAPExchange(t *testing.T) {
	for _, e := range []kcrypto.EType{kcrypto.AES128SHA1, kcrypto.AES256SHA1, kcrypto.AES128SHA2, kcrypto.AES256SHA2, kcrypto.RC4HMAC} {
		s := newAPSetup(t, e, nil)
		sub, err := kcrypto.GenerateKey(s.rand, e)
		if err != nil {
			t.Fatal(err)
		}
		seq, body := uint32(7), []byte("application body")
		req, auth := s.request(t, APReqOptions{Options: APOptMutualRequired, Body: body, SubKey: sub, SeqNumber: &seq})
		c, err := AcceptAPReq(req, s.lookup, apNow.Add(4*time.Minute), 5*time.Minute)
		if err != nil {
			t.Fatalf("%v: %v", e, err)
		}
		name, realm := c.Client()
		if !name.Equal(apClient) || realm != apRealm || !c.SName.Equal(apService) || !c.Key().Equal(sub) || c.Authenticator.SeqNumber != 7 || !c.Options.Has(APOptMutualRequired) {
			t.Errorf("%v: context %+v", e, c)
		}
		if !c.Authenticator.Time().Equal(apNow.Truncate(time.Microsecond)) {
			t.Errorf("%v: time %v", e, c.Authenticator.Time())
		}
		if err := c.CheckBody(body); err != nil {
			t.Errorf("%v: %v", e, err)
		}
		wantCode(t, c.CheckBody([]byte("another body")), ErrModified)
		if m, err := DecodeAPReq(req); err != nil || !bytes.Equal(m.Authenticator.Cipher, c.Proof) {
			t.Errorf("%v: the proof is not the authenticator's ciphertext, %v", e, err)
		}

		theirs, err := kcrypto.GenerateKey(s.rand, e)
		if err != nil {
			t.Fatal(err)
		}
		rep, err := c.Rep(s.rand, APRepOptions{SubKey: theirs, SeqNumber: &seq})
		if err != nil {
			t.Fatal(err)
		}
		part, err := VerifyAPRep(rep, s.session, auth)
		if err != nil || !part.SubKey.Equal(theirs) || part.SeqNumber != 7 {
			t.Errorf("%v: AP-REP %+v, %v", e, part, err)
		}
		_, err = VerifyAPRep(rep, sub, auth)
		wantCode(t, err, ErrBadIntegrity)
		later := *auth
		later.CUSec++
		_, err = VerifyAPRep(rep, s.session, &later)
		wantCode(t, err, ErrMutFail)
		_, err = VerifyAPRep(req, s.session, auth)
		wantCode(t, err, ErrMsgType)
	}
}

func TestAPRefusals(t *testing.T) {
	skew := 5 * time.Minute
	for _, v := range []struct {
		what   string
		change func(*EncTicketPart)
		client PrincipalName
		realm  string
		now    time.Time
		want   ErrorCode // 0 is acceptance
	}{
		{what: "good", now: apNow},
		{what: "clock at the edge", now: apNow.Add(skew).Truncate(time.Microsecond)},
		{what: "clock a second over", now: apNow.Add(skew + time.Second), want: ErrSkew},
		{what: "clock a second under", now: apNow.Add(-skew - time.Second), want: ErrSkew},
		{what: "another client", client: MkName(NTPrincipal, "mallory"), now: apNow, want: ErrBadMatch},
		{what: "another realm", realm: "ELSEWHERE", now: apNow, want: ErrBadMatch},
		{what: "expired", change: func(p *EncTicketPart) { p.EndTime = apNow.Add(-skew - time.Second) }, now: apNow, want: ErrTktExpired},
		{what: "expired within skew", change: func(p *EncTicketPart) { p.EndTime = apNow.Add(-skew + time.Second) }, now: apNow},
		{what: "not yet valid", change: func(p *EncTicketPart) { p.StartTime = apNow.Add(skew + 2*time.Second) }, now: apNow, want: ErrTktNYV},
		{what: "not yet valid within skew", change: func(p *EncTicketPart) { p.StartTime = apNow.Add(skew - time.Second) }, now: apNow},
		{what: "invalid", change: func(p *EncTicketPart) { p.Flags |= FlagInvalid }, now: apNow, want: ErrTktNYV},
		{what: "unknown authorization data", change: func(p *EncTicketPart) { p.AuthorizationData = AuthorizationData{{999, nil}} }, now: apNow, want: ErrPolicy},
		{what: "optional authorization data", change: func(p *EncTicketPart) { p.AuthorizationData = AuthorizationData{{ADIfRelevant, []byte("?")}} }, now: apNow},
	} {
		s := newAPSetup(t, kcrypto.AES256SHA1, v.change)
		client, realm := apClient, apRealm
		if v.client.NameString != nil {
			client = v.client
		}
		if v.realm != "" {
			realm = v.realm
		}
		req, _, err := NewAPReq(s.rand, apNow, s.ticket, s.session, realm, client, APReqOptions{})
		if err != nil {
			t.Fatal(err)
		}
		_, err = AcceptAPReq(req, s.lookup, v.now, skew)
		if v.want == 0 && err != nil || v.want != 0 && codeOf(err) != v.want {
			t.Errorf("%s: %v, want %v", v.what, err, v.want)
		}
	}
}

func codeOf(err error) ErrorCode {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Code
	}
	return -1
}

// TestAPForged: no single octet of an AP-REQ can be changed, and neither key nor usage be another.
func TestAPForged(t *testing.T) {
	s := newAPSetup(t, kcrypto.AES256SHA1, nil)
	req, _ := s.request(t, APReqOptions{})
	m, err := DecodeAPReq(req)
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range [][]byte{m.Ticket.EncPart.Cipher, m.Authenticator.Cipher} {
		for i := range part {
			part[i] ^= 0x10 // in place: the parts share the request's memory
			if _, err := AcceptAPReq(req, s.lookup, apNow, time.Minute); codeOf(err) != ErrBadIntegrity {
				t.Fatalf("octet %d changed: %v", i, err)
			}
			part[i] ^= 0x10
		}
	}
	if _, err := AcceptAPReq(req, s.lookup, apNow, time.Minute); err != nil {
		t.Fatalf("unchanged: %v", err)
	}
	tgs, _ := s.request(t, APReqOptions{TGS: true, Body: []byte("body")})
	_, err = AcceptAPReq(tgs, s.lookup, apNow, time.Minute)
	wantCode(t, err, ErrBadIntegrity)
	_, err = AcceptAPReq(req[:len(req)-1], s.lookup, apNow, time.Minute)
	wantCode(t, err, ErrGeneric)
	noKey := func(string, PrincipalName, uint32, kcrypto.EType) (*kcrypto.Key, error) { return nil, io.EOF }
	_, err = AcceptAPReq(req, noKey, apNow, time.Minute)
	wantCode(t, err, ErrNoKey)
	other := func(string, PrincipalName, uint32, kcrypto.EType) (*kcrypto.Key, error) { return s.session, nil }
	_, err = AcceptAPReq(req, other, apNow, time.Minute)
	wantCode(t, err, ErrBadIntegrity)
	own := func(string, PrincipalName, uint32, kcrypto.EType) (*kcrypto.Key, error) {
		return nil, &Error{Code: ErrBadKeyVer}
	}
	_, err = AcceptAPReq(req, own, apNow, time.Minute)
	wantCode(t, err, ErrBadKeyVer)
}

func TestUserToUser(t *testing.T) {
	s := newAPSetup(t, kcrypto.AES256SHA2, nil)
	req, _ := s.request(t, APReqOptions{Options: APOptUseSessionKey})
	_, err := AcceptAPReq(req, s.lookup, apNow, time.Minute)
	wantCode(t, err, ErrNoKey)
	if _, err := AcceptUserToUser(req, s.service, apNow, time.Minute); err != nil { // the service's key stands for its TGT's session key
		t.Error(err)
	}
	req, _ = s.request(t, APReqOptions{})
	_, err = AcceptUserToUser(req, s.service, apNow, time.Minute)
	wantCode(t, err, ErrNoKey)
}

func TestAPChecksums(t *testing.T) {
	s := newAPSetup(t, kcrypto.AES256SHA1, nil)
	body := []byte("body")
	for what, c := range map[string]*Checksum{
		"absent":  nil,
		"unkeyed": {CksumType: kcrypto.SHA1, Checksum: make([]byte, 20)},
		"of RC4":  {CksumType: kcrypto.HMACMD5, Checksum: make([]byte, 16)},
	} {
		req, _ := s.request(t, APReqOptions{Cksum: c})
		ctx, err := AcceptAPReq(req, s.lookup, apNow, time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		if err := ctx.CheckBody(body); codeOf(err) != ErrInappCksum {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, _, err := NewAPReq(s.rand, apNow, s.ticket, s.session, apRealm, apClient, APReqOptions{Body: body, Cksum: &Checksum{}}); err == nil {
		t.Error("a body and a checksum go together")
	}
	if _, _, err := NewAPReq(s.rand, apNow, s.ticket, nil, apRealm, apClient, APReqOptions{}); err == nil {
		t.Error("an AP-REQ without session key")
	}
}

func TestAddresses(t *testing.T) {
	four, six := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
	s := newAPSetup(t, kcrypto.AES256SHA1, func(p *EncTicketPart) {
		p.CAddr = []HostAddress{NewAddress(four), {AddrNetBIOS, []byte("HOST            ")}}
	})
	req, _ := s.request(t, APReqOptions{})
	c, err := AcceptAPReq(req, s.lookup, apNow, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.CheckAddress(four); err != nil {
		t.Error(err)
	}
	if err := c.CheckAddress(netip.AddrFrom16(four.As16())); err != nil {
		t.Errorf("the same address inside IPv6: %v", err)
	}
	wantCode(t, c.CheckAddress(six), ErrBadAddr)
	wantCode(t, c.CheckAddress(netip.MustParseAddr("192.0.2.2")), ErrBadAddr)
	c.Ticket.CAddr = nil
	if err := c.CheckAddress(six); err != nil {
		t.Errorf("a ticket without addresses: %v", err)
	}
	for _, a := range []netip.Addr{four, six} {
		if got, ok := NewAddress(a).IP(); !ok || got != a {
			t.Errorf("%v comes back as %v", a, got)
		}
	}
	for _, h := range []HostAddress{{AddrIPv4, make([]byte, 16)}, {AddrIPv6, make([]byte, 4)}, {AddrNetBIOS, make([]byte, 4)}, {}} {
		if a, ok := h.IP(); ok {
			t.Errorf("%v is %v", h, a)
		}
	}
}

func TestAddressedTo(t *testing.T) {
	v6addr := netip.MustParseAddr("2001:db8::7")
	v4, v6 := NewAddress(netip.MustParseAddr("192.0.2.7")), NewAddress(v6addr)
	name := HostAddress{AddrNetBIOS, []byte("HOST            ")}
	for _, c := range []struct {
		as   []HostAddress
		peer string
		want bool
	}{
		{nil, "192.0.2.9", true},
		{[]HostAddress{}, "192.0.2.9", true},
		{[]HostAddress{v4}, "192.0.2.7", true},
		{[]HostAddress{v4}, "::ffff:192.0.2.7", true},
		{[]HostAddress{v4}, "192.0.2.8", false},
		{[]HostAddress{v4}, "2001:db8::7", false},
		{[]HostAddress{v4, v6}, "2001:db8::7", true},
		{[]HostAddress{v6}, "2001:db8::7%eth0", true},
		{[]HostAddress{v6}, "2001:db8::8", false},
		{[]HostAddress{name}, "192.0.2.7", true},
		{[]HostAddress{name, name}, "2001:db8::8", true},
		{[]HostAddress{name, v4}, "192.0.2.8", false},
		{[]HostAddress{v4, name}, "192.0.2.8", false},
		{[]HostAddress{{AddrNetBIOS, []byte{192, 0, 2, 7}}, v6}, "192.0.2.7", false},
		{[]HostAddress{{AddrIPv4, v6addr.AsSlice()}}, "2001:db8::7", false},
		{[]HostAddress{{AddrIPv4, nil}}, "192.0.2.7", false},
		{[]HostAddress{{}}, "192.0.2.7", false},
	} {
		if got := AddressedTo(c.as, netip.MustParseAddr(c.peer)); got != c.want {
			t.Errorf("%v from %s: %v", c.as, c.peer, got)
		}
	}
}

func TestOpen(t *testing.T) {
	s := newAPSetup(t, kcrypto.AES256SHA1, nil)
	if _, err := OpenTicket(s.session, &s.ticket); !errors.Is(err, kcrypto.ErrIntegrity) {
		t.Errorf("another key: %v", err)
	}
	foreign := s.ticket
	foreign.EncPart.EType = kcrypto.AES256SHA2
	if _, err := OpenTicket(s.service, &foreign); !errors.Is(err, kcrypto.ErrEType) {
		t.Errorf("another enctype: %v", err)
	}
	if _, err := Open(s.service, kcrypto.UsageTicket, s.ticket.EncPart, DecodeAuthenticator); !errors.Is(err, ErrDecode) {
		t.Errorf("another message inside: %v", err)
	}
	if _, err := Open(s.service, kcrypto.UsageTicket, EncryptedData{EType: kcrypto.AES256SHA1}, DecodeEncTicketPart); !errors.Is(err, kcrypto.ErrIntegrity) {
		t.Errorf("no octets: %v", err)
	}
	u2u, err := SealTicket(s.service, 0, s.rand, &s.part)
	if err != nil || u2u.HasKVNO {
		t.Errorf("kvno 0 is there, %v", err)
	}
	for us, want := range map[int32]time.Duration{0: 0, 999999: 999999 * time.Microsecond, 1000000: 0, -1: 0, 1<<31 - 1: 0} {
		if got := (&Authenticator{CTime: vTime, CUSec: us}).Time().Sub(vTime); got != want {
			t.Errorf("%d microseconds move the time by %v", us, got)
		}
	}
	if n, err := RandomSeqNumber(s.rand); err != nil || n >= 1<<30 {
		t.Errorf("sequence number %d, %v", n, err)
	}
}

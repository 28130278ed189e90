package client_test

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/charon-kdc/charon/kdc/krb5"
	"github.com/charon-kdc/charon/kdc/krb5/client"
	"github.com/charon-kdc/charon/kdc/krb5/kcrypto"
	"github.com/charon-kdc/charon/kdc/krb5/keytab"
)

func login(t *testing.T, v client.Via, change func(*client.ASRequest)) (*client.Credential, error) {
	t.Helper()
	r := client.ASRequest{Via: v, Realm: realm, Client: alice, Secret: client.Password("secret")}
	if change != nil {
		change(&r)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	return client.AS(ctx, r)
}

func mustLogin(t *testing.T, v client.Via, change func(*client.ASRequest)) *client.Credential {
	t.Helper()
	c, err := login(t, v, change)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func code(err error) krb5.ErrorCode {
	var e *krb5.Error
	if errors.As(err, &e) {
		return e.Code
	}
	return krb5.ErrNone
}

func TestPasswordLogin(t *testing.T) {
	for _, params := range [][]byte{nil, {0, 0, 0x20, 0}} {
		for _, encPARep := range []bool{false, true} {
			f := newFake(t)
			f.params, f.encPARep = params, encPARep
			v := f.serve()
			c := mustLogin(t, v, nil)
			if !c.Client.Equal(alice) || c.ClientRealm != realm || !c.Server.Equal(krb5.TGSName(realm)) || c.KDC != v.KDCs[0] {
				t.Errorf("credential of %v for %v from %s", c.Client, c.Server, c.KDC)
			}
			part, err := krb5.OpenTicket(f.key, &c.Ticket)
			if err != nil || !part.Key.Equal(c.Key) {
				t.Errorf("the session key is not the ticket's: %v", err)
			}
			if life := c.EndTime.Sub(c.StartTime); life < 24*time.Hour-time.Minute || life > 24*time.Hour {
				t.Errorf("life %v", life)
			}
			if f.count() != 2 {
				t.Errorf("%d requests, want 2: without and with proof", f.count())
			}
		}
	}
}

func TestLoginWithoutPreauth(t *testing.T) {
	f := newFake(t)
	f.preauth = false
	v := f.serve()
	mustLogin(t, v, nil)
	_, err := login(t, v, func(r *client.ASRequest) { r.Secret = client.Password("wrong") })
	if code(err) != krb5.ErrBadIntegrity {
		t.Errorf("a wrong password gives %v", err)
	}
}

func TestWrongPassword(t *testing.T) {
	f := newFake(t)
	_, err := login(t, f.serve(), func(r *client.ASRequest) { r.Secret = client.Password("wrong") })
	if code(err) != krb5.ErrPreauthFailed || !strings.Contains(err.Error(), "STATUS") {
		t.Errorf("got %v", err)
	}
}

func TestPromptOnlyOnceAndOnlyWhenWanted(t *testing.T) {
	asked := 0
	prompt := func() (string, error) { asked++; return "secret", nil }
	f := newFake(t)
	f.refuse = krb5.ErrCPrincipalUnknown
	v := f.serve()
	if _, err := login(t, v, func(r *client.ASRequest) { r.Secret = client.PasswordPrompt(prompt) }); code(err) != krb5.ErrCPrincipalUnknown || asked != 0 {
		t.Errorf("%v, asked %d times for a user who does not exist", err, asked)
	}
	f = newFake(t)
	mustLogin(t, f.serve(), func(r *client.ASRequest) { r.Secret = client.PasswordPrompt(prompt) })
	if asked != 1 {
		t.Errorf("asked %d times", asked)
	}
	_, err := login(t, f.serve(), func(r *client.ASRequest) {
		r.Secret = client.PasswordPrompt(func() (string, error) { return "", errors.New("no terminal") })
	})
	if err == nil || !strings.Contains(err.Error(), "no terminal") {
		t.Errorf("got %v", err)
	}
}

func aliceKeytab(t *testing.T, f *fakeKDC, etypes ...kcrypto.EType) *keytab.Keytab {
	kt := &keytab.Keytab{}
	for _, e := range etypes {
		k, err := kcrypto.StringToKey(e, f.password, f.salt, f.params)
		if err != nil {
			t.Fatal(err)
		}
		kt.Entries = append(kt.Entries, keytab.Entry{Realm: realm, Name: alice, KVNO: 3, Key: k})
	}
	return kt
}

// The KDC takes the first enctype it has a key for: those that the keytab has must come first.
func TestKeytabLogin(t *testing.T) {
	f := newFake(t)
	f.etypes = client.DefaultETypes
	kt := aliceKeytab(t, f, kcrypto.AES128SHA1)
	c := mustLogin(t, f.serve(), func(r *client.ASRequest) { r.Secret = client.Keytab(kt) })
	if c.ReplyEType != kcrypto.AES128SHA1 {
		t.Errorf("sealed with %v", c.ReplyEType)
	}
	if want := []kcrypto.EType{17, 20, 19, 18}; !slices.Equal(f.last().ReqBody.EType, want) {
		t.Errorf("asked for %v, want %v", f.last().ReqBody.EType, want)
	}
	if _, err := login(t, f.serve(), func(r *client.ASRequest) { r.Secret = client.Keytab(&keytab.Keytab{}) }); err == nil {
		t.Error("an empty keytab logs in")
	}
}

func TestFixedKeyLogin(t *testing.T) {
	f := newFake(t)
	k := aliceKeytab(t, f, kcrypto.AES256SHA1).Entries[0].Key
	mustLogin(t, f.serve(), func(r *client.ASRequest) { r.Secret = client.FixedKey(k) })
}

func TestNoCommonEType(t *testing.T) {
	f := newFake(t)
	f.etypes = []kcrypto.EType{kcrypto.RC4HMAC}
	if _, err := login(t, f.serve(), nil); code(err) != krb5.ErrEtypeNoSupp {
		t.Errorf("got %v", err)
	}
}

func TestWhatIsAskedOfTheAS(t *testing.T) {
	f := newFake(t)
	v := f.serve()
	start := time.Now().Add(time.Hour).UTC().Truncate(time.Second)
	addrs := []krb5.HostAddress{krb5.NewAddress(netip.MustParseAddr("192.0.2.1"))}
	c := mustLogin(t, v, func(r *client.ASRequest) {
		r.Options = krb5.KDCOptForwardable | krb5.KDCOptProxiable
		r.Start, r.Life, r.RenewLife, r.Addresses = start, 2*time.Hour, 48*time.Hour, addrs
		r.Server = krb5.MkName(krb5.NTPrincipal, "kadmin", "changepw")
		r.ETypes = []kcrypto.EType{kcrypto.AES128SHA1}
	})
	b := f.last().ReqBody
	if want := "forwardable,proxiable,allow-postdate,postdated,renewable"; b.KDCOptions.String() != want {
		t.Errorf("options %v, want %v", b.KDCOptions, want)
	}
	if !b.From.Equal(start) || !b.Till.Equal(start.Add(2*time.Hour)) || !b.RTime.Equal(start.Add(48*time.Hour)) {
		t.Errorf("from %v till %v rtime %v", b.From, b.Till, b.RTime)
	}
	if c.Server.String() != "kadmin/changepw" || !c.Flags.Has(krb5.FlagInvalid) || !c.StartTime.Equal(start) ||
		!c.RenewTill.Equal(b.RTime) || len(c.Addresses) != 1 || c.Key.EType() != kcrypto.AES128SHA1 {
		t.Errorf("got %+v", c)
	}
}

// RFC 4120 section 3.1.5. Each change is one that an attacker, or a broken KDC, might make.
func TestASRepliesThatAreRefused(t *testing.T) {
	hour := time.Hour
	for name, change := range map[string]func(*krb5.KDCRep, *krb5.EncKDCRepPart){
		"nonce":            func(_ *krb5.KDCRep, p *krb5.EncKDCRepPart) { p.Nonce++ },
		"another client":   func(r *krb5.KDCRep, _ *krb5.EncKDCRepPart) { r.CName = http },
		"client's realm":   func(r *krb5.KDCRep, _ *krb5.EncKDCRepPart) { r.CRealm = "OTHER" },
		"another server":   func(r *krb5.KDCRep, p *krb5.EncKDCRepPart) { p.SName, r.Ticket.SName = http, http },
		"ticket's server":  func(r *krb5.KDCRep, _ *krb5.EncKDCRepPart) { r.Ticket.SName = http },
		"ticket's realm":   func(r *krb5.KDCRep, _ *krb5.EncKDCRepPart) { r.Ticket.Realm = "OTHER" },
		"server's realm":   func(r *krb5.KDCRep, p *krb5.EncKDCRepPart) { p.SRealm, r.Ticket.Realm = "OTHER", "OTHER" },
		"too long a life":  func(_ *krb5.KDCRep, p *krb5.EncKDCRepPart) { p.EndTime = p.EndTime.Add(hour) },
		"no life":          func(_ *krb5.KDCRep, p *krb5.EncKDCRepPart) { p.EndTime = p.StartTime },
		"another start":    func(_ *krb5.KDCRep, p *krb5.EncKDCRepPart) { p.StartTime = p.StartTime.Add(hour) },
		"too long renewal": func(_ *krb5.KDCRep, p *krb5.EncKDCRepPart) { p.RenewTill = p.RenewTill.Add(hour) },
		"another's address": func(_ *krb5.KDCRep, p *krb5.EncKDCRepPart) {
			p.CAddr = []krb5.HostAddress{{AddrType: 2, Address: []byte{6, 6, 6, 6}}}
		},
		"an enctype not asked for": func(_ *krb5.KDCRep, p *krb5.EncKDCRepPart) {
			p.Key, _ = kcrypto.NewKey(kcrypto.RC4HMAC, make([]byte, 16))
		},
		"enc-pa-rep without checksum":    func(_ *krb5.KDCRep, p *krb5.EncKDCRepPart) { p.EncryptedPAData = nil },
		"enc-pa-rep with a wrong one":    func(_ *krb5.KDCRep, p *krb5.EncKDCRepPart) { p.EncryptedPAData[0].PADataValue[20] ^= 1 },
		"enc-pa-rep that is no checksum": func(_ *krb5.KDCRep, p *krb5.EncKDCRepPart) { p.EncryptedPAData[0].PADataValue = []byte{1} },
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t)
			f.encPARep = true
			v := f.serve()
			ask := func(r *client.ASRequest) {
				r.Start, r.RenewLife = time.Now().Add(hour), 48*hour
				r.Addresses = []krb5.HostAddress{{AddrType: 2, Address: []byte{192, 0, 2, 1}}}
			}
			mustLogin(t, v, ask)
			f.set(func() { f.change = change })
			var refused *client.ReplyError
			if c, err := login(t, v, ask); !errors.As(err, &refused) {
				t.Errorf("got %v, %v", c, err)
			}
		})
	}
}

// TestCanonicalizedClient: another client's name is believed when the KDC has proved that it got the request as it was sent (RFC 6806 section 11): the name
// itself stands in the clear. Without canonicalize it never is.
func TestCanonicalizedClient(t *testing.T) {
	other := krb5.MkName(krb5.NTPrincipal, "alice2")
	for _, c := range []struct{ canonicalize, encPARep, good bool }{{true, true, true}, {true, false, false}, {false, true, false}, {false, false, false}} {
		f := newFake(t)
		f.encPARep = c.encPARep
		f.change = func(r *krb5.KDCRep, _ *krb5.EncKDCRepPart) { r.CName = other }
		got, err := login(t, f.serve(), func(r *client.ASRequest) {
			if c.canonicalize {
				r.Options |= krb5.KDCOptCanonicalize
			}
		})
		var refused *client.ReplyError
		if c.good && (err != nil || !got.Client.Equal(other)) || !c.good && !errors.As(err, &refused) {
			t.Errorf("canonicalize %v, enc-pa-rep %v: %v", c.canonicalize, c.encPARep, err)
		}
	}
}

func TestASReplyThatIsGarbage(t *testing.T) {
	for name, spoil := range map[string]func([]byte) []byte{
		"cut":            func(b []byte) []byte { return b[:len(b)-1] },
		"a TGS-REP":      func(b []byte) []byte { b[0] = 0x6d; return b },
		"trailing bytes": func(b []byte) []byte { return append(b, 0) },
		"empty error":    func([]byte) []byte { return []byte{0x7e, 0} },
	} {
		f := newFake(t)
		f.preauth, f.spoil = false, spoil
		var refused *client.ReplyError
		if _, err := login(t, f.serve(), nil); !errors.As(err, &refused) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestSkewedClock(t *testing.T) {
	f := newFake(t)
	f.clock = func() time.Time { return time.Now().Add(-time.Hour) }
	_, err := login(t, f.serve(), nil)
	if code(err) != krb5.ErrSkew || !strings.Contains(err.Error(), "1h0m0s ahead of the KDC's") {
		t.Errorf("got %v", err)
	}
	f = newFake(t)
	f.clock = func() time.Time { return time.Now().Add(-time.Hour) }
	f.preauth = false // then it is for the client to notice
	if _, err := login(t, f.serve(), nil); code(err) != krb5.ErrSkew {
		t.Errorf("without a proof: %v", err)
	}
}

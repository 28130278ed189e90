package client_test

import (
	"context"
	"errors"
	"net/netip"
	"reflect"
	"testing"
	"time"

	"github.com/charon-kdc/charon/kdc/krb5"
	"github.com/charon-kdc/charon/kdc/krb5/client"
	"github.com/charon-kdc/charon/kdc/krb5/kcrypto"
)

var ctx = context.Background()

// fullTGT has every flag that can be inherited.
func fullTGT(t *testing.T, v client.Via) *client.Credential {
	return mustLogin(t, v, func(r *client.ASRequest) {
		r.Options, r.RenewLife = krb5.KDCOptForwardable|krb5.KDCOptProxiable, 48*time.Hour
	})
}

func TestWhatIsAskedOfTheTGS(t *testing.T) {
	f := newFake(t)
	v := f.serve()
	tgt := fullTGT(t, v)
	elsewhere := []krb5.HostAddress{krb5.NewAddress(netip.MustParseAddr("192.0.2.7"))}
	for _, c := range []struct {
		name    string
		ask     func() (*client.Credential, error)
		server  krb5.PrincipalName
		options string
		addrs   int
		tickets int
	}{
		{"service", func() (*client.Credential, error) { return client.Service(ctx, v, tgt, http) }, http, "forwardable,proxiable,renewable", 0, 0},
		{"renew", func() (*client.Credential, error) { return client.Renew(ctx, v, tgt) }, tgt.Server, "forwardable,proxiable,renewable,renew", 0, 0},
		{"validate", func() (*client.Credential, error) { return client.Validate(ctx, v, tgt) }, tgt.Server, "forwardable,proxiable,renewable,validate", 0, 0},
		{"forward", func() (*client.Credential, error) { return client.Forward(ctx, v, tgt, elsewhere, true) }, tgt.Server, "forwardable,forwarded,proxiable,renewable", 1, 0},
		{"forward once", func() (*client.Credential, error) { return client.Forward(ctx, v, tgt, nil, false) }, tgt.Server, "forwarded,proxiable,renewable", 0, 0},
		{"proxy", func() (*client.Credential, error) { return client.Proxy(ctx, v, tgt, http, elsewhere) }, http, "forwardable,proxiable,proxy,renewable", 1, 0},
		{"user to user", func() (*client.Credential, error) { return client.UserToUser(ctx, v, tgt, alice, &tgt.Ticket) }, alice, "forwardable,proxiable,renewable,enc-tkt-in-skey", 0, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := c.ask()
			if err != nil {
				t.Fatal(err)
			}
			b := f.last().ReqBody
			if b.KDCOptions.String() != c.options || len(b.Addresses) != c.addrs || len(b.AdditionalTickets) != c.tickets || !b.Till.Equal(tgt.EndTime) {
				t.Errorf("asked %v, %d addresses, %d tickets, till %v", b.KDCOptions, len(b.Addresses), len(b.AdditionalTickets), b.Till)
			}
			if !got.Server.Equal(c.server) || !got.Client.Equal(alice) || (got.SecondTicket != nil) != (c.tickets > 0) {
				t.Errorf("got %+v", got)
			}
			key := f.key
			if c.tickets > 0 {
				key = tgt.Key
			}
			if part, err := krb5.OpenTicket(key, &got.Ticket); err != nil || !part.Key.Equal(got.Key) {
				t.Errorf("the session key is not the ticket's: %v", err)
			}
		})
	}
}

func TestAuthorizationDataGoesEncrypted(t *testing.T) {
	f := newFake(t)
	v := f.serve()
	tgt := fullTGT(t, v)
	_, err := client.TGS(ctx, client.TGSRequest{Via: v, TGT: tgt, Server: http, AuthorizationData: krb5.AuthorizationData{{ADType: 1, ADData: []byte("for the service")}}})
	if err != nil {
		t.Fatal(err)
	}
	if f.last().ReqBody.EncAuthorizationData == nil {
		t.Error("none was sent")
	}
}

// RFC 4120 section 3.3.4.
func TestTGSRepliesThatAreRefused(t *testing.T) {
	for name, change := range map[string]func(*krb5.KDCRep, *krb5.EncKDCRepPart){
		"nonce":           func(_ *krb5.KDCRep, p *krb5.EncKDCRepPart) { p.Nonce++ },
		"another client":  func(r *krb5.KDCRep, _ *krb5.EncKDCRepPart) { r.CName = http },
		"another server":  func(r *krb5.KDCRep, p *krb5.EncKDCRepPart) { p.SName, r.Ticket.SName = alice, alice },
		"ticket's server": func(r *krb5.KDCRep, _ *krb5.EncKDCRepPart) { r.Ticket.SName = alice },
		"server's realm":  func(r *krb5.KDCRep, p *krb5.EncKDCRepPart) { p.SRealm, r.Ticket.Realm = "OTHER", "OTHER" },
		"too long a life": func(_ *krb5.KDCRep, p *krb5.EncKDCRepPart) { p.EndTime = p.EndTime.Add(time.Hour) },
		"another's address": func(_ *krb5.KDCRep, p *krb5.EncKDCRepPart) {
			p.CAddr = []krb5.HostAddress{{AddrType: 2, Address: []byte{6, 6, 6, 6}}}
		},
		"an AS-REP": func(r *krb5.KDCRep, _ *krb5.EncKDCRepPart) { r.MsgType = krb5.MsgASRep },
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t)
			v := f.serve()
			tgt := fullTGT(t, v)
			ask := func() (*client.Credential, error) {
				return client.Proxy(ctx, v, tgt, http, []krb5.HostAddress{{AddrType: 2, Address: []byte{192, 0, 2, 1}}})
			}
			if _, err := ask(); err != nil {
				t.Fatal(err)
			}
			f.set(func() { f.change = change })
			var refused *client.ReplyError
			if c, err := ask(); !errors.As(err, &refused) {
				t.Errorf("got %v, %v", c, err)
			}
		})
	}
}

func TestReplyUnderAnotherKeyIsRefused(t *testing.T) {
	f := newFake(t)
	v := f.serve()
	tgt := fullTGT(t, v)
	f.set(func() { f.spoil = func(b []byte) []byte { b[len(b)-1] ^= 1; return b } })
	var refused *client.ReplyError
	if _, err := client.Service(ctx, v, tgt, http); !errors.As(err, &refused) || !errors.Is(err, kcrypto.ErrIntegrity) {
		t.Errorf("got %v", err)
	}
}

func TestRefusalOfTheTGS(t *testing.T) {
	f := newFake(t)
	v := f.serve()
	tgt := fullTGT(t, v)
	f.set(func() { f.refuse = krb5.ErrSPrincipalUnknown })
	if _, err := client.Service(ctx, v, tgt, http); code(err) != krb5.ErrSPrincipalUnknown {
		t.Errorf("got %v", err)
	}
}

func TestCredentialSurvivesACache(t *testing.T) {
	f := newFake(t)
	v := f.serve()
	tgt := fullTGT(t, v)
	u2u, err := client.UserToUser(ctx, v, tgt, alice, &tgt.Ticket)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []*client.Credential{tgt, u2u} {
		stored, err := c.Cred()
		if err != nil {
			t.Fatal(err)
		}
		back, err := client.FromCred(&stored)
		if err != nil {
			t.Fatal(err)
		}
		want := *c
		want.KDC, want.LastReq, want.ReplyEType = "", nil, 0
		if !reflect.DeepEqual(*back, want) {
			t.Errorf("got  %+v\nwant %+v", *back, want)
		}
		if stored.IsSKey != (c == u2u) {
			t.Errorf("IsSKey is %v", stored.IsSKey)
		}
	}
	stored, _ := tgt.Cred()
	stored.Ticket = stored.Ticket[1:]
	if _, err := client.FromCred(&stored); err == nil {
		t.Error("a broken ticket is accepted")
	}
}

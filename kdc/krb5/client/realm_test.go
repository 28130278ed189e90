package client_test

import (
	"context"
	"crypto/rand"
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/charon-kdc/charon/kdc"
	"github.com/charon-kdc/charon/kdc/kdb"
	"github.com/charon-kdc/charon/kdc/kdb/kdbtest"
	"github.com/charon-kdc/charon/kdc/krb5"
	"github.com/charon-kdc/charon/kdc/krb5/client"
	"github.com/charon-kdc/charon/kdc/krb5/kcrypto"
	"github.com/charon-kdc/charon/kdc/transport"
)

// charon is our own KDC over real sockets, and the way there.
func charon(t *testing.T) (*kdbtest.Realm, client.Via) {
	t.Helper()
	r := kdbtest.New(realm)
	r.AddPassword("alice", "secret")
	r.AddRandom("HTTP/web")
	k := kdc.New(kdc.Config{Store: r, Proofs: r, Now: time.Now, Rand: rand.Reader})
	addr := listen(t, k)
	return r, client.Via{KDCs: []string{addr}}
}

func listen(t *testing.T, k *kdc.Server) string {
	t.Helper()
	s, err := transport.Listen(transport.Config{
		Addrs: []string{"127.0.0.1:0"}, PoisonBuffers: true, Oversize: k.Oversize,
		Handler: func(ctx context.Context, p transport.Packet) []byte {
			return k.Answer(ctx, kdc.Request{Data: p.Data, Peer: p.Peer, Local: p.Local, TCP: p.TCP, ReplyMax: p.ReplyMax})
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { defer close(done); s.Serve(context.Background()) }()
	t.Cleanup(func() { s.Shutdown(context.Background()); <-done })
	return s.Addrs()[0].String()
}

func TestLoginAtOurKDC(t *testing.T) {
	r, v := charon(t)
	for _, o := range []client.ExchangeOptions{{}, {TCP: true}} {
		v.Exchange = o
		c := mustLogin(t, v, nil)
		if !c.Flags.Has(krb5.FlagInitial|krb5.FlagPreAuthent) || c.EndTime.Sub(c.StartTime) != 10*time.Hour {
			t.Errorf("flags %v, life %v", c.Flags, c.EndTime.Sub(c.StartTime))
		}
		if s, err := client.Service(ctx, v, c, http); err != nil || !s.Server.Equal(http) {
			t.Errorf("service ticket: %v", err)
		}
	}
	if _, err := login(t, v, func(a *client.ASRequest) { a.Secret = client.Password("wrong") }); code(err) != krb5.ErrPreauthFailed {
		t.Errorf("wrong password: %v", err)
	}
	if _, err := login(t, v, func(a *client.ASRequest) { a.Client = krb5.MkName(krb5.NTPrincipal, "nobody") }); code(err) != krb5.ErrCPrincipalUnknown {
		t.Errorf("unknown client: %v", err)
	}
	r.Change("alice", func(p *kdb.Principal) { p.Attributes |= kdb.DisallowAllTix })
	if _, err := login(t, v, nil); code(err) != krb5.ErrClientRevoked {
		t.Errorf("disabled client: %v", err)
	}
}

func TestEveryETypeAtOurKDC(t *testing.T) {
	_, v := charon(t)
	for _, e := range client.DefaultETypes {
		c := mustLogin(t, v, func(r *client.ASRequest) { r.ETypes = []kcrypto.EType{e} })
		if c.Key.EType() != e || c.ReplyEType != e {
			t.Errorf("%v: session key of %v, reply under %v", e, c.Key.EType(), c.ReplyEType)
		}
	}
}

func TestRenewForwardProxyAtOurKDC(t *testing.T) {
	_, v := charon(t)
	tgt := fullTGT(t, v)
	if !tgt.Flags.Has(krb5.FlagForwardable | krb5.FlagProxiable | krb5.FlagRenewable) {
		t.Fatalf("flags %v", tgt.Flags)
	}
	renewed, err := client.Renew(ctx, v, tgt)
	if err != nil || !renewed.Flags.Has(krb5.FlagRenewable) || renewed.RenewTill.After(tgt.RenewTill) {
		t.Errorf("renew: %+v, %v", renewed, err)
	}
	addrs := []krb5.HostAddress{krb5.NewAddress(netip.MustParseAddr("192.0.2.7"))}
	forwarded, err := client.Forward(ctx, v, tgt, addrs, true)
	if err != nil || !forwarded.Flags.Has(krb5.FlagForwarded|krb5.FlagForwardable) || len(forwarded.Addresses) != 1 {
		t.Errorf("forward: %+v, %v", forwarded, err)
	}
	proxy, err := client.Proxy(ctx, v, tgt, http, addrs)
	if err != nil || !proxy.Flags.Has(krb5.FlagProxy) || len(proxy.Addresses) != 1 {
		t.Errorf("proxy: %+v, %v", proxy, err)
	}
	u2u, err := client.UserToUser(ctx, v, tgt, alice, &tgt.Ticket)
	if err != nil {
		t.Fatalf("user to user: %v", err)
	}
	if _, err := krb5.OpenTicket(tgt.Key, &u2u.Ticket); err != nil {
		t.Errorf("user to user: %v", err)
	}
}

func TestPostdatedAtOurKDC(t *testing.T) {
	_, v := charon(t)
	start := time.Now().Add(2 * time.Hour)
	c := mustLogin(t, v, func(r *client.ASRequest) { r.Start, r.Life = start, time.Hour })
	if !c.Flags.Has(krb5.FlagPostdated | krb5.FlagInvalid) {
		t.Errorf("flags %v", c.Flags)
	}
	if _, err := client.Validate(ctx, v, c); code(err) != krb5.ErrTktNYV {
		t.Errorf("validated before its time: %v", err)
	}
}

func TestAddressesAtOurKDC(t *testing.T) {
	_, v := charon(t)
	for addr, want := range map[string]krb5.ErrorCode{"127.0.0.1": krb5.ErrNone, "192.0.2.7": krb5.ErrBadAddr} {
		c := mustLogin(t, v, func(r *client.ASRequest) {
			r.Addresses = []krb5.HostAddress{krb5.NewAddress(netip.MustParseAddr(addr))}
		})
		if s, err := client.Service(ctx, v, c, http); code(err) != want || err == nil && len(s.Addresses) != 1 {
			t.Errorf("with a ticket for %s: %v, want %v", addr, err, want)
		}
	}
}

// What a client can see of a renewed ticket's session key is that its owner can go on with it.
func TestRenewedTicketGoesOn(t *testing.T) {
	_, v := charon(t)
	renewed, err := client.Renew(ctx, v, fullTGT(t, v))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.Service(ctx, v, renewed, http); err != nil {
		t.Error(err)
	}
	plain := mustLogin(t, v, nil)
	var refused *krb5.Error
	if _, err := client.Renew(ctx, v, plain); !errors.As(err, &refused) {
		t.Errorf("a ticket that is not renewable: %v", err)
	}
}

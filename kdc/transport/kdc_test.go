package transport_test

import (
	"context"
	"crypto/rand"
	"sync/atomic"
	"testing"
	"time"

	"github.com/charon-kdc/charon/kdc"
	"github.com/charon-kdc/charon/kdc/kdb/kdbtest"
	"github.com/charon-kdc/charon/kdc/krb5"
	"github.com/charon-kdc/charon/kdc/krb5/kcrypto"
	"github.com/charon-kdc/charon/kdc/transport"
)

// Two KDCs pointed at each other, on ports that no rule about source ports knows.
func TestTwoKDCsPointedAtEachOther(t *testing.T) {
	realm := kdbtest.New("EXAMPLE.COM")
	var asked atomic.Int64
	serve := func() *transport.Server {
		k := kdc.New(kdc.Config{Store: realm, Proofs: realm, Now: time.Now, Rand: rand.Reader})
		s, err := transport.Listen(transport.Config{Addrs: []string{"127.0.0.1:0"}, UDPReaders: 1, PoisonBuffers: true,
			Handler: func(ctx context.Context, p transport.Packet) []byte {
				asked.Add(1)
				return k.Answer(ctx, kdc.Request{Data: p.Data, Peer: p.Peer, Local: p.Local, ReplyMax: p.ReplyMax})
			}})
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan struct{})
		go func() { defer close(done); s.Serve(context.Background()) }()
		t.Cleanup(func() { s.Shutdown(context.Background()); <-done })
		return s
	}
	a, b := serve(), serve()
	name := krb5.MkName(krb5.NTPrincipal, "nobody")
	server := krb5.TGSName("EXAMPLE.COM")
	request, err := krb5.EncodeKDCReq(&krb5.KDCReq{MsgType: krb5.MsgASReq, ReqBody: krb5.KDCReqBody{
		CName: &name, Realm: "EXAMPLE.COM", SName: &server, Till: time.Now().Add(time.Hour).UTC(), EType: []kcrypto.EType{18}}})
	if err != nil {
		t.Fatal(err)
	}
	refusal, err := krb5.EncodeKRBError(&krb5.KRBError{ErrorCode: krb5.ErrGeneric, STime: time.Now().UTC(), Realm: "EXAMPLE.COM", SName: server})
	if err != nil {
		t.Fatal(err)
	}
	for name, spark := range map[string]struct {
		b     []byte
		turns int64 // datagrams in all: the request, and the reply that dies
	}{"request": {request, 2}, "refusal": {refusal, 1}, "rubbish": {[]byte("rubbish"), 1}} {
		t.Run(name, func(t *testing.T) {
			asked.Store(0)
			if err := a.SendAs(spark.b, b.Addrs()[0]); err != nil {
				t.Fatal(err)
			}
			for end := time.Now().Add(20 * time.Second); asked.Load() < spark.turns; time.Sleep(time.Millisecond) {
				if time.Now().After(end) {
					t.Fatalf("%d datagrams, want %d", asked.Load(), spark.turns)
				}
			}
			time.Sleep(50 * time.Millisecond) // room for one too many; on loopback it would be there at once
			if n := asked.Load(); n != spark.turns {
				t.Errorf("%d datagrams, want %d", n, spark.turns)
			}
		})
	}
}

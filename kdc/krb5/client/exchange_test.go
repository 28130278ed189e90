package client_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/charon-kdc/charon/kdc/krb5"
	"github.com/charon-kdc/charon/kdc/krb5/client"
	"github.com/charon-kdc/charon/kdc/transport"
)

// quick is a schedule for tests: long enough that a machine under load keeps to it.
var quick = client.ExchangeOptions{Wait: 200 * time.Millisecond}

// reply is the least that looks like an AS-REP to a transport, with a word in it.
func reply(word string) []byte {
	return append([]byte{0x6b, byte(len(word))}, word...)
}

func krbError(t *testing.T, code krb5.ErrorCode) []byte {
	b, err := krb5.EncodeKRBError(&krb5.KRBError{ErrorCode: code, STime: time.Now().UTC(), Realm: realm, SName: krb5.TGSName(realm)})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// listenWith runs handler on a free port.
func listenWith(t *testing.T, handler transport.Handler) string {
	t.Helper()
	s, err := transport.Listen(transport.Config{Addrs: []string{"127.0.0.1:0"}, Handler: handler, UDPReaders: 1})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { defer close(done); s.Serve(context.Background()) }()
	t.Cleanup(func() {
		end, cancel := context.WithCancel(context.Background())
		cancel()
		s.Shutdown(end)
		<-done
	})
	return s.Addrs()[0].String()
}

func says(b []byte) transport.Handler {
	return func(context.Context, transport.Packet) []byte { return b }
}

func silent(ctx context.Context, _ transport.Packet) []byte { <-ctx.Done(); return nil }

// dead is a port that nobody listens on.
func dead(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func TestWhichKDCAnswers(t *testing.T) {
	good := reply("good")
	alive := listenWith(t, says(good))
	for name, c := range map[string]struct {
		first string
		least time.Duration // at least so long on the silent one
	}{
		"none before it":        {},
		"a dead port":           {first: dead(t)},
		"a silent one":          {first: listenWith(t, silent), least: quick.Wait},
		"one out of service":    {first: listenWith(t, says(krbError(t, krb5.ErrSvcUnavailable)))},
		"one that says rubbish": {first: listenWith(t, says([]byte("rubbish"))), least: quick.Wait},
		"what is no address":    {first: "a:b:c"},
	} {
		t.Run(name, func(t *testing.T) {
			kdcs := []string{alive}
			if c.first != "" {
				kdcs = []string{c.first, alive}
			}
			began := time.Now()
			got, addr, err := client.Exchange(context.Background(), kdcs, []byte("m"), quick)
			if err != nil || !bytes.Equal(got, good) || addr != alive {
				t.Errorf("%q from %s, %v", got, addr, err)
			}
			if took := time.Since(began); took < c.least {
				t.Errorf("after %v, want at least %v", took, c.least)
			}
		})
	}
}

// MIT keeps the sockets of earlier tries open, so a KDC that was slow by an election is still heard.
func TestLateReplyCounts(t *testing.T) {
	asked := make(chan struct{})
	late := listenWith(t, func(context.Context, transport.Packet) []byte { <-asked; return reply("late") })
	second := listenWith(t, func(ctx context.Context, p transport.Packet) []byte {
		select {
		case <-asked:
		default:
			close(asked)
		}
		return silent(ctx, p)
	})
	got, addr, err := client.Exchange(context.Background(), []string{"udp/" + late, "udp/" + second}, []byte("m"), quick)
	if err != nil || addr != late || !bytes.Equal(got, reply("late")) {
		t.Errorf("%q from %s, %v", got, addr, err)
	}
}

func TestRetransmission(t *testing.T) {
	var n atomic.Int32
	addr := listenWith(t, func(ctx context.Context, p transport.Packet) []byte {
		if !p.TCP && n.Add(1) == 3 {
			return reply("third time")
		}
		return silent(ctx, p)
	})
	got, _, err := client.Exchange(context.Background(), []string{"udp/" + addr}, []byte("m"), quick)
	if err != nil || !bytes.Equal(got, reply("third time")) {
		t.Errorf("%q, %v", got, err)
	}
}

// RFC 4120 section 7.2.1: the same bytes again over TCP.
func TestResponseTooBigGoesOverTCP(t *testing.T) {
	f := newFake(t)
	f.udpMax = 300
	mustLogin(t, f.serve(), nil)
	if len(f.raw) != 3 || !bytes.Equal(f.raw[1], f.raw[2]) || f.transport[1] || !f.transport[2] {
		t.Errorf("%d requests, over TCP %v", len(f.raw), f.transport)
	}
}

func TestTransportByOptionAndSize(t *testing.T) {
	addr := listenWith(t, func(_ context.Context, p transport.Packet) []byte {
		if p.TCP {
			return reply("tcp")
		}
		return reply("udp")
	})
	for _, c := range []struct {
		kdc  string
		size int
		o    client.ExchangeOptions
		want string
	}{
		{addr, 1465, quick, "udp"},
		{addr, 1466, quick, "tcp"},
		{addr, 10, client.ExchangeOptions{TCP: true}, "tcp"},
		{addr, 10, client.ExchangeOptions{UDPMax: -1}, "tcp"},
		{addr, 10, client.ExchangeOptions{UDPMax: 9}, "tcp"},
		{"tcp/" + addr, 10, quick, "tcp"},
		{"udp/" + addr, 2000, quick, "udp"},
	} {
		got, _, err := client.Exchange(context.Background(), []string{c.kdc}, make([]byte, c.size), c.o)
		if err != nil || !bytes.Equal(got, reply(c.want)) {
			t.Errorf("%s, %d octets, %+v: %q, %v", c.kdc, c.size, c.o, got, err)
		}
	}
}

func TestNobodyAnswers(t *testing.T) {
	port := dead(t)
	_, _, err := client.Exchange(context.Background(), []string{port, "https://proxy/KdcProxy"}, []byte("m"), quick)
	var un *client.UnreachableError
	if !errors.As(err, &un) || len(un.Tried) != 3 || !strings.Contains(err.Error(), "udp/"+port+": ") || !strings.Contains(err.Error(), "proxies are not supported") {
		t.Errorf("got %v", err)
	}
	addr := listenWith(t, says(krbError(t, krb5.ErrSvcUnavailable)))
	if _, _, err = client.Exchange(context.Background(), []string{addr}, []byte("m"), quick); code(err) != krb5.ErrSvcUnavailable {
		t.Errorf("got %v", err)
	}
	if _, _, err = client.Exchange(context.Background(), nil, []byte("m"), quick); err == nil || err.Error() != "no KDC to ask" {
		t.Errorf("got %v", err)
	}
	short := client.ExchangeOptions{Wait: 10 * time.Millisecond, TCPTimeout: 50 * time.Millisecond}
	if _, _, err = client.Exchange(context.Background(), []string{listenWith(t, silent)}, []byte("m"), short); !errors.As(err, &un) {
		t.Errorf("got %v", err)
	}
}

func TestExchangeEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	addr := listenWith(t, func(c context.Context, p transport.Packet) []byte { cancel(); return silent(c, p) })
	if _, _, err := client.Exchange(ctx, []string{addr}, []byte("m"), client.ExchangeOptions{Wait: time.Hour}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// A KDC that announces 4 GiB, and one that hangs up.
func TestHostileStreams(t *testing.T) {
	for name, sent := range map[string][]byte{
		"4 GiB":      binary.BigEndian.AppendUint32(nil, 0xffffffff),
		"nothing":    {},
		"empty":      {0, 0, 0, 0},
		"cut":        {0, 0, 0, 9, 0x6b},
		"no message": {0, 0, 0, 2, 1, 2},
	} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		served := make(chan struct{})
		go func() {
			defer close(served)
			c, err := l.Accept()
			if err != nil {
				return
			}
			defer c.Close()
			c.Read(make([]byte, 100))
			c.Write(sent)
		}()
		var un *client.UnreachableError
		if _, _, err := client.Exchange(context.Background(), []string{"tcp/" + l.Addr().String()}, []byte("m"), quick); !errors.As(err, &un) {
			t.Errorf("%s: %v", name, err)
		}
		l.Close()
		<-served
	}
}

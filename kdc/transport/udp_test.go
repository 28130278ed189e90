package transport

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func TestOnePortServesUDPAndTCP(t *testing.T) {
	var mu sync.Mutex
	var seen []Packet
	s := start(t, Config{Handler: func(ctx context.Context, p Packet) []byte {
		mu.Lock()
		defer mu.Unlock()
		p.Data, p.Waiting, p.Received = append([]byte(nil), p.Data...), nil, time.Time{}
		seen = append(seen, p)
		return p.Data
	}})
	addr := s.Addrs()[0]
	u := dial(t, "udp", "", addr.String())
	write(t, u, []byte("by datagram"))
	wantDatagram(t, u, "by datagram")
	c := dial(t, "tcp", "", addr.String())
	write(t, c, frame("by stream"))
	wantFrame(t, c, "by stream")

	want := []Packet{
		{Data: []byte("by datagram"), Peer: netip.MustParseAddrPort(u.LocalAddr().String()), Local: addr, ReplyMax: 4096},
		{Data: []byte("by stream"), Peer: netip.MustParseAddrPort(c.LocalAddr().String()), Local: addr, TCP: true},
	}
	mu.Lock()
	defer mu.Unlock()
	if fmt.Sprint(seen) != fmt.Sprint(want) {
		t.Errorf("the handler saw\n%v, want\n%v", seen, want)
	}
}

// A connected socket takes replies from the address that it asked only, as libkrb5's does.
func TestWildcardRepliesComeFromTheAddressAsked(t *testing.T) {
	for _, readers := range []int{1, 3} {
		t.Run(fmt.Sprint(readers, " readers"), func(t *testing.T) {
			s := start(t, Config{Addrs: []string{":0"}, UDPReaders: readers, Handler: func(_ context.Context, p Packet) []byte {
				return []byte(p.Local.Addr().String())
			}})
			port := s.Addrs()[0].Port()
			hosts := []string{"127.0.0.1", "127.0.0.2", "127.77.1.9"}
			if len(s.Addrs()) == 2 {
				hosts = append(hosts, "::1")
			}
			for _, host := range hosts {
				for _, network := range []string{"udp", "tcp"} {
					c := dial(t, network, "", net.JoinHostPort(host, fmt.Sprint(port)))
					if network == "udp" {
						write(t, c, []byte("x"))
						wantDatagram(t, c, host)
					} else {
						write(t, c, frame("x"))
						wantFrame(t, c, host)
					}
				}
			}
		})
	}
}

// Many clients, several sockets, batches: every reply goes to who asked.
func TestDatagramsAreNotMixedUp(t *testing.T) {
	s := start(t, Config{UDPReaders: 3})
	var wg sync.WaitGroup
	for c := range 20 {
		conn := dial(t, "udp", "", s.Addrs()[0].String())
		wg.Go(func() {
			buf := make([]byte, 4096)
			for i := range 200 {
				msg := fmt.Sprintf("client %d request %d %*d", c, i, 10*i, 0)
				if _, err := conn.Write([]byte(msg)); err != nil {
					t.Error(err)
					return
				}
				n, err := conn.Read(buf)
				if err != nil || string(buf[:n]) != msg {
					t.Errorf("client %d got %.40q, %v for %.40q", c, buf[:n], err, msg)
					return
				}
			}
		})
	}
	wg.Wait()
}

// A burst that nobody reads in between fills batches in both directions.
func TestBurst(t *testing.T) {
	s := start(t, Config{UDPReaders: 1})
	conn := dial(t, "udp", "", s.Addrs()[0].String())
	const n = 150
	for i := range n {
		write(t, conn, fmt.Appendf(nil, "%d", i))
	}
	got := make(map[string]bool)
	b := make([]byte, 64)
	for len(got) < n {
		k, err := conn.Read(b)
		if err != nil {
			t.Fatalf("%d of %d replies, then %v", len(got), n, err)
		}
		got[string(b[:k])] = true
	}
}

// TGS requests that wait for a verdict must not keep AS requests out, however many they are.
func TestSlowRequestsHaveTheirOwnLane(t *testing.T) {
	var dropped drops
	release := make(chan struct{})
	var waiting atomic.Int32
	s := start(t, Config{
		UDPInFlightMax: 8, Dropped: dropped.note,
		Slow: func(b []byte) bool { return b[0] == 's' },
		Handler: func(ctx context.Context, p Packet) []byte {
			if p.Data[0] == 's' {
				p.Waiting()
				waiting.Add(1)
				<-release
			}
			return echo(ctx, p)
		},
	})
	conn := dial(t, "udp", "", s.Addrs()[0].String())
	for range 20 {
		write(t, conn, []byte("slow"))
	}
	until(t, "8 requests at work and 12 dropped", func() bool {
		return waiting.Load() == 8 && dropped.count(DropInFlight) == 12
	})
	other := dial(t, "udp", "", s.Addrs()[0].String())
	for range 50 {
		write(t, other, []byte("fast"))
		wantDatagram(t, other, "fast")
	}
	close(release)
	for range 8 {
		wantDatagram(t, conn, "slow")
	}
	write(t, conn, []byte("slow again"))
	wantDatagram(t, conn, "slow again")
}

func TestDatagramTooBigIsDropped(t *testing.T) {
	var dropped drops
	s := start(t, Config{RequestMax: 1000, Dropped: dropped.note})
	conn := dial(t, "udp", "", s.Addrs()[0].String())
	write(t, conn, make([]byte, 1001))
	until(t, "the drop", func() bool { return dropped.count(DropTooBig) == 1 })
	write(t, conn, make([]byte, 1000))
	wantDatagram(t, conn, string(make([]byte, 1000)))
}

func TestReplyThatNoDatagramHolds(t *testing.T) {
	var dropped drops
	s := start(t, Config{Dropped: dropped.note, Handler: func(_ context.Context, p Packet) []byte {
		if p.Data[0] == 'b' {
			return make([]byte, datagramMax+1)
		}
		return []byte("ok")
	}})
	conn := dial(t, "udp", "", s.Addrs()[0].String())
	write(t, conn, []byte("big"))
	until(t, "the drop", func() bool { return dropped.count(DropTooBig) == 1 })
	write(t, conn, []byte("small"))
	wantDatagram(t, conn, "ok")
}

// One reply that the system refuses must not take the others of its batch along.
func TestRefusedReplyIsSkipped(t *testing.T) {
	var dropped drops
	s := start(t, Config{UDPReaders: 1, Dropped: dropped.note})
	conn := dial(t, "udp", "", s.Addrs()[0].String())
	u := s.udp[0]
	u.out.mu.Lock() // as if a worker were sending, so that the three wait for one batch
	u.out.add([]byte("first"), conn.LocalAddr(), nil)
	u.out.add([]byte("nowhere"), &net.UDPAddr{IP: net.ParseIP("127.0.0.1"), Port: 0}, nil)
	u.out.mu.Unlock()
	u.send([]byte("last"), conn.LocalAddr(), nil)
	wantDatagram(t, conn, "first")
	wantDatagram(t, conn, "last")
	if dropped.count(DropSend) != 1 {
		t.Errorf("%d replies counted as refused, want 1", dropped.count(DropSend))
	}
}

// CVE-2002-2443: two servers that answer everything, and one datagram between them.
func TestTwoServersDoNotKeepEachOtherBusy(t *testing.T) {
	var calls atomic.Int64
	handler := func(ctx context.Context, p Packet) []byte {
		calls.Add(1)
		return echo(ctx, p)
	}
	var dropped drops
	a := start(t, Config{Handler: handler, UDPReaders: 1})
	b := start(t, Config{Handler: handler, Dropped: dropped.note, UDPReaders: 1, RefuseSourcePorts: []uint16{a.Addrs()[0].Port()}})
	if _, err := a.udp[0].conn.WriteToUDPAddrPort([]byte("spark"), b.Addrs()[0]); err != nil {
		t.Fatal(err)
	}
	until(t, "the drop", func() bool { return dropped.count(DropSourcePort) == 1 })
	if n := calls.Load(); n != 0 {
		t.Errorf("handlers ran %d times", n)
	}
}

// What the rule above is for: without it the datagram goes to and fro for ever.
func TestWithoutTheRuleTwoServersDo(t *testing.T) {
	var calls atomic.Int64
	handler := func(ctx context.Context, p Packet) []byte {
		if calls.Add(1) > 1000 {
			return nil
		}
		return echo(ctx, p)
	}
	a := start(t, Config{Handler: handler, UDPReaders: 1, RefuseSourcePorts: []uint16{}})
	b := start(t, Config{Handler: handler, UDPReaders: 1, RefuseSourcePorts: []uint16{}})
	if _, err := a.udp[0].conn.WriteToUDPAddrPort([]byte("spark"), b.Addrs()[0]); err != nil {
		t.Fatal(err)
	}
	until(t, "a thousand turns", func() bool { return calls.Load() > 1000 })
}

func TestPanicCostsOneRequest(t *testing.T) {
	var dropped drops
	s := start(t, Config{Dropped: dropped.note, Handler: func(ctx context.Context, p Packet) []byte {
		if string(p.Data) == "boom" {
			panic("boom")
		}
		return echo(ctx, p)
	}})
	u := dial(t, "udp", "", s.Addrs()[0].String())
	c := dial(t, "tcp", "", s.Addrs()[0].String())
	write(t, u, []byte("boom"))
	write(t, c, frame("boom"))
	wantClosed(t, c)
	until(t, "two panics counted", func() bool { return dropped.count(DropPanic) == 2 })
	write(t, u, []byte("alive"))
	wantDatagram(t, u, "alive")
}

// A handler that keeps a slice of its request finds it overwritten.
func TestBuffersArePoisoned(t *testing.T) {
	kept := make(chan []byte, 2)
	s := start(t, Config{Handler: func(_ context.Context, p Packet) []byte {
		kept <- p.Data
		return []byte("reply")
	}})
	u := dial(t, "udp", "", s.Addrs()[0].String())
	write(t, u, []byte("request"))
	wantDatagram(t, u, "reply")
	c := dial(t, "tcp", "", s.Addrs()[0].String())
	write(t, c, frame("request"))
	wantFrame(t, c, "reply")
	if err := s.Shutdown(context.Background()); err != nil {
		t.Fatal(err)
	}
	for range 2 { // nobody else has them any more
		if b := <-kept; string(b) == "request" {
			t.Error("the request outlived its handler")
		}
	}
}

func TestSecondServerOnOnePortIsRefused(t *testing.T) {
	s := start(t, Config{UDPReaders: 2})
	other, err := Listen(Config{Addrs: []string{s.Addrs()[0].String()}, Handler: echo, UDPReaders: 2})
	if err == nil {
		other.Shutdown(context.Background())
		t.Fatal("two servers share a port")
	}
}

func TestConfigOutOfRange(t *testing.T) {
	for _, c := range []Config{
		{},
		{Handler: echo},
		{Addrs: []string{"127.0.0.1:0"}},
		{Handler: echo, Addrs: []string{"127.0.0.1"}},
		{Handler: echo, Addrs: []string{"127.0.0.1:0"}, RequestMax: 2 << 20},
		{Handler: echo, Addrs: []string{"127.0.0.1:0"}, UDPReplyMax: 70000},
		{Handler: echo, Addrs: []string{"127.0.0.1:0"}, ConnsMax: -1},
		{Handler: echo, Addrs: []string{"127.0.0.1:0"}, IdleTimeout: -time.Second},
	} {
		if s, err := Listen(c); err == nil {
			s.Shutdown(context.Background())
			t.Errorf("accepted %+v", c)
		}
	}
}

func BenchmarkUDPEcho(b *testing.B) {
	s := start(b, Config{})
	b.RunParallel(func(pb *testing.PB) {
		conn := dial(b, "udp", "", s.Addrs()[0].String())
		msg, buf := make([]byte, 700), make([]byte, 1500)
		for pb.Next() {
			if _, err := conn.Write(msg); err != nil {
				b.Error(err)
				return
			}
			if _, err := conn.Read(buf); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

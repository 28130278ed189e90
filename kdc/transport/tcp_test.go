package transport

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func TestStreamFraming(t *testing.T) {
	s := start(t, Config{})
	addr := s.Addrs()[0].String()
	big := strings.Repeat("b", 64<<10)
	for _, sizes := range [][]int{{1}, {firstRead - 4}, {firstRead - 3}, {8 << 10}, {64 << 10}, {1, 2, 3}, {3000, 1, 64 << 10, 5, 2044, 2045}} {
		c := dial(t, "tcp", "", addr)
		var all []byte // pipelined: sent before anything is read (RFC 4120 section 7.2.2)
		for _, n := range sizes {
			all = append(all, frame(big[:n])...)
		}
		go c.Write(all)
		for _, n := range sizes {
			wantFrame(t, c, big[:n])
		}
	}
	c := dial(t, "tcp", "", addr)
	for _, b := range frame("one octet at a time") {
		write(t, c, []byte{b})
	}
	wantFrame(t, c, "one octet at a time")
}

// RFC 5021 section 3, RFC 4120 section 7.2.2: an error, then the end of the stream.
func TestLengthIsRefusedBeforeAllocation(t *testing.T) {
	var calls atomic.Int32
	var dropped drops
	s := start(t, Config{
		Dropped:  dropped.note,
		Oversize: func() []byte { return []byte("FIELD_TOOLONG") },
		Handler:  func(ctx context.Context, p Packet) []byte { calls.Add(1); return echo(ctx, p) },
	})
	lengths := []uint32{0xffffffff, 0x80000000, 0x80000010, 0x7fffffff, 64<<10 + 1}
	for i, n := range lengths {
		c := dial(t, "tcp", "", s.Addrs()[0].String())
		write(t, c, append(binary.BigEndian.AppendUint32(nil, n), "and some octets that nobody reads"...))
		wantFrame(t, c, "FIELD_TOOLONG")
		wantClosed(t, c)
		if got := dropped.count(DropTooBig); got != i+1 {
			t.Errorf("length %#x: %d refused, want %d", n, got, i+1)
		}
	}
	c := dial(t, "tcp", "", s.Addrs()[0].String())
	write(t, c, []byte{0, 0, 0, 0})
	wantClosed(t, c)
	if calls.Load() != 0 {
		t.Errorf("the handler ran %d times", calls.Load())
	}
}

// A peer that announces 64 KiB and sends four octets costs what it sent, not what it announced.
func TestAnnouncedBytesAreNotAllocated(t *testing.T) {
	s := start(t, Config{TrustedPrefixes: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}})
	before := heap()
	const n = 400
	for range n {
		c := dial(t, "tcp", "", s.Addrs()[0].String())
		write(t, c, append(binary.BigEndian.AppendUint32(nil, 64<<10), 1, 2, 3, 4))
	}
	until(t, "all connected", func() bool { return s.Conns() == n })
	if grown := heap() - before; grown > n*20<<10 {
		t.Errorf("%d connections cost %d octets each", n, grown/n)
	}
}

// What a connection holds follows what has come: at most four times as much.
func TestBufferGrowsWithWhatHasCome(t *testing.T) {
	c := &tcpConn{s: &Server{}}
	c.buf = c.first[:]
	for want := prefixLen + 64<<10; len(c.buf) < want; {
		c.have = len(c.buf) - 1
		if c.grow(want); len(c.buf) != c.have+1 {
			t.Fatalf("grown to %d octets with room left", len(c.buf))
		}
		before := len(c.buf)
		c.buf[before-1], c.have = 7, before
		if c.grow(want); len(c.buf) <= before || len(c.buf) > 4*before || c.buf[before-1] != 7 {
			t.Fatalf("from %d octets to %d", before, len(c.buf))
		}
	}
}

func heap() int64 {
	runtime.GC()
	runtime.GC() // twice: what sync.Pool holds goes in the second
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapInuse + m.StackInuse)
}

func TestSlowWriterIsClosed(t *testing.T) {
	var dropped drops
	s := start(t, Config{IdleTimeout: 300 * time.Millisecond, Dropped: dropped.note})
	c := dial(t, "tcp", "", s.Addrs()[0].String())
	began := time.Now()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for _, b := range frame(strings.Repeat("z", 60000)) { // each octet in time, all of them never
			if _, err := c.Write([]byte{b}); err != nil {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
	}()
	other := dial(t, "tcp", "", s.Addrs()[0].String())
	write(t, other, frame("at the same time"))
	wantFrame(t, other, "at the same time")
	until(t, "the slow writer's end", func() bool { return dropped.count(DropSlow) == 1 })
	if took := time.Since(began); took < 250*time.Millisecond {
		t.Errorf("closed after %v", took)
	}
	wantClosed(t, c)
	<-ended
}

func TestSlowReaderIsClosed(t *testing.T) {
	var dropped drops
	s := start(t, Config{WriteTimeout: 200 * time.Millisecond, Dropped: dropped.note,
		Handler: func(context.Context, Packet) []byte { return make([]byte, 32<<20) }})
	c := dial(t, "tcp", "", s.Addrs()[0].String())
	write(t, c, frame("x"))
	until(t, "the slow reader's end", func() bool { return dropped.count(DropSlow) == 1 && s.Conns() == 0 })
}

func TestIdleConnectionIsClosed(t *testing.T) {
	s := start(t, Config{IdleTimeout: 50 * time.Millisecond})
	c := dial(t, "tcp", "", s.Addrs()[0].String())
	write(t, c, frame("x"))
	wantFrame(t, c, "x")
	wantClosed(t, c)
	until(t, "no connection", func() bool { return s.Conns() == 0 })
}

func TestNoReplyEndsTheStream(t *testing.T) {
	s := start(t, Config{Handler: func(context.Context, Packet) []byte { return nil }})
	c := dial(t, "tcp", "", s.Addrs()[0].String())
	write(t, c, frame("x"))
	wantClosed(t, c)
}

// At the limit the connection that idles longest gives way; one whose request is at work never does.
func TestConnLimitEvictsTheLongestIdle(t *testing.T) {
	var dropped drops
	release := make(chan struct{})
	var atWork atomic.Int32
	s := start(t, Config{ConnsMax: 3, Dropped: dropped.note, Handler: func(ctx context.Context, p Packet) []byte {
		if string(p.Data) == "wait" {
			atWork.Add(1)
			<-release
		}
		return echo(ctx, p)
	}})
	open := func() net.Conn { return dial(t, "tcp", "", s.Addrs()[0].String()) }
	ask := func(c net.Conn, msg string) {
		t.Helper()
		write(t, c, frame(msg))
		wantFrame(t, c, msg)
	}
	busy, first, second := open(), open(), open()
	write(t, busy, frame("wait"))
	until(t, "a request at work", func() bool { return atWork.Load() == 1 })
	ask(first, "1")
	ask(second, "2")
	ask(first, "1 again") // so second idles longest
	third := open()
	ask(third, "3")
	wantClosed(t, second)
	ask(first, "1 still there")

	write(t, first, frame("wait"))
	write(t, third, frame("wait"))
	until(t, "three at work", func() bool { return atWork.Load() == 3 })
	wantClosed(t, open())
	if e, l := dropped.count(DropConnEvict), dropped.count(DropConnLimit); e != 1 || l != 1 {
		t.Errorf("%d evicted, %d refused; want 1 and 1", e, l)
	}
	close(release)
	for _, c := range []net.Conn{busy, first, third} {
		wantFrame(t, c, "wait")
	}
}

func TestConnLimitPerAddress(t *testing.T) {
	s := start(t, Config{ConnsPerAddrMax: 2, TrustedPrefixes: []netip.Prefix{netip.MustParsePrefix("127.0.0.3/32")}})
	open := func(from string) net.Conn {
		c := dial(t, "tcp", from, s.Addrs()[0].String())
		write(t, c, frame("x"))
		wantFrame(t, c, "x")
		return c
	}
	other := open("127.0.0.2")
	oldest := open("127.0.0.1")
	open("127.0.0.1")
	open("127.0.0.1")
	wantClosed(t, oldest)
	write(t, other, frame("not mine to pay for"))
	wantFrame(t, other, "not mine to pay for")
	for range 5 {
		open("127.0.0.3")
	}
	if n := s.Conns(); n != 1+2+5 {
		t.Errorf("%d connections, want 8", n)
	}
}

// Five thousand idle connections. Others are served meanwhile, and the memory comes back.
func TestTenThousandIdleConnections(t *testing.T) {
	s := start(t, Config{TrustedPrefixes: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, IdleTimeout: time.Minute})
	addr := s.Addrs()[0].String()
	before, goroutines := heap(), runtime.NumGoroutine()
	conns := make([]net.Conn, 10_000)
	for i := range conns {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		conns[i] = c
	}
	until(t, "the limit reached", func() bool { return s.Conns() == connsMaxDefault })
	u, c := dial(t, "udp", "", addr), dial(t, "tcp", "", addr)
	write(t, u, []byte("udp goes on"))
	wantDatagram(t, u, "udp goes on")
	write(t, c, frame("tcp goes on"))
	wantFrame(t, c, "tcp goes on")
	if s.Conns() != connsMaxDefault {
		t.Errorf("%d connections, want %d", s.Conns(), connsMaxDefault)
	}
	for _, c := range conns {
		c.Close()
	}
	c.Close()
	clear(conns)
	until(t, "every connection gone", func() bool { return s.Conns() == 0 })
	until(t, "goroutines back", func() bool { return runtime.NumGoroutine() <= goroutines+2 })
	until(t, "memory back", func() bool { return heap() < before+4<<20 })
}

func TestShutdownAnswersWhatIsAtWork(t *testing.T) {
	release := make(chan struct{})
	var atWork atomic.Int32
	s := start(t, Config{Handler: func(ctx context.Context, p Packet) []byte {
		atWork.Add(1)
		select {
		case <-release:
			return echo(ctx, p)
		case <-ctx.Done():
			return nil
		}
	}})
	addr := s.Addrs()[0].String()
	u, c, idle := dial(t, "udp", "", addr), dial(t, "tcp", "", addr), dial(t, "tcp", "", addr)
	write(t, u, []byte("u"))
	write(t, c, frame("c"))
	until(t, "both at work, one idle", func() bool { return atWork.Load() == 2 && s.Conns() == 2 })
	down := make(chan error, 1)
	go func() { down <- s.Shutdown(context.Background()) }()
	wantClosed(t, idle)
	until(t, "the port closed to new connections", func() bool {
		n, err := net.DialTimeout("tcp", addr, time.Second)
		if err == nil {
			n.Close()
		}
		return err != nil
	})
	close(release)
	wantDatagram(t, u, "u")
	wantFrame(t, c, "c")
	wantClosed(t, c)
	if err := <-down; err != nil {
		t.Errorf("Shutdown: %v", err)
	}
}

func TestShutdownThatMayNotWaitCutsOff(t *testing.T) {
	var atWork, ended atomic.Int32
	s := start(t, Config{Handler: func(ctx context.Context, p Packet) []byte {
		atWork.Add(1)
		<-ctx.Done()
		ended.Add(1)
		return nil
	}})
	addr := s.Addrs()[0].String()
	u, c := dial(t, "udp", "", addr), dial(t, "tcp", "", addr)
	write(t, u, []byte("u"))
	write(t, c, frame("c"))
	until(t, "both at work", func() bool { return atWork.Load() == 2 })
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := s.Shutdown(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Shutdown: %v, want the context's error", err)
	}
	wantClosed(t, c)
	until(t, "both handlers ended", func() bool { return ended.Load() == 2 })
}

func TestServeEndsWithItsContext(t *testing.T) {
	s, err := Listen(Config{Addrs: []string{"127.0.0.1:0"}, Handler: echo})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx) }()
	c := dial(t, "tcp", "", s.Addrs()[0].String())
	write(t, c, frame("x"))
	wantFrame(t, c, "x")
	cancel()
	if err := <-ended; !errors.Is(err, ErrClosed) {
		t.Errorf("Serve: %v", err)
	}
	if err := s.Serve(context.Background()); !errors.Is(err, ErrClosed) {
		t.Errorf("second Serve: %v", err)
	}
}

// Under a storm of everything at once nothing is lost but what a limit names, and the race detector sees all paths.
func TestStorm(t *testing.T) {
	s := start(t, Config{ConnsMax: 20, ConnsPerAddrMax: 20})
	addr := s.Addrs()[0].String()
	var wg sync.WaitGroup
	for i := range 40 {
		wg.Go(func() {
			for j := range 20 {
				c, err := net.Dial("tcp", addr)
				if err != nil {
					t.Error(err)
					return
				}
				msg := fmt.Sprint("storm ", i, j)
				c.SetDeadline(time.Now().Add(patience))
				if _, err := c.Write(frame(msg)); err == nil && j%3 > 0 {
					if got, err := readFrame(c); err == nil && got != msg {
						t.Errorf("got %q, want %q", got, msg)
					}
				}
				c.Close()
			}
		})
	}
	wg.Wait()
	until(t, "no connection", func() bool { return s.Conns() == 0 })
	c := dial(t, "tcp", "", addr)
	write(t, c, frame("calm"))
	wantFrame(t, c, "calm")
}

// FuzzStream sends arbitrary bytes over one connection: every whole request in them is echoed, in order, until a length is refused.
func FuzzStream(f *testing.F) {
	f.Add(frame("hello"))
	f.Add(append(frame("two"), frame("messages")...))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 1})
	f.Add([]byte{0, 0, 0, 0})
	f.Add([]byte{0, 0, 0, 9, 1})
	s := start(f, Config{RequestMax: 3000, Oversize: func() []byte { return []byte("TOOLONG") }})
	f.Fuzz(func(t *testing.T, in []byte) {
		c := dial(t, "tcp", "", s.Addrs()[0].String())
		go func() {
			c.Write(in)
			c.(*net.TCPConn).CloseWrite()
		}()
		got, err := io.ReadAll(c)
		if want := expected(in, 3000); err == nil && !bytes.Equal(got, want) {
			t.Errorf("sent %x\ngot  %x\nwant %x", in, got, want)
		}
	})
}

// expected is what an echo server must send for in, written as plainly as can be.
func expected(in []byte, requestMax uint32) (out []byte) {
	for len(in) >= 4 {
		n := binary.BigEndian.Uint32(in)
		if n > requestMax {
			return append(out, frame("TOOLONG")...)
		}
		if n == 0 || uint32(len(in)-4) < n {
			return out
		}
		out = append(out, in[:4+n]...)
		in = in[4+n:]
	}
	return out
}

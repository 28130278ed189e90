package transport

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for what must come.
const patience = 20 * time.Second

// echo answers every request with its own bytes.
func echo(_ context.Context, p Packet) []byte { return append([]byte(nil), p.Data...) }

// drops counts reasons.
type drops struct {
	mu sync.Mutex
	n  map[string]int
}

func (d *drops) note(reason string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.n == nil {
		d.n = make(map[string]int)
	}
	d.n[reason]++
}

func (d *drops) count(reason string) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.n[reason]
}

// start serves c on a free loopback port until the test ends, with poisoned buffers.
func start(t testing.TB, c Config) *Server {
	t.Helper()
	if c.Addrs == nil {
		c.Addrs = []string{"127.0.0.1:0"}
	}
	if c.Handler == nil {
		c.Handler = echo
	}
	c.PoisonBuffers = true
	s, err := Listen(c)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(context.Background()) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := s.Shutdown(ctx); err != nil {
			t.Errorf("Shutdown: %v", err)
		}
		if err := <-served; !errors.Is(err, ErrClosed) {
			t.Errorf("Serve returned %v, want ErrClosed", err)
		}
	})
	return s
}

// dial connects from the loopback address from ("" for any).
func dial(t testing.TB, network, from, to string) net.Conn {
	t.Helper()
	d := net.Dialer{Timeout: patience}
	if from != "" {
		if network == "tcp" {
			d.LocalAddr = &net.TCPAddr{IP: net.ParseIP(from)}
		} else {
			d.LocalAddr = &net.UDPAddr{IP: net.ParseIP(from)}
		}
	}
	c, err := d.Dial(network, to)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	return c
}

func frame(msg string) []byte {
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(msg))), msg...)
}

func write(t testing.TB, c net.Conn, b []byte) {
	t.Helper()
	if _, err := c.Write(b); err != nil {
		t.Fatal(err)
	}
}

// readFrame reads one TCP reply.
func readFrame(c net.Conn) (string, error) {
	var prefix [4]byte
	if _, err := io.ReadFull(c, prefix[:]); err != nil {
		return "", err
	}
	b := make([]byte, binary.BigEndian.Uint32(prefix[:]))
	_, err := io.ReadFull(c, b)
	return string(b), err
}

func wantFrame(t testing.TB, c net.Conn, want string) {
	t.Helper()
	got, err := readFrame(c)
	if err != nil || got != want {
		t.Fatalf("reply %.60q (%d octets), %v; want %.60q", got, len(got), err, want)
	}
}

// wantClosed reads until the stream ends, and says what came before.
func wantClosed(t testing.TB, c net.Conn) {
	t.Helper()
	b, err := io.ReadAll(c)
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		t.Fatal("the connection is still open")
	}
	if len(b) > 0 {
		t.Fatalf("unexpected octets %.60q before the end", b)
	}
}

func wantDatagram(t testing.TB, c net.Conn, want string) {
	t.Helper()
	b := make([]byte, datagramMax)
	n, err := c.Read(b)
	if err != nil || string(b[:n]) != want {
		t.Fatalf("reply %.60q, %v; want %.60q", b[:n], err, want)
	}
}

// until polls ok.
func until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

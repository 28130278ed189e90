package peer

import (
	"context"
	"io"
	"net"
	"net/netip"
	"net/url"
	"sync/atomic"
	"testing"
	"time"
)

// Connections that say nothing, more than there are slots for, keep no member out, also when they come from its own address.
func TestStrangersDoNotCrowdOutAMember(t *testing.T) {
	a := newCA(t)
	m := serve(t, a.identity(a.issue(t, []*url.URL{URI(cluster, nodeA)}, nil), members))
	for range 400 {
		c, err := net.Dial("tcp", m.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	b := a.identity(a.issue(t, []*url.URL{URI(cluster, nodeB)}, nil), members)
	for _, alpn := range memberServices {
		if _, err := greeting(t, m, alpn, b, nodeA); err != nil {
			t.Errorf("%s: %v", alpn, err)
		}
	}
}

func TestSilentConnectionEndsSoon(t *testing.T) {
	a := newCA(t)
	m := serve(t, a.identity(a.issue(t, []*url.URL{URI(cluster, nodeA)}, nil), members))
	c, err := net.Dial("tcp", m.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	begun := time.Now()
	if err := c.SetReadDeadline(begun.Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, c); err != nil {
		t.Fatal(err)
	}
	if d := time.Since(begun); d >= handshakeTimeout {
		t.Errorf("it ended after %v, with a whole handshake's time", d)
	}
}

// A node that is removed while it shakes hands gets no connection out of it.
func TestRemovedDuringTheHandshake(t *testing.T) {
	a := newCA(t)
	var asked atomic.Int32
	first := func(id NodeID) bool { return asked.Add(1) == 1 }
	m := serve(t, a.identity(a.issue(t, []*url.URL{URI(cluster, nodeA)}, nil), first))
	b := a.identity(a.issue(t, []*url.URL{URI(cluster, nodeB)}, nil), members)
	if got, err := greeting(t, m, ALPNForward, b, nodeA); err == nil {
		t.Errorf("let in: %q", got)
	}
	if asked.Load() < 2 {
		t.Errorf("asked %d times whether it is a member", asked.Load())
	}
}

// Every connection of a node that is no member now is closed, whether or not it ever was known as one.
func TestRecheck(t *testing.T) {
	a := newCA(t)
	var without atomic.Bool
	m := serve(t, a.identity(a.issue(t, []*url.URL{URI(cluster, nodeA)}, nil), func(id NodeID) bool { return id != nodeC || !without.Load() }))
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	dial := func(id NodeID) *Conn {
		c, err := Dial(ctx, ALPNRealm, m.Addr().String(), a.identity(a.issue(t, []*url.URL{URI(cluster, id)}, nil), members), nodeA)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		if _, err := readLine(c); err != nil {
			t.Fatal(err)
		}
		return c
	}
	stays, goes := dial(nodeB), dial(nodeC)
	without.Store(true)
	m.Recheck()
	if _, err := readLine(goes); err == nil {
		t.Error("the connection of a node that left is open")
	}
	if _, err := io.WriteString(stays, "still here\n"); err != nil {
		t.Fatal(err)
	}
	if got, err := readLine(stays); err != nil || got != "still here" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestSlots(t *testing.T) {
	s := NewSlots(4, 2)
	closed := map[string]bool{}
	take := func(name, addr string) *Slot {
		return s.Take(net.TCPAddrFromAddrPort(netip.MustParseAddrPort(addr)), func() { closed[name] = true })
	}
	a1 := take("a1", "192.0.2.1:1")
	take("a2", "192.0.2.1:2")
	take("b1", "[2001:db8::1]:1")
	take("a3", "192.0.2.1:3") // an address has two: its oldest goes
	if len(closed) != 1 || !closed["a1"] || a1.Keep() {
		t.Errorf("closed %v", closed)
	}
	b2 := take("b2", "[2001:db8::2]:1") // one network is one address
	if !b2.Keep() || len(closed) != 1 {
		t.Errorf("closed %v", closed)
	}
	take("b3", "[2001:db8::3]:1")
	if len(closed) != 2 || !closed["b1"] {
		t.Errorf("closed %v", closed)
	}
	c1 := take("c1", "192.0.2.3:1") // all four are taken: the oldest of all goes
	if len(closed) != 3 || !closed["a2"] {
		t.Errorf("closed %v", closed)
	}
	c1.Free()
	c1.Free()
	a1.Free()
	take("d1", "192.0.2.4:1")
	if len(closed) != 3 {
		t.Errorf("closed %v", closed)
	}
	for _, n := range []string{"x1", "x2"} {
		if sl := take(n, "192.0.2.9:1"); sl == nil || !sl.Keep() {
			t.Errorf("%s: no slot", n)
		}
	}
	if take("x3", "192.0.2.9:1") != nil || closed["x1"] || closed["b2"] {
		t.Errorf("a slot that is kept was given away: %v", closed)
	}
}

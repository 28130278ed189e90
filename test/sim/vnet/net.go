// Package vnet is a network in memory for simulations inside a testing/synctest bubble: TCP connections and datagrams between hosts,
// with delays, losses, cut links, hosts that die and connections that nobody ends.
//
// It owns what a network may do to its users. It must not know what is sent. A goroutine that waits here waits on a channel, never
// on a mutex, so that the bubble's time goes on.
package vnet

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"time"
)

// Net is one network. Everything in it is guarded by mu, which is never held across a wait.
type Net struct {
	mu    sync.Mutex
	rand  *rand.Rand
	cfg   Config
	hosts map[string]*Stack // the one that runs on a host; nil: off, or its process is dead
	off   map[string]bool   // hosts without power: they don't even refuse
	cut   map[link]bool     // directed
	loss  map[link]float64
	conns map[*Conn]struct{}
	port  int
	stats Stats
}

// Config is how good the network is.
type Config struct {
	// Delay one way is between Delay and Delay+Jitter.
	Delay, Jitter time.Duration
}

// Stats count what the network did.
type Stats struct {
	Dials, Datagrams, DatagramsLost, Resets uint64
}

type link struct{ from, to string }

// New network. seed decides delays and losses.
func New(seed uint64, cfg Config) *Net {
	return &Net{
		rand: rand.New(rand.NewPCG(seed, 1)), cfg: cfg,
		hosts: map[string]*Stack{}, off: map[string]bool{}, cut: map[link]bool{}, loss: map[link]float64{}, conns: map[*Conn]struct{}{},
		port: 30000,
	}
}

// Stats so far.
func (n *Net) Stats() Stats {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.stats
}

// Cut stops everything from one host to another, one way. What TCP sends is kept and sent again, as a kernel does, once the way is free.
func (n *Net) Cut(from, to string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cut[link{from, to}] = true
}

// Lose makes a share of the packets on a way get lost; 0 ends it.
func (n *Net) Lose(from, to string, share float64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.loss[link{from, to}] = share
}

// Heal removes every cut and loss.
func (n *Net) Heal() {
	n.mu.Lock()
	defer n.mu.Unlock()
	clear(n.cut)
	clear(n.loss)
	for c := range n.conns {
		c.in.release(n)
	}
}

// open tells whether packets get from one host to another.
func (n *Net) open(l link) bool { return !n.cut[l] && !n.off[l.to] }

func (n *Net) delay() time.Duration {
	if n.cfg.Jitter <= 0 {
		return n.cfg.Delay
	}
	return n.cfg.Delay + time.Duration(n.rand.Int64N(int64(n.cfg.Jitter)))
}

// lost rolls the die for one packet.
func (n *Net) lost(l link) bool { p := n.loss[l]; return p > 0 && n.rand.Float64() < p }

// Send carries one datagram: deliver runs in a goroutine of its own when it arrives, once, twice or never.
func (n *Net) Send(from, to string, deliver func()) {
	n.mu.Lock()
	l := link{from, to}
	n.stats.Datagrams++
	if !n.open(l) || n.hosts[to] == nil && n.isHost(to) || n.lost(l) {
		n.stats.DatagramsLost++
		n.mu.Unlock()
		return
	}
	d := n.delay()
	twice := n.loss[l] > 0 && n.rand.IntN(20) == 0
	again := n.delay()
	n.mu.Unlock()
	time.AfterFunc(d, deliver)
	if twice {
		time.AfterFunc(d+again, deliver)
	}
}

// isHost tells whether that address ever had a stack; others are clients, which are always there.
func (n *Net) isHost(ip string) bool { _, ok := n.hosts[ip]; return ok }

// Stack is the network as one process on a host sees it.
type Stack struct {
	net  *Net
	ip   string
	dead bool

	listeners map[string]*Listener
}

// Boot gives a host a running process, whose connections are new. A host has one at a time.
func (n *Net) Boot(ip string) *Stack {
	n.mu.Lock()
	defer n.mu.Unlock()
	s := &Stack{net: n, ip: ip, listeners: map[string]*Listener{}}
	n.hosts[ip] = s
	delete(n.off, ip)
	for c := range n.conns { // of the process before: the host refuses what is still sent to it
		if c.remote.host == ip && c.orphan && len(c.peer.in.segs) > 0 {
			c.reset(n)
		}
	}
	return s
}

// Kill ends the process: the kernel ends its connections, and refuses new ones.
func (s *Stack) Kill() { s.end(false) }

// PowerOff ends the host: nobody is told.
func (s *Stack) PowerOff() { s.end(true) }

func (s *Stack) end(power bool) {
	n := s.net
	n.mu.Lock()
	defer n.mu.Unlock()
	if s.dead {
		return
	}
	s.dead = true
	if n.hosts[s.ip] == s {
		n.hosts[s.ip] = nil
		n.off[s.ip] = power
	}
	for _, l := range s.listeners {
		l.shut()
	}
	for c := range n.conns {
		if c.stack != s {
			continue
		}
		if power {
			c.peer.orphan = true
		} else {
			c.peer.reset(n)
		}
		c.fail(n, net.ErrClosed)
	}
}

// Client is the stack of a host that never dies.
func (n *Net) Client(ip string) *Stack {
	return &Stack{net: n, ip: ip, listeners: map[string]*Listener{}}
}

// Listen on host:port, which must be this host's.
func (s *Stack) Listen(addr string) (*Listener, error) {
	n := s.net
	n.mu.Lock()
	defer n.mu.Unlock()
	if s.dead {
		return nil, net.ErrClosed
	}
	if _, ok := s.listeners[addr]; ok {
		return nil, fmt.Errorf("listen %s: address in use", addr)
	}
	l := &Listener{stack: s, addr: address{host: s.ip, text: addr}, backlog: make(chan *Conn, 128), done: make(chan struct{})}
	s.listeners[addr] = l
	return l, nil
}

// synRetries are when a kernel sends a SYN again.
var synRetries = []time.Duration{0, time.Second, 3 * time.Second, 7 * time.Second, 15 * time.Second}

// Dial connects to host:port.
func (s *Stack) Dial(ctx context.Context, addr string) (net.Conn, error) {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	n := s.net
	begun := time.Now()
	n.mu.Lock()
	n.stats.Dials++
	n.mu.Unlock()
	for _, at := range synRetries {
		if err := sleep(ctx, time.Until(begun.Add(at))); err != nil {
			return nil, fmt.Errorf("dial %s: %w", addr, err)
		}
		n.mu.Lock()
		way, back := link{s.ip, host}, link{host, s.ip}
		if s.dead {
			n.mu.Unlock()
			return nil, net.ErrClosed
		}
		if !n.open(way) || !n.open(back) || n.lost(way) || n.lost(back) {
			n.mu.Unlock()
			continue
		}
		there, rtt := n.hosts[host], n.delay()+n.delay()
		n.mu.Unlock()
		if err := sleep(ctx, rtt); err != nil {
			return nil, fmt.Errorf("dial %s: %w", addr, err)
		}
		c, err := s.connect(there, host, addr)
		if err != nil {
			return nil, err
		}
		return c, nil
	}
	return nil, fmt.Errorf("dial %s: connection timed out", addr)
}

func (s *Stack) connect(there *Stack, host, addr string) (*Conn, error) {
	n := s.net
	n.mu.Lock()
	defer n.mu.Unlock()
	if s.dead {
		return nil, net.ErrClosed
	}
	if there == nil || there.dead {
		return nil, fmt.Errorf("dial %s: connection refused", addr)
	}
	l := there.listeners[addr]
	if l == nil {
		return nil, fmt.Errorf("dial %s: connection refused", addr)
	}
	n.port++
	own := address{host: s.ip, text: fmt.Sprintf("%s:%d", s.ip, n.port)}
	near, far := newConn(s, own, l.addr), newConn(there, l.addr, own)
	near.peer, far.peer, near.dialled = far, near, true
	select {
	case l.backlog <- far:
	default:
		return nil, fmt.Errorf("dial %s: connection refused", addr)
	}
	n.conns[near], n.conns[far] = struct{}{}, struct{}{}
	return near, nil
}

func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// between are the connections between two hosts, either direction; "" is any host. Each pair of ends is there once.
func (n *Net) between(a, b string) (out []*Conn) {
	match := func(p, ip string) bool { return p == "" || p == ip }
	for c := range n.conns {
		if c.dialled && (match(a, c.local.host) && match(b, c.remote.host) || match(b, c.local.host) && match(a, c.remote.host)) {
			out = append(out, c)
		}
	}
	return out
}

// Reset breaks every connection between two hosts, in the middle of what is under way. It returns how many.
func (n *Net) Reset(a, b string) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	list := n.between(a, b)
	for _, c := range list {
		c.in.tear(n)
		c.peer.in.tear(n)
		c.reset(n)
		c.peer.reset(n)
	}
	return len(list)
}

// Freeze makes every connection there is between two hosts half-open for ever: nothing arrives any more, and nobody is told. New connections work.
func (n *Net) Freeze(a, b string) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	list := n.between(a, b)
	for _, c := range list {
		c.in.frozen, c.peer.in.frozen = true, true
	}
	return len(list)
}

// Open tells whether packets get from one host to another now.
func (n *Net) Open(from, to string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.open(link{from, to})
}

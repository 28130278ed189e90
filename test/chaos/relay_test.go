package chaos

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// bufferMax bounds what a relay holds of one direction of a connection, and datagrams under way at once, as a kernel does.
const (
	bufferMax    = 1 << 20
	datagramsMax = 4096
)

// weather is what happens to traffic on its way. The zero value is fine weather.
type weather struct {
	delay, jitter time.Duration
	lose, double  float64 // probability for a datagram
	// reset is the probability that a TCP connection is cut after a piece of a stream, which need not be a whole record.
	reset float64
}

// sky is the weather of every relay, and which host may not reach which.
type sky struct {
	mu sync.Mutex
	// clients is between clients and KDCs, nodes between the nodes.
	clients, nodes weather
	blocked        map[link]bool
	changed        chan struct{} // closed and replaced when blocked changes
	rng            *rand.Rand
}

// link is one direction between two hosts.
type link struct{ from, to netip.Addr }

func newSky(seed uint64) *sky {
	return &sky{blocked: map[link]bool{}, changed: make(chan struct{}), rng: rand.New(rand.NewPCG(seed, 1))}
}

func (s *sky) set(clients, nodes weather) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clients, s.nodes = clients, nodes
}

// block makes exactly these links dead: what is on the way waits, and is late, as over a broken route.
func (s *sky) block(links ...link) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.blocked = map[link]bool{}
	for _, l := range links {
		s.blocked[l] = true
	}
	close(s.changed)
	s.changed = make(chan struct{})
}

// isBlocked also returns what is closed at the next change.
func (s *sky) isBlocked(l link) (bool, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.blocked[l], s.changed
}

// fate draws what becomes of one piece of traffic.
func (s *sky) fate(clients bool) (w weather, wait time.Duration, lost, doubled, reset bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w = s.nodes
	if clients {
		w = s.clients
	}
	wait = w.delay
	if w.jitter > 0 {
		wait += time.Duration(s.rng.Int64N(int64(w.jitter)))
	}
	return w, wait, s.rng.Float64() < w.lose, s.rng.Float64() < w.double, s.rng.Float64() < w.reset
}

// relay passes traffic of one address on to one node. Each datagram and each piece of a stream meets the sky's weather.
type relay struct {
	sky     *sky
	to      netip.AddrPort
	clients bool // else between nodes
	ctx     context.Context
	wg      *sync.WaitGroup
}

// serveTCP accepts until the listener is closed.
func (r *relay) serveTCP(ln net.Listener) {
	for {
		c, err := ln.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			time.Sleep(10 * time.Millisecond)
			continue
		}
		r.wg.Go(func() { r.connection(c.(*net.TCPConn)) })
	}
}

// connection joins c with a new connection to the node, until either ends or the test does.
func (r *relay) connection(c *net.TCPConn) {
	defer c.Close()
	from := c.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap()
	if !r.passable(link{from, r.to.Addr()}) || !r.passable(link{r.to.Addr(), from}) {
		return
	}
	d := net.Dialer{Timeout: 3 * time.Second}
	up, err := d.DialContext(r.ctx, "tcp", r.to.String())
	if err != nil {
		c.SetLinger(0)
		return
	}
	u := up.(*net.TCPConn)
	defer u.Close()
	ctx, cancel := context.WithCancel(r.ctx)
	defer cancel()
	context.AfterFunc(ctx, func() { c.Close(); u.Close() })
	var wg sync.WaitGroup
	wg.Go(func() { defer cancel(); r.stream(ctx, u, c, link{from, r.to.Addr()}) })
	wg.Go(func() { defer cancel(); r.stream(ctx, c, u, link{r.to.Addr(), from}) })
	wg.Wait()
}

// passable waits while a link is dead.
func (r *relay) passable(l link) bool {
	for {
		blocked, changed := r.sky.isBlocked(l)
		if !blocked {
			return true
		}
		select {
		case <-changed:
		case <-r.ctx.Done():
			return false
		}
	}
}

// stream copies one direction. Pieces keep their order and their distance; the writer is not the reader, so that a delay is no bandwidth limit.
func (r *relay) stream(ctx context.Context, dst, src *net.TCPConn, l link) {
	type piece struct {
		at   time.Time
		data []byte
	}
	pieces := make(chan piece, 64)
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		for p := range pieces {
			select {
			case <-time.After(time.Until(p.at)):
			case <-ctx.Done():
				return
			}
			if !r.passable(l) || ctx.Err() != nil {
				return
			}
			_, _, _, _, reset := r.sky.fate(r.clients)
			if reset {
				dst.Write(p.data[:len(p.data)/2]) // in the middle of a record
				dst.SetLinger(0)
				src.SetLinger(0)
				dst.Close()
				src.Close()
				return
			}
			if _, err := dst.Write(p.data); err != nil {
				src.Close()
				return
			}
		}
		dst.CloseWrite()
	})
	defer close(pieces)
	buf := make([]byte, bufferMax/64)
	for {
		n, err := src.Read(buf)
		if n > 0 {
			_, wait, _, _, _ := r.sky.fate(r.clients)
			select {
			case pieces <- piece{time.Now().Add(wait), slices.Clone(buf[:n])}:
			case <-ctx.Done():
				return
			}
		}
		if err != nil {
			if !errors.Is(err, io.EOF) {
				dst.SetLinger(0)
				dst.Close()
			}
			return
		}
	}
}

// serveUDP passes datagrams on until the socket is closed. Each client has a socket of its own towards the node, for as long as the relay lives or
// nothing has come back for 30 s.
func (r *relay) serveUDP(pc *net.UDPConn) {
	flight := make(chan struct{}, datagramsMax)
	var mu sync.Mutex
	ups := map[netip.AddrPort]*net.UDPConn{}
	later := func(wait time.Duration, send func()) {
		select {
		case flight <- struct{}{}:
		default:
			return // the wire is full
		}
		time.AfterFunc(wait, func() { send(); <-flight })
	}
	pass := func(data []byte, send func([]byte)) {
		_, wait, lost, doubled, _ := r.sky.fate(r.clients)
		if lost {
			return
		}
		later(wait, func() { send(data) })
		if doubled {
			_, wait, _, _, _ := r.sky.fate(r.clients)
			later(wait, func() { send(data) })
		}
	}
	buf := make([]byte, 65536)
	for {
		n, from, err := pc.ReadFromUDPAddrPort(buf)
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				break
			}
			continue
		}
		mu.Lock()
		up := ups[from]
		if up == nil {
			c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(r.to))
			if err != nil {
				mu.Unlock()
				continue
			}
			up = c
			ups[from] = up
			r.wg.Go(func() {
				defer func() {
					mu.Lock()
					delete(ups, from)
					mu.Unlock()
					up.Close()
				}()
				back := make([]byte, 65536)
				for {
					up.SetReadDeadline(time.Now().Add(30 * time.Second))
					n, err := up.Read(back)
					if ne := net.Error(nil); errors.As(err, &ne) && ne.Timeout() || errors.Is(err, net.ErrClosed) {
						return
					}
					if err != nil {
						continue // refused: the node is down
					}
					pass(slices.Clone(back[:n]), func(b []byte) { pc.WriteToUDPAddrPort(b, from) })
				}
			})
		}
		mu.Unlock()
		pass(slices.Clone(buf[:n]), func(b []byte) { up.Write(b) })
	}
	mu.Lock()
	defer mu.Unlock()
	for _, up := range ups {
		up.Close()
	}
}

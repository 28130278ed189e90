package peer

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"
)

const (
	handshakeTimeout = 5 * time.Second
	// helloTimeout is how long a connection may say nothing.
	helloTimeout = 2 * time.Second
	// handshakesMax bounds the connections that have not shown a certificate yet, handshakesPerAddress those of one address; for
	// more, the oldest are closed. A node opens about ten at once when it starts.
	handshakesMax        = 256
	handshakesPerAddress = 64
	// backlog of accepted connections a service has not taken.
	backlog = 64
)

// Conn is an accepted or dialled connection after its handshake.
type Conn struct {
	*tls.Conn
	// Peer is the node at the other end; zero for a joiner.
	Peer NodeID
	// Key is the one that the other end has shown; zero for a joiner.
	Key KeyHash
	// ALPN is the service.
	ALPN string

	closed func()
	once   sync.Once
}

// Close may be called more than once.
func (c *Conn) Close() error {
	c.once.Do(func() {
		if c.closed != nil {
			c.closed()
		}
	})
	return c.Conn.Close()
}

// Mux accepts on one listener and hands each connection to the service it asked for.
type Mux struct {
	ln     net.Listener
	id     *Identity
	log    *slog.Logger
	told   Repeats
	alpn   []string
	queues map[string]*listener

	mu    sync.Mutex
	conns map[*Conn]struct{}
	raw   map[net.Conn]struct{} // in the handshake
	done  chan struct{}
	wg    sync.WaitGroup
	once  sync.Once
}

// NewMux wraps ln. It accepts nothing until Serve. It owns ln from now on.
func NewMux(ln net.Listener, id *Identity, log *slog.Logger) *Mux {
	m := &Mux{
		ln: ln, id: id, log: log,
		alpn:   []string{ALPNRealm, ALPNReplay, ALPNBatch, ALPNForward, ALPNJoin},
		queues: map[string]*listener{},
		conns:  map[*Conn]struct{}{},
		raw:    map[net.Conn]struct{}{},
		done:   make(chan struct{}),
	}
	for _, p := range m.alpn {
		m.queues[p] = &listener{mux: m, addr: ln.Addr(), ch: make(chan *Conn, backlog), done: make(chan struct{})}
	}
	return m
}

// Addr of the port.
func (m *Mux) Addr() net.Addr { return m.ln.Addr() }

// Listener gives the connections of one service, each a *Conn. Connections of a service whose listener nobody accepts
// from, or which is closed, are closed.
func (m *Mux) Listener(alpn string) net.Listener {
	l, ok := m.queues[alpn]
	if !ok {
		panic("peer: no service " + alpn)
	}
	return l
}

// Serve accepts until Close.
func (m *Mux) Serve() error {
	cfg := m.id.ServerConfig(m.alpn)
	slots := NewSlots(handshakesMax, handshakesPerAddress)
	for {
		c, err := m.ln.Accept()
		if err != nil {
			select {
			case <-m.done:
				return nil
			default:
			}
			if ne := net.Error(nil); errors.As(err, &ne) && ne.Timeout() {
				continue
			}
			if errors.Is(err, net.ErrClosed) {
				return fmt.Errorf("peer port: %w", err)
			}
			// Out of file descriptors and the like: pass.
			m.log.Warn("peer port: accept", "err", err)
			select {
			case <-m.done:
				return nil
			case <-time.After(50 * time.Millisecond):
			}
			continue
		}
		slot := slots.Take(c.RemoteAddr(), func() { c.Close() })
		if slot == nil || !m.track(c) {
			c.Close()
			continue
		}
		go func() {
			defer m.wg.Done()
			defer slot.Free()
			m.handshake(c, cfg)
		}()
	}
}

// track notes a connection in its handshake, so that Close ends it. It reports false after Close.
func (m *Mux) track(c net.Conn) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	select {
	case <-m.done:
		return false
	default:
	}
	m.raw[c] = struct{}{}
	m.wg.Add(1)
	return true
}

// promptly is cfg for one connection, which is closed when its client says nothing for helloTimeout.
func promptly(raw net.Conn, cfg *tls.Config) (one *tls.Config, stop func() bool) {
	silent := time.AfterFunc(helloTimeout, func() { raw.Close() })
	one = cfg.Clone()
	one.GetConfigForClient = func(h *tls.ClientHelloInfo) (*tls.Config, error) {
		silent.Stop()
		return cfg.GetConfigForClient(h)
	}
	return one, silent.Stop
}

// refused logs a handshake that failed. Who is refused tends to come again at once.
func (m *Mux) refused(addr net.Addr, err error) {
	host, _, splitErr := net.SplitHostPort(addr.String())
	if splitErr != nil {
		host = addr.String()
	}
	news, left := m.told.News(host, time.Now())
	if !news {
		return
	}
	args := []any{"peer", addr.String(), "err", err}
	if left > 0 {
		args = append(args, "left_out", left)
	}
	m.log.Info("peer port: handshake refused", args...)
}

func (m *Mux) handshake(raw net.Conn, cfg *tls.Config) {
	one, stop := promptly(raw, cfg)
	defer stop()
	tc := tls.Server(raw, one)
	ctx, cancel := context.WithTimeout(context.Background(), handshakeTimeout)
	defer cancel()
	err := tc.HandshakeContext(ctx)
	m.mu.Lock()
	delete(m.raw, raw)
	m.mu.Unlock()
	if err != nil {
		m.refused(raw.RemoteAddr(), err)
		raw.Close()
		return
	}
	c, err := wrap(tc, m.id.ClusterID)
	q := m.queues[tc.ConnectionState().NegotiatedProtocol]
	if err != nil || q == nil {
		raw.Close()
		return
	}
	m.hand(q, c)
}

func wrap(tc *tls.Conn, cluster [16]byte) (*Conn, error) {
	cs := tc.ConnectionState()
	c := &Conn{Conn: tc, ALPN: cs.NegotiatedProtocol}
	if c.ALPN == ALPNJoin {
		return c, nil
	}
	if len(cs.PeerCertificates) == 0 {
		return nil, ErrNoIdentity
	}
	id, err := CertificateID(cluster, cs.PeerCertificates[0])
	c.Peer, c.Key = id, HashKey(cs.PeerCertificates[0])
	return c, err
}

// hand gives c to its service.
func (m *Mux) hand(q *listener, c *Conn) {
	m.mu.Lock()
	select {
	case <-m.done:
		m.mu.Unlock()
		c.Close()
		return
	default:
	}
	m.conns[c] = struct{}{}
	c.closed = func() {
		m.mu.Lock()
		delete(m.conns, c)
		m.mu.Unlock()
	}
	m.mu.Unlock()
	// Again, now that Recheck finds it: the node may have been removed since its certificate was looked at.
	if !m.welcome(c) {
		c.Close()
		return
	}
	select {
	case <-q.done:
		c.Close()
		return
	default:
	}
	select {
	case q.ch <- c:
	default:
		c.Close()
	}
}

// welcome tells whether an accepted connection is a current member's, by a key that is not replaced, or a joiner's.
func (m *Mux) welcome(c *Conn) bool {
	if c.Peer.IsZero() {
		return true
	}
	return (m.id.Allowed == nil || m.id.Allowed(c.Peer)) && (m.id.Retired == nil || !m.id.Retired(c.Peer, c.Key))
}

// Recheck closes every accepted connection of a node that is no member now, or has another key; called when the members have changed.
func (m *Mux) Recheck() {
	for _, c := range m.open(func(*Conn) bool { return true }) {
		if !m.welcome(c) {
			c.Close()
		}
	}
}

// CloseNode closes every accepted connection of a node.
func (m *Mux) CloseNode(id NodeID) {
	for _, c := range m.open(func(c *Conn) bool { return c.Peer == id && !id.IsZero() }) {
		c.Close()
	}
}

func (m *Mux) open(match func(*Conn) bool) []*Conn {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []*Conn
	for c := range m.conns {
		if match(c) {
			out = append(out, c)
		}
	}
	return out
}

// Close ends the port and every accepted connection, and waits for Serve's goroutines.
func (m *Mux) Close() error {
	var err error
	m.once.Do(func() {
		m.mu.Lock()
		close(m.done)
		for c := range m.raw {
			c.Close()
		}
		m.mu.Unlock()
		err = m.ln.Close()
		for _, q := range m.queues {
			q.Close()
		}
		for _, c := range m.open(func(*Conn) bool { return true }) {
			c.Close()
		}
		m.wg.Wait()
	})
	return err
}

// listener is one service's end of the mux.
type listener struct {
	mux  *Mux
	addr net.Addr
	ch   chan *Conn
	done chan struct{}
	once sync.Once
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case <-l.done:
		return nil, net.ErrClosed
	default:
	}
	select {
	case c := <-l.ch:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *listener) Close() error {
	l.once.Do(func() {
		close(l.done)
		for {
			select {
			case c := <-l.ch:
				c.Close()
			default:
				return
			}
		}
	})
	return nil
}

func (l *listener) Addr() net.Addr { return l.addr }

// Dial connects to a service of the node at addr. want, if not zero, is the node that must answer.
func Dial(ctx context.Context, alpn, addr string, id *Identity, want NodeID) (*Conn, error) {
	if !slices.Contains([]string{ALPNRealm, ALPNReplay, ALPNBatch, ALPNForward}, alpn) {
		return nil, fmt.Errorf("dialling %s: no service %q among members", addr, alpn)
	}
	var pin *NodeID
	if !want.IsZero() {
		pin = &want
	}
	raw, err := id.dial(ctx, addr)
	if err != nil {
		return nil, err
	}
	tc := tls.Client(raw, id.ClientConfig(alpn, pin))
	hctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	if err := tc.HandshakeContext(hctx); err != nil {
		raw.Close()
		return nil, fmt.Errorf("dialling %s, %s: %w", addr, alpn, err)
	}
	c, err := wrap(tc, id.ClusterID)
	if err != nil {
		raw.Close()
		return nil, fmt.Errorf("dialling %s, %s: %w", addr, alpn, err)
	}
	return c, nil
}

package transport

import (
	"context"
	"net"
	"net/netip"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"
)

// drainGrace is how long a server that drains goes on reading: what is in the system's queues, and requests on their way
// over connections that are open.
const drainGrace = 100 * time.Millisecond

// Server serves the addresses of one Config.
type Server struct {
	cfg   Config
	addrs []netip.AddrPort
	udp   []*udpSocket
	tcp   []*net.TCPListener
	bufs  buffers
	conns connTable

	adm  admission
	gate gate

	jobs chan datagram // to workers that wait; unbuffered
	idle atomic.Int64  // workers that wait on jobs

	ctx     context.Context // the handlers'
	cancel  context.CancelFunc
	readers sync.WaitGroup
	workers sync.WaitGroup
	streams sync.WaitGroup

	state   sync.Mutex
	served  bool
	closed  bool
	quit    chan struct{} // closed by Shutdown: read no more
	cut     chan struct{} // closed when everything must end at once
	done    chan struct{} // closed when Serve is through
	cutOnce sync.Once
}

// Listen binds every address over UDP and TCP. It reads nothing before Serve.
func Listen(c Config) (*Server, error) {
	c, err := c.withDefaults()
	if err != nil {
		return nil, err
	}
	s := &Server{
		cfg:  c,
		jobs: make(chan datagram),
		quit: make(chan struct{}), cut: make(chan struct{}), done: make(chan struct{}),
	}
	s.bufs.poison = c.PoisonBuffers
	s.conns.init(c)
	s.gate.init(c)
	s.adm.init(c)
	s.ctx, s.cancel = context.WithCancel(context.Background())
	for _, addr := range c.Addrs {
		bs, err := bind(addr, c.UDPReaders)
		for _, b := range bs {
			if err == nil {
				err = s.adopt(b)
			} else {
				b.close()
			}
		}
		if err != nil {
			s.closeSockets()
			return nil, err
		}
	}
	return s, nil
}

// adopt takes b's sockets over; Server closes them from here on.
func (s *Server) adopt(b bound) error {
	s.addrs = append(s.addrs, b.addr)
	s.tcp = append(s.tcp, b.tcp)
	for i, conn := range b.udp {
		u, err := newUDPSocket(s, conn, b.addr)
		if err != nil {
			bound{udp: b.udp[i:]}.close()
			return err
		}
		s.udp = append(s.udp, u)
	}
	return nil
}

func (s *Server) closeSockets() {
	for _, l := range s.tcp {
		l.Close()
	}
	for _, u := range s.udp {
		u.conn.Close()
	}
}

// Addrs are the addresses bound, in Config's order; an empty host gives one for each family.
func (s *Server) Addrs() []netip.AddrPort { return s.addrs }

// Conns is the number of open TCP connections.
func (s *Server) Conns() int { return s.conns.len() }

// Waiting is the number of requests that wait for a place at the processor.
func (s *Server) Waiting() int { return s.gate.waiting() }

// Serve answers requests until Shutdown, or until ctx ends, which stops everything at once. It returns ErrClosed when
// nothing of it is left running. It can be called once.
func (s *Server) Serve(ctx context.Context) error {
	s.state.Lock()
	if s.served || s.closed {
		s.state.Unlock()
		return ErrClosed
	}
	s.served = true
	s.state.Unlock()
	defer close(s.done)
	stop := context.AfterFunc(ctx, s.cutOff)
	defer stop()

	for _, u := range s.udp {
		s.readers.Go(u.read)
	}
	for _, l := range s.tcp {
		s.readers.Go(func() { s.accept(l) })
	}
	select {
	case <-s.quit:
	case <-s.cut:
	}
	s.drain()
	return ErrClosed
}

// drain ends in the order in which work flows: what reads, what answers, what sends.
func (s *Server) drain() {
	s.conns.drain(time.Now().Add(drainGrace))
	for _, l := range s.tcp {
		l.Close()
	}
	for _, u := range s.udp {
		_ = u.conn.SetReadDeadline(time.Now().Add(drainGrace))
	}
	s.readers.Wait()
	s.gate.waitEmpty() // from here on nothing is handed to workers
	close(s.jobs)
	s.workers.Wait()
	s.streams.Wait()
	s.closeSockets()
	s.cancel()
}

// Shutdown stops reading new requests, answers those at work, and closes. When ctx ends first, what is left is cut off
// and ctx's error returned; handlers see their context end. More calls wait for the same end.
func (s *Server) Shutdown(ctx context.Context) error {
	s.state.Lock()
	if !s.closed {
		s.closed = true
		close(s.quit)
	}
	served := s.served
	s.state.Unlock()
	if !served {
		s.closeSockets()
		s.cancel()
		return nil
	}
	select {
	case <-s.done:
		return nil
	case <-ctx.Done():
		s.cutOff()
		return ctx.Err()
	}
}

// cutOff ends every wait.
func (s *Server) cutOff() {
	s.cutOnce.Do(func() {
		close(s.cut)
		s.cancel()
		s.settle(s.gate.close())
		s.closeSockets()
		s.conns.closeAll()
	})
}

// Known tells that somebody at addr has proved a key of late: requests from its prefix take turns among their like from now on, and not among those of
// strangers, for an hour or more. What shows no more than that a packet can be copied is no proof.
func (s *Server) Known(addr netip.Addr) {
	addr = addr.Unmap()
	if !s.adm.trusts(addr) {
		s.adm.known.add(s.adm.prefixes.Of(addr), time.Now())
	}
}

// settle does what the gate has decided.
func (s *Server) settle(o outcome) {
	s.discard(o)
	if o.start != nil {
		s.begin(o.start)
	}
}

func (s *Server) begin(t *ticket) {
	if t.turn != nil {
		t.turn <- true
	} else {
		s.dispatch(t.d)
	}
	s.gate.begun()
}

func (s *Server) discard(o outcome) {
	for i, t := range o.dropped {
		if t.turn != nil {
			t.turn <- false
		} else {
			s.bufs.put(t.d.buf)
		}
		s.cfg.Dropped(o.reasons[i])
	}
}

// handle runs the handler. A panic is one request's: it is logged, counted, and gets no reply.
func (s *Server) handle(p Packet) (reply []byte) {
	defer func() {
		if v := recover(); v != nil {
			s.cfg.Dropped(DropPanic)
			s.cfg.Logger.Error("a request's handler panicked", "peer", p.Peer, "panic", v, "stack", string(debug.Stack()))
			reply = nil
		}
	}()
	return s.cfg.Handler(s.ctx, p)
}

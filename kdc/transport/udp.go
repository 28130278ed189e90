package transport

import (
	"errors"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// readBatch is how many datagrams one system call takes at most (recvmmsg).
const readBatch, readBatchMin = 32, 4

// workersIdleMax is how many workers are kept when there is nothing to do: their stacks are grown and warm.
const workersIdleMax = 128

// batchConn is a UDP socket that reads and writes many datagrams at once; ipv4 and ipv6 have one Message type.
type batchConn interface {
	ReadBatch(ms []ipv4.Message, flags int) (int, error)
	WriteBatch(ms []ipv4.Message, flags int) (int, error)
}

// udpSocket is one of the sockets of an address.
type udpSocket struct {
	s     *Server
	conn  *net.UDPConn
	batch batchConn
	local netip.AddrPort
	info  *pktinfo // nil unless local is a wildcard
	oob   int      // room for a control message
	out   sendQueue
}

// datagram is one UDP request on its way to a worker.
type datagram struct {
	sock  *udpSocket
	buf   *buffer
	n     int
	addr  net.Addr // peer, as the socket wants it back
	peer  netip.AddrPort
	local netip.AddrPort
	oob   []byte
	from  sender
	lane  int
	at    time.Time // read
}

func newUDPSocket(s *Server, conn *net.UDPConn, local netip.AddrPort) (*udpSocket, error) {
	u := &udpSocket{s: s, conn: conn, local: local}
	if local.Addr().Is6() {
		u.batch = ipv6.NewPacketConn(conn)
	} else {
		u.batch = ipv4.NewPacketConn(conn)
	}
	if local.Addr().IsUnspecified() {
		u.info = &pktinfo{v6: local.Addr().Is6()}
		room, err := u.info.enable(conn)
		if err != nil {
			return nil, err
		}
		u.oob = room
	}
	return u, nil
}

// read takes datagrams until the socket is closed or its read deadline passes, which only Shutdown sets.
func (u *udpSocket) read() {
	ms := make([]ipv4.Message, readBatch)
	for i := range ms {
		ms[i].Buffers = [][]byte{make([]byte, min(u.s.cfg.RequestMax, datagramMax)+1)}
		ms[i].OOB = make([]byte, u.oob)
	}
	var pause backoff
	size := readBatchMin // how many are asked for: each costs a little even when it does not come
	for {
		n, err := u.batch.ReadBatch(ms[:size], 0)
		now := time.Now()
		for i := range n {
			u.take(&ms[i], now)
		}
		switch {
		case n == size:
			size = min(2*size, readBatch)
		case n <= size/4:
			size = max(size/2, readBatchMin)
		}
		if err == nil {
			pause.reset()
			continue
		}
		if u.s.ending(err) {
			return
		}
		u.s.cfg.Logger.Error("reading UDP requests", "addr", u.local, "err", err)
		if !pause.wait(u.s.quit) {
			return
		}
	}
}

// take gives one datagram, read at now, to a worker or to the gate, or drops it.
func (u *udpSocket) take(m *ipv4.Message, now time.Time) {
	addr, ok := m.Addr.(*net.UDPAddr)
	if !ok || m.N == 0 {
		return
	}
	peer := addr.AddrPort()
	if peer.Port() == 0 || slices.Contains(u.s.cfg.RefuseSourcePorts, peer.Port()) {
		u.s.cfg.Dropped(DropSourcePort)
		return
	}
	if m.N > u.s.cfg.RequestMax {
		u.s.cfg.Dropped(DropTooBig)
		return
	}
	d := datagram{sock: u, n: m.N, addr: addr, peer: peer, local: u.local, at: now}
	data := m.Buffers[0][:m.N]
	if u.s.cfg.Slow != nil && u.s.cfg.Slow(data) {
		d.lane = laneSlow
	}
	var rank int
	d.from, rank = u.s.adm.sender(peer)
	if !u.s.adm.allowed(d.from, now) {
		u.s.cfg.Dropped(DropPrefixRate)
		return
	}
	begins, reason := u.s.gate.begin(d.from, d.lane)
	if reason != "" {
		u.s.cfg.Dropped(reason)
		return
	}
	if u.info != nil {
		if o := u.info.origin(m.OOB[:m.NN]); o.local.IsValid() {
			d.local, d.oob = netip.AddrPortFrom(o.local, u.local.Port()), o.oob
		}
	}
	d.buf = u.s.bufs.get(m.N)
	copy(d.buf.b, data)
	if begins {
		u.s.dispatch(d)
		return
	}
	u.s.settle(u.s.gate.queue(&ticket{from: d.from, lane: d.lane, size: len(d.buf.b), at: now, d: d}, rank))
}

// dispatch hands d to a waiting worker, or to a new one: a worker that waits for a verdict never keeps another request waiting.
// The gate bounds their number.
func (s *Server) dispatch(d datagram) {
	select {
	case s.jobs <- d:
	default:
		s.workers.Add(1)
		go s.work(d)
	}
}

// work answers d and then whatever comes, until too many others have nothing to do either.
func (s *Server) work(d datagram) {
	defer s.workers.Done()
	for {
		if next := s.answer(&d); next != nil {
			d = next.d
			s.gate.begun()
			runtime.Gosched() // let the readers have the processor: what they don't take in time the system drops, whoever sent it
			continue
		}
		if s.idle.Add(1) > workersIdleMax {
			s.idle.Add(-1)
			return
		}
		var ok bool
		d, ok = <-s.jobs
		s.idle.Add(-1)
		if !ok {
			return
		}
	}
}

// answer serves d. next, if not nil, is the datagram that the gate has given its place to, for the same worker.
func (s *Server) answer(d *datagram) (next *ticket) {
	left := false
	waiting := func() {
		if !left {
			left = true
			s.settle(s.gate.leave(time.Now()))
		}
	}
	reply := s.handle(Packet{Data: d.buf.b[:d.n], Peer: d.peer, Local: d.local, Received: d.at, ReplyMax: s.cfg.UDPReplyMax, Waiting: waiting})
	s.bufs.put(d.buf)
	switch {
	case reply == nil:
	case len(reply) > datagramMax:
		s.cfg.Dropped(DropTooBig)
	default:
		d.sock.send(reply, d.addr, d.oob)
	}
	o := s.gate.done(d.from, d.lane, left, time.Now())
	if o.start != nil && o.start.turn == nil {
		next, o.start = o.start, nil
	}
	s.settle(o)
	return next
}

// backoff waits 5 ms, twice as long each time, at most 1 s.
type backoff struct{ last time.Duration }

func (b *backoff) reset() { b.last = 0 }

// wait returns false when quit is closed first.
func (b *backoff) wait(quit <-chan struct{}) bool {
	b.last = min(max(2*b.last, 5*time.Millisecond), time.Second)
	t := time.NewTimer(b.last)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-quit:
		return false
	}
}

// ending tells whether a socket's error means that the server goes down.
func (s *Server) ending(err error) bool {
	if errors.Is(err, net.ErrClosed) {
		return true
	}
	select {
	case <-s.quit:
		return true
	case <-s.cut:
		return true
	default:
		return false
	}
}

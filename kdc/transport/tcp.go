package transport

import (
	"container/list"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"time"
)

const (
	prefixLen = 4 // RFC 4120 section 7.2.2: the length, network byte order
	// firstRead holds nearly every request with its prefix, so that one read gets it. It is what an idle connection costs.
	firstRead = 2 << 10
	// lingerBytes and lingerTime bound what is read from a peer whose length was refused, so that it sees the reply before the reset.
	lingerBytes = 256 << 10
	lingerTime  = time.Second
)

// errLength says that a length prefix was refused.
var errLength = errors.New("length refused")

// tcpConn is one connection: requests one after the other, each answered before the next is read.
type tcpConn struct {
	s           *Server
	conn        *net.TCPConn
	peer, local netip.AddrPort

	// Of connTable, under its lock. addr is nil when the table does not have the connection.
	addr          *addrConns
	inAll, inAddr *list.Element

	first [firstRead]byte
	buf   []byte  // first, or large.b
	large *buffer // nil while first is enough
	have  int     // octets in buf, from its start
}

func (s *Server) accept(l *net.TCPListener) {
	var pause backoff
	for {
		conn, err := l.AcceptTCP()
		if err == nil {
			pause.reset()
			s.admit(conn)
			continue
		}
		if s.ending(err) {
			return
		}
		s.cfg.Logger.Error("accepting a TCP connection", "addr", l.Addr(), "err", err)
		if !pause.wait(s.quit) {
			return
		}
	}
}

// admit starts conn if there is room, or can be made.
func (s *Server) admit(conn *net.TCPConn) {
	c := &tcpConn{s: s, conn: conn, peer: unmap(conn.RemoteAddr()), local: unmap(conn.LocalAddr())}
	victim, ok := s.conns.add(c)
	if victim != nil {
		victim.conn.Close()
		s.cfg.Dropped(DropConnEvict)
	}
	if !ok {
		conn.Close()
		s.cfg.Dropped(DropConnLimit)
		return
	}
	s.streams.Go(c.serve)
}

func unmap(a net.Addr) netip.AddrPort {
	ap := a.(*net.TCPAddr).AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

// serve answers requests until the peer or the server has had enough.
func (c *tcpConn) serve() {
	defer c.conn.Close()
	defer c.s.conns.remove(c)
	defer c.release()
	c.buf = c.first[:]
	for {
		n, err := c.request()
		if errors.Is(err, errLength) {
			c.refuse()
			return
		}
		if err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) && c.have > 0 {
				c.s.cfg.Dropped(DropSlow)
			}
			return
		}
		if !c.s.conns.busy(c) {
			return
		}
		reply := c.s.inTurn(Packet{Data: c.buf[prefixLen : prefixLen+n], Peer: c.peer, Local: c.local, TCP: true})
		c.s.conns.replying(c)
		c.drop(prefixLen + n)
		if reply == nil || c.write(reply) != nil || !c.s.conns.next(c) {
			return
		}
	}
}

// inTurn waits for a place at the processor and runs the handler. Nil also when there was none in time.
func (s *Server) inTurn(p Packet) []byte {
	now := time.Now()
	p.Received = now
	from, rank := s.adm.sender(p.Peer)
	if !s.adm.allowed(from, now) {
		s.cfg.Dropped(DropPrefixRate)
		return nil
	}
	ok, reason := s.gate.begin(from, laneTCP)
	switch {
	case reason != "":
		s.cfg.Dropped(reason)
		return nil
	case !ok:
		t := &ticket{from: from, lane: laneTCP, at: now, turn: make(chan bool, 1)}
		s.settle(s.gate.queue(t, rank))
		if !<-t.turn {
			return nil
		}
	}
	left := false
	p.Waiting = func() {
		if !left {
			left = true
			s.settle(s.gate.leave(time.Now()))
		}
	}
	reply := s.handle(p)
	s.settle(s.gate.done(from, laneTCP, left, time.Now()))
	return reply
}

// request reads until buf begins with a whole request and returns its length without the prefix.
// Its size is checked before anything is allocated, and what is allocated grows with what has come, not with what was announced.
func (c *tcpConn) request() (int, error) {
	for {
		if c.have >= prefixLen {
			n := binary.BigEndian.Uint32(c.buf)
			switch {
			case n > uint32(c.s.cfg.RequestMax): // also with the high bit, RFC 5021 section 3: no extension is offered
				return 0, errLength
			case n == 0:
				return 0, io.ErrUnexpectedEOF // no message is empty
			case c.have >= prefixLen+int(n):
				return int(n), nil
			}
			c.grow(prefixLen + int(n))
		}
		m, err := c.conn.Read(c.buf[c.have:])
		c.have += m
		if err != nil && m == 0 {
			return 0, err
		}
	}
}

// grow makes room when buf is full and a message of want octets is not yet whole.
func (c *tcpConn) grow(want int) {
	if c.have < len(c.buf) {
		return
	}
	bigger := c.s.bufs.get(min(want, 4*len(c.buf)))
	copy(bigger.b, c.buf[:c.have])
	old := c.large
	c.large, c.buf = bigger, bigger.b
	if old != nil {
		c.s.bufs.put(old)
	}
}

// drop takes the first n octets, a request that was answered, off buf, and gives a large buffer back once first is enough.
func (c *tcpConn) drop(n int) {
	c.s.bufs.spoil(c.buf[:n])
	rest := c.buf[n:c.have]
	if c.large != nil && len(rest) <= len(c.first) {
		copy(c.first[:], rest)
		c.release()
	} else {
		copy(c.buf, rest)
	}
	c.have = len(rest)
}

func (c *tcpConn) release() {
	if c.large != nil {
		c.s.bufs.put(c.large)
		c.large, c.buf = nil, c.first[:]
	}
}

// write sends one reply with its prefix in one piece.
func (c *tcpConn) write(reply []byte) error {
	b := c.s.bufs.get(prefixLen + len(reply))
	defer c.s.bufs.put(b)
	binary.BigEndian.PutUint32(b.b, uint32(len(reply)))
	n := copy(b.b[prefixLen:], reply)
	_ = c.conn.SetWriteDeadline(time.Now().Add(c.s.cfg.WriteTimeout))
	_, err := c.conn.Write(b.b[:prefixLen+n])
	if errors.Is(err, os.ErrDeadlineExceeded) {
		c.s.cfg.Dropped(DropSlow)
	}
	return err
}

// refuse answers a length that is not served: an error message, then the end of the stream (RFC 4120 section 7.2.2, RFC 5021 section 3).
// Closing at once with bytes unread would make the system send a reset, which may overtake the message.
func (c *tcpConn) refuse() {
	c.s.cfg.Dropped(DropTooBig)
	if c.s.cfg.Oversize == nil {
		return
	}
	if reply := c.s.cfg.Oversize(); reply == nil || c.write(reply) != nil || c.conn.CloseWrite() != nil {
		return
	}
	_ = c.conn.SetReadDeadline(time.Now().Add(lingerTime))
	for left := lingerBytes; left > 0; {
		n, err := c.conn.Read(c.buf)
		if err != nil {
			return
		}
		left -= n
	}
}

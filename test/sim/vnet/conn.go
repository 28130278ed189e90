package vnet

import (
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// bufferMax is how much one way of a connection holds, sent and not read, before a write waits.
const bufferMax = 1 << 20

// endPoll is how often a write that waits for room looks whether the other end is still there.
const endPoll = 100 * time.Millisecond

type address struct{ host, text string }

func (a address) Network() string { return "tcp" }
func (a address) String() string  { return a.text }

// Listener is a net.Listener.
type Listener struct {
	stack   *Stack
	addr    address
	backlog chan *Conn
	done    chan struct{}
	closed  bool // guarded by the net's mu
}

// Accept waits for a connection.
func (l *Listener) Accept() (net.Conn, error) {
	select {
	case <-l.done:
		return nil, net.ErrClosed
	default:
	}
	select {
	case c := <-l.backlog:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

// Close ends it; connections that nobody took are reset.
func (l *Listener) Close() error {
	n := l.stack.net
	n.mu.Lock()
	defer n.mu.Unlock()
	l.shut()
	delete(l.stack.listeners, l.addr.text)
	for {
		select {
		case c := <-l.backlog:
			c.peer.reset(n)
			c.fail(n, net.ErrClosed)
		default:
			return nil
		}
	}
}

func (l *Listener) shut() {
	if !l.closed {
		l.closed = true
		close(l.done)
	}
}

// Addr is where it listens.
func (l *Listener) Addr() net.Addr { return l.addr }

// Conn is one end of a connection.
type Conn struct {
	stack         *Stack
	local, remote address
	dialled       bool
	peer          *Conn
	in            queue // what arrives here
	// orphan: the other end's host lost its power.
	orphan bool
	err    error // why this end is over
	over   chan struct{}
	rd, wd deadline
	// unacked as in LimitUnacked; watched: somebody looks at it.
	unacked time.Duration
	watched bool
}

func newConn(s *Stack, local, remote address) *Conn {
	return &Conn{
		stack: s, local: local, remote: remote, over: make(chan struct{}),
		in: queue{way: link{remote.host, local.host}, ready: make(chan struct{}, 1), space: make(chan struct{}, 1)},
		rd: deadline{cancel: make(chan struct{})}, wd: deadline{cancel: make(chan struct{})},
	}
}

// queue is one way of a connection.
type queue struct {
	way    link
	segs   []segment
	bytes  int
	frozen bool
	last   time.Time // when the last of segs arrives
	ready  chan struct{}
	space  chan struct{}
}

// segment is bytes under way, or the end: err is io.EOF or ECONNRESET then.
type segment struct {
	data   []byte
	err    error
	sent   time.Time
	arrive time.Time // zero: held up
}

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// put sends one segment.
func (q *queue) put(n *Net, s segment) {
	s.sent = time.Now()
	held := len(q.segs) > 0 && q.segs[len(q.segs)-1].arrive.IsZero()
	if !held && !q.frozen && n.open(q.way) {
		d := n.delay()
		for try := 200 * time.Millisecond; n.lost(q.way) && try < 2*time.Second; try *= 2 {
			d += try
		}
		s.arrive = later(q.last, s.sent.Add(d))
		q.last = s.arrive
	}
	q.segs = append(q.segs, s)
	q.bytes += len(s.data)
	poke(q.ready)
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// release gives what was held up its time of arrival: that of the next time a kernel tries, after 0.2, 0.6, 1.4, 3 s and so on.
func (q *queue) release(n *Net) {
	if q.frozen || !n.open(q.way) {
		return
	}
	now := time.Now()
	for i := range q.segs {
		s := &q.segs[i]
		if !s.arrive.IsZero() {
			continue
		}
		at, step := s.sent.Add(200*time.Millisecond), 400*time.Millisecond
		for at.Before(now) {
			at, step = at.Add(step), 2*step
		}
		s.arrive = later(q.last, at.Add(n.delay()))
		q.last = s.arrive
	}
	poke(q.ready)
}

// tear loses the second half of what is under way.
func (q *queue) tear(n *Net) {
	if len(q.segs) == 0 {
		return
	}
	s := &q.segs[0]
	if s.err == nil && len(s.data) > 1 {
		s.data = s.data[:len(s.data)/2]
		s.arrive = time.Now()
		q.segs = q.segs[:1]
	}
}

// reset ends this end from outside, once the news arrives. n.mu is held.
func (c *Conn) reset(n *Net) {
	n.stats.Resets++
	c.in.put(n, segment{err: syscall.ECONNRESET})
}

// fail ends this end at once. n.mu is held.
func (c *Conn) fail(n *Net, err error) {
	if c.err != nil {
		return
	}
	c.err = err
	close(c.over)
	delete(n.conns, c)
}

// Read implements net.Conn.
func (c *Conn) Read(p []byte) (int, error) {
	n := c.stack.net
	for {
		n.mu.Lock()
		if c.err != nil {
			err := c.err
			n.mu.Unlock()
			return 0, c.wrap("read", err)
		}
		if c.rd.past() {
			n.mu.Unlock()
			return 0, c.wrap("read", os.ErrDeadlineExceeded)
		}
		wait := time.Duration(-1)
		if len(c.in.segs) > 0 {
			s := &c.in.segs[0]
			if !s.arrive.IsZero() {
				wait = time.Until(s.arrive)
			}
			if wait <= 0 && !s.arrive.IsZero() {
				if s.err != nil {
					if s.err == io.EOF {
						n.mu.Unlock()
						return 0, io.EOF
					}
					c.fail(n, s.err)
					n.mu.Unlock()
					return 0, c.wrap("read", s.err)
				}
				k := copy(p, s.data)
				s.data = s.data[k:]
				c.in.bytes -= k
				if len(s.data) == 0 {
					c.in.segs[0] = segment{}
					c.in.segs = c.in.segs[1:]
				}
				poke(c.in.space)
				n.mu.Unlock()
				return k, nil
			}
		}
		cancel := c.rd.done()
		n.mu.Unlock()
		c.await(c.in.ready, cancel, wait)
	}
}

// await waits for a signal, the end, the deadline, or d if that is not negative.
func (c *Conn) await(ready, cancel <-chan struct{}, d time.Duration) {
	var timer <-chan time.Time
	if d >= 0 {
		t := time.NewTimer(d)
		defer t.Stop()
		timer = t.C
	}
	select {
	case <-ready:
	case <-cancel:
	case <-c.over:
	case <-timer:
	}
}

// Write implements net.Conn.
func (c *Conn) Write(p []byte) (int, error) {
	n := c.stack.net
	done := 0
	for {
		n.mu.Lock()
		switch {
		case c.err != nil:
			err := c.err
			n.mu.Unlock()
			return done, c.wrap("write", err)
		case c.wd.past():
			n.mu.Unlock()
			return done, c.wrap("write", os.ErrDeadlineExceeded)
		case c.ended():
			n.mu.Unlock()
			return done, c.wrap("write", syscall.EPIPE)
		}
		q := &c.peer.in
		if room := bufferMax - q.bytes; room > 0 {
			k := min(room, len(p)-done)
			q.put(n, segment{data: append([]byte(nil), p[done:done+k]...)})
			c.watch(n)
			done += k
			if c.orphan && n.hosts[c.remote.host] != nil {
				c.reset(n)
			}
			n.mu.Unlock()
			if done == len(p) {
				return done, nil
			}
			continue
		}
		cancel := c.wd.done()
		n.mu.Unlock()
		c.await(q.space, cancel, endPoll)
	}
}

// ended tells whether the other end's end has arrived here.
func (c *Conn) ended() bool {
	for _, s := range c.in.segs {
		if s.err != nil {
			return !s.arrive.IsZero() && !s.arrive.After(time.Now())
		}
	}
	return false
}

func (c *Conn) wrap(op string, err error) error {
	return &net.OpError{Op: op, Net: "tcp", Source: c.local, Addr: c.remote, Err: err}
}

// Close implements net.Conn.
func (c *Conn) Close() error {
	n := c.stack.net
	n.mu.Lock()
	defer n.mu.Unlock()
	if c.err != nil {
		return nil
	}
	c.fail(n, net.ErrClosed)
	if c.peer.err == nil && !c.orphan {
		c.peer.in.put(n, segment{err: io.EOF})
	}
	return nil
}

// LocalAddr implements net.Conn.
func (c *Conn) LocalAddr() net.Addr { return c.local }

// RemoteAddr implements net.Conn.
func (c *Conn) RemoteAddr() net.Addr { return c.remote }

// SetDeadline implements net.Conn.
func (c *Conn) SetDeadline(t time.Time) error {
	c.rd.set(t)
	c.wd.set(t)
	return nil
}

// SetReadDeadline implements net.Conn.
func (c *Conn) SetReadDeadline(t time.Time) error { c.rd.set(t); return nil }

// SetWriteDeadline implements net.Conn.
func (c *Conn) SetWriteDeadline(t time.Time) error { c.wd.set(t); return nil }

// deadline is like that of net.Pipe: a channel that closes when it is past.
type deadline struct {
	mu     sync.Mutex
	at     time.Time
	timer  *time.Timer
	cancel chan struct{}
}

func (d *deadline) set(t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timer != nil && !d.timer.Stop() {
		<-d.cancel
	}
	d.timer, d.at = nil, t
	closed := isClosed(d.cancel)
	if closed {
		d.cancel = make(chan struct{})
	}
	if t.IsZero() {
		return
	}
	if left := time.Until(t); left > 0 {
		cancel := d.cancel
		d.timer = time.AfterFunc(left, func() { close(cancel) })
		return
	}
	close(d.cancel)
}

func (d *deadline) past() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return !d.at.IsZero() && !d.at.After(time.Now())
}

func (d *deadline) done() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.cancel
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// LimitUnacked ends this end once something it sent has been under way for d, as TCP_USER_TIMEOUT does.
func (c *Conn) LimitUnacked(d time.Duration) {
	n := c.stack.net
	n.mu.Lock()
	defer n.mu.Unlock()
	c.unacked = d
}

// watch looks again after a while if something is held up. n.mu is held.
func (c *Conn) watch(n *Net) {
	oldest, held := c.peer.in.oldestHeld()
	if c.unacked == 0 || c.watched || !held || c.err != nil {
		return
	}
	left := c.unacked - time.Since(oldest)
	if left <= 0 {
		c.fail(n, syscall.ETIMEDOUT)
		return
	}
	c.watched = true
	time.AfterFunc(left, func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		c.watched = false
		c.watch(n)
	})
}

// oldestHeld is when the oldest of what does not arrive was sent.
func (q *queue) oldestHeld() (time.Time, bool) {
	for _, s := range q.segs {
		if s.arrive.IsZero() {
			return s.sent, true
		}
	}
	return time.Time{}, false
}

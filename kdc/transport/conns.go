package transport

import (
	"container/list"
	"net/netip"
	"sync"
	"time"

	"github.com/charon-kdc/charon/kdc/limit"
)

// connTable holds every TCP connection and decides who gives way. A connection is idle while the server waits for its
// peer (for a request, or to take a reply), and busy while a request of it is at work. Only idle ones are evicted,
// the one that has been idle longest first: an honest client sends its request at once.
//
// Invariants: a connection is in both lists while it is idle and in none while it is busy; an address has an entry
// while it has a connection.
type connTable struct {
	max, perAddr int
	trusted      []netip.Prefix
	timeout      time.Duration

	mu       sync.Mutex
	all      map[*tcpConn]struct{}
	addrs    map[netip.Prefix]*addrConns
	idle     list.List // of *tcpConn, longest first
	draining bool
	closed   bool
}

// connSender is what counts as one address: whoever has one of IPv6 has a /64.
var connSender = limit.Prefixes{V4: 32, V6: 64}

// addrConns is the connections of one peer address.
type addrConns struct {
	n    int
	idle list.List
}

func (t *connTable) init(c Config) {
	t.max, t.perAddr, t.trusted, t.timeout = c.ConnsMax, c.ConnsPerAddrMax, c.TrustedPrefixes, c.IdleTimeout
	t.all = make(map[*tcpConn]struct{})
	t.addrs = make(map[netip.Prefix]*addrConns)
}

// add takes c in, idle. victim, when there is one, was taken out for it and must be closed. ok is false when there is no room, since everyone is busy.
func (t *connTable) add(c *tcpConn) (victim *tcpConn, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.draining {
		return nil, false
	}
	from := connSender.Of(c.peer.Addr())
	a := t.addrs[from]
	switch {
	case a != nil && a.n >= t.perAddr && !t.trusts(c.peer.Addr()):
		victim = oldest(&a.idle)
		ok = victim != nil
	case len(t.all) >= t.max:
		victim = oldest(&t.idle)
		ok = victim != nil
	default:
		ok = true
	}
	if !ok {
		return nil, false
	}
	if victim != nil {
		t.removeLocked(victim)
	}
	if a = t.addrs[from]; a == nil {
		a = &addrConns{}
		t.addrs[from] = a
	}
	a.n++
	c.addr = a
	t.all[c] = struct{}{}
	t.waitLocked(c)
	return victim, true
}

func oldest(l *list.List) *tcpConn {
	if e := l.Front(); e != nil {
		return e.Value.(*tcpConn)
	}
	return nil
}

func (t *connTable) trusts(addr netip.Addr) bool {
	for _, p := range t.trusted {
		if p.Contains(addr) {
			return true
		}
	}
	return false
}

// busy takes c off the idle lists while its request is at work; false: c was evicted or the server is cut off.
func (t *connTable) busy(c *tcpConn) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if c.addr == nil || t.closed {
		return false
	}
	t.unlistLocked(c)
	return true
}

// replying makes c idle, as the longest waiting last: from here on the peer's slowness is its own.
func (t *connTable) replying(c *tcpConn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if c.addr != nil {
		t.listLocked(c)
	}
}

// next gives c its time for another request; false: there will be none.
func (t *connTable) next(c *tcpConn) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if c.addr == nil || t.draining {
		return false
	}
	t.waitLocked(c)
	return true
}

// waitLocked lists c last and sets its deadline. Under the lock, so that it never undoes drain's.
func (t *connTable) waitLocked(c *tcpConn) {
	t.listLocked(c)
	_ = c.conn.SetReadDeadline(time.Now().Add(t.timeout))
}

func (t *connTable) listLocked(c *tcpConn) {
	t.unlistLocked(c)
	c.inAll, c.inAddr = t.idle.PushBack(c), c.addr.idle.PushBack(c)
}

func (t *connTable) unlistLocked(c *tcpConn) {
	if c.inAll != nil {
		t.idle.Remove(c.inAll)
		c.addr.idle.Remove(c.inAddr)
		c.inAll, c.inAddr = nil, nil
	}
}

// remove forgets c, unless it is forgotten already.
func (t *connTable) remove(c *tcpConn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.removeLocked(c)
}

func (t *connTable) removeLocked(c *tcpConn) {
	if c.addr == nil {
		return
	}
	t.unlistLocked(c)
	delete(t.all, c)
	if c.addr.n--; c.addr.n == 0 {
		delete(t.addrs, connSender.Of(c.peer.Addr()))
	}
	c.addr = nil
}

// drain refuses new connections and requests; those that wait for a request have until deadline to deliver it.
func (t *connTable) drain(deadline time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.draining = true
	for e := t.idle.Front(); e != nil; e = e.Next() {
		_ = e.Value.(*tcpConn).conn.SetReadDeadline(deadline)
	}
}

// closeAll cuts every connection.
func (t *connTable) closeAll() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.draining, t.closed = true, true
	for c := range t.all {
		c.conn.Close()
	}
}

func (t *connTable) len() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.all)
}

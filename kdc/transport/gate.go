package transport

import (
	"container/list"
	"hash/maphash"
	"net/netip"
	"sync"
	"time"

	"github.com/charon-kdc/charon/kdc/limit"
)

// gate admits requests to the processor. So many compute at a time, which keeps the readers scheduled and the requests' latency short; the others wait here, and
// are taken in turn by sender. A sender is an address prefix; a balancer's clients are senders each, as far as their port tells them apart.
//
// When too many wait, those of the sender who has most are dropped, oldest first. So a flood is its own victim, and costs little: what is dropped was neither
// parsed nor looked up. Whoever had proved a key lately, or comes by way of a trusted prefix, waits in a class of its own, which is served more often: senders are forged
// easily over UDP, and a flood from everywhere would otherwise leave nobody a turn.
//
// Invariants: a flow is in its class's flows and turns while it has tickets; running <= slots unless a handler gave its slot back and goes on computing.
type gate struct {
	slots     int           // requests that compute at a time
	ticketMax int           // tickets that wait in each class
	bytesMax  int           // of their datagrams
	wait      time.Duration // a ticket older than this is of no use any more
	share     int           // requests of one sender at work, those that wait for something included
	laneMax   [lanes]int    // and of all, in each lane

	mu      sync.Mutex
	running int
	classes [2]class
	row     int // strangers passed over in a row
	atWork  map[sender]int
	lanes   [lanes]int
	// handed are tickets taken off a queue whose request has not begun.
	handed int
	closed bool
	empty  sync.Cond // nothing waits, and nothing is handed
}

// The classes, in order of rank, and how many of the first are taken for one of the second while both wait.
const (
	classKnown    = 0
	classStranger = 1
	knownPerTurn  = 4
)

// The lanes: what is at work in one never keeps the others out.
const (
	laneQuick = iota
	laneSlow
	laneTCP
	lanes
)

// sender is who takes turns.
type sender struct {
	prefix netip.Prefix
	port   uint16 // only behind a trusted prefix
}

// ticket is one request that waits.
type ticket struct {
	from sender
	lane int
	size int
	at   time.Time
	d    datagram  // UDP
	turn chan bool // TCP: false is no
}

// class is the flows of one rank.
type class struct {
	flows   map[sender]*flow
	turns   list.List // of *flow, whose turn it is first
	tickets int
	bytes   int
	fattest *flow // some flow with many tickets; nil: none known
}

type flow struct {
	from    sender
	tickets []*ticket // oldest first
	turn    *list.Element
}

func (g *gate) init(c Config) {
	g.slots, g.ticketMax, g.bytesMax, g.wait = c.ComputeMax, c.QueueMax, queueBytesMax, c.QueueWait
	g.laneMax, g.share = [lanes]int{c.UDPInFlightMax, c.UDPInFlightMax, c.ConnsMax}, c.SenderInFlightMax
	g.atWork = make(map[sender]int)
	for i := range g.classes {
		g.classes[i].flows = make(map[sender]*flow)
	}
	g.empty.L = &g.mu
}

// outcome is what is to be done with tickets, outside of the lock.
type outcome struct {
	start   *ticket
	dropped []*ticket
	reasons []string
}

func (o *outcome) drop(t *ticket, reason string) {
	o.dropped, o.reasons = append(o.dropped, t), append(o.reasons, reason)
}

// begin takes a place at work without a wait, if there is one; reason says why not, "" that the request must wait.
func (g *gate) begin(from sender, lane int) (ok bool, reason string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.closed:
		return false, DropClosing
	case g.running >= g.slots || g.classes[classKnown].tickets+g.classes[classStranger].tickets > 0:
		return false, ""
	case !g.fits(from, lane):
		return false, DropInFlight
	}
	g.admit(from, lane)
	return true, ""
}

// fits tells whether lane and sender have room for one more at work. A trusted sender is one port of many.
func (g *gate) fits(from sender, lane int) bool {
	return g.lanes[lane] < g.laneMax[lane] && g.atWork[from] < g.share
}

func (g *gate) admit(from sender, lane int) {
	g.running++
	g.lanes[lane]++
	g.atWork[from]++
}

// queue lets t wait in its class. What had to give way for it, perhaps t itself, is in the outcome; t may also begin at once.
func (g *gate) queue(t *ticket, rank int) (o outcome) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		o.drop(t, DropClosing)
		return o
	}
	c := &g.classes[rank]
	c.push(t)
	for c.tickets > g.ticketMax || c.bytes > g.bytesMax {
		o.drop(c.victim(t.from), DropQueueFull)
	}
	if g.running < g.slots { // somebody left since begin
		g.pop(t.at, &o)
	}
	return o
}

// leave gives the place at the processor back, and takes the next ticket.
func (g *gate) leave(now time.Time) (o outcome) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.running--
	if g.running < g.slots {
		g.pop(now, &o)
	}
	return o
}

// done ends a request's work. left: it has given its place at the processor back already.
func (g *gate) done(from sender, lane int, left bool, now time.Time) (o outcome) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.lanes[lane]--
	if g.atWork[from]--; g.atWork[from] == 0 {
		delete(g.atWork, from)
	}
	if !left {
		g.running--
	}
	if g.running < g.slots {
		g.pop(now, &o)
	}
	return o
}

// pop admits the next ticket that is still of use.
func (g *gate) pop(now time.Time, o *outcome) {
	defer g.signal()
	for {
		t := g.take()
		switch {
		case t == nil:
			return
		case now.Sub(t.at) > g.wait:
			o.drop(t, DropLate)
		case !g.fits(t.from, t.lane):
			o.drop(t, DropInFlight)
		default:
			g.admit(t.from, t.lane)
			g.handed++
			o.start = t
			return
		}
	}
}

func (g *gate) take() *ticket {
	known, strangers := &g.classes[classKnown], &g.classes[classStranger]
	switch {
	case known.tickets == 0:
		g.row = 0
		return strangers.pop()
	case strangers.tickets == 0:
		return known.pop()
	case g.row >= knownPerTurn:
		g.row = 0
		return strangers.pop()
	}
	g.row++
	return known.pop()
}

// begun tells that the request of a ticket has begun.
func (g *gate) begun() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.handed--
	g.signal()
}

// signal is called with mu held.
func (g *gate) signal() {
	if g.handed == 0 && g.classes[classKnown].tickets+g.classes[classStranger].tickets == 0 {
		g.empty.Broadcast()
	}
}

// waitEmpty returns when nothing waits.
func (g *gate) waitEmpty() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for g.handed > 0 || g.classes[classKnown].tickets+g.classes[classStranger].tickets > 0 {
		g.empty.Wait()
	}
}

// close drops what waits, and all that comes.
func (g *gate) close() (o outcome) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = true
	for t := g.take(); t != nil; t = g.take() {
		o.drop(t, DropClosing)
	}
	g.signal()
	return o
}

// waiting is how many tickets wait.
func (g *gate) waiting() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.classes[classKnown].tickets + g.classes[classStranger].tickets
}

func (c *class) push(t *ticket) {
	f := c.flows[t.from]
	if f == nil {
		f = &flow{from: t.from}
		f.turn = c.turns.PushBack(f)
		c.flows[t.from] = f
	}
	f.tickets = append(f.tickets, t)
	c.tickets++
	c.bytes += t.size
	if c.fattest == nil || len(f.tickets) > len(c.fattest.tickets) {
		c.fattest = f
	}
}

// pop takes the oldest ticket of the flow whose turn it is, which then is the last one.
func (c *class) pop() *ticket {
	e := c.turns.Front()
	if e == nil {
		return nil
	}
	c.turns.MoveToBack(e)
	return c.first(e.Value.(*flow))
}

// victim takes the ticket that gives way to one that has just come from from: the oldest of the sender who has most, as far as is known.
func (c *class) victim(from sender) *ticket {
	f := c.flows[from]
	if f == nil {
		f = c.turns.Back().Value.(*flow)
	}
	if c.fattest != nil && len(c.fattest.tickets) > len(f.tickets) {
		f = c.fattest
	}
	return c.first(f)
}

// first takes f's oldest ticket, and f out of the class with its last one.
func (c *class) first(f *flow) *ticket {
	t := f.tickets[0]
	f.tickets[0] = nil
	f.tickets = f.tickets[1:]
	c.tickets--
	c.bytes -= t.size
	if len(f.tickets) == 0 {
		delete(c.flows, f.from)
		c.turns.Remove(f.turn)
		if c.fattest == f {
			c.fattest = nil
		}
	}
	return t
}

// acquainted are the prefixes of which somebody has proved a key lately: at most so many in each of two generations, and only proofs get in.
type acquainted struct {
	max       int
	period    time.Duration
	mu        sync.RWMutex
	cur, prev map[netip.Prefix]struct{}
	since     time.Time
}

const (
	acquaintedMax    = 16 << 10
	acquaintedPeriod = time.Hour
)

func (a *acquainted) init(now time.Time) {
	a.max, a.period, a.since, a.cur = acquaintedMax, acquaintedPeriod, now, map[netip.Prefix]struct{}{}
}

func (a *acquainted) has(p netip.Prefix) bool {
	a.mu.RLock()
	defer a.mu.RUnlock()
	if _, ok := a.cur[p]; ok {
		return true
	}
	_, ok := a.prev[p]
	return ok
}

func (a *acquainted) add(p netip.Prefix, now time.Time) {
	a.mu.RLock()
	_, ok := a.cur[p]
	ok = ok && now.Sub(a.since) < a.period
	a.mu.RUnlock()
	if ok {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.cur) >= a.max || now.Sub(a.since) >= a.period {
		a.prev, a.cur, a.since = a.cur, map[netip.Prefix]struct{}{}, now
	}
	a.cur[p] = struct{}{}
}

// admission is who somebody is to the gate.
type admission struct {
	prefixes limit.Prefixes
	trusted  []netip.Prefix
	known    acquainted
	rates    *limit.Table // of prefixes; nil: no limit
	seed     maphash.Seed
}

// ratesMax is how many prefixes' rates are remembered.
const ratesMax = 64 << 10

func (a *admission) init(c Config) {
	a.prefixes, a.trusted, a.seed = c.Prefixes, c.TrustedPrefixes, maphash.MakeSeed()
	a.rates = limit.NewTable(c.PrefixRate, ratesMax)
	a.known.init(time.Now())
}

// allowed tells whether the rate of from's prefix has room for another request.
func (a *admission) allowed(from sender, now time.Time) bool {
	return a.rates == nil || from.port != 0 || a.rates.Allow(maphash.Comparable(a.seed, from.prefix), now)
}

func (a *admission) trusts(addr netip.Addr) bool {
	for _, p := range a.trusted {
		if p.Contains(addr) {
			return true
		}
	}
	return false
}

// sender also tells the class.
func (a *admission) sender(peer netip.AddrPort) (from sender, rank int) {
	addr := peer.Addr().Unmap()
	from.prefix = a.prefixes.Of(addr)
	switch {
	case a.trusts(addr):
		from.prefix, from.port = netip.PrefixFrom(addr, addr.BitLen()), peer.Port()
		return from, classKnown
	case a.known.has(from.prefix):
		return from, classKnown
	}
	return from, classStranger
}

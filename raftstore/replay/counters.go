package replay

import "math"

// Activity is what the cluster counted for one principal. Times are leader times in ms since the epoch, 0 for never.
type Activity struct {
	Failures                 uint32
	LastFailure, LastSuccess int64
}

// CountersMax bounds the principals that are counted. Beyond it the one untouched for longest is forgotten, of those without
// failures first, so that logins by many do not unlock anyone.
const CountersMax = 1 << 20

// counters are kept in a slab, linked into two lists in the order of their last change, oldest first: those with failures
// and those without. The order comes from the log, so every replica forgets the same.
type counters struct {
	slab  []counter
	slots map[[16]byte]uint32
	lists [2]list // by failing
	sum   sum     // of the counters in a list
	max   int     // for tests; 0 means CountersMax
}

type counter struct {
	id [16]byte
	Activity
	prev, next uint32 // slot + 1; 0 at the ends
}

const (
	clean   = 0
	failing = 1
)

type list struct {
	first, last uint32 // slot + 1
	n           int
}

func (c *counter) list() int {
	if c.Failures > 0 {
		return failing
	}
	return clean
}

func (c *counters) len() int { return len(c.slots) }

func (c *counters) activity(id [16]byte) Activity {
	if slot, known := c.slots[id]; known {
		return c.slab[slot].Activity
	}
	return Activity{}
}

// count notes a fresh attempt at now, in ms.
func (c *counters) count(a Attempt, now int64) {
	slot := c.take(a.Principal)
	c.slab[slot].note(a, now)
	c.link(slot)
}

// take returns id's slot, made where there is none, in no list.
func (c *counters) take(id [16]byte) uint32 {
	slot, known := c.slots[id]
	if known {
		c.unlink(slot)
		return slot
	}
	slot = c.room()
	c.slab[slot] = counter{id: id}
	c.slots[id] = slot
	return slot
}

func (act *Activity) note(a Attempt, now int64) {
	if !a.Failed {
		act.Failures, act.LastSuccess = 0, now
		return
	}
	if a.Window > 0 && now-act.LastFailure > int64(a.Window)*1000 || act.LastFailure <= a.UnlockedAt {
		act.Failures = 0
	}
	if act.Failures < math.MaxUint32 {
		act.Failures++
	}
	act.LastFailure = now
}

// room returns a slot that is in no list.
func (c *counters) room() uint32 {
	if c.slots == nil {
		c.slots = make(map[[16]byte]uint32)
	}
	limit := CountersMax
	if c.max > 0 {
		limit = c.max
	}
	if len(c.slab) < limit {
		c.slab = append(c.slab, counter{})
		return uint32(len(c.slab) - 1)
	}
	oldest := c.lists[clean].first
	if oldest == 0 {
		oldest = c.lists[failing].first
	}
	slot := oldest - 1
	c.unlink(slot)
	delete(c.slots, c.slab[slot].id)
	return slot
}

// link appends a slot to the list that its failures say.
func (c *counters) link(slot uint32) {
	e := &c.slab[slot]
	c.sum.add(e.sum())
	l := &c.lists[e.list()]
	e.prev, e.next = l.last, 0
	if l.last != 0 {
		c.slab[l.last-1].next = slot + 1
	} else {
		l.first = slot + 1
	}
	l.last = slot + 1
	l.n++
}

func (c *counters) unlink(slot uint32) {
	e := &c.slab[slot]
	c.sum.sub(e.sum())
	l := &c.lists[e.list()]
	if e.prev != 0 {
		c.slab[e.prev-1].next = e.next
	} else {
		l.first = e.next
	}
	if e.next != 0 {
		c.slab[e.next-1].prev = e.prev
	} else {
		l.last = e.prev
	}
	l.n--
}

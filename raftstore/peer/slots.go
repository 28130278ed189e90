package peer

import (
	"net"
	"net/netip"
	"slices"
	"sync"
)

// Slots bounds the connections of those who have not shown yet who they are. When there are too many, in all or of one address, the
// oldest is closed to make room: an honest one needs milliseconds, so who is closed is who keeps others waiting. Refusing the newest
// instead would let a few silent connections keep every member out.
type Slots struct {
	max, perAddress int

	mu   sync.Mutex
	list []*Slot // oldest first
}

// NewSlots makes max slots, of which one IPv4 address or IPv6 /64 has at most perAddress.
func NewSlots(max, perAddress int) *Slots { return &Slots{max: max, perAddress: perAddress} }

// Slot is one connection's place.
type Slot struct {
	s     *Slots
	from  netip.Prefix
	close func()
	kept  bool // guarded by s.mu
}

// Take gives a place to a connection from addr; close is called, at most once, if the place is given to another. It is nil when all
// places that it could have are kept.
func (s *Slots) Take(addr net.Addr, close func()) *Slot {
	n := &Slot{s: s, from: network(addr), close: close}
	s.mu.Lock()
	defer s.mu.Unlock()
	of := 0
	for _, o := range s.list {
		if o.from == n.from {
			of++
		}
	}
	switch {
	case of >= s.perAddress:
		if !s.evict(func(o *Slot) bool { return o.from == n.from }) {
			return nil
		}
	case len(s.list) >= s.max:
		if !s.evict(func(*Slot) bool { return true }) {
			return nil
		}
	}
	s.list = append(s.list, n)
	return n
}

func (s *Slots) evict(match func(*Slot) bool) bool {
	i := slices.IndexFunc(s.list, func(o *Slot) bool { return !o.kept && match(o) })
	if i < 0 {
		return false
	}
	o := s.list[i]
	s.list = slices.Delete(s.list, i, i+1)
	o.close()
	return true
}

// Keep makes the place safe from others until it is freed. False: it was given away already.
func (n *Slot) Keep() bool {
	n.s.mu.Lock()
	defer n.s.mu.Unlock()
	n.kept = slices.Contains(n.s.list, n)
	return n.kept
}

// Free gives the place back. It may be called more than once.
func (n *Slot) Free() {
	n.s.mu.Lock()
	defer n.s.mu.Unlock()
	if i := slices.Index(n.s.list, n); i >= 0 {
		n.s.list = slices.Delete(n.s.list, i, i+1)
	}
}

// network is what counts as one address: who has one of IPv6 has a /64.
func network(addr net.Addr) netip.Prefix {
	tcp, ok := addr.(*net.TCPAddr)
	if !ok {
		return netip.Prefix{}
	}
	a := tcp.AddrPort().Addr().Unmap().WithZone("")
	bits := a.BitLen()
	if a.Is6() {
		bits = 64
	}
	p, err := a.Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return p
}

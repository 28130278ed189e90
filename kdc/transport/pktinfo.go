package transport

import (
	"net"
	"net/netip"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// A reply must come from the address that was asked: clients connect their sockets, and drop what comes from elsewhere.
// On a wildcard socket the system tells that address beside each datagram (IP_PKTINFO, RFC 3542 section 6.2), and takes it back with the reply.

// pktinfoCacheMax bounds how many (address, interface) pairs one reader remembers; a machine has few.
const pktinfoCacheMax = 256

// origin is where a datagram was sent to, and the control message that makes a reply come from there.
type origin struct {
	local netip.Addr
	oob   []byte
}

// pktinfo reads control messages of one wildcard socket. Not safe for concurrent use.
type pktinfo struct {
	v6   bool
	seen map[string]origin
}

// enable asks the system for control messages on p and returns the room that one needs.
func (i *pktinfo) enable(conn *net.UDPConn) (int, error) {
	i.seen = make(map[string]origin)
	if i.v6 {
		const flags = ipv6.FlagDst | ipv6.FlagInterface
		return len(ipv6.NewControlMessage(flags)), ipv6.NewPacketConn(conn).SetControlMessage(flags, true)
	}
	const flags = ipv4.FlagDst | ipv4.FlagInterface
	return len(ipv4.NewControlMessage(flags)), ipv4.NewPacketConn(conn).SetControlMessage(flags, true)
}

// origin is what the control message oob says. An oob that says nothing gives the zero origin: the system then chooses.
func (i *pktinfo) origin(oob []byte) origin {
	if o, ok := i.seen[string(oob)]; ok {
		return o
	}
	o := parseOrigin(oob, i.v6)
	if len(i.seen) >= pktinfoCacheMax {
		clear(i.seen)
	}
	i.seen[string(oob)] = o
	return o
}

func parseOrigin(oob []byte, v6 bool) origin {
	if v6 {
		var m ipv6.ControlMessage
		if m.Parse(oob) != nil {
			return origin{}
		}
		local, _ := netip.AddrFromSlice(m.Dst)
		reply := ipv6.ControlMessage{Src: m.Dst}
		if local.IsLinkLocalUnicast() {
			reply.IfIndex = m.IfIndex // means nothing without its link
		}
		return origin{local: local, oob: reply.Marshal()}
	}
	var m ipv4.ControlMessage
	if m.Parse(oob) != nil {
		return origin{}
	}
	local, _ := netip.AddrFromSlice(m.Dst)
	reply := ipv4.ControlMessage{Src: m.Dst}
	return origin{local: local.Unmap(), oob: reply.Marshal()}
}

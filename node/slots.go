package node

import (
	"net"

	"google.golang.org/grpc/credentials"

	"github.com/charon-kdc/charon/raftstore/peer"
)

// evicting bounds the open connections of a listener that strangers reach, in all and of one address. Who comes when it is full takes the place of the one that has been there longest and
// has not shown who it is: an honest one needs milliseconds for that. If newcomers waited instead, a few silent connections would keep administrators and health checks out.
func evicting(ln net.Listener, max, perAddress int) net.Listener {
	return &evictingListener{ln, peer.NewSlots(max, perAddress)}
}

type evictingListener struct {
	net.Listener
	slots *peer.Slots
}

func (l *evictingListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if slot := l.slots.Take(c.RemoteAddr(), func() { _ = c.Close() }); slot != nil {
			return &slotConn{c, slot}, nil
		}
		_ = c.Close()
	}
}

type slotConn struct {
	net.Conn
	slot *peer.Slot
}

func (c *slotConn) Close() error {
	c.slot.Free()
	return c.Conn.Close()
}

// keeping are credentials of a server on such a listener: a connection whose client has shown a certificate keeps its place.
type keeping struct {
	credentials.TransportCredentials
}

func (k keeping) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	c, info, err := k.TransportCredentials.ServerHandshake(raw)
	if err != nil {
		return nil, nil, err
	}
	if s, ok := raw.(*slotConn); ok && !s.slot.Keep() {
		_ = c.Close()
		return nil, nil, net.ErrClosed // it was given away meanwhile
	}
	return c, info, nil
}

func (k keeping) Clone() credentials.TransportCredentials {
	return keeping{k.TransportCredentials.Clone()}
}

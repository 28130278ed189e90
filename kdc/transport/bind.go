package transport

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
)

// bindAttempts is how many free ports are tried until one is free for UDP and TCP in every family.
const bindAttempts = 64

// socketBuffer is asked for on both sides of a UDP socket; the system may give less (net.core.rmem_max).
const socketBuffer = 4 << 20

// bound is the sockets of one address of one family.
type bound struct {
	addr netip.AddrPort
	tcp  *net.TCPListener
	udp  []*net.UDPConn
}

func (b bound) close() {
	if b.tcp != nil {
		b.tcp.Close()
	}
	for _, u := range b.udp {
		u.Close()
	}
}

// bind opens UDP and TCP on one port for one of Config.Addrs: two families when the host is empty, else one.
func bind(addr string, readers int) ([]bound, error) {
	hosts, port, err := families(addr)
	if err != nil {
		return nil, err
	}
	for attempt := 0; ; attempt++ {
		out, err := bindHosts(hosts, port, readers)
		if err == nil || port != 0 || attempt == bindAttempts || !errors.Is(err, syscall.EADDRINUSE) {
			return out, err
		}
	}
}

// families is the addresses that "host:port" stands for. A name is looked up, IPv4 first.
func families(addr string) ([]netip.Addr, uint16, error) {
	a, err := net.ResolveTCPAddr("tcp", addr)
	if err != nil {
		return nil, 0, fmt.Errorf("listening on %s: %w", addr, err)
	}
	if a.IP == nil {
		return []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()}, uint16(a.Port), nil
	}
	ip := a.AddrPort().Addr().Unmap()
	return []netip.Addr{ip}, uint16(a.Port), nil
}

func bindHosts(hosts []netip.Addr, port uint16, readers int) (out []bound, err error) {
	defer func() {
		if err != nil {
			for _, b := range out {
				b.close()
			}
			out = nil
		}
	}()
	for i, host := range hosts {
		b, err := bindOne(netip.AddrPortFrom(host, port), readers)
		if i > 0 && noFamily(err) {
			continue // a machine without IPv6
		}
		if err != nil {
			return out, err
		}
		out = append(out, b)
		port = b.addr.Port()
	}
	return out, nil
}

// noFamily tells whether err says that the machine does not have the address family.
func noFamily(err error) bool {
	return errors.Is(err, syscall.EAFNOSUPPORT) || errors.Is(err, syscall.EADDRNOTAVAIL)
}

// bindOne opens TCP before UDP: UDP sockets share their port (SO_REUSEPORT), so only TCP shows that another server is there.
func bindOne(at netip.AddrPort, readers int) (b bound, err error) {
	defer func() {
		if err != nil {
			b.close()
			err = fmt.Errorf("listening on %s: %w", at, err)
		}
	}()
	tcp, udp := "tcp4", "udp4"
	if at.Addr().Is6() {
		tcp, udp = "tcp6", "udp6"
	}
	lc := net.ListenConfig{KeepAlive: -1} // idle connections end after seconds anyway
	l, err := lc.Listen(context.Background(), tcp, at.String())
	if err != nil {
		return b, err
	}
	b.tcp = l.(*net.TCPListener)
	b.addr = netip.AddrPortFrom(at.Addr(), b.tcp.Addr().(*net.TCPAddr).AddrPort().Port())
	if readers > 1 {
		lc.Control = reusePort
	}
	for range readers {
		p, err := lc.ListenPacket(context.Background(), udp, b.addr.String())
		if err != nil {
			return b, err
		}
		u := p.(*net.UDPConn)
		b.udp = append(b.udp, u)
		growReadBuffer(u)
		_ = u.SetWriteBuffer(socketBuffer)
	}
	return b, nil
}

// growReadBuffer asks for socketBuffer, past the system's limit where this process may. Less is slower, not wrong.
func growReadBuffer(u *net.UDPConn) {
	c, err := u.SyscallConn()
	if err == nil {
		var opt error
		err = errors.Join(c.Control(func(fd uintptr) {
			opt = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, socketBuffer)
		}), opt)
	}
	if err != nil {
		_ = u.SetReadBuffer(socketBuffer)
	}
}

func reusePort(_, _ string, c syscall.RawConn) error {
	var opt error
	err := c.Control(func(fd uintptr) {
		opt = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
	})
	return errors.Join(err, opt)
}

// Package transport carries Kerberos messages over UDP and TCP on one port (RFC 4120 section 7.2, RFC 5021).
//
// It owns sockets, datagram batches, the TCP length prefix, connection limits, buffers and the drain at the end. It
// bounds everything that a peer can make it hold: bytes, connections, time and requests at work. It must not know
// ASN.1, principals or what an answer means: bytes go in, bytes or nothing come out.
package transport

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"runtime"
	"time"

	"github.com/charon-kdc/charon/kdc/limit"
)

// Packet is one request.
type Packet struct {
	// Data is the message without the TCP length prefix. It is the handler's until the handler returns, and overwritten after.
	Data []byte
	// Peer is who asked; Local the address that was asked, also on a wildcard socket.
	Peer, Local netip.AddrPort
	TCP         bool
	// Received is when it came, with a monotonic reading.
	Received time.Time
	// ReplyMax is how many octets a reply may have; 0 means no limit (TCP).
	// What an unauthenticated peer may get is less, and the handler's to know.
	ReplyMax int
	// Waiting tells that from here on the handler waits for others rather than computes, so that another request may be computed meanwhile. It may be called more
	// than once, by the handler's goroutine. What little a handler computes after its wait is not held up again.
	Waiting func()
}

// Handler answers one request. Nil is no reply: a datagram is forgotten, a TCP connection is closed. The reply may be
// shared with other requests; transport never changes it. The context ends when the server is stopped for good, not
// when a peer goes away. It is run by many goroutines at once. A handler may block, and says so first by Packet.Waiting: those that block without a word
// hold the places of ComputeMax.
type Handler func(ctx context.Context, p Packet) []byte

// Config says where to listen and what to bear. The zero value of every limit is its default.
type Config struct {
	// Addrs are "host:port", each served over UDP and TCP. An empty host is every IPv4 and IPv6 address of the machine,
	// "0.0.0.0" and "::" those of one family. Port 0 is a free port, the same one for UDP and TCP.
	Addrs   []string
	Handler Handler
	// Oversize makes the reply to a TCP length with the high bit set or above RequestMax, KRB_ERR_FIELD_TOOLONG
	// (RFC 5021 section 3). Nil: the connection is closed without a word.
	Oversize func() []byte

	// RequestMax is the longest request in octets, 512 to 1 MiB; zero means 64 KiB. UDP ends at 65,507 by itself.
	RequestMax int
	// UDPReplyMax is the longest UDP reply in octets, 512 to 65,507; zero means 4,096.
	UDPReplyMax int
	// UDPReaders is how many sockets read one UDP address, 1 to 64 (SO_REUSEPORT above 1); zero means one a core, at most 4.
	UDPReaders int
	// UDPInFlightMax bounds the UDP requests at work in each lane; above it datagrams are dropped. Zero means 8,192.
	UDPInFlightMax int
	// SenderInFlightMax bounds those of one sender, UDP and TCP together. Zero means a quarter of UDPInFlightMax, at least 64.
	SenderInFlightMax int
	// ComputeMax is how many requests compute at a time; the others wait, and are taken in turn by sender. Zero means 4 a core, at least 8.
	ComputeMax int
	// QueueMax is how many requests may wait, of senders known and of others each; zero means 4,096. When there are more, those of whoever has most are dropped.
	QueueMax int
	// QueueWait is how long one may wait before it is dropped: its client has sent it again by then. Zero means 2 s.
	QueueWait time.Duration
	// Prefixes are the addresses that count as one sender.
	Prefixes limit.Prefixes
	// PrefixRate bounds the requests of one prefix. The zero value is no bound.
	PrefixRate limit.Rate
	// Slow tells by a datagram's bytes whether its handler may wait long (a TGS-REQ, for its replay verdict). Slow requests
	// have a bound of their own, so that those that wait never keep the others out. Nil: there is one lane.
	Slow func(data []byte) bool
	// RefuseSourcePorts are UDP source ports that get no reply, since servers live there (CVE-2002-2443). Nil means 88 and 464.
	RefuseSourcePorts []uint16

	// ConnsMax bounds TCP connections; zero means 4,096. At the limit the one that has idled longest is closed for a new one.
	ConnsMax int
	// ConnsPerAddrMax bounds them for one IPv4 address or IPv6 /64; zero means 64.
	ConnsPerAddrMax int
	// TrustedPrefixes (balancers, proxies, NAT) are exempt from ConnsPerAddrMax and PrefixRate, and each of their ports is a sender of its own.
	TrustedPrefixes []netip.Prefix
	// IdleTimeout is how long a connection may take to deliver a whole request, counted from its start or its last reply. Zero means 10 s.
	IdleTimeout time.Duration
	// WriteTimeout is how long a reply may take to be accepted by the peer. Zero means 10 s.
	WriteTimeout time.Duration

	// Logger gets what an operator must see: a socket that fails, a handler's panic. Nil: nothing is logged.
	Logger *slog.Logger
	// Dropped is told the reason of everything that was dropped, one of the Drop constants. It must not block. Nil: untold.
	Dropped func(reason string)
	// PoisonBuffers overwrites each request when its handler has returned. For tests: what kept a slice of it then shows.
	PoisonBuffers bool
}

// Reasons given to Config.Dropped.
const (
	DropInFlight   = "in_flight"    // UDP: too many requests at work
	DropSourcePort = "source_port"  // UDP: from a server's port
	DropTooBig     = "too_big"      // a request above RequestMax, or a UDP reply that no datagram holds
	DropSend       = "send"         // UDP: the system refused a reply, or the send queue is full
	DropConnLimit  = "conn_limit"   // TCP: refused, every connection is at work
	DropConnEvict  = "conn_evicted" // TCP: an idle connection gave way to a new one
	DropSlow       = "slow"         // TCP: a request or reply that took too long
	DropPanic      = "panic"        // the handler panicked
	DropQueueFull  = "queue_full"   // overload: its sender had most requests waiting
	DropLate       = "late"         // overload: it waited for longer than its client would
	DropPrefixRate = "prefix_rate"  // its prefix sends more than PrefixRate
	DropClosing    = "closing"      // the server is cut off
)

// ErrClosed is what Serve returns after Shutdown.
var ErrClosed = errors.New("transport: server closed")

const (
	requestMaxDefault  = 64 << 10
	requestMaxLimit    = 1 << 20
	udpReplyMaxDefault = 4096
	datagramMax        = 65507 // the largest UDP payload over IPv4
	inFlightMaxDefault = 8192
	connsMaxDefault    = 4096
	connsPerAddrMax    = 64
	queueMaxDefault    = 4096
	queueBytesMax      = 32 << 20 // of waiting datagrams, in each class
	queueWaitDefault   = 2 * time.Second
	computePerCore     = 4
	computeLeast       = 8
	senderLeast        = 64
	timeoutDefault     = 10 * time.Second
)

// withDefaults is c with every zero replaced, or an error that names the field out of range.
func (c Config) withDefaults() (Config, error) {
	if c.Handler == nil {
		return c, errors.New("transport: Handler is missing")
	}
	if len(c.Addrs) == 0 {
		return c, errors.New("transport: Addrs is empty")
	}
	ints := []struct {
		name           string
		field          *int
		zero, min, max int
	}{
		{"RequestMax", &c.RequestMax, requestMaxDefault, 512, requestMaxLimit},
		{"UDPReplyMax", &c.UDPReplyMax, udpReplyMaxDefault, 512, datagramMax},
		{"UDPReaders", &c.UDPReaders, min(runtime.GOMAXPROCS(0), 4), 1, 64},
		{"UDPInFlightMax", &c.UDPInFlightMax, inFlightMaxDefault, 1, 1 << 20},
		{"ComputeMax", &c.ComputeMax, max(computeLeast, computePerCore*runtime.GOMAXPROCS(0)), 1, 1 << 16},
		{"QueueMax", &c.QueueMax, queueMaxDefault, 1, 1 << 20},
		{"ConnsMax", &c.ConnsMax, connsMaxDefault, 1, 1 << 20},
		{"ConnsPerAddrMax", &c.ConnsPerAddrMax, connsPerAddrMax, 1, 1 << 20},
	}
	for _, i := range ints {
		if *i.field == 0 {
			*i.field = i.zero
		}
		if *i.field < i.min || *i.field > i.max {
			return c, fmt.Errorf("transport: %s is %d, want %d to %d", i.name, *i.field, i.min, i.max)
		}
	}
	if c.SenderInFlightMax == 0 {
		c.SenderInFlightMax = max(senderLeast, c.UDPInFlightMax/4)
	}
	if c.SenderInFlightMax < 1 {
		return c, fmt.Errorf("transport: SenderInFlightMax is %d, want more than zero", c.SenderInFlightMax)
	}
	for _, d := range []struct {
		name  string
		field *time.Duration
		zero  time.Duration
	}{{"IdleTimeout", &c.IdleTimeout, timeoutDefault}, {"WriteTimeout", &c.WriteTimeout, timeoutDefault}, {"QueueWait", &c.QueueWait, queueWaitDefault}} {
		if *d.field == 0 {
			*d.field = d.zero
		}
		if *d.field < 0 {
			return c, fmt.Errorf("transport: %s is %v, want more than zero", d.name, *d.field)
		}
	}
	if c.RefuseSourcePorts == nil {
		c.RefuseSourcePorts = []uint16{88, 464}
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Dropped == nil {
		c.Dropped = func(string) {}
	}
	return c, nil
}

package client

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/charon-kdc/charon/kdc/krb5"
)

// ExchangeOptions say how Exchange carries a message. The zero value is MIT's behaviour.
type ExchangeOptions struct {
	// TCP asks over TCP only.
	TCP bool
	// UDPMax is the longest message in octets that goes over UDP first; zero means 1,465 (MIT's udp_preference_limit), negative none.
	UDPMax int
	// Passes is how often the list of KDCs is gone through over UDP; zero means 3.
	Passes int
	// Wait is how long the first pass waits for each KDC; it doubles with each pass. Zero means 1 s.
	Wait time.Duration
	// TCPTimeout bounds one KDC's connection, request and reply; zero means 10 s.
	TCPTimeout time.Duration
}

const (
	udpMaxDefault     = 1465
	passesDefault     = 3
	waitDefault       = time.Second
	tcpTimeoutDefault = 10 * time.Second
	portDefault       = "88"
	// replyMax bounds a reply over TCP in octets.
	replyMax = 1 << 20
	// targetsMax bounds the addresses that one exchange asks.
	targetsMax = 32
)

func (o ExchangeOptions) withDefaults() ExchangeOptions {
	if o.UDPMax == 0 {
		o.UDPMax = udpMaxDefault
	}
	if o.Passes <= 0 {
		o.Passes = passesDefault
	}
	if o.Wait <= 0 {
		o.Wait = waitDefault
	}
	if o.TCPTimeout <= 0 {
		o.TCPTimeout = tcpTimeoutDefault
	}
	return o
}

// UnreachableError says that no KDC answered, and what became of each. errors.As finds a *krb5.Error in it when a KDC said KDC_ERR_SVC_UNAVAILABLE.
type UnreachableError struct {
	Tried []TriedKDC
}

// TriedKDC is one KDC that did not answer.
type TriedKDC struct {
	Addr string // with "udp/" or "tcp/" before it
	Err  error
}

func (e *UnreachableError) Error() string {
	if len(e.Tried) == 0 {
		return "no KDC to ask"
	}
	var b strings.Builder
	b.WriteString("no KDC answered: ")
	for i, t := range e.Tried {
		if i > 0 {
			b.WriteString("; ")
		}
		fmt.Fprintf(&b, "%s: %v", t.Addr, t.Err)
	}
	return b.String()
}

func (e *UnreachableError) Unwrap() []error {
	out := make([]error, len(e.Tried))
	for i, t := range e.Tried {
		out[i] = t.Err
	}
	return out
}

var errNoAnswer = errors.New("no answer")

// Exchange sends msg, one KDC-REQ, to the KDCs in turn and returns the first reply and the address that gave it.
// KRB_ERR_RESPONSE_TOO_BIG repeats the same bytes over TCP (RFC 4120 section 7.2.1), KDC_ERR_SVC_UNAVAILABLE asks the
// next KDC; any other KRB-ERROR is a reply. The error is an *UnreachableError when nobody answered, or ctx's.
func Exchange(ctx context.Context, kdcs []string, msg []byte, o ExchangeOptions) (reply []byte, addr string, err error) {
	o = o.withDefaults()
	targets, tried := resolve(ctx, kdcs)
	udp, tcp := split(targets)
	var order []target
	switch {
	case o.TCP:
		order = asTCP(targets)
	case len(msg) > o.UDPMax:
		order = append(tcp, udp...)
	default:
		order = append(udp, tcp...)
	}
	r := ask(ctx, order, msg, o, tried)
	if r.err == nil && errorCode(r.reply) == krb5.ErrResponseTooBig {
		r = ask(ctx, asTCP(targets), msg, o, nil)
	}
	return r.reply, r.addr, r.err
}

// target is one address over one transport.
type target struct {
	network string // "udp" or "tcp"
	addr    string // host:port, the host an address
	only    bool   // the other transport was ruled out by a prefix
}

func (t target) String() string { return t.network + "/" + t.addr }

// resolve looks the names up, in order. What has no address is in tried.
func resolve(ctx context.Context, kdcs []string) (out []target, tried []TriedKDC) {
	for _, kdc := range kdcs {
		t := target{network: "udp"}
		name := kdc
		if rest, ok := strings.CutPrefix(name, "tcp/"); ok {
			t, name = target{network: "tcp", only: true}, rest
		} else if rest, ok := strings.CutPrefix(name, "udp/"); ok {
			t.only, name = true, rest
		}
		host, port, err := hostPort(name)
		var ips []netip.Addr
		if err == nil {
			ips, err = lookup(ctx, host)
		}
		if err != nil {
			tried = append(tried, TriedKDC{kdc, err})
			continue
		}
		for _, ip := range ips {
			t.addr = net.JoinHostPort(ip.String(), port)
			if len(out) < targetsMax && !slices.Contains(out, t) {
				out = append(out, t)
			}
		}
	}
	return out, tried
}

// hostPort reads host, host:port, address, [address] and [address]:port.
func hostPort(s string) (host, port string, err error) {
	if strings.Contains(s, "://") {
		return "", "", fmt.Errorf("%q: KDC proxies are not supported", s)
	}
	if ip, err := netip.ParseAddr(strings.Trim(s, "[]")); err == nil {
		return ip.String(), portDefault, nil
	}
	if !strings.Contains(s, ":") {
		return s, portDefault, nil
	}
	return net.SplitHostPort(s)
}

func lookup(ctx context.Context, host string) ([]netip.Addr, error) {
	if ip, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{ip}, nil
	}
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	for i := range ips {
		ips[i] = ips[i].Unmap()
	}
	return ips, err
}

// split is the UDP and the TCP half of what Exchange may ask.
func split(targets []target) (udp, tcp []target) {
	for _, t := range targets {
		if t.network == "udp" {
			udp = append(udp, t)
		}
		if t.network == "tcp" || !t.only {
			tcp = append(tcp, target{network: "tcp", addr: t.addr})
		}
	}
	return udp, tcp
}

// asTCP is every target over TCP, where UDP is not an answer.
func asTCP(targets []target) (out []target) {
	for _, t := range targets {
		out = append(out, target{network: "tcp", addr: t.addr})
	}
	return out
}

// answer is what came of one target, or of all.
type answer struct {
	from  int // index of the target
	reply []byte
	addr  string
	err   error
}

// asking is one Exchange under way: a line to each target that was asked, all of them listened to until one replies.
type asking struct {
	ctx     context.Context
	targets []target
	msg     []byte
	o       ExchangeOptions
	lines   []line
	replies chan answer
	left    int // targets that may still reply

	listeners sync.WaitGroup
}

type line struct {
	udp  net.Conn
	used bool
	err  error // why it is given up; nil while it may still reply
}

// ask goes through the targets as MIT does: each gets a second in the first pass, two in the next; a target that is
// known to be dead is passed over at once; a late reply to an earlier try counts.
func ask(ctx context.Context, targets []target, msg []byte, o ExchangeOptions, tried []TriedKDC) answer {
	ctx, cancel := context.WithCancel(ctx)
	a := &asking{ctx: ctx, targets: targets, msg: msg, o: o, lines: make([]line, len(targets)),
		replies: make(chan answer, len(targets)), left: len(targets)}
	defer a.close(cancel)
	for pass := range o.Passes {
		for i, t := range targets {
			if a.lines[i].err != nil || t.network == "tcp" && pass > 0 {
				continue
			}
			a.send(i)
			if r, ok := a.wait(o.Wait << pass); ok {
				return r
			}
		}
	}
	if a.left > 0 && slices.ContainsFunc(targets, func(t target) bool { return t.network == "tcp" }) {
		if r, ok := a.wait(o.TCPTimeout); ok { // connections end by themselves within that time
			return r
		}
	}
	if err := ctx.Err(); err != nil {
		return answer{err: err}
	}
	for i, t := range targets {
		err := a.lines[i].err
		if err == nil {
			err = errNoAnswer
		}
		tried = append(tried, TriedKDC{t.String(), err})
	}
	return answer{err: &UnreachableError{tried}}
}

// send asks target i, or asks it again.
func (a *asking) send(i int) {
	l := &a.lines[i]
	t := a.targets[i]
	if t.network == "tcp" {
		l.used = true
		a.listeners.Go(func() {
			reply, err := overTCP(a.ctx, t.addr, a.msg, a.o.TCPTimeout)
			a.replies <- answer{from: i, reply: reply, err: err}
		})
		return
	}
	if l.udp == nil {
		c, err := net.Dial("udp", t.addr)
		if err != nil {
			a.replies <- answer{from: i, err: err}
			l.used = true
			return
		}
		l.udp, l.used = c, true
		a.listeners.Go(func() { a.replies <- listen(c, i) })
	}
	_, _ = l.udp.Write(a.msg) // a refusal comes to the listener, too
}

// listen waits for one datagram that is a reply. A connected socket takes them from the KDC asked only.
func listen(c net.Conn, i int) answer {
	buf := make([]byte, 64<<10)
	for {
		n, err := c.Read(buf)
		if err != nil {
			return answer{from: i, err: err}
		}
		if isReply(buf[:n]) {
			return answer{from: i, reply: slices.Clone(buf[:n])}
		}
	}
}

// wait takes replies for up to d. ok is false when there is none: go on with the next target.
func (a *asking) wait(d time.Duration) (r answer, ok bool) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	for {
		select {
		case r := <-a.replies:
			if r.err == nil && errorCode(r.reply) == krb5.ErrSvcUnavailable {
				r.err = &krb5.Error{Code: krb5.ErrSvcUnavailable}
			}
			if r.err == nil {
				r.addr = a.targets[r.from].addr
				return r, true
			}
			a.lines[r.from].err = r.err
			a.left--
			if a.left == 0 || !a.open() {
				return answer{}, false
			}
		case <-timer.C:
			return answer{}, false
		case <-a.ctx.Done():
			return answer{err: a.ctx.Err()}, true
		}
	}
}

// open tells whether a target that was asked may still reply.
func (a *asking) open() bool {
	return slices.ContainsFunc(a.lines, func(l line) bool { return l.used && l.err == nil })
}

// close ends every line and waits for who listened.
func (a *asking) close(cancel context.CancelFunc) {
	cancel()
	for _, l := range a.lines {
		if l.udp != nil {
			l.udp.Close()
		}
	}
	a.listeners.Wait() // each has one answer at most, for which replies has room
}

// overTCP does one exchange over a connection of its own (RFC 4120 section 7.2.2).
func overTCP(ctx context.Context, addr string, msg []byte, timeout time.Duration) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	if _, err := c.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(msg))), msg...)); err != nil {
		return nil, err
	}
	var prefix [4]byte
	if _, err := io.ReadFull(c, prefix[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(prefix[:])
	if n == 0 || n > replyMax {
		return nil, fmt.Errorf("reply of %d octets, want 1 to %d", n, replyMax)
	}
	reply := make([]byte, n)
	if _, err := io.ReadFull(c, reply); err != nil {
		return nil, err
	}
	if !isReply(reply) {
		return nil, errors.New("the reply is no Kerberos message")
	}
	return reply, nil
}

// isReply tells by the application tag whether b is an AS-REP, TGS-REP or KRB-ERROR (RFC 4120 section 5.10).
func isReply(b []byte) bool {
	return len(b) > 1 && (b[0] == 0x60|byte(krb5.MsgASRep) || b[0] == 0x60|byte(krb5.MsgTGSRep) || b[0] == 0x60|byte(krb5.MsgError))
}

// errorCode is the code of a KRB-ERROR; ErrNone of anything else.
func errorCode(b []byte) krb5.ErrorCode {
	if len(b) == 0 || b[0] != 0x60|byte(krb5.MsgError) {
		return krb5.ErrNone
	}
	e, err := krb5.DecodeKRBError(b)
	if err != nil {
		return krb5.ErrNone
	}
	return e.ErrorCode
}

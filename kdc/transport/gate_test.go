package transport

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/charon-kdc/charon/kdc/limit"
)

// bench is a gate under test: nothing runs, tickets come and go by hand.
type gateBench struct {
	*gate
	at      time.Time
	dropped map[string]int // by sender and reason
}

func newGateBench(t *testing.T, c Config) *gateBench {
	t.Helper()
	c.Addrs, c.Handler = []string{"x"}, echo
	c, err := c.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	b := &gateBench{gate: &gate{}, at: time.Unix(1000, 0), dropped: map[string]int{}}
	b.init(c)
	return b
}

func from(n int) sender {
	return sender{prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(n >> 8), byte(n), 0}), 24)}
}

func (b *gateBench) note(o outcome) *ticket {
	for i, t := range o.dropped {
		b.dropped[t.from.prefix.String()+" "+o.reasons[i]]++
	}
	if o.start != nil {
		b.begun()
	}
	return o.start
}

// come queues a ticket; the place at work, if it was free, is filled first.
func (b *gateBench) come(s sender, rank, size int) *ticket {
	return b.note(b.queue(&ticket{from: s, size: size, at: b.at}, rank))
}

// end ends one request of s and gives the one that began in its place.
func (b *gateBench) end(s sender) *ticket { return b.note(b.done(s, laneQuick, false, b.at)) }

func TestGateTakesTurns(t *testing.T) {
	b := newGateBench(t, Config{ComputeMax: 1})
	if ok, _ := b.begin(from(0), laneQuick); !ok {
		t.Fatal("an idle gate does not let in")
	}
	for range 1000 {
		b.come(from(1), classStranger, 0)
	}
	b.come(from(2), classStranger, 0)
	b.come(from(3), classStranger, 0)
	var order []sender
	last := from(0)
	for range 4 {
		last = b.end(last).from
		order = append(order, last)
	}
	want := []sender{from(1), from(2), from(3), from(1)}
	if fmt.Sprint(order) != fmt.Sprint(want) {
		t.Errorf("turns %v, want %v", order, want)
	}
}

func TestGateKnownSendersComeFirst(t *testing.T) {
	b := newGateBench(t, Config{ComputeMax: 1})
	b.begin(from(0), laneQuick)
	for i := range 100 {
		b.come(from(100+i), classStranger, 0)
	}
	for range 100 {
		b.come(from(1), classKnown, 0)
	}
	known, last := 0, from(0)
	for range 100 {
		if last = b.end(last).from; last == from(1) {
			known++
		}
	}
	if known != 80 {
		t.Errorf("%d of 100 turns went to those known, want four of five: neither side starves", known)
	}
}

func TestGateDropsWhoHasMost(t *testing.T) {
	b := newGateBench(t, Config{ComputeMax: 1, QueueMax: 100})
	b.begin(from(0), laneQuick)
	for range 10_000 {
		b.come(from(1), classStranger, 0)
	}
	for i := range 50 {
		b.come(from(2+i), classStranger, 0)
	}
	for range 10_000 {
		b.come(from(1), classStranger, 0)
	}
	if n := b.waiting(); n != 100 {
		t.Errorf("%d wait, want 100", n)
	}
	if len(b.dropped) != 1 || b.dropped[from(1).prefix.String()+" "+DropQueueFull] != 19_950 {
		t.Errorf("dropped %v, want 19,950 of the flood and nobody else's", b.dropped)
	}
}

func TestGateBoundsBytes(t *testing.T) {
	b := newGateBench(t, Config{ComputeMax: 1})
	b.begin(from(0), laneQuick)
	for i := range 3000 {
		b.come(from(i%7+1), classStranger, 64<<10)
	}
	if n := b.waiting(); n != queueBytesMax/(64<<10) {
		t.Errorf("%d datagrams of 64 KiB wait, want %d", n, queueBytesMax/(64<<10))
	}
}

func TestGateDropsWhatIsLate(t *testing.T) {
	b := newGateBench(t, Config{ComputeMax: 1, QueueWait: time.Second})
	b.begin(from(0), laneQuick)
	for range 20 {
		b.come(from(1), classStranger, 0)
	}
	b.at = b.at.Add(time.Second + 1)
	b.come(from(2), classStranger, 0)
	if got := b.end(from(0)); got == nil || got.from != from(2) || b.dropped[from(1).prefix.String()+" "+DropLate] == 0 {
		t.Errorf("began %v, dropped %v", got, b.dropped)
	}
	if got := b.end(from(2)); got != nil || b.dropped[from(1).prefix.String()+" "+DropLate] != 20 || b.waiting() != 0 {
		t.Errorf("began %v, dropped %v, %d wait", got, b.dropped, b.waiting())
	}
}

func TestGateBoundsOneSendersShare(t *testing.T) {
	b := newGateBench(t, Config{ComputeMax: 1, UDPInFlightMax: 10, SenderInFlightMax: 3})
	for i := range 5 {
		ok, reason := b.begin(from(1), laneSlow)
		if i < 3 != ok || !ok && reason != DropInFlight {
			t.Fatalf("request %d: %v %q", i, ok, reason)
		}
		if ok {
			b.note(b.leave(b.at)) // it waits for something
		}
	}
	for i := range 7 {
		if ok, _ := b.begin(from(10+i), laneSlow); !ok {
			t.Fatalf("sender %d finds no room beside one at its limit", i)
		}
		b.note(b.leave(b.at))
	}
	if ok, reason := b.begin(from(50), laneSlow); ok || reason != DropInFlight {
		t.Errorf("the eleventh is let in: %q", reason)
	}
	if ok, _ := b.begin(from(50), laneQuick); !ok {
		t.Error("the other lane is full as well")
	}
}

// With ever new senders the gate's memory ends where its queue does.
func TestGateForgets(t *testing.T) {
	b := newGateBench(t, Config{ComputeMax: 2, QueueMax: 64})
	b.begin(from(0), laneQuick)
	b.begin(from(0), laneQuick)
	var last [2]sender
	last[0], last[1] = from(0), from(0)
	for i := range 50_000 {
		b.come(from(i), classStranger, 1)
		if i%3 == 0 {
			if next := b.end(last[i%2]); next != nil {
				last[i%2] = next.from
			}
		}
	}
	c := &b.classes[classStranger]
	if len(c.flows) > 64 || c.turns.Len() != len(c.flows) || c.tickets > 64 || c.bytes != c.tickets || len(b.atWork) > 2 {
		t.Errorf("%d flows, %d in turn, %d tickets of %d bytes, %d senders at work", len(c.flows), c.turns.Len(), c.tickets, c.bytes, len(b.atWork))
	}
	for _, s := range last {
		for n := b.end(s); n != nil; n = b.end(n.from) {
		}
	}
	if c.tickets != 0 || len(c.flows) != 0 || c.turns.Len() != 0 || c.fattest != nil || b.running != 0 {
		t.Errorf("after the last: %d tickets, %d flows, %d running", c.tickets, len(c.flows), b.running)
	}
}

func TestAcquaintedIsBounded(t *testing.T) {
	var a acquainted
	now := time.Unix(1000, 0)
	a.init(now)
	a.max = 100
	for i := range 1000 {
		a.add(from(i).prefix, now)
		a.add(from(5000).prefix, now)
	}
	if len(a.cur)+len(a.prev) > 200 || !a.has(from(5000).prefix) || !a.has(from(999).prefix) || a.has(from(1).prefix) {
		t.Errorf("%d and %d prefixes are known", len(a.cur), len(a.prev))
	}
	for range 2 {
		now = now.Add(a.period)
		a.add(from(1).prefix, now)
	}
	if a.has(from(5000).prefix) || !a.has(from(1).prefix) {
		t.Error("known for longer than two periods, or not for one")
	}
}

func TestSenders(t *testing.T) {
	var a admission
	a.init(Config{TrustedPrefixes: []netip.Prefix{netip.MustParsePrefix("198.51.100.7/32")}})
	of := func(s string) string {
		f, rank := a.sender(netip.MustParseAddrPort(s))
		return fmt.Sprint(f.prefix, " ", f.port, " ", rank)
	}
	for in, want := range map[string]string{
		"192.0.2.7:1000":            "192.0.2.0/24 0 1",
		"[::ffff:192.0.2.9]:1000":   "192.0.2.0/24 0 1",
		"[2001:db8:0:1ff::1]:1":     "2001:db8:0:100::/56 0 1",
		"198.51.100.7:4321":         "198.51.100.7/32 4321 0",
		"[::ffff:198.51.100.7]:999": "198.51.100.7/32 999 0",
	} {
		if got := of(in); got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
	a.known.add(netip.MustParsePrefix("192.0.2.0/24"), time.Now())
	if got := of("192.0.2.7:1000"); got != "192.0.2.0/24 0 0" {
		t.Errorf("once known: %s", got)
	}
}

func TestPrefixRate(t *testing.T) {
	var dropped drops
	s := start(t, Config{Handler: echo, Dropped: dropped.note, PrefixRate: limit.Rate{PerSecond: .001, Burst: 3},
		TrustedPrefixes: []netip.Prefix{netip.MustParsePrefix("127.0.9.0/24")}})
	ask := func(from string, n int) {
		c := dial(t, "udp", from, s.Addrs()[0].String())
		for range n {
			write(t, c, []byte("x"))
		}
	}
	ask("127.0.1.1", 3)
	ask("127.0.1.2", 2)
	ask("127.0.2.1", 3)
	ask("127.0.9.1", 20)
	until(t, "the prefix's fourth and fifth to be dropped", func() bool { return dropped.count(DropPrefixRate) == 2 })
	c := dial(t, "tcp", "127.0.1.3", s.Addrs()[0].String())
	write(t, c, frame("over TCP as well"))
	wantClosed(t, c)
	if n := dropped.count(DropPrefixRate); n != 3 {
		t.Errorf("%d dropped, want 3", n)
	}
}

// A flood of ten times what the handlers can do, from one prefix: a quiet client of another is answered all the same, what is too much is dropped and counted, and
// memory and goroutines come back to where they were.
func TestFlood(t *testing.T) {
	const work = 500 * time.Microsecond // 2 at a time: 4,000 a second
	var dropped drops
	var served atomic.Int64
	s := start(t, Config{
		ComputeMax: 2, QueueMax: 512, Dropped: dropped.note,
		Handler: func(ctx context.Context, p Packet) []byte {
			time.Sleep(work)
			served.Add(1)
			return echo(ctx, p)
		},
	})
	addr := s.Addrs()[0].String()
	before, goroutines := heap(), runtime.NumGoroutine()

	stop := make(chan struct{})
	var flood sync.WaitGroup
	var sent, burst atomic.Int64
	burst.Store(12)
	flood.Go(func() { pace(t, s.Addrs()[0].Port(), &burst, stop) })
	for i := range 4 {
		c := dial(t, "udp", fmt.Sprintf("127.0.66.%d", i+1), addr)
		flood.Go(func() {
			msg := make([]byte, 300)
			for tick := time.NewTicker(time.Millisecond); ; {
				select {
				case <-stop:
					tick.Stop()
					return
				case <-tick.C:
				}
				for range burst.Load() { // in all up to 48,000 a second
					_, _ = c.Write(msg)
					sent.Add(1)
				}
			}
		})
	}
	until(t, "the flood to be too much", func() bool { return dropped.count(DropQueueFull) > 1000 })
	for _, network := range []string{"udp", "tcp"} {
		good := 0
		const asked = 100
		for i := range asked {
			c := dial(t, network, "127.0.1.1", addr)
			msg := fmt.Sprintf("%s %d", network, i)
			if network == "tcp" {
				write(t, c, frame(msg))
			} else {
				write(t, c, []byte(msg))
			}
			if answeredWithin(c, network, msg, time.Second) {
				good++
			}
			c.Close()
		}
		if good < asked*99/100 {
			t.Errorf("%d of %d quiet requests over %s were answered within a second", good, asked, network)
		}
	}
	close(stop)
	flood.Wait()
	t.Logf("%d sent, %d served, %d dropped at the gate", sent.Load(), served.Load(), dropped.count(DropQueueFull))
	if s := served.Load(); sent.Load() < 5*s {
		t.Logf("the flood was only %d times what was served", sent.Load()/max(1, s))
	}
	until(t, "everything to be as before", func() bool {
		return s.gate.waiting() == 0 && runtime.NumGoroutine() <= goroutines+workersIdleMax && heap() < before+32<<20
	})
}

// pace keeps a flood at what the server's readers can take: what waits in the system's own buffers waits in one line, whoever sent it. The server shares this process's
// processors with the flood and this machine's with other tests, and the race detector slows it.
func pace(t *testing.T, port uint16, burst *atomic.Int64, stop <-chan struct{}) {
	for most := burst.Load(); ; {
		select {
		case <-stop:
			return
		case <-time.After(5 * time.Millisecond):
		}
		if unread(t, port) > 128<<10 {
			burst.Store(burst.Load() / 2)
		} else if b := burst.Load(); b < most {
			burst.Store(b + 1)
		}
	}
}

// unread is how many bytes wait in the system's buffers, of all sockets at a port.
func unread(t *testing.T, port uint16) (sum int64) {
	b, err := os.ReadFile("/proc/net/udp")
	if err != nil {
		t.Error(err)
		return 0
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 12 && strings.HasSuffix(f[1], fmt.Sprintf(":%04X", port)) {
			_, queue, _ := strings.Cut(f[4], ":")
			n, _ := strconv.ParseInt(queue, 16, 64)
			sum += n
		}
	}
	return sum
}

func answeredWithin(c net.Conn, network, want string, limit time.Duration) bool {
	_ = c.SetReadDeadline(time.Now().Add(limit))
	if network == "tcp" {
		got, err := readFrame(c)
		return err == nil && got == want
	}
	b := make([]byte, 64)
	n, err := c.Read(b)
	return err == nil && string(b[:n]) == want
}

// A request that waits for others leaves its place to those that only compute.
func TestWaitingLeavesItsPlace(t *testing.T) {
	release := make(chan struct{})
	var waiting atomic.Int32
	s := start(t, Config{ComputeMax: 1, Handler: func(ctx context.Context, p Packet) []byte {
		if p.Data[0] == 'w' {
			p.Waiting()
			p.Waiting() // once is enough, twice does no harm
			waiting.Add(1)
			<-release
		}
		return echo(ctx, p)
	}})
	addr := s.Addrs()[0].String()
	for _, network := range []string{"udp", "tcp"} {
		c := dial(t, network, "127.0.1.1", addr)
		if network == "tcp" {
			write(t, c, frame("wait"))
		} else {
			write(t, c, []byte("wait"))
		}
	}
	until(t, "both to wait", func() bool { return waiting.Load() == 2 })
	c := dial(t, "udp", "127.0.2.1", addr)
	write(t, c, []byte("quick"))
	wantDatagram(t, c, "quick")
	close(release)
	s.gate.waitEmpty()
	until(t, "all places to be free", func() bool { s.gate.mu.Lock(); defer s.gate.mu.Unlock(); return s.gate.running == 0 })
}

// When the server is cut off, what waits at the gate is dropped, and nothing hangs.
func TestCutOffEmptiesTheGate(t *testing.T) {
	var dropped drops
	var begun atomic.Int32
	s := start(t, Config{ComputeMax: 1, Dropped: dropped.note, Handler: func(ctx context.Context, p Packet) []byte {
		begun.Add(1)
		<-ctx.Done()
		return nil
	}})
	c := dial(t, "udp", "127.0.1.1", s.Addrs()[0].String())
	for range 50 {
		write(t, c, []byte("x"))
	}
	tc := dial(t, "tcp", "127.0.2.1", s.Addrs()[0].String())
	write(t, tc, frame("x"))
	until(t, "one to be at work and the rest to wait", func() bool { return begun.Load() == 1 && s.gate.waiting() == 50 })
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_ = s.Shutdown(ctx)
	until(t, "the gate to be empty", func() bool { return s.gate.waiting() == 0 && dropped.count(DropClosing) >= 50 })
}

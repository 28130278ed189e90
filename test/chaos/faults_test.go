package chaos

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// quiet knows which fault is on, so that a client's experience is held against what was promised under it.
type quiet struct {
	mu sync.Mutex
	// turns counts begins and ends of faults.
	turns   int
	active  string
	minor   int // turns at which there was no majority last
	quorum  bool
	history []string
}

type mark struct {
	turn int
	name string
}

func (q *quiet) mark() *mark {
	q.mu.Lock()
	defer q.mu.Unlock()
	return &mark{q.turns, q.active}
}

// begin notes a fault; majority tells that most nodes still reach each other.
func (q *quiet) begin(name string, majority bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.turns++
	q.active, q.quorum = name, majority
	q.history = append(q.history, name)
	if !majority {
		q.minor = q.turns
	}
}

// end notes that all is mended, and has recovered.
func (q *quiet) end() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.turns++
	if !q.quorum {
		q.minor = q.turns
	}
	q.active, q.quorum = "", true
}

// since tells that nothing has been broken from the mark until now.
func (q *quiet) since(m *mark) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.turns == m.turn && q.active == ""
}

// majoritySince tells that there was a majority from the mark until now.
func (q *quiet) majoritySince(m *mark) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.quorum && q.minor <= m.turn
}

// names are the faults from the mark until now.
func (q *quiet) names(m *mark) string {
	q.mu.Lock()
	defer q.mu.Unlock()
	list := []string{}
	if m.name != "" {
		list = append(list, m.name)
	}
	for i := range q.history {
		if i >= m.turn/2 && (len(list) == 0 || list[len(list)-1] != q.history[i]) {
			list = append(list, q.history[i])
		}
	}
	if len(list) == 0 {
		return "no fault"
	}
	return strings.Join(list, ", ")
}

// fault is one way to break the realm. inflict breaks it and returns how it is mended; the node processes that died are started again by the nemesis.
type fault struct {
	name     string
	majority bool // most nodes still reach each other
	// least and most time for which it is on.
	least, most time.Duration
	inflict     func(n *nemesis) (mend func())
}

// nemesis inflicts one fault after another.
type nemesis struct {
	c     *cluster
	rng   *rand.Rand
	quiet *quiet
	// faults are those to inflict.
	faults []fault
	// serves tells whether a node gives a ticket.
	serves func(h *host) bool
	count  map[string]int
	// healed are the times from a mended fault until every node was ready and not degraded.
	healed []time.Duration
	// failovers are the times from a leader's death until another one led.
	failovers []time.Duration
}

// faults, by what they break: processes, network, disks, clocks. Membership and upgrades have tests of their own.
var faults = []fault{
	{"kill the leader", true, time.Second, 3 * time.Second, func(n *nemesis) func() { n.killLeader(); return nil }},
	{"kill a follower", true, time.Second, 3 * time.Second, func(n *nemesis) func() { n.follower().kill(); return nil }},
	{"kill all", false, 0, time.Second, func(n *nemesis) func() {
		for _, h := range n.c.hosts {
			h.kill()
		}
		return nil
	}},
	{"restart in a loop", true, 0, 0, func(n *nemesis) func() {
		h := n.any()
		for range 4 {
			h.kill()
			h.start()
			time.Sleep(time.Duration(n.rng.IntN(400)) * time.Millisecond)
		}
		return nil
	}},
	{"stop the leader", true, 200 * time.Millisecond, 6 * time.Second, func(n *nemesis) func() { return stopped(n.leader()) }},
	{"stop a follower", true, 200 * time.Millisecond, 6 * time.Second, func(n *nemesis) func() { return stopped(n.follower()) }},
	{"stop a majority", false, 2 * time.Second, 6 * time.Second, func(n *nemesis) func() {
		h := n.any()
		a, b := stopped(n.c.hosts[(h.i+1)%3]), stopped(n.c.hosts[(h.i+2)%3])
		return func() { a(); b() }
	}},
	{"unplug the leader", true, time.Second, 8 * time.Second, func(n *nemesis) func() { return unplugged(n.leader()) }},
	{"unplug a follower", true, time.Second, 8 * time.Second, func(n *nemesis) func() { return unplugged(n.follower()) }},
	{"cut the leader from its peers, not from clients", true, time.Second, 8 * time.Second, func(n *nemesis) func() { return n.cut(n.leader(), true, true) }},
	{"cut a follower from its peers, not from clients", true, time.Second, 8 * time.Second, func(n *nemesis) func() { return n.cut(n.follower(), true, true) }},
	{"cut all from each other", false, 2 * time.Second, 6 * time.Second, func(n *nemesis) func() {
		var links []link
		for _, a := range n.c.hosts {
			for _, b := range n.c.hosts {
				links = append(links, link{a.addr, b.addr})
			}
		}
		n.c.sky.block(links...)
		return func() { n.c.sky.block() }
	}},
	{"one-way cut out of the leader", true, time.Second, 6 * time.Second, func(n *nemesis) func() { return n.cut(n.leader(), true, false) }},
	{"one-way cut into the leader", true, time.Second, 6 * time.Second, func(n *nemesis) func() { return n.cut(n.leader(), false, true) }},
	{"bridge", true, time.Second, 6 * time.Second, func(n *nemesis) func() {
		a, b := n.c.hosts[0], n.c.hosts[2]
		n.c.sky.block(link{a.addr, b.addr}, link{b.addr, a.addr})
		return func() { n.c.sky.block() }
	}},
	{"slow links between nodes", true, time.Second, 4 * time.Second, func(n *nemesis) func() {
		return n.weather(weather{}, weather{delay: 10 * time.Millisecond, jitter: 40 * time.Millisecond})
	}},
	{"connections between nodes reset", true, time.Second, 4 * time.Second, func(n *nemesis) func() { return n.weather(weather{}, weather{reset: 0.02}) }},
	{"bad links to the clients", true, 2 * time.Second, 6 * time.Second, func(n *nemesis) func() {
		return n.weather(weather{delay: 5 * time.Millisecond, jitter: 300 * time.Millisecond, lose: 0.2, double: 0.3, reset: 0.1}, weather{})
	}},
	{"disk full", true, time.Second, 4 * time.Second, func(n *nemesis) func() {
		h := n.any()
		ballast := filepath.Join(h.root, "ballast")
		// The file system refuses the last of it: that is the point.
		exec.Command("dd", "if=/dev/zero", "of="+ballast, "bs=1M").Run()
		exec.Command("dd", "if=/dev/zero", "of="+ballast, "bs=1k", "oflag=append", "conv=notrunc").Run()
		return func() {
			if err := os.Remove(ballast); err != nil {
				n.c.t.Error(err)
			}
		}
	}},
	{"EIO from fsync", true, time.Second, 3 * time.Second, func(n *nemesis) func() { return n.trace(n.any(), "fdatasync,fsync", "error=EIO") }},
	{"EIO from write", true, time.Second, 3 * time.Second, func(n *nemesis) func() { return n.trace(n.leader(), "pwrite64", "error=EIO") }},
	{"slow fsync", true, 2 * time.Second, 5 * time.Second, func(n *nemesis) func() { return n.trace(n.leader(), "fdatasync,fsync", "delay_enter=1500000") }},
	{"clock a second off", true, time.Second, 3 * time.Second, func(n *nemesis) func() { return n.clock(time.Second) }},
	{"clock five minutes ahead", true, 2 * time.Second, 5 * time.Second, func(n *nemesis) func() { return n.clock(5 * time.Minute) }},
	{"clock four minutes back", true, 2 * time.Second, 5 * time.Second, func(n *nemesis) func() { return n.clock(-4 * time.Minute) }},
	{"clock a year ahead", true, 2 * time.Second, 5 * time.Second, func(n *nemesis) func() { return n.clock(365 * 24 * time.Hour) }},
	{"leadership moved under load", true, 0, 0, func(n *nemesis) func() {
		to := n.follower()
		// It may lose against an election; then there is a new leader all the same.
		n.c.charon(to.socket(), "node", "transfer", to.name)
		return nil
	}},
}

func (n *nemesis) any() *host { return n.c.hosts[n.rng.IntN(len(n.c.hosts))] }

func (n *nemesis) leader() *host {
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if h := n.c.leader(); h != nil {
			return h
		}
	}
	return n.any() // there is none; the check after the last fault tells whether that lasts
}

func (n *nemesis) follower() *host {
	l := n.leader()
	return n.c.hosts[(l.i+1+n.rng.IntN(len(n.c.hosts)-1))%len(n.c.hosts)]
}

func (n *nemesis) killLeader() {
	l := n.leader()
	begun := time.Now()
	l.kill()
	for time.Since(begun) < 20*time.Second {
		if h := n.c.leader(); h != nil && h != l {
			n.failovers = append(n.failovers, time.Since(begun))
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	n.c.t.Errorf("no new leader within 20 s after %s was killed", l.name)
}

func stopped(h *host) func() {
	h.signal(syscall.SIGSTOP)
	return func() { h.signal(syscall.SIGCONT) }
}

func unplugged(h *host) func() {
	run(h.c.t, "ip", "link", "set", h.veth, "down")
	return func() {
		run(h.c.t, "ip", "link", "set", h.veth, "up")
		run(h.c.t, "ip", "route", "replace", h.addr.String()+"/32", "dev", h.veth, "src", h.c.hub.String())
	}
}

func (n *nemesis) cut(h *host, out, in bool) func() {
	var links []link
	for _, o := range n.c.hosts {
		if out && o != h {
			links = append(links, link{h.addr, o.addr})
		}
		if in && o != h {
			links = append(links, link{o.addr, h.addr})
		}
	}
	n.c.sky.block(links...)
	return func() { n.c.sky.block() }
}

func (n *nemesis) weather(clients, nodes weather) func() {
	n.c.sky.set(clients, nodes)
	return func() { n.c.sky.set(weather{}, weather{}) }
}

func (n *nemesis) clock(d time.Duration) func() {
	h := n.any()
	set := func(d time.Duration) {
		tmp := h.clock + ".new"
		if err := os.WriteFile(tmp, []byte(d.String()), 0o600); err != nil {
			n.c.t.Error(err)
		}
		if err := os.Rename(tmp, h.clock); err != nil {
			n.c.t.Error(err)
		}
	}
	set(d)
	return func() { set(0) }
}

// trace has a system call of the process go wrong.
func (n *nemesis) trace(h *host, calls, how string) func() {
	pid := h.pid()
	if pid == 0 {
		return nil
	}
	cmd := exec.Command("strace", "-f", "-qq", "-o", "/dev/null", "-p", fmt.Sprint(pid), "-e", "trace="+calls, "-e", "inject="+calls+":"+how)
	if err := cmd.Start(); err != nil {
		n.c.t.Error(err)
		return nil
	}
	return func() {
		cmd.Process.Signal(syscall.SIGINT) // lets go of the process
		cmd.Wait()
	}
}

// run inflicts faults until ctx ends: at first each one once, in random order.
func (n *nemesis) run(ctx context.Context) {
	for {
		for _, i := range n.rng.Perm(len(n.faults)) {
			if ctx.Err() != nil {
				return
			}
			n.one(n.faults[i])
			pause(ctx, time.Duration(500+n.rng.IntN(1500))*time.Millisecond)
		}
	}
}

func (n *nemesis) one(f fault) {
	n.c.t.Logf("%s %s", time.Now().Format("15:04:05.000"), f.name)
	n.quiet.begin(f.name, f.majority)
	n.count[f.name]++
	mend := f.inflict(n)
	d := f.least
	if f.most > f.least {
		d += time.Duration(n.rng.Int64N(int64(f.most - f.least)))
	}
	time.Sleep(d) // it lasts
	if mend != nil {
		mend()
	}
	n.recover(f)
	n.quiet.end()
}

// recover starts what has died and waits until every node is in full service, which must come by itself. What a node says of its readiness lags behind by design, so
// it is asked for a ticket as well.
func (n *nemesis) recover(f fault) {
	begun := time.Now()
	for _, h := range n.c.hosts {
		h.start()
	}
	const limit = 60 * time.Second
	for {
		fresh := 0
		for _, h := range n.c.hosts {
			if s := h.ready(); s != "" && !strings.Contains(s, "degraded") && n.serves(h) {
				fresh++
			} else if h.pid() == 0 {
				h.start() // it died of the fault a moment later
			}
		}
		if fresh == len(n.c.hosts) && n.c.leader() != nil {
			n.healed = append(n.healed, time.Since(begun))
			return
		}
		if time.Since(begun) > limit {
			n.c.t.Errorf("%s: not every node is back in full service after %s", f.name, limit)
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
}

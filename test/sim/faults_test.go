package sim

import (
	"context"
	"fmt"
	mrand "math/rand/v2"
	"time"

	"github.com/charon-kdc/charon/test/sim/disk"
)

// A fault is one thing that goes wrong. The seed decides which, when and with what numbers before anything runs; whom it
// hits is said by role ("the leader", "the second follower") and found out when its time comes.
type fault struct {
	at   time.Duration // since the start of the episode
	name string
	do   func(w *world)
}

// target picks a node by role. follower 0 is the first that does not lead.
type target struct {
	leader bool
	index  int
}

func randomTarget(r *mrand.Rand) target { return target{leader: r.IntN(5) < 2, index: r.IntN(8)} }

func (t target) String() string {
	if t.leader {
		return "leader"
	}
	return fmt.Sprintf("follower %d", t.index)
}

// find is the node, or nil when there is none now.
func (t target) find(w *world) *node {
	l := w.leader()
	if t.leader {
		return l
	}
	var rest []*node
	for _, n := range w.live() {
		if n != l {
			rest = append(rest, n)
		}
	}
	if len(rest) == 0 {
		return nil
	}
	return rest[t.index%len(rest)]
}

// on makes a fault that hits a node.
func on(r *mrand.Rand, name string, do func(w *world, n *node)) fault {
	t := randomTarget(r)
	return fault{name: name, do: func(w *world) {
		n := t.find(w)
		if n == nil {
			return
		}
		w.rep.fault(name)
		w.note("fault: %s, %s (%v)", name, n.name, t)
		do(w, n)
	}}
}

func between(r *mrand.Rand, lo, hi time.Duration) time.Duration {
	return lo + time.Duration(r.Int64N(int64(hi-lo)))
}

// kinds of faults, with their weight.
var kinds = []struct {
	weight int
	make   func(r *mrand.Rand) fault
}{
	{6, kill}, {6, armed}, {3, failing}, {3, slowDisk}, {1, stall},
	{5, isolate}, {3, oneWay}, {2, bridge}, {2, halves}, {4, lossy}, {3, resets}, {2, halfOpen}, {2, clientsCut},
	{3, transfer}, {2, restart}, {1, everybody}, {1, loop}, {2, clock}, {2, slowLeaderCut},
}

// plan is the faults of one episode.
func plan(r *mrand.Rand, length time.Duration) []fault {
	total := 0
	for _, k := range kinds {
		total += k.weight
	}
	var out []fault
	for range 3 + r.IntN(4) {
		pick := r.IntN(total)
		for _, k := range kinds {
			if pick -= k.weight; pick < 0 {
				f := k.make(r)
				f.at = between(r, 0, length*3/4)
				out = append(out, f)
				break
			}
		}
	}
	return out
}

// kill ends a process, or cuts a machine's power; it comes back a little later.
func kill(r *mrand.Rand) fault {
	power, after := r.IntN(2) == 0, between(r, 100*time.Millisecond, 5*time.Second)
	name := "kill"
	if power {
		name = "power cut"
	}
	return on(r, name, func(w *world, n *node) {
		n.crash(power)
		w.later(after, func() { n.boot(nil) })
	})
}

// armed stops a machine at a stable write to come.
func armed(r *mrand.Rand) fault {
	f := disk.Fault{
		Op: pick(r, []disk.Op{disk.Append, disk.Append, disk.Vote, disk.Commit, disk.Commit, disk.Flush, disk.Truncate, disk.Any}),
		N:  1 + r.IntN(20), Phase: disk.Phase(r.IntN(3)), Power: r.IntN(3) > 0,
	}
	if f.Op == disk.Flush || f.Op == disk.Vote || f.Op == disk.Truncate {
		f.N = 1 + r.IntN(3)
	}
	out := on(r, "", func(w *world, n *node) {})
	t := randomTarget(r)
	out.name = "armed"
	out.do = func(w *world) { // counted when it happens
		if n := t.find(w); n != nil {
			if p := n.process(); p != nil {
				w.note("armed: %s, %s, write %d (%v)", n.name, faultName(f), f.N, t)
				p.disk.Arm(f)
			}
		}
	}
	return out
}

// failing has a write of the disk fail: the process must end.
func failing(r *mrand.Rand) fault {
	f := disk.Fault{Op: pick(r, []disk.Op{disk.Append, disk.Commit}), N: 1 + r.IntN(5), Err: pick(r, []error{disk.EIO, disk.ENOSPC})}
	t := randomTarget(r)
	return fault{name: "failing", do: func(w *world) {
		if n := t.find(w); n != nil {
			if p := n.process(); p != nil {
				w.note("armed: %s, %s (%v)", n.name, faultName(f), t)
				p.disk.Arm(f)
			}
		}
	}}
}

// slowDisk has every write take long for a while.
func slowDisk(r *mrand.Rand) fault {
	most, span := between(r, 5*time.Millisecond, 1500*time.Millisecond), between(r, time.Second, 6*time.Second)
	each := mrand.New(mrand.NewPCG(r.Uint64(), 4))
	return on(r, "slow disk", func(w *world, n *node) {
		n.slow(w, span, func() time.Duration { return time.Duration(each.Int64N(int64(most))) })
	})
}

// stall is a disk that hangs for so long that the process has to end.
func stall(r *mrand.Rand) fault {
	return on(r, "disk stalls", func(w *world, n *node) {
		n.expecting("its disk stalls")
		n.slow(w, 2*time.Second, func() time.Duration { return 12 * time.Second })
	})
}

// slow makes the node's disk slow for a span.
func (n *node) slow(w *world, span time.Duration, f func() time.Duration) {
	p := n.process()
	if p == nil {
		return
	}
	p.disk.Slow(f)
	w.later(span, func() { p.disk.Slow(nil) })
}

// cutFrom parts a node from those others that match.
func (n *node) cutFrom(w *world, in, out bool, match func(o *node) bool) {
	for _, o := range w.members() {
		if o == n || !match(o) {
			continue
		}
		if out {
			w.net.Cut(n.ip, o.ip)
		}
		if in {
			w.net.Cut(o.ip, n.ip)
		}
	}
	w.cutChanged()
}

func all(*node) bool { return true }

// isolate cuts a node from all others, but not from clients.
func isolate(r *mrand.Rand) fault {
	return on(r, "partition: one node", func(w *world, n *node) { n.cutFrom(w, true, true, all) })
}

// oneWay lets a node hear the others and not be heard, or the other way round.
func oneWay(r *mrand.Rand) fault {
	in := r.IntN(2) == 0
	return on(r, "partition: one way", func(w *world, n *node) { n.cutFrom(w, in, !in, all) })
}

// bridge cuts one pair of nodes, who both see the others.
func bridge(r *mrand.Rand) fault {
	i := r.IntN(8)
	return on(r, "partition: bridge", func(w *world, n *node) {
		var others []*node
		for _, o := range w.members() {
			if o != n {
				others = append(others, o)
			}
		}
		if len(others) > 0 {
			o := others[i%len(others)]
			n.cutFrom(w, true, true, func(x *node) bool { return x == o })
		}
	})
}

// halves parts the nodes in two sides.
func halves(r *mrand.Rand) fault {
	bits := r.Uint64()
	return fault{name: "halves", do: func(w *world) {
		w.rep.fault("partition: two sides")
		w.note("fault: two sides %b", bits&0xff)
		side := func(n *node) bool { return bits>>(n.number()%16)&1 == 0 }
		for _, n := range w.members() {
			if side(n) {
				n.cutFrom(w, true, true, func(o *node) bool { return !side(o) })
			}
		}
	}}
}

func (n *node) number() (i uint64) {
	_, _ = fmt.Sscanf(n.name, "n%d", &i)
	return i
}

// lossy loses a share of the packets of a node, to nodes and clients.
func lossy(r *mrand.Rand) fault {
	share := 0.02 + r.Float64()*0.18
	return on(r, "packet loss", func(w *world, n *node) {
		for _, o := range w.members() {
			if o != n {
				w.net.Lose(n.ip, o.ip, share)
				w.net.Lose(o.ip, n.ip, share)
			}
		}
		for i := range users {
			from := fmt.Sprintf("10.0.1.%d", i+1)
			w.net.Lose(from, n.ip, share)
			w.net.Lose(n.ip, from, share)
		}
	})
}

// resets breaks the connections of a node in the middle of what they carry.
func resets(r *mrand.Rand) fault {
	return on(r, "connections reset", func(w *world, n *node) { w.net.Reset(n.ip, "") })
}

// halfOpen has the connections of a node carry nothing any more, and tells nobody.
func halfOpen(r *mrand.Rand) fault {
	return on(r, "connections half-open", func(w *world, n *node) { w.net.Freeze(n.ip, "") })
}

// clientsCut cuts a node from administrators and some users.
func clientsCut(r *mrand.Rand) fault {
	return on(r, "clients cut off", func(w *world, n *node) {
		for _, from := range []string{"10.0.3.1", "10.0.1.1", "10.0.1.2"} {
			w.net.Cut(from, n.ip)
			w.net.Cut(n.ip, from)
		}
	})
}

// transfer moves leadership under load.
func transfer(r *mrand.Rand) fault {
	i := r.IntN(8)
	return fault{name: "transfer", do: func(w *world) {
		l, nodes := w.leader(), w.members()
		if l == nil {
			return
		}
		p := l.process()
		if p == nil {
			return
		}
		to := nodes[i%len(nodes)]
		w.rep.fault("leadership transfer")
		w.note("fault: leadership to %s", to.name)
		w.goDo(func() {
			ctx, cancel := context.WithTimeout(w.ctx, 5*time.Second)
			defer cancel()
			_ = p.store.TransferLeadership(ctx, to.name)
		})
	}}
}

// restart is orderly.
func restart(r *mrand.Rand) fault {
	return on(r, "restart", func(w *world, n *node) { w.goDo(n.restart) })
}

// everybody loses power at once, or is killed.
func everybody(r *mrand.Rand) fault {
	power, after := r.IntN(3) > 0, between(r, 100*time.Millisecond, 2*time.Second)
	apart := between(r, time.Millisecond, 2*time.Second)
	return fault{name: "everybody", do: func(w *world) {
		w.rep.fault("all nodes at once")
		w.note("fault: all nodes at once, power %v", power)
		for i, n := range w.live() {
			n.crash(power)
			w.later(after+time.Duration(i)*apart, func() { n.boot(nil) })
		}
	}}
}

// loop restarts a node again and again.
func loop(r *mrand.Rand) fault {
	times, each := 3+r.IntN(4), between(r, 50*time.Millisecond, time.Second)
	return on(r, "restart in a loop", func(w *world, n *node) {
		w.goDo(func() {
			for range times {
				n.crash(false)
				n.boot(nil)
				pause(w, each)
			}
		})
	})
}

// clock sets a node's clock wrong.
func clock(r *mrand.Rand) fault {
	off := pick(r, []time.Duration{time.Second, -time.Second, 20 * time.Second, 5 * time.Minute, -5 * time.Minute, time.Hour, -time.Hour, 365 * 24 * time.Hour, -365 * 24 * time.Hour})
	return on(r, "clock jump", func(w *world, n *node) {
		n.offset.Store(int64(off))
		w.note("%s: clock %v", n.name, off)
		w.clockChanged()
	})
}

// slowLeaderCut is a leader that hangs in a write while the others elect another one; clients still reach it.
func slowLeaderCut(r *mrand.Rand) fault {
	span := between(r, 2*time.Second, 6*time.Second)
	return fault{name: "slow leader cut", do: func(w *world) {
		l := w.leader()
		if l == nil {
			return
		}
		w.rep.fault("leader hangs and is cut off")
		w.note("fault: %s hangs in a write and is cut off", l.name)
		l.slow(w, span, func() time.Duration { return span })
		l.cutFrom(w, true, true, all)
	}}
}

// later runs f after a while, unless the run ends before.
func (w *world) later(d time.Duration, f func()) {
	w.goDo(func() {
		pause(w, d)
		if w.ctx.Err() == nil {
			f()
		}
	})
}

// heal ends every fault that lasts, and starts every node.
func (w *world) heal() {
	w.net.Heal()
	for _, n := range w.members() {
		n.offset.Store(0)
		if p := n.process(); p != nil {
			p.disk.Slow(nil)
			p.disk.Arm(disk.Fault{Op: disk.Any, N: 1 << 30})
		}
		n.release()
	}
	w.cutChanged()
	w.clockChanged()
	w.note("healed")
}

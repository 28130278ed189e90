package sim

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	mrand "math/rand/v2"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/charon-kdc/charon/kdc/kdb"
	"github.com/charon-kdc/charon/kdc/krb5"
	charon "github.com/charon-kdc/charon/node"
	adminv1 "github.com/charon-kdc/charon/proto/charon/admin/v1"
)

const (
	writers  = 3
	loginers = 2
)

// run is one run of a cluster: episodes of faults under load, and after each a look at everything that was promised.
type run struct {
	w    *world
	d    *desk
	rand *mrand.Rand
}

// episodes runs for a span of simulated time.
func (x *run) episodes(span time.Duration) {
	w := x.w
	if err := w.found(); err != nil {
		w.violation("F: service", "founding the cluster: %v", err)
		return
	}
	for i := range users {
		r := mrand.New(mrand.NewPCG(x.rand.Uint64(), uint64(i)))
		w.goDo(func() { w.user(i, r) })
	}
	begun := time.Now()
	for n := 0; time.Since(begun) < span && !w.broken(); n++ {
		switch k := x.rand.IntN(24); {
		case k == 0 && n > 1:
			x.oldCopy()
		case k <= 2 && n > 1:
			x.replace()
		case k == 3 && n > 1:
			x.deadJoiner()
		default:
			x.episode()
		}
	}
}

// episode is faults under load, healing, and checks.
func (x *run) episode() {
	w, r := x.w, x.rand
	length := between(r, 4*time.Second, 9*time.Second)
	faults := plan(r, length)
	g := x.d.newGuesses(r)
	x.underLoad(func() {
		begun := time.Now()
		slices.SortStableFunc(faults, func(a, b fault) int { return int(a.at - b.at) })
		var wg sync.WaitGroup
		for _, gs := range g {
			wg.Go(func() { gs.run(length) })
		}
		for _, f := range faults {
			pause(w, time.Until(begun.Add(f.at)))
			f.do(w)
		}
		pause(w, time.Until(begun.Add(length)))
		wg.Wait()
		x.healed()
	})
	if w.broken() {
		return
	}
	x.check()
	for _, gs := range g {
		gs.check()
	}
}

// underLoad runs f while writers and loginers work; they have ended when it returns.
func (x *run) underLoad(f func()) {
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for i := range writers {
		r := mrand.New(mrand.NewPCG(x.rand.Uint64(), 10))
		wg.Go(func() { x.d.writer(i, r, stop) })
	}
	for i := range loginers {
		r := mrand.New(mrand.NewPCG(x.rand.Uint64(), 11))
		wg.Go(func() { x.d.loginer(i, r, stop) })
	}
	f()
	close(stop)
	wg.Wait()
}

// healed ends the faults and waits until every node is ready and fresh, which must not take long (docs/testing.md, F).
func (x *run) healed() {
	w := x.w
	w.heal()
	begun := time.Now()
	limit := 30 * time.Second
	if !w.await(limit, func() bool { return x.allReady() }) {
		if w.broken() {
			return
		}
		var why []string
		for _, n := range w.members() {
			if !n.ready() {
				why = append(why, n.why())
			}
		}
		w.violation("F: service", "not every node is ready %v after healing: %v", limit, why)
		return
	}
	took := time.Since(begun)
	w.rep.healed(w.prof.name, took)
	w.note("all ready after %v", took)
}

func (x *run) allReady() bool {
	for _, n := range x.w.members() {
		if !n.ready() {
			return false
		}
	}
	return true
}

// check holds everything that was said against everything that was promised. Nothing is written meanwhile, and all nodes are healed.
func (x *run) check() {
	x.d.judgeLogins()
	x.finish()
	x.sameState()
}

// finish reads every name, which ends the histories, and checks them.
func (x *run) finish() {
	d := x.d
	for p := range pairs {
		var state pair
		for i := range state {
			out := d.do(99, x.rand, p, input{verb: opGet, name: i})
			switch out.says {
			case saysOK:
				state[i] = record{true, out.kvno, out.mark, anyPassword}
				state[i].password = x.logInEverywhere(p, i, out.kvno)
			case saysNotFound:
			default:
				if !x.w.broken() {
					x.w.violation("F: service", "reading %s after healing: %s", pairName(p, i), out.says)
				}
				return
			}
		}
		d.mu.Lock()
		h := d.history[p]
		x.w.rep.addOps(len(h.ops))
		ok := h.check()
		next := &history{pair: p, begin: state}
		for _, o := range h.ops { // what is unknown may still be done
			if o.Output.(output).says == saysUnknown && time.Since(time.Unix(0, o.Call)) < time.Minute {
				o.Call = time.Now().UnixNano()
				next.ops = append(next.ops, o)
			}
		}
		d.history[p] = next
		d.mu.Unlock()
		if !ok {
			x.w.violation("A: linearizable", "no order of these operations explains their answers:\n%v", h)
			return
		}
	}
}

// sameState compares the nodes' states at one index (docs/testing.md, B).
func (x *run) sameState() {
	w := x.w
	var diff string
	ok := w.await(10*time.Second, func() bool {
		diff = ""
		var index uint64
		var sum [32]byte
		for i, n := range w.members() {
			p := n.process()
			if p == nil || !p.isUp() {
				diff = n.name + " is down"
				return false
			}
			at, _ := p.store.DB().Applied()
			h, err := p.store.DB().Hash()
			if after, _ := p.store.DB().Applied(); err != nil || after != at {
				diff = fmt.Sprintf("%s: %v", n.name, err)
				return false
			}
			if i == 0 {
				index, sum = at, h
				continue
			}
			if at != index {
				diff = fmt.Sprintf("%s is at %d, the first node at %d", n.name, at, index)
				return false
			}
			if h != sum {
				diff = fmt.Sprintf("%s has another state at index %d: %x, %x", n.name, at, h[:4], sum[:4])
				w.violation("B: same state", "%s", diff)
				return true
			}
		}
		return true
	})
	if !ok && !w.broken() {
		w.violation("B: same state", "the nodes do not come to one index: %s", diff)
	}
	w.rep.count("states compared")
}

// logInEverywhere tries the passwords that may be behind a kvno of a pair, newest first, until one is good, and that one at every node. All nodes are
// healed, so what they say stands in the history like any other operation. It returns the mark of the good one.
func (x *run) logInEverywhere(p, i int, kvno uint32) (mark string) {
	w, d := x.w, x.d
	good := anyPassword
	for _, pw := range d.candidates(p, kvno) {
		for k, n := range w.members() {
			call := time.Now()
			ok, sure := x.logInAt(n, pairName(p, i), pw.text)
			if !sure {
				return anyPassword
			}
			out := output{says: saysRefused}
			if ok {
				out.says, good = saysOK, pw.mark
			}
			d.mu.Lock()
			d.history[p].add(98, input{verb: opLogin, name: i, mark: pw.mark}, out, call, time.Now())
			d.mu.Unlock()
			if k == 0 && !ok {
				break
			}
		}
		if good != anyPassword {
			break
		}
	}
	return good
}

// candidatesMax bounds the passwords that are tried, each of which costs a failed proof.
const candidatesMax = 4

// candidates are passwords of a pair's names that may be behind a kvno: a renamed principal takes its password along.
func (d *desk) candidates(p int, kvno uint32) (out []*password) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for i := range 2 {
		for _, pw := range d.passwords[pairName(p, i)] {
			if !pw.gone && !pw.never && (!pw.done || pw.kvno == kvno) {
				out = append(out, pw)
			}
		}
	}
	slices.SortFunc(out, func(a, b *password) int { return b.call.Compare(a.call) })
	return out[:min(len(out), candidatesMax)]
}

// logInAt asks what salt to use, as clients do, and then logs in. sure: the node said yes or no, as a healed one must.
func (x *run) logInAt(n *node, name, text string) (ok, sure bool) {
	w := x.w
	from := "10.0.5.1"
	o, answered := w.exchange(from, []*node{n}, w.encode(&krb5.KDCReq{MsgType: krb5.MsgASReq, ReqBody: w.asBody(name)}))
	if !answered || o.code != krb5.ErrPreauthRequired {
		w.violation("D: passwords", "%s, healed, does not ask %s for a proof: answered %v, code %d %s; %s", n.name, name, answered, o.code, o.text, n.why())
		return false, false
	}
	salt, err := saltOf(o.data)
	if err != nil {
		w.violation("D: passwords", "%s: salt of %s: %v", n.name, name, err)
		return false, false
	}
	k := w.key(text, salt)
	o, answered = w.exchange(from, []*node{n}, w.asRequestWith(name, k))
	if !answered || !o.issued && o.code != krb5.ErrPreauthFailed {
		w.violation("D: passwords", "%s, healed, to a login of %s: answered %v, code %d %s", n.name, name, answered, o.code, o.text)
		return false, false
	}
	if !o.issued {
		return false, true
	}
	if _, err := w.openTGT(o, k); err != nil {
		w.violation("D: passwords", "%s: the AS-REP of %s is not under its password: %v", n.name, name, err)
	}
	w.rep.count("logins after healing")
	return true, true
}

// saltOf reads what a KDC says in PA-ETYPE-INFO2.
func saltOf(reply []byte) (string, error) {
	e, err := krb5.DecodeKRBError(reply)
	if err != nil {
		return "", err
	}
	md, err := krb5.DecodeMethodData(e.EData)
	if err != nil {
		return "", err
	}
	for _, pa := range md {
		if pa.PADataType != krb5.PAETypeInfo2 {
			continue
		}
		list, err := krb5.DecodeETypeInfo2(pa.PADataValue)
		if err != nil {
			return "", err
		}
		for _, i := range list {
			if i.EType == etype {
				return i.Salt, nil
			}
		}
	}
	return "", errors.New("no salt")
}

// guesser tries wrong passwords at one principal, of which nobody knows the right one but the checks.
type guesser struct {
	d      *desk
	name   string
	policy string
	rand   *mrand.Rand
	made   bool
	begun  time.Time

	mu       sync.Mutex
	sent     int // different wrong requests
	answered int // of them, with PREAUTH_FAILED
}

// newGuesses are two guessers: one whose failures are only counted, one whose victim locks.
func (d *desk) newGuesses(r *mrand.Rand) []*guesser {
	var out []*guesser
	for _, policy := range []string{"counting", "locking"} {
		d.mu.Lock()
		d.serial++
		name := fmt.Sprintf("%s%d", policy, d.serial)
		d.mu.Unlock()
		g := &guesser{d: d, name: name, policy: policy, rand: mrand.New(mrand.NewPCG(r.Uint64(), 12)), begun: time.Now()}
		id := charon.NewRequestID(time.Now())
		err, _ := d.call(r, 10*time.Second, true, func(ctx context.Context, cc *grpc.ClientConn) error {
			_, err := adminv1.NewPrincipalsClient(cc).CreatePrincipal(ctx, &adminv1.CreatePrincipalRequest{
				RequestId: id[:], Name: name, Policy: policy, Keys: withPassword(passwordOf(name)),
			})
			return err
		})
		g.made = err == nil
		out = append(out, g)
	}
	return out
}

// run guesses for a span; each guess goes to one or two nodes, some of them again.
func (g *guesser) run(span time.Duration) {
	if !g.made {
		return
	}
	w := g.d.w
	var wg sync.WaitGroup
	defer wg.Wait()
	for end := time.Now().Add(span); time.Now().Before(end) && w.ctx.Err() == nil; {
		pause(w, between(g.rand, 100*time.Millisecond, time.Second))
		msg := w.asRequest(g.name, fmt.Sprintf("%swrong-%d", canary, g.rand.IntN(50)), realmName+g.name)
		nodes := w.members()
		replies := make(chan answer, 32)
		g.mu.Lock()
		g.sent++
		g.mu.Unlock()
		from := fmt.Sprintf("10.0.6.%d", 1+g.rand.IntN(3))
		r := mrand.New(mrand.NewPCG(g.rand.Uint64(), 13))
		wg.Go(func() {
			heard := false
			for range 1 + r.IntN(4) {
				w.ask(pick(r, nodes), from, msg, replies)
				t := time.NewTimer(between(r, 10*time.Millisecond, 1200*time.Millisecond))
				select {
				case a := <-replies:
					heard = heard || read(a).code == krb5.ErrPreauthFailed
				case <-t.C:
				case <-w.ctx.Done():
				}
				t.Stop()
			}
			t := time.NewTimer(3 * time.Second)
			defer t.Stop()
			for !heard {
				select {
				case a := <-replies:
					heard = read(a).code == krb5.ErrPreauthFailed
					continue
				case <-t.C:
				case <-w.ctx.Done():
				}
				break
			}
			if heard {
				g.mu.Lock()
				g.answered++
				g.mu.Unlock()
			}
		})
	}
}

// check compares what was answered with what is counted, once the nodes are healed: no answered guess is lost, none counts twice, and the count is the
// same everywhere.
func (g *guesser) check() {
	w := g.d.w
	if !g.made || w.broken() {
		return
	}
	g.mu.Lock()
	sent, answered := g.sent, g.answered
	g.mu.Unlock()
	var counts []uint32
	same := w.await(20*time.Second, func() bool {
		counts = counts[:0]
		for _, n := range w.members() {
			p := n.process()
			if p == nil || !p.isUp() {
				return false
			}
			rec, err := p.store.DB().GetPrincipal(realmName, []string{g.name})
			if err != nil {
				return false
			}
			counts = append(counts, p.store.Proofs().Activity(kdb.ID(rec.GetId())).Failures)
		}
		for _, c := range counts {
			if c != counts[0] {
				return false
			}
		}
		return len(counts) > 0 && int(counts[0]) >= answered
	})
	switch {
	case w.broken():
		return
	case !same:
		w.violation("E: attempts", "%s: %d wrong guesses were answered, the nodes count %v", g.name, answered, counts)
		return
	case int(counts[0]) > sent && !w.clockFault(g.begun): // by clocks minutes apart a resend is another guess
		w.violation("E: attempts", "%s: %d different guesses were sent, the nodes count %v", g.name, sent, counts)
		return
	case g.policy == "locking" && answered > lockAfter+len(counts):
		w.violation("E: attempts", "%s: %d guesses were answered, %d lock", g.name, answered, lockAfter)
		return
	}
	w.rep.addGuesses(answered)
	if g.policy != "locking" {
		return
	}
	locked := counts[0] >= lockAfter
	nodes := w.members()
	if !locked {
		// A node that could not count some tries of its own keeps silent about this client for a minute; the client goes on to the next.
		o, ok := w.exchange("10.0.5.2", nodes, w.asRequest(g.name, passwordOf(g.name), realmName+g.name))
		if !ok && o.code != krb5.ErrSvcUnavailable || ok && !o.issued {
			w.violation("E: attempts", "%s: %d failures of %d are counted, and the right password: answered %v, code %d %s by %s",
				g.name, counts[0], lockAfter, ok, o.code, o.text, o.node)
		}
		return
	}
	for _, n := range nodes {
		o, ok := w.exchange("10.0.5.2", []*node{n}, w.asRequest(g.name, passwordOf(g.name), realmName+g.name))
		if ok && o.code != krb5.ErrClientRevoked || !ok && o.code != krb5.ErrSvcUnavailable {
			w.violation("E: attempts", "%s counts %d failures of %s, of which %d lock; the right password: answered %v, code %d %s",
				n.name, counts[0], g.name, lockAfter, ok, o.code, o.text)
			return
		}
	}
}

// replace lets a node join and takes another one away, while faults happen.
func (x *run) replace() {
	w, r := x.w, x.rand
	length := 12 * time.Second
	f := plan(r, length)
	x.underLoad(func() {
		var faults sync.WaitGroup
		faults.Go(func() {
			for _, f := range f[:min(2, len(f))] {
				pause(w, f.at/2)
				f.do(w)
			}
		})
		w.rep.fault("node joins")
		n, err := w.newNode()
		if err == nil {
			err = w.startJoin(n)
		}
		if err != nil {
			w.violation("simulation", "making a node: %v", err)
			return
		}
		w.note("%s joins", n.name)
		w.await(10*time.Second, func() bool { return w.add(n) == nil })
		faults.Wait()
		pause(w, between(r, 0, time.Second))
		w.heal()
		if !w.await(time.Minute, func() bool { return w.add(n) == nil && w.votes(n) && n.ready() }) {
			if !w.broken() {
				w.violation("F: service", "%s does not become a voter after healing: %s", n.name, n.why())
			}
			return
		}
		for len(w.members()) > w.prof.nodes && !w.broken() {
			x.remove()
		}
		x.healed()
	})
	if !w.broken() {
		x.check()
	}
}

// remove takes a node that does not lead out of the cluster. Afterwards nobody lets it in.
func (x *run) remove() {
	w, r := x.w, x.rand
	var gone *node
	cutOff := r.IntN(2) == 0
	ok := w.await(time.Minute, func() bool {
		l := w.leader()
		if l == nil {
			return false
		}
		if gone == nil {
			var others []*node
			for _, n := range w.members() {
				if n != l {
					others = append(others, n)
				}
			}
			gone = pick(r, others)
			if cutOff {
				gone.cutFrom(w, true, true, all)
			}
			w.rep.fault("node removed")
			w.note("%s is removed; cut off: %v", gone.name, cutOff)
		}
		p := l.process()
		if p == nil || l == gone {
			gone = nil
			return false
		}
		ctx, cancel := context.WithTimeout(w.ctx, 5*time.Second)
		defer cancel()
		if err := p.store.RemoveNode(ctx, gone.id); err != nil {
			w.note("removing %s: %v", gone.name, err)
			_, err := p.store.DB().Node(gone.id[:])
			return err != nil && !x.isServer(p, gone)
		}
		return true
	})
	if !ok {
		if !w.broken() {
			w.violation("F: service", "a node can't be removed")
		}
		return
	}
	w.mu.Lock()
	gone.removed = true
	w.mu.Unlock()
	w.net.Heal()
	w.cutChanged()
	ok = w.await(20*time.Second, func() bool {
		for _, n := range w.members() {
			if gone.refusedBy(n) == nil {
				return false
			}
		}
		return true
	})
	if !ok && !w.broken() {
		w.violation("membership", "%s was removed and is still let in", gone.name)
	}
	pause(w, 3*w.prof.timing.Heartbeat+time.Second) // until the replay group has let it go, too, whoever led there
	gone.leave()
	w.rep.count("nodes removed")
}

// isServer tells whether a node is in the realm's configuration.
func (x *run) isServer(p *process, n *node) bool {
	ctx, cancel := context.WithTimeout(x.w.ctx, time.Second)
	defer cancel()
	for _, s := range p.store.Status(ctx).Nodes {
		if s.Name == n.name {
			return true
		}
	}
	return false
}

// deadJoiner is a node that joins and is never heard of: it must not get a vote, which would cost the others their spare.
func (x *run) deadJoiner() {
	w := x.w
	n, err := w.newNode()
	if err != nil {
		w.violation("simulation", "making a node: %v", err)
		return
	}
	w.mu.Lock()
	n.removed = true // no member: it has no process
	w.mu.Unlock()
	w.rep.fault("a node joins and dies")
	w.note("%s joins and is never heard of", n.name)
	if !w.await(20*time.Second, func() bool { return w.add(n) == nil || w.listed(n) }) {
		if !w.broken() {
			w.violation("F: service", "a node can't be added")
		}
		return
	}
	for end := time.Now().Add(4 * w.prof.timing.PromoteAfter); time.Now().Before(end); pause(w, 200*time.Millisecond) {
		if w.votes(n) || w.votesInRealm(n) {
			w.violation("membership", "%s got a vote without ever having answered", n.name)
			return
		}
	}
	if !w.await(time.Minute, func() bool {
		l := w.leader()
		if l == nil {
			return false
		}
		p := l.process()
		if p == nil {
			return false
		}
		ctx, cancel := context.WithTimeout(w.ctx, 5*time.Second)
		defer cancel()
		_ = p.store.RemoveNode(ctx, n.id)
		return !w.listed(n)
	}) && !w.broken() {
		w.violation("F: service", "a node that never answered can't be removed")
	}
}

// listed tells whether the leader's state has a record of n.
func (w *world) listed(n *node) bool {
	l := w.leader()
	if l == nil {
		return false
	}
	p := l.process()
	if p == nil {
		return false
	}
	_, err := p.store.DB().Node(n.id[:])
	return err == nil
}

func (w *world) votesInRealm(n *node) bool {
	l := w.leader()
	if l == nil {
		return false
	}
	p := l.process()
	if p == nil {
		return false
	}
	ctx, cancel := context.WithTimeout(w.ctx, time.Second)
	defer cancel()
	for _, s := range p.store.Status(ctx).Nodes {
		if s.Name == n.name && s.Role != "non-voter" && s.Role != "absent" {
			return true
		}
	}
	return false
}

// oldCopy puts a disk back as it was before writes and a restart: the node must be refused, and is replaced.
func (x *run) oldCopy() {
	w, r := x.w, x.rand
	var n *node
	x.underLoad(func() {
		n = pick(r, w.members())
		boots := x.boots(n)
		n.mu.Lock()
		copied, err := n.disk.Copy(n.disk.Dir() + "-copy")
		n.mu.Unlock()
		if err != nil {
			w.note("copying the disk of %s: %v", n.name, err) // it was in the middle of something
			return
		}
		pause(w, 2*time.Second)
		n.crash(true)
		n.boot(nil)
		if !w.await(time.Minute, x.allReady) || !w.await(time.Minute, func() bool { return x.boots(n) > boots }) {
			return
		}
		pause(w, time.Second)
		w.rep.fault("an old disk is put back")
		w.note("the disk of %s is put back as it was; %s", n.name, hex.EncodeToString(n.id[:4]))
		n.crash(true)
		n.mu.Lock()
		n.disk, n.old = copied, true
		n.mu.Unlock()
		if r.IntN(2) == 0 { // the others are away when it starts
			for _, o := range w.members() {
				if o != n {
					o.restrain()
					o.crash(false)
				}
			}
			n.boot(nil)
			pause(w, 4*time.Second)
			w.heal()
		}
		n.boot(nil)
		refused := w.await(30*time.Second, func() bool {
			n.mu.Lock()
			defer n.mu.Unlock()
			return n.refused
		})
		if !refused && !w.broken() {
			w.violation("old copies", "%s runs on a disk that has seen fewer starts than the realm counts", n.name)
			return
		}
	})
	n.mu.Lock()
	refused := n.refused
	n.mu.Unlock()
	if w.broken() || !refused {
		return
	}
	// The operator removes it, and another one joins.
	ok := w.await(time.Minute, func() bool {
		l := w.leader()
		if l == nil || l.process() == nil {
			return false
		}
		ctx, cancel := context.WithTimeout(w.ctx, 5*time.Second)
		defer cancel()
		p := l.process()
		if p == nil {
			return false
		}
		_ = p.store.RemoveNode(ctx, n.id)
		return !w.listed(n)
	})
	w.mu.Lock()
	n.removed = true
	w.mu.Unlock()
	if !ok {
		w.violation("F: service", "a refused node can't be removed")
		return
	}
	if _, err := w.join(); err != nil && !w.broken() {
		w.violation("F: service", "replacing a refused node: %v", err)
	}
	x.healed()
	if !w.broken() {
		x.check()
	}
}

// boots is how many starts of n the realm has counted, as n knows.
func (x *run) boots(n *node) uint64 {
	p := n.process()
	if p == nil || !p.isUp() {
		return 0
	}
	rec, err := p.store.DB().Node(n.id[:])
	if err != nil {
		return 0
	}
	return rec.GetBootCounter()
}

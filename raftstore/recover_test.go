package raftstore

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/charon-kdc/charon/kdc/kdb"
)

// survivors is the list that an operator makes of some stopped nodes.
func (c *cluster) survivors(nodes ...*testNode) *Survivors {
	c.t.Helper()
	f := &Survivors{}
	for _, n := range nodes {
		cluster, v, err := ReadSurvivor(n.dir)
		if err != nil {
			c.t.Fatal(err)
		}
		if v.ID != n.id.String() || v.Name != n.name {
			c.t.Fatalf("%+v is not %s", v, n.name)
		}
		v.PeerAddress = n.addr
		f.Cluster = cluster
		f.Survivors = append(f.Survivors, v)
	}
	return f
}

func (n *testNode) recover(f *Survivors, waive bool) *Recovered {
	n.c.t.Helper()
	r, err := Recover(Recovery{Dir: n.dir, Survivors: f, WaiveEpoch: waive, Now: time.Now})
	if err != nil {
		n.c.t.Fatalf("recovering %s: %v", n.name, err)
	}
	return r
}

// Two of three are lost for good. The third, recovered by hand, has everything, gives no service ticket for authenticators from before,
// refuses the lost nodes, and others join under their names.
func TestRecoverFromALostQuorum(t *testing.T) {
	var ahead atomic.Int64
	c := newCluster(t, 3, func(cfg *Config) {
		cfg.Now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	})
	c.waitReady()
	c.nodes[0].propose(create(c.principal("alice", 1)))
	left, lost := c.nodes[0], c.nodes[1:]
	if v := left.verdict("before", "r"); !accepted(v) {
		t.Fatal(v)
	}
	c.sameState()
	left.kill()
	for _, n := range lost {
		n.kill()
	}
	f := c.survivors(left)

	r := left.recover(f, false)
	if r.Base != "n1" || len(r.Lost) != 2 || time.Until(r.TicketsFrom) < 5*time.Minute || time.Until(r.TicketsFrom) > 7*time.Minute {
		t.Fatalf("%+v", r)
	}
	left.start(nil)
	c.waitFor("AS", func() bool { as, _, _ := left.store.Ready(); return as && left.store.KDB().Fresh() })
	if got := left.store.Epoch(); !got.Equal(r.TicketsFrom) {
		t.Errorf("refused until %v, want %v", got, r.TicketsFrom)
	}
	if _, err := left.lookup("alice"); err != nil {
		t.Error(err)
	}
	for _, proof := range []string{"before", "new"} {
		_, err := left.store.Proofs().Submit(kdb.Proof{Ciphertext: []byte(proof), Request: []byte("x"), Time: c.ctime}).Wait(t.Context())
		if !errors.Is(err, kdb.ErrUnavailable) {
			t.Errorf("%s: %v, want ErrUnavailable", proof, err)
		}
	}
	left.stop()
	ahead.Store(int64(7 * time.Minute)) // seven minutes later
	c.ctime = time.Now().Add(7 * time.Minute)
	c.nodes = c.nodes[:1]
	left.start(nil)
	c.waitReady()
	if v := left.verdict("later", "x"); !accepted(v) {
		t.Errorf("an authenticator of after the epoch's begin: %v", v)
	}

	c.waitFor("the lost nodes' records to stay away", func() bool {
		nodes, err := left.store.DB().Nodes()
		return err == nil && len(nodes) == 1
	})
	c.waitFor("the recovery to be forgotten", func() bool {
		_, err := os.Stat(filepath.Join(left.dir, recoveredFile))
		return errors.Is(err, os.ErrNotExist)
	})
	for _, n := range lost {
		if left.store.members.allowed(n.id) {
			t.Errorf("%s is still allowed", n.name)
		}
	}
	c.add("n2")
	c.add("n3")
	c.nodes[2].propose(create(c.principal("bob", 1)))
	c.sameState()
}

// Of several survivors the one whose log reaches furthest is taken, whoever is asked first; the others give up what they have not applied.
func TestRecoverTakesTheLongestLog(t *testing.T) {
	c := newCluster(t, 5, nil)
	c.waitReady()
	c.nodes[0].propose(create(c.principal("early", 1)))
	c.sameState()
	short, long := c.follower(), c.waitLeader()
	short.kill()
	long.propose(create(c.principal("late", 1)))
	for _, n := range c.nodes {
		if n.store != nil {
			n.kill()
		}
	}
	f := c.survivors(short, long)
	if f.Survivors[1].Realm.compare(f.Survivors[0].Realm) <= 0 {
		t.Fatalf("%+v", f.Survivors)
	}
	if r := short.recover(f, true); r.Base != long.name || r.Lost != nil || !r.TicketsFrom.IsZero() {
		t.Fatalf("%+v", r)
	}
	if r := long.recover(f, true); r.Base != long.name || len(r.Lost) != 3 {
		t.Fatalf("%+v", r)
	}
	c.nodes = []*testNode{short, long}
	short.start(nil)
	if as, _, _ := short.store.Ready(); !as {
		t.Error("the other survivor does not serve AS alone")
	}
	long.start(nil)
	c.waitFor("both to vote", func() bool { return c.votes(short) && c.votes(long) })
	c.waitReady()
	for _, n := range c.nodes {
		for _, name := range []string{"early", "late"} {
			if _, err := n.lookup(name); err != nil {
				t.Errorf("%s at %s: %v", name, n.name, err)
			}
		}
	}
	short.propose(create(c.principal("after", 1)))
	c.sameState()
	c.restart(short)
	c.restart(long)
	c.waitReady()
}

// A list that is not this node's, or no more true, changes nothing; a recovery that was cut short must be finished before the node runs.
func TestRecoverRefuses(t *testing.T) {
	c := newCluster(t, 1, nil)
	n := c.nodes[0]
	n.stop()
	f := c.survivors(n)
	for what, change := range map[string]func(f *Survivors, v *Survivor){
		"another cluster":  func(f *Survivors, v *Survivor) { f.Cluster = strings.Repeat("0", 32) },
		"without the node": func(f *Survivors, v *Survivor) { v.ID = strings.Repeat("1", 32) },
		"it has run since": func(f *Survivors, v *Survivor) { v.Realm.Index++ },
		"no address":       func(f *Survivors, v *Survivor) { v.PeerAddress = "x" },
		"twice":            func(f *Survivors, v *Survivor) { f.Survivors = append(f.Survivors, *v) },
		"nobody":           func(f *Survivors, v *Survivor) { f.Survivors = nil },
	} {
		bad := *f
		bad.Survivors = append([]Survivor(nil), f.Survivors...)
		change(&bad, &bad.Survivors[0])
		if _, err := Recover(Recovery{Dir: n.dir, Survivors: &bad, Now: time.Now}); err == nil {
			t.Errorf("%s: recovered", what)
		}
	}
	n.start(nil)
	c.waitReady()
	n.stop()

	f = c.survivors(n)
	r := &Recovery{Dir: n.dir, Survivors: f, Now: time.Now}
	if err := r.mark(); err != nil {
		t.Fatal(err)
	}
	if s, err := Open(n.config(nil)); !errors.Is(err, ErrBroken) || !strings.Contains(err.Error(), "--recover") {
		if err == nil {
			_ = s.Shutdown(t.Context())
		}
		t.Fatalf("opened in the middle of a recovery: %v", err)
	}
	if r := n.recover(f, true); !r.Again {
		t.Errorf("%+v", r)
	}
	n.start(nil)
	c.waitReady()
}

// Survivors whose logs end alike have one state afterwards: the epoch is the base's, and it refuses what any node may have accepted, by the widest skew
// that the cluster allowed and by the cluster's clock if that was ahead of this machine's.
func TestRecoverBeginsOneEpoch(t *testing.T) {
	const skew = 20 * time.Minute
	c := newCluster(t, 3, func(cfg *Config) { cfg.ClockSkew = skew })
	c.waitReady()
	for _, n := range c.nodes {
		c.waitFor("the skew at "+n.name, func() bool { return n.store.ClockSkewMax() == skew })
	}
	l := c.waitLeader()
	if v := l.verdict("before", "r"); !accepted(v) {
		t.Fatal(v)
	}
	last := func(n *testNode) uint64 { return n.store.replay.raft.LastIndex() }
	a, b := c.nodes[0], c.nodes[1]
	c.waitFor("equal logs", func() bool {
		return last(a) == last(b) && a.store.counted.get() == last(a) && b.store.counted.get() == last(a)
	})
	for _, n := range c.nodes {
		n.kill()
	}
	f := c.survivors(a, b)
	if f.Survivors[0].Replay != f.Survivors[1].Replay {
		t.Fatalf("%+v", f.Survivors)
	}
	base := time.Now().Add(-time.Hour) // this machine's clock
	var from time.Time
	for i, n := range []*testNode{a, b} {
		r, err := Recover(Recovery{Dir: n.dir, Survivors: f, ClockSkew: 5 * time.Minute, Now: func() time.Time { return base.Add(time.Duration(i) * time.Second) }})
		if err != nil {
			t.Fatal(err)
		}
		if n.name == r.ReplayBase {
			from = r.TicketsFrom
		}
	}
	if left := time.Until(from); left < skew || left > skew+5*time.Minute {
		t.Errorf("no service tickets for %v, want the skew and the slack", left)
	}
	c.nodes = []*testNode{a, b}
	a.start(nil)
	b.start(nil)
	c.waitFor("both to vote", func() bool { return c.votes(a) && c.votes(b) })
	c.waitFor("one state", func() bool {
		ai, bi := a.store.counted.get(), b.store.counted.get()
		return ai == bi && a.store.state.Hash() == b.store.state.Hash()
	})
	if ea, eb := a.store.state.Epoch(), b.store.state.Epoch(); ea != eb || ea.NotBefore != from.UnixMilli() {
		t.Errorf("epochs %v and %v, told %v", ea, eb, from)
	}
}

// A node that is known to have strayed is no base for a recovery: its state is wrong.
func TestStrayedNodeIsNoSurvivor(t *testing.T) {
	c := newCluster(t, 1, nil)
	n := c.nodes[0]
	c.waitReady()
	n.stop()
	f := c.survivors(n)
	if err := writeFile(filepath.Join(n.dir, divergedFile), sealText([]byte("realm state at index 5 differs\n"))); err != nil {
		t.Fatal(err)
	}
	if _, _, err := ReadSurvivor(n.dir); !errors.Is(err, ErrBroken) || !strings.Contains(err.Error(), "realm state at index 5 differs") {
		t.Errorf("listed: %v", err)
	}
	if _, err := Recover(Recovery{Dir: n.dir, Survivors: f, Now: time.Now}); !errors.Is(err, ErrBroken) {
		t.Errorf("recovered: %v", err)
	}
}

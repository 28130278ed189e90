package raftstore

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/charon-kdc/charon/kdc/kdb"
	"github.com/charon-kdc/charon/raftstore/replay"
)

// shifted is a wall clock that a test moves for all nodes.
type shifted struct{ by atomic.Int64 }

func (s *shifted) now() time.Time       { return time.Now().Add(time.Duration(s.by.Load())) }
func (s *shifted) pass(d time.Duration) { s.by.Add(int64(d)) }

// told collects what Observers are told, by node.
type told struct {
	mu      sync.Mutex
	doubles []DoubleAccept
	service []string
}

func (o *told) observe(cfg *Config) {
	cfg.Observe.DoubleAccept = func(d DoubleAccept) { o.mu.Lock(); defer o.mu.Unlock(); o.doubles = append(o.doubles, d) }
	cfg.Observe.Service = func(state, _ string) { o.mu.Lock(); defer o.mu.Unlock(); o.service = append(o.service, state) }
}

func (o *told) found() []DoubleAccept {
	o.mu.Lock()
	defer o.mu.Unlock()
	return append([]DoubleAccept(nil), o.doubles...)
}
func (o *told) states() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return append([]string(nil), o.service...)
}

// tgs presents an authenticator as the TGS does.
func (n *testNode) tgs(proof, request string) (kdb.Verdict, error) {
	n.c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return n.store.Proofs().Submit(kdb.Proof{Ciphertext: []byte(proof), Request: []byte(request), Time: n.c.ctime, Relaxable: true}).Wait(ctx)
}

func (n *testNode) wantTGS(proof, request string, want kdb.Verdict) {
	n.c.t.Helper()
	if v, err := n.tgs(proof, request); err != nil || v != want {
		n.c.t.Errorf("%s: %s in %s: verdict %d, %v; want %d", n.name, proof, request, v, err, want)
	}
}

func (n *testNode) wantTGSRefused(proof, request string) {
	n.c.t.Helper()
	if v, err := n.tgs(proof, request); !errors.Is(err, kdb.ErrUnavailable) {
		n.c.t.Errorf("%s: %s in %s: verdict %d, %v; want it unavailable", n.name, proof, request, v, err)
	}
}

func (c *cluster) waitCutOff(n *testNode) {
	c.t.Helper()
	c.waitFor(n.name+" to be cut off", func() bool {
		s, _ := n.store.Service()
		return s != ServiceNormal && n.store.proofs.cutOff() && n.store.lease.lost.Load()
	})
}

func atLevel(level uint32) func(*cluster) { return func(c *cluster) { c.madeAt = level } }

// A node that is cut off answers from what it has: each authenticator in one request only, and never that somebody does not exist. It still does after a
// restart, and takes nothing that the cluster or itself has accepted before.
func TestServesAlone(t *testing.T) {
	var o told
	c := newCluster(t, 3, func(cfg *Config) { cfg.Timing.CutOff = time.Second })
	c.tune = func(cfg *Config) { cfg.Timing.CutOff = time.Second; o.observe(cfg) }
	c.waitReady()
	n := c.nodes[0]
	n.propose(create(c.principal("alice", 1)))
	n.wantTGS("with the others", "first", kdb.Fresh)
	c.nodes[1].wantTGS("at another node", "first", kdb.Fresh)
	c.waitFor("the other's authenticator here", func() bool {
		p, err := n.store.proofs.hash(kdb.Proof{Ciphertext: []byte("at another node"), Request: []byte("first"), Time: c.ctime})
		return err == nil && n.store.state.Contains(p) == replay.Same
	})
	c.nodes[1].kill()
	c.nodes[2].kill()
	n.wantTGS("held", "first", kdb.Unconfirmed) // waits until the node is cut off
	c.waitCutOff(n)
	alone := func() {
		t.Helper()
		n.wantTGS("alone", "first", kdb.Unconfirmed)
		n.wantTGS("alone", "first", kdb.Unconfirmed)
		n.wantTGS("alone", "other", kdb.Repeat)
		n.wantTGS("held", "other", kdb.Repeat)
		n.wantTGS("with the others", "other", kdb.Repeat)
		n.wantTGS("at another node", "other", kdb.Repeat)
		old := kdb.Proof{Ciphertext: []byte("old"), Request: []byte("x"), Time: c.ctime.Add(-time.Hour), Relaxable: true}
		if v, err := n.store.Proofs().Submit(old).Wait(t.Context()); err != nil || v != kdb.Stale {
			t.Errorf("an old authenticator: %v, %v", v, err)
		}
		strict := kdb.Proof{Ciphertext: []byte("kpasswd"), Request: []byte("x"), Time: c.ctime}
		if v, err := n.store.Proofs().Submit(strict).Wait(t.Context()); !errors.Is(err, kdb.ErrUnavailable) {
			t.Errorf("an authenticator that is never relaxed: %v, %v", v, err)
		}
		if !n.store.KDB().Degraded() || n.store.KDB().Fresh() {
			t.Error("not degraded, or fresh")
		}
		if _, err := n.store.KDB().Principal(testRealm, krbName("alice")); err != nil {
			t.Error(err)
		}
		if _, err := n.store.KDB().Principal(testRealm, krbName("bob")); !errors.Is(err, kdb.ErrStale) {
			t.Errorf("somebody that a node alone does not know: %v", err)
		}
		if as, tgs, reason := n.store.Ready(); !as || !tgs {
			t.Errorf("not ready: %s", reason)
		}
	}
	alone()
	n.kill()
	n.start(nil)
	if _, _, reason := n.store.Ready(); n.store.Degraded() {
		t.Errorf("degraded as soon as it starts: %s", reason)
	}
	c.waitCutOff(n)
	alone()
	c.nodes[1].start(nil)
	c.nodes[2].start(nil)
	c.waitReady()
	for _, other := range c.nodes {
		c.waitFor("what was accepted alone at "+other.name, func() bool { v, err := other.tgs("alone", "other"); return err == nil && v == kdb.Repeat })
	}
	c.waitFor("an empty journal", func() bool { _, err := os.Stat(filepath.Join(n.dir, "replay", journalFile)); return os.IsNotExist(err) })
	c.waitFor("normal service", func() bool { s, _ := n.store.Service(); return s == ServiceNormal })
	if got := o.states(); len(got) < 2 || got[0] != ServiceDegraded || got[len(got)-1] != ServiceNormal {
		t.Errorf("told of %v", got)
	}
}

// What two sides of a partition accepted in different requests is reported when they meet, even if it has expired everywhere by then. It is counted once
// for the whole cluster.
func TestDoubleAcceptIsReported(t *testing.T) {
	var o told
	c := newCluster(t, 3, func(cfg *Config) {
		cfg.Timing.CutOff, cfg.Timing.IdleBatch, cfg.Timing.Away = time.Second, 200*time.Millisecond, 3*time.Second
		cfg.Timing.Release = 2 * time.Second
		o.observe(cfg)
	}, atLevel(replay.MergeLevel))
	c.waitReady()
	f := c.follower()
	f.cut()
	c.waitCutOff(f)
	var other *testNode
	for _, n := range c.nodes {
		if n != f {
			other = n
		}
	}
	c.waitFor("the others to keep what they accepted", func() bool { return other.store.state.Holding() })
	c.ctime = time.Now().Add(-replay.SkewDefault - replay.Slack + 5*time.Second) // soon to expire
	f.wantTGS("both", "here", kdb.Unconfirmed)
	f.wantTGS("one", "here", kdb.Unconfirmed)
	f.wantTGS("resent", "same", kdb.Unconfirmed)
	other.wantTGS("both", "there", kdb.Fresh)
	other.wantTGS("resent", "same", kdb.Fresh)
	c.waitFor("it to expire", func() bool { v, err := other.tgs("both", "third"); return err == nil && v == kdb.Stale })
	f.heal()
	c.waitReady()
	c.waitFor("a report", func() bool { return len(o.found()) > 0 })
	c.waitFor("an empty journal", func() bool { return f.store.heard.journal.left() == 0 })
	p, err := f.store.proofs.hash(kdb.Proof{Ciphertext: []byte("both"), Request: []byte("here"), Time: c.ctime})
	if err != nil {
		t.Fatal(err)
	}
	got := o.found()
	if len(got) != 1 || got[0].Authenticator != hex.EncodeToString(p.K[:8]) || got[0].Time.Unix() != c.ctime.Unix() || got[0].Cause != "cut-off" {
		t.Errorf("reported: %+v", got)
	}
	for _, n := range c.nodes {
		c.waitFor("the count at "+n.name, func() bool { d, _ := n.store.state.Doubles(); return d == 1 })
	}
	if st := other.store.Status(t.Context()); st.Doubles != 1 || st.LastDouble.IsZero() {
		t.Errorf("status: %d, %v", st.Doubles, st.LastDouble)
	}
	c.waitFor("the end of keeping", func() bool { return !other.store.state.Holding() })
}

// Three nodes, each alone, accept one authenticator in three requests: when they meet that is found out twice.
func TestJournalsOfAllMeet(t *testing.T) {
	var o told
	c := newCluster(t, 3, func(cfg *Config) { cfg.Timing.CutOff = time.Second; o.observe(cfg) }, atLevel(replay.MergeLevel))
	c.waitReady()
	for _, n := range c.nodes {
		n.cut()
	}
	for _, n := range c.nodes {
		c.waitCutOff(n)
		n.wantTGS("everywhere", "request to "+n.name, kdb.Unconfirmed)
	}
	for _, n := range c.nodes {
		n.heal()
	}
	c.waitReady()
	for _, n := range c.nodes {
		c.waitFor("two doubles at "+n.name, func() bool { d, _ := n.store.state.Doubles(); return d == 2 })
	}
	c.waitFor("two reports", func() bool { return len(o.found()) == 2 })
}

// Before feature level 2 a journal goes as ordinary proofs: what has not expired is found out all the same.
func TestJournalAtLevelOne(t *testing.T) {
	var o told
	c := newCluster(t, 3, func(cfg *Config) { cfg.Timing.CutOff = time.Second; o.observe(cfg) }, atLevel(1))
	c.waitReady()
	f := c.follower()
	f.cut()
	c.waitCutOff(f)
	f.wantTGS("both", "here", kdb.Unconfirmed)
	c.waitLeader().wantTGS("both", "there", kdb.Fresh)
	f.heal()
	c.waitReady()
	c.waitFor("a report", func() bool { return len(o.found()) == 1 })
	for _, n := range c.nodes {
		if d, _ := n.store.state.Doubles(); d != 0 || n.store.state.Holding() {
			t.Errorf("%s: an entry of feature level 2 is in the log", n.name)
		}
	}
}

func TestRefusesWithoutQuorum(t *testing.T) {
	c := newCluster(t, 3, func(cfg *Config) { cfg.Timing.CutOff, cfg.RefuseWithoutQuorum = time.Second, true })
	c.waitReady()
	n := c.nodes[0]
	n.propose(create(c.principal("alice", 1)))
	c.nodes[1].kill()
	c.nodes[2].kill()
	n.wantTGSRefused("held", "first")
	c.waitCutOff(n)
	n.wantTGSRefused("alone", "first")
	if _, err := n.store.KDB().Principal(testRealm, krbName("alice")); !errors.Is(err, kdb.ErrUnavailable) {
		t.Error(err)
	}
	if as, tgs, reason := n.store.Ready(); as || tgs || reason == "" {
		t.Errorf("ready: %v, %v, %q", as, tgs, reason)
	}
	if n.store.KDB().Degraded() {
		t.Error("degraded")
	}
	c.nodes[1].start(nil)
	c.waitFor("service", func() bool { v, err := n.tgs("later", "first"); return err == nil && accepted(v) })
	c.waitFor("the principal", func() bool { _, err := n.store.KDB().Principal(testRealm, krbName("alice")); return err == nil })
}

// With replay = async the answer does not wait, and what two nodes answered at once is found out.
func TestAsyncReplay(t *testing.T) {
	var o told
	c := newCluster(t, 3, func(cfg *Config) { cfg.AsyncReplay = true; o.observe(cfg) })
	c.waitReady()
	f := c.follower()
	f.cut() // not for long enough to be cut off
	f.wantTGS("both", "here", kdb.Unconfirmed)
	f.wantTGS("both", "here", kdb.Unconfirmed)
	f.wantTGS("both", "again here", kdb.Repeat)
	l := c.waitLeader()
	l.wantTGS("both", "there", kdb.Unconfirmed)
	l.wantTGS("both", "again there", kdb.Repeat)
	if v := l.verdict("never relaxed", "first"); v != kdb.Fresh {
		t.Errorf("a proof that is not relaxable got verdict %d", v)
	}
	f.heal()
	c.waitFor("a report", func() bool { return len(o.found()) > 0 })
	if got := o.found(); len(got) != 1 || got[0].Cause != "async" {
		t.Errorf("reported: %+v", got)
	}
	for _, n := range c.nodes {
		c.waitFor("a repeat at "+n.name, func() bool { v, err := n.tgs("both", "third"); return err == nil && v == kdb.Repeat })
	}
}

// How long a node has been away counts across a restart.
func TestStaleLimitSurvivesARestart(t *testing.T) {
	var clock shifted
	c := newCluster(t, 3, func(cfg *Config) {
		cfg.Now, cfg.Timing.CutOff, cfg.StaleLimit = clock.now, time.Second, time.Hour
	})
	c.waitReady()
	n := c.nodes[0]
	n.propose(create(c.principal("alice", 1)))
	c.waitFor("an entry in the log", func() bool { return n.store.state.Now() > 0 })
	for _, o := range c.nodes {
		o.kill()
	}
	away := time.Duration(0)
	read := func(after time.Duration) error {
		clock.pass(after)
		away += after
		n.start(nil)
		defer n.kill()
		c.waitFor("to be alone", func() bool { return n.store.proofs.cutOff() })
		if as, _, _ := n.store.Ready(); as == (away > time.Hour || away < 0) {
			t.Errorf("%v after the last contact: ready is %v", away, as)
		}
		_, err := n.store.KDB().Principal(testRealm, krbName("alice"))
		return err
	}
	if err := read(50 * time.Minute); err != nil {
		t.Error(err)
	}
	if err := read(20 * time.Minute); !errors.Is(err, kdb.ErrStale) {
		t.Errorf("70 minutes after the last contact: %v", err)
	}
	if err := read(-90 * time.Minute); !errors.Is(err, kdb.ErrStale) {
		t.Errorf("with a clock before the last contact: %v", err)
	}
	for _, o := range c.nodes {
		o.start(nil)
	}
	c.waitReady()
	if _, err := n.lookup("alice"); err != nil {
		t.Error(err)
	}
}

// A node that can't know all that it accepted alone gives no service tickets alone, until that has expired (RFC 4120 section 3.2.3).
func TestLostTrack(t *testing.T) {
	c := newCluster(t, 3, func(cfg *Config) { cfg.Timing.CutOff = time.Second })
	c.waitReady()
	n := c.nodes[0]
	c.nodes[1].kill()
	c.nodes[2].kill()
	c.waitCutOff(n)
	n.wantTGS("alone", "first", kdb.Unconfirmed)
	n.kill()
	path := filepath.Join(n.dir, "replay", journalFile)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)-recordSize/2] ^= 4
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	n.start(nil)
	c.waitCutOff(n)
	n.wantTGSRefused("alone", "other")
	if as, tgs, reason := n.store.Ready(); !as || tgs || reason == "" {
		t.Errorf("ready: AS %v, TGS %v, %q", as, tgs, reason)
	}
	if left := time.Until(n.store.proofs.trusted); left < 5*time.Minute || left > 6*time.Minute {
		t.Errorf("for another %v; want skew and slack from the start", left)
	}
	c.nodes[1].start(nil)
	c.waitFor("service with a quorum", func() bool { v, err := n.tgs("with others", "first"); return err == nil && accepted(v) })
}

// A process that was stopped for a minute has not been cut off for a minute.
func TestPauseIsNoPartition(t *testing.T) {
	begun := time.Now()
	r := running{pause: time.Second, last: begun}
	at := func(d time.Duration) time.Time { return begun.Add(d) }
	for d := time.Duration(0); d <= 4*time.Second; d += 50 * time.Millisecond {
		r.tick(at(d))
	}
	if got := r.since(at(time.Second)); got != 3*time.Second {
		t.Errorf("%v without a contact, want 3s", got)
	}
	r.tick(at(64 * time.Second))
	if got := r.since(at(time.Second)); got != 0 {
		t.Errorf("%v without a contact at the moment of waking", got)
	}
	for d := 64 * time.Second; d <= 67*time.Second; d += 50 * time.Millisecond {
		r.tick(at(d))
	}
	if got := r.since(at(time.Second)); got != 3*time.Second {
		t.Errorf("%v without a contact three seconds after waking", got)
	}
	if got := r.since(at(66 * time.Second)); got != time.Second {
		t.Errorf("%v since a contact a second ago", got)
	}
}

// A change without a quorum is refused at once, and certainly not made.
func TestProposeWithoutQuorum(t *testing.T) {
	c := newCluster(t, 3, func(cfg *Config) { cfg.Timing.CutOff = time.Second })
	c.waitReady()
	n := c.nodes[0]
	c.nodes[1].kill()
	c.nodes[2].kill()
	c.waitCutOff(n)
	c.waitFor("it knows", n.store.LostQuorum)
	begun := time.Now()
	_, err := n.store.Propose(t.Context(), create(c.principal("alice", 1)))
	var na *NotAppliedError
	if !errors.As(err, &na) || !errors.Is(err, ErrNoQuorum) {
		t.Errorf("%v", err)
	}
	if took := time.Since(begun); took > 2*time.Second {
		t.Errorf("took %v", took)
	}
}

// After a partition of any length a node is fresh again within two seconds.
func TestFreshSoonAfterHealing(t *testing.T) {
	c := newCluster(t, 3, func(cfg *Config) { cfg.Timing.CutOff = time.Second })
	c.waitReady()
	f := c.follower()
	f.cut()
	c.waitCutOff(f)
	c.waitLeader().propose(create(c.principal("alice", 1)))
	end := time.Now().Add(7 * time.Second) // long enough for senders that wait ever longer to wait for seconds
	for i := 0; time.Now().Before(end); i++ {
		c.waitLeader().wantTGS(fmt.Sprint("proof ", i), "first", kdb.Fresh)
		time.Sleep(100 * time.Millisecond)
	}
	f.heal()
	begun := time.Now()
	c.waitFor("fresh", func() bool { return f.store.KDB().Fresh() && f.ready() })
	if took := time.Since(begun); took > 2*time.Second {
		t.Errorf("fresh %v after healing", took)
	} else {
		t.Logf("fresh %v after healing", took)
	}
	if _, err := f.store.KDB().Principal(testRealm, krbName("alice")); err != nil {
		t.Error(err)
	}
}

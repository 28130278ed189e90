package raftstore

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/charon-kdc/charon/kdc/kdb"
	statev1 "github.com/charon-kdc/charon/proto/charon/state/v1"
)

// The leader dies, the others go on, it comes back with its files; then everything stops at once and comes back.
func TestLeaderKilled(t *testing.T) {
	c := newCluster(t, 3, nil)
	c.waitReady()
	c.nodes[0].propose(create(c.principal("before", 1)))
	if v := c.nodes[1].verdict("before", "r"); !accepted(v) {
		t.Fatalf("verdict %v", v)
	}
	dead := c.waitLeader()
	dead.kill()

	f := c.follower()
	f.propose(create(c.principal("during", 1)))
	// Held through the election and answered late, by the rule.
	if v := f.verdict("before", "other"); v != kdb.Repeat {
		t.Errorf("accepted under the former leader, presented to the next: %v", v)
	}
	if v := f.verdict("during", "r"); !accepted(v) {
		t.Errorf("new proof after failover: %v", v)
	}

	dead.start(nil)
	c.waitReady()
	for _, name := range []string{"before", "during"} {
		if _, err := dead.lookup(name); err != nil {
			t.Errorf("%s at the node that was dead: %v", name, err)
		}
	}
	if v := dead.verdict("during", "other"); v != kdb.Repeat {
		t.Errorf("at the node that was dead: %v", v)
	}

	for _, n := range c.nodes {
		n.kill()
	}
	for _, n := range c.nodes {
		n.start(nil)
	}
	c.waitReady()
	for _, n := range c.nodes {
		if _, err := n.lookup("during"); err != nil {
			t.Errorf("%s after all were dead: %v", n.name, err)
		}
		for _, proof := range []string{"before", "during"} {
			if v := n.verdict(proof, "third"); v != kdb.Repeat {
				t.Errorf("%s after all were dead: proof %q: %v", n.name, proof, v)
			}
		}
	}
}

// One request id, retried until it succeeds while the leader is killed, acts once.
func TestRequestIDAcrossFailover(t *testing.T) {
	c := newCluster(t, 3, nil)
	c.waitReady()
	base := c.principal("counter", 1)
	c.nodes[0].propose(create(base))
	for round := range 3 {
		l := c.waitLeader()
		f := c.follower()
		next := proto.CloneOf(base)
		next.Strings = map[string]string{"round": fmt.Sprint(round)}
		cmd := create(next)
		cmd.GetPutPrincipal().Expect = &statev1.Expect{Condition: &statev1.Expect_Present{Present: true}}
		killed := make(chan struct{})
		go func() {
			defer close(killed)
			l.kill()
		}()
		var r *statev1.Result
		c.waitFor("the call gets through", func() bool {
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			defer cancel()
			var err error
			r, err = f.store.Propose(ctx, cmd)
			var na *NotAppliedError
			var unknown *UnknownOutcomeError
			if err != nil && !errors.As(err, &na) && !errors.As(err, &unknown) {
				t.Fatalf("an error that says neither nothing done nor unknown: %v", err)
			}
			return err == nil
		})
		<-killed
		if r.GetCode() != statev1.Code_CODE_OK {
			t.Fatalf("round %d: %v", round, r)
		}
		l.start(nil)
		c.waitReady()
		for _, n := range c.nodes {
			p, err := n.lookup("counter")
			if err != nil || p.Strings["round"] != fmt.Sprint(round) || p.Revision != r.GetRevision() {
				t.Fatalf("round %d at %s: %+v, %v; the first outcome was revision %d, and each call must act once", round, n.name, p, err, r.GetRevision())
			}
		}
	}
}

// A node that was away for longer than the log lasts gets both states as snapshots.
func TestSnapshotInstall(t *testing.T) {
	c := newCluster(t, 3, func(cfg *Config) {
		cfg.Timing.SnapshotThreshold, cfg.Timing.TrailingLogs, cfg.Timing.SnapshotInterval = 8, 4, 100*time.Millisecond
	})
	c.waitReady()
	away := c.follower()
	away.stop()
	l := c.waitLeader()
	for i := range 40 {
		l.propose(create(c.principal(fmt.Sprintf("u%d", i), 1)))
		if v := l.verdict(fmt.Sprintf("p%d", i), "r"); !accepted(v) {
			t.Fatalf("verdict %v", v)
		}
	}
	lagging := func(g *group) bool {
		first, err := g.log.FirstIndex()
		return err == nil && first > 30
	}
	c.waitFor("the leader's log no longer has what the node misses", func() bool {
		l := c.leader()
		return l != nil && lagging(l.store.realm) && lagging(l.store.replay)
	})
	away.start(nil)
	c.waitReady()
	c.waitFor("a snapshot of the realm was installed", func() bool { return away.store.db.Installed() > 0 })
	if _, err := away.lookup("u0"); err != nil {
		t.Error(err)
	}
	c.waitFor("the replay state", func() bool { return away.store.state.Stats().Items == l.store.state.Stats().Items })
	for _, i := range []int{0, 39} {
		if v := away.verdict(fmt.Sprintf("p%d", i), "other"); v != kdb.Repeat {
			t.Errorf("p%d at the node that was away: %v", i, v)
		}
	}
	c.sameState()
	// What the installation left on disk must carry a restart.
	away.kill()
	away.start(nil)
	c.waitReady()
	r := c.nodes[0].propose(create(c.principal("after", 1)))
	if err := away.store.WaitApplied(t.Context(), r.GetIndex()); err != nil {
		t.Fatal(err)
	}
	if _, err := away.lookup("after"); err != nil {
		t.Error(err)
	}
	c.sameState()
}

// sameState waits until all nodes have applied the same index and compares their hashes.
func (c *cluster) sameState() {
	c.t.Helper()
	c.waitFor("equal states", func() bool {
		index := map[uint64]bool{}
		hash := map[[32]byte]bool{}
		for _, n := range c.nodes {
			before := n.store.applied.get()
			h, err := n.store.DB().Hash()
			if err != nil || n.store.applied.get() != before {
				return false
			}
			index[before], hash[h] = true, true
		}
		if len(index) == 1 && len(hash) != 1 {
			c.t.Fatalf("states differ at one index")
		}
		return len(index) == 1
	})
}

// A node without quorum holds, then says that it is cut off; with quorum again it is ready again.
func TestCutOff(t *testing.T) {
	c := newCluster(t, 3, func(cfg *Config) { cfg.Timing.CutOff = 1500 * time.Millisecond })
	c.waitReady()
	c.nodes[0].propose(create(c.principal("alice", 1)))
	left := c.nodes[0]
	if _, err := left.lookup("alice"); err != nil {
		t.Fatal(err)
	}
	c.nodes[1].kill()
	c.nodes[2].kill()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	p := kdb.Proof{Ciphertext: []byte("lonely"), Request: []byte("r"), Time: time.Now()}
	begun := time.Now()
	if v, err := left.store.Proofs().Submit(p).Wait(ctx); !errors.Is(err, kdb.ErrUnavailable) {
		t.Errorf("verdict without quorum: %v, %v", v, err)
	}
	if held := time.Since(begun); held < time.Second {
		t.Errorf("refused after %v: it must hold first", held)
	}
	c.waitFor("cut off", func() bool { return left.store.proofs.stateName() == "cut-off" })
	if state, reason := left.store.Service(); state != ServiceDegraded || reason == "" {
		t.Errorf("service %s, %q", state, reason)
	}
	short, stop := context.WithTimeout(ctx, time.Second)
	defer stop()
	if _, err := left.store.Proofs().Submit(p).Wait(short); !errors.Is(err, kdb.ErrUnavailable) {
		t.Errorf("when cut off: %v; want ErrUnavailable at once", err)
	}
	c.waitFor("freshness gone", func() bool { return !left.store.KDB().Fresh() })
	if _, err := left.store.KDB().Principal(testRealm, krbName("alice")); err != nil {
		t.Errorf("reads go on from local state: %v", err)
	}
	if _, err := left.store.KDB().Principal(testRealm, krbName("nobody")); !errors.Is(err, kdb.ErrStale) {
		t.Errorf("a missing principal on a node that may be stale: %v; want ErrStale", err)
	}
	pctx, stop2 := context.WithTimeout(ctx, time.Second)
	defer stop2()
	_, err := left.store.Propose(pctx, create(c.principal("lost", 1)))
	var na *NotAppliedError
	var unknown *UnknownOutcomeError
	if !errors.As(err, &na) && !errors.As(err, &unknown) {
		t.Errorf("proposal without quorum: %v", err)
	}
	c.nodes[1].start(nil)
	c.waitFor("ready again", left.ready)
	if v := left.verdict("healed", "r"); !accepted(v) {
		t.Errorf("after healing: %v", v)
	}
}

// Whatever an operator does to the directory, a node never votes with a log that is not whole.
func TestBrokenDirectories(t *testing.T) {
	for _, c := range []struct {
		name  string
		harm  func(dir string) error
		start bool // the refusal comes from Start
	}{
		{"id without log", func(d string) error { return os.Remove(filepath.Join(d, realmGroup, logFile)) }, false},
		{"log without id", func(d string) error { return os.Remove(filepath.Join(d, realmGroup, idFile)) }, false},
		{"id without replay log", func(d string) error { return os.Remove(filepath.Join(d, replayGroup, logFile)) }, false},
		{"log emptied under its state", func(d string) error {
			other := filepath.Join(d, "other")
			if _, _, err := Prepare(other); err != nil {
				return err
			}
			return os.Rename(filepath.Join(other, realmGroup, logFile), filepath.Join(d, realmGroup, logFile))
		}, false},
		{"boot counter flipped", func(d string) error { return os.WriteFile(filepath.Join(d, bootFile), []byte("123456789012"), 0o600) }, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			cl := newCluster(t, 1, nil)
			n := cl.nodes[0]
			n.stop()
			if err := c.harm(n.dir); err != nil {
				t.Fatal(err)
			}
			s, err := Open(n.config(nil))
			if !errors.Is(err, ErrBroken) {
				if err == nil {
					_ = s.Shutdown(t.Context())
				}
				t.Fatalf("opened: %v; want ErrBroken", err)
			}
		})
	}
}

// A wiped directory is another node; an old copy that is put back is refused.
func TestIdentityLivesWithTheDisk(t *testing.T) {
	c := newCluster(t, 3, nil)
	c.waitReady()
	n := c.follower()
	n.stop()
	old := filepath.Join(t.TempDir(), "copy")
	if err := os.CopyFS(old, os.DirFS(n.dir)); err != nil {
		t.Fatal(err)
	}
	n.start(nil)
	c.waitReady()
	c.waitFor("the others know of the last start", func() bool {
		rec, err := c.waitLeader().store.DB().Node(n.id[:])
		return err == nil && rec.GetBootCounter() == n.store.boot
	})
	n.stop()

	kept := n.dir
	n.dir = old
	s, err := Open(n.config(nil))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(t.Context()); !errors.Is(err, ErrBroken) || !strings.Contains(err.Error(), "old copy") {
		t.Errorf("an old copy of the directory started: %v", err)
	}
	n.dir = kept

	if err := os.RemoveAll(n.dir); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(n.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	was := n.id
	n.prepare()
	if n.id == was {
		t.Fatal("a wiped directory got its identity back")
	}
	// Under its new identity it is nobody until the old one is removed and it is added.
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	rec := &statev1.Node{Id: n.id[:], ReplayId: n.id[:], Name: n.name, PeerAddress: n.addr}
	if err := c.waitLeader().store.AddNode(ctx, rec); err == nil {
		t.Error("added at the address of a member")
	}
	c.waitFor("removal", func() bool {
		l := c.leader()
		return l != nil && l.store.RemoveNode(ctx, was) == nil
	})
	c.join(n)
	c.waitFor("votes again", func() bool { return c.votes(n) && n.ready() })
	c.waitFor("the old identity is gone from both groups", func() bool {
		l := c.leader()
		if l == nil {
			return false
		}
		replays, _ := l.store.replay.servers()
		return len(l.store.Status(ctx).Nodes) == 3 && len(replays) == 3
	})
	n.propose(create(c.principal("again", 1)))
}

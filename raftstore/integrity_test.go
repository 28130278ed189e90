package raftstore

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/charon-kdc/charon/kdc/kdb"
	"github.com/charon-kdc/charon/kdc/krb5"
	statev1 "github.com/charon-kdc/charon/proto/charon/state/v1"
	"github.com/charon-kdc/charon/raftstore/peer"
	"github.com/charon-kdc/charon/raftstore/realm"
	"github.com/charon-kdc/charon/raftstore/setsum"
)

// stray changes one principal in the state of a stopped node, so that every checksum in it is right.
func (n *testNode) stray() {
	n.c.t.Helper()
	path := filepath.Join(n.dir, realmGroup, stateFile)
	db, err := realm.Open(path, realm.Options{MmapSize: 64 << 20})
	if err != nil {
		n.c.t.Fatal(err)
	}
	_, config := db.Configuration()
	var stream bytes.Buffer
	if _, err := db.WriteSnapshot(&stream); err != nil {
		n.c.t.Fatal(err)
	}
	if err := errors.Join(db.Close(), os.Remove(path)); err != nil {
		n.c.t.Fatal(err)
	}
	_, err = realm.Rebuild(path, realm.Options{MmapSize: 64 << 20}, &stream, config, func(r realm.Record) (bool, error) {
		if p, ok := r.Message.(*statev1.Principal); ok {
			p.MaxLife += 3600
		}
		return true, nil
	})
	if err != nil {
		n.c.t.Fatal(err)
	}
}

// rebuild the stopped node's state from the others.
func (n *testNode) rebuild() {
	n.c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cfg := n.config(nil)
	cfg.Listener.Close()
	if err := cfg.fill(); err != nil {
		n.c.t.Fatal(err)
	}
	r := Rebuild{Dir: n.dir, Identity: n.identity(), MapSize: cfg.MapSize, Logger: cfg.Logger}
	if _, err := r.Run(ctx); err != nil {
		n.c.t.Fatal(err)
	}
}

func (c *cluster) alike() bool {
	var last setsum.Point
	for i, n := range c.nodes {
		p := n.store.DB().Hashes().Last()
		if i > 0 && p != last {
			return false
		}
		last = p
	}
	return true
}

// One node of three whose state differs finds that out, answers nobody, gives up leading and never leads, over a restart, too; and is as before
// once it has been rebuilt.
func TestStateThatDiffers(t *testing.T) {
	c := newCluster(t, 3, nil)
	c.nodes[0].propose(create(c.principal("alice", 1)))
	c.sameState()
	c.waitFor("equal hashes", c.alike)
	odd := c.leader()
	c.waitFor("the members written down", func() bool { m, err := loadPeers(odd.dir); return err == nil && len(m) == 2 })
	odd.stop()
	odd.stray()
	told := make(chan string, 1)
	c.tune = func(cfg *Config) { cfg.Observe.StateDiverged = func(why string) { told <- why } }
	odd.start(nil)
	select {
	case why := <-told:
		if !strings.Contains(why, "realm state at index") {
			t.Error(why)
		}
	case <-time.After(patience):
		t.Fatal("the node did not find out")
	}
	refuses := func() {
		t.Helper()
		if as, tgs, why := odd.store.Ready(); as || tgs || !strings.Contains(why, "--rebuild") {
			t.Errorf("ready: %v %v %q", as, tgs, why)
		}
		_, err := odd.store.KDB().Principal(testRealm, krb5.PrincipalName{NameType: 1, NameString: []string{"alice"}})
		if !errors.Is(err, kdb.ErrStale) {
			t.Errorf("it answers from its state: %v", err)
		}
	}
	refuses()
	other := c.nodes[0]
	if other == odd {
		other = c.nodes[1]
	}
	c.waitFor("the others to know, and one of them to lead", func() bool {
		for _, n := range other.store.Status(t.Context()).Nodes {
			if n.ID == odd.id {
				return n.Diverged != "" && !odd.store.IsLeader() && c.leader() != nil
			}
		}
		return false
	})
	if err := other.store.TransferLeadership(t.Context(), odd.name); err == nil {
		t.Error("it took leadership over")
	}
	c.tune = nil
	odd.stop()
	odd.start(nil)
	refuses()
	odd.stop()

	odd.rebuild()
	odd.start(nil)
	c.waitReady()
	other.propose(create(c.principal("bob", 1)))
	c.sameState()
	c.waitFor("equal hashes", c.alike)
	if why := odd.store.Diverged(); why != "" {
		t.Error(why)
	}
}

// Damage of any kind to the states is repaired from a peer, and what the log has beyond stays.
func TestRebuild(t *testing.T) {
	c := newCluster(t, 3, nil)
	c.nodes[0].propose(create(c.principal("alice", 1)))
	c.nodes[0].verdict("a", "x")
	n := c.nodes[2]
	c.waitFor("a snapshot of the replay state", func() bool { return n.store.replay.raft.Snapshot().Error() == nil })
	c.waitFor("the members written down", func() bool { m, err := loadPeers(n.dir); return err == nil && len(m) == 2 })
	path := filepath.Join(n.dir, realmGroup, stateFile)
	for what, spoil := range map[string]func() error{
		"state cut":        func() error { return os.Truncate(path, 5000) },
		"state of nothing": func() error { return os.WriteFile(path, bytes.Repeat([]byte{0xff}, 64<<10), 0o600) },
		"replay snapshot": func() error {
			list, err := filepath.Glob(filepath.Join(n.dir, replayGroup, "snapshots", "*", "meta.json"))
			if err != nil || len(list) == 0 {
				return errors.Join(err, errors.New("no snapshot"))
			}
			return os.WriteFile(list[0], []byte("{"), 0o600)
		},
	} {
		n.stop()
		if err := spoil(); err != nil {
			t.Fatal(what, err)
		}
		cfg := n.config(nil)
		if s, err := Open(cfg); !errors.Is(err, ErrStateDamaged) || !strings.Contains(err.Error(), "--rebuild") {
			if err == nil {
				s.Shutdown(t.Context())
			}
			t.Fatalf("%s: %v", what, err)
		}
		n.rebuild()
		n.start(nil)
		c.waitReady()
		c.waitFor("equal hashes", c.alike)
		if v := n.verdict("a", "y"); accepted(v) {
			t.Errorf("%s: an authenticator was accepted twice: %v", what, v)
		}
	}
}

func TestJudgeHashes(t *testing.T) {
	h := func(b byte) setsum.Hash { return setsum.Hash{b} }
	a, b := peer.NodeID{1}, peer.NodeID{2}
	own := func(i uint64) (setsum.Hash, bool) { return h(byte(i)), i <= 20 }
	for _, x := range []struct {
		what    string
		members int
		others  map[peer.NodeID]map[uint64]setsum.Hash
		// diverged, disputed, and the odd ones
		diverged, disputed bool
		odd                int
	}{
		{"alike", 3, map[peer.NodeID]map[uint64]setsum.Hash{a: {5: h(5)}, b: {5: h(5), 30: h(1)}}, false, false, 0},
		{"no common index", 3, map[peer.NodeID]map[uint64]setsum.Hash{a: {30: h(5)}, b: {31: h(1)}}, false, false, 0},
		{"this one", 3, map[peer.NodeID]map[uint64]setsum.Hash{a: {5: h(9)}, b: {5: h(9)}}, true, false, 0},
		{"another", 3, map[peer.NodeID]map[uint64]setsum.Hash{a: {5: h(5)}, b: {5: h(9)}}, false, false, 1},
		{"two that differ", 3, map[peer.NodeID]map[uint64]setsum.Hash{a: {5: h(9)}}, false, true, 0},
		{"three that differ", 3, map[peer.NodeID]map[uint64]setsum.Hash{a: {5: h(9)}, b: {5: h(8)}}, false, true, 0},
		{"two of two", 2, map[peer.NodeID]map[uint64]setsum.Hash{a: {5: h(9)}}, false, true, 0},
		{"the others, elsewhere", 3, map[peer.NodeID]map[uint64]setsum.Hash{a: {30: h(1)}, b: {30: h(2)}}, false, true, 0},
		{"two of five", 5, map[peer.NodeID]map[uint64]setsum.Hash{a: {5: h(9)}, b: {5: h(9)}}, false, true, 0},
		{"a majority at one index", 3, map[peer.NodeID]map[uint64]setsum.Hash{a: {5: h(5)}, b: {5: h(9), 6: h(9)}}, false, false, 1},
	} {
		v := judgeHashes(x.members, "realm", own, x.others, peer.NodeID.String)
		if (v.diverged != "") != x.diverged || (v.dispute != "") != x.disputed || len(v.odd) != x.odd {
			t.Errorf("%s: %+v", x.what, v)
		}
	}
}

package raftstore

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	statev1 "github.com/charon-kdc/charon/proto/charon/state/v1"
	"github.com/charon-kdc/charon/raftstore/peer"
	"github.com/charon-kdc/charon/raftstore/realm"
)

// deaths collects what would have ended the process of one node.
type deaths struct {
	mu   sync.Mutex
	errs []error
}

func (d *deaths) note(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.errs = append(d.errs, err)
}

func (d *deaths) last() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.errs) == 0 {
		return nil
	}
	return d.errs[len(d.errs)-1]
}

func oldCopySaid(err error) bool {
	return errors.Is(err, ErrBroken) && strings.Contains(err.Error(), "old copy")
}

// An old copy that starts where nobody answers serves, but neither gives nor asks for a vote; once a member answers, it ends.
func TestOldCopyNeverVotes(t *testing.T) {
	var died deaths
	c := newCluster(t, 3, func(cfg *Config) {
		if cfg.Self.GetName() == "n3" {
			cfg.Fatal = died.note
		}
	})
	c.waitReady()
	n := c.nodes[2]
	c.waitFor("n3 to know that it votes", func() bool {
		return has(n.store.realm.voters(), n.store.realm.id) && has(n.store.replay.voters(), n.store.replay.id)
	})
	n.stop()
	old := filepath.Join(t.TempDir(), "copy")
	if err := os.CopyFS(old, os.DirFS(n.dir)); err != nil {
		t.Fatal(err)
	}
	n.start(nil)
	c.waitFor("the others to know of the last start", func() bool {
		rec, err := c.nodes[0].store.DB().Node(n.id[:])
		return err == nil && rec.GetBootCounter() == n.store.boot
	})
	n.stop()

	n.dir = old
	n.off.Store(true)
	n.start(nil)
	if as, _, why := n.store.Ready(); !as {
		t.Errorf("alone it does not serve AS: %s", why)
	}
	for _, g := range []*group{n.store.realm, n.store.replay} {
		before := g.raft.Stats()["term"]
		c.waitFor("an election that it can't win", func() bool { return g.raft.State() == raft.Candidate })
		for what, cmd := range map[string]any{
			"vote": &raft.RequestVoteRequest{}, "pre-vote": &raft.RequestPreVoteRequest{}, "leadership": &raft.TimeoutNowRequest{},
		} {
			answer := make(chan raft.RPCResponse, 1)
			if !g.trans.refuse(raft.RPC{Command: cmd, RespChan: answer}) {
				t.Fatalf("%s: it takes part: %s", g.name, what)
			}
			switch r := (<-answer).Response.(type) {
			case *raft.RequestVoteResponse:
				if r.Granted {
					t.Errorf("%s: %s granted", g.name, what)
				}
			case *raft.RequestPreVoteResponse:
				if r.Granted {
					t.Errorf("%s: %s granted", g.name, what)
				}
			}
		}
		if g.trans.refuse(raft.RPC{Command: &raft.AppendEntriesRequest{}}) {
			t.Errorf("%s: it does not follow a leader", g.name)
		}
		if now := g.raft.Stats()["term"]; now != before {
			t.Errorf("%s: term %s, was %s: it voted for itself", g.name, now, before)
		}
	}
	if err := died.last(); err != nil {
		t.Fatalf("ended before anyone answered: %v", err)
	}
	n.heal()
	c.waitFor("its end", func() bool { return oldCopySaid(died.last()) })
	if n.store.vouched.Load() {
		t.Error("it votes")
	}
}

// Where the realm already counts this start, announcing ends the node, though nobody had known better when it asked.
func TestAnnouncingAnOldCopyIsFatal(t *testing.T) {
	var died deaths
	c := newCluster(t, 1, func(cfg *Config) { cfg.Fatal = died.note })
	s := c.nodes[0].store
	sent := true
	if !s.announceOnce(t.Context(), &sent) || died.last() != nil {
		t.Errorf("its own announcement: %v", died.last())
	}
	sent = false
	if !s.announceOnce(t.Context(), &sent) || !oldCopySaid(died.last()) {
		t.Errorf("another's announcement: %v", died.last())
	}
	if n, err := s.db.Node(s.id[:]); err != nil || n.GetBootCounter() != s.boot {
		t.Errorf("%v, %v", n, err)
	}
}

// After a power cut of all, the nodes vouch for each other.
func TestAllRestartAtOnce(t *testing.T) {
	c := newCluster(t, 3, nil)
	c.waitReady()
	c.nodes[0].propose(create(c.principal("alice", 1)))
	for _, n := range c.nodes {
		n.kill()
	}
	c.nodes[0].start(nil)
	if c.nodes[0].store.vouched.Load() {
		t.Error("vouched for by nobody")
	}
	for _, n := range c.nodes[1:] {
		n.start(nil)
	}
	c.waitReady()
	for _, n := range c.nodes {
		c.waitFor("the start of "+n.name+" to be known", func() bool {
			rec, err := c.nodes[0].store.DB().Node(n.id[:])
			return err == nil && rec.GetBootCounter() == n.store.boot
		})
	}
	if _, err := c.nodes[2].lookup("alice"); err != nil {
		t.Error(err)
	}
}

// A member that lags does not know of the last start: its word is not taken while another may know better.
func TestLaggingMemberDoesNotVouchAlone(t *testing.T) {
	var died deaths
	var wait atomic.Int64 // for those that do not answer
	wait.Store(int64(100 * time.Millisecond))
	c := newCluster(t, 3, func(cfg *Config) {
		cfg.Timing.VouchWait = time.Duration(wait.Load())
		if cfg.Self.GetName() == "n1" {
			cfg.Fatal = died.note
		}
	})
	c.waitReady()
	n1, n2, n3 := c.nodes[0], c.nodes[1], c.nodes[2]
	n1.stop()
	old := filepath.Join(t.TempDir(), "copy")
	if err := os.CopyFS(old, os.DirFS(n1.dir)); err != nil {
		t.Fatal(err)
	}
	n3.stop()
	n1.start(nil)
	c.waitFor("the start of n1 to be known", func() bool {
		rec, err := n2.store.DB().Node(n1.id[:])
		return err == nil && rec.GetBootCounter() == n1.store.boot
	})
	n1.kill()
	n2.kill()

	n1.dir = old
	wait.Store(int64(2 * patience))
	n3.start(nil)
	n1.start(nil)
	c.waitFor("an answer of n3", func() bool { return len(n1.store.askAll(t.Context())) > 0 })
	if vouched, err := n1.store.judge(n1.store.askAll(t.Context()), n1.store.boot-1); vouched || err != nil || n1.store.vouched.Load() {
		t.Errorf("vouched for by a member that lags: %v, %v", vouched, err)
	}
	n2.start(nil)
	c.waitFor("its end", func() bool { return oldCopySaid(died.last()) })
	if n1.store.vouched.Load() {
		t.Error("it votes")
	}
}

// A start that stands in the log is known before it is applied.
func TestStartsInTheLogAreKnown(t *testing.T) {
	c := newCluster(t, 1, nil)
	n := c.nodes[0]
	rec, err := n.store.db.Node(n.id[:])
	if err != nil {
		t.Fatal(err)
	}
	rec.BootCounter += 7
	put := &statev1.Command{Op: &statev1.Command_PutNode{PutNode: &statev1.PutNode{Node: rec}}}
	for what, cmd := range map[string]*statev1.Command{
		"alone":      put,
		"in a batch": {Op: &statev1.Command_Batch{Batch: &statev1.Batch{Commands: []*statev1.Command{create(c.principal("x", 1)), put}}}},
	} {
		if got := startsIn(cmd, n.id); got != rec.GetBootCounter() {
			t.Errorf("%s: %d, want %d", what, got, rec.GetBootCounter())
		}
	}
	if got := startsIn(put, peer.NodeID{9}); got != 0 {
		t.Errorf("another node's: %d", got)
	}
	n.propose(create(c.principal("y", 1)))
	before := n.store.knownStarts(n.id)
	data, err := realm.EncodeEnvelope(put, 1)
	if err != nil {
		t.Fatal(err)
	}
	n.kill()
	c.nodes = nil
	d, err := openDisk(n.dir)
	if err != nil {
		t.Fatal(err)
	}
	last, err := d.realm.LastIndex()
	if err != nil {
		t.Fatal(err)
	}
	if err := d.realm.StoreLog(&raft.Log{Index: last + 1, Term: 1, Type: raft.LogCommand, Data: data}); err != nil {
		t.Fatal(err)
	}
	if err := d.close(); err != nil {
		t.Fatal(err)
	}
	s, err := Open(n.config(nil))
	if err != nil {
		t.Fatal(err)
	}
	if got := s.knownStarts(n.id); got != rec.GetBootCounter() || before >= got {
		t.Errorf("%d starts are known, want %d; before it was %d", got, rec.GetBootCounter(), before)
	}
	if err := s.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
}

// A change that was decided by an old view of the servers is refused by raft.
func TestMembershipChangesAreGuarded(t *testing.T) {
	c := newCluster(t, 3, nil)
	c.waitReady()
	l := c.waitLeader()
	for _, g := range []*group{l.store.realm, l.store.replay} {
		if g.raft.State() != raft.Leader {
			continue
		}
		servers, index, err := g.settled(t.Context())
		if err != nil || index == 0 || len(servers) != 3 {
			t.Fatalf("%s: %v %d %v", g.name, servers, index, err)
		}
		i := 0
		for servers[i].ID == g.id {
			i++
		}
		if err := g.raft.AddVoter(servers[i].ID, servers[i].Address, index, 0).Error(); err != nil {
			t.Fatal(err)
		}
		if err := g.raft.RemoveServer(servers[i].ID, index, 0).Error(); err == nil {
			t.Errorf("%s: removed a server by an old view", g.name)
		}
		c.waitFor("the next index", func() bool { _, now := g.servers(); return now > index })
	}
}

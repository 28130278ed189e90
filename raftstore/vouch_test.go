package raftstore

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/hashicorp/raft"
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

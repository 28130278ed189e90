package raftstore

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/charon-kdc/charon/kdc/kdb"
	"github.com/charon-kdc/charon/raftstore/peer"
)

// A change is acknowledged within about a lease even if a member is cut off, and from then on that member is not fresh.
func TestAcknowledgedPastAPartitionedMember(t *testing.T) {
	c := newCluster(t, 3, nil)
	c.waitReady()
	f := c.follower()
	f.cut()
	l := c.waitLeader()
	r := l.propose(create(c.principal("alice", 1)))
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	begun := time.Now()
	late, err := l.store.WaitAllApplied(ctx, r.GetIndex())
	took := time.Since(begun)
	if err != nil || len(late) == 0 || late[0].ID != f.id {
		t.Fatalf("late: %v, %v", late, err)
	}
	if f.store.KDB().Fresh() {
		t.Error("acknowledged while a member that has not applied it is fresh")
	}
	if took > 5*time.Second {
		t.Errorf("acknowledged after %v", took)
	}
	// By now the leader knows that the member's lease is over: the next change does not wait for it, and need not.
	if end := l.store.leaseEnd(l.store.grants.last(f.id)); time.Now().Before(end) {
		t.Errorf("the leader believes in the lease of a member that is away, until %v", end)
	}
	r = l.propose(create(c.principal("carol", 1)))
	if late, err := l.store.WaitAllApplied(ctx, r.GetIndex()); err != nil || len(late) == 0 || late[0].ID != f.id {
		t.Fatalf("late: %v, %v", late, err)
	}
	if f.store.KDB().Fresh() {
		t.Error("acknowledged while a member that has not applied it is fresh")
	}
	f.heal()
	c.waitReady()
	if _, err := f.lookup("alice"); err != nil {
		t.Error(err)
	}
}

// A leader that is cut off stops leading, proves nothing and grants nothing; the others go on without it.
func TestPartitionedLeader(t *testing.T) {
	c := newCluster(t, 3, nil)
	c.waitReady()
	l := c.waitLeader()
	l.cut()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c.waitFor("it steps down", func() bool { return !l.store.IsLeader() })
	var na *NotAppliedError
	if err := l.store.VerifyLeader(ctx); !errors.As(err, &na) {
		t.Errorf("it verified its leadership: %v", err)
	}
	c.waitFor("its lease runs out", func() bool { return !l.store.KDB().Fresh() })
	c.waitFor("another leader", func() bool { return c.leader() != nil })
	c.waitLeader().propose(create(c.principal("bob", 1)))
	if l.store.KDB().Fresh() {
		t.Error("the former leader is fresh without what the others acknowledged")
	}
	l.heal()
	c.waitReady()
	if _, err := l.lookup("bob"); err != nil {
		t.Error(err)
	}
}

// Nodes are killed under load while three different requests with one authenticator are presented at three nodes: none is
// accepted twice, and the cluster goes on accepting.
func TestAcceptedOnceUnderKills(t *testing.T) {
	c := newCluster(t, 3, nil)
	c.waitReady()
	var granted, next atomic.Int64
	stop := make(chan struct{})
	var stores sync.RWMutex // nodes come and go
	ask := func(n *testNode, proof, request string) bool {
		stores.RLock()
		s := n.store
		stores.RUnlock()
		if s == nil {
			return false
		}
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		p := kdb.Proof{Ciphertext: []byte(proof), Request: []byte(request), Time: c.ctime}
		v, err := s.Proofs().Submit(p).Wait(ctx)
		return err == nil && accepted(v)
	}
	var load sync.WaitGroup
	for range 8 {
		load.Add(1)
		go func() {
			defer load.Done()
			for {
				select {
				case <-stop:
					return
				default:
				}
				proof := fmt.Sprintf("authenticator %d", next.Add(1))
				var times atomic.Int64
				var wg sync.WaitGroup
				for _, n := range c.nodes {
					wg.Add(1)
					go func() {
						defer wg.Done()
						if ask(n, proof, "request to "+n.name) {
							times.Add(1)
						}
					}()
				}
				wg.Wait()
				if n := times.Load(); n > 1 {
					t.Errorf("%s: accepted in %d different requests", proof, n)
				}
				granted.Add(times.Load())
			}
		}()
	}
	for i := range 3 {
		before := granted.Load()
		n := c.nodes[i]
		if l := c.leader(); l != nil {
			n = l
		}
		stores.Lock()
		s := n.store
		n.store = nil
		stores.Unlock()
		s.closing.Do(func() { s.stopErr = s.stop() })
		c.waitFor("accepting with a node dead", func() bool { return granted.Load() > before+20 })
		dead := n
		revived := &testNode{c: c, name: dead.name, dir: dead.dir, addr: dead.addr, id: dead.id}
		revived.start(nil)
		stores.Lock()
		dead.store = revived.store
		stores.Unlock()
		c.waitFor(n.name+" back", n.ready)
	}
	close(stop)
	load.Wait()
	t.Logf("%d authenticators, %d accepted", next.Load(), granted.Load())
}

// A node that was away while others were replaced learns of the new members from one that it knows.
func TestLearnedMembers(t *testing.T) {
	c := newCluster(t, 1, nil)
	m := c.nodes[0].store.members
	stranger := peer.NodeID{0x55}
	_, index := c.nodes[0].store.configured()
	if m.allowed(stranger) {
		t.Fatal("a stranger is a member")
	}
	if told := c.nodes[0].store.info(stranger).GetConfigurationIndex(); index == 0 || told != index {
		t.Errorf("configuration at index %d, told as %d: nobody learns from it", index, told)
	}
	m.learn(index, map[peer.NodeID]string{stranger: "127.0.0.1:1"})
	if m.allowed(stranger) {
		t.Error("learned from a configuration that is no newer than ours")
	}
	m.learn(index+1, map[peer.NodeID]string{stranger: "127.0.0.1:1"})
	if !m.allowed(stranger) || m.all()[stranger] != "127.0.0.1:1" {
		t.Error("a newer configuration was not learned")
	}
}

// A question for a lease is known to the leader before it is answered, and a new leader answers for the grants of those before it.
func TestGrants(t *testing.T) {
	var g grants
	begin := time.Now()
	a, b := peer.NodeID{1}, peer.NodeID{2}
	g.lead(begin)
	g.note(a, begin.Add(time.Second))
	if got := g.last(a); !got.Equal(begin.Add(time.Second)) {
		t.Errorf("a asked at %v", got)
	}
	if got := g.last(b); !got.Equal(begin) {
		t.Errorf("b, which never asked, counts from %v, want the begin of the term: an earlier leader may have granted until then", got)
	}
	g.lead(begin.Add(time.Minute))
	if got := g.last(a); !got.Equal(begin.Add(time.Minute)) {
		t.Errorf("in another term a counts from %v, want its begin", got)
	}
}

package raftstore

import (
	"sync/atomic"
	"testing"
	"time"

	statev1 "github.com/charon-kdc/charon/proto/charon/state/v1"
	"github.com/charon-kdc/charon/raftstore/peer"
)

func TestDeadVoter(t *testing.T) {
	const day = 24 * time.Hour
	// voters by silence; the first is the leader.
	voters := func(silent ...time.Duration) (out []ballotMember) {
		for i, d := range silent {
			out = append(out, ballotMember{id: peer.NodeID{byte(i + 1)}, self: i == 0, silence: d})
		}
		return out
	}
	for _, c := range []struct {
		what   string
		voters []ballotMember
		after  time.Duration
		keep   int
		want   byte // 0: none
	}{
		{"replaced", voters(0, 0, 0, 2*day), day, 3, 4},
		{"off", voters(0, 0, 0, 2*day), 0, 0, 0},
		{"not replaced", voters(0, 0, 2*day), day, 3, 0},
		{"not replaced, of five", voters(0, 0, 0, 0, 2*day), day, 5, 0},
		{"of five, where three will do", voters(0, 0, 0, 0, 2*day), day, 3, 5},
		{"never below three", voters(0, 0, 2*day), day, 1, 0},
		{"not yet", voters(0, 0, 0, day-1), day, 3, 0},
		{"the longest dead first", voters(0, 0, 0, 0, 2*day, 3*day, 0), day, 3, 6},
		{"half are dead", voters(0, 0, 2*day, 2*day), day, 3, 0},
		{"a majority is dead", voters(0, 0, 2*day, 2*day, 2*day), day, 3, 0},
		{"half are silent, one of them for long", voters(0, 0, time.Minute, 2*day), day, 3, 0},
		{"not itself", voters(2*day, 0, 0, 0), day, 3, 0},
		{"nobody", nil, day, 3, 0},
	} {
		id, ok := deadVoter(c.voters, c.after, c.keep)
		if ok != (c.want != 0) || id[0] != c.want {
			t.Errorf("%s: %v %v, want %d", c.what, id, ok, c.want)
		}
	}
}

// A dead node goes by itself only when that is allowed and another votes in its place.
func TestDeadNodeIsRemoved(t *testing.T) {
	var removed atomic.Int32
	c := newCluster(t, 3, func(cfg *Config) {
		cfg.Observe.NodeRemoved = func(n NodeRef, after time.Duration, err error) {
			if err != nil || after != time.Minute {
				t.Errorf("%v after %v: %v", n, after, err)
			}
			removed.Add(1)
		}
	})
	c.waitReady()
	dead := c.follower()
	dead.kill()
	// As if nobody had heard of it for long.
	silence := func() {
		for _, n := range c.nodes {
			if n.store != nil {
				n.store.where.mu.Lock()
				n.store.where.heard[dead.id] = time.Now().Add(-time.Hour)
				n.store.where.mu.Unlock()
			}
		}
	}
	silence()
	l := c.waitLeader()
	l.propose(&statev1.Command{Op: &statev1.Command_SetAutoRemoval{SetAutoRemoval: &statev1.SetAutoRemoval{After: 60, Voters: 3}}})
	l.store.removeDead(t.Context())
	if removed.Load() != 0 {
		t.Fatal("removed though nobody votes in its place")
	}
	live := c.nodes
	c.nodes = nil
	for _, n := range live {
		if n != dead {
			c.nodes = append(c.nodes, n)
		}
	}
	n4 := c.newNode("n4")
	c.join(n4)
	c.waitFor("the dead node to go", func() bool {
		silence() // n4 has not been up for long
		servers, _ := c.waitLeader().store.realm.servers()
		replays, _ := c.waitLeader().store.replay.servers()
		return !has(servers, serverID(dead.id)) && len(servers) == 3 && len(replays) == 3
	})
	c.waitFor("it to be told", func() bool { return removed.Load() == 1 })
	c.waitReady()
	n4.propose(create(c.principal("alice", 1)))
}

// What another member has heard counts: only this node's connection is broken.
func TestHearsayKeepsANode(t *testing.T) {
	c := newCluster(t, 3, nil)
	c.waitReady()
	l, f := c.waitLeader(), c.follower()
	l.store.where.mu.Lock()
	l.store.where.heard[f.id] = time.Now().Add(-time.Hour)
	l.store.where.mu.Unlock()
	voters := []ballotMember{{id: l.id, self: true}}
	for _, n := range c.nodes {
		if n != l {
			voters = append(voters, ballotMember{id: n.id, silence: time.Hour})
		}
	}
	for _, v := range l.store.hearsay(t.Context(), voters) {
		if v.silence > silentAfter {
			t.Errorf("%v: %v", v.id, v.silence)
		}
	}
}

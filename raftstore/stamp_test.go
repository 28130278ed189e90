package raftstore

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/charon-kdc/charon/kdc/kdb"
)

// A leader whose clock went back stamps the log's time, not its own: else proofs of the present would look to be of the future.
func TestStampIsNotBeforeTheLog(t *testing.T) {
	var ahead atomic.Int64
	ahead.Store(int64(30 * time.Minute))
	c := newCluster(t, 1, func(cfg *Config) {
		cfg.Now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	})
	n := c.nodes[0]
	c.ctime = time.Now().Add(30 * time.Minute)
	if v := n.verdict("before", "r"); v != kdb.Fresh {
		t.Fatal(v)
	}
	n.propose(create(c.principal("before", 1)))
	ahead.Store(0)
	if v := n.verdict("after", "r"); v != kdb.Fresh {
		t.Errorf("the clock went back half an hour, the log did not: %v", v)
	}
	if at := n.store.replayStamp(); at < n.store.state.Now() {
		t.Errorf("stamp %d is before the replay log's time %d", at, n.store.state.Now())
	}
	if at := n.store.realmStamp(); at < n.store.db.Now() {
		t.Errorf("stamp %d is before the realm log's time %d", at, n.store.db.Now())
	}
}

// Without a request for minutes, old proofs go all the same: an idle leader writes an empty entry now and then.
func TestIdleLeaderMovesTime(t *testing.T) {
	c := newCluster(t, 1, func(cfg *Config) { cfg.Timing.IdleBatch = 100 * time.Millisecond })
	n := c.nodes[0]
	if v := n.verdict("one", "r"); v != kdb.Fresh {
		t.Fatal(v)
	}
	before := n.store.state.Now()
	c.waitFor("time to move by three idle batches", func() bool { return n.store.state.Now() >= before+300 })
	if st := n.store.state.Stats(); st.Items != 1 {
		t.Errorf("idle batches left %d proofs, want the one", st.Items)
	}
}

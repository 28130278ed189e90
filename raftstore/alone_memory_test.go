package raftstore

import (
	"bytes"
	"errors"
	"io"
	"path/filepath"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/charon-kdc/charon/kdc/kdb"
	"github.com/charon-kdc/charon/raftstore/replay"
)

// A node that is back takes no second request with an authenticator that it accepted alone, also before the log has heard of that one.
func TestAcceptedAloneHoldsBeforeTheMerge(t *testing.T) {
	c := newCluster(t, 3, func(cfg *Config) { cfg.Timing.CutOff = time.Second })
	c.waitReady()
	f := c.follower()
	f.cut()
	c.waitCutOff(f)
	f.wantTGS("alone", "first", kdb.Unconfirmed)
	h := f.store.heard
	h.mu.Lock()
	h.underway = 1 // the merge does not come on
	h.mu.Unlock()
	f.heal()
	c.waitFor("verdicts", func() bool { return f.store.proofs.stateName() == stateNames[stateReady] })
	f.wantTGS("alone", "other", kdb.Repeat)
	if v, err := f.tgs("alone", "first"); err != nil || !accepted(v) {
		t.Errorf("the same request again: %d, %v", v, err)
	}
	h.mu.Lock()
	h.underway = 0
	h.mu.Unlock()
	c.waitFor("the merge", func() bool { return h.journal.left() == 0 })
}

// starting is the memory of a process that starts with these entries in its log, this snapshot if not nil, and this journal.
func starting(t *testing.T, journal string, snapshot *replay.State, entries ...[]byte) *heard {
	t.Helper()
	log, snaps := raft.NewInmemStore(), raft.NewInmemSnapshotStore()
	index := uint64(0)
	applied := replay.New()
	if snapshot != nil {
		index = 100
		sink, err := snaps.Create(raft.SnapshotVersionMax, index, 1, raft.Configuration{}, 1, nil)
		if err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer
		if _, err := snapshot.Snapshot().WriteTo(io.MultiWriter(sink, &b)); err != nil {
			t.Fatal(err)
		}
		if err := sink.Close(); err != nil {
			t.Fatal(err)
		}
		defer func() { // raft does so when it starts
			if err := applied.Restore(&b); err != nil {
				t.Fatal(err)
			}
		}()
	}
	for _, e := range entries {
		index++
		if err := log.StoreLog(&raft.Log{Index: index, Term: 1, Type: raft.LogCommand, Data: e}); err != nil {
			t.Fatal(err)
		}
	}
	h := newHeard(applied, newWatermark(0))
	if err := h.tail(log, snaps); err != nil {
		t.Fatal(err)
	}
	var err error
	if h.journal, _, err = openJournal(journal, [16]byte{1}, Disk{}, h.remember); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.journal.close() })
	return h
}

// batch is an entry of the replay log.
func batch(t *testing.T, at int64, proofs []replay.Proof, attempts []replay.Attempt) []byte {
	t.Helper()
	b, err := replay.EncodeBatch(at, proofs, attempts)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// What is answered because the end of the node's own log has it is journalled: that end may never be committed.
func TestTailIsJournalledWhenAnswered(t *testing.T) {
	now := time.Now().UnixMilli()
	p := replay.Proof{K: [16]byte{1}, R: [8]byte{1}, CTime: now / 1000}
	g := replay.Attempt{Proof: replay.Proof{K: [16]byte{2}, R: [8]byte{2}, CTime: now / 1000}, Principal: [16]byte{9}, Failed: true}
	path := filepath.Join(t.TempDir(), journalFile)
	h := starting(t, path, nil, batch(t, now, []replay.Proof{p}, []replay.Attempt{g}))
	for range 2 {
		if v, _ := h.accept(p, false, now); v != replay.Same {
			t.Fatal(v)
		}
		if v, _ := h.count(item{Attempt: g, attempt: true}, false, now); v != replay.Same {
			t.Fatal(v)
		}
		if got := h.journal.left(); got != 2 {
			t.Errorf("%d journalled, want the authenticator and the guess, once each", got)
		}
	}
	h = starting(t, path, nil, batch(t, now, []replay.Proof{p}, []replay.Attempt{g}))
	h.accept(p, false, now)
	h.count(item{Attempt: g, attempt: true}, false, now)
	if got, failures := h.journal.left(), h.activity(g.Principal).Failures; got != 2 || failures != 1 {
		t.Errorf("the next process: %d journalled, %d failures", got, failures)
	}
}

// Guesses of the journal come on top of those of a snapshot with nothing behind it.
func TestJournalOnTopOfASnapshot(t *testing.T) {
	now := time.Now().UnixMilli()
	id := [16]byte{9}
	before := replay.New()
	var attempts []replay.Attempt
	for i := range 3 {
		attempts = append(attempts, replay.Attempt{Proof: replay.Proof{K: [16]byte{1, byte(i)}, CTime: now / 1000}, Principal: id, Failed: true})
	}
	if _, err := before.Apply(batch(t, now, nil, attempts)); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), journalFile)
	h := starting(t, path, before)
	for i := range 2 {
		g := replay.Attempt{Proof: replay.Proof{K: [16]byte{2, byte(i)}, CTime: now / 1000}, Principal: id, Failed: true}
		h.count(item{Attempt: g, attempt: true}, false, now)
	}
	if got := h.activity(id).Failures; got != 5 {
		t.Fatalf("%d failures", got)
	}
	if got := starting(t, path, before).activity(id).Failures; got != 5 {
		t.Errorf("%d failures after a restart, want 5", got)
	}
}

// What the log has taken of the journal is remembered by a node that was cut off again before it heard so, also after a restart.
func TestDecidedIsRememberedUntilApplied(t *testing.T) {
	now := time.Now().UnixMilli()
	p := replay.Proof{K: [16]byte{1}, R: [8]byte{1}, CTime: now / 1000}
	other := p
	other.R = [8]byte{2}
	path := filepath.Join(t.TempDir(), journalFile)
	h := starting(t, path, nil)
	h.accept(p, false, now)
	if b, err := h.resubmit(9, now); err != nil || len(b) != 1 {
		t.Fatal(b, err)
	}
	h.decided(1, 50)
	for range 2 {
		if err := h.settle(true, now); err != nil {
			t.Fatal(err)
		}
		if v, _ := h.accept(other, false, now); v != replay.Repeat {
			t.Errorf("another request: %v, want REPEAT", v)
		}
		if h.journal.left() != 0 {
			t.Error("it is journalled again")
		}
		h = starting(t, path, nil)
	}
	h.counted.advance(50)
	if err := h.settle(false, now); err != nil || h.view.Load() != nil {
		t.Error("it is kept for ever", err)
	}
}

// A machine that slept for longer than the limit, cut off, is too old when it wakes, though its monotonic clock stood still.
func TestStaleLimitCountsSleep(t *testing.T) {
	var clock shifted
	c := newCluster(t, 3, func(cfg *Config) {
		cfg.Now, cfg.Timing.CutOff, cfg.StaleLimit = clock.now, time.Second, time.Hour
	})
	c.waitReady()
	n := c.nodes[0]
	n.propose(create(c.principal("alice", 1)))
	c.nodes[1].kill()
	c.nodes[2].kill()
	c.waitCutOff(n)
	if _, err := n.store.KDB().Principal(testRealm, krbName("alice")); err != nil {
		t.Fatal(err)
	}
	clock.pass(2 * time.Hour)
	if _, err := n.store.KDB().Principal(testRealm, krbName("alice")); !errors.Is(err, kdb.ErrStale) {
		t.Errorf("after two hours of sleep: %v", err)
	}
	if state, reason := n.store.Service(); state != ServiceRefusing {
		t.Errorf("%s: %s", state, reason)
	}
}

// What the log has forgotten is no fresh authenticator for a node that answers at once, whatever its clock says.
func TestAsyncKeepsToTheLogsTime(t *testing.T) {
	c := newCluster(t, 1, func(cfg *Config) { cfg.AsyncReplay = true })
	c.waitReady()
	n := c.nodes[0]
	n.wantTGS("now", "first", kdb.Unconfirmed)
	c.waitFor("the log's time", func() bool { return n.store.state.Now() > 0 })
	c.ctime = time.UnixMilli(n.store.state.Now()).Add(-replay.SkewDefault - replay.Slack - time.Minute)
	n.wantTGS("old", "first", kdb.Stale)
}

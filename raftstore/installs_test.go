package raftstore

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/charon-kdc/charon/raftstore/logstore"
)

// A replay log that ends before the node's own snapshot was taken away or put back from a copy: the node has forgotten what it acknowledged.
func TestReplayLogBehindItsSnapshot(t *testing.T) {
	c := newCluster(t, 1, nil)
	n := c.nodes[0]
	for i := range 8 {
		n.verdict(fmt.Sprint("p", i), "r")
	}
	if err := n.store.replay.await(t.Context(), func() raft.Future { return n.store.replay.raft.Snapshot() }); err != nil {
		t.Fatal(err)
	}
	n.stop()
	n.start(nil) // with its log whole
	c.waitFor("ready", n.ready)
	n.stop()

	log, err := logstore.Open(filepath.Join(n.dir, replayGroup, logFile), logstore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	last, err := log.LastIndex()
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(log.DeleteRange(4, last), log.Close()); err != nil {
		t.Fatal(err)
	}
	s, err := Open(n.config(nil))
	if err == nil {
		_ = s.Shutdown(t.Context())
	}
	if !errors.Is(err, ErrBroken) || !strings.Contains(err.Error(), "the log ends at 3") {
		t.Errorf("opened with a log that ends before the snapshot: %v", err)
	}
}

// Only a snapshot that the log does not lead up to is noted as sent by a leader.
func TestReceivedSnapshotsAreNoted(t *testing.T) {
	dir := t.TempDir()
	log, err := logstore.Open(filepath.Join(dir, "log"), logstore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	for i := uint64(1); i <= 5; i++ {
		if err := log.StoreLog(&raft.Log{Index: i, Term: 2}); err != nil {
			t.Fatal(err)
		}
	}
	_, trans := raft.NewInmemTransport("")
	r := &receivedSnapshots{raft.NewInmemSnapshotStore(), log, dir, Disk{}, func() {}}
	for _, x := range []struct{ index, term, noted uint64 }{{5, 2, 0}, {3, 2, 0}, {9, 2, 9}, {4, 3, 4}} {
		if _, err := r.Create(1, x.index, x.term, raft.Configuration{}, 1, trans); err != nil {
			t.Fatal(err)
		}
		got, err := readCount(filepath.Join(dir, installFile))
		if err != nil || got != x.noted {
			t.Errorf("snapshot at %d of term %d: noted %d, %v; want %d", x.index, x.term, got, err, x.noted)
		}
	}
}

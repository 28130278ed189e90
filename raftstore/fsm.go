package raftstore

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	statev1 "github.com/charon-kdc/charon/proto/charon/state/v1"
	"github.com/charon-kdc/charon/raftstore/realm"
	"github.com/charon-kdc/charon/raftstore/replay"
	"github.com/charon-kdc/charon/raftstore/setsum"
)

// errStopped answers entries that come after one that could not be applied: nothing is ever skipped.
var errStopped = errors.New("state machine has stopped")

// realmFSM hands entries to the realm state.
type realmFSM struct {
	db        *realm.DB
	fatal     func(error)
	applied   *watermark
	configs   func() // after a membership entry was applied
	installed func() // after a snapshot was installed
	dead      atomic.Bool
}

// ApplyBatch answers each entry with a *statev1.Result, or an error after the state machine has stopped.
func (f *realmFSM) ApplyBatch(logs []*raft.Log) []any {
	out := make([]any, len(logs))
	results, err := f.apply(logs)
	for i := range out {
		switch {
		case err != nil:
			out[i] = err
		default:
			out[i] = results[i]
		}
	}
	return out
}

func (f *realmFSM) apply(logs []*raft.Log) ([]*statev1.Result, error) {
	if f.dead.Load() {
		return nil, errStopped
	}
	entries := make([]realm.Entry, len(logs))
	config := false
	for i, l := range logs {
		entries[i] = realm.Entry{Index: l.Index, Term: l.Term, Data: l.Data}
		if l.Type == raft.LogConfiguration {
			entries[i].Data, entries[i].Config = nil, l.Data
			config = true
		}
	}
	results, _, err := f.db.ApplyBatch(entries)
	if err == nil && len(results) != len(logs) {
		err = fmt.Errorf("%d results of %d entries", len(results), len(logs))
	}
	if err != nil {
		f.dead.Store(true)
		f.fatal(fmt.Errorf("applying to the realm state, index %d: %w", logs[0].Index, err))
		return nil, err
	}
	index, _ := f.db.Applied()
	f.applied.advance(index)
	if config {
		f.configs()
	}
	return results, nil
}

// Apply is there for the interface; the library uses ApplyBatch.
func (f *realmFSM) Apply(l *raft.Log) any { return f.ApplyBatch([]*raft.Log{l})[0] }

// Snapshot costs nothing: the state file is the snapshot.
func (f *realmFSM) Snapshot() (raft.FSMSnapshot, error) { return liveSnapshot{}, nil }

// Restore installs what a leader sent.
func (f *realmFSM) Restore(r io.ReadCloser) error {
	defer r.Close()
	if f.dead.Load() {
		return errStopped
	}
	if _, err := f.db.InstallSnapshot(r); err != nil {
		return fmt.Errorf("installing a snapshot of the realm state: %w", err)
	}
	index, _ := f.db.Applied()
	f.applied.advance(index)
	f.installed()
	f.configs()
	return nil
}

type liveSnapshot struct{}

func (liveSnapshot) Persist(sink raft.SnapshotSink) error { return sink.Close() }
func (liveSnapshot) Release()                             {}

// replayFSM hands entries to the replay state.
type replayFSM struct {
	state     *replay.State
	hashes    setsum.History
	levelMax  uint32 // what this node supports
	fatal     func(error)
	applied   *watermark // of the entries that change state: others do not come here
	installed func()
	dir       string // of the file snapshots
	snapshots *receivedSnapshots
	started   atomic.Bool
	dead      atomic.Bool
	conf      atomic.Pointer[indexedConf]

	mu    sync.Mutex // held while the state goes from one entry to another
	index uint64     // of the entry after which the state is
	term  uint64
}

// indexedConf is a configuration that was committed, and its index.
type indexedConf struct {
	index   uint64
	servers []raft.Server
}

// StoreConfiguration is raft.ConfigurationStore: a configuration is committed.
func (f *replayFSM) StoreConfiguration(index uint64, c raft.Configuration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.conf.Store(&indexedConf{index, c.Clone().Servers})
}

func (f *replayFSM) configuration() (uint64, []raft.Server) {
	if c := f.conf.Load(); c != nil {
		return c.index, c.servers
	}
	return 0, nil
}

// Apply answers with []replay.Verdict.
func (f *replayFSM) Apply(l *raft.Log) any {
	if f.dead.Load() {
		return errStopped
	}
	f.mu.Lock()
	var v []replay.Verdict
	err := replay.CheckLevel(l.Data, f.levelMax)
	if err == nil {
		if v, err = f.state.Apply(l.Data); err == nil {
			f.index, f.term = l.Index, l.Term
		}
	}
	f.mu.Unlock()
	if err != nil {
		f.dead.Store(true)
		f.fatal(fmt.Errorf("applying to the replay state, index %d: %w", l.Index, err))
		return err
	}
	f.applied.advance(l.Index)
	if l.Index%replayHashEvery == 0 {
		f.hashes.Add(setsum.Point{Index: l.Index, Hash: f.state.Hash()})
	}
	return v
}

// cut is the state as it is now, its place in the log, and the configuration there. Nil before the first entry.
func (f *replayFSM) cut() (s *replay.Snapshot, index, term uint64, conf *indexedConf) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if conf = f.conf.Load(); f.index == 0 || conf == nil {
		return nil, 0, 0, nil
	}
	return f.state.Snapshot(), f.index, f.term, conf
}

func (f *replayFSM) Snapshot() (raft.FSMSnapshot, error) {
	return &replaySnapshot{f.state.Snapshot(), f.dir}, nil
}

func (f *replayFSM) Restore(r io.ReadCloser) error {
	defer r.Close()
	f.mu.Lock()
	err := f.state.Restore(r)
	f.index, f.term = 0, 0 // until it is known
	f.mu.Unlock()
	if err != nil {
		return fmt.Errorf("restoring the replay state: %w", err)
	}
	// The snapshot does not say its index. It is the newest: nothing makes another before it is restored.
	list, err := f.snapshots.List()
	if err != nil {
		return fmt.Errorf("restoring the replay state: %w", err)
	}
	if len(list) > 0 {
		f.applied.advance(list[0].Index)
		f.hashes.Reset(setsum.Point{Index: list[0].Index, Hash: f.state.Hash()})
		f.StoreConfiguration(list[0].ConfigurationIndex, list[0].Configuration)
		f.mu.Lock()
		f.index, f.term = list[0].Index, list[0].Term
		f.mu.Unlock()
	}
	if f.started.Load() {
		// The library drops the whole log next, whatever the log had.
		if err := f.snapshots.received(f.applied.get()); err != nil {
			return err
		}
		f.installed()
	}
	return nil
}

// snapshotPace in bytes a second, so that a large snapshot does not delay the log's fsyncs.
const snapshotPace = 32 << 20

type replaySnapshot struct {
	s   *replay.Snapshot
	dir string
}

func (s *replaySnapshot) Persist(sink raft.SnapshotSink) error {
	// The sink hides its file; another handle of it flushes it as well.
	sync := func() error {
		f, err := os.OpenFile(filepath.Join(s.dir, "snapshots", sink.ID()+".tmp", "state.bin"), os.O_RDWR, 0)
		if err != nil {
			return nil // Close syncs in any case; this only spreads the work
		}
		return errors.Join(f.Sync(), f.Close())
	}
	w := replay.Paced(sink, snapshotPace, time.Now, time.Sleep, sync)
	if _, err := s.s.WriteTo(w); err != nil {
		return errors.Join(fmt.Errorf("writing a snapshot of the replay state: %w", err), sink.Cancel())
	}
	return sink.Close()
}

func (s *replaySnapshot) Release() {}

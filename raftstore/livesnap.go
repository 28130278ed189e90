package raftstore

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"

	"github.com/hashicorp/raft"

	"github.com/charon-kdc/charon/raftstore/realm"
)

// liveID names the one snapshot there is: the state file as it is now.
const liveID = "live"

// installID names the stream that a leader is sending or has sent.
const installID = "install"

// liveStore is the realm group's raft.SnapshotStore (DESIGN.md, "The realm state machine"): taking a snapshot writes nothing, opening one
// streams the state file from a single read transaction, and receiving one spools it for realmFSM.Restore.
type liveStore struct {
	db    *realm.DB
	spool string
	begun func() // a leader begins to send

	mu       sync.Mutex
	incoming *raft.SnapshotMeta // complete in the spool
}

func newLiveStore(db *realm.DB, dir string, begun func()) (*liveStore, error) {
	s := &liveStore{db: db, spool: filepath.Join(dir, "incoming-snapshot"), begun: begun}
	if err := os.Remove(s.spool); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("removing an interrupted snapshot transfer: %w", err)
	}
	return s, nil
}

// Create serves both the local snapshot, into which nothing is ever written, and a leader's stream.
func (s *liveStore) Create(version raft.SnapshotVersion, index, term uint64, c raft.Configuration, ci uint64, _ raft.Transport) (raft.SnapshotSink, error) {
	return &liveSink{store: s, meta: raft.SnapshotMeta{
		Version: version, ID: installID, Index: index, Term: term, Configuration: c, ConfigurationIndex: ci,
	}}, nil
}

// List has the live snapshot once something was applied.
func (s *liveStore) List() ([]*raft.SnapshotMeta, error) {
	index, term := s.db.Applied()
	if index == 0 {
		return nil, nil
	}
	ci, conf := s.db.Configuration()
	return []*raft.SnapshotMeta{liveMeta(index, term, ci, conf)}, nil
}

func liveMeta(index, term, ci uint64, conf []byte) *raft.SnapshotMeta {
	m := &raft.SnapshotMeta{Version: raft.SnapshotVersionMax, ID: liveID, Index: index, Term: term, ConfigurationIndex: ci}
	if len(conf) > 0 {
		m.Configuration = raft.DecodeConfiguration(conf)
	}
	return m
}

// Open takes index, term, configuration and size from the very transaction that it streams from.
func (s *liveStore) Open(id string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	if id == installID {
		return s.openIncoming()
	}
	snap, err := s.db.Snapshot()
	if err != nil {
		return nil, nil, fmt.Errorf("opening the live snapshot: %w", err)
	}
	m := liveMeta(snap.Info.Index, snap.Info.Term, snap.Info.ConfigIndex, snap.Info.Config)
	m.Size = snap.Info.Size
	return m, snap, nil
}

func (s *liveStore) openIncoming() (*raft.SnapshotMeta, io.ReadCloser, error) {
	s.mu.Lock()
	m := s.incoming
	s.incoming = nil
	s.mu.Unlock()
	if m == nil {
		return nil, nil, errors.New("no snapshot was received")
	}
	f, err := os.Open(s.spool)
	if err != nil {
		return nil, nil, fmt.Errorf("opening the received snapshot: %w", err)
	}
	return m, &removing{f}, nil
}

// removing deletes its file when closed.
type removing struct{ *os.File }

func (r *removing) Close() error {
	return errors.Join(r.File.Close(), os.Remove(r.Name()))
}

type liveSink struct {
	store *liveStore
	meta  raft.SnapshotMeta
	file  *os.File
	done  bool
}

func (s *liveSink) ID() string {
	if s.meta.Size == 0 {
		return liveID
	}
	return installID
}

func (s *liveSink) Write(p []byte) (int, error) {
	if s.file == nil {
		s.store.begun()
		f, err := os.OpenFile(s.store.spool, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
		if err != nil {
			return 0, fmt.Errorf("receiving a snapshot: %w", err)
		}
		s.file = f
	}
	n, err := s.file.Write(p)
	s.meta.Size += int64(n)
	return n, err
}

func (s *liveSink) Close() error {
	if s.done || s.file == nil {
		s.done = true
		return nil
	}
	s.done = true
	// No fsync: after a crash the spool is thrown away and the leader sends again.
	if err := s.file.Close(); err != nil {
		return fmt.Errorf("receiving a snapshot: %w", err)
	}
	s.store.mu.Lock()
	defer s.store.mu.Unlock()
	s.store.incoming = &s.meta
	return nil
}

func (s *liveSink) Cancel() error {
	if s.done || s.file == nil {
		s.done = true
		return nil
	}
	s.done = true
	return errors.Join(s.file.Close(), os.Remove(s.store.spool))
}

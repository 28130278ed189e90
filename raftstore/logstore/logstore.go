// Package logstore is the durable log and vote of one Raft group, a bbolt file behind the guards of raftstore/DESIGN.md, "What the library is not trusted with".
//
// It owns the log file and its checksums, the atomicity of votes, and the decision that a disk which fails or stalls ends the process. It
// must not know which group it serves or what entries mean.
package logstore

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/charon-kdc/charon/internal/mutant"
)

const (
	// chunk is how many entries one transaction of a head truncation deletes: appends wait for no more.
	chunk = 512
	// installsMax installs within installsWindow, without an append between them, are a loop.
	installsMax    = 3
	installsWindow = 10 * time.Minute
	// slowAfter is when a write is reported as slow.
	slowAfter = time.Second
)

var (
	keyVoteTerm = []byte("LastVoteTerm")
	keyVoteCand = []byte("LastVoteCand")
	// keyVote holds both: 8 bytes of term, then the candidate.
	keyVote = []byte("CharonVote")
	// errNotFound has the text that the library compares with.
	errNotFound = errors.New("not found")
)

// Options of Open.
type Options struct {
	// MapSize is the address space of the file, in bytes.
	MapSize int
	// StallLimit: a write that takes longer is fatal. 0: 10 s.
	StallLimit time.Duration
	// Fatal is called with what ends the process: a failed or stalled write, or a loop of snapshots. It may return in tests; the
	// error is then returned, too.
	Fatal func(error)
	// Slow, when not nil, is called once for a write that takes more than a second, while it still runs.
	Slow func()
	// Observe, when not nil, is called after each append.
	Observe func(d time.Duration, entries, bytes int)
	// Now is for the loop watchdog. nil: time.Now.
	Now func() time.Time
	// Open opens what is below the guards, at a path; noSync: a write need not be on disk when it returns. nil: a bbolt file with checksums.
	Open func(path string, noSync bool) (Backend, error)
}

// Backend is what Store puts its guards before; tests put faults behind it.
type Backend interface {
	raft.LogStore
	raft.StableStore
	Close() error
}

// Store is a raft.LogStore and raft.StableStore.
type Store struct {
	bolt Backend
	path string
	opts Options

	mu sync.Mutex
	// term of a vote whose candidate is not written yet; 0 when there is none.
	voteTerm uint64
	installs []time.Time
}

// Open opens the log at path, or makes an empty one. It fails after a second when another process has it.
func Open(path string, opts Options) (*Store, error) {
	open := opts.Open
	if open == nil {
		open = func(path string, noSync bool) (Backend, error) { return openFile(path, opts.MapSize, noSync) }
	}
	b, err := open(path, mutant.On(mutant.SkipLogFsync))
	if err != nil {
		return nil, fmt.Errorf("opening raft log %s: %w", path, err)
	}
	return newStore(b, path, opts), nil
}

func newStore(b Backend, path string, opts Options) *Store {
	if opts.StallLimit == 0 {
		opts.StallLimit = 10 * time.Second
	}
	if opts.Now == nil {
		opts.Now = time.Now
	}
	if opts.Fatal == nil {
		opts.Fatal = func(err error) { panic(err) }
	}
	return &Store{bolt: b, path: path, opts: opts}
}

// Close after raft has shut down.
func (s *Store) Close() error { return s.bolt.Close() }

// IsMonotonic makes the library drop the whole log after it installed a snapshot. With the library's default a follower
// whose uncommitted entries conflict with the snapshot would receive it for ever (raft issue 697).
func (s *Store) IsMonotonic() bool { return true }

// FirstIndex of the log; 0 when empty.
func (s *Store) FirstIndex() (uint64, error) { return s.bolt.FirstIndex() }

// LastIndex of the log; 0 when empty.
func (s *Store) LastIndex() (uint64, error) { return s.bolt.LastIndex() }

// GetLog reads one entry; raft.ErrLogNotFound when there is none. A damaged one is fatal: it is neither applied nor sent to anybody.
func (s *Store) GetLog(index uint64, log *raft.Log) error {
	err := s.bolt.GetLog(index, log)
	if errors.Is(err, ErrDamaged) {
		return s.fatal("reading", err)
	}
	return err
}

// Scrub reads the log whole, at most bytesPerSecond of it, while others go on. ErrDamaged, or ctx's error.
func (s *Store) Scrub(ctx context.Context, bytesPerSecond int) error {
	f, ok := s.bolt.(*file)
	if !ok {
		return nil // not on our disk
	}
	return f.scrub(ctx, bytesPerSecond)
}

// StoreLog appends one entry.
func (s *Store) StoreLog(log *raft.Log) error { return s.StoreLogs([]*raft.Log{log}) }

// StoreLogs appends entries, durably.
func (s *Store) StoreLogs(logs []*raft.Log) error {
	start := time.Now()
	if err := s.write("appending to", func() error { return s.bolt.StoreLogs(logs) }); err != nil {
		return err
	}
	s.mu.Lock()
	s.installs = s.installs[:0]
	s.mu.Unlock()
	if s.opts.Observe != nil {
		n := 0
		for _, l := range logs {
			n += len(l.Data)
		}
		s.opts.Observe(time.Since(start), len(logs), n)
	}
	return nil
}

// DeleteRange removes min to max. The head of a log goes in chunks, ascending, each in a transaction of its own: any part of
// that work leaves a valid log. Everything else, a conflicting suffix or the whole log, goes in one.
func (s *Store) DeleteRange(min, max uint64) error {
	first, err := s.bolt.FirstIndex()
	if err != nil {
		return s.fatal("reading", err)
	}
	last, err := s.bolt.LastIndex()
	if err != nil {
		return s.fatal("reading", err)
	}
	if min > first || max >= last {
		return s.write("truncating", func() error { return s.bolt.DeleteRange(min, max) })
	}
	for lo := first; lo <= max; lo += chunk {
		hi := lo + chunk - 1
		if hi > max {
			hi = max
		}
		if err := s.write("truncating", func() error { return s.bolt.DeleteRange(lo, hi) }); err != nil {
			return err
		}
	}
	return nil
}

// Set writes a value. The candidate of a vote is written together with its term.
func (s *Store) Set(key, val []byte) error {
	if !bytes.Equal(key, keyVoteCand) {
		return s.write("writing", func() error { return s.bolt.Set(key, val) })
	}
	if mutant.On(mutant.TornVote) {
		return s.write("voting in", func() error { return s.bolt.Set(key, val) })
	}
	s.mu.Lock()
	term := s.voteTerm
	s.voteTerm = 0
	s.mu.Unlock()
	if term == 0 {
		return s.fatal("voting in", errors.New("candidate without a term"))
	}
	rec := append(binary.BigEndian.AppendUint64(nil, term), val...)
	return s.write("voting in", func() error { return s.bolt.Set(keyVote, rec) })
}

// Get reads a value; "not found" when there is none.
func (s *Store) Get(key []byte) ([]byte, error) {
	if !bytes.Equal(key, keyVoteCand) || mutant.On(mutant.TornVote) {
		return s.bolt.Get(key)
	}
	_, cand, err := s.vote()
	return cand, err
}

// SetUint64 writes a number. The term of a vote is only held until its candidate comes: written on its own, as the library
// does, a crash between the two would pair the new term with the former candidate, who could then be voted for again
// without a look at its log (raft issue 661).
func (s *Store) SetUint64(key []byte, val uint64) error {
	if !bytes.Equal(key, keyVoteTerm) || mutant.On(mutant.TornVote) {
		return s.write("writing", func() error { return s.bolt.SetUint64(key, val) })
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.voteTerm = val
	return nil
}

// GetUint64 reads a number; "not found" when there is none.
func (s *Store) GetUint64(key []byte) (uint64, error) {
	if !bytes.Equal(key, keyVoteTerm) || mutant.On(mutant.TornVote) {
		return s.bolt.GetUint64(key)
	}
	term, _, err := s.vote()
	return term, err
}

func (s *Store) vote() (uint64, []byte, error) {
	rec, err := s.bolt.Get(keyVote)
	if err != nil {
		return 0, nil, err
	}
	if len(rec) < 8 {
		return 0, nil, fmt.Errorf("raft log %s: vote record of %d bytes", s.path, len(rec))
	}
	return binary.BigEndian.Uint64(rec), rec[8:], nil
}

// Reconcile finishes, before raft starts, what a crash after the installation of a snapshot (index, term) left undone: a log
// that does not continue the snapshot is dropped whole. It reports whether it did.
func (s *Store) Reconcile(index, term uint64) (bool, error) {
	if index == 0 {
		return false, nil
	}
	first, err := s.bolt.FirstIndex()
	if err != nil {
		return false, err
	}
	last, err := s.bolt.LastIndex()
	if err != nil || last == 0 {
		return false, err
	}
	usable := first <= index+1 && last >= index
	if usable && first <= index {
		var l raft.Log
		if err := s.bolt.GetLog(index, &l); err != nil {
			return false, fmt.Errorf("raft log %s, entry %d: %w", s.path, index, err)
		}
		usable = l.Term == term
	}
	if usable {
		return false, nil
	}
	return true, s.write("truncating", func() error { return s.bolt.DeleteRange(first, last) })
}

// Fresh tells whether the log is as it was made: no entry, no term, no vote.
func (s *Store) Fresh() (bool, error) {
	last, err := s.bolt.LastIndex()
	if err != nil || last > 0 {
		return false, err
	}
	term, err := s.bolt.GetUint64([]byte("CurrentTerm"))
	if err != nil && err.Error() != errNotFound.Error() {
		return false, err
	}
	return term == 0, nil
}

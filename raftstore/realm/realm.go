// Package realm is the replicated realm state: principals, policies, realms, nodes, tokens, roles, secrets and the
// outcomes of request ids, in one bbolt file that commands from the log change and everybody else reads.
//
// It owns the file, the format of its records, the envelope of a command in the log and the snapshot stream
// (raftstore/DESIGN.md, "The realm state machine"). It is deterministic: two files that have applied the same entries hold the same
// records, so it must not know a clock, randomness, Raft, keys in clear or the network. Time is the leader's stamp inside the entry.
package realm

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/bbolt"

	"github.com/charon-kdc/charon/internal/mutant"
	"github.com/charon-kdc/charon/raftstore/pages"
	"github.com/charon-kdc/charon/raftstore/setsum"
)

var (
	// ErrNotFound is a reader's answer for a record that is not there.
	ErrNotFound = errors.New("not in the realm state")
	// ErrCorrupt says that a record, an envelope or a stream does not pass its checks. The caller stops the process, or
	// refuses the snapshot.
	ErrCorrupt = errors.New("corrupt realm state")
	// ErrTooNew says that bytes were written by a release that this one can't follow. The caller stops the process.
	ErrTooNew = errors.New("realm state of a newer release")
	// ErrTooOld says that the cluster is at a feature level that this release does not know any more. The caller stops the process.
	ErrTooOld = errors.New("realm state of an older release")
	// ErrClosed says that the DB was closed.
	ErrClosed = errors.New("realm state is closed")
)

// Options of Open. The zero value is right for a server.
type Options struct {
	// MmapSize is the address space for the file, in bytes; zero means 64 GiB. It is raised to four times the file where
	// that is more: a map that must grow would make every reader wait for the longest one.
	MmapSize int
	// NoSync leaves out fsync. For tests that are not about crashes.
	NoSync bool
	// FeatureLevelMax holds the node back to a lower feature level than the release's. For tests of mixed clusters. 0: FeatureLevelMax.
	FeatureLevelMax uint32
	// Commit, when not nil, runs every transaction that writes, so that a test may cut the power within: path is the file, noSync tells
	// that it need not be on disk when commit returns. bbolt itself then leaves out fsync.
	Commit func(path string, noSync bool, commit func() error) error
	// Damaged, when not nil, is called with every damage of the file that reading it shows after Open. The caller ends the process: what
	// was read is not handed out, but what else is wrong nobody knows.
	Damaged func(error)
	// Sync flushes a file or a directory that was renamed into place. nil: (*os.File).Sync.
	Sync func(*os.File) error
}

// update runs one transaction that writes to b, whose file is now at path.
func (o *Options) update(b *bbolt.DB, path string, noSync bool, f func(*bbolt.Tx) error) error {
	noSync = noSync || o.NoSync || mutant.On(mutant.SkipStateFsync)
	if o.Commit == nil {
		return b.Update(f)
	}
	return o.Commit(path, noSync, func() error { return b.Update(f) })
}

// noSync is what bbolt is told.
func (o *Options) noSync() bool {
	return o.NoSync || o.Commit != nil || mutant.On(mutant.SkipStateFsync)
}

func (o *Options) sync(f *os.File) error {
	if o.Sync != nil {
		return o.Sync(f)
	}
	return f.Sync()
}

const mmapSizeDefault = 64 << 30

// DB is one open state file. Reads may come from any goroutine; ApplyBatch and InstallSnapshot from one at a time.
type DB struct {
	path string
	opts Options

	write   sync.Mutex // held by ApplyBatch, InstallSnapshot and Close
	mu      sync.RWMutex
	file    *file // nil once closed; guarded by mu
	closing sync.WaitGroup

	applied atomic.Pointer[state]
	hashes  setsum.History

	subscribersMu sync.Mutex
	subscribers   []func([]Change)

	outcomesMax uint64
	levelMax    uint32
}

// file is a bbolt handle that is closed when its last reader is done.
type file struct {
	bolt    *bbolt.DB
	readers sync.WaitGroup
}

// Open reads the state at path whole and opens it, or makes an empty one. A half-made file of an interrupted InstallSnapshot is removed.
// Errors: ErrTooNew, ErrTooOld, ErrCorrupt, or the file can't be opened within a second (another process has it).
func Open(path string, opts Options) (*DB, error) {
	if err := os.Remove(installPath(path)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("removing an interrupted installation: %w", err)
	}
	if err := check(path); err != nil {
		return nil, fmt.Errorf("opening realm state %s: %w", path, err)
	}
	var b *bbolt.DB
	err := pages.Guard(func() (err error) {
		b, err = openBolt(path, opts, false)
		return err
	})
	if err != nil {
		return nil, err
	}
	db := &DB{path: path, opts: opts, file: &file{bolt: b}, outcomesMax: outcomesMax, levelMax: FeatureLevelMax}
	if opts.FeatureLevelMax != 0 {
		db.levelMax = min(db.levelMax, opts.FeatureLevelMax)
	}
	st, err := prepare(b, path, opts)
	if err == nil {
		err = checkLevel(st.featureLevel, FeatureLevelMin, db.levelMax)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("opening realm state %s: %w", path, err), b.Close())
	}
	db.applied.Store(st)
	db.hashes.Reset(st.hash())
	return db, nil
}

func installPath(path string) string { return path + ".install" }

func openBolt(path string, opts Options, loading bool) (*bbolt.DB, error) {
	size := opts.MmapSize
	if size == 0 {
		size = mmapSizeDefault
	}
	if fi, err := os.Stat(path); err == nil && int64(size) < 4*fi.Size() {
		size = int(4 * fi.Size())
	}
	b, err := bbolt.Open(path, 0o600, &bbolt.Options{
		Timeout:         time.Second,
		NoFreelistSync:  true,
		FreelistType:    bbolt.FreelistMapType,
		InitialMmapSize: size,
		NoSync:          opts.noSync() || loading,
		NoGrowSync:      opts.noSync() || loading,
	})
	if err != nil {
		return nil, fmt.Errorf("opening realm state %s: %w", path, err)
	}
	return b, nil
}

// prepare makes the buckets and reads the applied state.
func prepare(b *bbolt.DB, path string, opts Options) (*state, error) {
	var st *state
	err := b.View(func(tx *bbolt.Tx) (err error) {
		if tx.Bucket(metaBucket) == nil {
			return nil
		}
		st, err = readState(tx)
		return err
	})
	if err != nil || st != nil {
		return st, err
	}
	st = newState()
	err = opts.update(b, path, false, func(tx *bbolt.Tx) error {
		if err := createBuckets(tx); err != nil {
			return err
		}
		return st.write(tx)
	})
	if err != nil || opts.NoSync {
		return st, err
	}
	// The name of the new file, too: a power cut may take it away for as long as nobody flushes the directory.
	return st, opts.syncPath(filepath.Dir(path))
}

// Close waits for readers and open snapshots, then closes the file.
func (db *DB) Close() error {
	db.write.Lock()
	defer db.write.Unlock()
	f := db.swap(nil)
	db.closing.Wait()
	if f == nil {
		return nil
	}
	f.readers.Wait()
	return f.bolt.Close()
}

// swap makes f the current file and returns the former.
func (db *DB) swap(f *file) *file {
	db.mu.Lock()
	defer db.mu.Unlock()
	old := db.file
	db.file = f
	return old
}

// acquire returns the current file, which stays open until its release is called.
func (db *DB) acquire() (*file, error) {
	db.mu.RLock()
	defer db.mu.RUnlock()
	if db.file == nil {
		return nil, ErrClosed
	}
	db.file.readers.Add(1)
	return db.file, nil
}

func (f *file) release() { f.readers.Done() }

// Change names one record that an applied entry wrote or removed.
type Change struct {
	Kind Kind
	// Key is NameKey(realm, name) for a principal, each of its aliases included, and the name or id as raw bytes
	// for other kinds. Empty for KindEverything.
	Key string
}

// Kind is a kind of record.
type Kind uint8

const (
	KindPrincipal Kind = iota + 1
	KindPolicy
	KindRealm
	KindNode
	KindToken
	KindRole
	KindSecret
	KindCluster
	// KindEverything: a snapshot was installed.
	KindEverything
	// KindBackup: a backup was noted. No record that a backup holds has changed.
	KindBackup
)

// Subscribe has f called after every commit that changed records, before ApplyBatch or InstallSnapshot returns, in the
// order of the log. f must be quick and must not call ApplyBatch, InstallSnapshot or Close. There is no unsubscribing.
func (db *DB) Subscribe(f func([]Change)) {
	db.subscribersMu.Lock()
	defer db.subscribersMu.Unlock()
	db.subscribers = append(db.subscribers, f)
}

func (db *DB) publish(changes []Change) {
	if len(changes) == 0 {
		return
	}
	db.subscribersMu.Lock()
	fs := db.subscribers
	db.subscribersMu.Unlock()
	for _, f := range fs {
		f(changes)
	}
}

// Path of the state file.
func (db *DB) Path() string { return db.path }

// Applied is the raft index and term of the last entry in the state; zero before the first.
func (db *DB) Applied() (index, term uint64) {
	st := db.applied.Load()
	return st.index, st.term
}

// Configuration is the raft configuration as it was applied, and its index. Nil before the first.
func (db *DB) Configuration() (index uint64, encoded []byte) {
	st := db.applied.Load()
	return st.configIndex, append([]byte(nil), st.config...)
}

// Installed is the index of the last snapshot that InstallSnapshot made this file from; 0 for never. After an
// installation the log may legitimately be empty or end at or below it.
func (db *DB) Installed() uint64 { return db.applied.Load().installed }

// Now is the latest leader time applied, in milliseconds since the epoch.
func (db *DB) Now() int64 { return db.applied.Load().now }

// Counts are numbers of records, for metrics.
type Counts struct {
	Principals, Aliases, Policies, Realms, Nodes, Tokens, Roles, Secrets, RequestIDs uint64
	// Bytes is the payload of a snapshot; FileBytes what the file takes on disk.
	Bytes, FileBytes uint64
}

// Counts reads the counters kept with the state; it scans nothing.
func (db *DB) Counts() Counts {
	c := db.applied.Load().countRecords()
	if fi, err := os.Stat(db.path); err == nil {
		c.FileBytes = uint64(fi.Size())
	}
	return c
}

func (st *state) countRecords() Counts {
	return Counts{
		Principals: st.counts[principals], Aliases: st.counts[aliases], Policies: st.counts[policies],
		Realms: st.counts[realms], Nodes: st.counts[nodes], Tokens: st.counts[tokens], Roles: st.counts[roles],
		Secrets: st.counts[secrets], RequestIDs: st.counts[outcomes], Bytes: st.size,
	}
}

package realm

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"

	"github.com/charon-kdc/charon/raftstore/pages"
	"github.com/charon-kdc/charon/raftstore/setsum"
)

// check reads the state file at path whole, before bbolt may: pages, every record's checksum, that none is gone and that none is an older
// one come back. There is none, or an empty one: nil.
func check(path string) error {
	if fi, err := os.Stat(path); errors.Is(err, os.ErrNotExist) || err == nil && fi.Size() == 0 {
		return nil
	} else if err != nil {
		return err
	}
	// A torn meta page is a batch that was never acknowledged; the log has it.
	return verify(path, pages.Options{TornMeta: true, Workers: runtime.GOMAXPROCS(0)})
}

// verify walks the file, of a transaction that o names.
func verify(path string, o pages.Options) error {
	parts := make([]tally, o.Workers)
	o.Visit = func(w int, bucket string, key, value []byte) error { return parts[w].visit(bucket, key, value) }
	res, err := pages.Verify(path, o)
	if errors.Is(err, pages.ErrDamaged) {
		err = fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	if err != nil {
		return err
	}
	var got tally
	for i := range parts {
		got.merge(&parts[i])
	}
	switch {
	case got.st == nil && got.size == 0 && res.TxID <= 2:
		return nil // made, and the power went before the first record
	case got.st == nil:
		return fmt.Errorf("%w: records without the applied state", ErrCorrupt)
	case got.counts != got.st.counts || got.size != got.st.size || got.sum != got.st.sum:
		return fmt.Errorf("%w: %d bytes of records with sum %v, written were %d with %v", ErrCorrupt, got.size, got.sum, got.st.size, got.st.sum)
	}
	return nil
}

// tally is what one worker of verify has read.
type tally struct {
	counts [bucketCount]uint64
	size   uint64
	sum    setsum.Sum
	st     *state
}

var bucketIDs = func() map[string]bucketID {
	m := map[string]bucketID{}
	for id, name := range bucketNames {
		m[string(name)] = bucketID(id)
	}
	return m
}()

func (t *tally) visit(bucket string, key, value []byte) (err error) {
	id, known := bucketIDs[bucket]
	switch {
	case known:
		if _, err := openRecord(id, key, value); err != nil {
			return err
		}
		t.counts[id]++
		t.size += recordSize(key, value)
		t.sum.Put(byte(id), key, value)
		return nil
	case bucket == string(metaBucket) && string(key) == string(stateKey):
		t.st, err = decodeState(value)
		return err
	}
	return fmt.Errorf("%w: %q in bucket %q", ErrCorrupt, key, bucket)
}

func (t *tally) merge(o *tally) {
	for i, n := range o.counts {
		t.counts[i] += n
	}
	t.size += o.size
	t.sum.Add(o.sum)
	if o.st != nil {
		t.st = o.st
	}
}

// Scrub reads the state as it is now from the file, as Open does, at most bytesPerSecond of it, while others go on. It returns ErrCorrupt,
// after Options.Damaged has been called, or ctx's error. While it runs the file can't reuse pages.
func (db *DB) Scrub(ctx context.Context, bytesPerSecond int) error {
	f, err := db.acquire()
	if err != nil {
		return err
	}
	defer f.release()
	for try := 0; ; try++ {
		err := db.scrub(ctx, f, bytesPerSecond)
		if now, aerr := db.acquire(); aerr != nil {
			return nil // closing
		} else if now.release(); now != f {
			return nil // a snapshot has taken its place, whose every byte was checked
		}
		// Its meta page may have been written over before it was read.
		if err == nil || try == scrubTries || ctx.Err() != nil {
			db.tell(err)
			return err
		}
	}
}

const scrubTries = 3

func (db *DB) scrub(ctx context.Context, f *file, bytesPerSecond int) error {
	tx, err := f.bolt.Begin(false)
	if err != nil {
		return err
	}
	err = verify(db.path, pages.Options{TxID: uint64(tx.ID()), Workers: 1, Pace: pages.Paced(ctx, bytesPerSecond)})
	return errors.Join(err, tx.Rollback())
}

// tell hands damage that was found to whoever decides what becomes of the process.
func (db *DB) tell(err error) {
	if errors.Is(err, ErrCorrupt) && db.opts.Damaged != nil {
		db.opts.Damaged(err)
	}
}

// guarded runs what reads the file through bbolt, whose pages may be damaged.
func (db *DB) guarded(f func() error) error {
	err := pages.Guard(f)
	if errors.Is(err, pages.ErrDamaged) {
		err = fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	db.tell(err)
	return err
}

// hash of the state at its index: equal on all nodes that have applied the same entries. The raft configuration is raft's own to compare,
// and after a recovery by hand it may be another.
func (s *state) hash() setsum.Point {
	le := binary.LittleEndian
	b := make([]byte, 0, stateFixed)
	for _, v := range []uint64{s.index, s.term, uint64(s.now), s.revision, s.size, uint64(s.featureLevel)} {
		b = le.AppendUint64(b, v)
	}
	for _, c := range s.counts {
		b = le.AppendUint64(b, c)
	}
	return setsum.Point{Index: s.index, Hash: setsum.HashOf(s.sum.Append(b))}
}

// Hashes are the hashes of the state at the last indexes.
func (db *DB) Hashes() *setsum.History { return &db.hashes }

package realm

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"

	"go.etcd.io/bbolt"

	"github.com/charon-kdc/charon/raftstore/setsum"
)

const (
	keyMax   = 4 << 10 // bytes of a key in a stream
	valueMax = 1 << 20 // bytes of a value in a stream

	// One transaction of an installation.
	installRecordsMax = 20_000
	installBytesMax   = 16 << 20
)

// InstallSnapshot replaces the state by the one that r streams, up to io.EOF. Reads go on from the old file until the new
// one is whole and on disk; readers that began before stay with the old one, which is closed when the last is done. A crash leaves
// either file, never a mixture.
//
// An error that wraps ErrCorrupt, ErrTooNew or r's own says that the snapshot was refused and nothing has changed. Any
// other is of the file system: the caller stops the process.
func (db *DB) InstallSnapshot(r io.Reader) (SnapshotInfo, error) {
	db.write.Lock()
	defer db.write.Unlock()
	current, err := db.acquire()
	if err != nil {
		return SnapshotInfo{}, err
	}
	current.release()

	tmp := installPath(db.path)
	if err := os.Remove(tmp); err != nil && !errors.Is(err, os.ErrNotExist) {
		return SnapshotInfo{}, fmt.Errorf("installing a snapshot: %w", err)
	}
	b, err := openBolt(tmp, db.opts, true)
	if err != nil {
		return SnapshotInfo{}, err
	}
	st, err := db.opts.load(b, tmp, r)
	if err == nil {
		err = checkLevel(st.featureLevel, FeatureLevelMin, db.levelMax)
	}
	if err == nil {
		err = db.moveIn(b, tmp)
	}
	if err != nil {
		return SnapshotInfo{}, fmt.Errorf("installing a snapshot: %w", errors.Join(err, b.Close(), removeIfThere(tmp)))
	}
	old := db.swap(&file{bolt: b})
	db.applied.Store(st)
	db.hashes.Reset(st.hash())
	db.closing.Go(func() {
		old.readers.Wait()
		_ = old.bolt.Close() // nothing was written through it any more, and the name is another file's
	})
	db.publish([]Change{{Kind: KindEverything}})
	return st.info(), nil
}

// Replace makes the state file path anew from the stream that r holds up to io.EOF, whatever was there: a damaged state that another member's
// replaces. Nobody may have it open. After an error, as InstallSnapshot's, what was there is there still.
func Replace(path string, opts Options, r io.Reader) (SnapshotInfo, error) {
	tmp := installPath(path)
	if err := removeIfThere(tmp); err != nil {
		return SnapshotInfo{}, fmt.Errorf("replacing the realm state: %w", err)
	}
	b, err := openBolt(tmp, opts, true)
	if err != nil {
		return SnapshotInfo{}, err
	}
	st, err := opts.load(b, tmp, r)
	if err == nil {
		err = (&DB{path: path, opts: opts}).moveIn(b, tmp)
	}
	if err = errors.Join(err, b.Close()); err != nil {
		return SnapshotInfo{}, fmt.Errorf("replacing the realm state: %w", errors.Join(err, removeIfThere(tmp)))
	}
	return st.info(), nil
}

func removeIfThere(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// moveIn makes the loaded file durable and gives it the state's name.
func (db *DB) moveIn(b *bbolt.DB, tmp string) error {
	b.NoSync, b.NoGrowSync = db.opts.noSync(), db.opts.noSync()
	if !db.opts.NoSync {
		if err := db.opts.syncPath(tmp); err != nil {
			return err
		}
	}
	if err := os.Rename(tmp, db.path); err != nil {
		return err
	}
	if db.opts.NoSync {
		return nil
	}
	return db.opts.syncPath(filepath.Dir(db.path))
}

// syncPath flushes a file or a directory through a handle of its own, which does for every handle of it.
func (o *Options) syncPath(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(o.sync(f), f.Close())
}

// load fills an empty file from a stream and checks every byte of it.
func (o *Options) load(b *bbolt.DB, path string, r io.Reader) (*state, error) {
	in := &stream{r: r}
	want, records, err := in.header()
	if err != nil {
		return nil, err
	}
	if err := o.update(b, path, true, createBuckets); err != nil {
		return nil, err
	}
	got := &loaded{}
	for done := false; !done; {
		err := o.update(b, path, true, func(tx *bbolt.Tx) (err error) {
			done, err = got.some(tx, in)
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	if err := got.finish(in, want, records); err != nil {
		return nil, err
	}
	want.counts, want.installed = got.counts, want.index
	return want, o.update(b, path, true, want.write)
}

// loaded counts what a stream brought.
type loaded struct {
	records, size uint64
	counts        [bucketCount]uint64
	sum           setsum.Sum
	bucket        bucketID
	key           []byte // the last one
}

// some stores records until a transaction is large enough or the payload ends.
func (l *loaded) some(tx *bbolt.Tx, in *stream) (done bool, err error) {
	for id := range bucketCount {
		tx.Bucket(bucketNames[id]).FillPercent = 0.9 // keys come in order
	}
	for n, size := 0, 0; n < installRecordsMax && size < installBytesMax; n++ {
		id, k, v, err := in.record()
		if err == io.EOF {
			return true, nil
		}
		if err != nil {
			return false, err
		}
		if _, err := l.take(id, k, v); err != nil {
			return false, err
		}
		if err := tx.Bucket(bucketNames[id]).Put(k, v); err != nil {
			return false, err
		}
		size += len(k) + len(v)
	}
	return false, nil
}

// take checks a record's own sum and its place in the order, counts it, and returns the payload within v.
func (l *loaded) take(id bucketID, k, v []byte) ([]byte, error) {
	if l.records > 0 && (id < l.bucket || id == l.bucket && bytes.Compare(k, l.key) <= 0) {
		return nil, fmt.Errorf("%w: records out of order", ErrCorrupt)
	}
	payload, err := openRecord(id, k, v)
	if err != nil {
		return nil, err
	}
	l.bucket, l.key = id, k
	l.records++
	l.counts[id]++
	l.size += recordSize(k, v)
	l.sum.Put(byte(id), k, v)
	return payload, nil
}

// finish holds the stream's header and end against what came between.
func (l *loaded) finish(in *stream, want *state, records uint64) error {
	if l.records != records || l.size != want.size {
		return fmt.Errorf("%w: %d records of %d bytes in the stream, its header says %d of %d", ErrCorrupt, l.records, l.size, records, want.size)
	}
	if l.sum != want.sum {
		return fmt.Errorf("%w: the records' sum is %v, the stream's header says %v", ErrCorrupt, l.sum, want.sum)
	}
	return in.end(records, want.size)
}

// stream reads a snapshot stream. It allocates by what has arrived, not by what a length claims.
type stream struct {
	r     io.Reader
	sum   uint32
	block []byte // rest of the current block
	buf   []byte
	done  bool // the end marker's zero was read
}

// fixed reads len(b) bytes into b.
func (s *stream) fixed(b []byte) error {
	if _, err := io.ReadFull(s.r, b); err != nil {
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return fmt.Errorf("%w: stream ends early", ErrCorrupt)
		}
		return err
	}
	return nil
}

func (s *stream) take(b []byte) error {
	err := s.fixed(b)
	s.sum = crc32.Update(s.sum, castagnoli, b)
	return err
}

func (s *stream) header() (*state, uint64, error) {
	le := binary.LittleEndian
	start := make([]byte, headerStart)
	if err := s.take(start); err != nil {
		return nil, 0, err
	}
	if string(start[:8]) != snapshotMagic {
		return nil, 0, fmt.Errorf("%w: not a realm snapshot", ErrCorrupt)
	}
	if f := le.Uint32(start[8:]); f != formatVersion {
		return nil, 0, fmt.Errorf("%w: snapshot of format %d, this release reads %d", ErrTooNew, f, formatVersion)
	}
	n := le.Uint32(start[12:])
	if n < headerFixed || n > headerFixed+configMax {
		return nil, 0, fmt.Errorf("%w: header of %d bytes", ErrCorrupt, n)
	}
	rest, sum := make([]byte, n), make([]byte, 4)
	if err := s.take(rest); err != nil {
		return nil, 0, err
	}
	want := s.sum
	if err := s.take(sum); err != nil {
		return nil, 0, err
	}
	if le.Uint32(sum) != want {
		return nil, 0, fmt.Errorf("%w: header checksum", ErrCorrupt)
	}
	st := &state{featureLevel: le.Uint32(rest), config: bytes.Clone(rest[headerFixed:])}
	var now, records uint64
	for i, v := range []*uint64{&st.index, &st.term, &st.configIndex, &now, &st.revision, &records, &st.size} {
		*v = le.Uint64(rest[4+8*i:])
	}
	st.now, st.sum = int64(now), setsum.Decode(rest[4+8*7:])
	return st, records, checkLevel(st.featureLevel, FeatureLevelMin, FeatureLevelMax)
}

// next reads the next block; io.EOF at the end marker.
func (s *stream) next() error {
	if s.done {
		return io.EOF
	}
	le := binary.LittleEndian
	length := make([]byte, 4)
	if err := s.fixed(length); err != nil {
		return err
	}
	n := le.Uint32(length)
	if n > blockMax {
		return fmt.Errorf("%w: block of %d bytes", ErrCorrupt, n)
	}
	s.sum = crc32.Update(s.sum, castagnoli, length)
	if n == 0 {
		s.done = true
		return io.EOF
	}
	if s.buf == nil {
		s.buf = make([]byte, blockMax+4)
	}
	b := s.buf[:n+4]
	if err := s.take(b); err != nil {
		return err
	}
	sum := crc32.Update(crc32.Checksum(length, castagnoli), castagnoli, b[:n])
	if le.Uint32(b[n:]) != sum {
		return fmt.Errorf("%w: block checksum", ErrCorrupt)
	}
	s.block = b[:n]
	return nil
}

// payload reads len(b) bytes of payload; io.EOF only when there are none at all.
func (s *stream) payload(b []byte) error {
	for got := 0; got < len(b); {
		if len(s.block) == 0 {
			if err := s.next(); err == io.EOF && got > 0 {
				return fmt.Errorf("%w: payload ends inside a record", ErrCorrupt)
			} else if err != nil {
				return err
			}
		}
		n := copy(b[got:], s.block)
		got, s.block = got+n, s.block[n:]
	}
	return nil
}

// record reads one record; io.EOF at the end of the payload. Key and value are the caller's.
func (s *stream) record() (id bucketID, key, value []byte, err error) {
	var h [recordHeader]byte
	if err := s.payload(h[:]); err != nil {
		return 0, nil, nil, err
	}
	id = bucketID(h[0])
	k, v := binary.LittleEndian.Uint16(h[1:]), binary.LittleEndian.Uint32(h[3:])
	if id >= bucketCount || k == 0 || k > keyMax || v > valueMax {
		return 0, nil, nil, fmt.Errorf("%w: record of bucket %d, key of %d bytes, value of %d", ErrCorrupt, id, k, v)
	}
	b := make([]byte, int(k)+int(v))
	if err := s.payload(b); err == io.EOF {
		return 0, nil, nil, fmt.Errorf("%w: payload ends inside a record", ErrCorrupt)
	} else if err != nil {
		return 0, nil, nil, err
	}
	return id, b[:k:k], b[k:], nil
}

// end holds the end marker against what was read, and wants nothing behind it.
func (s *stream) end(records, size uint64) error {
	le := binary.LittleEndian
	b := make([]byte, endSize-4) // the zero was read by next
	if err := s.take(b[:16]); err != nil {
		return err
	}
	want := s.sum
	if err := s.fixed(b[16:]); err != nil {
		return err
	}
	if le.Uint64(b) != records || le.Uint64(b[8:]) != size || le.Uint32(b[16:]) != want {
		return fmt.Errorf("%w: end of the stream", ErrCorrupt)
	}
	if n, err := io.ReadFull(s.r, make([]byte, 1)); n != 0 {
		return fmt.Errorf("%w: bytes behind the end of the stream", ErrCorrupt)
	} else if err != io.EOF {
		return err
	}
	return nil
}

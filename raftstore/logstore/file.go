package logstore

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
	"go.etcd.io/bbolt"

	"github.com/charon-kdc/charon/raftstore/pages"
	"github.com/charon-kdc/charon/raftstore/setsum"
)

// ErrDamaged says that a log is not as it was written: a checksum is wrong, or something is missing. The node must not vote under its
// identity again, since it may have forgotten a vote or an entry that it acknowledged.
var ErrDamaged = errors.New("damaged raft log")

// The file, little endian but for the keys of logs:
//
//	bucket logs  index (big endian) -> u8 format, u8 type, u64 term, i64 time of appending (ns since the epoch, 0: none),
//	             u32 n, n bytes of extensions, data, CRC-32C over key and all before it
//	bucket conf  name -> u8 format, value, CRC-32C over key and all before it
//
// The record CharonLog in conf stands for the whole: u64 first index, u64 last, u64 entries, and the sums (setsum) of the records in logs
// and of the others in conf. It is written in the transaction of every change. A checksum tells a rotten record; only this tells a record
// that is gone or is an older one's, when a page takes the place of another: a vote forgotten, an end cut off.
const (
	formatVersion = 2
	entryFixed    = 1 + 1 + 8 + 8 + 4
	summarySize   = 3*8 + 2*setsum.Size
	extensionsMax = 1 << 20
)

var (
	logsBucket = []byte("logs")
	confBucket = []byte("conf")
	summaryKey = []byte("CharonLog")
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
)

const (
	kindLog  = 1
	kindConf = 2
)

// summary is the record CharonLog. It is replaced, never changed, once published.
type summary struct {
	first, last, n uint64
	logs, conf     setsum.Sum
}

// file is the Backend in production: a bbolt file.
type file struct {
	bolt *bbolt.DB
	path string

	write sync.Mutex // from reading the summary to publishing the next
	sum   atomic.Pointer[summary]
}

// openFile opens a log, or makes an empty one. One that was there is read whole first. noSync: a write need not be on disk when it returns.
func openFile(path string, mapSize int, noSync bool) (*file, error) {
	found, err := check(path)
	if err != nil {
		return nil, err
	}
	f := &file{path: path}
	err = pages.Guard(func() (err error) {
		f.bolt, err = bbolt.Open(path, 0o600, &bbolt.Options{
			Timeout:         time.Second,
			NoFreelistSync:  true,
			FreelistType:    bbolt.FreelistMapType,
			InitialMmapSize: mapSize,
			NoSync:          noSync,
		})
		return err
	})
	if err != nil {
		return nil, err
	}
	if found != nil {
		f.sum.Store(found)
		return f, nil
	}
	if err := f.make(); err != nil {
		return nil, errors.Join(err, f.bolt.Close())
	}
	return f, nil
}

func (f *file) make() error {
	s := &summary{}
	err := f.bolt.Update(func(tx *bbolt.Tx) error {
		if _, err := tx.CreateBucketIfNotExists(logsBucket); err != nil {
			return err
		}
		if _, err := tx.CreateBucketIfNotExists(confBucket); err != nil {
			return err
		}
		return s.write(tx)
	})
	f.sum.Store(s)
	return err
}

// check reads the log at path whole, before bbolt may: pages, checksums, and that all is there. Nil without an error: there is none.
func check(path string) (*summary, error) {
	if fi, err := os.Stat(path); errors.Is(err, os.ErrNotExist) || err == nil && fi.Size() == 0 {
		return nil, nil // a crash may leave an empty file; the directory's rename into place tells it from a log that was cut
	} else if err != nil {
		return nil, err
	}
	return verify(path, pages.Options{Workers: runtime.GOMAXPROCS(0)})
}

// verify walks the file, of a transaction that o names.
func verify(path string, o pages.Options) (*summary, error) {
	o.Workers = max(o.Workers, 1)
	parts := make([]counted, o.Workers)
	o.Visit = func(w int, bucket string, key, value []byte) error { return parts[w].visit(bucket, key, value) }
	res, err := pages.Verify(path, o)
	if errors.Is(err, pages.ErrDamaged) {
		err = fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if err != nil {
		return nil, err
	}
	var got counted
	for i := range parts {
		got.merge(&parts[i])
	}
	if got.noted == nil && got.n == 0 && got.conf == (setsum.Sum{}) && res.TxID <= 2 {
		return nil, nil // made, and the power went before the first record
	}
	if got.noted == nil || *got.noted != got.summary {
		return nil, fmt.Errorf("%w: it has entries %d to %d, %d in all, and its summary does not say so", ErrDamaged, got.first, got.last, got.n)
	}
	return got.noted, nil
}

// counted is what one worker of verify has read.
type counted struct {
	summary
	noted *summary
}

func (c *counted) visit(bucket string, key, value []byte) error {
	switch bucket {
	case string(logsBucket):
		var l raft.Log
		if err := decodeEntry(key, value, &l); err != nil {
			return err
		}
		c.logs.Put(kindLog, key, value)
		c.span(l.Index, l.Index, 1)
	case string(confBucket):
		v, err := openValue(key, value)
		if err != nil {
			return err
		}
		if string(key) != string(summaryKey) {
			c.conf.Put(kindConf, key, value)
			return nil
		}
		c.noted, err = decodeSummary(v)
		return err
	default:
		return fmt.Errorf("%w: bucket %q", ErrDamaged, bucket)
	}
	return nil
}

func (c *counted) span(first, last, n uint64) {
	if n == 0 {
		return
	}
	if c.n == 0 || first < c.first {
		c.first = first
	}
	c.last = max(c.last, last)
	c.n += n
}

func (c *counted) merge(o *counted) {
	c.span(o.first, o.last, o.n)
	c.logs.Add(o.logs)
	c.conf.Add(o.conf)
	if o.noted != nil {
		c.noted = o.noted
	}
}

func (s *summary) write(tx *bbolt.Tx) error {
	b := make([]byte, 0, summarySize)
	for _, v := range []uint64{s.first, s.last, s.n} {
		b = binary.LittleEndian.AppendUint64(b, v)
	}
	return tx.Bucket(confBucket).Put(summaryKey, sealValue(summaryKey, s.conf.Append(s.logs.Append(b))))
}

func decodeSummary(b []byte) (*summary, error) {
	if len(b) != summarySize {
		return nil, fmt.Errorf("%w: summary of %d bytes", ErrDamaged, len(b))
	}
	le := binary.LittleEndian
	return &summary{
		first: le.Uint64(b), last: le.Uint64(b[8:]), n: le.Uint64(b[16:]),
		logs: setsum.Decode(b[24:]), conf: setsum.Decode(b[24+setsum.Size:]),
	}, nil
}

// update runs one transaction that changes the summary with what it covers.
func (f *file) update(change func(tx *bbolt.Tx, s *summary) error) error {
	f.write.Lock() // raft truncates beside its appends
	defer f.write.Unlock()
	next := *f.sum.Load()
	err := pages.Guard(func() error {
		return f.bolt.Update(func(tx *bbolt.Tx) error {
			if err := change(tx, &next); err != nil {
				return err
			}
			return next.write(tx)
		})
	})
	if err == nil {
		f.sum.Store(&next)
	}
	return err
}

func (f *file) Close() error { return f.bolt.Close() }

// FirstIndex of the log; 0 when empty.
func (f *file) FirstIndex() (uint64, error) { return f.sum.Load().first, nil }

// LastIndex of the log; 0 when empty.
func (f *file) LastIndex() (uint64, error) { return f.sum.Load().last, nil }

func (f *file) StoreLog(l *raft.Log) error { return f.StoreLogs([]*raft.Log{l}) }

func (f *file) StoreLogs(logs []*raft.Log) error {
	return f.update(func(tx *bbolt.Tx, s *summary) error {
		b := tx.Bucket(logsBucket)
		for _, l := range logs {
			key := indexKey(l.Index)
			if old := b.Get(key); old != nil {
				s.logs.Delete(kindLog, key, old)
				s.n--
			}
			value, err := encodeEntry(key, l)
			if err != nil {
				return err
			}
			if err := b.Put(key, value); err != nil {
				return err
			}
			s.logs.Put(kindLog, key, value)
			if s.n == 0 || l.Index < s.first {
				s.first = l.Index
			}
			s.last = max(s.last, l.Index)
			s.n++
		}
		return nil
	})
}

// GetLog reads one entry; raft.ErrLogNotFound when the log does not reach it, ErrDamaged when it should be there and is not, whole.
func (f *file) GetLog(index uint64, l *raft.Log) error {
	return f.view(func(tx *bbolt.Tx) error {
		key := indexKey(index)
		v := tx.Bucket(logsBucket).Get(key)
		if v != nil {
			return decodeEntry(key, v, l)
		}
		// The transaction's own summary: the newest one may be of a truncation since.
		v, err := openValue(summaryKey, tx.Bucket(confBucket).Get(summaryKey))
		if err != nil {
			return err
		}
		s, err := decodeSummary(v)
		if err != nil {
			return err
		}
		if s.n == s.last-s.first+1 && index >= s.first && index <= s.last {
			return fmt.Errorf("%w: entry %d is gone", ErrDamaged, index)
		}
		return raft.ErrLogNotFound
	})
}

// view runs one reading transaction.
func (f *file) view(read func(tx *bbolt.Tx) error) error {
	err := pages.Guard(func() error { return f.bolt.View(read) })
	if errors.Is(err, pages.ErrDamaged) {
		err = fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return err
}

// DeleteRange looks at all it needs before it deletes: bbolt's cursors skip records after a deletion of theirs, and Last never returns when
// every page of a bucket has become empty within the transaction.
func (f *file) DeleteRange(min, max uint64) error {
	return f.update(func(tx *bbolt.Tx, s *summary) error {
		b := tx.Bucket(logsBucket)
		var gone [][]byte
		c := b.Cursor()
		k, v := c.Seek(indexKey(min))
		for ; len(k) == 8 && binary.BigEndian.Uint64(k) <= max; k, v = c.Next() {
			s.logs.Delete(kindLog, k, v)
			s.n--
			gone = append(gone, bytes.Clone(k))
		}
		if len(gone) == 0 {
			return nil
		}
		before, after := s.first < binary.BigEndian.Uint64(gone[0]), len(k) == 8
		switch {
		case !before && !after:
			s.first, s.last = 0, 0
		case !before:
			s.first = binary.BigEndian.Uint64(k)
		case !after:
			c.Seek(gone[0])
			k, _ = c.Prev()
			if len(k) != 8 {
				return fmt.Errorf("%w: no entry before %d", ErrDamaged, min)
			}
			s.last = binary.BigEndian.Uint64(k)
		}
		for _, k := range gone {
			if err := b.Delete(k); err != nil {
				return err
			}
		}
		return nil
	})
}

func (f *file) Set(key, value []byte) error {
	return f.update(func(tx *bbolt.Tx, s *summary) error {
		b := tx.Bucket(confBucket)
		if old := b.Get(key); old != nil {
			s.conf.Delete(kindConf, key, old)
		}
		v := sealValue(key, value)
		s.conf.Put(kindConf, key, v)
		return b.Put(key, v)
	})
}

// Get reads a value; "not found" when there is none.
func (f *file) Get(key []byte) (out []byte, err error) {
	err = f.view(func(tx *bbolt.Tx) error {
		v := tx.Bucket(confBucket).Get(key)
		if v == nil {
			return errNotFound
		}
		v, err := openValue(key, v)
		out = append([]byte(nil), v...)
		return err
	})
	return out, err
}

func (f *file) SetUint64(key []byte, v uint64) error {
	return f.Set(key, binary.BigEndian.AppendUint64(nil, v))
}

func (f *file) GetUint64(key []byte) (uint64, error) {
	v, err := f.Get(key)
	if err != nil {
		return 0, err
	}
	if len(v) != 8 {
		return 0, fmt.Errorf("%w: %s of %d bytes", ErrDamaged, key, len(v))
	}
	return binary.BigEndian.Uint64(v), nil
}

func indexKey(index uint64) []byte { return binary.BigEndian.AppendUint64(nil, index) }

func encodeEntry(key []byte, l *raft.Log) ([]byte, error) {
	if len(l.Extensions) > extensionsMax {
		return nil, fmt.Errorf("entry %d: %d bytes of extensions", l.Index, len(l.Extensions))
	}
	le := binary.LittleEndian
	b := make([]byte, 0, entryFixed+len(l.Extensions)+len(l.Data)+4)
	b = append(b, formatVersion, byte(l.Type))
	b = le.AppendUint64(b, l.Term)
	var at int64
	if !l.AppendedAt.IsZero() {
		at = l.AppendedAt.UnixNano()
	}
	b = le.AppendUint64(b, uint64(at))
	b = le.AppendUint32(b, uint32(len(l.Extensions)))
	b = append(append(b, l.Extensions...), l.Data...)
	return le.AppendUint32(b, checksum(key, b)), nil
}

// decodeEntry reads an entry into l, which keeps nothing of value.
func decodeEntry(key, value []byte, l *raft.Log) error {
	le := binary.LittleEndian
	if len(key) != 8 || len(value) < entryFixed+4 {
		return fmt.Errorf("%w: an entry of %d bytes under a key of %d", ErrDamaged, len(value), len(key))
	}
	index, body := binary.BigEndian.Uint64(key), value[:len(value)-4]
	if checksum(key, body) != le.Uint32(value[len(body):]) {
		return fmt.Errorf("%w: entry %d: checksum", ErrDamaged, index)
	}
	if body[0] != formatVersion {
		return fmt.Errorf("entry %d has format %d, this release reads %d", index, body[0], formatVersion)
	}
	n := uint64(le.Uint32(body[18:]))
	if rest := uint64(len(body) - entryFixed); n > rest {
		return fmt.Errorf("%w: entry %d: %d bytes of extensions in %d", ErrDamaged, index, n, rest)
	}
	*l = raft.Log{Index: index, Term: le.Uint64(body[2:]), Type: raft.LogType(body[1])}
	if at := int64(le.Uint64(body[10:])); at != 0 {
		l.AppendedAt = time.Unix(0, at)
	}
	if n > 0 {
		l.Extensions = append([]byte(nil), body[entryFixed:entryFixed+n]...)
	}
	l.Data = append([]byte(nil), body[entryFixed+n:]...)
	return nil
}

func sealValue(key, value []byte) []byte {
	b := append([]byte{formatVersion}, value...)
	return binary.LittleEndian.AppendUint32(b, checksum(key, b))
}

func openValue(key, b []byte) ([]byte, error) {
	if len(b) < 1+4 {
		return nil, fmt.Errorf("%w: %q: %d bytes", ErrDamaged, key, len(b))
	}
	body := b[:len(b)-4]
	if checksum(key, body) != binary.LittleEndian.Uint32(b[len(body):]) {
		return nil, fmt.Errorf("%w: %q: checksum", ErrDamaged, key)
	}
	if body[0] != formatVersion {
		return nil, fmt.Errorf("%q has format %d, this release reads %d", key, body[0], formatVersion)
	}
	return body[1:], nil
}

func checksum(key, b []byte) uint32 {
	return crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, b)
}

// scrub reads the log as it is now from the file, as check does, at most bytesPerSecond of it, while others go on.
func (f *file) scrub(ctx context.Context, bytesPerSecond int) error {
	for try := 0; ; try++ {
		err := f.scrubOnce(ctx, bytesPerSecond)
		if err == nil || try == scrubTries || ctx.Err() != nil {
			return err
		}
		// The meta page of its transaction may have been written over before it was read.
	}
}

const scrubTries = 3

func (f *file) scrubOnce(ctx context.Context, bytesPerSecond int) error {
	tx, err := f.bolt.Begin(false)
	if err != nil {
		return err
	}
	_, err = verify(f.path, pages.Options{TxID: uint64(tx.ID()), Workers: 1, Pace: pages.Paced(ctx, bytesPerSecond)})
	return errors.Join(err, tx.Rollback())
}

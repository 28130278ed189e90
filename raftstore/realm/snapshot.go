package realm

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"

	"go.etcd.io/bbolt"

	"github.com/charon-kdc/charon/raftstore/setsum"
)

// The snapshot stream, little endian:
//
//	header   "charonRS", u32 format, u32 length of the rest of the header without its CRC, then
//	         u32 feature level, u64 index, u64 term, u64 configuration index, i64 now, u64 revision,
//	         u64 records, u64 payload bytes, 32 bytes sum of the records (setsum), configuration; u32 CRC-32C of all header bytes before it
//	blocks   u32 length (blockMax, the last one less), bytes of the payload, u32 CRC-32C of length and bytes
//	end      u32 0, u64 records, u64 payload bytes, u32 CRC-32C of every byte of the stream before it
//
// The payload is the records, by bucket and key, each once: u8 bucket, u16 key length, u32 value length, key, value as
// it stands in the file, own CRC included. A record may begin in one block and end in another.
const (
	snapshotMagic = "charonRS"
	blockMax      = 1 << 20
	recordHeader  = 1 + 2 + 4
	headerStart   = 8 + 4 + 4
	headerFixed   = 4 + 8*7 + setsum.Size
	endSize       = 4 + 8 + 8 + 4
	configMax     = 1 << 20
)

// SnapshotInfo is what a snapshot says of itself.
type SnapshotInfo struct {
	Index, Term, ConfigIndex uint64
	Config                   []byte // raft configuration, opaque
	FeatureLevel             uint32
	Size                     int64 // of the whole stream in bytes, exact
}

func (s *state) info() SnapshotInfo {
	blocks := (s.size + blockMax - 1) / blockMax
	return SnapshotInfo{
		Index: s.index, Term: s.term, ConfigIndex: s.configIndex, Config: append([]byte(nil), s.config...), FeatureLevel: s.featureLevel,
		Size: int64(headerStart+headerFixed+len(s.config)+4) + int64(s.size+8*blocks) + endSize,
	}
}

func (s *state) snapshotHeader() []byte {
	le := binary.LittleEndian
	b := []byte(snapshotMagic)
	b = le.AppendUint32(b, formatVersion)
	b = le.AppendUint32(b, uint32(headerFixed+len(s.config)))
	b = le.AppendUint32(b, s.featureLevel)
	for _, v := range []uint64{s.index, s.term, s.configIndex, uint64(s.now), s.revision, s.records(), s.size} {
		b = le.AppendUint64(b, v)
	}
	b = s.sum.Append(b)
	b = append(b, s.config...)
	return le.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

// Snapshot is the stream of one read transaction: Info and every byte are of the same applied index. Read it to io.EOF,
// from one goroutine at a time, and Close it. While it is open the file can't reuse pages.
type Snapshot struct {
	Info SnapshotInfo
	// Check, if set before the first Read, is called with every record before a byte of it is given to Read; an error of it ends the stream.
	Check func(Record) error

	db      *DB
	file    *file
	tx      *bbolt.Tx
	st      *state
	bucket  bucketID
	cursor  *bbolt.Cursor
	payload []byte // records read but not yet in a block
	out     []byte // bytes to give to Read, valid until it is empty
	sum     uint32
	sent    uint64 // payload bytes
	read    setsum.Sum
	records uint64
	ended   bool
}

// Snapshot begins a snapshot of the state as it is applied now.
func (db *DB) Snapshot() (*Snapshot, error) {
	f, err := db.acquire()
	if err != nil {
		return nil, err
	}
	tx, err := f.bolt.Begin(false)
	if err != nil {
		f.release()
		return nil, fmt.Errorf("beginning a snapshot: %w", err)
	}
	s := &Snapshot{db: db, file: f, tx: tx}
	if s.st, err = decodeState(tx.Bucket(metaBucket).Get(stateKey)); err != nil {
		return nil, fmt.Errorf("beginning a snapshot: %w", joinClose(err, s))
	}
	s.Info = s.st.info()
	s.emit(s.st.snapshotHeader())
	return s, nil
}

func joinClose(err error, c io.Closer) error {
	if cerr := c.Close(); cerr != nil {
		return fmt.Errorf("%w; closing: %w", err, cerr)
	}
	return err
}

// Counts of the records in it; FileBytes is not told.
func (s *Snapshot) Counts() Counts { return s.st.countRecords() }

// Tx is the view that the stream is of.
func (s *Snapshot) Tx() *Tx { return &Tx{s.tx, s.db} }

// Close ends the read transaction. A second call does nothing.
func (s *Snapshot) Close() error {
	if s.tx == nil {
		return nil
	}
	err := s.tx.Rollback()
	s.tx = nil
	s.file.release()
	return err
}

// Read implements io.Reader.
func (s *Snapshot) Read(p []byte) (int, error) {
	if s.tx == nil {
		return 0, ErrClosed
	}
	if len(s.out) == 0 {
		if s.ended {
			return 0, io.EOF
		}
		if err := s.db.guarded(s.fill); err != nil {
			return 0, fmt.Errorf("reading a snapshot: %w", err)
		}
	}
	n := copy(p, s.out)
	s.out = s.out[n:]
	return n, nil
}

func (s *Snapshot) emit(b []byte) {
	s.sum = crc32.Update(s.sum, castagnoli, b)
	s.out = b
}

// fill makes the next block, or the end.
func (s *Snapshot) fill() error {
	for len(s.payload) < blockMax {
		more, err := s.nextRecord()
		if err != nil {
			return err
		}
		if !more {
			break
		}
	}
	if len(s.payload) == 0 {
		return s.end()
	}
	n := min(len(s.payload), blockMax)
	le := binary.LittleEndian
	b := le.AppendUint32(make([]byte, 0, n+8), uint32(n))
	b = append(b, s.payload[:n]...)
	b = le.AppendUint32(b, crc32.Checksum(b, castagnoli))
	s.sent += uint64(n)
	s.payload = s.payload[:copy(s.payload, s.payload[n:])]
	s.emit(b)
	return nil
}

// nextRecord appends one record to the payload, after its CRC has been held against it, so that rot does not spread.
func (s *Snapshot) nextRecord() (bool, error) {
	for s.bucket < bucketCount {
		k, v := s.step()
		if k == nil {
			s.bucket, s.cursor = s.bucket+1, nil
			continue
		}
		payload, err := openRecord(s.bucket, k, v)
		if err == nil && s.Check != nil {
			err = visit(s.bucket, k, payload, s.Check)
		}
		if err != nil {
			return false, err
		}
		s.payload = append(s.payload, byte(s.bucket))
		s.payload = binary.LittleEndian.AppendUint16(s.payload, uint16(len(k)))
		s.payload = binary.LittleEndian.AppendUint32(s.payload, uint32(len(v)))
		s.payload = append(append(s.payload, k...), v...)
		s.read.Put(byte(s.bucket), k, v)
		s.records++
		return true, nil
	}
	return false, nil
}

// step moves the cursor on within the bucket, nil at its end.
func (s *Snapshot) step() (k, v []byte) {
	if s.cursor == nil {
		s.cursor = s.tx.Bucket(bucketNames[s.bucket]).Cursor()
		return s.cursor.First()
	}
	return s.cursor.Next()
}

// end checks the counters that the size was told from, and that no record was lost or came back.
func (s *Snapshot) end() error {
	if s.sent != s.st.size || s.records != s.st.records() {
		return fmt.Errorf("%w: %d records of %d bytes, counted were %d of %d", ErrCorrupt, s.records, s.sent, s.st.records(), s.st.size)
	}
	if s.read != s.st.sum {
		return fmt.Errorf("%w: the records' sum is %v, noted was %v", ErrCorrupt, s.read, s.st.sum)
	}
	le := binary.LittleEndian
	b := le.AppendUint32(make([]byte, 0, endSize), 0)
	b = le.AppendUint64(b, s.records)
	b = le.AppendUint64(b, s.sent)
	s.ended = true
	s.emit(le.AppendUint32(b, crc32.Update(s.sum, castagnoli, b)))
	return nil
}

// WriteSnapshot writes a whole snapshot to w.
func (db *DB) WriteSnapshot(w io.Writer) (SnapshotInfo, error) {
	s, err := db.Snapshot()
	if err != nil {
		return SnapshotInfo{}, err
	}
	if _, err := io.Copy(w, s); err != nil {
		return s.Info, joinClose(err, s)
	}
	return s.Info, s.Close()
}

// Hash is the SHA-256 of the snapshot: equal for two files exactly if their states are.
func (db *DB) Hash() (sum [32]byte, err error) {
	h := sha256.New()
	if _, err := db.WriteSnapshot(h); err != nil {
		return sum, err
	}
	return [32]byte(h.Sum(nil)), nil
}

package realm

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"go.etcd.io/bbolt"

	"github.com/charon-kdc/charon/raftstore/setsum"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// formatVersion is that of the file and of the snapshot stream.
const formatVersion = 2

var (
	metaBucket = []byte("meta")
	stateKey   = []byte("state")
)

// state is what stands beside the records, written in the transaction of every batch. It is replaced, never changed, once published.
type state struct {
	index, term  uint64 // of the last applied entry
	configIndex  uint64
	config       []byte // raft configuration, opaque
	now          int64  // latest leader time, ms
	revision     uint64 // the last revision given to any record; never goes back
	featureLevel uint32
	size         uint64              // bytes of all records in a snapshot's payload
	counts       [bucketCount]uint64 // records by bucket
	sum          setsum.Sum          // of all records
	installed    uint64              // not part of a snapshot: files differ in it
}

func newState() *state { return &state{} }

func (s *state) clone() *state {
	c := *s
	return &c
}

func (s *state) records() (n uint64) {
	for _, c := range s.counts {
		n += c
	}
	return n
}

const stateFixed = 4 + 8*7 + 4 + 8*int(bucketCount) + setsum.Size

func (s *state) encode() []byte {
	b := make([]byte, 0, stateFixed+len(s.config)+4)
	le := binary.LittleEndian
	b = le.AppendUint32(b, formatVersion)
	for _, v := range []uint64{s.index, s.term, s.configIndex, uint64(s.now), s.revision, s.size, s.installed} {
		b = le.AppendUint64(b, v)
	}
	b = le.AppendUint32(b, s.featureLevel)
	for _, c := range s.counts {
		b = le.AppendUint64(b, c)
	}
	b = s.sum.Append(b)
	b = append(b, s.config...)
	return le.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

func decodeState(b []byte) (*state, error) {
	le := binary.LittleEndian
	if len(b) < 8 {
		return nil, fmt.Errorf("%w: applied state of %d bytes", ErrCorrupt, len(b))
	}
	body, sum := b[:len(b)-4], le.Uint32(b[len(b)-4:])
	if crc32.Checksum(body, castagnoli) != sum {
		return nil, fmt.Errorf("%w: applied state: checksum", ErrCorrupt)
	}
	if f := le.Uint32(body); f != formatVersion {
		return nil, fmt.Errorf("%w: format %d, this release reads %d", ErrTooNew, f, formatVersion)
	}
	if len(body) < stateFixed {
		return nil, fmt.Errorf("%w: applied state of %d bytes", ErrCorrupt, len(b))
	}
	s, p := newState(), body[4:]
	for _, v := range []*uint64{&s.index, &s.term, &s.configIndex, nil, &s.revision, &s.size, &s.installed} {
		if v == nil {
			s.now = int64(le.Uint64(p))
		} else {
			*v = le.Uint64(p)
		}
		p = p[8:]
	}
	s.featureLevel, p = le.Uint32(p), p[4:]
	for i := range s.counts {
		s.counts[i], p = le.Uint64(p), p[8:]
	}
	s.sum, p = setsum.Decode(p), p[setsum.Size:]
	if len(p) > 0 {
		s.config = append([]byte(nil), p...)
	}
	return s, checkLevel(s.featureLevel, FeatureLevelMin, FeatureLevelMax)
}

func readState(tx *bbolt.Tx) (*state, error) {
	for id := range bucketCount {
		if tx.Bucket(bucketNames[id]) == nil {
			return nil, fmt.Errorf("%w: no bucket %s", ErrCorrupt, bucketNames[id])
		}
	}
	return decodeState(tx.Bucket(metaBucket).Get(stateKey))
}

func (s *state) write(tx *bbolt.Tx) error { return tx.Bucket(metaBucket).Put(stateKey, s.encode()) }

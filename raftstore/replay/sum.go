package replay

import (
	"encoding/binary"
	"math/bits"

	"github.com/charon-kdc/charon/raftstore/setsum"
)

// sum is the lane-wise sum of what a part of the cache holds, kept up to date item by item. Items are keyed hashes already, so a quick mixer does.
type sum [2]uint64

func (s *sum) add(o sum) { s[0], s[1] = s[0]+o[0], s[1]+o[1] }
func (s *sum) sub(o sum) { s[0], s[1] = s[0]-o[0], s[1]-o[1] }

// mix is the finalizer of splitmix64.
func mix(v uint64) uint64 {
	v = (v ^ v>>30) * 0xbf58476d1ce4e5b9
	v = (v ^ v>>27) * 0x94d049bb133111eb
	return v ^ v>>31
}

// sumOf words, in their order.
func sumOf(words ...uint64) sum {
	var a, b uint64 = 0x9e3779b97f4a7c15, 0x6a09e667f3bcc909
	for _, w := range words {
		a, b = mix(a^w), mix(bits.RotateLeft64(b, 23)+w)
	}
	return sum{a, b}
}

func (it *item) sum() sum {
	le := binary.LittleEndian
	return sumOf(le.Uint64(it.k[:]), le.Uint64(it.k[8:]), le.Uint64(it.r[:]))
}

func (c *counter) sum() sum {
	le := binary.LittleEndian
	return sumOf(le.Uint64(c.id[:]), le.Uint64(c.id[8:]), uint64(c.Failures), uint64(c.LastFailure), uint64(c.LastSuccess))
}

// Hash of the state: equal for two that have applied the same entries. It takes a few nanoseconds a bucket, however many items those hold.
func (s *State) Hash() setsum.Hash {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var all sum
	for i, b := range s.buckets {
		if b != nil {
			all.add(sumOf(uint64(s.low+int64(i)), uint64(b.n), b.sum[0], b.sum[1]))
		}
	}
	for _, p := range s.past {
		all.add(sumOf(uint64(p.number), uint64(p.n), p.sum[0], p.sum[1]))
	}
	holding := uint64(0)
	if s.holding {
		holding = 1
	}
	le := binary.LittleEndian
	b := make([]byte, 0, 192)
	for _, v := range []uint64{
		uint64(s.now), uint64(s.low), uint64(s.skew), uint64(s.epoch.NotBefore), uint64(s.items), uint64(s.held), holding, uint64(s.from),
		s.doubles, uint64(s.lastDouble), uint64(len(s.conflicts)), uint64(s.counters.len()), s.counters.sum[0], s.counters.sum[1], all[0], all[1],
	} {
		b = le.AppendUint64(b, v)
	}
	return setsum.HashOf(append(b, s.epoch.ID[:]...))
}

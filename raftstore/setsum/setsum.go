// Package setsum is the hash of a set of records that can be kept up to date record by record.
//
// It owns the formula and must not know what records mean. The sum of a set is the lane-wise sum, modulo 2^64, of the four lanes of
// each record's SHA-256, so the order in which records come and go does not matter, and parts of a set can be summed apart and added.
// It tells accidents: rot, a lost record, a state machine that strayed. It does not withstand somebody who chooses records to make two
// sets collide.
package setsum

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
)

// Size of an encoded Sum, in bytes.
const Size = 32

// Sum of a set. The zero value is the empty set's.
type Sum [4]uint64

// Put adds a record: kind tells sets of keys apart. key and value are not kept.
func (s *Sum) Put(kind byte, key, value []byte) { s.Add(of(kind, key, value)) }

// Delete takes a record away that was put.
func (s *Sum) Delete(kind byte, key, value []byte) {
	d := of(kind, key, value)
	for i := range s {
		s[i] -= d[i]
	}
}

// Add adds the sum of another set.
func (s *Sum) Add(o Sum) {
	for i := range s {
		s[i] += o[i]
	}
}

// of is one record's sum: SHA-256 over kind, u32 length of the key, key, value.
func of(kind byte, key, value []byte) Sum {
	var small [512]byte
	b := append(small[:0], kind)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(key)))
	if len(b)+len(key)+len(value) <= len(small) {
		return lanes(sha256.Sum256(append(append(b, key...), value...)))
	}
	h := sha256.New()
	h.Write(b)
	h.Write(key)
	h.Write(value)
	return lanes([32]byte(h.Sum(small[:0])))
}

func lanes(d [32]byte) (s Sum) {
	for i := range s {
		s[i] = binary.LittleEndian.Uint64(d[8*i:])
	}
	return s
}

// Append appends the Size bytes of s to b.
func (s Sum) Append(b []byte) []byte {
	for _, v := range s {
		b = binary.LittleEndian.AppendUint64(b, v)
	}
	return b
}

// Decode reads what Append wrote from the first Size bytes of b, which must be there.
func Decode(b []byte) (s Sum) {
	for i := range s {
		s[i] = binary.LittleEndian.Uint64(b[8*i:])
	}
	return s
}

func (s Sum) String() string { return hex.EncodeToString(s.Append(nil)) }

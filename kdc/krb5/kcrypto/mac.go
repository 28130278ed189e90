package kcrypto

import (
	"bytes"
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"encoding"
	"hash"
	"sync"
)

// The HMAC here is crypto/hmac's computation with its state laid open: the two padded-key blocks are absorbed once a key, kept as
// the hash's own serialised state and restored for every message into a hash taken from a pool. crypto/hmac allocates five
// objects a key and cannot share one key between goroutines; a KDC meets two fresh session keys a request.

const (
	blockMax = 128 // of SHA-384
	sumMax   = 48  // of SHA-384
	stateMax = 204 // a serialised SHA-384, the largest
)

// hashAlgo is one hash function with a pool of its states.
type hashAlgo struct {
	make  func() hash.Hash
	block int // octets the compression function takes
	state int // octets of a serialised state
	pool  sync.Pool
}

var (
	algoMD5    = hashAlgo{make: md5.New, block: md5.BlockSize, state: 92}
	algoSHA1   = hashAlgo{make: sha1.New, block: sha1.BlockSize, state: 96}
	algoSHA256 = hashAlgo{make: sha256.New, block: sha256.BlockSize, state: 108}
	algoSHA384 = hashAlgo{make: sha512.New384, block: sha512.BlockSize, state: stateMax}
)

// serialisable is what every hash of the standard library is besides a hash.Hash.
type serialisable interface {
	hash.Hash
	encoding.BinaryAppender
	encoding.BinaryUnmarshaler
}

// hasher is one pooled hash with scratch space beside it, so that what is passed through the interface is on the heap already.
type hasher struct {
	h    serialisable
	pad  [blockMax]byte
	sum  [sumMax]byte
	text [64]byte
}

func (a *hashAlgo) get() *hasher {
	if s, ok := a.pool.Get().(*hasher); ok {
		return s
	}
	return &hasher{h: a.make().(serialisable)}
}

func (a *hashAlgo) put(s *hasher) { a.pool.Put(s) }

// macKey is an HMAC key with both padded blocks absorbed. Immutable once made.
type macKey struct {
	algo  *hashAlgo
	inner []byte // serialised state after key xor ipad
	outer []byte // serialised state after key xor opad
}

// newMacKey takes a key of at most algo.block octets; every key of Kerberos is.
func newMacKey(algo *hashAlgo, s *hasher, key []byte) macKey {
	buf := make([]byte, 0, 2*algo.state)
	buf = absorb(algo, s, key, &ipad, buf)
	n := len(buf)
	buf = absorb(algo, s, key, &opad, buf)
	return macKey{algo: algo, inner: buf[:n:n], outer: buf[n:]}
}

// The padding octets of RFC 2104 section 2.
var (
	ipad = [blockMax]byte(bytes.Repeat([]byte{0x36}, blockMax))
	opad = [blockMax]byte(bytes.Repeat([]byte{0x5c}, blockMax))
)

// absorb appends the state of the hash after one block of key xor pad.
func absorb(algo *hashAlgo, s *hasher, key []byte, pad *[blockMax]byte, buf []byte) []byte {
	block := s.pad[:algo.block]
	copy(block, pad[:])
	subtle.XORBytes(block, key, pad[:])
	s.h.Reset()
	s.h.Write(block)
	out, err := s.h.AppendBinary(buf)
	if err != nil {
		panic("kcrypto: hash state cannot be saved: " + err.Error()) // not reachable with the hashes above
	}
	return out
}

// start loads the inner state; the caller writes the message to s.h and calls finish.
func (k *macKey) start(s *hasher) { restore(s, k.inner) }

// finish is the HMAC of what was written since start; it lives in s until s is used again.
func (k *macKey) finish(s *hasher) []byte {
	in := s.h.Sum(s.sum[:0])
	restore(s, k.outer)
	s.h.Write(in)
	return s.h.Sum(s.sum[:0])
}

// of is the HMAC of one message; it lives in s.
func (k *macKey) of(s *hasher, data []byte) []byte {
	k.start(s)
	s.h.Write(data)
	return k.finish(s)
}

func restore(s *hasher, state []byte) {
	if err := s.h.UnmarshalBinary(state); err != nil {
		panic("kcrypto: hash state cannot be restored: " + err.Error()) // we saved it ourselves
	}
}

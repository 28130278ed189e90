package kcrypto

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
)

// CBC with ciphertext stealing and a zero initial vector, as RFC 3962 section 5 has it (CBC-CS3: the last two blocks always
// change places; exactly one block is plain CBC). crypto/cipher's CBC copies the expanded key for each message, so the chain is here.

// ctsEncrypt encrypts b in place. b is at least one block.
func ctsEncrypt(c cipher.Block, b []byte) {
	full := (len(b) - 1) / aes.BlockSize * aes.BlockSize // all but the last, perhaps partial, block
	if full == 0 {
		c.Encrypt(b, b)
		return
	}
	c.Encrypt(b[:aes.BlockSize], b[:aes.BlockSize])
	for i := aes.BlockSize; i < full; i += aes.BlockSize {
		xorBlock(b[i:], b[i-aes.BlockSize:])
		c.Encrypt(b[i:i+aes.BlockSize], b[i:i+aes.BlockSize])
	}
	prev := b[full-aes.BlockSize : full]
	last := b[full:]
	if len(last) == aes.BlockSize {
		xorBlock(last, prev)
		c.Encrypt(last, last)
		swapBlock(prev, last)
		return
	}
	// The padding is zero, so the tail of the last block is the tail of prev; what of prev is not sent is stolen.
	for i := range last {
		last[i], prev[i] = prev[i], last[i]^prev[i]
	}
	c.Encrypt(prev, prev)
}

// ctsDecrypt decrypts src into dst, which have one length and do not overlap. They are at least one block.
func ctsDecrypt(c cipher.Block, dst, src []byte) {
	full := (len(src) - 1) / aes.BlockSize * aes.BlockSize
	if full == 0 {
		c.Decrypt(dst, src)
		return
	}
	stolen := full - aes.BlockSize // where the block stands that was encrypted last
	for i := 0; i < stolen; i += aes.BlockSize {
		c.Decrypt(dst[i:i+aes.BlockSize], src[i:i+aes.BlockSize])
		if i > 0 {
			xorBlock(dst[i:], src[i-aes.BlockSize:])
		}
	}
	mid, last := dst[stolen:full], src[full:]
	c.Decrypt(mid, src[stolen:full])
	for i := range last {
		dst[full+i] = mid[i] ^ last[i]
		mid[i] = last[i]
	}
	c.Decrypt(mid, mid)
	if stolen > 0 {
		xorBlock(mid, src[stolen-aes.BlockSize:])
	}
}

// xorBlock is dst ^= src over one block.
func xorBlock(dst, src []byte) {
	_, _ = dst[15], src[15]
	binary.LittleEndian.PutUint64(dst, binary.LittleEndian.Uint64(dst)^binary.LittleEndian.Uint64(src))
	binary.LittleEndian.PutUint64(dst[8:], binary.LittleEndian.Uint64(dst[8:])^binary.LittleEndian.Uint64(src[8:]))
}

// swapBlock exchanges two blocks.
func swapBlock(a, b []byte) {
	var t [aes.BlockSize]byte
	copy(t[:], a[:aes.BlockSize])
	copy(a, b[:aes.BlockSize])
	copy(b, t[:])
}

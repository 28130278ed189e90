package kcrypto

import (
	"crypto/aes"
	"encoding/binary"
)

// AES with HMAC-SHA2 (RFC 8009): keys come from a counter-mode KDF over HMAC, and the HMAC runs over the ciphertext.

// zeroIV is the initial cipher state, which RFC 8009 section 5 puts in front of the ciphertext in the HMAC.
var zeroIV [aes.BlockSize]byte

// kdfSHA2 is KDF-HMAC-SHA2(key, label, context, 8n) of RFC 8009 section 3; it lives in s. n is at most one HMAC output.
func kdfSHA2(key *macKey, s *hasher, label string, context []byte, n int) []byte {
	key.start(s)
	b := append(s.text[:0], 0, 0, 0, 1)
	b = append(b, label...)
	b = append(b, 0)
	s.h.Write(b)
	if len(context) > 0 {
		s.h.Write(context)
	}
	s.h.Write(binary.BigEndian.AppendUint32(s.text[:0], uint32(8*n)))
	return key.finish(s)[:n]
}

// usageKDF is kdfSHA2 with the label usage|kind (RFC 8009 section 5), in one write.
func usageKDF(key *macKey, s *hasher, u Usage, what kind, n int) []byte {
	b := append(s.text[:0], 0, 0, 0, 1)
	b = binary.BigEndian.AppendUint32(b, uint32(u))
	b = append(b, byte(what), 0)
	b = binary.BigEndian.AppendUint32(b, uint32(8*n))
	return key.of(s, b)[:n]
}

// Ki and Kc are as long as the tag: 128 bits with SHA-256, 192 with SHA-384.
func (k *Key) deriveSHA2(d *usageKey, s *hasher) {
	switch d.kind {
	case kindEncrypt:
		d.block = newAES(usageKDF(&k.base.mac, s, d.usage, kindEncrypt, k.p.keySize))
		d.mac = newMacKey(k.p.sum, s, usageKDF(&k.base.mac, s, d.usage, kindIntegrity, k.p.macSize))
	case kindChecksum:
		d.mac = newMacKey(k.p.sum, s, usageKDF(&k.base.mac, s, d.usage, kindChecksum, k.p.macSize))
	}
}

// sealSHA2 encrypts body (confounder and plaintext) in place and puts the HMAC of the ciphertext behind it.
func (k *Key) sealSHA2(d *usageKey, body, tag []byte) {
	ctsEncrypt(d.block, body)
	s := k.p.sum.get()
	copy(tag, d.macOverCipher(s, body))
	k.p.sum.put(s)
}

// openSHA2 decrypts only what the HMAC vouches for.
func (k *Key) openSHA2(d *usageKey, dst, body, tag []byte) bool {
	s := k.p.sum.get()
	ok := equalMAC(d.macOverCipher(s, body), tag)
	k.p.sum.put(s)
	if ok {
		ctsDecrypt(d.block, dst, body)
	}
	return ok
}

func (d *usageKey) macOverCipher(s *hasher, body []byte) []byte {
	d.mac.start(s)
	s.h.Write(zeroIV[:])
	s.h.Write(body)
	return d.mac.finish(s)
}

// prfSHA2 is KDF-HMAC-SHA2(key, "prf", in) over the whole HMAC output (RFC 8009 section 5).
func (k *Key) prfSHA2(in []byte) []byte {
	s := k.p.sum.get()
	defer k.p.sum.put(s)
	k.once.Do(func() { k.makeBase(s) })
	return append([]byte(nil), kdfSHA2(&k.base.mac, s, "prf", in, k.p.prfSize)...)
}

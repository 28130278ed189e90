package kcrypto

import (
	"crypto/hmac"
	"crypto/md5"
	"crypto/rc4"
	"crypto/sha1"
	"encoding/binary"
)

// RC4-HMAC (RFC 4757): weak, old, and only for principals that ask for it.

// rc4Usage is Microsoft's message type T for a usage (RFC 4757 section 3). The RFC has T=8 for usage 9, too; MIT krb5 1.20
// decrypts only 9 there, and so do we. 23 is GSS Wrap, as MIT has it.
func rc4Usage(u Usage) uint32 {
	switch u {
	case UsageASRepEncPart:
		return 8
	case UsageGSSAcceptorSign:
		return 13
	}
	return uint32(u)
}

// deriveRC4 makes K1 = HMAC-MD5(K, T) for encryption, and Ksign = HMAC-MD5(K, "signaturekey") for checksums, whose usage goes into
// the message instead.
func (k *Key) deriveRC4(d *usageKey, s *hasher) {
	switch d.kind {
	case kindEncrypt:
		t := binary.LittleEndian.AppendUint32(s.text[:0], rc4Usage(d.usage))
		d.mac = newMacKey(k.p.sum, s, k.base.mac.of(s, t)[:md5.Size])
	case kindChecksum:
		t := append(s.text[:0], "signaturekey\x00"...)
		d.mac = newMacKey(k.p.sum, s, k.base.mac.of(s, t)[:md5.Size])
	}
}

// rc4XOR runs RC4 under K3 = HMAC-MD5(K1, checksum) over body in place.
func (d *usageKey) rc4XOR(s *hasher, body, tag []byte) {
	c, err := rc4.NewCipher(d.mac.of(s, tag)[:md5.Size])
	if err != nil {
		panic("kcrypto: " + err.Error()) // sixteen octets are always a key
	}
	c.XORKeyStream(body, body)
}

// sealRC4 encrypts body (confounder and plaintext) in place; the checksum stands before it.
func (k *Key) sealRC4(d *usageKey, body, tag []byte) {
	s := k.p.sum.get()
	defer k.p.sum.put(s)
	copy(tag, d.mac.of(s, body))
	d.rc4XOR(s, body, tag)
}

// openRC4 decrypts body into dst and says whether the checksum fits.
func (k *Key) openRC4(d *usageKey, dst, body, tag []byte) bool {
	s := k.p.sum.get()
	defer k.p.sum.put(s)
	copy(dst, body)
	d.rc4XOR(s, dst, tag)
	return equalMAC(d.mac.of(s, dst), tag)
}

// sumRC4 is HMAC-MD5(Ksign, MD5(T | data)) (RFC 4757 section 4); it lives in s.
func (d *usageKey) sumRC4(s *hasher, u Usage, data []byte) []byte {
	s.h.Reset()
	s.h.Write(binary.LittleEndian.AppendUint32(s.text[:0], rc4Usage(u)))
	s.h.Write(data)
	return d.mac.of(s, s.h.Sum(s.text[:0]))
}

// prfRC4 is HMAC-SHA1 under the key itself, as MIT krb5 has it and RFC 6113 appendix A confirms: RFC 4757 names none.
func (k *Key) prfRC4(in []byte) []byte {
	m := hmac.New(sha1.New, k.raw[:k.p.keySize])
	m.Write(in)
	return m.Sum(nil)
}

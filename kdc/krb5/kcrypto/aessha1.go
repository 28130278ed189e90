package kcrypto

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha1"
)

// AES with HMAC-SHA1-96: the simplified profile of RFC 3961 section 5.3 with the parameters of RFC 3962 section 6.

// foldedMax is the highest usage whose derivation constants are folded once and for all; it covers every registered usage.
const foldedMax = 65

// folded holds the n-folded constants usage|kind for Kc, Ke and Ki: folding costs more than the AES blocks it feeds.
var folded = func() (t [foldedMax + 1][3][aes.BlockSize]byte) {
	for u := range t {
		for i, what := range [...]kind{kindChecksum, kindEncrypt, kindIntegrity} {
			t[u][i] = fold(Usage(u), what)
		}
	}
	return t
}()

// prfConstant is "prf", n-folded.
var prfConstant = [aes.BlockSize]byte(nfold([]byte("prf"), aes.BlockSize))

// kerberosConstant is "kerberos", n-folded; eight octets double into themselves rotated.
var kerberosConstant = [aes.BlockSize]byte(nfold([]byte("kerberos"), aes.BlockSize))

func fold(u Usage, what kind) [aes.BlockSize]byte {
	return [aes.BlockSize]byte(nfold([]byte{byte(u >> 24), byte(u >> 16), byte(u >> 8), byte(u), byte(what)}, aes.BlockSize))
}

func foldedConstant(u Usage, what kind) [aes.BlockSize]byte {
	if u > foldedMax {
		return fold(u, what)
	}
	switch what {
	case kindChecksum:
		return folded[u][0]
	case kindEncrypt:
		return folded[u][1]
	default:
		return folded[u][2]
	}
}

// dk is DK(key, constant) of RFC 3961 section 5.1 for a key of n octets under the base cipher; it lives in s.
func dk(base cipher.Block, s *hasher, constant [aes.BlockSize]byte, n int) []byte {
	copy(s.text[:], constant[:])
	out := s.text[:2*aes.BlockSize]
	base.Encrypt(out[:aes.BlockSize], out[:aes.BlockSize])
	if n > aes.BlockSize {
		base.Encrypt(out[aes.BlockSize:], out[:aes.BlockSize])
	}
	return out[:n]
}

func (k *Key) deriveSHA1(d *usageKey, s *hasher) {
	n := k.p.keySize
	switch d.kind {
	case kindEncrypt:
		d.block = newAES(dk(k.base.block, s, foldedConstant(d.usage, kindEncrypt), n))
		d.mac = newMacKey(k.p.sum, s, dk(k.base.block, s, foldedConstant(d.usage, kindIntegrity), n))
	case kindPRF:
		d.block = newAES(dk(k.base.block, s, prfConstant, n))
	default:
		d.mac = newMacKey(k.p.sum, s, dk(k.base.block, s, foldedConstant(d.usage, kindChecksum), n))
	}
}

// sealSHA1 encrypts body (confounder and plaintext) in place and puts the HMAC of what it was behind it (RFC 3961 section 5.3).
func (k *Key) sealSHA1(d *usageKey, body, tag []byte) {
	s := k.p.sum.get()
	copy(tag, d.mac.of(s, body))
	k.p.sum.put(s)
	ctsEncrypt(d.block, body)
}

// openSHA1 decrypts body into dst and says whether the HMAC fits.
func (k *Key) openSHA1(d *usageKey, dst, body, tag []byte) bool {
	ctsDecrypt(d.block, dst, body)
	s := k.p.sum.get()
	defer k.p.sum.put(s)
	return equalMAC(d.mac.of(s, dst), tag)
}

// prfSHA1 is E(DK(key, "prf"), first 16 octets of SHA1(in)) (RFC 3962 section 6, RFC 3961 section 5.3).
func (k *Key) prfSHA1(in []byte) []byte {
	h := sha1.Sum(in)
	out := append([]byte(nil), h[:aes.BlockSize]...)
	k.usageKey(0, kindPRF).block.Encrypt(out, out)
	return out
}

// newAES takes 16 or 32 octets and so cannot fail.
func newAES(key []byte) cipher.Block {
	b, err := aes.NewCipher(key)
	if err != nil {
		panic("kcrypto: " + err.Error())
	}
	return b
}

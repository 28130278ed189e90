package kcrypto

import (
	"crypto/subtle"
	"fmt"
	"io"
	"slices"
)

// CipherLen is the length in octets of the ciphertext of n octets of plaintext.
func (k *Key) CipherLen(n int) int { return k.p.confSize + n + k.p.macSize }

// Encrypt is encryption with integrity (RFC 3961 section 3); rand gives the confounder.
func (k *Key) Encrypt(rand io.Reader, u Usage, plain []byte) ([]byte, error) {
	return k.AppendEncrypt(nil, rand, u, plain)
}

// AppendEncrypt appends the ciphertext of plain to dst. On an error, which only rand can cause, dst is returned as it was.
// plain may not overlap the ciphertext, unless it stands exactly where the plaintext is put, confounder and all.
func (k *Key) AppendEncrypt(dst []byte, rand io.Reader, u Usage, plain []byte) ([]byte, error) {
	n := len(dst)
	out := slices.Grow(dst, k.CipherLen(len(plain)))[:n+k.CipherLen(len(plain))]
	body, tag := k.split(out[n:])
	copy(body[k.p.confSize:], plain)
	if _, err := io.ReadFull(rand, body[:k.p.confSize]); err != nil {
		return dst, fmt.Errorf("reading random octets for a confounder: %w", err)
	}
	d := k.usageKey(u, kindEncrypt)
	switch k.p.etype {
	case AES128SHA1, AES256SHA1:
		k.sealSHA1(d, body, tag)
	case AES128SHA2, AES256SHA2:
		k.sealSHA2(d, body, tag)
	case RC4HMAC:
		k.sealRC4(d, body, tag)
	}
	return out, nil
}

// Decrypt is the plaintext of cipher, in a new slice. Everything that is wrong, length included, is ErrIntegrity.
func (k *Key) Decrypt(u Usage, cipher []byte) ([]byte, error) {
	b, err := k.decrypt(u, cipher)
	if err != nil {
		return nil, err
	}
	return b[k.p.confSize:], nil
}

// decrypt leaves the confounder in front.
func (k *Key) decrypt(u Usage, cipher []byte) ([]byte, error) {
	if len(cipher) < k.CipherLen(0) {
		return nil, ErrIntegrity
	}
	body, tag := k.split(cipher)
	out := make([]byte, len(body))
	d := k.usageKey(u, kindEncrypt)
	ok := false
	switch k.p.etype {
	case AES128SHA1, AES256SHA1:
		ok = k.openSHA1(d, out, body, tag)
	case AES128SHA2, AES256SHA2:
		ok = k.openSHA2(d, out, body, tag)
	case RC4HMAC:
		ok = k.openRC4(d, out, body, tag)
	}
	if !ok {
		return nil, ErrIntegrity
	}
	return out, nil
}

// split is where the encrypted octets and the HMAC stand in a ciphertext: RC4 puts the HMAC first.
func (k *Key) split(c []byte) (body, tag []byte) {
	if k.p.etype == RC4HMAC {
		return c[k.p.macSize:], c[:k.p.macSize]
	}
	n := len(c) - k.p.macSize
	return c[:n:n], c[n:]
}

// equalMAC compares the first len(tag) octets of a full HMAC in constant time.
func equalMAC(full, tag []byte) bool {
	return len(tag) <= len(full) && subtle.ConstantTimeCompare(full[:len(tag)], tag) == 1
}

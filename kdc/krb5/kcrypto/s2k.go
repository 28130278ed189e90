package kcrypto

import (
	"crypto/pbkdf2"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
	"fmt"
	"hash"
	"unicode/utf16"
	"unicode/utf8"

	"golang.org/x/crypto/md4" //lint:ignore SA1019 RFC 4757 section 2 asks for it
)

// Iterations of PBKDF2: the defaults are those of RFC 3962 section 4 and RFC 8009 section 4, and also the fewest accepted, as in MIT
// krb5, since a forged ETYPE-INFO2 with one iteration would make a password cheap to guess. The most is about a second of work,
// since a forged count must not hang a client (RFC 3962 section 8).
const (
	iterationsSHA1 = 4096
	iterationsSHA2 = 32768
	iterationsMax  = 1 << 20
)

// DefaultS2KParams is the s2kparams that StringToKey takes nil for: a 32-bit big-endian iteration count; nil for RC4, which has none.
func DefaultS2KParams(e EType) []byte {
	n := defaultIterations(e)
	if n == 0 {
		return nil
	}
	return binary.BigEndian.AppendUint32(nil, n)
}

func defaultIterations(e EType) uint32 {
	switch e {
	case AES128SHA1, AES256SHA1:
		return iterationsSHA1
	case AES128SHA2, AES256SHA2:
		return iterationsSHA2
	}
	return 0
}

// StringToKey makes a key of a UTF-8 password (RFC 3962 section 4, RFC 8009 section 4, RFC 4757 section 2). params is the s2kparams of
// ETYPE-INFO2, nil or empty for the default: for AES four octets, an iteration count between the enctype's default and 2^20; for RC4
// nothing, and the salt does not count. What is out of range is ErrParams.
func StringToKey(e EType, password, salt string, params []byte) (*Key, error) {
	if !e.Supported() {
		return nil, fmt.Errorf("%w: %v", ErrEType, e)
	}
	n := defaultIterations(e)
	switch {
	case len(params) == 0:
	case n == 0:
		return nil, fmt.Errorf("%w: %v takes none", ErrParams, e)
	case len(params) != 4:
		return nil, fmt.Errorf("%w: %d octets, want 4", ErrParams, len(params))
	default:
		got := binary.BigEndian.Uint32(params)
		if got < n || got > iterationsMax {
			return nil, fmt.Errorf("%w: %d iterations, want %d to %d", ErrParams, got, n, iterationsMax)
		}
		n = got
	}
	return stringToKey(e, password, salt, int(n))
}

// stringToKey takes any positive count; the published vectors go down to one.
func stringToKey(e EType, password, salt string, iterations int) (*Key, error) {
	switch e {
	case AES128SHA1, AES256SHA1:
		return stretchSHA1(e, password, salt, iterations)
	case AES128SHA2:
		return stretchSHA2(e, sha256.New, password, salt, iterations)
	case AES256SHA2:
		return stretchSHA2(e, sha512.New384, password, salt, iterations)
	}
	return ntHash(password)
}

// stretchSHA1 is DK(random-to-key(PBKDF2(password, salt)), "kerberos") (RFC 3962 section 4).
func stretchSHA1(e EType, password, salt string, iterations int) (*Key, error) {
	t, err := pbkdf2.Key(sha1.New, password, []byte(salt), iterations, e.KeySize())
	if err != nil {
		return nil, fmt.Errorf("string-to-key: %w", err)
	}
	s := algoSHA1.get()
	defer algoSHA1.put(s)
	return NewKey(e, dk(newAES(t), s, kerberosConstant, e.KeySize()))
}

// stretchSHA2 is KDF-HMAC-SHA2(PBKDF2(password, enctype name | 0 | salt), "kerberos") (RFC 8009 section 4).
func stretchSHA2[H hash.Hash](e EType, h func() H, password, salt string, iterations int) (*Key, error) {
	t, err := pbkdf2.Key(h, password, []byte(e.String()+"\x00"+salt), iterations, e.KeySize())
	if err != nil {
		return nil, fmt.Errorf("string-to-key: %w", err)
	}
	algo := profileOf(e).sum
	s := algo.get()
	defer algo.put(s)
	m := newMacKey(algo, s, t)
	return NewKey(e, kdfSHA2(&m, s, "kerberos", nil, e.KeySize()))
}

// ntHash is MD4 over the password in little-endian UTF-16 (RFC 4757 section 2).
func ntHash(password string) (*Key, error) {
	if !utf8.ValidString(password) {
		return nil, fmt.Errorf("string-to-key: the password is not UTF-8")
	}
	h := md4.New()
	for _, u := range utf16.Encode([]rune(password)) {
		h.Write([]byte{byte(u), byte(u >> 8)})
	}
	return NewKey(RC4HMAC, h.Sum(nil))
}

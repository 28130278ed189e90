package kcrypto

import (
	"crypto/subtle"
	"fmt"
)

// PRF is the enctype's pseudo-random function (RFC 3961 section 3): 16 octets for AES-SHA1, 32 and 48 for AES-SHA2, 20 for RC4.
func (k *Key) PRF(in []byte) ([]byte, error) {
	switch k.p.etype {
	case AES128SHA1, AES256SHA1:
		return k.prfSHA1(in), nil
	case AES128SHA2, AES256SHA2:
		return k.prfSHA2(in), nil
	case RC4HMAC:
		return k.prfRC4(in), nil
	}
	return nil, fmt.Errorf("%w: %v has no PRF", ErrEType, k.p.etype)
}

// PRFPlus is PRF+ of RFC 6113 section 5.1: n octets of PRF(1|in) PRF(2|in) and so on. The counter is one octet, so n is at most
// 255 times the output of PRF.
func PRFPlus(k *Key, in []byte, n int) ([]byte, error) {
	if n < 0 || n > 255*k.p.prfSize {
		return nil, fmt.Errorf("kcrypto: PRF+ of %d octets, at most %d", n, 255*k.p.prfSize)
	}
	counted := append(make([]byte, 1, 1+len(in)), in...)
	out := make([]byte, 0, n+k.p.prfSize)
	for len(out) < n {
		counted[0]++
		b, err := k.PRF(counted)
		if err != nil {
			return nil, err
		}
		out = append(out, b...)
	}
	return out[:n], nil
}

// CF2 is KRB-FX-CF2 of RFC 6113 section 5.1: one key out of two, of k1's enctype. The enctypes may differ.
func CF2(k1, k2 *Key, pepper1, pepper2 string) (*Key, error) {
	a, err := PRFPlus(k1, []byte(pepper1), k1.p.keySize)
	if err != nil {
		return nil, err
	}
	b, err := PRFPlus(k2, []byte(pepper2), k1.p.keySize)
	if err != nil {
		return nil, err
	}
	subtle.XORBytes(a, a, b)
	return RandomToKey(k1.p.etype, a)
}

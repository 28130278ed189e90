package kcrypto

import "fmt"

// Checksum is the keyed checksum of data, of the type k.EType().ChecksumType() (RFC 3961 section 4).
func (k *Key) Checksum(u Usage, data []byte) ([]byte, error) {
	return k.AppendChecksum(make([]byte, 0, k.p.macSize), u, data)
}

// AppendChecksum appends Checksum to dst.
func (k *Key) AppendChecksum(dst []byte, u Usage, data []byte) ([]byte, error) {
	s := k.p.sum.get()
	defer k.p.sum.put(s)
	return append(dst, k.checksum(s, u, data)[:k.p.macSize]...), nil
}

// VerifyChecksum says whether sum is the checksum of data. t must be the keyed type of the key's own enctype, else ErrChecksumType:
// an unkeyed checksum proves nothing, and a keyed one of another enctype is a key used twice. Anything else that is wrong is ErrIntegrity.
func (k *Key) VerifyChecksum(t ChecksumType, u Usage, data, sum []byte) error {
	if t != k.p.cksum {
		return fmt.Errorf("%w: type %d under %v", ErrChecksumType, t, k.p.etype)
	}
	if len(sum) != k.p.macSize {
		return ErrIntegrity
	}
	s := k.p.sum.get()
	defer k.p.sum.put(s)
	if !equalMAC(k.checksum(s, u, data), sum) {
		return ErrIntegrity
	}
	return nil
}

// checksum is the full HMAC; it lives in s.
func (k *Key) checksum(s *hasher, u Usage, data []byte) []byte {
	if k.p.etype == RC4HMAC {
		return k.usageKey(0, kindChecksum).sumRC4(s, u, data)
	}
	d := k.usageKey(u, kindChecksum)
	return d.mac.of(s, data)
}

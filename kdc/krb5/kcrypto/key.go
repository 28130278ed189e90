package kcrypto

import (
	"crypto/cipher"
	"crypto/subtle"
	"fmt"
	"io"
	"log/slog"
	"strconv"
	"sync"
	"sync/atomic"
)

// keyMax is the longest key in octets.
const keyMax = 32

// derivedMax bounds the usage keys that one Key remembers. A KDC uses four of a session key and two of a service key.
const derivedMax = 16

// Key is one protocol key. It is immutable, safe for concurrent use, always handled as *Key, and never shows its octets when printed.
// It remembers the keys derived from it, so one long-lived Key is far cheaper than a new Key for each message.
type Key struct {
	p   *profile
	raw [keyMax]byte // the first p.keySize octets

	once sync.Once // guards base
	base usageKey  // what derivation runs over: a block cipher (RFC 3962) or an HMAC (RFC 8009, RFC 4757)

	derived atomic.Pointer[usageKey] // newest first; invariant: at most derivedMax long
}

// usageKey is a derived key made ready: a list element, immutable once reachable.
type usageKey struct {
	usage Usage
	kind  kind
	depth int          // of the list from here
	block cipher.Block // Ke, or the key of the PRF; nil where only an HMAC is needed
	mac   macKey       // Ki or Kc
	next  *usageKey
}

// kind is what a derived key does; the values are the last octet of the derivation constant (RFC 3961 section 5.3).
type kind byte

const (
	kindChecksum  kind = 0x99 // Kc
	kindEncrypt   kind = 0xaa // Ke, and Ki with it
	kindIntegrity kind = 0x55 // Ki; never cached alone
	kindPRF       kind = 0
)

// NewKey makes a key of exactly e.KeySize() octets, which it copies. Anything else is ErrEType.
func NewKey(e EType, b []byte) (*Key, error) {
	p := profileOf(e)
	if p == nil {
		return nil, fmt.Errorf("%w: %v", ErrEType, e)
	}
	if len(b) != p.keySize {
		return nil, fmt.Errorf("%w: key of %d octets for %v, want %d", ErrEType, len(b), e, p.keySize)
	}
	k := &Key{p: p}
	copy(k.raw[:], b)
	return k, nil
}

// RandomToKey is random-to-key of RFC 3961: the identity for every enctype here, so b has e.KeySize() octets.
func RandomToKey(e EType, b []byte) (*Key, error) { return NewKey(e, b) }

// GenerateKey reads a new key from rand.
func GenerateKey(rand io.Reader, e EType) (*Key, error) {
	p := profileOf(e)
	if p == nil {
		return nil, fmt.Errorf("%w: %v", ErrEType, e)
	}
	k := &Key{p: p}
	if _, err := io.ReadFull(rand, k.raw[:p.keySize]); err != nil {
		return nil, fmt.Errorf("reading random octets for a key: %w", err)
	}
	return k, nil
}

// EType is the key's enctype.
func (k *Key) EType() EType { return k.p.etype }

// Bytes is a copy of the key's octets.
func (k *Key) Bytes() []byte { return k.AppendTo(nil) }

// AppendTo appends the key's octets to dst.
func (k *Key) AppendTo(dst []byte) []byte { return append(dst, k.raw[:k.p.keySize]...) }

// Equal says whether both are the same enctype and octets, in time that does not depend on the octets. Two nil keys are equal.
func (k *Key) Equal(o *Key) bool {
	if k == nil || o == nil {
		return k == o
	}
	return k.p == o.p && subtle.ConstantTimeCompare(k.raw[:], o.raw[:]) == 1
}

// String is "[key etype=18]": never the octets.
func (k *Key) String() string {
	if k == nil {
		return "[key nil]"
	}
	return "[key etype=" + strconv.Itoa(int(k.p.etype)) + "]"
}

// GoString is String.
func (k *Key) GoString() string { return k.String() }

// Format prints String for every verb, so that %x and %+v show no octets either.
func (k *Key) Format(f fmt.State, _ rune) { io.WriteString(f, k.String()) }

// LogValue is String.
func (k *Key) LogValue() slog.Value { return slog.StringValue(k.String()) }

// MarshalText is String; encodings that fall back to text print no octets.
func (k *Key) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// MarshalJSON is String, quoted.
func (k *Key) MarshalJSON() ([]byte, error) { return []byte(strconv.Quote(k.String())), nil }

// usageKey finds or derives the key for one use.
func (k *Key) usageKey(u Usage, what kind) *usageKey {
	head := k.derived.Load()
	for d := head; d != nil; d = d.next {
		if d.usage == u && d.kind == what {
			return d
		}
	}
	d := &usageKey{usage: u, kind: what}
	k.derive(d)
	for {
		d.next, d.depth = head, 1
		if head != nil {
			d.depth = head.depth + 1
		}
		// Two goroutines may both add the same key; the second is a duplicate within the bound, and harmless.
		if d.depth > derivedMax || k.derived.CompareAndSwap(head, d) {
			return d
		}
		head = k.derived.Load()
	}
}

// derive fills d. The hash is taken from the pool once for all that d needs.
func (k *Key) derive(d *usageKey) {
	s := k.p.sum.get()
	defer k.p.sum.put(s)
	k.once.Do(func() { k.makeBase(s) })
	switch k.p.etype {
	case AES128SHA1, AES256SHA1:
		k.deriveSHA1(d, s)
	case AES128SHA2, AES256SHA2:
		k.deriveSHA2(d, s)
	case RC4HMAC:
		k.deriveRC4(d, s)
	}
}

func (k *Key) makeBase(s *hasher) {
	key := k.raw[:k.p.keySize]
	switch k.p.etype {
	case AES128SHA1, AES256SHA1:
		k.base.block = newAES(key)
	default:
		k.base.mac = newMacKey(k.p.sum, s, key)
	}
}

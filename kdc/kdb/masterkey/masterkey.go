// Package masterkey seals the secrets of the replicated state under the cluster's master keys:
// AES-256-GCM, with associated data that binds a box to the record it was made for.
//
// It owns the key ring, its file and the form of the associated data. It must not know where sealed values are stored
// or what they mean.
package masterkey

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	statev1 "github.com/charon-kdc/charon/proto/charon/state/v1"
)

const (
	keySize   = 32
	nonceSize = 12
	tagSize   = 16
	// plainMax bounds what one box holds: the largest thing sealed is a CA key.
	plainMax = 64 << 10
	// versionsMax bounds a ring file.
	versionsMax = 64
)

var (
	// ErrOpen says that a box does not open: another key, another record, or changed bytes. It never says which.
	ErrOpen = errors.New("sealed value does not open under the master key")
	// ErrNoVersion says that the ring lacks the master key version that a box names.
	ErrNoVersion = errors.New("master key version not in the ring")
)

// Ring holds the master key versions a node knows. It is safe for concurrent use, rotations included. It prints as "[master key ring]".
type Ring struct {
	mu sync.RWMutex
	// current is the newest version of a ring that was read or made, until Use says which one the realm is at.
	current uint32
	keys    map[uint32]*entry
}

type entry struct {
	raw  [keySize]byte
	aead cipher.AEAD
}

// AAD names the record that a sealed value belongs to. A box opens only under equal fields.
type AAD struct {
	// ClusterID is 16 bytes.
	ClusterID []byte
	Realm     string
	// RecordType is what the value is: "principal-key" or "secret/NAME".
	RecordType string
	// PrincipalID is 16 bytes, or empty.
	PrincipalID []byte
	KVNO        uint32
	EType       int32
	// Salt as it stands in the record.
	Salt string
}

// KeyAAD is the associated data of one of p's keys, current or in its history. A rename leaves every field of it as it
// was, so keys need no new seal.
func KeyAAD(clusterID []byte, p *statev1.Principal, k *statev1.Key) AAD {
	return AAD{
		ClusterID:   clusterID,
		Realm:       p.GetRealm(),
		RecordType:  "principal-key",
		PrincipalID: p.GetId(),
		KVNO:        k.GetKvno(),
		EType:       k.GetEtype(),
		Salt:        k.GetSalt(),
	}
}

// SecretAAD is the associated data of the cluster secret with that name.
func SecretAAD(clusterID []byte, name string) AAD {
	return AAD{ClusterID: clusterID, RecordType: "secret/" + name}
}

// Generate makes a ring with one fresh key, version 1.
func Generate(rand io.Reader) (*Ring, error) { return GenerateVersion(rand, 1) }

// GenerateVersion makes a ring with one fresh key of that version, which must not be 0.
func GenerateVersion(rand io.Reader, version uint32) (*Ring, error) {
	if version == 0 {
		return nil, errors.New("making a master key: version 0")
	}
	r := &Ring{keys: map[uint32]*entry{}}
	var raw [keySize]byte
	if _, err := io.ReadFull(rand, raw[:]); err != nil {
		return nil, fmt.Errorf("making a master key: %w", err)
	}
	if err := r.add(version, raw); err != nil {
		return nil, err
	}
	r.current = version
	return r, nil
}

func (r *Ring) add(version uint32, raw [keySize]byte) error {
	e, err := newEntry(raw)
	if err != nil {
		return err
	}
	r.keys[version] = e
	return nil
}

func newEntry(raw [keySize]byte) (*entry, error) {
	b, err := aes.NewCipher(raw[:])
	if err != nil {
		return nil, err
	}
	a, err := cipher.NewGCM(b)
	if err != nil {
		return nil, err
	}
	return &entry{raw: raw, aead: a}, nil
}

// Current is the version that Seal uses.
func (r *Ring) Current() uint32 {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.current
}

// Use has Seal work under version from now on. ErrNoVersion, and nothing has changed.
func (r *Ring) Use(version uint32) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.keys[version] == nil {
		return fmt.Errorf("master key version %d: %w", version, ErrNoVersion)
	}
	r.current = version
	return nil
}

// UseNone has Seal fail with ErrNoVersion until Use.
func (r *Ring) UseNone() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.current = 0
}

// Check tells a version's key from others without giving it away: 32 bytes. ErrNoVersion.
func (r *Ring) Check(clusterID []byte, version uint32) ([]byte, error) {
	key, err := r.Key(version)
	if err != nil {
		return nil, err
	}
	return Check(clusterID, version, key), nil
}

// Check is that of a key (32 bytes).
func Check(clusterID []byte, version uint32, key []byte) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte("charon master key check 1"))
	h.Write(binary.BigEndian.AppendUint32(nil, version))
	h.Write(clusterID)
	return h.Sum(nil)
}

// Key is the secret itself: 32 bytes, for another node's disk only. ErrNoVersion.
func (r *Ring) Key(version uint32) ([]byte, error) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	e := r.keys[version]
	if e == nil {
		return nil, fmt.Errorf("master key version %d: %w", version, ErrNoVersion)
	}
	return bytes.Clone(e.raw[:]), nil
}

// Versions that the ring holds, ascending.
func (r *Ring) Versions() []uint32 {
	r.mu.RLock()
	defer r.mu.RUnlock()
	out := make([]uint32, 0, len(r.keys))
	for v := range r.keys {
		out = append(out, v)
	}
	slices.Sort(out)
	return out
}

// Seal encrypts plain (at most 64 KiB) under the current version with a random 96-bit nonce.
func (r *Ring) Seal(rand io.Reader, aad AAD, plain []byte) (*statev1.Sealed, error) {
	if len(plain) > plainMax {
		return nil, fmt.Errorf("sealing %s: %d bytes; at most %d", aad.RecordType, len(plain), plainMax)
	}
	r.mu.RLock()
	version, e := r.current, r.keys[r.current]
	r.mu.RUnlock()
	if e == nil {
		return nil, fmt.Errorf("sealing %s: %w", aad.RecordType, ErrNoVersion)
	}
	box := make([]byte, nonceSize, nonceSize+len(plain)+tagSize)
	if _, err := io.ReadFull(rand, box); err != nil {
		return nil, fmt.Errorf("sealing %s: %w", aad.RecordType, err)
	}
	box = e.aead.Seal(box, box[:nonceSize], plain, aad.encode(version))
	return &statev1.Sealed{MasterKeyVersion: version, Box: box}, nil
}

// Open decrypts s into a new slice. Errors: ErrNoVersion, ErrOpen.
func (r *Ring) Open(aad AAD, s *statev1.Sealed) ([]byte, error) {
	r.mu.RLock()
	e := r.keys[s.GetMasterKeyVersion()]
	r.mu.RUnlock()
	if e == nil {
		return nil, fmt.Errorf("opening %s, version %d: %w", aad.RecordType, s.GetMasterKeyVersion(), ErrNoVersion)
	}
	box := s.GetBox()
	if len(box) < nonceSize+tagSize || len(box) > nonceSize+plainMax+tagSize {
		return nil, fmt.Errorf("opening %s: %w", aad.RecordType, ErrOpen)
	}
	plain, err := e.aead.Open(nil, box[:nonceSize], box[nonceSize:], aad.encode(s.GetMasterKeyVersion()))
	if err != nil {
		return nil, fmt.Errorf("opening %s: %w", aad.RecordType, ErrOpen)
	}
	return plain, nil
}

// encode is injective: every variable field carries its length.
func (a AAD) encode(version uint32) []byte {
	b := make([]byte, 0, 96+len(a.Realm)+len(a.Salt))
	b = append(b, "charon-aad-1"...)
	for _, f := range [][]byte{a.ClusterID, []byte(a.Realm), []byte(a.RecordType), a.PrincipalID, []byte(a.Salt)} {
		b = binary.BigEndian.AppendUint32(b, uint32(len(f)))
		b = append(b, f...)
	}
	b = binary.BigEndian.AppendUint32(b, a.KVNO)
	b = binary.BigEndian.AppendUint32(b, uint32(a.EType))
	return binary.BigEndian.AppendUint32(b, version)
}

func (r *Ring) String() string               { return "[master key ring]" }
func (r *Ring) GoString() string             { return r.String() }
func (r *Ring) Format(s fmt.State, _ rune)   { _, _ = io.WriteString(s, r.String()) }
func (r *Ring) MarshalJSON() ([]byte, error) { return []byte(`"[master key ring]"`), nil }

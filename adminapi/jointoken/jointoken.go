// Package jointoken is the text that lets one new node into the cluster, and the proof its holder gives of it.
//
// It owns the format and the proof, so that whoever makes tokens (adminapi), whoever redeems them (node/join) and whoever
// types them (cmd/charon) agree. It must not know the store, the network or who may create tokens.
//
// The secret in the text is the seed of an Ed25519 key. The realm keeps SHA-256 of the public half, the holder signs: so
// neither a reader of the state nor a node that was talked to under a false address can use a token.
package jointoken

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"regexp"
	"strconv"
	"strings"
	"time"

	statev1 "github.com/charon-kdc/charon/proto/charon/state/v1"
)

const (
	prefix   = "CH1"
	textMax  = 512
	idBytes  = 8
	context  = "charon join proof 1\x00"
	secretSz = ed25519.SeedSize
)

// ErrMalformed says that a text is no join token. Errors wrap it and never hold the text.
var ErrMalformed = errors.New("not a join token")

// ErrRefused says that a proof does not belong to the token.
var ErrRefused = errors.New("join token refused")

var nodeName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// Token is one join token: CH1.<CA pin, hex>.<address>.<node name or nothing>.<id and secret, base64url>.
type Token struct {
	// ID names the record in the realm state.
	ID [idBytes]byte
	// Pin is SHA-256 of the node authority's certificate (DER).
	Pin [sha256.Size]byte
	// Address is host:port of a node's peer listener.
	Address string
	// NodeName is the only name the joiner may take; empty: any that is free.
	NodeName string

	secret [secretSz]byte
}

// New makes a token with a random id and secret.
func New(rand io.Reader, pin [sha256.Size]byte, address, name string) (*Token, error) {
	t := &Token{Pin: pin, Address: address, NodeName: name}
	if err := t.check(); err != nil {
		return nil, err
	}
	var b [idBytes + secretSz]byte
	if _, err := io.ReadFull(rand, b[:]); err != nil {
		return nil, fmt.Errorf("making a join token: %w", err)
	}
	copy(t.ID[:], b[:idBytes])
	copy(t.secret[:], b[idBytes:])
	return t, nil
}

// CheckNodeName tells whether name can name a node: one lower-case DNS label.
func CheckNodeName(name string) error {
	if !nodeName.MatchString(name) {
		return fmt.Errorf("node name %q: 1 to 63 of a-z, 0-9 and '-', not at the ends", name)
	}
	return nil
}

func (t *Token) check() error {
	if t.NodeName != "" {
		if err := CheckNodeName(t.NodeName); err != nil {
			return fmt.Errorf("%w: %w", ErrMalformed, err)
		}
	}
	host, port, err := net.SplitHostPort(t.Address)
	if err != nil || host == "" {
		return fmt.Errorf("%w: its address must be host:port", ErrMalformed)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return fmt.Errorf("%w: its port must be 1 to 65535", ErrMalformed)
	}
	return nil
}

// Parse reads a token's text; blanks around it do not matter. Errors are ErrMalformed.
func Parse(text string) (*Token, error) {
	text = strings.TrimSpace(text)
	if len(text) > textMax {
		return nil, fmt.Errorf("%w: longer than %d bytes", ErrMalformed, textMax)
	}
	// The address in the middle may hold dots; no other part does.
	rest, ok := strings.CutPrefix(text, prefix+".")
	if !ok {
		return nil, fmt.Errorf("%w: it must begin with %s", ErrMalformed, prefix+".")
	}
	pin, rest, _ := strings.Cut(rest, ".")
	i := strings.LastIndexByte(rest, '.')
	if i < 0 {
		return nil, fmt.Errorf("%w: parts are missing", ErrMalformed)
	}
	rest, secret := rest[:i], rest[i+1:]
	i = strings.LastIndexByte(rest, '.')
	if i < 0 {
		return nil, fmt.Errorf("%w: parts are missing", ErrMalformed)
	}
	t := &Token{Address: rest[:i], NodeName: rest[i+1:]}
	if b, err := hex.DecodeString(pin); err != nil || len(b) != len(t.Pin) || pin != strings.ToLower(pin) {
		return nil, fmt.Errorf("%w: its CA pin must be %d hex digits", ErrMalformed, 2*len(t.Pin))
	} else {
		copy(t.Pin[:], b)
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(secret)
	if err != nil || len(b) != idBytes+secretSz {
		return nil, fmt.Errorf("%w: its secret is incomplete", ErrMalformed)
	}
	copy(t.ID[:], b[:idBytes])
	copy(t.secret[:], b[idBytes:])
	if err := t.check(); err != nil {
		return nil, err
	}
	return t, nil
}

// Encode is the token's text, secret included. String does not show it.
func (t *Token) Encode() string {
	secret := base64.RawURLEncoding.EncodeToString(append(bytes.Clone(t.ID[:]), t.secret[:]...))
	return strings.Join([]string{prefix, hex.EncodeToString(t.Pin[:]), t.Address, t.NodeName, secret}, ".")
}

// String names the token without its secret.
func (t *Token) String() string { return "[join token " + hex.EncodeToString(t.ID[:]) + "]" }

// GoString is String, so that %#v shows no secret either.
func (t *Token) GoString() string { return t.String() }

// Record is what the realm state keeps of the token: a hash of the public half of its secret, never the secret.
func (t *Token) Record(created, expires time.Time, createdBy string) *statev1.Token {
	sum := sha256.Sum256(t.public())
	return &statev1.Token{
		Id:         bytes.Clone(t.ID[:]),
		NodeName:   t.NodeName,
		SecretHash: sum[:],
		ExpiresAt:  expires.UnixMilli(),
		CreatedAt:  created.UnixMilli(),
		CreatedBy:  createdBy,
	}
}

func (t *Token) key() ed25519.PrivateKey   { return ed25519.NewKeyFromSeed(t.secret[:]) }
func (t *Token) public() ed25519.PublicKey { return t.key().Public().(ed25519.PublicKey) }

// Proof shows that its maker holds a token's secret, on one TLS connection, for one public key.
type Proof struct {
	Public    []byte // Ed25519, 32 bytes
	Signature []byte // 64 bytes
}

// Prove signs for one connection (exporter: 32 bytes of RFC 9266 keying material) and one joiner (spki: its
// SubjectPublicKeyInfo, DER).
func (t *Token) Prove(exporter, spki []byte) Proof {
	return Proof{Public: t.public(), Signature: ed25519.Sign(t.key(), proofText(t.ID[:], exporter, spki))}
}

// Verify checks p against the record the realm keeps. It does not look at expiry or use: the state machine decides those.
// Errors are ErrRefused.
func Verify(rec *statev1.Token, p Proof, exporter, spki []byte) error {
	if len(p.Public) != ed25519.PublicKeySize || len(p.Signature) != ed25519.SignatureSize {
		return ErrRefused
	}
	sum := sha256.Sum256(p.Public)
	if subtle.ConstantTimeCompare(sum[:], rec.GetSecretHash()) != 1 {
		return ErrRefused
	}
	if !ed25519.Verify(p.Public, proofText(rec.GetId(), exporter, spki), p.Signature) {
		return ErrRefused
	}
	return nil
}

func proofText(id, exporter, spki []byte) []byte {
	key := sha256.Sum256(spki)
	out := append([]byte(context), id...)
	out = append(out, exporter...)
	return append(out, key[:]...)
}

// UsedBy is how the state names the joiner that used a token: SHA-256 of its SubjectPublicKeyInfo (DER).
func UsedBy(spki []byte) []byte {
	sum := sha256.Sum256(spki)
	return sum[:]
}

// Package backup is the file that a realm's backups are kept in: how it is written from the state of one applied index, verified, and
// opened for a restore.
//
// It owns the format, the check that every key inside unseals, and the change of seals from one cluster to another. It must not know Raft,
// the network, the command line or where a node keeps its files. Everything streams: what is held in memory does not grow with the realm.
//
// The file, little endian:
//
//	preamble  "charonBK", u32 format, u32 length, Header (protobuf), u32 CRC-32C of all bytes before it
//	body      an age file (age-encryption.org/v1, binary) for the recipients that the header names; inside of it:
//	            32 bytes      SHA-256 of the preamble, so that nobody can put another one in front
//	            u32 length    the master key ring, as its file has it
//	            state         the realm's snapshot stream (raftstore/realm), Header.state_bytes long
//	            u32 length    Trailer (protobuf)
//
// The state's keys are sealed under the master key as they are on a node's disk, and open by the ring beside them. age authenticates every
// 64 KiB and the end, so a file that is damaged or cut is refused at that place; the trailer's hash covers all that is inside once more.
package backup

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"strings"

	"filippo.io/age"
	"google.golang.org/protobuf/proto"

	backupv1 "github.com/charon-kdc/charon/proto/charon/backup/v1"
	"github.com/charon-kdc/charon/raftstore/realm"
)

const (
	magic         = "charonBK"
	formatVersion = 1
	preambleStart = len(magic) + 4 + 4
	headerMax     = 64 << 10
	ringMax       = 16 << 10
	trailerMax    = 1 << 10
	// RecipientsMax bounds whom one backup is encrypted to.
	RecipientsMax = 32
)

var (
	// ErrNotBackup says that a file is something else.
	ErrNotBackup = errors.New("not a Charon backup")
	// ErrDamaged says that a backup was changed or cut since it was made.
	ErrDamaged = errors.New("the backup is damaged or not whole")
	// ErrTooNew says that a newer release made the backup.
	ErrTooNew = errors.New("the backup was made by a newer release")
	// ErrRecipient says that a text is no age recipient, or can't stand beside the others.
	ErrRecipient = errors.New("not usable as an age recipient")
)

// ForeignError says that the key given opens other backups, but not this one.
type ForeignError struct {
	Header *backupv1.Header
	Tried  []string // the public keys of those given
}

// Error names both sides.
func (e *ForeignError) Error() string {
	h := e.Header
	return fmt.Sprintf("this backup of realm %s (cluster %x) is encrypted to %s; the key given is %s, of another cluster's recovery kit or recipient",
		h.GetRealm(), h.GetClusterId(), strings.Join(h.GetRecipients(), ", "), strings.Join(e.Tried, ", "))
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// preamble is h at the front of a file.
func preamble(h *backupv1.Header) ([]byte, error) {
	text, err := proto.MarshalOptions{Deterministic: true}.Marshal(h)
	if err != nil {
		return nil, err
	}
	if len(text) > headerMax {
		return nil, fmt.Errorf("backup header of %d bytes; at most %d", len(text), headerMax)
	}
	b := binary.LittleEndian.AppendUint32([]byte(magic), formatVersion)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(text)))
	b = append(b, text...)
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli)), nil
}

// ReadHeader reads the part of a file that is in clear, which anybody may have written: only Open proves it. raw is what was read.
// Errors: ErrNotBackup, ErrTooNew, ErrDamaged, r's.
func ReadHeader(r io.Reader) (h *backupv1.Header, raw []byte, err error) {
	raw = make([]byte, preambleStart)
	switch n, err := io.ReadFull(r, raw); {
	case n < len(magic) || string(raw[:len(magic)]) != magic:
		return nil, nil, short(err, ErrNotBackup)
	case err != nil:
		return nil, nil, short(err, ErrDamaged)
	}
	if f := binary.LittleEndian.Uint32(raw[len(magic):]); f != formatVersion {
		return nil, nil, fmt.Errorf("%w: format %d, this release reads up to %d", ErrTooNew, f, formatVersion)
	}
	n := binary.LittleEndian.Uint32(raw[len(magic)+4:])
	if n > headerMax {
		return nil, nil, fmt.Errorf("%w: header of %d bytes", ErrDamaged, n)
	}
	rest := make([]byte, n+4)
	if _, err := io.ReadFull(r, rest); err != nil {
		return nil, nil, short(err, ErrDamaged)
	}
	raw = append(raw, rest...)
	body := raw[:len(raw)-4]
	if crc32.Checksum(body, castagnoli) != binary.LittleEndian.Uint32(raw[len(body):]) {
		return nil, nil, fmt.Errorf("%w: header checksum", ErrDamaged)
	}
	h = new(backupv1.Header)
	if err := proto.Unmarshal(body[preambleStart:], h); err != nil || len(h.GetClusterId()) != 16 || len(h.GetRecipients()) == 0 {
		return nil, nil, fmt.Errorf("%w: header", ErrDamaged)
	}
	if h.GetFeatureLevel() > realm.FeatureLevelMax {
		return nil, nil, fmt.Errorf("%w: feature level %d, this release supports up to %d (it was made by %s)",
			ErrTooNew, h.GetFeatureLevel(), realm.FeatureLevelMax, h.GetVersion())
	}
	return h, raw, nil
}

// short is end for the end of the file, and err itself for what else can go wrong with reading.
func short(err, end error) error {
	if err == nil || err == io.EOF || err == io.ErrUnexpectedEOF {
		return end
	}
	return err
}

// ParseRecipients checks texts such as "age1...", as many as RecipientsMax. Error: ErrRecipient.
func ParseRecipients(texts []string) ([]age.Recipient, error) {
	if len(texts) > RecipientsMax {
		return nil, fmt.Errorf("%w: %d of them, at most %d", ErrRecipient, len(texts), RecipientsMax)
	}
	var out []age.Recipient
	for _, text := range texts {
		list, err := age.ParseRecipients(strings.NewReader(text))
		if err != nil || len(list) != 1 {
			return nil, fmt.Errorf("%w: %.80q; it begins with age1", ErrRecipient, text)
		}
		out = append(out, list...)
	}
	return out, nil
}

// Identity is a private key that may open a backup.
type Identity = age.Identity

// ParseIdentities reads an age identity file: AGE-SECRET-KEY-... lines, and comments.
func ParseIdentities(text string) ([]Identity, error) {
	ids, err := age.ParseIdentities(strings.NewReader(text))
	if err != nil {
		return nil, errors.New("not an age identity file") // age's words could repeat the text
	}
	return ids, nil
}

// publicKeys are those of identities, as far as they tell.
func publicKeys(ids []age.Identity) []string {
	var out []string
	for _, id := range ids {
		switch id := id.(type) {
		case *age.X25519Identity:
			out = append(out, id.Recipient().String())
		case *age.HybridIdentity:
			out = append(out, id.Recipient().String())
		}
	}
	return out
}

// tally counts and hashes what is written through it.
type tally struct {
	w   io.Writer
	n   uint64
	sum interface {
		io.Writer
		Sum([]byte) []byte
	}
}

func newTally(w io.Writer) *tally { return &tally{w: w, sum: sha256.New()} }

func (t *tally) Write(p []byte) (int, error) {
	n, err := t.w.Write(p)
	t.n += uint64(n)
	t.sum.Write(p[:n])
	return n, err
}

// appendPiece is a piece with its length in front.
func appendPiece(b, piece []byte) []byte {
	return append(binary.LittleEndian.AppendUint32(b, uint32(len(piece))), piece...)
}

// readPiece reads what appendPiece wrote.
func readPiece(r io.Reader, limit uint32) ([]byte, error) {
	var n [4]byte
	if _, err := io.ReadFull(r, n[:]); err != nil {
		return nil, err
	}
	size := binary.LittleEndian.Uint32(n[:])
	if size > limit {
		return nil, fmt.Errorf("%w: a piece of %d bytes", ErrDamaged, size)
	}
	b := make([]byte, size)
	_, err := io.ReadFull(r, b)
	return b, err
}

func equalSum(preamble, sum []byte) bool {
	want := sha256.Sum256(preamble)
	return bytes.Equal(want[:], sum)
}

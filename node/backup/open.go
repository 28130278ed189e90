package backup

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"slices"

	"filippo.io/age"
	"google.golang.org/protobuf/proto"

	"github.com/charon-kdc/charon/kdc/kdb/masterkey"
	backupv1 "github.com/charon-kdc/charon/proto/charon/backup/v1"
	"github.com/charon-kdc/charon/raftstore/realm"
)

// Reader is a backup that was opened. In this order: State to its end, with Record shown each record of it, then Finish; nothing of it is to be
// believed before Finish said so.
type Reader struct {
	Header *backupv1.Header
	// Ring is the lost cluster's.
	Ring *masterkey.Ring

	plain  io.Reader // what is inside, hashed as it is read
	sum    hash.Hash
	state  io.Reader
	opener *opener
}

// Open reads header and master keys. One of identities must be of a recipient. Errors: ErrNotBackup, ErrTooNew, ErrDamaged, *ForeignError, r's.
func Open(r io.Reader, identities ...age.Identity) (*Reader, error) {
	h, front, err := ReadHeader(r)
	if err != nil {
		return nil, err
	}
	body, err := age.Decrypt(r, identities...)
	if err != nil {
		return nil, closed(err, h, identities)
	}
	out := &Reader{Header: h, sum: sha256.New()}
	out.plain = io.TeeReader(whole{body}, out.sum)
	front32 := make([]byte, sha256.Size)
	if _, err := io.ReadFull(out.plain, front32); err != nil {
		return nil, damaged(err)
	}
	if !equalSum(front, front32) {
		return nil, fmt.Errorf("%w: its header is not the one it was made with", ErrDamaged)
	}
	text, err := readPiece(out.plain, ringMax)
	if err != nil {
		return nil, damaged(err)
	}
	if out.Ring, err = masterkey.Parse(text); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	out.state = io.LimitReader(out.plain, int64(h.GetStateBytes()))
	out.opener = &opener{ring: out.Ring, cluster: h.GetClusterId()}
	return out, nil
}

// closed is why age did not open the body. That no identity fits means another key only where the header does not name ours.
func closed(err error, h *backupv1.Header, ids []age.Identity) error {
	if _, ok := errors.AsType[*age.NoIdentityMatchError](err); !ok {
		return damaged(err)
	}
	tried := publicKeys(ids)
	if slices.ContainsFunc(tried, func(k string) bool { return slices.Contains(h.GetRecipients(), k) }) {
		return fmt.Errorf("%w: the part that the key opens", ErrDamaged)
	}
	return &ForeignError{Header: h, Tried: tried}
}

// whole is a body of which every error but its proper end is damage: age tells changed bytes by errors of no type.
type whole struct{ r io.Reader }

func (w whole) Read(p []byte) (int, error) {
	n, err := w.r.Read(p)
	if err != nil && err != io.EOF {
		err = fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return n, err
}

// damaged is err of something that ends too early or does not fit its form.
func damaged(err error) error {
	if errors.Is(err, ErrDamaged) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrDamaged, err)
}

// Refusal puts what realm's readers say of a backup's state into this package's terms; other errors stay.
func Refusal(err error) error {
	switch {
	case errors.Is(err, realm.ErrTooNew):
		return fmt.Errorf("%w: %w", ErrTooNew, err)
	case errors.Is(err, realm.ErrCorrupt):
		return damaged(err)
	}
	return err
}

// State is the realm's snapshot stream.
func (r *Reader) State() io.Reader { return r.state }

// Record opens every sealed value of a record of the state; with Rekey it seals them anew. Error: ErrSealed.
func (r *Reader) Record(rec realm.Record) error { return r.opener.open(rec) }

// Counts so far: principals, their keys, and secrets of the cluster that were opened.
func (r *Reader) Counts() (principals, keys, secrets uint64) {
	return r.opener.principals, r.opener.keys, r.opener.secrets
}

// Finish reads what comes after the state and holds it against what was seen. Errors: ErrDamaged.
func (r *Reader) Finish() error {
	if err := nothing(r.state); err != nil {
		return err
	}
	sum := r.sum.Sum(nil)
	text, err := readPiece(r.plain, trailerMax)
	if err != nil {
		return damaged(err)
	}
	var t backupv1.Trailer
	if err := proto.Unmarshal(text, &t); err != nil {
		return damaged(err)
	}
	o := r.opener
	switch {
	case !bytes.Equal(t.GetSha256(), sum):
		return fmt.Errorf("%w: SHA-256", ErrDamaged)
	case t.GetPrincipals() != o.principals || t.GetKeys() != o.keys || t.GetSecrets() != o.secrets || r.Header.GetPrincipals() != o.principals:
		return fmt.Errorf("%w: %d principals, %d keys and %d secrets, its trailer says %d, %d and %d, its header %d principals", ErrDamaged,
			o.principals, o.keys, o.secrets, t.GetPrincipals(), t.GetKeys(), t.GetSecrets(), r.Header.GetPrincipals())
	}
	return nothing(r.plain)
}

// nothing wants r to be at its end.
func nothing(r io.Reader) error {
	switch n, err := io.ReadFull(r, make([]byte, 1)); {
	case n > 0:
		return fmt.Errorf("%w: there is more in it than it says", ErrDamaged)
	case err != io.EOF:
		return damaged(err)
	}
	return nil
}

// Report is what Verify found.
type Report struct {
	Header        *backupv1.Header
	Keys, Secrets uint64 // that were opened
}

// Verify reads a whole backup and opens every key in it, in bounded memory. Errors: those of Open, ErrSealed.
func Verify(f io.Reader, identities ...age.Identity) (*Report, error) {
	r, err := Open(f, identities...)
	if err != nil {
		return nil, err
	}
	info, err := realm.ScanSnapshot(r.State(), r.Record)
	if err != nil {
		return nil, Refusal(err)
	}
	if err := r.Agrees(info); err != nil {
		return nil, err
	}
	if err := r.Finish(); err != nil {
		return nil, err
	}
	return &Report{Header: r.Header, Keys: r.opener.keys, Secrets: r.opener.secrets}, nil
}

// Agrees holds what the state says of itself against the header. Error: ErrDamaged.
func (r *Reader) Agrees(info realm.SnapshotInfo) error {
	h := r.Header
	if info.Index != h.GetIndex() || info.Term != h.GetTerm() || info.FeatureLevel != h.GetFeatureLevel() {
		return fmt.Errorf("%w: the state is of index %d, term %d and feature level %d, the header says %d, %d and %d", ErrDamaged,
			info.Index, info.Term, info.FeatureLevel, h.GetIndex(), h.GetTerm(), h.GetFeatureLevel())
	}
	return nil
}

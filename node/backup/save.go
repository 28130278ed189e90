package backup

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"time"

	"filippo.io/age"
	"google.golang.org/protobuf/proto"

	"github.com/charon-kdc/charon/kdc/kdb/masterkey"
	backupv1 "github.com/charon-kdc/charon/proto/charon/backup/v1"
	"github.com/charon-kdc/charon/raftstore/realm"
)

// Source is the node whose state is saved.
type Source struct {
	DB   *realm.DB
	Ring *masterkey.Ring
	// Node and Version stand in the header.
	Node, Version string
	// ClockSkew is the largest that a node of the cluster may allow; a restore refuses service tickets for as long, and a little more.
	ClockSkew func() time.Duration
	Now       func() time.Time
}

// Summary is what was saved.
type Summary struct {
	Header *backupv1.Header
	// Keys and Secrets that were opened on the way.
	Keys, Secrets uint64
	// Bytes and SHA256 of the file.
	Bytes  uint64
	SHA256 [32]byte
}

// Save writes one backup of the state that is applied now: everything in it, its header included, is read in one transaction. It is encrypted
// to recipients; kit adds the recovery kit's key as the state has it. Every record is opened before it is encrypted: ErrSealed stops the backup. Errors:
// ErrSealed, ErrRecipient, realm.ErrCorrupt, w's. After an error what was written is worthless.
func Save(w io.Writer, s Source, recipients []string, kit bool) (_ *Summary, err error) {
	snap, err := s.DB.Snapshot()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, snap.Close()) }()
	h, err := s.header(snap, recipients, kit)
	if err != nil {
		return nil, err
	}
	to, err := ParseRecipients(h.GetRecipients())
	if err != nil {
		return nil, err
	}
	// After the snapshot: a ring is never behind the state.
	text := s.Ring.Text()
	ring, err := masterkey.Parse(text)
	if err != nil {
		return nil, err
	}
	h.MasterKeyVersions = ring.Versions()
	front, err := preamble(h)
	if err != nil {
		return nil, err
	}
	file := newTally(w)
	if _, err := file.Write(front); err != nil {
		return nil, err
	}
	o := &opener{ring: ring, cluster: h.GetClusterId()}
	if err := o.body(file, to, front, text, snap); err != nil {
		return nil, err
	}
	return &Summary{Header: h, Keys: o.keys, Secrets: o.secrets, Bytes: file.n, SHA256: [32]byte(file.sum.Sum(nil))}, nil
}

// header is all that the transaction of snap says of itself.
func (s *Source) header(snap *realm.Snapshot, recipients []string, kit bool) (*backupv1.Header, error) {
	at := s.Now()
	cl, err := snap.Tx().Cluster()
	if err != nil {
		return nil, fmt.Errorf("reading the cluster's record: %w", err)
	}
	h := &backupv1.Header{
		ClusterId: cl.GetId(), Realm: cl.GetDefaultRealm(), Index: snap.Info.Index, Term: snap.Info.Term, FeatureLevel: snap.Info.FeatureLevel,
		CreatedAt: at.UnixMilli(), Node: s.Node, Version: s.Version, Principals: snap.Counts().Principals,
		ClockSkew: uint32(s.ClockSkew() / time.Second), StateBytes: uint64(snap.Info.Size),
	}
	if kit && cl.GetRecoveryRecipient() != "" {
		h.Recipients = append(h.Recipients, cl.GetRecoveryRecipient())
	}
	h.Recipients = append(h.Recipients, recipients...)
	if len(h.Recipients) == 0 {
		return nil, fmt.Errorf("%w: there is none", ErrRecipient)
	}
	return h, nil
}

// body writes the encrypted part.
func (o *opener) body(file io.Writer, to []age.Recipient, front, ring []byte, snap *realm.Snapshot) error {
	enc, err := age.Encrypt(file, to...)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrRecipient, err)
	}
	in := newTally(enc)
	sum := sha256.Sum256(front)
	if _, err := in.Write(appendPiece(sum[:], ring)); err != nil {
		return err
	}
	snap.Check = o.open
	if n, err := io.Copy(in, snap); err != nil {
		return err
	} else if n != snap.Info.Size {
		return fmt.Errorf("%w: a state of %d bytes, %d were told", realm.ErrCorrupt, n, snap.Info.Size)
	}
	end, err := proto.Marshal(&backupv1.Trailer{Principals: o.principals, Keys: o.keys, Secrets: o.secrets, Sha256: in.sum.Sum(nil)})
	if err != nil {
		return err
	}
	if _, err := enc.Write(appendPiece(nil, end)); err != nil {
		return err
	}
	return enc.Close()
}

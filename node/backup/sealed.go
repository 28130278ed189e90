package backup

import (
	"errors"
	"fmt"
	"io"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/charon-kdc/charon/kdc/kdb/masterkey"
	"github.com/charon-kdc/charon/kdc/krb5/kcrypto"
	"github.com/charon-kdc/charon/node/pki"
	statev1 "github.com/charon-kdc/charon/proto/charon/state/v1"
	"github.com/charon-kdc/charon/raftstore/realm"
)

// box is one sealed value of a record: what it is bound to, and what must hold of it in clear.
type box struct {
	aad    masterkey.AAD
	sealed **statev1.Sealed
	check  func(plain []byte) error
}

// boxes are all sealed values of a record of that cluster. A record that holds one this release does not know of is an error: what can't be opened
// can't be vouched for.
func boxes(cluster []byte, m proto.Message) ([]box, error) {
	var out []box
	switch m := m.(type) {
	case *statev1.Principal:
		for _, k := range m.GetKeys() {
			out = append(out, keyBox(cluster, m, k))
		}
		for _, h := range m.GetKeyHistory() {
			for _, k := range h.GetKeys() {
				out = append(out, keyBox(cluster, m, k))
			}
		}
	case *statev1.Secret:
		if m.GetKey() != nil {
			out = append(out, box{masterkey.SecretAAD(cluster, m.GetName()), &m.Key, func(plain []byte) error { return checkSecret(m, plain) }})
		}
	}
	if n := countSealed(m.ProtoReflect()); n != len(out) {
		return nil, fmt.Errorf("%d sealed values, of which this release knows %d", n, len(out))
	}
	return out, nil
}

func keyBox(cluster []byte, p *statev1.Principal, k *statev1.Key) box {
	return box{masterkey.KeyAAD(cluster, p, k), &k.Key, func(plain []byte) error {
		if e := kcrypto.EType(k.GetEtype()); e.Supported() && len(plain) != e.KeySize() {
			return fmt.Errorf("a key of %d bytes for enctype %d", len(plain), e)
		}
		return nil
	}}
}

// checkSecret puts authorities together; of other secrets only that they open is known.
func checkSecret(s *statev1.Secret, plain []byte) error {
	for _, kind := range pki.Kinds {
		if kind.SecretName() == s.GetName() {
			_, err := pki.LoadAuthority(kind, s.GetCertificate(), plain)
			return err
		}
	}
	return nil
}

var sealedName = (*statev1.Sealed)(nil).ProtoReflect().Descriptor().FullName()

// countSealed counts the sealed values anywhere in a message.
func countSealed(m protoreflect.Message) (n int) {
	if m.Descriptor().FullName() == sealedName {
		return 1
	}
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case f.IsMap() || f.Kind() != protoreflect.MessageKind:
		case f.IsList():
			for i := range v.List().Len() {
				n += countSealed(v.List().Get(i).Message())
			}
		default:
			n += countSealed(v.Message())
		}
		return true
	})
	return n
}

// what names a record in an error.
func what(m proto.Message) string {
	switch m := m.(type) {
	case *statev1.Principal:
		return "principal " + realm.NameText(m.GetName()) + "@" + m.GetRealm()
	case *statev1.Secret:
		return "secret " + m.GetName()
	}
	return string(m.ProtoReflect().Descriptor().Name())
}

// opener opens every sealed value of the records that it is shown, and counts.
type opener struct {
	ring                      *masterkey.Ring
	cluster                   []byte
	principals, keys, secrets uint64
	// sealed, if set, is given each value in clear and puts another in its place.
	reseal func(b box, plain []byte) (*statev1.Sealed, error)
}

// ErrSealed says that a key of the state does not open: nothing of such a state may be taken for a backup.
var ErrSealed = errors.New("a key does not open")

// open is for realm.Snapshot.Check, realm.ScanSnapshot and raftstore.Seed alike.
func (o *opener) open(r realm.Record) error {
	if r.Message == nil {
		return nil
	}
	all, err := boxes(o.cluster, r.Message)
	if err != nil {
		return fmt.Errorf("%w: %s: %w", ErrSealed, what(r.Message), err)
	}
	for _, b := range all {
		plain, err := o.ring.Open(b.aad, *b.sealed)
		if err == nil {
			err = b.check(plain)
		}
		if err == nil && o.reseal != nil {
			*b.sealed, err = o.reseal(b, plain)
		}
		clear(plain)
		if err != nil {
			return fmt.Errorf("%w: %s: %w", ErrSealed, what(r.Message), err)
		}
	}
	switch r.Kind {
	case realm.KindPrincipal:
		o.principals++
		o.keys += uint64(len(all))
	case realm.KindSecret:
		o.secrets += uint64(len(all))
	}
	return nil
}

// Rekey seals anew what the backup's keys open, for another cluster and under another ring.
func (r *Reader) Rekey(ring *masterkey.Ring, cluster [16]byte, rand io.Reader) {
	r.opener.reseal = func(b box, plain []byte) (*statev1.Sealed, error) {
		aad := b.aad
		aad.ClusterID = cluster[:]
		return ring.Seal(rand, aad, plain)
	}
}

package realm

import (
	"bytes"
	"math"
	"slices"

	"google.golang.org/protobuf/proto"

	statev1 "github.com/charon-kdc/charon/proto/charon/state/v1"
)

// Page is a part of a walk over the principals of every realm.
type Page struct {
	// Principals that were looked for.
	Principals []*statev1.Principal
	// Looked is how many were looked at.
	Looked int
	// Next is where to go on; nil at the end.
	Next []byte
}

// StalePrincipals looks at principals from a Next on (nil: the first) for keys that are not sealed under version. It returns
// after limit such, or 10,000 looked at. Pages are views of their own: a record that is renamed meanwhile may be passed over.
func (db *DB) StalePrincipals(version uint32, from []byte, limit int) (Page, error) {
	return db.walk(from, limit, func(p *statev1.Principal) bool { return stalePrincipal(p, version) })
}

// RetiringPrincipals likewise looks for keys that retire at a set time.
func (db *DB) RetiringPrincipals(from []byte, limit int) (Page, error) {
	return db.walk(from, limit, func(p *statev1.Principal) bool {
		return slices.ContainsFunc(p.GetKeys(), func(k *statev1.Key) bool { return RetiredAt(k, math.MaxInt64) })
	})
}

func (db *DB) walk(from []byte, limit int, want func(*statev1.Principal) bool) (page Page, err error) {
	read := func(t *Tx) error {
		c := t.tx.Bucket(bucketNames[principals]).Cursor()
		size := 0
		for k, v := c.Seek(from); k != nil; k, v = c.Next() {
			if len(page.Principals) == limit || page.Looked == scanMax || size > pageBytesMax {
				page.Next = bytes.Clone(k)
				return nil
			}
			page.Looked++
			p := new(statev1.Principal)
			if err := decodeRecord(principals, k, v, p); err != nil {
				return err
			}
			if want(p) {
				page.Principals = append(page.Principals, p)
				size += proto.Size(p)
			}
		}
		return nil
	}
	err = db.View(func(t *Tx) error { return db.guarded(func() error { return read(t) }) })
	return page, err
}

func stalePrincipal(p *statev1.Principal, version uint32) bool {
	for k := range keysIn(p) {
		if k.GetKey() != nil && k.GetKey().GetMasterKeyVersion() != version {
			return true
		}
	}
	return false
}

// StaleSecrets are the secrets that are not sealed under version.
func (db *DB) StaleSecrets(version uint32) ([]*statev1.Secret, error) {
	return view(db, func(t *Tx) ([]*statev1.Secret, error) { return t.staleSecrets(version) })
}

func (t *Tx) staleSecrets(version uint32) ([]*statev1.Secret, error) {
	every, err := all[statev1.Secret](t, secrets)
	var out []*statev1.Secret
	for _, s := range every {
		if s.GetKey() != nil && s.GetKey().GetMasterKeyVersion() != version {
			out = append(out, s)
		}
	}
	return out, err
}

// CountStale is how many records are not sealed under version, all of one state: it takes seconds for a million.
func (db *DB) CountStale(version uint32) (n int, err error) {
	err = db.View(func(t *Tx) error {
		s, err := t.staleSecrets(version)
		if err != nil {
			return err
		}
		n = len(s)
		p := new(statev1.Principal)
		c := t.tx.Bucket(bucketNames[principals]).Cursor()
		for k, v := c.First(); k != nil; k, v = c.Next() {
			proto.Reset(p)
			if err := decodeRecord(principals, k, v, p); err != nil {
				return err
			}
			if stalePrincipal(p, version) {
				n++
			}
		}
		return nil
	})
	return n, err
}

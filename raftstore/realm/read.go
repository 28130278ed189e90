package realm

import (
	"fmt"

	"go.etcd.io/bbolt"
	"google.golang.org/protobuf/proto"

	statev1 "github.com/charon-kdc/charon/proto/charon/state/v1"
)

// Tx is one consistent view of the state, valid inside View. What it returns is the caller's.
type Tx struct {
	tx *bbolt.Tx
	db *DB
}

// View calls f with the state as of one applied index. f must be short: while it runs the file can't reuse pages.
func (db *DB) View(f func(*Tx) error) error {
	file, err := db.acquire()
	if err != nil {
		return err
	}
	defer file.release()
	return file.bolt.View(func(tx *bbolt.Tx) error { return f(&Tx{tx, db}) })
}

// Applied is the raft index and term up to which the view has the log.
func (t *Tx) Applied() (index, term uint64, err error) {
	st, err := decodeState(t.tx.Bucket(metaBucket).Get(stateKey))
	if err != nil {
		return 0, 0, err
	}
	return st.index, st.term, nil
}

// load decodes a record into m. ErrNotFound when there is none.
func (t *Tx) load(id bucketID, key string, m proto.Message) error {
	return t.db.guarded(func() error {
		k := []byte(key)
		v := t.tx.Bucket(bucketNames[id]).Get(k)
		if v == nil {
			return ErrNotFound
		}
		return decodeRecord(id, k, v, m)
	})
}

func get[M any, P interface {
	*M
	proto.Message
}](t *Tx, id bucketID, key string) (P, error) {
	m := P(new(M))
	if err := t.load(id, key, m); err != nil {
		return nil, err
	}
	return m, nil
}

// all returns every record of a small bucket in the order of keys.
func all[M any, P interface {
	*M
	proto.Message
}](t *Tx, id bucketID) ([]P, error) {
	var out []P
	err := t.db.guarded(func() error {
		return t.tx.Bucket(bucketNames[id]).ForEach(func(k, v []byte) error {
			m := P(new(M))
			out = append(out, m)
			return decodeRecord(id, k, v, m)
		})
	})
	return out, err
}

// Principal finds a principal by its name or by an alias. ErrNotFound.
func (t *Tx) Principal(realm string, name []string) (*statev1.Principal, error) {
	key := NameKey(realm, name)
	p, err := get[statev1.Principal](t, principals, key)
	if err != ErrNotFound {
		return p, err
	}
	var target string
	err = t.db.guarded(func() error {
		k := []byte(key)
		v := t.tx.Bucket(bucketNames[aliases]).Get(k)
		if v == nil {
			return ErrNotFound
		}
		b, err := openRecord(aliases, k, v)
		target = string(b)
		return err
	})
	if err != nil {
		return nil, err
	}
	p, err = get[statev1.Principal](t, principals, target)
	if err == ErrNotFound {
		err = fmt.Errorf("%w: alias %q of nobody", ErrCorrupt, key)
	}
	return p, err
}

// Policy returns ErrNotFound when there is none of that name.
func (t *Tx) Policy(name string) (*statev1.Policy, error) {
	return get[statev1.Policy](t, policies, name)
}

// Policies are sorted by name, as Realms, Roles and Secrets are; Nodes and Tokens by id.
func (t *Tx) Policies() ([]*statev1.Policy, error) { return all[statev1.Policy](t, policies) }

// Realm returns ErrNotFound when this cluster does not serve it.
func (t *Tx) Realm(name string) (*statev1.Realm, error) { return get[statev1.Realm](t, realms, name) }

func (t *Tx) Realms() ([]*statev1.Realm, error) { return all[statev1.Realm](t, realms) }

// Node finds a node by its 16-byte id. ErrNotFound.
func (t *Tx) Node(id []byte) (*statev1.Node, error) { return get[statev1.Node](t, nodes, string(id)) }

func (t *Tx) Nodes() ([]*statev1.Node, error) { return all[statev1.Node](t, nodes) }

// Token finds a token by its 8-byte id. ErrNotFound.
func (t *Tx) Token(id []byte) (*statev1.Token, error) {
	return get[statev1.Token](t, tokens, string(id))
}

func (t *Tx) Tokens() ([]*statev1.Token, error) { return all[statev1.Token](t, tokens) }

// Role returns ErrNotFound when there is no grant of that name.
func (t *Tx) Role(id string) (*statev1.Role, error) { return get[statev1.Role](t, roles, id) }

func (t *Tx) Roles() ([]*statev1.Role, error) { return all[statev1.Role](t, roles) }

// Secret returns ErrNotFound when there is none of that name.
func (t *Tx) Secret(name string) (*statev1.Secret, error) {
	return get[statev1.Secret](t, secrets, name)
}

// Cluster returns ErrNotFound before the cluster was made.
func (t *Tx) Cluster() (*statev1.Cluster, error) {
	return get[statev1.Cluster](t, cluster, clusterKey)
}

// Outcome is what became of a request id (16 bytes). ErrNotFound when it has not acted, or acted too long ago.
func (t *Tx) Outcome(requestID []byte) (*statev1.Outcome, error) {
	return get[statev1.Outcome](t, outcomes, string(requestID))
}

// view is one read in a view of its own.
func view[T any](db *DB, read func(*Tx) (T, error)) (out T, err error) {
	err = db.View(func(t *Tx) (err error) {
		out, err = read(t)
		return err
	})
	return out, err
}

// GetPrincipal and the methods below are Tx's of the same name (Principal for this one), each in a view of its own.
func (db *DB) GetPrincipal(realm string, name []string) (*statev1.Principal, error) {
	return view(db, func(t *Tx) (*statev1.Principal, error) { return t.Principal(realm, name) })
}

func (db *DB) Policy(name string) (*statev1.Policy, error) {
	return view(db, func(t *Tx) (*statev1.Policy, error) { return t.Policy(name) })
}

func (db *DB) Policies() ([]*statev1.Policy, error) { return view(db, (*Tx).Policies) }

func (db *DB) Realm(name string) (*statev1.Realm, error) {
	return view(db, func(t *Tx) (*statev1.Realm, error) { return t.Realm(name) })
}

func (db *DB) Realms() ([]*statev1.Realm, error) { return view(db, (*Tx).Realms) }

func (db *DB) Node(id []byte) (*statev1.Node, error) {
	return view(db, func(t *Tx) (*statev1.Node, error) { return t.Node(id) })
}

func (db *DB) Nodes() ([]*statev1.Node, error) { return view(db, (*Tx).Nodes) }

func (db *DB) Token(id []byte) (*statev1.Token, error) {
	return view(db, func(t *Tx) (*statev1.Token, error) { return t.Token(id) })
}

func (db *DB) Tokens() ([]*statev1.Token, error) { return view(db, (*Tx).Tokens) }

func (db *DB) Role(id string) (*statev1.Role, error) {
	return view(db, func(t *Tx) (*statev1.Role, error) { return t.Role(id) })
}

func (db *DB) Roles() ([]*statev1.Role, error) { return view(db, (*Tx).Roles) }

func (db *DB) Secret(name string) (*statev1.Secret, error) {
	return view(db, func(t *Tx) (*statev1.Secret, error) { return t.Secret(name) })
}

func (db *DB) Cluster() (*statev1.Cluster, error) { return view(db, (*Tx).Cluster) }

func (db *DB) Outcome(requestID []byte) (*statev1.Outcome, error) {
	return view(db, func(t *Tx) (*statev1.Outcome, error) { return t.Outcome(requestID) })
}

// Package kdbtest is a realm in memory, for tests that need a whole KDC and no cluster.
//
// It owns a map of principals and a replay cache of one node without expiry. It must not be part of a binary.
package kdbtest

import (
	"bytes"
	"context"
	"crypto/rand"
	"sync"
	"time"

	"github.com/charon-kdc/charon/kdc/kdb"
	"github.com/charon-kdc/charon/kdc/krb5"
	"github.com/charon-kdc/charon/kdc/krb5/kcrypto"
)

// Realm is a kdb.Store and a kdb.Proofs. It is safe for concurrent use.
type Realm struct {
	mu         sync.Mutex
	realm      kdb.Realm
	principals map[string]*kdb.Principal
	seen       map[string][]byte // a proof's ciphertext to the request that brought it
	failures   map[kdb.ID]kdb.Activity
}

// New is a realm of that name with a krbtgt and all enctypes but RC4, 10 h and 7 d.
func New(name string) *Realm {
	r := &Realm{
		realm: kdb.Realm{Name: name, MaxLife: 10 * time.Hour, MaxRenewableLife: 7 * 24 * time.Hour,
			ETypes: []kcrypto.EType{kcrypto.AES256SHA2, kcrypto.AES128SHA2, kcrypto.AES256SHA1, kcrypto.AES128SHA1}},
		principals: make(map[string]*kdb.Principal), seen: make(map[string][]byte), failures: make(map[kdb.ID]kdb.Activity),
	}
	r.AddRandom("krbtgt/" + name)
	return r
}

// AddPassword makes a principal (MIT's text, without realm) that must pre-authenticate and whose keys come from a password, of every
// enctype of the realm or of those given.
func (r *Realm) AddPassword(name, password string, etypes ...kcrypto.EType) {
	n := r.name(name)
	salt := krb5.DefaultSalt(r.realm.Name, n)
	r.add(n, salt, etypes, func(e kcrypto.EType) (*kcrypto.Key, error) {
		return kcrypto.StringToKey(e, password, salt, nil)
	})
	r.Change(n.String(), func(p *kdb.Principal) { p.Attributes |= kdb.RequiresPreAuth })
}

// AddRandom makes a principal with random keys.
func (r *Realm) AddRandom(name string, etypes ...kcrypto.EType) *kdb.Principal {
	return r.add(r.name(name), "", etypes, func(e kcrypto.EType) (*kcrypto.Key, error) { return kcrypto.GenerateKey(rand.Reader, e) })
}

func (r *Realm) name(text string) krb5.PrincipalName {
	n, _, err := krb5.ParsePrincipal(text, r.realm.Name)
	if err != nil {
		panic(err)
	}
	return n
}

func (r *Realm) add(n krb5.PrincipalName, salt string, etypes []kcrypto.EType, key func(kcrypto.EType) (*kcrypto.Key, error)) *kdb.Principal {
	p := &kdb.Principal{Realm: r.realm.Name, Name: n, KVNO: 1, Revision: 1}
	rand.Read(p.ID[:])
	if etypes == nil {
		etypes = r.realm.ETypes
	}
	for _, e := range etypes {
		k, err := key(e)
		if err != nil {
			panic(err)
		}
		p.Keys = append(p.Keys, kdb.Key{KVNO: 1, EType: e, Salt: salt, SaltDefault: true, Key: k})
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.principals[n.String()] = p
	return p
}

// Change replaces a principal by a changed copy: what a reader holds never changes.
func (r *Realm) Change(name string, change func(*kdb.Principal)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := *r.principals[name]
	change(&p)
	r.principals[name] = &p
}

// Realm is kdb.Store's.
func (r *Realm) Realm(name string) (*kdb.Realm, error) {
	if name != r.realm.Name {
		return nil, kdb.ErrNotFound
	}
	return &r.realm, nil
}

// Principal is kdb.Store's.
func (r *Realm) Principal(realm string, name krb5.PrincipalName) (*kdb.Principal, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if p, ok := r.principals[name.String()]; ok && realm == r.realm.Name {
		return p, nil
	}
	return nil, kdb.ErrNotFound
}

// Fresh is kdb.Store's: always.
func (r *Realm) Fresh() bool { return true }

// CatchUp has nothing to wait for.
func (r *Realm) CatchUp(context.Context) error { return nil }

// Degraded is kdb.Store's: never.
func (r *Realm) Degraded() bool { return false }

type verdict kdb.Verdict

func (v verdict) Wait(context.Context) (kdb.Verdict, error) { return kdb.Verdict(v), nil }

// Submit is kdb.Proofs'.
func (r *Realm) Submit(p kdb.Proof) kdb.Pending {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch old, seen := r.seen[string(p.Ciphertext)]; {
	case !seen:
		r.seen[string(p.Ciphertext)] = bytes.Clone(p.Request)
		return verdict(kdb.Fresh)
	case bytes.Equal(old, p.Request):
		return verdict(kdb.Same)
	}
	return verdict(kdb.Repeat)
}

// Attempt is kdb.Proofs'.
func (r *Realm) Attempt(a kdb.Attempt) kdb.Pending {
	v := r.Submit(a.Proof)
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	if f := r.failures[a.Client]; a.Failed {
		r.failures[a.Client] = kdb.Activity{Failures: f.Failures + 1, LastFailure: now, LastSuccess: f.LastSuccess}
	} else {
		r.failures[a.Client] = kdb.Activity{LastSuccess: now}
	}
	return v
}

// SeenHere is kdb.Proofs'.
func (r *Realm) SeenHere(p kdb.Proof) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	old, seen := r.seen[string(p.Ciphertext)]
	return seen && !bytes.Equal(old, p.Request)
}

// Activity is kdb.Proofs'.
func (r *Realm) Activity(id kdb.ID) kdb.Activity {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.failures[id]
}

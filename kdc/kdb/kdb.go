// Package kdb says what a principal is to a KDC, and through which small interfaces a KDC reads principals and
// hands proofs to the realm's shared replay cache. The replicated state implements them; the KDC uses them; neither
// knows the other.
//
// It owns the vocabulary only. It must not know storage, Raft, sockets or wire formats of the state.
package kdb

import (
	"context"
	"errors"
	"time"

	"github.com/charon-kdc/charon/kdc/krb5"
	"github.com/charon-kdc/charon/kdc/krb5/kcrypto"
)

var (
	// ErrNotFound says that the principal (or realm) does not exist in state that is fresh enough to say so.
	ErrNotFound = errors.New("no such principal")
	// ErrStale says that this node can't answer from its state: it may be stale, or the master key is missing.
	ErrStale = errors.New("state may be stale")
	// ErrUnavailable says that the shared replay cache can't be reached: the node is cut off.
	ErrUnavailable = errors.New("replay cache unavailable")
)

// ID is a principal's immutable identity: deleting and creating a name again gives another one.
type ID [16]byte

// Principal is one entry, keys opened, as of one applied index. It is shared and must not be changed by its reader.
type Principal struct {
	ID    ID
	Realm string
	// Name is the canonical name; the name asked for may have been an alias.
	Name krb5.PrincipalName
	// KVNO is the current key version: that of the newest keys which are KeyActive. 0 when there are no keys.
	KVNO uint32
	// Keys, newest kvno first, and within one kvno in the realm's order of preference.
	Keys       []Key
	Attributes Attributes
	// MaxLife and MaxRenewableLife bound tickets for this client or service. Zero: only the realm's bound counts. (MIT's database says by a zero
	// MaxRenewableLife that tickets are not renewable; here that is DisallowRenewable, and whoever takes over such a zero sets it.)
	MaxLife, MaxRenewableLife time.Duration
	// Expiration and PasswordExpiration: the zero time means never.
	Expiration, PasswordExpiration time.Time
	LastPasswordChange             time.Time
	// Policy is nil when the principal has none or names one that does not exist.
	Policy *Policy
	// UnlockedAt: failures counted before it are void.
	UnlockedAt time.Time
	// Strings are MIT's string attributes, for example session_enctypes.
	Strings  map[string]string
	Revision uint64
}

// Key is one long-term key.
type Key struct {
	KVNO  uint32
	EType kcrypto.EType
	// Salt as the client must use it. SaltDefault tells that it is the RFC 4120 default (realm and components joined).
	Salt        string
	SaltDefault bool
	State       KeyState
	// RetireAt: a KeyRetiring key opens nothing at or after it. The zero time means that it has no end.
	RetireAt time.Time
	Key      *kcrypto.Key
}

// KeyState is staged (nothing uses it yet), active (issues and opens) or retiring (opens only).
type KeyState uint8

const (
	KeyActive KeyState = iota
	KeyStaged
	KeyRetiring
)

// CurrentKey is the active key of the current kvno with that enctype.
func (p *Principal) CurrentKey(e kcrypto.EType) (*kcrypto.Key, bool) {
	for i := range p.Keys {
		if k := &p.Keys[i]; k.KVNO == p.KVNO && k.State == KeyActive && k.EType == e {
			return k.Key, true
		}
	}
	return nil, false
}

// Policy is what the KDC needs of a principal's policy.
type Policy struct {
	Name string
	// MaxFailures locks after so many failures in a row. 0: never.
	MaxFailures uint32
	// FailureWindow: failures further apart than this do not add up. 0: they always do.
	FailureWindow time.Duration
	// LockoutDuration: 0 means until an administrator unlocks.
	LockoutDuration time.Duration
}

// Realm is a realm's bounds and habits.
type Realm struct {
	Name string
	// MaxLife and MaxRenewableLife are never zero.
	MaxLife, MaxRenewableLife time.Duration
	// ETypes that the realm issues and accepts, in order of preference.
	ETypes []kcrypto.EType
}

// Store is the principal database as the KDC reads it. Implementations answer from local, applied state and, CatchUp aside, do not block on the network.
type Store interface {
	// Realm returns ErrNotFound for a realm that this cluster does not serve.
	Realm(name string) (*Realm, error)
	// Principal resolves aliases. ErrNotFound when there is none and the state is fresh; ErrStale when the node may not know.
	Principal(realm string, name krb5.PrincipalName) (*Principal, error)
	// Fresh tells whether the freshness lease holds (raftstore/DESIGN.md, "Reads after writes"): only then may PREAUTH_FAILED be answered at once.
	Fresh() bool
	// CatchUp returns when the state holds everything that was acknowledged before the call, or with ErrStale once ctx ends. It is the one method that
	// may wait for the network: for what a ticket shows to exist and the state does not have.
	CatchUp(ctx context.Context) error
	// Degraded tells that the node is cut off from the others and is to answer from what it has (raftstore/DESIGN.md, "Without a quorum"). It
	// is not fresh then, and what it does not find may exist; but what it finds is all that there will be, so nobody need wait for more.
	Degraded() bool
}

// Verdict is what the shared replay cache says of one proof.
type Verdict uint8

const (
	// Fresh: never seen, now recorded.
	Fresh Verdict = iota + 1
	// Same: seen in a request of the same bytes; answer it.
	Same
	// Repeat: seen in another request; KRB_AP_ERR_REPEAT.
	Repeat
	// Stale: older than the cache remembers; KRB_AP_ERR_SKEW.
	Stale
	// Unconfirmed: this node has not seen it in another request, and more was not asked for: only of a Relaxable proof; answer it.
	Unconfirmed
)

// Proof is an authenticator or pre-authentication proof as it goes to the shared replay cache. The cache keeps keyed hashes of both byte strings, never these.
type Proof struct {
	// Ciphertext of the authenticator or encrypted timestamp.
	Ciphertext []byte
	// Request is the whole message it came in, without TCP length prefix.
	Request []byte
	// Time inside the proof (ctime or patimestamp).
	Time time.Time
	// Relaxable: the operator's without_quorum = serve and replay = async hold for this proof, so that the verdict may rest on this node's
	// memory alone. The zero value waits for the cluster's verdict, always: kpasswd and the admin API, which no setting relaxes. TGS
	// requests are relaxable.
	Relaxable bool
}

// Attempt is a proof of a client's password, successful or not, to be counted.
//
// The counters live apart from the principals, so an attempt brings what counting needs of its client.
type Attempt struct {
	Proof
	Client ID
	Failed bool
	// FailureWindow is the policy's: a failure further from the last one than this starts the count anew. 0: never.
	FailureWindow time.Duration
	// UnlockedAt is the principal's: failures counted before it are void.
	UnlockedAt time.Time
}

// Activity is what the cluster counted for one client.
type Activity struct {
	Failures    uint32
	LastFailure time.Time
	LastSuccess time.Time
}

// Pending is a submitted proof whose verdict is not in yet.
type Pending interface {
	// Wait returns the verdict, or ErrUnavailable when the node is cut off and may not decide alone, or ctx's error.
	Wait(ctx context.Context) (Verdict, error)
}

// Tagged is what a Pending may be as well: Tag names the proof in audit lines, so that those of one authenticator are found on all nodes. It is a part of
// a keyed hash.
type Tagged interface{ Tag() [8]byte }

// Proofs is the shared replay cache as the KDC uses it (raftstore/DESIGN.md, "The replay state machine").
type Proofs interface {
	// Submit records a TGS, kpasswd or admin authenticator; the reply must wait for the verdict, which Proof.Relaxable may bring sooner. It copies
	// what it keeps.
	Submit(p Proof) Pending
	// Attempt counts a proof of the AS exchange. A failed one's reply waits for the verdict, a good one's does not.
	Attempt(a Attempt) Pending
	// SeenHere tells whether this node already saw that proof in a request with other bytes: a copied AS proof. Seen is what it
	// was asked about lately, what its state has applied and what it has heard beyond that.
	SeenHere(p Proof) bool
	// Activity is this node's view of the counters: the applied ones, or where they are stricter those with what it has heard beyond.
	Activity(id ID) Activity
}

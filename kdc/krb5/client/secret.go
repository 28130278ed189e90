package client

import (
	"fmt"
	"slices"
	"sync"

	"github.com/charon-kdc/charon/kdc/krb5"
	"github.com/charon-kdc/charon/kdc/krb5/kcrypto"
	"github.com/charon-kdc/charon/kdc/krb5/keytab"
)

// KeyInfo is what a KDC says of the key it wants (RFC 4120 section 5.2.7.5), or what the client assumes before it was told.
type KeyInfo struct {
	Realm  string
	Client krb5.PrincipalName
	EType  kcrypto.EType
	Salt   string
	Params []byte // nil: the enctype's default
	KVNO   uint32 // 0: any
}

// Secret gives the client's long-term key: a password, a keytab, a key.
type Secret interface {
	// Key is the key for i, or an error that says what is missing.
	Key(i KeyInfo) (*kcrypto.Key, error)
	// ETypes are the enctypes there are keys for, in order of preference; nil means any.
	ETypes(realm string, client krb5.PrincipalName) []kcrypto.EType
}

// Password is a secret that string-to-key makes a key of (RFC 3961 section 3).
func Password(password string) Secret {
	return PasswordPrompt(func() (string, error) { return password, nil })
}

// PasswordPrompt asks for the password when the KDC wants one, once.
func PasswordPrompt(ask func() (string, error)) Secret {
	return passwordSecret{sync.OnceValues(ask)}
}

type passwordSecret struct{ ask func() (string, error) }

func (s passwordSecret) ETypes(string, krb5.PrincipalName) []kcrypto.EType { return nil }

func (s passwordSecret) Key(i KeyInfo) (*kcrypto.Key, error) {
	password, err := s.ask()
	if err != nil {
		return nil, fmt.Errorf("asking for the password of %s: %w", krb5.FormatPrincipal(i.Client, i.Realm), err)
	}
	return kcrypto.StringToKey(i.EType, password, i.Salt, i.Params)
}

// Keytab takes keys from kt.
func Keytab(kt *keytab.Keytab) Secret { return keytabSecret{kt} }

type keytabSecret struct{ kt *keytab.Keytab }

func (s keytabSecret) Key(i KeyInfo) (*kcrypto.Key, error) {
	k, _, ok := s.kt.Find(i.Realm, i.Client, i.KVNO, i.EType)
	if !ok {
		return nil, fmt.Errorf("the keytab has no key of %s for %v", krb5.FormatPrincipal(i.Client, i.Realm), i.EType)
	}
	return k, nil
}

// ETypes is in the order of DefaultETypes, then of the file.
func (s keytabSecret) ETypes(realm string, client krb5.PrincipalName) []kcrypto.EType {
	out := []kcrypto.EType{} // not nil: without a key nothing can be had
	for _, e := range s.kt.Entries {
		if e.Key != nil && e.Realm == realm && e.Name.Equal(client) && !slices.Contains(out, e.Key.EType()) {
			out = append(out, e.Key.EType())
		}
	}
	slices.SortStableFunc(out, func(a, b kcrypto.EType) int { return preference(a) - preference(b) })
	return out
}

func preference(e kcrypto.EType) int {
	if i := slices.Index(DefaultETypes, e); i >= 0 {
		return i
	}
	return len(DefaultETypes)
}

// FixedKey is one known key.
func FixedKey(k *kcrypto.Key) Secret { return fixedSecret{k} }

type fixedSecret struct{ k *kcrypto.Key }

func (s fixedSecret) ETypes(string, krb5.PrincipalName) []kcrypto.EType {
	return []kcrypto.EType{s.k.EType()}
}

func (s fixedSecret) Key(i KeyInfo) (*kcrypto.Key, error) {
	if i.EType != s.k.EType() {
		return nil, fmt.Errorf("the key is of %v, not of %v", s.k.EType(), i.EType)
	}
	return s.k, nil
}

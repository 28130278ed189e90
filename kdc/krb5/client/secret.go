package client

import (
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
func Password(password string) Secret { return nil }

// PasswordPrompt asks for the password when the KDC wants one, once.
func PasswordPrompt(ask func() (string, error)) Secret { return nil }

// Keytab takes keys from kt.
func Keytab(kt *keytab.Keytab) Secret { return nil }

// FixedKey is one known key.
func FixedKey(k *kcrypto.Key) Secret { return nil }

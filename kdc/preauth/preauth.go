// Package preauth holds the pre-authentication mechanisms of the AS exchange (RFC 4120 sections 3.1.3 and 5.2.7), one file each.
//
// A mechanism says whether some padata proves that the sender knows a client's key, and what a client is told of it in
// METHOD-DATA. It owns no policy: whether a proof is needed, how often one may be wrong and whether it was seen before is the
// KDC's to decide. It must not know the store, the replay cache or any reply.
package preauth

import (
	"time"

	"github.com/charon-kdc/charon/kdc/kdb"
	"github.com/charon-kdc/charon/kdc/krb5"
	"github.com/charon-kdc/charon/kdc/krb5/kcrypto"
)

// Exchange is what a mechanism may know of the request it proves.
type Exchange struct {
	// Client as of now; its keys are open.
	Client *kdb.Principal
	// Now is the KDC's time, Skew how far the client's may be from it.
	Now  time.Time
	Skew time.Duration
}

// Proof is a proof that holds.
type Proof struct {
	// Key is the long-term key that was proved.
	Key *kcrypto.Key
	// Seen is what makes the proof unlike any other: the ciphertext, for the replay cache. It aliases the request.
	Seen []byte
	// Time inside the proof.
	Time time.Time
	// Hardware tells that the proof needed hardware: the ticket gets HW-AUTHENT.
	Hardware bool
}

// Mechanism is one way to prove a client. Its methods are pure and safe for concurrent use.
type Mechanism interface {
	// Type is the padata type of the proof, and of the hint in METHOD-DATA.
	Type() krb5.PADataType
	// Name is the word for logs: "enc-ts".
	Name() string
	// Offer tells whether METHOD-DATA names the mechanism to this client, and with which value (nil: empty).
	Offer(client *kdb.Principal) (value []byte, ok bool)
	// Verify gives a proof, or a *krb5.Error. With an error, Proof.Seen is set when the value was a guess at a key, and wrong: that is counted.
	Verify(x *Exchange, pa krb5.PAData) (Proof, error)
}

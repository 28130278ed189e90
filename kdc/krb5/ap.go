package krb5

import (
	"io"
	"time"

	"github.com/charon-kdc/charon/kdc/krb5/kcrypto"
)

// APReqOptions is what an initiator may choose in NewAPReq. The zero value is a plain AP-REQ.
type APReqOptions struct {
	Options APOptions
	// TGS makes the AP-REQ of a PA-TGS-REQ: other key usages (RFC 4120 section 7.5.1).
	TGS bool
	// Body is checksummed under the session key into cksum when not nil: the DER of req-body for a TGS-REQ.
	Body []byte
	// Cksum goes in as it is (RFC 4121 section 4.1.1); Body must be nil then.
	Cksum *Checksum
	// SubKey may be nil.
	SubKey *kcrypto.Key
	// SeqNumber, nil is absent.
	SeqNumber         *uint32
	AuthorizationData AuthorizationData
}

// NewAPReq builds an AP-REQ (RFC 4120 section 3.2.2).
func NewAPReq(rand io.Reader, now time.Time, ticket Ticket, session *kcrypto.Key, crealm string, cname PrincipalName, o APReqOptions) (req []byte, auth *Authenticator, err error) {
	return nil, nil, errUnwritten
}

// KeyLookup finds an acceptor's key.
type KeyLookup func(realm string, sname PrincipalName, kvno uint32, etype kcrypto.EType) (*kcrypto.Key, error)

// APContext is an accepted AP-REQ.
type APContext struct {
	Options       APOptions
	Realm         string
	SName         PrincipalName
	Ticket        *EncTicketPart
	Authenticator *Authenticator
	SubKey        *kcrypto.Key
	Proof         []byte
}

// APRepOptions is what an acceptor may add.
type APRepOptions struct {
	SubKey    *kcrypto.Key
	SeqNumber *uint32
}

// Rep is the AP-REP.
func (c *APContext) Rep(rand io.Reader, o APRepOptions) ([]byte, error) { return nil, errUnwritten }

// AcceptAPReq opens and checks an AP-REQ.
func AcceptAPReq(raw []byte, lookup KeyLookup, now time.Time, skew time.Duration) (*APContext, error) {
	return nil, errUnwritten
}

// VerifyAPRep checks the AP-REP.
func VerifyAPRep(raw []byte, session *kcrypto.Key, auth *Authenticator) (*EncAPRepPart, error) {
	return nil, errUnwritten
}

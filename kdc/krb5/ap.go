package krb5

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"time"

	"github.com/charon-kdc/charon/kdc/krb5/kcrypto"
)

// APReqOptions is what an initiator may choose in NewAPReq. The zero value is a plain AP-REQ without checksum, subkey or sequence number.
type APReqOptions struct {
	Options APOptions
	// TGS makes the AP-REQ of a PA-TGS-REQ: other key usages (RFC 4120 section 7.5.1).
	TGS bool
	// Body, when not nil, is checksummed into cksum under the session key: the DER of req-body for a TGS-REQ (RFC 4120 section 3.3.1).
	Body []byte
	// Cksum goes in as it is, such as the 0x8003 one of RFC 4121 section 4.1.1. Body must be nil then.
	Cksum *Checksum
	// SubKey may be nil.
	SubKey *kcrypto.Key
	// SeqNumber: nil is absent.
	SeqNumber         *uint32
	AuthorizationData AuthorizationData
}

// NewAPReq builds an AP-REQ (RFC 4120 section 3.2.2) with a fresh authenticator for the client named. session is the ticket's
// session key. It gives DER, and the authenticator, which VerifyAPRep wants.
func NewAPReq(rand io.Reader, now time.Time, ticket Ticket, session *kcrypto.Key, crealm string, cname PrincipalName, o APReqOptions) (req []byte, auth *Authenticator, err error) {
	if session == nil {
		return nil, nil, fmt.Errorf("building an AP-REQ: %w", errNilKey)
	}
	authUsage, cksumUsage := kcrypto.UsageAPReqAuthenticator, kcrypto.UsageAPReqChecksum
	if o.TGS {
		authUsage, cksumUsage = kcrypto.UsageTGSReqAuthenticator, kcrypto.UsageTGSReqChecksum
	}
	auth = &Authenticator{CRealm: crealm, CName: cname, Cksum: o.Cksum, SubKey: o.SubKey, AuthorizationData: o.AuthorizationData}
	auth.CTime, auth.CUSec = SplitTime(now)
	if o.SeqNumber != nil {
		auth.SeqNumber, auth.HasSeqNumber = *o.SeqNumber, true
	}
	if o.Body != nil {
		if o.Cksum != nil {
			return nil, nil, errors.New("building an AP-REQ: both a checksum and a body to make one of")
		}
		if auth.Cksum, err = NewChecksum(session, cksumUsage, o.Body); err != nil {
			return nil, nil, err
		}
	}
	plain, err := EncodeAuthenticator(auth)
	if err != nil {
		return nil, nil, err
	}
	defer clear(plain) // it may hold a subkey
	sealed, err := Seal(session, 0, rand, authUsage, plain)
	if err != nil {
		return nil, nil, fmt.Errorf("sealing an authenticator: %w", err)
	}
	req, err = EncodeAPReq(&APReq{APOptions: o.Options, Ticket: ticket, Authenticator: sealed})
	return req, auth, err
}

// KeyLookup finds the key of the service sname in realm. kvno is 0 when the ticket has none: the newest key is meant. The names are the
// ticket's clear text and prove nothing until the ticket opens. An error that is a *Error is passed on; any other becomes KRB_AP_ERR_NOKEY.
type KeyLookup func(realm string, sname PrincipalName, kvno uint32, etype kcrypto.EType) (*kcrypto.Key, error)

// APContext is an accepted AP-REQ: who the client is, and the keys that both sides now have.
type APContext struct {
	Options APOptions
	// Realm and SName are the service that the ticket names.
	Realm         string
	SName         PrincipalName
	Ticket        *EncTicketPart
	Authenticator *Authenticator
	// SubKey is the initiator's, nil when it sent none.
	SubKey *kcrypto.Key
	// Proof is the authenticator's ciphertext, by which a replay cache knows it. It shares the request's memory.
	Proof []byte
}

// Client is the authenticated client.
func (c *APContext) Client() (PrincipalName, string) { return c.Ticket.CName, c.Ticket.CRealm }

// Key protects what follows: the initiator's subkey, or else the session key.
func (c *APContext) Key() *kcrypto.Key {
	if c.SubKey != nil {
		return c.SubKey
	}
	return c.Ticket.Key
}

// CheckAddress holds the client's address against those in the ticket; see AddressedTo.
func (c *APContext) CheckAddress(from netip.Addr) error {
	if AddressedTo(c.Ticket.CAddr, from) {
		return nil
	}
	return &Error{Code: ErrBadAddr, Status: "BADADDR"}
}

// CheckBody verifies the authenticator's checksum over body (usage 10). A missing, unkeyed or foreign checksum is KRB_AP_ERR_INAPP_CKSUM.
func (c *APContext) CheckBody(body []byte) error {
	return VerifyChecksum(c.Authenticator.Cksum, c.Ticket.Key, kcrypto.UsageAPReqChecksum, body)
}

// AcceptAPReq opens and checks an AP-REQ, DER, as RFC 4120 section 3.2.3 has it, except for what the caller alone can do: whether the
// address is right (CheckAddress), whether the proof was seen before, and what is inside AD-IF-RELEVANT. Authorization data outside it, which
// nobody here understands, is refused with KDC_ERR_POLICY, as section 1.5.1 demands. skew is the clock skew allowed either way. Every refusal
// is a *Error. USE-SESSION-KEY is refused with KRB_AP_ERR_NOKEY; see AcceptUserToUser.
func AcceptAPReq(raw []byte, lookup KeyLookup, now time.Time, skew time.Duration) (*APContext, error) {
	return acceptAPReq(raw, now, skew, func(req *APReq) (*kcrypto.Key, error) {
		if req.APOptions.Has(APOptUseSessionKey) {
			return nil, errors.New("the ticket is sealed with a session key")
		}
		t := &req.Ticket
		return lookup(t.Realm, t.SName, t.EncPart.KVNO, t.EncPart.EType)
	})
}

// AcceptUserToUser is AcceptAPReq for a ticket sealed with the session key of the acceptor's own TGT (RFC 4120 section 3.7). Without
// USE-SESSION-KEY in ap-options it is refused with KRB_AP_ERR_NOKEY.
func AcceptUserToUser(raw []byte, session *kcrypto.Key, now time.Time, skew time.Duration) (*APContext, error) {
	return acceptAPReq(raw, now, skew, func(req *APReq) (*kcrypto.Key, error) {
		if !req.APOptions.Has(APOptUseSessionKey) {
			return nil, errors.New("the ticket is not sealed with a session key")
		}
		return session, nil
	})
}

func acceptAPReq(raw []byte, now time.Time, skew time.Duration, keyFor func(*APReq) (*kcrypto.Key, error)) (*APContext, error) {
	req, err := DecodeAPReq(raw)
	if err != nil {
		return nil, malformed(err)
	}
	k, err := keyFor(req)
	if err != nil {
		if refusal, ok := errors.AsType[*Error](err); ok {
			return nil, refusal
		}
		return nil, &Error{Code: ErrNoKey, Status: "NOKEY", Err: err}
	}
	if k == nil {
		return nil, &Error{Code: ErrNoKey, Status: "NOKEY", Err: errNilKey}
	}
	ticket, err := OpenTicket(k, &req.Ticket)
	if err != nil {
		return nil, unopened(err)
	}
	auth, err := Open(ticket.Key, kcrypto.UsageAPReqAuthenticator, req.Authenticator, DecodeAuthenticator)
	if err != nil {
		return nil, unopened(err)
	}
	if err := CheckAuthenticator(ticket, auth, now, skew); err != nil {
		return nil, err
	}
	if err := CheckTicketTimes(ticket, now, skew); err != nil {
		return nil, err
	}
	if critical := append(ticket.AuthorizationData.Critical(), auth.AuthorizationData.Critical()...); len(critical) > 0 {
		return nil, &Error{Code: ErrPolicy, Status: "AUTHDATA", Err: fmt.Errorf("authorization data of types %v", critical)}
	}
	return &APContext{
		Options: req.APOptions, Realm: req.Ticket.Realm, SName: req.Ticket.SName,
		Ticket: ticket, Authenticator: auth, SubKey: auth.SubKey, Proof: req.Authenticator.Cipher,
	}, nil
}

// Critical are the types of the elements that a server must understand or refuse: all but AD-IF-RELEVANT (RFC 4120 sections 1.5.1 and 5.2.6.1).
func (a AuthorizationData) Critical() []int32 {
	var out []int32
	for _, e := range a {
		if e.ADType != ADIfRelevant {
			out = append(out, e.ADType)
		}
	}
	return out
}

// malformed is the refusal for an AP-REQ that does not decode (RFC 4120 section 3.2.3).
func malformed(err error) *Error {
	switch {
	case errors.Is(err, ErrDecodeVersion):
		return &Error{Code: ErrBadVersion, Status: "BADVERSION", Err: err}
	case errors.Is(err, ErrDecodeType):
		return &Error{Code: ErrMsgType, Status: "MSG_TYPE", Err: err}
	}
	return &Error{Code: ErrGeneric, Status: "MALFORMED", Err: err}
}

// unopened is the refusal for a ticket or authenticator that does not open. A wrong key and a changed octet look the same.
func unopened(err error) *Error {
	return &Error{Code: ErrBadIntegrity, Status: "BAD_INTEGRITY", Err: err}
}

// CheckAuthenticator holds an authenticator against the ticket that it came with: the same client (KRB_AP_ERR_BADMATCH) and a time within
// skew of now (KRB_AP_ERR_SKEW), as RFC 4120 section 3.2.3 has it.
func CheckAuthenticator(t *EncTicketPart, a *Authenticator, now time.Time, skew time.Duration) error {
	if !t.CName.Equal(a.CName) || t.CRealm != a.CRealm {
		return &Error{Code: ErrBadMatch, Status: "BADMATCH"}
	}
	if a.Time().Sub(now).Abs() > skew {
		return &Error{Code: ErrSkew, Status: "SKEW"}
	}
	return nil
}

// CheckTicketTimes tells whether a ticket is good at now, with skew at both ends: KRB_AP_ERR_TKT_NYV before its start or while
// INVALID is set, KRB_AP_ERR_TKT_EXPIRED after its end (RFC 4120 section 3.2.3).
func CheckTicketTimes(t *EncTicketPart, now time.Time, skew time.Duration) error {
	start := t.StartTime
	if start.IsZero() {
		start = t.AuthTime
	}
	switch {
	case start.Sub(now) > skew, t.Flags.Has(FlagInvalid):
		return &Error{Code: ErrTktNYV, Status: "TKT_NYV"}
	case now.Sub(t.EndTime) > skew:
		return &Error{Code: ErrTktExpired, Status: "TKT_EXPIRED"}
	}
	return nil
}

// APRepOptions is what an acceptor may add to its AP-REP.
type APRepOptions struct {
	// SubKey is the acceptor's own; nil is absent.
	SubKey *kcrypto.Key
	// SeqNumber: nil is absent.
	SeqNumber *uint32
}

// Rep is the AP-REP (RFC 4120 section 3.2.4), DER: the client's own time sealed with the session key. It is owed when MUTUAL-REQUIRED is set.
func (c *APContext) Rep(rand io.Reader, o APRepOptions) ([]byte, error) {
	part := EncAPRepPart{CTime: c.Authenticator.CTime, CUSec: c.Authenticator.CUSec, SubKey: o.SubKey}
	if o.SeqNumber != nil {
		part.SeqNumber, part.HasSeqNumber = *o.SeqNumber, true
	}
	plain, err := EncodeEncAPRepPart(&part)
	if err != nil {
		return nil, err
	}
	defer clear(plain)
	sealed, err := Seal(c.Ticket.Key, 0, rand, kcrypto.UsageAPRepEncPart, plain)
	if err != nil {
		return nil, fmt.Errorf("sealing an AP-REP: %w", err)
	}
	return EncodeAPRep(&APRep{EncPart: sealed})
}

// VerifyAPRep checks the acceptor's AP-REP, DER, against the authenticator that NewAPReq gave (RFC 4120 section 3.2.5). A reply that does not
// open is KRB_AP_ERR_BAD_INTEGRITY; one with another time is KRB_AP_ERR_MUT_FAIL.
func VerifyAPRep(raw []byte, session *kcrypto.Key, auth *Authenticator) (*EncAPRepPart, error) {
	rep, err := DecodeAPRep(raw)
	if err != nil {
		return nil, malformed(err)
	}
	part, err := Open(session, kcrypto.UsageAPRepEncPart, rep.EncPart, DecodeEncAPRepPart)
	if err != nil {
		return nil, unopened(err)
	}
	if !part.CTime.Equal(auth.CTime) || part.CUSec != auth.CUSec {
		return nil, &Error{Code: ErrMutFail, Status: "MUT_FAIL"}
	}
	return part, nil
}

// RandomSeqNumber is a sequence number to start from. It has 30 bits, because some peers take it for a signed one and add to it (RFC 4120 section 5.5.1).
func RandomSeqNumber(rand io.Reader) (uint32, error) {
	var b [4]byte
	if _, err := io.ReadFull(rand, b[:]); err != nil {
		return 0, fmt.Errorf("reading random octets for a sequence number: %w", err)
	}
	return binary.BigEndian.Uint32(b[:]) & 0x3fffffff, nil
}

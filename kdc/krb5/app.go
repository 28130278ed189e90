package krb5

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/charon-kdc/charon/kdc/krb5/kcrypto"
)

// NewKRBSafe builds a KRB-SAFE (RFC 4120 section 3.4.1), DER. The checksum runs over KRB-SAFE-BODY, as the RFC has it.
func NewKRBSafe(k *kcrypto.Key, body *KRBSafeBody) ([]byte, error) {
	raw, err := EncodeKRBSafeBody(body)
	if err != nil {
		return nil, err
	}
	sum, err := NewChecksum(k, kcrypto.UsageKRBSafe, raw)
	if err != nil {
		return nil, err
	}
	return EncodeKRBSafe(&KRBSafe{SafeBody: *body, Cksum: *sum})
}

// OpenKRBSafe checks a KRB-SAFE, DER, and gives its body. Who sent it, to whom, when and in which order is for Check to say.
// MIT checksums the whole message with an empty checksum in it, as RFC 1510 had it; that is taken as well as the body alone.
func OpenKRBSafe(k *kcrypto.Key, raw []byte) (*KRBSafeBody, error) {
	m, err := DecodeKRBSafe(raw)
	if err != nil {
		return nil, malformed(err)
	}
	err = VerifyChecksum(&m.Cksum, k, kcrypto.UsageKRBSafe, m.RawBody)
	if refusal, ok := errors.AsType[*Error](err); ok && refusal.Code == ErrModified {
		blank, berr := EncodeKRBSafe(&KRBSafe{SafeBody: m.SafeBody})
		if berr != nil {
			return nil, err
		}
		err = VerifyChecksum(&m.Cksum, k, kcrypto.UsageKRBSafe, blank)
	}
	if err != nil {
		return nil, err
	}
	return &m.SafeBody, nil
}

// NewKRBPriv builds a KRB-PRIV (RFC 4120 section 3.5.1), DER.
func NewKRBPriv(rand io.Reader, k *kcrypto.Key, part *EncKRBPrivPart) ([]byte, error) {
	plain, err := EncodeEncKRBPrivPart(part)
	if err != nil {
		return nil, err
	}
	defer clear(plain) // it may hold a password
	sealed, err := Seal(k, 0, rand, kcrypto.UsageKRBPriv, plain)
	if err != nil {
		return nil, fmt.Errorf("sealing a KRB-PRIV: %w", err)
	}
	return EncodeKRBPriv(&KRBPriv{EncPart: sealed})
}

// OpenKRBPriv opens a KRB-PRIV, DER. Who sent it, to whom, when and in which order is for Check to say.
func OpenKRBPriv(k *kcrypto.Key, raw []byte) (*EncKRBPrivPart, error) {
	m, err := DecodeKRBPriv(raw)
	if err != nil {
		return nil, malformed(err)
	}
	part, err := Open(k, kcrypto.UsageKRBPriv, m.EncPart, DecodeEncKRBPrivPart)
	if err != nil {
		return nil, unopened(err)
	}
	return part, nil
}

// Freshness is what a receiver of KRB-SAFE or KRB-PRIV expects (RFC 4120 sections 3.4.2 and 3.5.2).
type Freshness struct {
	// Now and Skew bound the timestamp; a zero Now leaves it unchecked, and then SeqNumber should be set.
	Now  time.Time
	Skew time.Duration
	// SeqNumber is the next one expected; nil leaves it unchecked.
	SeqNumber *uint32
	// Sender and Receiver are the two addresses; nil leaves one unchecked.
	Sender, Receiver *HostAddress
}

// Check is the refusal for a body that does not fit: KRB_AP_ERR_BADADDR, KRB_AP_ERR_SKEW or KRB_AP_ERR_BADORDER. A field that is
// expected and absent does not fit.
func (b *KRBSafeBody) Check(f Freshness) error {
	if f.Sender != nil && !b.SAddress.Equal(*f.Sender) {
		return &Error{Code: ErrBadAddr, Status: "BADADDR"}
	}
	if f.Receiver != nil && b.RAddress != nil && !b.RAddress.Equal(*f.Receiver) {
		return &Error{Code: ErrBadAddr, Status: "BADADDR"}
	}
	if !f.Now.IsZero() && (b.Timestamp.IsZero() || withMicros(b.Timestamp, b.USec).Sub(f.Now).Abs() > f.Skew) {
		return &Error{Code: ErrSkew, Status: "SKEW"}
	}
	if f.SeqNumber != nil && (!b.HasSeqNumber || b.SeqNumber != *f.SeqNumber) {
		return &Error{Code: ErrBadOrder, Status: "BADORDER"}
	}
	return nil
}

// Check is that of KRBSafeBody.
func (p *EncKRBPrivPart) Check(f Freshness) error { return (*KRBSafeBody)(p).Check(f) }

// errCount is a KRB-CRED with more tickets than descriptions of them, or fewer.
var errCount = errors.New("tickets and ticket-info differ in number")

// NewKRBCred builds a KRB-CRED (RFC 4120 section 3.6.1), DER. tickets and part.TicketInfo go in pairs.
func NewKRBCred(rand io.Reader, k *kcrypto.Key, tickets []Ticket, part *EncKRBCredPart) ([]byte, error) {
	if len(tickets) != len(part.TicketInfo) {
		return nil, fmt.Errorf("building a KRB-CRED: %w", errCount)
	}
	plain, err := EncodeEncKRBCredPart(part)
	if err != nil {
		return nil, err
	}
	defer clear(plain) // it holds session keys
	sealed, err := Seal(k, 0, rand, kcrypto.UsageKRBCred, plain)
	if err != nil {
		return nil, fmt.Errorf("sealing a KRB-CRED: %w", err)
	}
	return EncodeKRBCred(&KRBCred{Tickets: tickets, EncPart: sealed})
}

// OpenKRBCred opens a KRB-CRED, DER. Peers disagree on whether the subkey or the session key seals it, so keys are tried in turn. One
// that is not sealed at all (etype 0) is refused: it would have to come inside something that is.
func OpenKRBCred(raw []byte, keys ...*kcrypto.Key) (tickets []Ticket, part *EncKRBCredPart, err error) {
	m, err := DecodeKRBCred(raw)
	if err != nil {
		return nil, nil, malformed(err)
	}
	err = errNilKey
	for _, k := range keys {
		if k == nil {
			continue
		}
		if part, err = Open(k, kcrypto.UsageKRBCred, m.EncPart, DecodeEncKRBCredPart); err == nil {
			break
		}
	}
	switch {
	case err != nil:
		return nil, nil, unopened(err)
	case len(part.TicketInfo) != len(m.Tickets):
		return nil, nil, &Error{Code: ErrModified, Status: "MODIFIED", Err: errCount}
	}
	return m.Tickets, part, nil
}

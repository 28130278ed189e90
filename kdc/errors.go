package kdc

import (
	"context"
	"errors"
	"time"

	"github.com/charon-kdc/charon/kdc/kdb"
	"github.com/charon-kdc/charon/kdc/krb5"
)

// refused makes a protocol refusal. status is MIT's word where MIT has one; it is the e-text, too.
func refused(code krb5.ErrorCode, status string) *krb5.Error {
	return &krb5.Error{Code: code, Status: status}
}

// silence is a refusal that sends nothing, with the word for the log.
type silence struct{ status string }

func (s silence) Error() string { return "no reply: " + s.status }

// classify names what err means to the client: the refusal to send, or nil for silence, and the word for the log.
// What is no *krb5.Error, no state of the store and no end of the context is our own fault: KRB_ERR_GENERIC, and nothing of it leaves.
func classify(err error) (e *krb5.Error, status string) {
	if e, ok := errors.AsType[*krb5.Error](err); ok {
		return e, e.Status
	}
	if s, ok := errors.AsType[silence](err); ok {
		return nil, s.status
	}
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return nil, "HELD_TOO_LONG"
	case errors.Is(err, kdb.ErrStale):
		return refused(krb5.ErrSvcUnavailable, "STATE_STALE"), "STATE_STALE"
	case errors.Is(err, kdb.ErrUnavailable):
		return refused(krb5.ErrSvcUnavailable, "NO_QUORUM"), "NO_QUORUM"
	}
	return &krb5.Error{Code: krb5.ErrGeneric}, "INTERNAL"
}

// names are the principals a KRB-ERROR mentions. Empty and nil fields are unknown.
type names struct {
	crealm string
	cname  *krb5.PrincipalName
	realm  string
	sname  *krb5.PrincipalName
}

// refusal is the KRB-ERROR for e (RFC 4120 section 5.9.1), the only door through which a refusal leaves. realm and sname are
// mandatory there, so an error about a request that named no server speaks of the TGS it reached.
func (s *Server) refusal(e *krb5.Error, n names, now time.Time) []byte {
	out := krb5.KRBError{ErrorCode: e.Code, EText: e.Status, EData: e.EData, CRealm: n.crealm, CName: n.cname, Realm: n.realm}
	out.STime, out.SUSec = krb5.SplitTime(now)
	if n.sname != nil {
		out.SName = *n.sname
	} else {
		out.SName = krb5.TGSName(n.realm)
	}
	b, err := krb5.EncodeKRBError(&out)
	if err != nil {
		s.cfg.Logger.Error("encoding a KRB-ERROR", "code", e.Code.String(), "error", err)
		return nil
	}
	return b
}

// Oversize is the KRB-ERROR for a request over TCP whose length does not fit (RFC 5021: KRB_ERR_FIELD_TOOLONG). Nothing of the request
// is known then, so it names the TGS of no realm.
func (s *Server) Oversize() []byte {
	return s.refusal(refused(krb5.ErrFieldTooLong, ""), names{}, s.cfg.Now())
}

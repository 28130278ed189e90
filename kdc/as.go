package kdc

import (
	"context"
	"errors"
	"time"

	"github.com/charon-kdc/charon/kdc/kdb"
	"github.com/charon-kdc/charon/kdc/krb5"
	"github.com/charon-kdc/charon/kdc/krb5/kcrypto"
)

// asGrant is what an AS exchange will issue, before the proof.
type asGrant struct {
	lifetimes
	flags        krb5.TicketFlags
	sessionEType kcrypto.EType
	ticketKey    *kdb.Key
	replyKey     *kdb.Key
}

// as is the AS exchange, RFC 4120 section 3.1.
func (s *Server) as(ctx context.Context, q *request) ([]byte, error) {
	f, err := s.gatherAS(q)
	if err != nil {
		return nil, err
	}
	g, err := checkAS(f)
	if err != nil {
		return nil, err
	}
	client, server := f.client, f.server
	p, err := s.proveAS(ctx, q, f)
	if err != nil {
		return nil, err
	}
	if f.client != client || f.server != server { // the wait has brought newer ones
		if g, err = checkAS(f); err != nil {
			return nil, err
		}
	}
	if err := checkProof(f, p); err != nil {
		return nil, err
	}
	g.flags |= p.flags()
	return s.sealAS(q, f, g)
}

// gatherAS looks up the realm and the principals that the request names.
func (s *Server) gatherAS(q *request) (*asFacts, error) {
	b := &q.msg.ReqBody
	q.names.crealm, q.names.cname = b.Realm, b.CName
	if b.CName == nil {
		q.names.crealm = ""
		return nil, refused(krb5.ErrCPrincipalUnknown, "NULL_CLIENT")
	}
	q.ev.Client = s.text(*b.CName, b.Realm)
	if b.SName == nil {
		return nil, refused(krb5.ErrSPrincipalUnknown, "NULL_SERVER")
	}
	if err := s.limits.admits(q, b.CName, s.cfg.Elapsed()); err != nil {
		return nil, err
	}
	f := &asFacts{body: b, now: q.now, stateNow: q.stateNow, skew: s.skew()}
	var err error
	if f.realm, err = s.cfg.Store.Realm(b.Realm); err != nil {
		return nil, notFound(err, krb5.ErrCPrincipalUnknown, "REALM_UNKNOWN")
	}
	if err := s.readAS(f); err != nil {
		if e, ok := errors.AsType[*krb5.Error](err); ok && (e.Code == krb5.ErrCPrincipalUnknown || e.Code == krb5.ErrSPrincipalUnknown) {
			err = s.limits.tells(q, err, s.cfg.Elapsed())
		}
		return nil, err
	}
	return f, nil
}

// readAS reads client and server, and what is known of the client's failures, afresh. The client comes first, as with MIT: of two unknown names
// the client's is told.
func (s *Server) readAS(f *asFacts) error {
	client, fresh, err := s.lookUp(f.body.Realm, *f.body.CName)
	if err != nil {
		return notFound(err, krb5.ErrCPrincipalUnknown, "CLIENT_NOT_FOUND")
	}
	server, _, err := s.lookUp(f.body.Realm, *f.body.SName)
	if err != nil {
		return notFound(err, krb5.ErrSPrincipalUnknown, "SERVER_NOT_FOUND")
	}
	f.client, f.server, f.fresh = client, server, fresh
	f.activity = s.cfg.Proofs.Activity(client.ID)
	return nil
}

// lookUp reads a principal. fresh tells whether the node was fresh before it looked, so that what it found, or found missing, is the newest there is;
// one that became fresh while it looked does not know: kdb.ErrStale instead of kdb.ErrNotFound.
func (s *Server) lookUp(realm string, name krb5.PrincipalName) (p *kdb.Principal, fresh bool, err error) {
	fresh = s.fresh()
	p, err = s.cfg.Store.Principal(realm, name)
	if !fresh && errors.Is(err, kdb.ErrNotFound) {
		err = kdb.ErrStale
	}
	return p, fresh, err
}

// notFound makes a refusal of kdb.ErrNotFound, and leaves every other error as it is.
func notFound(err error, code krb5.ErrorCode, status string) error {
	if errors.Is(err, kdb.ErrNotFound) {
		return refused(code, status)
	}
	return err
}

// checkAS decides what may be issued if the client is proved. It is pure, and in MIT's order: policy, session key, the client's key, times.
func checkAS(f *asFacts) (*asGrant, error) {
	if err := checkASRules(f); err != nil {
		return nil, err
	}
	g := &asGrant{}
	var ok bool
	if g.sessionEType, ok = sessionEType(f.realm, f.server, f.client, f.body.EType); !ok {
		return nil, refused(krb5.ErrEtypeNoSupp, "BAD_ENCRYPTION_TYPE")
	}
	if g.replyKey = replyKey(f.realm, f.client, f.body.EType); g.replyKey == nil {
		return nil, refused(krb5.ErrEtypeNoSupp, "CANT_FIND_CLIENT_KEY")
	}
	if g.ticketKey = ticketKey(f.server); g.ticketKey == nil {
		return nil, refused(krb5.ErrNullKey, "FINDING_SERVER_KEY")
	}
	var err error
	if g.lifetimes, err = asTimes(f); err != nil {
		return nil, err
	}
	g.flags = asFlags(f, g.lifetimes)
	return g, nil
}

// asFlags are the flags of an initial ticket (RFC 4120 section 3.1.3). PRE-AUTHENT and HW-AUTHENT are not among them: only a proof gives those.
func asFlags(f *asFacts, l lifetimes) krb5.TicketFlags {
	flags := krb5.FlagInitial | krb5.FlagEncPARep
	denied := f.client.Attributes | f.server.Attributes
	o := f.body.KDCOptions
	if o.Has(krb5.KDCOptForwardable) && !denied.Has(kdb.DisallowForwardable) {
		flags |= krb5.FlagForwardable
	}
	if o.Has(krb5.KDCOptProxiable) && !denied.Has(kdb.DisallowProxiable) {
		flags |= krb5.FlagProxiable
	}
	if o.Has(krb5.KDCOptAllowPostdate) {
		flags |= krb5.FlagMayPostdate
	}
	if l.postdated {
		flags |= krb5.FlagPostdated | krb5.FlagInvalid
	}
	if !l.renewTill.IsZero() {
		flags |= krb5.FlagRenewable
	}
	if f.server.Attributes.Has(kdb.OKAsDelegate) {
		flags |= krb5.FlagOKAsDelegate
	}
	return flags
}

// sealAS makes the AS-REP (RFC 4120 section 3.1.3, last paragraph).
func (s *Server) sealAS(q *request, f *asFacts, g *asGrant) ([]byte, error) {
	session, err := kcrypto.GenerateKey(s.cfg.Rand, g.sessionEType)
	if err != nil {
		return nil, err
	}
	part := krb5.EncTicketPart{
		Flags:             g.flags,
		Key:               session,
		CRealm:            f.body.Realm,
		CName:             issuedName(f.body, *f.body.CName, f.client),
		Transited:         krb5.TransitedEncoding{TRType: krb5.TRDomainX500Compress},
		AuthTime:          q.now.Truncate(time.Second),
		StartTime:         g.start,
		EndTime:           g.end,
		RenewTill:         g.renewTill,
		CAddr:             f.body.Addresses,
		AuthorizationData: krb5.AuthorizationData{principalIDElement(f.client.ID)},
	}
	pas, err := keyInfo(f.body.EType, []*kdb.Key{g.replyKey})
	if err != nil {
		return nil, err
	}
	encPA, err := encPARep(q, g.replyKey.Key)
	if err != nil {
		return nil, err
	}
	return s.seal(q, &issue{
		msgType:   krb5.MsgASRep,
		part:      &part,
		srealm:    f.body.Realm,
		sname:     issuedName(f.body, *f.body.SName, f.server),
		ticketKey: g.ticketKey.Key,
		kvno:      g.ticketKey.KVNO,
		replyKey:  g.replyKey.Key,
		replyKVNO: g.replyKey.KVNO,
		usage:     kcrypto.UsageASRepEncPart,
		pas:       pas,
		encPAs:    encPA,
		lastReq:   lastReqs(f),
		keyExpiry: keyExpiration(f.client),
	})
}

// issuedName is the name as asked for, which may be an alias, unless the AS-REQ lets the KDC canonicalize it (RFC 6806 section 6).
func issuedName(b *krb5.KDCReqBody, asked krb5.PrincipalName, p *kdb.Principal) krb5.PrincipalName {
	if b.KDCOptions.Has(krb5.KDCOptCanonicalize) {
		return p.Name
	}
	return asked
}

// keyExpiration is the hint that clients warn by: the password's end or the account's, whichever comes first. Zero: neither.
func keyExpiration(p *kdb.Principal) time.Time {
	if p.PasswordExpiration.IsZero() || !p.Expiration.IsZero() && p.Expiration.Before(p.PasswordExpiration) {
		return p.Expiration
	}
	return p.PasswordExpiration
}

// lastReqs is what the client may know of its past and its end. The field is mandatory: without any news it says none.
func lastReqs(f *asFacts) []krb5.LastReq {
	var out []krb5.LastReq
	if t := f.activity.LastSuccess; !t.IsZero() {
		out = append(out, krb5.LastReq{LRType: krb5.LRInitial, LRValue: t.Truncate(time.Second)})
	}
	if t := f.client.PasswordExpiration; !t.IsZero() {
		out = append(out, krb5.LastReq{LRType: krb5.LRPasswordExpires, LRValue: t.Truncate(time.Second)})
	}
	if t := f.client.Expiration; !t.IsZero() {
		out = append(out, krb5.LastReq{LRType: krb5.LRAccountExpires, LRValue: t.Truncate(time.Second)})
	}
	if out == nil {
		return noLastReq
	}
	return out
}

var noLastReq = []krb5.LastReq{{LRType: krb5.LRNone, LRValue: time.Unix(0, 0).UTC()}}

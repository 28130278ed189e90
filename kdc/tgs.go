package kdc

import (
	"context"
	"encoding/hex"

	"github.com/charon-kdc/charon/internal/mutant"
	"github.com/charon-kdc/charon/kdc/kdb"
	"github.com/charon-kdc/charon/kdc/krb5"
	"github.com/charon-kdc/charon/kdc/krb5/kcrypto"
)

// tgsGrant is what a TGS exchange will issue.
type tgsGrant struct {
	lifetimes
	flags        krb5.TicketFlags
	sessionEType kcrypto.EType
	ticketKey    *kcrypto.Key
	kvno         uint32 // 0: sealed in a session key
	caddr        []krb5.HostAddress
	transited    krb5.TransitedEncoding
}

// tgs is the TGS exchange, RFC 4120 section 3.3. The shared replay cache decides while the rest is done.
func (s *Server) tgs(ctx context.Context, q *request) ([]byte, error) {
	var err error
	if q.realm, err = s.cfg.Store.Realm(q.msg.ReqBody.Realm); err != nil {
		return nil, notFound(err, krb5.ErrSPrincipalUnknown, "REALM_UNKNOWN")
	}
	h, err := s.openHeader(ctx, q)
	if err != nil {
		return nil, err
	}
	if second := q.msg.ReqBody.AdditionalTickets; len(second) > 0 && q.msg.ReqBody.KDCOptions.Has(krb5.KDCOptEncTktInSKey) {
		if err := s.catchUpTo(ctx, q, &second[0]); err != nil {
			return nil, err
		}
	}
	pending := s.cfg.Proofs.Submit(kdb.Proof{Ciphertext: h.authenticator, Request: q.Data, Time: h.auth.Time(), Relaxable: true})
	if t, ok := pending.(kdb.Tagged); ok && s.cfg.Observe != nil {
		tag := t.Tag()
		q.ev.Authenticator = hex.EncodeToString(tag[:])
	}
	f, err := s.gatherTGS(q, h)
	if err != nil {
		return nil, err
	}
	reply, err := s.issueTGS(q, h, f)
	if err != nil {
		return nil, err
	}
	if err := s.await(ctx, q, pending); err != nil { // no reply leaves before the majority has seen this authenticator, unless the operator has relaxed that
		return nil, err
	}
	// The wait may have been long. Who was locked meanwhile, here or at the service, gets nothing that was decided before.
	now, err := s.gatherTGS(q, h)
	if err != nil {
		return nil, err
	}
	if now.headerServer, err = s.stillOpens(q, h); err != nil {
		return nil, err
	}
	if now.client == f.client && now.server == f.server && now.secondClient == f.secondClient && now.headerServer == f.headerServer {
		return reply, nil
	}
	return s.issueTGS(q, h, now)
}

// stillOpens is whom the header ticket is for, and refuses it when the key that opened it was taken away since. It looks after the keys of what is issued
// were read: else a ticket under a revoked key of the TGS, caught at the right moment, would be changed into one under the new key.
func (s *Server) stillOpens(q *request, h *tgsHeader) (*kdb.Principal, error) {
	server, _, err := s.lookUp(h.ticket.Realm, h.ticket.SName)
	if err == nil && server == h.server {
		return server, nil
	}
	now := &tgsHeader{ticket: h.ticket}
	if err := s.openHeaderTicket(q, now); err != nil {
		return nil, err
	}
	return now.server, nil
}

func (s *Server) issueTGS(q *request, h *tgsHeader, f *tgsFacts) ([]byte, error) {
	g, err := checkTGS(f)
	if err != nil {
		return nil, err
	}
	return s.sealTGS(q, h, f, g)
}

// await turns the verdict into a refusal or none.
func (s *Server) await(ctx context.Context, q *request, p kdb.Pending) error {
	if mutant.On(mutant.VerdictNotAwaited) {
		return nil
	}
	ready := s.cfg.Elapsed()
	q.waits()
	v, err := p.Wait(ctx)
	q.ev.ReplayWait = s.cfg.Elapsed().Sub(ready)
	if err != nil {
		q.ev.Replay = "unavailable"
		return err
	}
	switch v {
	case kdb.Fresh:
		q.ev.Replay = "fresh"
		return nil
	case kdb.Same:
		q.ev.Replay = "same"
		return nil
	case kdb.Unconfirmed:
		q.ev.Replay = "unconfirmed"
		return nil
	case kdb.Stale:
		q.ev.Replay = "stale"
		return refused(krb5.ErrSkew, "STALE")
	}
	q.ev.Replay = "repeat"
	return refused(krb5.ErrRepeat, "REPEAT")
}

// gatherTGS looks up whom the tickets and the request name, as they are now.
func (s *Server) gatherTGS(q *request, h *tgsHeader) (*tgsFacts, error) {
	b := &q.msg.ReqBody
	f := &tgsFacts{body: b, realm: q.realm, header: h.part, headerServer: h.server, headerRealm: h.ticket.Realm, headerTGT: h.tgt, foreign: h.foreign, now: q.now, skew: s.skew()}
	var err error
	if f.client, err = s.clientOf(q, h.part, h.foreign); err != nil {
		return nil, err
	}
	for _, t := range [...]krb5.PADataType{krb5.PAForUser, krb5.PAForX509User} {
		if _, ok := findPA(q.msg.PAData, t); ok {
			// To pass over it would give the service a ticket in its own name where it asked for another's (MS-SFU section 3.2.5.1.2).
			return nil, refused(krb5.ErrPADataTypeNoSupp, "UNSUPPORTED_S4U2SELF_REQUEST")
		}
	}
	if b.KDCOptions.Has(krb5.KDCOptEncTktInSKey) {
		if err := s.gatherSecond(q, f); err != nil {
			return nil, err
		}
	}
	sname := b.SName
	switch {
	case sname != nil:
	case f.secondClient != nil && f.second.CRealm == b.Realm: // RFC 4120 section 3.3.3: the client of the additional ticket is meant
		sname = &f.second.CName
		q.names.sname = sname
		q.ev.Server = s.text(*sname, b.Realm)
	default:
		return nil, refused(krb5.ErrSPrincipalUnknown, "NULL_SERVER")
	}
	if f.server, _, err = s.lookUp(b.Realm, *sname); err != nil {
		return nil, notFound(err, krb5.ErrSPrincipalUnknown, "LOOKING_UP_SERVER")
	}
	f.sname = *sname
	return f, nil
}

// clientOf reads the client of a ticket again: what was true when the ticket was issued may not be now. The ticket names
// the client's id, which a deleted and recreated name does not share. nil: the client is of a realm that this cluster does not serve.
func (s *Server) clientOf(q *request, t *krb5.EncTicketPart, foreignTicket bool) (*kdb.Principal, error) {
	foreign, err := s.isForeign(q, t.CRealm)
	switch {
	case err != nil:
		return nil, err
	case foreign:
		return nil, nil
	case foreignTicket:
		return nil, refused(krb5.ErrPolicy, "FOREIGN_TGT_LOCAL_CLIENT")
	}
	p, _, err := s.lookUp(t.CRealm, t.CName)
	if err != nil {
		return nil, notFound(err, krb5.ErrCPrincipalUnknown, "CLIENT_NOT_FOUND")
	}
	switch id, ok := principalIDOf(t.AuthorizationData); {
	case ok && id != p.ID:
		return nil, refused(krb5.ErrTGTRevoked, "PRINCIPAL_ID_MISMATCH")
	case !ok && !s.cfg.AcceptIDLess:
		return nil, refused(krb5.ErrTGTRevoked, "PRINCIPAL_ID_MISSING")
	}
	return p, nil
}

// gatherSecond opens the additional ticket of ENC-TKT-IN-SKEY, which must be a TGT of the realm asked for (RFC 4120 section 3.3.3).
func (s *Server) gatherSecond(q *request, f *tgsFacts) error {
	if len(f.body.AdditionalTickets) == 0 {
		return refused(krb5.ErrBadOption, "NO_2ND_TKT")
	}
	t := &f.body.AdditionalTickets[0]
	if to, tgs := t.SName.IsTGS(); !tgs || to != f.body.Realm || t.Realm != f.body.Realm {
		return refused(krb5.ErrPolicy, "2ND_TKT_NOT_TGS")
	}
	tgs, fresh, err := s.lookUp(t.Realm, t.SName)
	if err != nil {
		return notFound(err, krb5.ErrNoKey, "2ND_TKT_SERVER")
	}
	if !isTGS(tgs, t.Realm, f.body.Realm) {
		return refused(krb5.ErrPolicy, "2ND_TKT_NOT_TGS")
	}
	if f.second, err = openTicket(tgs, fresh, t, q.stateNow); err != nil {
		return restatus(err, "2ND_TKT_DECRYPT")
	}
	if f.secondClient, err = s.clientOf(q, f.second, false); err != nil {
		return restatus(err, "2ND_TKT_CLIENT")
	}
	if f.secondClient == nil {
		return refused(krb5.ErrServerNoMatch, "2ND_TKT_MISMATCH")
	}
	return nil
}

// restatus gives a refusal another word, since it is about another ticket.
func restatus(err error, status string) error {
	if e, ok := err.(*krb5.Error); ok {
		return refused(e.Code, status)
	}
	return err
}

// checkTGS decides what is issued, or refuses. It is pure.
func checkTGS(f *tgsFacts) (*tgsGrant, error) {
	if err := checkTGSRules(f); err != nil {
		return nil, err
	}
	if carriesMandatory(f.header.AuthorizationData) {
		return nil, refused(krb5.ErrPolicy, "MANDATORY_AUTHDATA")
	}
	g := &tgsGrant{}
	var err error
	if g.sessionEType, err = tgsSessionEType(f); err != nil {
		return nil, err
	}
	switch {
	case f.has(krb5.KDCOptRenew):
		g.lifetimes, err = renewTimes(f)
	case f.has(krb5.KDCOptValidate):
		g.lifetimes = lifetimes{start: ticketStart(f.header), end: f.header.EndTime, renewTill: f.header.RenewTill}
	default:
		g.lifetimes, err = tgsTimes(f)
	}
	if err != nil {
		return nil, err
	}
	g.flags = tgsFlags(f, g.lifetimes)
	g.caddr = f.header.CAddr
	if f.body.KDCOptions&(krb5.KDCOptForwarded|krb5.KDCOptProxy) != 0 {
		g.caddr = f.body.Addresses
	}
	if err := checkTransited(f, g); err != nil {
		return nil, err
	}
	if f.second != nil {
		g.ticketKey = f.second.Key
		return g, nil
	}
	k := ticketKey(f.server)
	if k == nil {
		return nil, refused(krb5.ErrNullKey, "FINDING_SERVER_KEY")
	}
	g.ticketKey, g.kvno = k.Key, k.KVNO
	return g, nil
}

// tgsSessionEType: a peer that opens its tickets with a session key can do that key's enctype at least, so it is the first choice.
func tgsSessionEType(f *tgsFacts) (kcrypto.EType, error) {
	if f.second != nil {
		for _, e := range f.body.EType {
			if e == f.second.Key.EType() {
				return e, nil
			}
		}
	}
	if e, ok := sessionEType(f.realm, f.server, f.client, f.body.EType); ok {
		return e, nil
	}
	return 0, refused(krb5.ErrEtypeNoSupp, "BAD_ENCRYPTION_TYPE")
}

// copiedFlags go from the header ticket into every ticket that is based on it (RFC 4120 sections 2.1, 2.5, 2.6).
const copiedFlags = krb5.FlagForwarded | krb5.FlagProxy | krb5.FlagPreAuthent | krb5.FlagHWAuthent

// tgsFlags are the new ticket's flags (RFC 4120 section 3.3.3).
func tgsFlags(f *tgsFacts, l lifetimes) krb5.TicketFlags {
	o := f.body.KDCOptions
	flags := f.header.Flags & copiedFlags
	if o&sameTicketOptions != 0 {
		flags = f.header.Flags &^ krb5.FlagInvalid // all other fields are left unmodified (RFC 4120 section 2.3)
	} else {
		flags |= grantedFlags(f, l)
	}
	flags |= krb5.FlagEncPARep
	if o.Has(krb5.KDCOptForwarded) {
		flags |= krb5.FlagForwarded
	}
	if o.Has(krb5.KDCOptProxy) {
		flags |= krb5.FlagProxy
	}
	flags &^= krb5.FlagOKAsDelegate | krb5.FlagTransitedPolicyChecked
	if f.server.Attributes.Has(kdb.OKAsDelegate) {
		flags |= krb5.FlagOKAsDelegate
	}
	return flags
}

// grantedFlags need the option, the flag in the header ticket, and leave of the principals as they are now.
func grantedFlags(f *tgsFacts, l lifetimes) krb5.TicketFlags {
	var flags krb5.TicketFlags
	denied := attributesOf(f.client, f.server)
	for _, r := range [...]struct {
		option krb5.KDCOptions
		flag   krb5.TicketFlags
		deny   kdb.Attributes
	}{
		{krb5.KDCOptForwardable, krb5.FlagForwardable, kdb.DisallowForwardable},
		{krb5.KDCOptProxiable, krb5.FlagProxiable, kdb.DisallowProxiable},
		{krb5.KDCOptAllowPostdate, krb5.FlagMayPostdate, kdb.DisallowPostdated},
	} {
		if f.has(r.option) && f.header.Flags.Has(r.flag) && !denied.Has(r.deny) {
			flags |= r.flag
		}
	}
	if l.postdated {
		flags |= krb5.FlagPostdated | krb5.FlagInvalid
	}
	if !l.renewTill.IsZero() {
		flags |= krb5.FlagRenewable
	}
	return flags
}

// sealTGS makes the TGS-REP, sealed in the authenticator's subkey if there is one (RFC 4120 section 3.3.3).
func (s *Server) sealTGS(q *request, h *tgsHeader, f *tgsFacts, g *tgsGrant) ([]byte, error) {
	replyKey, usage := h.part.Key, kcrypto.UsageTGSRepSession
	if h.auth.SubKey != nil {
		replyKey, usage = h.auth.SubKey, kcrypto.UsageTGSRepSubKey
	}
	session, err := kcrypto.GenerateKey(s.cfg.Rand, g.sessionEType)
	if err != nil {
		return nil, err
	}
	ad, err := s.issuedAuthData(h, f)
	if err != nil {
		return nil, err
	}
	encPA, err := encPARep(q, replyKey)
	if err != nil {
		return nil, err
	}
	sname := f.sname // also when the client lets the KDC canonicalize: it looks for its ticket under this name, as MIT's KDC knows
	if f.body.KDCOptions&sameTicketOptions != 0 {
		sname = h.ticket.SName
	}
	part := krb5.EncTicketPart{
		Flags:             g.flags,
		Key:               session,
		CRealm:            h.part.CRealm,
		CName:             h.part.CName,
		Transited:         g.transited,
		AuthTime:          h.part.AuthTime,
		StartTime:         g.start,
		EndTime:           g.end,
		RenewTill:         g.renewTill,
		CAddr:             g.caddr,
		AuthorizationData: ad,
	}
	return s.seal(q, &issue{
		msgType:   krb5.MsgTGSRep,
		part:      &part,
		srealm:    f.body.Realm,
		sname:     sname,
		ticketKey: g.ticketKey,
		kvno:      g.kvno,
		replyKey:  replyKey,
		usage:     usage,
		encPAs:    encPA,
		lastReq:   noLastReq,
	})
}

// issuedAuthData is that of the header ticket, and behind it what the client adds (RFC 4120 sections 3.3.2, 5.4.1).
func (s *Server) issuedAuthData(h *tgsHeader, f *tgsFacts) (krb5.AuthorizationData, error) {
	ad := h.part.AuthorizationData
	if f.server.ID != f.headerServer.ID {
		ad = carriedAuthData(ad)
	}
	if f.body.EncAuthorizationData == nil || f.body.KDCOptions&sameTicketOptions != 0 {
		return ad, nil
	}
	k, usage := h.part.Key, kcrypto.UsageTGSReqAuthDataSession
	if h.auth.SubKey != nil {
		k, usage = h.auth.SubKey, kcrypto.UsageTGSReqAuthDataSubKey
	}
	asked, err := krb5.Open(k, usage, *f.body.EncAuthorizationData, krb5.DecodeAuthorizationData)
	if err != nil {
		return nil, refused(krb5.ErrBadIntegrity, "AUTHDATA_DECRYPT")
	}
	more, err := requestedAuthData(asked)
	if err != nil {
		return nil, err
	}
	return append(ad[:len(ad):len(ad)], more...), nil
}

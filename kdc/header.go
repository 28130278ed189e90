package kdc

import (
	"context"
	"crypto/md5"
	"crypto/sha1"
	"crypto/subtle"
	"errors"
	"time"

	"github.com/charon-kdc/charon/kdc/kdb"
	"github.com/charon-kdc/charon/kdc/krb5"
	"github.com/charon-kdc/charon/kdc/krb5/kcrypto"
)

// statusHeader is MIT's word for whatever is wrong with the PA-TGS-REQ; the code tells more.
const statusHeader = "PROCESS_TGS"

func badHeader(code krb5.ErrorCode) error { return refused(code, statusHeader) }

// tgsHeader is an opened and verified PA-TGS-REQ.
type tgsHeader struct {
	ticket *krb5.Ticket
	part   *krb5.EncTicketPart
	// server is whom the ticket is for, by the key that opened it.
	server *kdb.Principal
	// tgt: a TGT for the realm asked for; foreign: one that another realm's KDC issued.
	tgt, foreign  bool
	auth          *krb5.Authenticator
	authenticator []byte // its ciphertext, for the replay cache
}

// openHeader is RFC 4120 section 3.3.2, with the checks of section 3.2.3 in their order.
func (s *Server) openHeader(ctx context.Context, q *request) (*tgsHeader, error) {
	pa, ok := findPA(q.msg.PAData, krb5.PATGSReq)
	if !ok {
		return nil, badHeader(krb5.ErrPADataTypeNoSupp)
	}
	ap, err := krb5.DecodeAPReq(pa.PADataValue)
	if err != nil {
		return nil, badHeader(krb5.ErrMsgType)
	}
	if ap.APOptions&(krb5.APOptUseSessionKey|krb5.APOptMutualRequired) != 0 {
		return nil, badHeader(krb5.ErrPolicy)
	}
	h := &tgsHeader{ticket: &ap.Ticket, authenticator: ap.Authenticator.Cipher}
	if err := s.catchUpTo(ctx, q, h.ticket); err != nil {
		return nil, err
	}
	if err := s.openHeaderTicket(q, h); err != nil {
		return nil, err
	}
	q.names.crealm, q.names.cname = h.part.CRealm, &h.part.CName
	q.ev.Client = s.text(h.part.CName, h.part.CRealm)
	if s.cfg.Observe != nil {
		q.ev.FromTicketID = ticketID(h.ticket)
	}
	if err := s.verifyAuthenticator(q, h, ap); err != nil {
		return nil, err
	}
	q.proven = true
	return h, nil
}

// openHeaderTicket finds the key that the ticket is sealed with. The name and realm in clear only say where to look: it is the key that decides.
func (s *Server) openHeaderTicket(q *request, h *tgsHeader) error {
	t := h.ticket
	to, tgs := t.SName.IsTGS()
	local := t.Realm == q.msg.ReqBody.Realm
	if !local && !(tgs && to == q.msg.ReqBody.Realm) {
		return badHeader(krb5.ErrNotUs)
	}
	server, fresh, err := s.lookUp(t.Realm, t.SName)
	if err != nil {
		return notFound(err, krb5.ErrNoKey, statusHeader)
	}
	if server.Attributes.Has(kdb.DisallowAllTix) {
		return badHeader(krb5.ErrSPrincipalUnknown)
	}
	h.server = server
	h.tgt = tgs && to == q.msg.ReqBody.Realm && isTGS(server, t.Realm, to)
	if !local && !h.tgt {
		return badHeader(krb5.ErrNotUs)
	}
	if h.part, err = openTicket(server, fresh, t, q.stateNow); err != nil {
		return err
	}
	h.foreign, err = s.isForeign(q, t.Realm)
	return err
}

// isTGS tells whether p is krbtgt/to of that realm by its own name. An alias called krbtgt is none: who knows its key must not make TGTs.
func isTGS(p *kdb.Principal, realm, to string) bool {
	r, ok := p.Name.IsTGS()
	return ok && r == to && p.Realm == realm
}

// isForeign tells whether this cluster does not serve that realm.
func (s *Server) isForeign(q *request, realm string) (bool, error) {
	if realm == q.msg.ReqBody.Realm {
		return false, nil
	}
	switch _, err := s.cfg.Store.Realm(realm); {
	case err == nil:
		return false, nil
	case errors.Is(err, kdb.ErrNotFound):
		return true, nil
	default:
		return false, err
	}
}

// keysTriedMax bounds the keys that are tried for a ticket without kvno.
const keysTriedMax = 4

// openTicket opens a ticket under one of p's keys; fresh tells that p is the newest there is. A TGS opens staged keys as well: another node may have made them active a moment before this one.
func openTicket(p *kdb.Principal, fresh bool, t *krb5.Ticket, now time.Time) (*krb5.EncTicketPart, error) {
	ed := &t.EncPart
	tried, ofKVNO := 0, false
	for i := range p.Keys {
		k := &p.Keys[i]
		if ed.HasKVNO && k.KVNO != ed.KVNO || !opens(p, k, now) {
			continue
		}
		ofKVNO = true
		if k.EType != ed.EType || tried == keysTriedMax {
			continue
		}
		tried++
		part, err := krb5.OpenTicket(k.Key, t)
		if err == nil {
			return part, nil
		}
		if !errors.Is(err, kcrypto.ErrIntegrity) {
			return nil, badHeader(krb5.ErrModified) // it opened, and holds nothing that a KDC writes
		}
	}
	switch {
	case tried > 0:
		return nil, badHeader(krb5.ErrBadIntegrity)
	case ofKVNO:
		return nil, badHeader(krb5.ErrNoKey)
	case !fresh:
		return nil, kdb.ErrStale // a key that this node has yet to hear of
	}
	return nil, badHeader(krb5.ErrBadKeyVer)
}

func opens(p *kdb.Principal, k *kdb.Key, now time.Time) bool {
	switch k.State {
	case kdb.KeyStaged:
		return isLocalTGS(p)
	case kdb.KeyRetiring:
		return k.RetireAt.IsZero() || now.Before(k.RetireAt)
	}
	return true
}

// verifyAuthenticator is the rest of RFC 4120 section 3.2.3, and the checksum of 3.3.2.
func (s *Server) verifyAuthenticator(q *request, h *tgsHeader, ap *krb5.APReq) error {
	auth, err := krb5.Open(h.part.Key, kcrypto.UsageTGSReqAuthenticator, ap.Authenticator, krb5.DecodeAuthenticator)
	if err != nil {
		return badHeader(krb5.ErrBadIntegrity)
	}
	h.auth = auth
	switch {
	case auth.CRealm != h.part.CRealm || !auth.CName.Equal(h.part.CName):
		return badHeader(krb5.ErrBadMatch)
	case !krb5.AddressedTo(h.part.CAddr, q.Peer.Addr()):
		return badHeader(krb5.ErrBadAddr)
	case auth.Time().Sub(q.now).Abs() > s.skew():
		return badHeader(krb5.ErrSkew)
	}
	if err := checkHeaderTimes(h.part, q.msg.ReqBody.KDCOptions, q.now, s.skew()); err != nil {
		return err
	}
	return verifyBody(q.msg.RawBody, h.part.Key, auth.Cksum)
}

// checkHeaderTimes: a ticket which is INVALID or not yet valid is good for VALIDATE only; one that is over, for nothing.
func checkHeaderTimes(t *krb5.EncTicketPart, o krb5.KDCOptions, now time.Time, skew time.Duration) error {
	validate := o.Has(krb5.KDCOptValidate)
	switch {
	case t.Flags.Has(krb5.FlagInvalid) && !validate:
		return badHeader(krb5.ErrTktNYV)
	case ticketStart(t).Sub(now) > skew && !validate:
		return badHeader(krb5.ErrTktNYV)
	case now.Sub(t.EndTime) > skew:
		return badHeader(krb5.ErrTktExpired)
	}
	return nil
}

// verifyBody holds the request body against the authenticator's checksum (RFC 4120 section 3.3.2).
//
// rsa-md5 and sha1 are unkeyed, but the authenticator that carries them is sealed: who wants another body under it needs a second preimage. Java
// and Windows send rsa-md5 here, as RFC 1510 did. What is not collision-proof by RFC 3961 (crc32 and the like) is refused.
func verifyBody(body []byte, session *kcrypto.Key, c *krb5.Checksum) error {
	if c == nil {
		return badHeader(krb5.ErrInappCksum)
	}
	same := func(sum []byte) error {
		if subtle.ConstantTimeCompare(sum, c.Checksum) != 1 {
			return badHeader(krb5.ErrModified)
		}
		return nil
	}
	switch c.CksumType {
	case cksumCRC32, cksumRSAMD4, cksumDESMAC, cksumDESMACK, cksumRSAMD4DESK:
		return badHeader(krb5.ErrInappCksum)
	case kcrypto.MD5:
		sum := md5.Sum(body)
		return same(sum[:])
	case kcrypto.SHA1, cksumSHA1Old:
		sum := sha1.Sum(body)
		return same(sum[:])
	}
	switch err := session.VerifyChecksum(c.CksumType, kcrypto.UsageTGSReqChecksum, body, c.Checksum); {
	case err == nil:
		return nil
	case errors.Is(err, kcrypto.ErrChecksumType):
		return badHeader(krb5.ErrSumTypeNoSupp)
	}
	return badHeader(krb5.ErrModified)
}

// Checksum types of RFC 3961 section 8 that prove nothing, and the other number of sha1.
const (
	cksumCRC32      kcrypto.ChecksumType = 1
	cksumRSAMD4     kcrypto.ChecksumType = 2
	cksumDESMAC     kcrypto.ChecksumType = 4
	cksumDESMACK    kcrypto.ChecksumType = 5
	cksumRSAMD4DESK kcrypto.ChecksumType = 6
	cksumSHA1Old    kcrypto.ChecksumType = 10
)

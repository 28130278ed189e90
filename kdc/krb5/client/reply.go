package client

import (
	"fmt"
	"slices"
	"time"

	"github.com/charon-kdc/charon/kdc/krb5"
)

// ReplyError says which check a reply failed: it was forged, or the KDC is broken.
type ReplyError struct {
	What string
	Err  error // what lies under it; nil when nothing does
}

func (e *ReplyError) Error() string {
	if e.Err != nil {
		return fmt.Sprintf("reply refused: %s: %v", e.What, e.Err)
	}
	return "reply refused: " + e.What
}

func (e *ReplyError) Unwrap() error { return e.Err }

func refusal(code krb5.ErrorCode, status string, err error) *krb5.Error {
	return &krb5.Error{Code: code, Status: status, Err: err}
}

// kdcError is a KRB-ERROR as an error. KRB_AP_ERR_SKEW tells by how much the clocks differ.
func kdcError(e *krb5.KRBError, now time.Time) error {
	out := &krb5.Error{Code: e.ErrorCode, Status: e.EText, EData: e.EData}
	if e.ErrorCode == krb5.ErrSkew {
		off := now.Sub(e.STime.Add(time.Duration(e.SUSec) * time.Microsecond)).Round(time.Second)
		word := "ahead of"
		if off < 0 {
			off, word = -off, "behind"
		}
		out.Err = fmt.Errorf("this machine's clock is %v %s the KDC's", off, word)
	}
	return out
}

// check is a reply against its request.
type check struct {
	body   *krb5.KDCReqBody
	rep    *krb5.KDCRep
	part   *krb5.EncKDCRepPart
	crealm string
	cname  krb5.PrincipalName
	// renamed: the client may come back under another name, which an AS may give it (RFC 6806 section 6) and a TGS not. The name stands in the
	// clear, so it needs the KDC's word that nobody changed the exchange.
	renamed bool
	now     time.Time
	skew    time.Duration
}

// reply checks what AS and TGS replies share (RFC 4120 sections 3.1.5 and 3.3.4). What fails first is the error.
func (c *check) reply() error {
	b, p, t := c.body, c.part, &c.rep.Ticket
	canonicalize := b.KDCOptions.Has(krb5.KDCOptCanonicalize)
	for _, rule := range []struct {
		ok   bool
		what string
	}{
		{p.Nonce == b.Nonce, "its nonce is not the request's"},
		{c.rep.CRealm == c.crealm, "it is for a client of another realm"},
		{c.renamed || c.rep.CName.Equal(c.cname), "it is for another client"},
		{p.SRealm == t.Realm && p.SName.Equal(t.SName), "the ticket names another server than the sealed part"},
		{p.SRealm == b.Realm, "it is for a server of another realm"},
		{canonicalize || p.SName.Equal(*b.SName), "it is for another server"},
		{p.Key != nil, "it has no session key"},
		{p.Key == nil || slices.Contains(b.EType, p.Key.EType()), "its session key is of an enctype that was not asked for"},
		{sameAddresses(p.CAddr, b.Addresses), "its addresses are not the request's"},
		{isForever(b.Till) || !p.EndTime.After(b.Till), "the ticket lives longer than was asked for"},
		{p.EndTime.After(start(p)), "the ticket ends before it begins"},
		{c.renewTillOK(), "the ticket is renewable for longer than was asked for"},
	} {
		if !rule.ok {
			return &ReplyError{What: rule.what}
		}
	}
	return nil
}

// initial checks the start of an AS-REP's ticket.
func (c *check) initial() error {
	from := c.body.From
	if from.IsZero() {
		if d := start(c.part).Sub(c.now).Abs(); d > c.skew {
			return refusal(krb5.ErrSkew, "", fmt.Errorf("the ticket starts %v from this machine's now", d.Round(time.Second)))
		}
		return nil
	}
	if !start(c.part).Equal(from) {
		return &ReplyError{What: "the ticket does not start when it was asked to"}
	}
	return nil
}

// renewTillOK: the end of renewing is at most rtime when renewable was asked for, at most till when it came by renewable-ok.
func (c *check) renewTillOK() bool {
	b, p := c.body, c.part
	switch {
	case p.RenewTill.IsZero():
		return true
	case b.KDCOptions.Has(krb5.KDCOptRenewable):
		return isForever(b.RTime) || !p.RenewTill.After(b.RTime)
	case b.KDCOptions.Has(krb5.KDCOptRenewableOK) && p.Flags.Has(krb5.FlagRenewable):
		return isForever(b.Till) || !p.RenewTill.After(b.Till)
	}
	return true
}

// isForever: 19700101000000Z asks for as long as there is (RFC 4120 section 3.1.3), an absent rtime too.
func isForever(t time.Time) bool { return t.IsZero() || t.Unix() == 0 }

func start(p *krb5.EncKDCRepPart) time.Time {
	if p.StartTime.IsZero() {
		return p.AuthTime
	}
	return p.StartTime
}

// sameAddresses: a KDC leaves caddr out, or gives what was asked for.
func sameAddresses(got, asked []krb5.HostAddress) bool {
	return len(got) == 0 || slices.EqualFunc(got, asked, krb5.HostAddress.Equal)
}

// credential is what a checked reply gives.
func (v *Via) credential(rep *krb5.KDCRep, p *krb5.EncKDCRepPart, kdc string) *Credential {
	return &Credential{
		ClientRealm: rep.CRealm, Client: rep.CName, ServerRealm: p.SRealm, Server: p.SName,
		Ticket: rep.Ticket, Key: p.Key, Flags: p.Flags,
		AuthTime: p.AuthTime, StartTime: start(p), EndTime: p.EndTime, RenewTill: p.RenewTill,
		Addresses: p.CAddr, KeyExpiration: p.KeyExpiration, LastReq: p.LastReq,
		KDC: kdc, ReplyEType: rep.EncPart.EType,
	}
}

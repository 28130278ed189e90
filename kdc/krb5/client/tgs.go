package client

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/charon-kdc/charon/kdc/krb5"
	"github.com/charon-kdc/charon/kdc/krb5/kcrypto"
)

// TGSRequest asks for another ticket on the strength of one.
type TGSRequest struct {
	Via
	TGT *Credential
	// Realm and Server are whom the ticket is for; an empty Realm is that of the TGT's server.
	Realm  string
	Server krb5.PrincipalName
	// Options as they go into the request: renew, validate, forwarded, proxy, enc-tkt-in-skey ...; see Inherited.
	Options krb5.KDCOptions
	// Start, Till, RenewTill are the times asked for; a zero Till is the TGT's end.
	Start, Till, RenewTill time.Time
	Addresses              []krb5.HostAddress
	// ETypes of the session key, in order of preference; nil means DefaultETypes.
	ETypes []kcrypto.EType
	// SecondTicket is the other user's TGT for user-to-user (RFC 4120 section 3.3.3 with ENC-TKT-IN-SKEY).
	SecondTicket *krb5.Ticket
	// AuthorizationData goes encrypted to the KDC and from there into the ticket.
	AuthorizationData krb5.AuthorizationData
}

// Inherited is what clients ask of a TGS because the TGT has it: forwardable, proxiable, may-postdate and renewable.
func Inherited(f krb5.TicketFlags) krb5.KDCOptions {
	const common = krb5.KDCOptForwardable | krb5.KDCOptProxiable | krb5.KDCOptAllowPostdate | krb5.KDCOptRenewable
	return krb5.KDCOptions(f) & common // the four have the same bits in both
}

// TGS does the TGS exchange. A refusal is a *krb5.Error with the KDC's code and text; a reply that fails a check of RFC 4120 section 3.3.4
// is a *ReplyError.
func TGS(ctx context.Context, r TGSRequest) (*Credential, error) {
	if r.TGT == nil || r.TGT.Key == nil {
		return nil, errors.New("asking for a ticket: no ticket-granting ticket")
	}
	body, subkey, err := r.body()
	if err != nil {
		return nil, err
	}
	msg, err := TGSMessage(&r.Via, r.TGT, body, subkey)
	if err != nil {
		return nil, fmt.Errorf("asking for a ticket for %s: %w", krb5.FormatPrincipal(r.Server, body.Realm), err)
	}
	reply, addr, err := Exchange(ctx, r.KDCs, msg, r.Exchange)
	if err != nil {
		return nil, fmt.Errorf("asking for a ticket for %s: %w", krb5.FormatPrincipal(r.Server, body.Realm), err)
	}
	if errorCode(reply) != krb5.ErrNone {
		e, err := krb5.DecodeKRBError(reply)
		if err != nil {
			return nil, &ReplyError{What: "its KRB-ERROR is malformed", Err: err}
		}
		return nil, kdcError(e, r.now())
	}
	c, err := r.accept(body, subkey, reply, addr)
	if err != nil {
		return nil, err
	}
	if r.SecondTicket != nil {
		if c.SecondTicket, err = krb5.EncodeTicket(r.SecondTicket); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// body is the KDC-REQ-BODY, and the subkey that the reply comes under.
func (r *TGSRequest) body() (*krb5.KDCReqBody, *kcrypto.Key, error) {
	nonce, err := newNonce(r.rand())
	if err != nil {
		return nil, nil, err
	}
	subkey, err := kcrypto.GenerateKey(r.rand(), r.TGT.Key.EType())
	if err != nil {
		return nil, nil, err
	}
	b := &krb5.KDCReqBody{
		KDCOptions: r.Options, Realm: r.Realm, SName: &r.Server,
		From: r.Start.UTC().Truncate(time.Second), Till: r.Till.UTC().Truncate(time.Second), RTime: r.RenewTill.UTC().Truncate(time.Second),
		Nonce: nonce, EType: r.ETypes, Addresses: r.Addresses,
	}
	if b.Realm == "" {
		b.Realm = r.TGT.ServerRealm
		if realm, ok := r.TGT.Server.IsTGS(); ok {
			b.Realm = realm
		}
	}
	if r.Till.IsZero() {
		b.Till = r.TGT.EndTime
	}
	if b.EType == nil {
		b.EType = DefaultETypes
	}
	if r.SecondTicket != nil {
		b.AdditionalTickets = []krb5.Ticket{*r.SecondTicket}
	}
	if len(r.AuthorizationData) > 0 {
		plain, err := krb5.EncodeAuthorizationData(r.AuthorizationData)
		if err != nil {
			return nil, nil, err
		}
		ed, err := krb5.Seal(subkey, 0, r.rand(), kcrypto.UsageTGSReqAuthDataSubKey, plain)
		if err != nil {
			return nil, nil, err
		}
		b.EncAuthorizationData = &ed
	}
	return b, subkey, nil
}

// TGSMessage is a TGS-REQ, DER, of that body under a fresh authenticator of tgt (RFC 4120 section 3.3.1). subkey may be nil.
// It is apart from TGS so that requests can be made before they are sent.
func TGSMessage(v *Via, tgt *Credential, body *krb5.KDCReqBody, subkey *kcrypto.Key) ([]byte, error) {
	der, err := krb5.EncodeKDCReqBody(body)
	if err != nil {
		return nil, err
	}
	ap, _, err := krb5.NewAPReq(v.rand(), v.now(), tgt.Ticket, tgt.Key, tgt.ClientRealm, tgt.Client, krb5.APReqOptions{TGS: true, Body: der, SubKey: subkey})
	if err != nil {
		return nil, err
	}
	return krb5.EncodeKDCReq(&krb5.KDCReq{
		MsgType: krb5.MsgTGSReq,
		PAData:  []krb5.PAData{{PADataType: krb5.PATGSReq, PADataValue: ap}},
		ReqBody: *body,
	})
}

// OpenTGSReply opens a TGS-REP for the TGT's session key and the subkey that went out, nil for none. It does not check what it says.
func OpenTGSReply(reply []byte, session, subkey *kcrypto.Key) (*krb5.KDCRep, *krb5.EncKDCRepPart, error) {
	rep, err := krb5.DecodeKDCRep(reply)
	if err != nil {
		return nil, nil, &ReplyError{What: "the TGS-REP is malformed", Err: err}
	}
	if rep.MsgType != krb5.MsgTGSRep {
		return nil, nil, &ReplyError{What: "it is no TGS-REP"}
	}
	k, usage := session, kcrypto.UsageTGSRepSession
	if subkey != nil {
		k, usage = subkey, kcrypto.UsageTGSRepSubKey
	}
	part, err := krb5.Open(k, usage, rep.EncPart, krb5.DecodeEncKDCRepPart)
	if err != nil {
		return nil, nil, &ReplyError{What: "its encrypted part does not open", Err: err}
	}
	return rep, part, nil
}

func (r *TGSRequest) accept(body *krb5.KDCReqBody, subkey *kcrypto.Key, reply []byte, addr string) (*Credential, error) {
	rep, part, err := OpenTGSReply(reply, r.TGT.Key, subkey)
	if err != nil {
		return nil, err
	}
	b := *body
	if r.Options.Has(krb5.KDCOptRenew) || r.Options.Has(krb5.KDCOptValidate) {
		b.Till, b.RTime = time.Time{}, time.Time{} // the KDC goes by the ticket's own times
	}
	if len(b.Addresses) == 0 {
		b.Addresses = part.CAddr // a ticket keeps its TGT's addresses when none are asked for
	}
	c := check{body: &b, rep: rep, part: part, crealm: r.TGT.ClientRealm, cname: r.TGT.Client, now: r.now(), skew: r.skew()}
	if err := c.reply(); err != nil {
		return nil, err
	}
	return r.credential(rep, part, addr), nil
}

// Service gives a ticket for a service of the TGT's realm with what the TGT has of options.
func Service(ctx context.Context, v Via, tgt *Credential, server krb5.PrincipalName) (*Credential, error) {
	return TGS(ctx, TGSRequest{Via: v, TGT: tgt, Server: server, Options: Inherited(tgt.Flags), RenewTill: tgt.RenewTill})
}

// Renew gives c again with a new end (RFC 4120 section 3.3.3, RENEW).
func Renew(ctx context.Context, v Via, c *Credential) (*Credential, error) {
	return again(ctx, v, c, krb5.KDCOptRenew)
}

// Validate makes a postdated ticket valid once its start has come (VALIDATE).
func Validate(ctx context.Context, v Via, c *Credential) (*Credential, error) {
	return again(ctx, v, c, krb5.KDCOptValidate)
}

func again(ctx context.Context, v Via, c *Credential, how krb5.KDCOptions) (*Credential, error) {
	return TGS(ctx, TGSRequest{Via: v, TGT: c, Realm: c.ServerRealm, Server: c.Server, Options: Inherited(c.Flags) | how, RenewTill: c.RenewTill, Addresses: c.Addresses})
}

// Forward gives a TGT for other addresses, nil for none (FORWARDED). forwardable lets it be forwarded again.
func Forward(ctx context.Context, v Via, tgt *Credential, addrs []krb5.HostAddress, forwardable bool) (*Credential, error) {
	o := Inherited(tgt.Flags)&^krb5.KDCOptForwardable | krb5.KDCOptForwarded
	if forwardable {
		o |= krb5.KDCOptForwardable
	}
	return TGS(ctx, TGSRequest{Via: v, TGT: tgt, Realm: tgt.ServerRealm, Server: tgt.Server, Options: o, RenewTill: tgt.RenewTill, Addresses: addrs})
}

// Proxy gives a ticket for a service, for use from other addresses (PROXY).
func Proxy(ctx context.Context, v Via, tgt *Credential, server krb5.PrincipalName, addrs []krb5.HostAddress) (*Credential, error) {
	return TGS(ctx, TGSRequest{Via: v, TGT: tgt, Server: server, Options: Inherited(tgt.Flags) | krb5.KDCOptProxy, RenewTill: tgt.RenewTill, Addresses: addrs})
}

// UserToUser gives a ticket for a user, sealed with the session key of that user's TGT (ENC-TKT-IN-SKEY).
func UserToUser(ctx context.Context, v Via, tgt *Credential, user krb5.PrincipalName, usersTGT *krb5.Ticket) (*Credential, error) {
	return TGS(ctx, TGSRequest{Via: v, TGT: tgt, Server: user, Options: Inherited(tgt.Flags) | krb5.KDCOptEncTktInSKey, RenewTill: tgt.RenewTill, SecondTicket: usersTGT})
}

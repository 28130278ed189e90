package client

import (
	"context"
	"time"

	"github.com/charon-kdc/charon/kdc/krb5"
	"github.com/charon-kdc/charon/kdc/krb5/kcrypto"
)

// TGSRequest asks for another ticket on the strength of one.
type TGSRequest struct {
	Via
	TGT *Credential
	// Realm and Server are whom the ticket is for; an empty Realm is the TGT's.
	Realm  string
	Server krb5.PrincipalName
	// Options as they go into the request: renew, validate, forwarded, proxy, enc-tkt-in-skey ...
	Options krb5.KDCOptions
	// Start, Till, RenewTill are the times asked for; a zero Till is the TGT's end.
	Start, Till, RenewTill time.Time
	Addresses              []krb5.HostAddress
	ETypes                 []kcrypto.EType
	// SecondTicket is the other user's TGT for user-to-user (RFC 4120 section 3.3.3 with ENC-TKT-IN-SKEY).
	SecondTicket *krb5.Ticket
	// AuthorizationData goes encrypted to the KDC and from there into the ticket.
	AuthorizationData krb5.AuthorizationData
}

// TGS does the TGS exchange. Errors are as AS gives them.
func TGS(ctx context.Context, r TGSRequest) (*Credential, error) { return nil, nil }

// Renew gives c again with a new end (RFC 4120 section 3.3.3, RENEW).
func Renew(ctx context.Context, v Via, c *Credential) (*Credential, error) { return nil, nil }

// Validate makes a postdated ticket valid once its start has come (VALIDATE).
func Validate(ctx context.Context, v Via, c *Credential) (*Credential, error) { return nil, nil }

// Forward gives a TGT for other addresses, nil for none (FORWARDED).
func Forward(ctx context.Context, v Via, tgt *Credential, addrs []krb5.HostAddress, forwardable bool) (*Credential, error) {
	return nil, nil
}

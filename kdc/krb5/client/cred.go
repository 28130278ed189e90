package client

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/charon-kdc/charon/kdc/krb5"
	"github.com/charon-kdc/charon/kdc/krb5/ccache"
	"github.com/charon-kdc/charon/kdc/krb5/kcrypto"
)

// Credential is a ticket with what its owner knows about it.
type Credential struct {
	ClientRealm string
	Client      krb5.PrincipalName
	// ServerRealm and Server are who the KDC named in the encrypted part, which may be another than was asked for.
	ServerRealm string
	Server      krb5.PrincipalName
	Ticket      krb5.Ticket
	// Key is the session key.
	Key       *kcrypto.Key
	Flags     krb5.TicketFlags
	AuthTime  time.Time
	StartTime time.Time // AuthTime when the KDC left it out
	EndTime   time.Time
	RenewTill time.Time // zero: not renewable
	Addresses []krb5.HostAddress
	// SecondTicket is the DER of the additional ticket of a user-to-user credential.
	SecondTicket []byte

	// The rest is known right after an exchange only; a cache does not keep it.

	// KeyExpiration is when the client's password ends (AS only); the zero time is unknown.
	KeyExpiration time.Time
	LastReq       []krb5.LastReq
	// KDC is the address that answered, host:port.
	KDC string
	// ReplyEType is the enctype of the key that the reply was sealed with.
	ReplyEType kcrypto.EType
}

// Cred is c as a credential cache keeps it.
func (c *Credential) Cred() (ccache.Cred, error) {
	ticket, err := krb5.EncodeTicket(&c.Ticket)
	if err != nil {
		return ccache.Cred{}, fmt.Errorf("storing a ticket for %s: %w", krb5.FormatPrincipal(c.Server, c.ServerRealm), err)
	}
	return ccache.Cred{
		Client: ccache.Principal{Realm: c.ClientRealm, Name: c.Client},
		Server: ccache.Principal{Realm: c.ServerRealm, Name: c.Server},
		Key:    c.Key, AuthTime: c.AuthTime, StartTime: c.StartTime, EndTime: c.EndTime, RenewTill: c.RenewTill,
		IsSKey: c.SecondTicket != nil, Flags: c.Flags, Addresses: c.Addresses, Ticket: ticket, SecondTicket: c.SecondTicket,
	}, nil
}

// FromCred is a cache's credential, ready for an exchange.
func FromCred(x *ccache.Cred) (*Credential, error) {
	what := "reading the ticket for " + x.Server.String()
	if x.Key == nil {
		return nil, fmt.Errorf("%s: its session key is of %v: %w", what, x.EType(), kcrypto.ErrEType)
	}
	t, err := krb5.DecodeTicket(x.Ticket)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	start := x.StartTime
	if start.IsZero() {
		start = x.AuthTime
	}
	return &Credential{
		ClientRealm: x.Client.Realm, Client: x.Client.Name, ServerRealm: x.Server.Realm, Server: x.Server.Name,
		Ticket: *t, Key: x.Key, Flags: x.Flags,
		AuthTime: x.AuthTime, StartTime: start, EndTime: x.EndTime, RenewTill: x.RenewTill,
		Addresses: x.Addresses, SecondTicket: x.SecondTicket,
	}, nil
}

// LocalAddresses are this machine's addresses for a ticket that is to be good from here only (RFC 4120 section 7.5.3): those of every
// interface that is up, without loopback and link-local ones, as MIT takes them.
func LocalAddresses() ([]krb5.HostAddress, error) {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return nil, fmt.Errorf("listing this machine's addresses: %w", err)
	}
	var out []krb5.HostAddress
	for _, a := range all {
		n, ok := a.(*net.IPNet)
		if !ok || !n.IP.IsGlobalUnicast() {
			continue
		}
		if ip, ok := netip.AddrFromSlice(n.IP); ok {
			out = append(out, krb5.NewAddress(ip.Unmap()))
		}
	}
	if len(out) == 0 {
		return nil, errors.New("this machine has no address but its loopback")
	}
	return out, nil
}

// Package pki is the realm's three certificate authorities and the doors they open: one for nodes
// among themselves, one for admin clients, one for PKINIT.
//
// It owns what each kind of certificate looks like (key usages, kind of subject alternative name, lifetimes) and the check
// that a certificate of one kind opens no other kind's door. It must not know where keys are stored, the network, or who is a
// member: a certificate says who somebody is, membership is the realm state's.
package pki

import (
	"cmp"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/url"
	"time"
)

// Kind is one of the three authorities.
type Kind uint8

const (
	Nodes Kind = iota + 1
	Admins
	PKINIT
)

// Kinds are all authorities, in the order in which they are made.
var Kinds = []Kind{Nodes, Admins, PKINIT}

const (
	// NodeLife is how long a node certificate lives; AdminLife likewise for an admin client's.
	NodeLife  = 90 * 24 * time.Hour
	AdminLife = 365 * 24 * time.Hour
	// AuthorityLife is how long an authority lives.
	AuthorityLife = 20 * 365 * 24 * time.Hour
	// backdate lets a peer whose clock is slow accept a fresh certificate.
	backdate = time.Hour
	rsaBits  = 3072
)

// Extended key usages of PKINIT, RFC 4556 section 3.2.2 and 3.2.4.
var (
	oidPKINITClient = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 2, 3, 4} // id-pkinit-KPClientAuth
	oidPKINITKDC    = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 2, 3, 5} // id-pkinit-KPKdc
)

// String is the kind in words.
func (k Kind) String() string {
	switch k {
	case Nodes:
		return "node"
	case Admins:
		return "admin client"
	case PKINIT:
		return "PKINIT"
	}
	return "unknown"
}

// SecretName is the name of the authority's record among the realm's secrets.
func (k Kind) SecretName() string {
	switch k {
	case Nodes:
		return "ca/node"
	case Admins:
		return "ca/admin"
	case PKINIT:
		return "ca/pkinit"
	}
	return ""
}

// Authority is one certificate authority with its key.
type Authority struct {
	Kind Kind
	Cert *x509.Certificate
	Key  crypto.Signer
	// Life of the node certificates that it issues. 0: NodeLife.
	Life time.Duration
}

// NewAuthority makes a key and a self-signed certificate. cluster is the cluster id, 16 bytes. Nodes and admins get ECDSA
// P-256; PKINIT gets RSA, since older PKINIT clients verify nothing else.
func NewAuthority(rand io.Reader, kind Kind, cluster [16]byte, now time.Time) (*Authority, error) {
	var key crypto.Signer
	var err error
	if kind == PKINIT {
		key, err = rsa.GenerateKey(rand, rsaBits)
	} else {
		key, err = NewKey(rand)
	}
	if err != nil {
		return nil, fmt.Errorf("making the %s authority's key: %w", kind, err)
	}
	t, err := template(rand, now, AuthorityLife)
	if err != nil {
		return nil, err
	}
	t.Subject = pkix.Name{CommonName: fmt.Sprintf("Charon %s authority %s", kind, ClusterText(cluster)), Organization: []string{"Charon"}}
	t.IsCA, t.MaxPathLenZero = true, true
	t.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	setUsages(t, kind, true)
	der, err := x509.CreateCertificate(rand, t, t, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("making the %s authority: %w", kind, err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &Authority{Kind: kind, Cert: cert, Key: key}, nil
}

// NewKey is the kind of key that nodes and admin clients have.
func NewKey(rand io.Reader) (*ecdsa.PrivateKey, error) {
	return ecdsa.GenerateKey(elliptic.P256(), rand)
}

// LoadAuthority puts an authority together again from its certificate (DER) and key (PKCS #8, DER).
func LoadAuthority(kind Kind, cert, key []byte) (*Authority, error) {
	c, err := x509.ParseCertificate(cert)
	if err != nil {
		return nil, fmt.Errorf("reading the %s authority: %w", kind, err)
	}
	k, err := x509.ParsePKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("reading the %s authority's key: %w", kind, err)
	}
	s, ok := k.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("the %s authority's key can't sign", kind)
	}
	if pub, ok := s.Public().(interface{ Equal(crypto.PublicKey) bool }); !ok || !pub.Equal(c.PublicKey) {
		return nil, fmt.Errorf("the %s authority's key is not its certificate's", kind)
	}
	return &Authority{Kind: kind, Cert: c, Key: s}, nil
}

// MarshalKey is the authority's key as PKCS #8, DER. It is to be sealed.
func (a *Authority) MarshalKey() ([]byte, error) { return x509.MarshalPKCS8PrivateKey(a.Key) }

// Pin is what join tokens carry and what init prints: SHA-256 of the certificate.
func (a *Authority) Pin() [sha256.Size]byte { return sha256.Sum256(a.Cert.Raw) }

// IssueNode certifies a node's key. hosts are DNS names and IP addresses under which admin clients reach it.
func (a *Authority) IssueNode(rand io.Reader, now time.Time, pub crypto.PublicKey, id NodeIdentity, hosts []string) ([]byte, error) {
	if a.Kind != Nodes {
		return nil, fmt.Errorf("the %s authority does not certify nodes", a.Kind)
	}
	t, err := template(rand, now, cmp.Or(a.Life, NodeLife))
	if err != nil {
		return nil, err
	}
	t.Subject = pkix.Name{CommonName: id.Name}
	t.URIs = []*url.URL{id.uri()}
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip == nil {
			t.DNSNames = append(t.DNSNames, h)
		} else if !ip.IsUnspecified() {
			t.IPAddresses = append(t.IPAddresses, ip)
		}
	}
	return a.issue(rand, t, pub)
}

// IssueAdmin certifies an admin client, "cert:NAME" in the role table.
func (a *Authority) IssueAdmin(rand io.Reader, now time.Time, pub crypto.PublicKey, cluster [16]byte, name string) ([]byte, error) {
	if a.Kind != Admins {
		return nil, fmt.Errorf("the %s authority does not certify admin clients", a.Kind)
	}
	if err := checkAdminName(name); err != nil {
		return nil, err
	}
	t, err := template(rand, now, AdminLife)
	if err != nil {
		return nil, err
	}
	t.Subject = pkix.Name{CommonName: name}
	t.EmailAddresses = []string{name + "@" + adminDomain(cluster)}
	return a.issue(rand, t, pub)
}

// RenewAt is when a third of a certificate's life is over.
func RenewAt(c *x509.Certificate) time.Time {
	begun := c.NotBefore.Add(backdate)
	return begun.Add(c.NotAfter.Sub(begun) / 3)
}

func adminDomain(cluster [16]byte) string {
	return hex.EncodeToString(cluster[:]) + ".charon.invalid" // RFC 2606 section 2: nobody's mailbox
}

func checkAdminName(name string) error {
	if len(name) == 0 || len(name) > 64 {
		return errors.New("an admin client's name has 1 to 64 characters")
	}
	for _, r := range name {
		if (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' && r != '_' && r != '.' {
			return fmt.Errorf("admin client name %q: only letters, digits, '-', '_' and '.'", name)
		}
	}
	return nil
}

func (a *Authority) issue(rand io.Reader, t *x509.Certificate, pub crypto.PublicKey) ([]byte, error) {
	t.KeyUsage = x509.KeyUsageDigitalSignature
	t.BasicConstraintsValid = true
	setUsages(t, a.Kind, false)
	if t.NotAfter.After(a.Cert.NotAfter) {
		t.NotAfter = a.Cert.NotAfter
	}
	der, err := x509.CreateCertificate(rand, t, a.Cert, pub, a.Key)
	if err != nil {
		return nil, fmt.Errorf("issuing a %s certificate: %w", a.Kind, err)
	}
	return der, nil
}

func template(rand io.Reader, now time.Time, life time.Duration) (*x509.Certificate, error) {
	var serial [16]byte
	if _, err := io.ReadFull(rand, serial[:]); err != nil {
		return nil, err
	}
	serial[0] &= 0x7f
	serial[0] |= 0x40 // positive, and always 16 octets
	return &x509.Certificate{
		SerialNumber:          new(big.Int).SetBytes(serial[:]),
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(life),
		BasicConstraintsValid: true,
	}, nil
}

// setUsages gives each kind usages that no other kind has. Nodes are server and client to each other under serverAuth
// alone: clientAuth is what admin clients have, and the node door asks for serverAuth in both directions.
func setUsages(t *x509.Certificate, kind Kind, authority bool) {
	switch kind {
	case Nodes:
		t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	case Admins:
		t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	case PKINIT:
		t.UnknownExtKeyUsage = []asn1.ObjectIdentifier{oidPKINITClient}
		if authority {
			t.UnknownExtKeyUsage = append(t.UnknownExtKeyUsage, oidPKINITKDC)
		}
	}
}

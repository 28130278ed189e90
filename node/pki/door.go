package pki

import (
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"golang.org/x/crypto/cryptobyte"
	cryptobyte_asn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// ErrDoor says that a certificate does not open this door. Errors wrap it with why.
var ErrDoor = errors.New("certificate refused")

// NodeIdentity is who a node certificate says it is.
type NodeIdentity struct {
	Cluster, Node [16]byte
	Name          string
}

func (id NodeIdentity) uri() *url.URL {
	return &url.URL{Scheme: "charon", Host: hex.EncodeToString(id.Cluster[:]), Path: "/node/" + hex.EncodeToString(id.Node[:])}
}

func parseURI(u *url.URL) (id NodeIdentity, ok bool) {
	node, found := strings.CutPrefix(u.Path, "/node/")
	if u.Scheme != "charon" || !found || len(node) != 32 || len(u.Host) != 32 {
		return id, false
	}
	if _, err := hex.Decode(id.Cluster[:], []byte(u.Host)); err != nil {
		return id, false
	}
	if _, err := hex.Decode(id.Node[:], []byte(node)); err != nil {
		return id, false
	}
	return id, id.uri().String() == u.String()
}

// ClusterText is a cluster id as people see it: the first four octets, "7f3a-91c2".
func ClusterText(id [16]byte) string {
	return fmt.Sprintf("%x-%x", id[:2], id[2:4])
}

// VerifyNode is the node door: it tells which node presents chain (leaf first, DER). authority is the node authority.
func VerifyNode(authority *x509.Certificate, chain [][]byte, now time.Time) (NodeIdentity, error) {
	leaf, err := verify(Nodes, authority, chain, now)
	if err != nil {
		return NodeIdentity{}, err
	}
	id, ok := parseURI(leaf.URIs[0])
	if !ok {
		return NodeIdentity{}, fmt.Errorf("%w: its URI names no node", ErrDoor)
	}
	id.Name = leaf.Subject.CommonName
	return id, nil
}

// VerifyAdmin is the door of the admin API: it tells the name of the client that presents chain.
func VerifyAdmin(authority *x509.Certificate, cluster [16]byte, chain [][]byte, now time.Time) (string, error) {
	leaf, err := verify(Admins, authority, chain, now)
	if err != nil {
		return "", err
	}
	name := leaf.Subject.CommonName
	if checkAdminName(name) != nil || leaf.EmailAddresses[0] != name+"@"+adminDomain(cluster) {
		return "", fmt.Errorf("%w: it names no admin client of this cluster", ErrDoor)
	}
	return name, nil
}

// VerifyPKINIT is the door of PKINIT clients (RFC 4556 section 3.2.2): it gives the certificate back, whose id-pkinit-san
// is for the caller to read.
func VerifyPKINIT(authority *x509.Certificate, chain [][]byte, now time.Time) (*x509.Certificate, error) {
	return verify(PKINIT, authority, chain, now)
}

// verify holds a chain against one kind: the authority, the kind's usages, and the kind's sort of name and no other.
func verify(kind Kind, authority *x509.Certificate, chain [][]byte, now time.Time) (*x509.Certificate, error) {
	if len(chain) == 0 {
		return nil, fmt.Errorf("%w: none was presented", ErrDoor)
	}
	leaf, err := x509.ParseCertificate(chain[0])
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDoor, err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(authority)
	names, err := sanKinds(leaf)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDoor, err)
	}
	if names.other && kind == PKINIT {
		// Go's parser does not know otherName, and calls a critical extension with nothing else in it unhandled.
		leaf.UnhandledCriticalExtensions = without(leaf.UnhandledCriticalExtensions, oidSAN)
	}
	// Usages are checked below: Verify takes any one of a list, and knows nothing of PKINIT's.
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDoor, err)
	}
	if leaf.IsCA {
		return nil, fmt.Errorf("%w: it is an authority's", ErrDoor)
	}
	if !hasUsages(leaf, kind) {
		return nil, fmt.Errorf("%w: its key usages are not a %s's", ErrDoor, kind)
	}
	if !names.fit(kind, leaf) {
		return nil, fmt.Errorf("%w: its names are not of a %s's kind", ErrDoor, kind)
	}
	return leaf, nil
}

func hasUsages(c *x509.Certificate, kind Kind) bool {
	switch kind {
	case Nodes:
		return len(c.UnknownExtKeyUsage) == 0 && len(c.ExtKeyUsage) == 1 && c.ExtKeyUsage[0] == x509.ExtKeyUsageServerAuth
	case Admins:
		return len(c.UnknownExtKeyUsage) == 0 && len(c.ExtKeyUsage) == 1 && c.ExtKeyUsage[0] == x509.ExtKeyUsageClientAuth
	case PKINIT:
		return len(c.ExtKeyUsage) == 0 && len(c.UnknownExtKeyUsage) == 1 && c.UnknownExtKeyUsage[0].Equal(oidPKINITClient)
	}
	return false
}

var oidSAN = asn1.ObjectIdentifier{2, 5, 29, 17}

// sans says which sorts of GeneralName a certificate has (RFC 5280 section 4.2.1.6).
type sans struct{ other, email, host, uri, rest bool }

func (s sans) fit(kind Kind, c *x509.Certificate) bool {
	switch kind {
	case Nodes:
		return s.uri && len(c.URIs) == 1 && !s.other && !s.email && !s.rest
	case Admins:
		return s.email && len(c.EmailAddresses) == 1 && !s.other && !s.host && !s.uri && !s.rest
	case PKINIT:
		return s.other && !s.email && !s.host && !s.uri && !s.rest
	}
	return false
}

func sanKinds(c *x509.Certificate) (s sans, err error) {
	for _, e := range c.Extensions {
		if !e.Id.Equal(oidSAN) {
			continue
		}
		in := cryptobyte.String(e.Value)
		var names cryptobyte.String
		if !in.ReadASN1(&names, cryptobyte_asn1.SEQUENCE) || !in.Empty() {
			return s, errors.New("its alternative names can't be read")
		}
		for !names.Empty() {
			var name cryptobyte.String
			var tag cryptobyte_asn1.Tag
			if !names.ReadAnyASN1(&name, &tag) {
				return s, errors.New("its alternative names can't be read")
			}
			switch tag &^ 0x20 {
			case cryptobyte_asn1.Tag(0).ContextSpecific():
				s.other = true
			case cryptobyte_asn1.Tag(1).ContextSpecific():
				s.email = true
			case cryptobyte_asn1.Tag(2).ContextSpecific(), cryptobyte_asn1.Tag(7).ContextSpecific():
				s.host = true
			case cryptobyte_asn1.Tag(6).ContextSpecific():
				s.uri = true
			default:
				s.rest = true
			}
		}
	}
	return s, nil
}

func without(list []asn1.ObjectIdentifier, id asn1.ObjectIdentifier) []asn1.ObjectIdentifier {
	var out []asn1.ObjectIdentifier
	for _, v := range list {
		if !v.Equal(id) {
			out = append(out, v)
		}
	}
	return out
}

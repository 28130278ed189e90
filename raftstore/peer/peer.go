// Package peer is the port between nodes: one TLS 1.3 listener whose ALPN protocol picks the service,
// client certificates of the node authority, and the rule that a peer must be a current member.
//
// It owns the handshake and its checks. It must not know what runs over its connections.
package peer

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// The services of the port.
const (
	ALPNRealm   = "charon-realm/1"   // raft RPCs of the realm group
	ALPNReplay  = "charon-replay/1"  // raft RPCs of the replay group
	ALPNBatch   = "charon-batch/1"   // proofs to the replay leader
	ALPNForward = "charon-forward/1" // gRPC between nodes
	ALPNJoin    = "charon-join/1"    // the one service that takes a token in place of a node certificate
)

// NodeID is a node's identity: the realm group's server id.
type NodeID [16]byte

func (n NodeID) String() string { return hex.EncodeToString(n[:]) }

// IsZero tells whether it names no node.
func (n NodeID) IsZero() bool { return n == NodeID{} }

// ParseNodeID reads 32 hex digits.
func ParseNodeID(s string) (NodeID, error) {
	var n NodeID
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != len(n) {
		return n, fmt.Errorf("node id %q is not 32 hex digits", s)
	}
	copy(n[:], b)
	return n, nil
}

// Identity is how a node shows itself and whom it believes.
type Identity struct {
	ClusterID [16]byte
	// Certificate returns the node's current certificate and key; called at every handshake, so that it may change.
	Certificate func() (*tls.Certificate, error)
	// Roots returns the node authority's certificates.
	Roots func() *x509.CertPool
	// Times are moments at one of which a peer's certificate must be valid: this machine's time and the cluster's. With its own alone, a node whose clock is
	// wrong by a certificate's life would cut itself off from those who could tell it. nil: the machine's.
	Times func() []time.Time
	// Allowed tells whether a node is a current member. Called at every handshake, both ways.
	Allowed func(NodeID) bool
	// Retired tells whether a node's key was replaced by another since it was certified; nil: none was. Called likewise.
	Retired func(NodeID, KeyHash) bool
	// Dial opens a connection to host:port below TLS. nil: TCP.
	Dial func(ctx context.Context, addr string) (net.Conn, error)
}

// KeyHash is the SHA-256 of a certificate's SubjectPublicKeyInfo.
type KeyHash [sha256.Size]byte

// HashKey of a certificate.
func HashKey(c *x509.Certificate) KeyHash { return sha256.Sum256(c.RawSubjectPublicKeyInfo) }

var (
	// ErrRetired says that the peer's certificate is good, but the node has another by now.
	ErrRetired = errors.New("peer has replaced this key")
	// ErrNotMember says that the peer's certificate is good but the node is no member of this cluster.
	ErrNotMember = errors.New("peer is not a member of this cluster")
	// ErrNoIdentity says that the certificate names no node of this cluster.
	ErrNoIdentity = errors.New("certificate names no node of this cluster")
	// ErrOtherNode says that another node answered than the one that was dialled.
	ErrOtherNode = errors.New("another node answered")
)

// dial opens a connection below TLS, in as many tries as ctx has time for. What refuses is not asked again.
func (i *Identity) dial(ctx context.Context, addr string) (net.Conn, error) {
	for {
		once, cancel := context.WithTimeout(ctx, connectTry)
		c, err := i.dialOnce(once, addr)
		late := once.Err() != nil
		cancel()
		if err == nil || !late || ctx.Err() != nil {
			return c, err
		}
	}
}

// connectTry is how long one try at a connection may take. A kernel sends a lost SYN again after 1, 3 and 7 s; who asks anew every second is not in the middle
// of a long pause when a partition heals.
const connectTry = time.Second

func (i *Identity) dialOnce(ctx context.Context, addr string) (net.Conn, error) {
	if i.Dial == nil {
		return (&net.Dialer{Control: giveUpSoon}).DialContext(ctx, "tcp", addr)
	}
	c, err := i.Dial(ctx, addr)
	if l, ok := c.(interface{ LimitUnacked(time.Duration) }); ok {
		l.LimitUnacked(unackedMax)
	}
	return c, err
}

// unackedMax is how long a connection lives on while the other host acknowledges nothing.
const unackedMax = 3 * time.Second

// giveUpSoon: during a partition the kernel sends again less and less often, so a connection from before it is slower to work again than a new one.
func giveUpSoon(_, _ string, c syscall.RawConn) error {
	var err error
	if cerr := c.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(unackedMax.Milliseconds()))
	}); cerr != nil {
		return cerr
	}
	return err
}

// URI is the subject alternative name of a node certificate: charon://<cluster-id>/node/<node-id>, both in hex.
func URI(cluster [16]byte, id NodeID) *url.URL {
	return &url.URL{Scheme: "charon", Host: hex.EncodeToString(cluster[:]), Path: "/node/" + id.String()}
}

// CertificateID is the one node id that c names in cluster. Error: ErrNoIdentity.
func CertificateID(cluster [16]byte, c *x509.Certificate) (NodeID, error) {
	var found NodeID
	for _, u := range c.URIs {
		rest, ok := strings.CutPrefix(u.Path, "/node/")
		if u.Scheme != "charon" || u.Host != hex.EncodeToString(cluster[:]) || !ok {
			continue
		}
		id, err := ParseNodeID(rest)
		if err != nil || !found.IsZero() {
			return NodeID{}, ErrNoIdentity // malformed, or two names
		}
		found = id
	}
	if found.IsZero() {
		return NodeID{}, ErrNoIdentity
	}
	return found, nil
}

// ServerConfig is the TLS configuration of the port for these services.
func (i *Identity) ServerConfig(alpn []string) *tls.Config {
	var member, open []string
	for _, p := range alpn {
		if p == ALPNJoin {
			open = append(open, p)
		} else {
			member = append(member, p)
		}
	}
	base := func(protos []string) *tls.Config {
		return &tls.Config{
			MinVersion:             tls.VersionTLS13,
			NextProtos:             protos,
			SessionTicketsDisabled: true,
			GetCertificate:         func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return i.Certificate() },
		}
	}
	cfg := base(alpn)
	// Which of the two a client gets follows from what it asks for; each offers only its own protocols, so asking for the
	// open one never leads to a member's service.
	cfg.GetConfigForClient = func(h *tls.ClientHelloInfo) (*tls.Config, error) {
		if len(h.SupportedProtos) == 1 && h.SupportedProtos[0] == ALPNJoin && len(open) > 0 {
			return base(open), nil
		}
		c := base(member)
		// Node certificates have serverAuth alone, in both directions: clientAuth is what admin clients have. The library's
		// own check of a client would ask for clientAuth.
		c.ClientAuth = tls.RequireAnyClientCert
		c.VerifyConnection = func(cs tls.ConnectionState) error {
			if err := i.verifyChain(cs); err != nil {
				return err
			}
			return i.verify(cs, nil)
		}
		return c, nil
	}
	return cfg
}

// ClientConfig is the TLS configuration to dial one service. want, if not nil, is the node that must answer.
func (i *Identity) ClientConfig(alpn string, want *NodeID) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		NextProtos: []string{alpn},
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return i.Certificate()
		},
		// Nodes are named by id and not by host name: verify does the chain and the identity.
		InsecureSkipVerify: true,
		VerifyConnection: func(cs tls.ConnectionState) error {
			if cs.NegotiatedProtocol != alpn {
				return fmt.Errorf("peer does not speak %s", alpn)
			}
			if err := i.verifyChain(cs); err != nil {
				return err
			}
			return i.verify(cs, want)
		},
	}
}

// verifyChain holds the peer's certificate against the node authority; the library's own checks, tied to host names and to
// the side that dialled, are off.
func (i *Identity) verifyChain(cs tls.ConnectionState) error {
	if len(cs.PeerCertificates) == 0 {
		return ErrNoIdentity
	}
	inter := x509.NewCertPool()
	for _, c := range cs.PeerCertificates[1:] {
		inter.AddCert(c)
	}
	times := []time.Time{{}}
	if i.Times != nil {
		times = i.Times()
	}
	var err error
	for _, t := range times {
		_, err = cs.PeerCertificates[0].Verify(x509.VerifyOptions{
			Roots:         i.Roots(),
			Intermediates: inter,
			KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
			CurrentTime:   t,
		})
		if err == nil {
			return nil
		}
	}
	return err
}

// verify checks identity and membership on a connection whose chain was checked.
func (i *Identity) verify(cs tls.ConnectionState, want *NodeID) error {
	if len(cs.PeerCertificates) == 0 {
		return ErrNoIdentity
	}
	id, err := CertificateID(i.ClusterID, cs.PeerCertificates[0])
	if err != nil {
		return err
	}
	if want != nil && id != *want {
		return fmt.Errorf("%w: dialled %v, found %v", ErrOtherNode, *want, id)
	}
	if i.Allowed != nil && !i.Allowed(id) {
		return fmt.Errorf("%w: %v", ErrNotMember, id)
	}
	if i.Retired != nil && i.Retired(id, HashKey(cs.PeerCertificates[0])) {
		return fmt.Errorf("%w: %v", ErrRetired, id)
	}
	return nil
}

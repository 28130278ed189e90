// Package join lets a new node into a cluster: over the peer port's one service that takes a token in place of a node
// certificate, the joiner proves that it holds the token, has its key certified, and is given the master key.
//
// It owns the exchange and its order: the token is bound to the joiner's public key by a commit, and the node is a member, before
// the master key leaves. It must not know how a token is stored, how raft adds a node or where files lie: Backend and the
// caller do.
package join

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/charon-kdc/charon/adminapi/jointoken"
	"github.com/charon-kdc/charon/node/pki"
	statev1 "github.com/charon-kdc/charon/proto/charon/state/v1"
	"github.com/charon-kdc/charon/raftstore/peer"
)

const (
	messageMax      = 64 << 10
	exporterLabel   = "EXPORTER-charon-join-1"
	exporterBytes   = 32
	exchangeTimeout = 30 * time.Second
	redirectsMax    = 8
	retryEvery      = 500 * time.Millisecond
)

var (
	// ErrPin says that who answered is not of the cluster that the token is for.
	ErrPin = errors.New("the node that answered is not of the token's cluster")
	// ErrRefused says that the cluster does not let this node in: the token is unknown, expired or used by another, or the name
	// is taken. Trying again does not help.
	ErrRefused = errors.New("join refused")
)

// Request is what the joiner sends once.
type Request struct {
	TokenID   []byte `json:"token_id"`
	Public    []byte `json:"public"` // jointoken.Proof
	Signature []byte `json:"signature"`
	CSR       []byte `json:"csr"` // DER; its key is the node's

	Name            string   `json:"name"`
	RealmID         []byte   `json:"realm_id"`  // raft server ids, 16 bytes
	ReplayID        []byte   `json:"replay_id"` //
	PeerAddress     string   `json:"peer_address"`
	AdminAddress    string   `json:"admin_address"`
	KDCAddress      string   `json:"kdc_address"`
	HTTPAddress     string   `json:"http_address"`
	Hosts           []string `json:"hosts"` // for the certificate
	Version         string   `json:"version"`
	FeatureLevelMax uint32   `json:"feature_level_max"`

	// Member makes it a question.
	Member []byte `json:"member,omitempty"`
}

// Grant is what the cluster gives a node that it lets in.
type Grant struct {
	ClusterID   []byte   `json:"cluster_id"`
	Realm       string   `json:"realm"`
	Name        string   `json:"name"`
	Certificate []byte   `json:"certificate"` // DER
	Authority   []byte   `json:"authority"`   // DER
	MasterKey   []byte   `json:"master_key"`  // text of the key file
	Members     []Member `json:"members"`
}

// Member is a node that the joiner may believe before its own log tells it who is one.
type Member struct {
	ID          []byte `json:"id"`
	Name        string `json:"name"`
	PeerAddress string `json:"peer_address"`
}

// answer holds one of its fields.
type answer struct {
	Grant    *Grant `json:"grant,omitempty"`
	Redirect string `json:"redirect,omitempty"` // the leader's peer address: ask there
	Retry    string `json:"retry,omitempty"`    // why to come again in a moment
	Refused  string `json:"refused,omitempty"`  // why not
	Member   string `json:"member,omitempty"`   // to a question
}

// node is the request's record, bound to the joiner's key.
func (r *Request) node(keyHash []byte) *statev1.Node {
	return &statev1.Node{
		Id: r.RealmID, ReplayId: r.ReplayID, Name: r.Name, KeyHash: keyHash, TokenId: r.TokenID, PeerAddress: r.PeerAddress, AdminAddress: r.AdminAddress,
		KdcAddress: r.KDCAddress, HttpAddress: r.HTTPAddress, Version: r.Version, FeatureLevelMax: r.FeatureLevelMax,
	}
}

// check bounds what a stranger can put into the state.
func (r *Request) check() error {
	if len(r.RealmID) != 16 || len(r.ReplayID) != 16 || len(r.TokenID) != 8 {
		return errors.New("ids of the wrong length")
	}
	if len(r.Hosts) > 16 || len(r.Version) > 128 {
		return errors.New("more than 16 host names, or too long a version")
	}
	for _, h := range r.Hosts {
		if len(h) == 0 || len(h) > 253 {
			return errors.New("a host name that is none")
		}
	}
	for _, a := range []string{r.PeerAddress, r.AdminAddress, r.KDCAddress, r.HTTPAddress} {
		if _, _, err := net.SplitHostPort(a); err != nil || len(a) > 300 {
			return errors.New("an address that is none")
		}
	}
	return jointoken.CheckNodeName(r.Name)
}

func writeMessage(w io.Writer, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if len(b) > messageMax {
		return fmt.Errorf("a join message of %d bytes; at most %d", len(b), messageMax)
	}
	_, err = w.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...))
	return err
}

func readMessage(r io.Reader, v any) error {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n > messageMax {
		return fmt.Errorf("a join message of %d bytes; at most %d", n, messageMax)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		return err
	}
	return json.Unmarshal(b, v)
}

// Joiner is a node that wants in.
type Joiner struct {
	Token *jointoken.Token
	// Key is kept by the caller across crashes: the token is bound to it by the first try.
	Key crypto.Signer
	// Request without token, proof and CSR; Name may be empty when the token has one.
	Request Request
	Now     func() time.Time
	// Progress is told what is waited for; may be nil.
	Progress func(string)
	// Timeout bounds the whole; after a crash or a timeout the same Joiner may try again.
	Timeout time.Duration
}

// Join asks until it is let in, refused, or out of time. It follows to the leader. Errors: ErrPin, ErrRefused, or the last failure.
func (j *Joiner) Join(ctx context.Context) (*Grant, error) {
	ctx, cancel := context.WithTimeout(ctx, j.Timeout)
	defer cancel()
	addr := j.Token.Address
	for redirects := 0; ; {
		ans, err := j.ask(ctx, addr)
		switch {
		case errors.Is(err, ErrPin):
			return nil, err
		case err == nil && ans.Refused != "":
			return nil, fmt.Errorf("%w: %s", ErrRefused, ans.Refused)
		case err == nil && ans.Grant != nil:
			return ans.Grant, j.checkGrant(ans.Grant)
		case err == nil && ans.Redirect != "" && redirects < redirectsMax:
			redirects++
			addr = ans.Redirect
			continue
		case err == nil:
			err = errors.New(ans.Retry)
		}
		addr = j.Token.Address
		redirects = 0
		if j.Progress != nil {
			j.Progress(err.Error())
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("joining by way of %s: %w", j.Token.Address, err)
		case <-time.After(retryEvery):
		}
	}
}

func (j *Joiner) ask(ctx context.Context, addr string) (*answer, error) {
	ctx, cancel := context.WithTimeout(ctx, exchangeTimeout)
	defer cancel()
	raw, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	conn := tls.Client(raw, &tls.Config{
		MinVersion: tls.VersionTLS13,
		NextProtos: []string{peer.ALPNJoin},
		// The pin decides, not a host name and not a public authority.
		InsecureSkipVerify: true,
		VerifyConnection:   j.verify,
	})
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { raw.Close() })
	defer stop()
	if err := conn.HandshakeContext(ctx); err != nil {
		return nil, err
	}
	req, err := j.request(conn.ConnectionState())
	if err != nil {
		return nil, err
	}
	if err := writeMessage(conn, req); err != nil {
		return nil, err
	}
	ans := new(answer)
	if err := readMessage(conn, ans); err != nil {
		return nil, fmt.Errorf("waiting for %s: %w", addr, err)
	}
	return ans, nil
}

// verify holds the server against the token's pin: it shows the pinned authority, and a node certificate of that authority.
func (j *Joiner) verify(cs tls.ConnectionState) error {
	if cs.NegotiatedProtocol != peer.ALPNJoin {
		return fmt.Errorf("the node at %s has no join service", j.Token.Address)
	}
	return verifyPinned(cs, j.Token.Pin, j.Now())
}

func (j *Joiner) request(cs tls.ConnectionState) (*Request, error) {
	spki, err := x509.MarshalPKIXPublicKey(j.Key.Public())
	if err != nil {
		return nil, err
	}
	exporter, err := cs.ExportKeyingMaterial(exporterLabel, nil, exporterBytes)
	if err != nil {
		return nil, err
	}
	r := j.Request
	if r.Name == "" {
		r.Name = j.Token.NodeName
	}
	if r.CSR, err = x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: r.Name}}, j.Key); err != nil {
		return nil, err
	}
	p := j.Token.Prove(exporter, spki)
	r.TokenID, r.Public, r.Signature = j.Token.ID[:], p.Public, p.Signature
	return &r, nil
}

// checkGrant makes sure that what came is what was asked for, before anything of it is written down.
func (j *Joiner) checkGrant(g *Grant) error {
	authority, err := x509.ParseCertificate(g.Authority)
	if err != nil || sha256.Sum256(g.Authority) != j.Token.Pin {
		return fmt.Errorf("%w: it sent another authority", ErrPin)
	}
	id, err := pki.VerifyNode(authority, [][]byte{g.Certificate}, j.Now())
	if err != nil {
		return fmt.Errorf("the certificate that was issued: %w", err)
	}
	leaf, err := x509.ParseCertificate(g.Certificate)
	if err != nil {
		return err
	}
	pub, ok := j.Key.Public().(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !pub.Equal(leaf.PublicKey) {
		return errors.New("the certificate that was issued is for another key")
	}
	if string(id.Node[:]) != string(j.Request.RealmID) || string(id.Cluster[:]) != string(g.ClusterID) || id.Name != g.Name {
		return errors.New("the certificate that was issued is for another node")
	}
	return nil
}

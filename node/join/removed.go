package join

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/charon-kdc/charon/node/pki"
	"github.com/charon-kdc/charon/raftstore/peer"
)

// question is the other thing that the service is asked, by a node whose certificate members refuse: whether it was removed. Ids are random and no
// secret, and who asks learns nothing else.
type question struct {
	Member []byte `json:"member"` // node id, 16 bytes
}

// ErrUnsure says that the node that was asked can't tell: it has no leader, or is of an older release.
var ErrUnsure = errors.New("the node that was asked can't tell")

// Removed asks the member at addr whether a node is one still. The answer counts, since a certificate of authority gives it. Errors: ErrUnsure, ErrPin, or
// nobody answers.
func Removed(ctx context.Context, addr string, authority *x509.Certificate, id [16]byte, now time.Time) (bool, error) {
	raw, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return false, err
	}
	conn := tls.Client(raw, &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{peer.ALPNJoin},
		// The pin decides, as for a joiner.
		InsecureSkipVerify: true,
		VerifyConnection: func(cs tls.ConnectionState) error {
			return verifyPinned(cs, sha256.Sum256(authority.Raw), now)
		},
	})
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { raw.Close() })
	defer stop()
	if err := conn.HandshakeContext(ctx); err != nil {
		return false, err
	}
	if err := writeMessage(conn, question{Member: id[:]}); err != nil {
		return false, err
	}
	ans := new(answer)
	if err := readMessage(conn, ans); err != nil {
		return false, err
	}
	switch ans.Member {
	case memberRemoved:
		return true, nil
	case memberKnown:
		return false, nil
	}
	return false, ErrUnsure
}

// What answer.Member says.
const (
	memberKnown   = "known"
	memberRemoved = "removed"
)

// verifyPinned holds a server against the pin of its authority: it shows that authority, and a node certificate of it.
func verifyPinned(cs tls.ConnectionState, pin [sha256.Size]byte, now time.Time) error {
	if n := len(cs.PeerCertificates); n < 2 || sha256.Sum256(cs.PeerCertificates[1].Raw) != pin {
		return ErrPin
	}
	if _, err := pki.VerifyNode(cs.PeerCertificates[1], [][]byte{cs.PeerCertificates[0].Raw}, now); err != nil {
		return fmt.Errorf("%w: %w", ErrPin, err)
	}
	return nil
}

// member answers a question.
func (s *Server) member(ctx context.Context, id []byte) *answer {
	if len(id) != len(peer.NodeID{}) {
		return &answer{Refused: "a node id of the wrong length"}
	}
	known, err := s.Backend.Known(ctx, peer.NodeID(id))
	switch {
	case err != nil:
		return &answer{Retry: err.Error()}
	case known:
		return &answer{Member: memberKnown}
	}
	return &answer{Member: memberRemoved}
}

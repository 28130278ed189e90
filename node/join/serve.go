package join

import (
	"bytes"
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/charon-kdc/charon/adminapi/jointoken"
	statev1 "github.com/charon-kdc/charon/proto/charon/state/v1"
	"github.com/charon-kdc/charon/raftstore/peer"
)

const (
	// joinsMax bounds the exchanges at work, joinsPerAddress those of one address. For more, the oldest that has not proved to hold a
	// token is closed.
	joinsMax        = 32
	joinsPerAddress = 8
	// requestTimeout is how long a joiner may take to say what it wants.
	requestTimeout = 5 * time.Second
)

// RetryError says that a step could not be done now, and that nothing stands against doing it in a moment.
type RetryError struct{ Err error }

func (e *RetryError) Error() string { return e.Err.Error() }
func (e *RetryError) Unwrap() error { return e.Err }

// RefusedError is a step's final no, in words for the joiner.
type RefusedError struct{ Why string }

func (e *RefusedError) Error() string { return e.Why }

// Backend is the cluster as the join service uses it.
type Backend interface {
	// Known tells whether a node is a member, committed, as of now. An error when this node can't say.
	Known(ctx context.Context, id peer.NodeID) (bool, error)
	// Leader gives "" when this node leads and may decide, else the leader's peer address. *RetryError without a leader.
	Leader(ctx context.Context) (peerAddress string, err error)
	// Token is the record, or nil when there is none.
	Token(ctx context.Context, id []byte) (*statev1.Token, error)
	// UseToken binds the token to the joiner's key, committed. Again with the same key is fine. *RefusedError when another
	// key used it or it has expired.
	UseToken(ctx context.Context, id, usedBy []byte) error
	// Admit makes the node, whose record names key and token, a member (again is fine) and certifies its key. *RefusedError when
	// anything of it is another node's.
	Admit(ctx context.Context, n *statev1.Node, pub crypto.PublicKey, hosts []string) (*Grant, error)
	// Recertify certifies a new key of the member n, in the place of the one it had, by its token (again is fine). The grant has no master
	// key. *RefusedError when the token is not for that.
	Recertify(ctx context.Context, n *statev1.Node, pub crypto.PublicKey, hosts []string) (*Grant, error)
}

// Server answers joiners.
type Server struct {
	Backend Backend
	Logger  *slog.Logger

	wg sync.WaitGroup
}

// Serve answers on the peer port's join listener until it is closed, and waits for the exchanges at work.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	defer s.wg.Wait()
	slots := peer.NewSlots(joinsMax, joinsPerAddress)
	for {
		c, err := ln.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return nil
			}
			return err
		}
		pc, ok := c.(*peer.Conn)
		if !ok {
			c.Close()
			continue
		}
		// Below TLS, whose own close waits for a peer that reads nothing.
		slot := slots.Take(c.RemoteAddr(), func() { pc.NetConn().Close() })
		if slot == nil {
			c.Close()
			continue
		}
		s.wg.Go(func() {
			defer slot.Free()
			s.exchange(ctx, pc, slot)
		})
	}
}

func (s *Server) exchange(ctx context.Context, c *peer.Conn, slot *peer.Slot) {
	defer c.Close()
	ctx, cancel := context.WithTimeout(ctx, exchangeTimeout)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	now := time.Now()
	if c.SetDeadline(now.Add(exchangeTimeout)) != nil || c.SetReadDeadline(now.Add(requestTimeout)) != nil {
		return
	}
	r := new(Request)
	if err := readMessage(c, r); err != nil {
		s.Logger.Debug("join: reading the request", "peer", c.RemoteAddr(), "error", err)
		return
	}
	var ans *answer
	if len(r.Member) > 0 {
		ans = s.member(ctx, r.Member)
	} else {
		ans = s.decide(ctx, c.ConnectionState(), r, slot)
		s.log(c.RemoteAddr(), r, ans)
	}
	if err := writeMessage(c, ans); err != nil {
		s.Logger.Warn("join: answering", "peer", c.RemoteAddr(), "error", err)
	}
}

func (s *Server) log(from net.Addr, r *Request, a *answer) {
	l := s.Logger.With("peer", from, "node", r.Name)
	switch {
	case a.Grant != nil:
		l.Info("join: let in")
	case a.Refused != "":
		l.Warn("join: refused", "reason", a.Refused)
	case a.Retry != "":
		l.Info("join: told to come again", "reason", a.Retry)
	}
}

func (s *Server) decide(ctx context.Context, cs tls.ConnectionState, r *Request, slot *peer.Slot) *answer {
	g, redirect, err := s.admit(ctx, cs, r, slot)
	switch {
	case err == nil && g != nil:
		return &answer{Grant: g}
	case err == nil:
		return &answer{Redirect: redirect}
	}
	if e, ok := errors.AsType[*RefusedError](err); ok {
		return &answer{Refused: e.Why}
	}
	if e, ok := errors.AsType[*RetryError](err); ok {
		return &answer{Retry: e.Error()}
	}
	// What went wrong here is our own matter; the joiner tries again.
	s.Logger.Error("join", "node", r.Name, "error", err)
	return &answer{Retry: "the node that was asked could not do it; its log says why"}
}

// admit is the order that matters: proof, name, commit of the token's use, membership; the grant with the master key is last.
func (s *Server) admit(ctx context.Context, cs tls.ConnectionState, r *Request, slot *peer.Slot) (g *Grant, redirect string, err error) {
	if err := r.check(); err != nil {
		return nil, "", &RefusedError{Why: err.Error()}
	}
	if redirect, err = s.Backend.Leader(ctx); err != nil || redirect != "" {
		return nil, redirect, err
	}
	csr, err := x509.ParseCertificateRequest(r.CSR)
	if err != nil || csr.CheckSignature() != nil {
		return nil, "", &RefusedError{Why: "the request for a certificate is not signed by its key"}
	}
	exporter, err := cs.ExportKeyingMaterial(exporterLabel, nil, exporterBytes)
	if err != nil {
		return nil, "", fmt.Errorf("exporting keying material: %w", err)
	}
	tok, err := s.Backend.Token(ctx, r.TokenID)
	if err != nil {
		return nil, "", err
	}
	// An unknown token and a wrong secret get one answer.
	if tok == nil || jointoken.Verify(tok, jointoken.Proof{Public: r.Public, Signature: r.Signature}, exporter, csr.RawSubjectPublicKeyInfo) != nil {
		return nil, "", &RefusedError{Why: "the token is not known here: it was revoked, or is another cluster's"}
	}
	if !slot.Keep() {
		return nil, "", &RetryError{Err: errors.New("too many ask to join")}
	}
	if want := tok.GetNodeName(); want != "" && want != r.Name {
		return nil, "", &RefusedError{Why: fmt.Sprintf("the token is for node %s, not %s", want, r.Name)}
	}
	if id := tok.GetNodeId(); len(id) > 0 && !bytes.Equal(id, r.RealmID) {
		return nil, "", &RefusedError{Why: "the token certifies a node that is a member already; on that node: charon node recertify"}
	}
	key := jointoken.UsedBy(csr.RawSubjectPublicKeyInfo)
	if err := s.Backend.UseToken(ctx, r.TokenID, key); err != nil {
		return nil, "", err
	}
	if len(tok.GetNodeId()) > 0 {
		g, err = s.Backend.Recertify(ctx, r.node(key), csr.PublicKey, r.Hosts)
		return g, "", err
	}
	g, err = s.Backend.Admit(ctx, r.node(key), csr.PublicKey, r.Hosts)
	return g, "", err
}

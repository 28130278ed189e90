package node

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/charon-kdc/charon/adminapi"
	"github.com/charon-kdc/charon/kdc/kdb/masterkey"
	"github.com/charon-kdc/charon/node/pki"
	"github.com/charon-kdc/charon/node/wallclock"
	peerv1 "github.com/charon-kdc/charon/proto/charon/peer/v1"
	statev1 "github.com/charon-kdc/charon/proto/charon/state/v1"
	"github.com/charon-kdc/charon/raftstore"
	"github.com/charon-kdc/charon/raftstore/forward"
	"github.com/charon-kdc/charon/raftstore/peer"
)

// certifier signs members' next certificates with the node authority, on the leader. The next key is committed before its certificate leaves, and the
// key before it is retired only when the node has been seen to use the next.
type certifier struct {
	peerv1.UnimplementedCertificatesServer
	store *raftstore.Store
	ring  *masterkey.Ring
	life  time.Duration
	now   func() time.Time
	audit func(adminapi.AuditEvent) // may be nil
}

// hostsMax bounds the names in a certificate, as for a joiner.
const hostsMax = 16

// retiredFor is longer than any certificate lives.
const retiredFor = 366 * 24 * time.Hour

// Renew implements peerv1.CertificatesServer.
func (c *certifier) Renew(ctx context.Context, req *peerv1.RenewRequest) (*peerv1.RenewResponse, error) {
	id, ok := forward.Caller(ctx)
	key, _ := forward.CallerKey(ctx)
	if !ok {
		return nil, status.Error(codes.PermissionDenied, "not a member")
	}
	der, err := c.renew(ctx, id, key, req)
	if err != nil {
		return nil, status.Error(codes.FailedPrecondition, err.Error())
	}
	return &peerv1.RenewResponse{Certificate: der}, nil
}

// Activate implements peerv1.CertificatesServer.
func (c *certifier) Activate(ctx context.Context, _ *peerv1.ActivateRequest) (*peerv1.ActivateResponse, error) {
	id, ok := forward.Caller(ctx)
	key, _ := forward.CallerKey(ctx)
	if !ok {
		return nil, status.Error(codes.PermissionDenied, "not a member")
	}
	if err := c.activate(ctx, id, key); err != nil {
		return nil, status.Error(codes.FailedPrecondition, err.Error())
	}
	return &peerv1.ActivateResponse{}, nil
}

// renew certifies the key of a member's request; present is the one that it has shown.
func (c *certifier) renew(ctx context.Context, id peer.NodeID, present peer.KeyHash, req *peerv1.RenewRequest) (der []byte, err error) {
	if err := c.store.VerifyLeader(ctx); err != nil {
		return nil, err
	}
	n, err := c.store.DB().Node(id[:])
	if err != nil {
		return nil, fmt.Errorf("the caller's record: %w", err)
	}
	defer func() { c.note("renew-certificate", n.GetName(), err) }()
	csr, err := x509.ParseCertificateRequest(req.GetCsr())
	if err != nil || csr.CheckSignature() != nil {
		return nil, errors.New("the request for a certificate is not signed by its key")
	}
	if err := checkHosts(req.GetHosts()); err != nil {
		return nil, err
	}
	next := peer.HashKey(&x509.Certificate{RawSubjectPublicKeyInfo: csr.RawSubjectPublicKeyInfo})
	if next != present {
		if err := c.propose(ctx, &statev1.RenewNode{
			Id: id[:], KeyHash: next[:], Present: present[:], Until: c.now().Add(retiredFor).UnixMilli(),
		}); err != nil {
			return nil, err
		}
	}
	return c.issue(n, csr, req.GetHosts())
}

func (c *certifier) issue(n *statev1.Node, csr *x509.CertificateRequest, hosts []string) ([]byte, error) {
	cl, err := c.store.DB().Cluster()
	if err != nil {
		return nil, err
	}
	authority, err := loadAuthority(c.store.DB(), c.ring, pki.Nodes)
	if err != nil {
		return nil, err
	}
	authority.Life = c.life
	return authority.IssueNode(rand.Reader, c.now(), csr.PublicKey, pki.NodeIdentity{Cluster: [16]byte(cl.GetId()), Node: [16]byte(n.GetId()), Name: n.GetName()}, hosts)
}

// activate retires the key before used, which the member has shown.
func (c *certifier) activate(ctx context.Context, id peer.NodeID, used peer.KeyHash) (err error) {
	if err := c.store.VerifyLeader(ctx); err != nil {
		return err
	}
	n, err := c.store.DB().Node(id[:])
	if err != nil {
		return fmt.Errorf("the caller's record: %w", err)
	}
	if !bytes.Equal(n.GetNextKeyHash(), used[:]) && !bytes.Equal(n.GetKeyHash(), used[:]) {
		return errors.New("the caller shows another key than the next: its connection is from before the renewal")
	}
	defer func() { c.note("retire-certificate", n.GetName(), err) }()
	return c.propose(ctx, &statev1.RenewNode{Id: id[:], KeyHash: used[:], Activate: true, Until: c.now().Add(retiredFor).UnixMilli()})
}

func (c *certifier) propose(ctx context.Context, cmd *statev1.RenewNode) error {
	r, err := c.store.Propose(ctx, &statev1.Command{Op: &statev1.Command_RenewNode{RenewNode: cmd}})
	if err != nil {
		return err
	}
	if r.GetCode() != statev1.Code_CODE_OK {
		return fmt.Errorf("%v: %s", r.GetCode(), r.GetMessage())
	}
	return nil
}

// note audits: who may speak for a node has changed.
func (c *certifier) note(method, node string, err error) {
	if c.audit == nil {
		return
	}
	e := adminapi.AuditEvent{Time: c.now(), Method: method, Caller: "node:" + node, Target: node, Code: "OK"}
	if err != nil {
		e.Code, e.Reason = "FAILED", err.Error()
	}
	c.audit(e)
}

func checkHosts(hosts []string) error {
	if len(hosts) > hostsMax {
		return fmt.Errorf("%d host names, at most %d", len(hosts), hostsMax)
	}
	for _, h := range hosts {
		if len(h) == 0 || len(h) > 253 {
			return errors.New("a host name that is none")
		}
	}
	return nil
}

// issueAdmin certifies an admin client's key.
func (s *server) issueAdmin(name string, pub crypto.PublicKey) ([]byte, error) {
	authority, err := loadAuthority(s.store.DB(), s.ring, pki.Admins)
	if err != nil {
		return nil, err
	}
	return authority.IssueAdmin(rand.Reader, wallclock.Now(), pub, s.creds.Cluster, name)
}

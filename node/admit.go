package node

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/charon-kdc/charon/kdc/kdb/masterkey"
	"github.com/charon-kdc/charon/node/join"
	"github.com/charon-kdc/charon/node/pki"
	statev1 "github.com/charon-kdc/charon/proto/charon/state/v1"
	"github.com/charon-kdc/charon/raftstore"
	"github.com/charon-kdc/charon/raftstore/peer"
	"github.com/charon-kdc/charon/raftstore/realm"
)

// doorkeeper is the cluster as the join service uses it.
type doorkeeper struct {
	store *raftstore.Store
	ring  *masterkey.Ring
	life  time.Duration // of a certificate
	now   func() time.Time
}

func (d *doorkeeper) Known(ctx context.Context, id peer.NodeID) (bool, error) {
	if !d.store.Current(ctx) {
		return false, raftstore.ErrNoLeader
	}
	_, err := d.store.DB().Node(id[:])
	if errors.Is(err, realm.ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

func (d *doorkeeper) Leader(context.Context) (string, error) {
	if d.store.IsLeader() {
		return "", nil
	}
	l, ok := d.store.Leader()
	if !ok || l.ID == d.store.Self().ID {
		return "", &join.RetryError{Err: raftstore.ErrNoLeader}
	}
	return l.PeerAddress, nil
}

func (d *doorkeeper) Token(ctx context.Context, id []byte) (*statev1.Token, error) {
	if err := d.store.VerifyLeader(ctx); err != nil {
		return nil, &join.RetryError{Err: err}
	}
	t, err := d.store.DB().Token(id)
	if errors.Is(err, realm.ErrNotFound) {
		return nil, nil
	}
	return t, err
}

func (d *doorkeeper) UseToken(ctx context.Context, id, usedBy []byte) error {
	r, err := d.store.Propose(ctx, &statev1.Command{Op: &statev1.Command_UseToken{UseToken: &statev1.UseToken{Id: id, UsedBy: usedBy}}})
	if err != nil {
		return &join.RetryError{Err: err} // an unknown outcome, too: the same use may be committed twice
	}
	switch r.GetCode() {
	case statev1.Code_CODE_OK:
		return nil
	case statev1.Code_CODE_TOKEN_REFUSED, statev1.Code_CODE_NOT_FOUND:
		return &join.RefusedError{Why: r.GetMessage() + ": make another with charon token create"}
	default:
		return fmt.Errorf("using the token: %v: %s", r.GetCode(), r.GetMessage())
	}
}

// Admit gives certificate and master key last: whoever holds them could use them from then on, so only a member may.
func (d *doorkeeper) Admit(ctx context.Context, n *statev1.Node, pub crypto.PublicKey, hosts []string) (*join.Grant, error) {
	n.JoinedAt = d.now().UnixMilli()
	switch err := d.store.AddNode(ctx, n); {
	case errors.Is(err, raftstore.ErrTaken):
		return nil, &join.RefusedError{Why: err.Error()}
	case err != nil:
		return nil, &join.RetryError{Err: err}
	}
	// The staged version is left out: that is for nodes that still have their record when they are asked to store it.
	keys := d.ring.TextInUse()
	nodes, err := d.store.DB().Nodes() // after the keys: it knows of every removal from before they were in use
	if err != nil {
		return nil, err
	}
	if !slices.ContainsFunc(nodes, func(m *statev1.Node) bool { return bytes.Equal(m.GetId(), n.GetId()) }) {
		return nil, &join.RefusedError{Why: n.GetName() + " was removed"}
	}
	g, err := d.grant(n, pub, hosts, nodes)
	if err != nil {
		return nil, err
	}
	g.MasterKey = keys
	return g, nil
}

// Recertify gives no master key: the node has it, or is to be made anew.
func (d *doorkeeper) Recertify(ctx context.Context, n *statev1.Node, pub crypto.PublicKey, hosts []string) (*join.Grant, error) {
	r, err := d.store.Propose(ctx, &statev1.Command{Op: &statev1.Command_RenewNode{RenewNode: &statev1.RenewNode{
		Id: n.GetId(), KeyHash: n.GetKeyHash(), TokenId: n.GetTokenId(), Activate: true, Until: d.now().Add(retiredFor).UnixMilli(),
	}}})
	switch {
	case err != nil:
		return nil, &join.RetryError{Err: err}
	case r.GetCode() != statev1.Code_CODE_OK:
		return nil, &join.RefusedError{Why: r.GetMessage()}
	}
	return d.grant(n, pub, hosts, nil)
}

// grant has everything but the master key.
func (d *doorkeeper) grant(n *statev1.Node, pub crypto.PublicKey, hosts []string, nodes []*statev1.Node) (*join.Grant, error) {
	cl, err := d.store.DB().Cluster()
	if err != nil {
		return nil, err
	}
	authority, err := loadAuthority(d.store.DB(), d.ring, pki.Nodes)
	if err != nil {
		return nil, err
	}
	authority.Life = d.life
	id := pki.NodeIdentity{Cluster: [16]byte(cl.GetId()), Node: [16]byte(n.GetId()), Name: n.GetName()}
	cert, err := authority.IssueNode(rand.Reader, d.now(), pub, id, hosts)
	if err != nil {
		return nil, err
	}
	g := &join.Grant{
		ClusterID: cl.GetId(), Realm: cl.GetDefaultRealm(), Name: n.GetName(), Certificate: cert, Authority: authority.Cert.Raw,
	}
	for _, m := range nodes {
		if !bytes.Equal(m.GetId(), n.GetId()) {
			g.Members = append(g.Members, join.Member{ID: m.GetId(), Name: m.GetName(), PeerAddress: m.GetPeerAddress()})
		}
	}
	return g, nil
}

// loadAuthority opens an authority's key out of the realm state.
func loadAuthority(db *realm.DB, ring *masterkey.Ring, kind pki.Kind) (*pki.Authority, error) {
	cl, err := db.Cluster()
	if err != nil {
		return nil, fmt.Errorf("opening the %s authority: %w", kind, err)
	}
	s, err := db.Secret(kind.SecretName())
	if err != nil {
		return nil, fmt.Errorf("opening the %s authority: %w", kind, err)
	}
	key, err := ring.Open(masterkey.SecretAAD(cl.GetId(), kind.SecretName()), s.GetKey())
	if err != nil {
		return nil, fmt.Errorf("opening the %s authority: %w", kind, err)
	}
	return pki.LoadAuthority(kind, s.GetCertificate(), key)
}

package adminapi

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"slices"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/charon-kdc/charon/adminapi/jointoken"
	"github.com/charon-kdc/charon/kdc/krb5/kcrypto"
	adminv1 "github.com/charon-kdc/charon/proto/charon/admin/v1"
	statev1 "github.com/charon-kdc/charon/proto/charon/state/v1"
	"github.com/charon-kdc/charon/raftstore"
	"github.com/charon-kdc/charon/raftstore/peer"
	"github.com/charon-kdc/charon/raftstore/realm"
)

type clusterServer struct {
	adminv1.UnimplementedClusterServer
	*Service
}

func (s *Service) realmView(r *statev1.Realm) *adminv1.Realm {
	v := &adminv1.Realm{Name: r.GetName(), MaxLife: r.GetMaxLife(), MaxRenewableLife: r.GetMaxRenewableLife(), Etypes: r.GetEtypes(), Revision: r.GetRevision(), KrbtgtRotation: -1}
	if every := krbtgtEvery(r); every > 0 {
		v.KrbtgtRotation = int64(every / time.Second)
	}
	if next := s.krbtgtNext(r); !next.IsZero() {
		v.KrbtgtRotatesAt = next.UnixMilli()
	}
	return v
}

func (s clusterServer) GetRealm(ctx context.Context, req *adminv1.GetRealmRequest) (*adminv1.GetRealmResponse, error) {
	meta := s.readMeta()
	cl, err := s.Reader.Cluster()
	if err != nil {
		return nil, err
	}
	r, err := s.realm(cmp.Or(req.GetName(), cl.GetDefaultRealm()))
	if err != nil {
		return nil, err
	}
	nodes, err := s.nodes(ctx)
	if err != nil {
		return nil, err
	}
	meta.Revision = r.GetRevision()
	return &adminv1.GetRealmResponse{Meta: meta, Realm: s.realmView(r), ClusterId: cl.GetId(), FeatureLevel: cl.GetFeatureLevel(), Nodes: nodes}, nil
}

func (s clusterServer) UpdateRealm(ctx context.Context, req *adminv1.UpdateRealmRequest) (*adminv1.UpdateRealmResponse, error) {
	if err := requireEverywhere(ctx, VerbCluster); err != nil {
		return nil, err
	}
	resp := &adminv1.UpdateRealmResponse{}
	res, err := s.mutate(ctx, req, resp, req.GetExpectedRevision() != 0, func() (*change, error) {
		r, err := s.realm(cmp.Or(req.GetName(), rightsOf(ctx).realm))
		if err != nil {
			return nil, err
		}
		what := "realm " + r.GetName()
		expect, err := atRevision(r.GetRevision(), req.GetExpectedRevision(), what)
		if err != nil {
			return nil, err
		}
		set(&r.MaxLife, req.MaxLife)
		set(&r.MaxRenewableLife, req.MaxRenewableLife)
		if len(req.GetEtypes()) > 0 {
			r.Etypes = req.GetEtypes()
		}
		if req.KrbtgtRotation != nil {
			if _, err := s.rotates(); err != nil {
				return nil, err
			}
			r.KrbtgtRotation = max(-1, req.GetKrbtgtRotation())
		}
		if err := checkRealm(r); err != nil {
			return nil, err
		}
		return &change{what: what, answer: &adminv1.UpdateRealmResponse{Realm: s.realmView(r)},
			cmd: &statev1.Command{Op: &statev1.Command_PutRealm{PutRealm: &statev1.PutRealm{Realm: r, Expect: expect}}}}, nil
	})
	if err != nil {
		return nil, err
	}
	resp.Meta = s.meta(res)
	resp.Realm.Revision = res.GetRevision()
	return resp, nil
}

func checkRealm(r *statev1.Realm) error {
	if r.GetMaxLife() < 60 || r.GetMaxLife() > secondsMax {
		return invalid("max_life", "max_life is 60 to %d seconds; a principal with -allow_tix gets no tickets", int64(secondsMax))
	}
	if r.GetMaxRenewableLife() < 60 || r.GetMaxRenewableLife() > secondsMax {
		return invalid("max_renewable_life", "max_renewable_life is 60 to %d seconds; a principal with -allow_renewable gets no renewable tickets", int64(secondsMax))
	}
	if n := r.GetKrbtgtRotation(); n > 0 && (n < int64(krbtgtEveryMin/time.Second) || n > secondsMax) {
		return invalid("krbtgt_rotation", "krbtgt_rotation is %d to %d seconds, negative for never, or 0 for the default", int64(krbtgtEveryMin/time.Second), int64(secondsMax))
	}
	for i, e := range r.GetEtypes() {
		if !kcrypto.EType(e).Supported() || slices.Contains(r.GetEtypes()[:i], e) {
			return invalid("etypes", "enctype %d is not supported, or stands twice", e)
		}
	}
	return nil
}

func nodeView(n *statev1.Node, role string) *adminv1.Node {
	return &adminv1.Node{
		Id: n.GetId(), Name: n.GetName(), PeerAddress: n.GetPeerAddress(), AdminAddress: n.GetAdminAddress(), KdcAddress: n.GetKdcAddress(),
		KpasswdAddress: n.GetKpasswdAddress(), HttpAddress: n.GetHttpAddress(), Version: n.GetVersion(), JoinedAt: n.GetJoinedAt(), Role: role, Revision: n.GetRevision(),
	}
}

// nodes are the member records with their roles, by name.
func (s *Service) nodes(ctx context.Context) ([]*adminv1.Node, error) {
	all, err := s.Reader.Nodes()
	if err != nil {
		return nil, err
	}
	st := s.Store.Status(ctx)
	var out []*adminv1.Node
	for _, n := range all {
		out = append(out, nodeView(n, roleOf(st, n.GetId())))
	}
	slices.SortFunc(out, func(a, b *adminv1.Node) int { return cmp.Compare(a.GetName(), b.GetName()) })
	return out, nil
}

func roleOf(st raftstore.Status, id []byte) string {
	for _, m := range st.Nodes {
		if string(m.ID[:]) == string(id) {
			return m.Role
		}
	}
	return "unknown"
}

func (s clusterServer) ListNodes(ctx context.Context, req *adminv1.ListNodesRequest) (*adminv1.ListNodesResponse, error) {
	if err := requireEverywhere(ctx, VerbCluster); err != nil {
		return nil, err
	}
	resp := &adminv1.ListNodesResponse{Meta: s.readMeta()}
	all, err := s.nodes(ctx)
	if err != nil {
		return nil, err
	}
	resp.Nodes, resp.NextPageToken, err = paged(all, (*adminv1.Node).GetName, (*adminv1.Node).GetName, req.GetFilter(), req.GetPageToken(), req.GetPageSize())
	return resp, err
}

// RemoveNode deletes the node's record, under the request id, and answers when the groups are without the node. The leader goes on with that whatever
// becomes of the call; a retry finds the first outcome and waits again.
func (s clusterServer) RemoveNode(ctx context.Context, req *adminv1.RemoveNodeRequest) (*adminv1.RemoveNodeResponse, error) {
	if err := requireEverywhere(ctx, VerbCluster); err != nil {
		return nil, err
	}
	resp := &adminv1.RemoveNodeResponse{}
	res, err := s.decideRemoval(ctx, req, resp)
	if err != nil {
		return nil, err
	}
	if err := s.Store.AwaitRemovals(ctx); err != nil {
		s.Logger.Warn("a node's removal goes on", "node", req.GetName(), "error", err)
		return nil, unknownOutcome()
	}
	resp.Meta = s.meta(res)
	return resp, nil
}

// decideRemoval looks what would be left and commits the removal, with no other between.
func (s *Service) decideRemoval(ctx context.Context, req *adminv1.RemoveNodeRequest, resp *adminv1.RemoveNodeResponse) (*statev1.Result, error) {
	defer s.Store.LockRemovals()()
	return s.once(ctx, req, resp, true, func() (*change, error) {
		st := s.Store.Status(ctx)
		gone, recorded, err := s.findNode(st, req.GetName())
		if err != nil {
			return nil, err
		}
		voters, err := s.removable(st, gone, req.GetForce())
		if err != nil {
			return nil, err
		}
		cmd := &statev1.Command{Op: &statev1.Command_DeleteNode{DeleteNode: &statev1.DeleteNode{Id: gone.ID[:]}}}
		if !recorded { // it is being removed already: only the answer is to be kept
			cl, err := s.Reader.Cluster()
			if err != nil {
				return nil, err
			}
			cmd = &statev1.Command{Op: &statev1.Command_SetFeatureLevel{SetFeatureLevel: &statev1.SetFeatureLevel{Level: cl.GetFeatureLevel()}}}
		}
		return &change{what: "node " + req.GetName(), cmd: cmd,
			answer: &adminv1.RemoveNodeResponse{Voters: uint32(voters), Rotate: []string{"charon master-key rotate", "charon master-key retire", "charon krbtgt rotate --revoke-old"}}}, nil
	})
}

// removable counts the voters that stay, and refuses what would leave the realm without a quorum or with two voters.
func (s *Service) removable(st raftstore.Status, gone raftstore.NodeStatus, force bool) (voters int, err error) {
	if gone.ID == st.Self.ID {
		return 0, refuse(codes.FailedPrecondition, "IS_LEADER", "%[1]s leads the realm; first: charon node transfer, then: charon node remove %[1]s", gone.Name)
	}
	voters, alive := voterCount(st, gone.ID)
	if gone.Role != roleNonVoter && !force && (alive < voters/2+1 || voters == 2) {
		return 0, refuse(codes.FailedPrecondition, "QUORUM_AT_RISK",
			"without %s there are %d voters, %d of them reachable; to remove it all the same: charon node remove %s --force", gone.Name, voters, alive, gone.Name)
	}
	return voters, nil
}

// findNode is a member by name; or one that is none any more but has a record still, since its removal was cut off. The latter does not vote.
func (s *Service) findNode(st raftstore.Status, name string) (n raftstore.NodeStatus, recorded bool, err error) {
	records, err := s.Reader.Nodes()
	if err != nil {
		return n, false, err
	}
	for _, m := range st.Nodes {
		if m.Name == name {
			return m, slices.ContainsFunc(records, func(r *statev1.Node) bool { return string(r.GetId()) == string(m.ID[:]) }), nil
		}
	}
	for _, r := range records {
		if r.GetName() == name && len(r.GetId()) == len(peer.NodeID{}) {
			return raftstore.NodeStatus{NodeRef: raftstore.NodeRef{ID: peer.NodeID(r.GetId()), Name: name}, Role: roleNonVoter}, true, nil
		}
	}
	return n, false, notFound("node " + name)
}

const roleNonVoter = "non-voter"

// voterCount counts the voters but one, and how many of them answer.
func voterCount(st raftstore.Status, but peer.NodeID) (voters, alive int) {
	for _, m := range st.Nodes {
		if m.ID == but || m.Role == roleNonVoter {
			continue
		}
		voters++
		if m.Reachable {
			alive++
		}
	}
	return voters, alive
}

func (s clusterServer) TransferLeadership(ctx context.Context, req *adminv1.TransferLeadershipRequest) (*adminv1.TransferLeadershipResponse, error) {
	if err := requireEverywhere(ctx, VerbCluster); err != nil {
		return nil, err
	}
	if err := s.Store.TransferLeadership(ctx, req.GetTo()); err != nil {
		if errors.Is(err, raftstore.ErrNotMember) {
			return nil, notFound("node " + req.GetTo())
		}
		if errors.Is(err, raftstore.ErrNoLeader) || ctx.Err() != nil {
			return nil, err
		}
		return nil, refuse(codes.FailedPrecondition, "TRANSFER_REFUSED", "%v", err)
	}
	return &adminv1.TransferLeadershipResponse{Meta: s.readMeta(), Leader: s.Store.Status(ctx).Leader.Name}, nil
}

const (
	tokenTTLDefault = 30 * time.Minute
	tokenTTLMax     = 7 * 24 * time.Hour
)

func (s clusterServer) CreateToken(ctx context.Context, req *adminv1.CreateTokenRequest) (*adminv1.CreateTokenResponse, error) {
	if err := requireEverywhere(ctx, VerbCluster); err != nil {
		return nil, err
	}
	ttl := time.Duration(req.GetTtl()) * time.Second
	if req.GetTtl() == 0 {
		ttl = tokenTTLDefault
	}
	if req.GetTtl() < 0 || req.GetTtl() > int64(tokenTTLMax/time.Second) {
		return nil, invalid("ttl", "a token lives at most %v", tokenTTLMax)
	}
	var member []byte
	var err error
	if req.GetRecertify() {
		member, err = s.memberID(req.GetNodeName())
	} else {
		err = s.nodeNameFree(req.GetNodeName())
	}
	if err != nil {
		return nil, err
	}
	var made *jointoken.Token
	resp := &adminv1.CreateTokenResponse{}
	res, err := s.once(ctx, req, resp, true, func() (*change, error) {
		ca, err := s.Reader.Secret("ca/node")
		if err != nil {
			return nil, err
		}
		made, err = jointoken.New(s.Rand, sha256.Sum256(ca.GetCertificate()), s.PeerAddress, req.GetNodeName())
		if err != nil {
			return nil, invalid("node_name", "%v", err)
		}
		now := s.Now()
		rec := made.Record(now, now.Add(ttl), callerOf(ctx).Subject)
		rec.NodeId = member
		return &change{what: "token", answer: &adminv1.CreateTokenResponse{Info: tokenView(rec)},
			cmd: &statev1.Command{Op: &statev1.Command_PutToken{PutToken: &statev1.PutToken{Token: rec}}}}, nil
	})
	if err != nil {
		return nil, err
	}
	resp.Meta = s.meta(res)
	// The outcome may be one that the store's first try made and its second found: what counts is whose token stands there.
	if id := resp.GetInfo().GetId(); made == nil || !bytes.Equal(id, made.ID[:]) {
		return nil, refuse(codes.AlreadyExists, "TOKEN_SHOWN", "the token was made, and is shown once: make another, and take this one back: charon token revoke %x", id)
	}
	resp.Token = made.Encode()
	return resp, nil
}

func (s *Service) memberID(nodeName string) ([]byte, error) {
	nodes, err := s.Reader.Nodes()
	if err != nil {
		return nil, err
	}
	for _, n := range nodes {
		if n.GetName() == nodeName {
			return n.GetId(), nil
		}
	}
	return nil, notFound("node " + nodeName)
}

func (s *Service) nodeNameFree(nodeName string) error {
	if nodeName == "" {
		return nil
	}
	if err := jointoken.CheckNodeName(nodeName); err != nil {
		return invalid("node_name", "%v", err)
	}
	nodes, err := s.Reader.Nodes()
	if err != nil {
		return err
	}
	for _, n := range nodes {
		if n.GetName() == nodeName {
			return exists("node " + nodeName)
		}
	}
	return nil
}

func tokenView(t *statev1.Token) *adminv1.Token {
	return &adminv1.Token{Id: t.GetId(), NodeName: t.GetNodeName(), ExpiresAt: t.GetExpiresAt(), UsedAt: t.GetUsedAt(), CreatedAt: t.GetCreatedAt(), CreatedBy: t.GetCreatedBy()}
}

func (s clusterServer) ListTokens(ctx context.Context, req *adminv1.ListTokensRequest) (*adminv1.ListTokensResponse, error) {
	if err := requireEverywhere(ctx, VerbCluster); err != nil {
		return nil, err
	}
	resp := &adminv1.ListTokensResponse{Meta: s.readMeta()}
	all, err := s.Reader.Tokens()
	if err != nil {
		return nil, err
	}
	id := func(t *statev1.Token) string { return hex.EncodeToString(t.GetId()) }
	page, next, err := paged(all, id, (*statev1.Token).GetNodeName, req.GetFilter(), req.GetPageToken(), req.GetPageSize())
	if err != nil {
		return nil, err
	}
	for _, t := range page {
		resp.Tokens = append(resp.Tokens, tokenView(t))
	}
	resp.NextPageToken = next
	return resp, nil
}

func (s clusterServer) RevokeToken(ctx context.Context, req *adminv1.RevokeTokenRequest) (*adminv1.RevokeTokenResponse, error) {
	if err := requireEverywhere(ctx, VerbCluster); err != nil {
		return nil, err
	}
	resp := &adminv1.RevokeTokenResponse{}
	what := "token " + hex.EncodeToString(req.GetId())
	res, err := s.mutate(ctx, req, resp, false, func() (*change, error) {
		if _, err := s.Reader.Token(req.GetId()); errors.Is(err, realm.ErrNotFound) {
			return nil, notFound(what)
		} else if err != nil {
			return nil, err
		}
		return &change{what: what, answer: resp, cmd: &statev1.Command{Op: &statev1.Command_DeleteToken{DeleteToken: &statev1.DeleteToken{Id: req.GetId()}}}}, nil
	})
	if err != nil {
		return nil, err
	}
	resp.Meta = s.meta(res)
	return resp, nil
}

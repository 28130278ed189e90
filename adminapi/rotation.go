package adminapi

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"

	adminv1 "github.com/charon-kdc/charon/proto/charon/admin/v1"
	statev1 "github.com/charon-kdc/charon/proto/charon/state/v1"
	"github.com/charon-kdc/charon/raftstore"
)

type rotationServer struct {
	adminv1.UnimplementedRotationServer
	*Service
}

// rotates refuses a rotation in a cluster that has nodes of an older release.
func (s *Service) rotates() (*statev1.Cluster, error) {
	cl, err := s.Reader.Cluster()
	if err != nil {
		return nil, err
	}
	if cl.GetFeatureLevel() < rotationLevel {
		return nil, refuse(codes.FailedPrecondition, "FEATURE_LEVEL", "rotations need feature level %d, and the cluster is at %d: once every node runs this release: charon upgrade finalize",
			rotationLevel, cl.GetFeatureLevel())
	}
	return cl, nil
}

// RotateKrbtgt stages new keys under the request id and then brings the rotation to its end; the leader's schedule would, too, if this call could not.
func (s rotationServer) RotateKrbtgt(ctx context.Context, req *adminv1.RotateKrbtgtRequest) (*adminv1.RotateKrbtgtResponse, error) {
	if err := requireEverywhere(ctx, VerbCluster); err != nil {
		return nil, err
	}
	cl, err := s.rotates()
	if err != nil {
		return nil, err
	}
	if req.GetRevokeOld() && req.GetRetireAfter() != 0 {
		return nil, invalid("retire_after", "retire_after and revoke_old exclude each other")
	}
	if err := checkRetireAfter(req.GetRetireAfter()); err != nil {
		return nil, err
	}
	realmName := cmp.Or(req.GetRealm(), cl.GetDefaultRealm())
	resp := &adminv1.RotateKrbtgtResponse{}
	res, err := s.once(ctx, req, resp, false, func() (*change, error) {
		// What is under way ends first: its keys are staged, and two kvnos can't be.
		if err := s.advanceKrbtgt(ctx, realmName); err != nil {
			return nil, err
		}
		return s.stageKrbtgt(ctx, realmName, &statev1.KrbtgtRotation{RevokeOld: req.GetRevokeOld(), RetireAfter: req.GetRetireAfter()})
	})
	if err != nil {
		return nil, err
	}
	if err := s.advanceKrbtgt(ctx, realmName); err != nil {
		s.Logger.Warn("rotating krbtgt: goes on by itself", "realm", realmName, "error", err)
		return nil, unknownOutcome()
	}
	resp.Meta = s.meta(res)
	return resp, s.toldKrbtgt(ctx, realmName, resp)
}

// toldKrbtgt adds what a rotation came to, as it stands now.
func (s *Service) toldKrbtgt(ctx context.Context, realmName string, resp *adminv1.RotateKrbtgtResponse) error {
	index, _ := s.Reader.Applied()
	late, err := s.Store.WaitAllApplied(ctx, index)
	if err != nil {
		return unknownOutcome()
	}
	p, err := s.krbtgt(realmName)
	if err != nil {
		return err
	}
	resp.AcceptsUntil = 0
	for _, k := range keysOf(p, resp.GetPreviousKvno()) {
		resp.AcceptsUntil = k.GetRetireAt()
	}
	nodes, err := s.Reader.Nodes()
	if err != nil {
		return err
	}
	resp.Members, resp.Late = uint32(len(nodes)), names(late)
	resp.Nodes = resp.Members - min(resp.Members, uint32(len(late)))
	return nil
}

func names(refs []raftstore.NodeRef) []string {
	var out []string
	for _, r := range refs {
		out = append(out, r.Name)
	}
	return out
}

// RotateMasterKey commits to a key that only this node has yet; the rest is the leader's duty.
func (s rotationServer) RotateMasterKey(ctx context.Context, req *adminv1.RotateMasterKeyRequest) (*adminv1.RotateMasterKeyResponse, error) {
	if err := requireEverywhere(ctx, VerbCluster); err != nil {
		return nil, err
	}
	if _, err := s.rotates(); err != nil {
		return nil, err
	}
	if s.MasterKeys == nil {
		return nil, refuse(codes.FailedPrecondition, "FIXED", "%s can't store another version of the master key", s.NodeName)
	}
	resp := &adminv1.RotateMasterKeyResponse{}
	res, err := s.once(ctx, req, resp, false, func() (*change, error) { return s.stageMasterKey(ctx) })
	if err != nil {
		return nil, err
	}
	s.tender.kick(dutyMasterKey)
	resp.Meta = s.meta(res)
	return resp, nil
}

func (s rotationServer) GetMasterKey(ctx context.Context, req *adminv1.GetMasterKeyRequest) (*adminv1.GetMasterKeyResponse, error) {
	if err := requireEverywhere(ctx, VerbCluster); err != nil {
		return nil, err
	}
	resp := &adminv1.GetMasterKeyResponse{Meta: s.readMeta()}
	cl, err := s.Reader.Cluster()
	if err != nil {
		return nil, err
	}
	resp.Meta.Revision = cl.GetRevision()
	resp.Version, resp.Floor, resp.RotatedAt = cl.GetMasterKeyVersion(), cl.GetMasterKeyFloor(), cl.GetMasterKeyAt()
	resp.Rotation = s.masterKeyView(cl)
	for _, m := range s.Store.Status(ctx).Nodes {
		resp.Nodes = append(resp.Nodes, &adminv1.MasterKeyNode{Name: m.Name, Versions: m.MasterKeys, Reachable: m.Reachable, Fixed: m.MasterKeysFixed})
	}
	return resp, nil
}

func (s rotationServer) RetireMasterKeys(ctx context.Context, req *adminv1.RetireMasterKeysRequest) (*adminv1.RetireMasterKeysResponse, error) {
	if err := requireEverywhere(ctx, VerbCluster); err != nil {
		return nil, err
	}
	resp := &adminv1.RetireMasterKeysResponse{}
	res, err := s.mutate(ctx, req, resp, false, func() (*change, error) {
		cl, err := s.rotates()
		if err != nil {
			return nil, err
		}
		if rot := cl.GetMasterKeyRotation(); rot != nil {
			return nil, underWay(rot)
		}
		return &change{what: "the master key", answer: &adminv1.RetireMasterKeysResponse{Version: cl.GetMasterKeyVersion()},
			cmd: &statev1.Command{Op: &statev1.Command_RetireMasterKeys{RetireMasterKeys: &statev1.RetireMasterKeys{Below: cl.GetMasterKeyVersion()}}}}, nil
	})
	if err != nil {
		return nil, err
	}
	resp.Meta = s.meta(res)
	return resp, nil
}

func underWay(rot *statev1.MasterKeyRotation) error {
	return refuse(codes.FailedPrecondition, "IN_PROGRESS", "a rotation of the master key to version %d is under way since %s: charon master-key show --watch",
		rot.GetVersion(), time.UnixMilli(rot.GetStartedAt()).UTC().Format(time.DateTime+"Z"))
}

// applied is the error of a command that was made in the leader's name, its refusals included.
func applied(res *statev1.Result, err error, what string) error {
	if err == nil {
		err = resultError(res, what)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

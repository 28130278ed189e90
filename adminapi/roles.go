package adminapi

import (
	"context"
	"encoding/hex"
	"errors"
	"io"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"

	adminv1 "github.com/charon-kdc/charon/proto/charon/admin/v1"
	statev1 "github.com/charon-kdc/charon/proto/charon/state/v1"
	"github.com/charon-kdc/charon/raftstore/realm"
)

type roleServer struct {
	adminv1.UnimplementedRolesServer
	*Service
}

func roleView(r *statev1.Role) *adminv1.Role {
	return &adminv1.Role{
		Id: r.GetId(), Subject: r.GetSubject(), Verbs: r.GetVerbs(), Target: r.GetTarget(), Own: r.GetOwn(),
		Revision: r.GetRevision(), ModifiedAt: r.GetModifiedAt(), ModifiedBy: r.GetModifiedBy(),
	}
}

func checkRole(r *statev1.Role) error {
	kind, rest, ok := strings.Cut(r.GetSubject(), ":")
	if !ok || rest == "" || kind != "cert" || len(r.GetSubject()) > globMax {
		return invalid("subject", `a subject is "cert:NAME"; NAME may hold "*"`)
	}
	if len(r.GetTarget()) > globMax {
		return invalid("target", "a target has at most %d bytes", globMax)
	}
	if len(r.GetVerbs()) == 0 || len(r.GetVerbs()) > len(verbs)+1 {
		return invalid("verbs", "a role has 1 to %d verbs", len(verbs)+1)
	}
	for _, v := range r.GetVerbs() {
		if v != "*" && !slices.Contains(verbs, Verb(v)) {
			return invalid("verbs", "verb %q is not known; one of %s, or * for all but extract", v, joinVerbs())
		}
	}
	if len(r.GetId()) > 256 {
		return invalid("id", "a role's id has at most 256 bytes")
	}
	return nil
}

func joinVerbs() string {
	out := make([]string, len(verbs))
	for i, v := range verbs {
		out[i] = string(v)
	}
	return strings.Join(out, " ")
}

// GrantRole lets nobody hand out a right that he does not hold himself.
func (s roleServer) GrantRole(ctx context.Context, req *adminv1.GrantRoleRequest) (*adminv1.GrantRoleResponse, error) {
	if err := requireEverywhere(ctx, VerbRole); err != nil {
		return nil, err
	}
	resp := &adminv1.GrantRoleResponse{}
	res, err := s.mutate(ctx, req, resp, true, func() (*change, error) {
		v := req.GetRole()
		r := &statev1.Role{
			Id: v.GetId(), Subject: v.GetSubject(), Verbs: v.GetVerbs(), Target: v.GetTarget(), Own: v.GetOwn(),
			ModifiedAt: s.Now().UnixMilli(), ModifiedBy: callerOf(ctx).Subject,
		}
		if err := checkRole(r); err != nil {
			return nil, err
		}
		if !rightsOf(ctx).mayGrant(r) {
			return nil, refuse(codes.PermissionDenied, "PERMISSION_DENIED", "%s can't give rights that it does not hold over %q", callerOf(ctx).Subject, r.GetTarget())
		}
		expect := absent()
		if rev := req.GetExpectedRevision(); rev != 0 {
			if err := s.mayReplace(ctx, r.GetId()); err != nil {
				return nil, err
			}
			expect = &statev1.Expect{Condition: &statev1.Expect_Revision{Revision: rev}}
		}
		if r.GetId() == "" {
			var b [4]byte
			if _, err := io.ReadFull(s.Rand, b[:]); err != nil {
				return nil, err
			}
			r.Id = r.GetSubject() + "-" + hex.EncodeToString(b[:])
		}
		return &change{what: "role " + r.GetId(), answer: &adminv1.GrantRoleResponse{Role: roleView(r)},
			cmd: &statev1.Command{Op: &statev1.Command_PutRole{PutRole: &statev1.PutRole{Role: r, Expect: expect}}}}, nil
	})
	if err != nil {
		return nil, err
	}
	resp.Meta = s.meta(res)
	resp.Role.Revision = res.GetRevision()
	return resp, nil
}

// mayReplace holds the role that stands under the id to the same rule: who can't give those rights can't take them.
func (s *Service) mayReplace(ctx context.Context, id string) error {
	old, err := s.loadRole(id)
	if err != nil {
		return err
	}
	if !rightsOf(ctx).mayGrant(old) {
		return denied(ctx, VerbRole, "role "+id)
	}
	return nil
}

func (s *Service) loadRole(id string) (*statev1.Role, error) {
	r, err := s.Reader.Role(id)
	if errors.Is(err, realm.ErrNotFound) {
		return nil, notFound("role " + id)
	}
	return r, err
}

func (s roleServer) RevokeRole(ctx context.Context, req *adminv1.RevokeRoleRequest) (*adminv1.RevokeRoleResponse, error) {
	if err := requireEverywhere(ctx, VerbRole); err != nil {
		return nil, err
	}
	resp := &adminv1.RevokeRoleResponse{}
	res, err := s.mutate(ctx, req, resp, req.GetExpectedRevision() != 0, func() (*change, error) {
		r, err := s.loadRole(req.GetId())
		if err != nil {
			return nil, err
		}
		if err := s.mayReplace(ctx, r.GetId()); err != nil {
			return nil, err
		}
		what := "role " + r.GetId()
		expect, err := atRevision(r.GetRevision(), req.GetExpectedRevision(), what)
		return &change{what: what, answer: resp, cmd: &statev1.Command{Op: &statev1.Command_DeleteRole{
			DeleteRole: &statev1.DeleteRole{Id: r.GetId(), Expect: expect},
		}}}, err
	})
	if err != nil {
		return nil, err
	}
	resp.Meta = s.meta(res)
	return resp, nil
}

func (s roleServer) ListRoles(ctx context.Context, req *adminv1.ListRolesRequest) (*adminv1.ListRolesResponse, error) {
	if err := requireEverywhere(ctx, VerbRole); err != nil {
		return nil, err
	}
	resp := &adminv1.ListRolesResponse{Meta: s.readMeta()}
	all, err := s.Reader.Roles()
	if err != nil {
		return nil, err
	}
	page, next, err := paged(all, (*statev1.Role).GetId, (*statev1.Role).GetSubject, req.GetFilter(), req.GetPageToken(), req.GetPageSize())
	if err != nil {
		return nil, err
	}
	for _, r := range page {
		resp.Roles = append(resp.Roles, roleView(r))
	}
	resp.NextPageToken = next
	return resp, nil
}

func (s roleServer) GetPrivileges(ctx context.Context, _ *adminv1.GetPrivilegesRequest) (*adminv1.GetPrivilegesResponse, error) {
	r := rightsOf(ctx)
	resp := &adminv1.GetPrivilegesResponse{Meta: s.readMeta(), Caller: r.caller.Subject, Root: r.caller.Root}
	for _, g := range r.grants {
		resp.Roles = append(resp.Roles, roleView(g.role))
	}
	return resp, nil
}

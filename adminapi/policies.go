package adminapi

import (
	"context"
	"errors"

	"google.golang.org/protobuf/proto"

	adminv1 "github.com/charon-kdc/charon/proto/charon/admin/v1"
	statev1 "github.com/charon-kdc/charon/proto/charon/state/v1"
	"github.com/charon-kdc/charon/raftstore/realm"
)

type policyServer struct {
	adminv1.UnimplementedPoliciesServer
	*Service
}

func policyView(p *statev1.Policy) *adminv1.Policy {
	return &adminv1.Policy{
		Name: p.GetName(), MinLength: p.GetMinLength(), MinClasses: p.GetMinClasses(), History: p.GetHistory(),
		MinLife: p.GetMinLife(), MaxLife: p.GetMaxLife(), MaxFailures: p.GetMaxFailures(),
		LockoutDuration: p.GetLockoutDuration(), FailureWindow: p.GetFailureWindow(), AllowedKeysalts: p.GetAllowedKeysalts(),
		Attributes: p.GetAttributes(), MaxTicketLife: p.GetMaxTicketLife(), MaxRenewableLife: p.GetMaxRenewableLife(),
		ModifiedAt: p.GetModifiedAt(), ModifiedBy: p.GetModifiedBy(), Revision: p.GetRevision(),
	}
}

// policyRecord takes what a caller may say of a policy, and stamps it.
func (s *Service) policyRecord(ctx context.Context, v *adminv1.Policy) *statev1.Policy {
	return &statev1.Policy{
		Name: v.GetName(), MinLength: v.GetMinLength(), MinClasses: v.GetMinClasses(), History: v.GetHistory(),
		MinLife: v.GetMinLife(), MaxLife: v.GetMaxLife(), MaxFailures: v.GetMaxFailures(),
		LockoutDuration: v.GetLockoutDuration(), FailureWindow: v.GetFailureWindow(), AllowedKeysalts: v.GetAllowedKeysalts(),
		Attributes: v.GetAttributes(), MaxTicketLife: v.GetMaxTicketLife(), MaxRenewableLife: v.GetMaxRenewableLife(),
		ModifiedAt: s.Now().UnixMilli(), ModifiedBy: callerOf(ctx).Subject,
	}
}

const (
	historyMax = 100
	// secondsMax is a hundred years.
	secondsMax = 100 * 366 * 24 * 3600
)

func checkPolicy(p *statev1.Policy) error {
	if n := len(p.GetName()); n == 0 || n > 256 {
		return invalid("name", "a policy's name has 1 to 256 bytes")
	}
	if p.GetMinLength() > passwordMax {
		return invalid("min_length", "min_length is at most %d", passwordMax)
	}
	if p.GetMinClasses() > 5 {
		return invalid("min_classes", "min_classes is at most 5")
	}
	if p.GetHistory() > historyMax {
		return invalid("history", "history is at most %d", historyMax)
	}
	for _, f := range []struct {
		name  string
		value int64
	}{
		{"min_life", p.GetMinLife()}, {"max_life", p.GetMaxLife()}, {"lockout_duration", p.GetLockoutDuration()},
		{"failure_window", p.GetFailureWindow()}, {"max_ticket_life", p.GetMaxTicketLife()}, {"max_renewable_life", p.GetMaxRenewableLife()},
	} {
		if f.value < 0 || f.value > secondsMax {
			return invalid(f.name, "%s is 0 to %d seconds", f.name, int64(secondsMax))
		}
	}
	if p.GetMaxLife() != 0 && p.GetMinLife() > p.GetMaxLife() {
		return invalid("min_life", "min_life is longer than max_life")
	}
	if len(p.GetAllowedKeysalts()) > keysaltsMax {
		return invalid("allowed_keysalts", "at most %d keysalts", keysaltsMax)
	}
	for i, text := range p.GetAllowedKeysalts() {
		ks, err := parseKeySalt(text)
		if err != nil {
			return err
		}
		p.AllowedKeysalts[i] = ks.etype.String() + ":" + ks.salt
	}
	return nil
}

func putPolicy(p *statev1.Policy, e *statev1.Expect) *statev1.Command {
	return &statev1.Command{Op: &statev1.Command_PutPolicy{PutPolicy: &statev1.PutPolicy{Policy: p, Expect: e}}}
}

func (s policyServer) CreatePolicy(ctx context.Context, req *adminv1.CreatePolicyRequest) (*adminv1.CreatePolicyResponse, error) {
	if err := requireEverywhere(ctx, VerbPolicy); err != nil {
		return nil, err
	}
	resp := &adminv1.CreatePolicyResponse{}
	res, err := s.mutate(ctx, req, resp, false, func() (*change, error) {
		p := s.policyRecord(ctx, proto.CloneOf(req.GetPolicy()))
		if err := checkPolicy(p); err != nil {
			return nil, err
		}
		return &change{what: "policy " + p.GetName(), cmd: putPolicy(p, absent()), answer: &adminv1.CreatePolicyResponse{Policy: policyView(p)}}, nil
	})
	if err != nil {
		return nil, err
	}
	resp.Meta = s.meta(res)
	resp.Policy.Revision = res.GetRevision()
	return resp, nil
}

// loadPolicy finds a policy for a caller with verb, or with the right to change policies.
func (s *Service) loadPolicy(ctx context.Context, v Verb, policyName string) (*statev1.Policy, error) {
	if !rightsOf(ctx).everywhere(VerbPolicy) {
		if err := requireEverywhere(ctx, v); err != nil {
			return nil, err
		}
	}
	p, err := s.Reader.Policy(policyName)
	if errors.Is(err, realm.ErrNotFound) {
		return nil, notFound("policy " + policyName)
	}
	return p, err
}

func (s policyServer) GetPolicy(ctx context.Context, req *adminv1.GetPolicyRequest) (*adminv1.GetPolicyResponse, error) {
	meta := s.readMeta()
	p, err := s.loadPolicy(ctx, VerbInquire, req.GetName())
	if err != nil {
		return nil, err
	}
	meta.Revision = p.GetRevision()
	return &adminv1.GetPolicyResponse{Meta: meta, Policy: policyView(p)}, nil
}

func (s policyServer) ListPolicies(ctx context.Context, req *adminv1.ListPoliciesRequest) (*adminv1.ListPoliciesResponse, error) {
	if !rightsOf(ctx).everywhere(VerbPolicy) {
		if err := requireEverywhere(ctx, VerbList); err != nil {
			return nil, err
		}
	}
	resp := &adminv1.ListPoliciesResponse{Meta: s.readMeta()}
	all, err := s.Reader.Policies()
	if err != nil {
		return nil, err
	}
	page, next, err := paged(all, (*statev1.Policy).GetName, (*statev1.Policy).GetName, req.GetFilter(), req.GetPageToken(), req.GetPageSize())
	if err != nil {
		return nil, err
	}
	for _, p := range page {
		resp.Policies = append(resp.Policies, policyView(p))
	}
	resp.NextPageToken = next
	return resp, nil
}

func (s policyServer) UpdatePolicy(ctx context.Context, req *adminv1.UpdatePolicyRequest) (*adminv1.UpdatePolicyResponse, error) {
	resp := &adminv1.UpdatePolicyResponse{}
	res, err := s.mutate(ctx, req, resp, req.GetExpectedRevision() != 0, func() (*change, error) {
		p, err := s.loadPolicy(ctx, VerbPolicy, req.GetName())
		if err != nil {
			return nil, err
		}
		what := "policy " + p.GetName()
		expect, err := atRevision(p.GetRevision(), req.GetExpectedRevision(), what)
		if err != nil {
			return nil, err
		}
		set(&p.MinLength, req.MinLength)
		set(&p.MinClasses, req.MinClasses)
		set(&p.History, req.History)
		set(&p.MinLife, req.MinLife)
		set(&p.MaxLife, req.MaxLife)
		set(&p.MaxFailures, req.MaxFailures)
		set(&p.LockoutDuration, req.LockoutDuration)
		set(&p.FailureWindow, req.FailureWindow)
		if len(req.GetAllowedKeysalts()) > 0 || req.GetClearAllowedKeysalts() {
			p.AllowedKeysalts = append([]string(nil), req.GetAllowedKeysalts()...)
		}
		p.ModifiedAt, p.ModifiedBy = s.Now().UnixMilli(), callerOf(ctx).Subject
		if err := checkPolicy(p); err != nil {
			return nil, err
		}
		return &change{what: what, cmd: putPolicy(p, expect), answer: &adminv1.UpdatePolicyResponse{Policy: policyView(p)}}, nil
	})
	if err != nil {
		return nil, err
	}
	resp.Meta = s.meta(res)
	resp.Policy.Revision = res.GetRevision()
	return resp, nil
}

func (s policyServer) DeletePolicy(ctx context.Context, req *adminv1.DeletePolicyRequest) (*adminv1.DeletePolicyResponse, error) {
	resp := &adminv1.DeletePolicyResponse{}
	res, err := s.mutate(ctx, req, resp, req.GetExpectedRevision() != 0, func() (*change, error) {
		p, err := s.loadPolicy(ctx, VerbPolicy, req.GetName())
		if err != nil {
			return nil, err
		}
		what := "policy " + p.GetName()
		expect, err := atRevision(p.GetRevision(), req.GetExpectedRevision(), what)
		return &change{what: what, answer: resp, cmd: &statev1.Command{Op: &statev1.Command_DeletePolicy{
			DeletePolicy: &statev1.DeletePolicy{Name: p.GetName(), Expect: expect},
		}}}, err
	})
	if err != nil {
		return nil, err
	}
	resp.Meta = s.meta(res)
	return resp, nil
}

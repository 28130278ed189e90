package adminapi

import (
	"context"
	"errors"
	"slices"
	"time"

	"google.golang.org/grpc/codes"

	adminv1 "github.com/charon-kdc/charon/proto/charon/admin/v1"
	statev1 "github.com/charon-kdc/charon/proto/charon/state/v1"
	"github.com/charon-kdc/charon/raftstore/realm"
)

type keytabServer struct {
	adminv1.UnimplementedKeytabsServer
	*Service
}

// retireAfterMax bounds retire_after: ten years.
const retireAfterMax = 10 * 365 * 24 * 3600

func (s keytabServer) GetKeytab(ctx context.Context, req *adminv1.GetKeytabRequest) (*adminv1.GetKeytabResponse, error) {
	meta := s.readMeta()
	p, err := s.loadToExtract(ctx, req.GetName())
	if err != nil {
		return nil, err
	}
	kvno := req.GetKvno()
	if kvno == 0 {
		kvno = p.GetKvno()
	}
	keys, err := s.extract(p, func(k *statev1.Key) bool { return req.GetAll() || k.GetKvno() == kvno })
	if err != nil {
		return nil, err
	}
	if len(keys) == 0 {
		return nil, noKeys(p, kvno)
	}
	meta.Revision = p.GetRevision()
	return &adminv1.GetKeytabResponse{Meta: meta, Name: nameOf(p).String(), Kvno: kvno, Keys: keys}, nil
}

func noKeys(p *statev1.Principal, kvno uint32) error {
	return refuse(codes.NotFound, "NO_KEYS", "%s has no keys of kvno %d", nameOf(p), kvno)
}

// loadToExtract finds a principal whose keys the caller may read.
func (s *Service) loadToExtract(ctx context.Context, text string) (*statev1.Principal, error) {
	p, err := s.load(ctx, VerbExtract, text)
	if err != nil {
		return nil, err
	}
	return p, keysLeave(ctx, p)
}

// EnsureKeytab proposes nothing when the principal is there. Even then it waits for every node: whoever made it may not have.
func (s keytabServer) EnsureKeytab(ctx context.Context, req *adminv1.EnsureKeytabRequest) (*adminv1.EnsureKeytabResponse, error) {
	n, err := parseName(req.GetName(), rightsOf(ctx).realm)
	if err != nil {
		return nil, err
	}
	meta, created, err := s.createService(ctx, req, n)
	if err != nil {
		return nil, err
	}
	p, err := s.loadToExtract(ctx, req.GetName())
	if err != nil {
		return nil, err
	}
	keys, err := s.extract(p, func(k *statev1.Key) bool { return k.GetKvno() == p.GetKvno() })
	if err != nil {
		return nil, err
	}
	if len(keys) == 0 {
		return nil, refuse(codes.FailedPrecondition, "NO_KEYS", "%s has no keys; to make some: charon keytab rotate %s", nameOf(p), nameOf(p).local())
	}
	meta.Revision = p.GetRevision()
	return &adminv1.EnsureKeytabResponse{Meta: meta, Name: nameOf(p).String(), Created: created, Kvno: p.GetKvno(), Keys: keys}, nil
}

// createService makes a principal with random keys unless there is one, whoever made it.
func (s *Service) createService(ctx context.Context, req *adminv1.EnsureKeytabRequest, n name) (*adminv1.Meta, bool, error) {
	answer := &adminv1.EnsureKeytabResponse{}
	res, err := s.mutate(ctx, req, answer, false, func() (*change, error) {
		if _, err := s.Reader.GetPrincipal(n.realm, n.components); !errors.Is(err, realm.ErrNotFound) {
			return nil, errors.Join(err, exists(n.String()))
		}
		if err := errors.Join(require(ctx, VerbAdd, n), require(ctx, VerbExtract, n)); err != nil {
			return nil, err
		}
		p, err := s.newPrincipal(ctx, &adminv1.CreatePrincipalRequest{
			Keys: &adminv1.NewKeys{Source: &adminv1.NewKeys_Random{Random: true}, Keysalts: req.GetKeysalts()}, NoPolicy: true,
		}, n)
		if err != nil {
			return nil, err
		}
		return &change{what: n.String(), cmd: putPrincipal(p, absent()), answer: &adminv1.EnsureKeytabResponse{Created: true}}, nil
	})
	if r, ok := errors.AsType[*refusal](err); ok && r.code == codes.AlreadyExists {
		if err := s.Store.VerifyLeader(ctx); err != nil {
			return nil, false, err
		}
		meta := s.readMeta()
		return meta, false, s.settle(ctx, meta.GetIndex())
	}
	if err != nil {
		return nil, false, err
	}
	return s.meta(res), answer.GetCreated(), nil
}

func (s keytabServer) RotateKeytab(ctx context.Context, req *adminv1.RotateKeytabRequest) (*adminv1.RotateKeytabResponse, error) {
	if err := checkRotate(req); err != nil {
		return nil, err
	}
	// The new keys go to the caller, so this takes both rights, before anything is made.
	if _, err := s.loadToExtract(ctx, req.GetName()); err != nil {
		return nil, err
	}
	kept := &adminv1.RotateKeytabResponse{}
	res, err := s.mutate(ctx, req, kept, req.GetExpectedRevision() != 0, func() (*change, error) {
		p, err := s.load(ctx, VerbChangePW, req.GetName())
		if err != nil {
			return nil, err
		}
		what := nameOf(p).String()
		expect, err := atRevision(p.GetRevision(), req.GetExpectedRevision(), what)
		if err != nil {
			return nil, err
		}
		kvno, err := s.rotate(ctx, p, req)
		return &change{what: what, cmd: putPrincipal(p, expect), answer: &adminv1.RotateKeytabResponse{Kvno: kvno}}, err
	})
	if err != nil {
		return nil, err
	}
	p, err := s.loadToExtract(ctx, req.GetName())
	if err != nil {
		return nil, err
	}
	keys, err := s.extract(p, func(k *statev1.Key) bool { return k.GetKvno() == kept.GetKvno() })
	if err != nil {
		return nil, err
	}
	if len(keys) == 0 {
		return nil, noKeys(p, kept.GetKvno()) // overtaken by another rotation
	}
	return &adminv1.RotateKeytabResponse{Meta: s.meta(res), Name: nameOf(p).String(), Kvno: kept.GetKvno(), Keys: keys}, nil
}

func checkRotate(req *adminv1.RotateKeytabRequest) error {
	if req.GetStage() && (req.GetDropOld() || req.GetRetireAfter() != 0) {
		return invalid("stage", "staging changes nothing about the old keys: give retire_after to ActivateKeytab")
	}
	if req.GetDropOld() && req.GetRetireAfter() != 0 {
		return invalid("retire_after", "retire_after and drop_old exclude each other")
	}
	return checkRetireAfter(req.GetRetireAfter())
}

func checkRetireAfter(seconds int64) error {
	if seconds < 0 || seconds > retireAfterMax {
		return invalid("retire_after", "retire_after is 0 to %d seconds", retireAfterMax)
	}
	return nil
}

// rotate adds random keys under the next kvno and returns it.
func (s *Service) rotate(ctx context.Context, p *statev1.Principal, req *adminv1.RotateKeytabRequest) (uint32, error) {
	now := s.Now()
	pol, err := s.policy(p.GetPolicy())
	if err != nil {
		return 0, err
	}
	keysalts, err := s.chooseKeysalts(p.GetRealm(), req.GetKeysalts(), pol)
	if err != nil {
		return 0, err
	}
	if slices.ContainsFunc(p.GetKeys(), isStaged) {
		return 0, refuse(codes.FailedPrecondition, "ALREADY_STAGED", "%s has staged keys; activate them: charon keytab activate %s", nameOf(p), nameOf(p).local())
	}
	fresh, err := s.makeKeys(p, nextKVNO(p), nil, keysalts)
	if err != nil {
		return 0, err
	}
	dropRetired(p, now.UnixMilli())
	if req.GetStage() {
		for _, k := range fresh {
			k.State = statev1.KeyState_KEY_STATE_STAGED
		}
		p.Keys = append(fresh, p.Keys...)
	} else {
		replaceKeys(p, fresh, !req.GetDropOld(), retireTime(now, req.GetRetireAfter()))
		p.LastPasswordChange, p.PasswordExpiration = now.UnixMilli(), passwordExpiry(pol, now)
	}
	stamp(ctx, p, now)
	return fresh[0].GetKvno(), nil
}

func isStaged(k *statev1.Key) bool { return k.GetState() == statev1.KeyState_KEY_STATE_STAGED }

// retireTime in ms; 0 stays "no end".
func retireTime(now time.Time, seconds int64) int64 {
	if seconds == 0 {
		return 0
	}
	return now.Add(time.Duration(seconds) * time.Second).UnixMilli()
}

func (s keytabServer) ActivateKeytab(ctx context.Context, req *adminv1.ActivateKeytabRequest) (*adminv1.ActivateKeytabResponse, error) {
	if err := checkRetireAfter(req.GetRetireAfter()); err != nil {
		return nil, err
	}
	resp := &adminv1.ActivateKeytabResponse{}
	res, err := s.mutate(ctx, req, resp, req.GetExpectedRevision() != 0, func() (*change, error) {
		p, err := s.load(ctx, VerbChangePW, req.GetName())
		if err != nil {
			return nil, err
		}
		what := nameOf(p).String()
		expect, err := atRevision(p.GetRevision(), req.GetExpectedRevision(), what)
		if err != nil {
			return nil, err
		}
		answer, err := s.activate(ctx, p, req.GetRetireAfter())
		return &change{what: what, cmd: putPrincipal(p, expect), answer: answer}, err
	})
	if err != nil {
		return nil, err
	}
	late, err := s.Store.WaitAllApplied(ctx, res.GetIndex()) // again, for who is late
	if err != nil {
		return nil, unknownOutcome()
	}
	nodes, err := s.Reader.Nodes()
	if err != nil {
		return nil, err
	}
	resp.Meta = s.meta(res)
	resp.Members = uint32(len(nodes))
	resp.Nodes = resp.Members - min(resp.Members, uint32(len(late)))
	return resp, nil
}

// activate makes the staged keys current.
func (s *Service) activate(ctx context.Context, p *statev1.Principal, retireAfter int64) (*adminv1.ActivateKeytabResponse, error) {
	now := s.Now()
	i := slices.IndexFunc(p.GetKeys(), isStaged)
	if i < 0 {
		return nil, refuse(codes.FailedPrecondition, "NOTHING_STAGED", "%s has no staged keys; to make some: charon keytab rotate %s --stage", nameOf(p), nameOf(p).local())
	}
	out := &adminv1.ActivateKeytabResponse{Name: nameOf(p).String(), Kvno: p.Keys[i].GetKvno(), PreviousKvno: p.GetKvno(), RetireAt: retireTime(now, retireAfter)}
	pol, err := s.policy(p.GetPolicy())
	if err != nil {
		return nil, err
	}
	var fresh []*statev1.Key
	for _, k := range p.GetKeys() {
		if isStaged(k) && k.GetKvno() == out.GetKvno() {
			k.State = statev1.KeyState_KEY_STATE_ACTIVE
			fresh = append(fresh, k)
		}
	}
	p.Keys = slices.DeleteFunc(p.Keys, func(k *statev1.Key) bool { return k.GetKvno() == out.GetKvno() })
	replaceKeys(p, fresh, true, out.GetRetireAt())
	dropRetired(p, now.UnixMilli())
	p.LastPasswordChange, p.PasswordExpiration = now.UnixMilli(), passwordExpiry(pol, now)
	stamp(ctx, p, now)
	return out, nil
}

package adminapi

import (
	"context"
	"errors"
	"slices"

	"google.golang.org/grpc/codes"

	"github.com/charon-kdc/charon/kdc/kdb/masterkey"
	adminv1 "github.com/charon-kdc/charon/proto/charon/admin/v1"
	statev1 "github.com/charon-kdc/charon/proto/charon/state/v1"
)

func (s principalServer) UpdatePrincipal(ctx context.Context, req *adminv1.UpdatePrincipalRequest) (*adminv1.UpdatePrincipalResponse, error) {
	resp := &adminv1.UpdatePrincipalResponse{}
	res, err := s.mutate(ctx, req, resp, req.GetExpectedRevision() != 0, func() (*change, error) {
		p, err := s.load(ctx, VerbModify, req.GetName())
		if err != nil {
			return nil, err
		}
		what := nameOf(p).String()
		expect, err := atRevision(p.GetRevision(), req.GetExpectedRevision(), what)
		if err != nil {
			return nil, err
		}
		if err := s.applyUpdate(ctx, p, req); err != nil {
			return nil, err
		}
		v, err := s.view(p)
		return &change{what: what, cmd: putPrincipal(p, expect), answer: &adminv1.UpdatePrincipalResponse{Principal: v}}, err
	})
	if err != nil {
		return nil, err
	}
	resp.Meta = s.meta(res)
	resp.Principal.Revision = res.GetRevision()
	return resp, nil
}

func (s *Service) applyUpdate(ctx context.Context, p *statev1.Principal, req *adminv1.UpdatePrincipalRequest) error {
	now := s.Now()
	if req.GetClearAttributes()&attrLockdownKeys != 0 {
		if err := keysLeave(ctx, p); err != nil {
			return err
		}
	}
	p.Attributes = p.GetAttributes()&^req.GetClearAttributes() | req.GetSetAttributes()
	set(&p.MaxLife, req.MaxLife)
	if p.GetMaxRenewableLife() == 0 && req.GetMaxRenewableLife() > 0 && (req.GetSetAttributes()|req.GetClearAttributes())&attrDisallowRenewable == 0 {
		p.Attributes &^= attrDisallowRenewable
	}
	set(&p.MaxRenewableLife, req.MaxRenewableLife)
	set(&p.Expiration, req.Expiration)
	set(&p.PasswordExpiration, req.PasswordExpiration)
	if err := s.updatePolicyOf(p, req); err != nil {
		return err
	}
	if req.GetUnlock() {
		p.UnlockedAt = now.UnixMilli()
	}
	updateStrings(p, req)
	if err := s.updateAliases(ctx, p, req); err != nil {
		return err
	}
	if req.Kvno != nil {
		if err := errors.Join(require(ctx, VerbSetKey, nameOf(p)), keysLeave(ctx, p)); err != nil {
			return err
		}
		if err := s.renumber(p, req.GetKvno()); err != nil {
			return err
		}
	}
	stamp(ctx, p, now)
	return checkFields(p)
}

func set[T any](dst *T, v *T) {
	if v != nil {
		*dst = *v
	}
}

// updatePolicyOf sets the policy, and with it when the password ends, unless the call says that itself (as MIT's modprinc does).
func (s *Service) updatePolicyOf(p *statev1.Principal, req *adminv1.UpdatePrincipalRequest) error {
	if req.Policy == nil || req.GetPolicy() == p.GetPolicy() {
		return nil
	}
	p.Policy = req.GetPolicy()
	if req.PasswordExpiration != nil {
		return nil
	}
	pol, err := s.policy(p.GetPolicy())
	if err != nil {
		return err
	}
	p.PasswordExpiration = 0
	if pol.GetMaxLife() != 0 && p.GetLastPasswordChange() != 0 {
		p.PasswordExpiration = p.GetLastPasswordChange() + 1000*pol.GetMaxLife()
	}
	return nil
}

func updateStrings(p *statev1.Principal, req *adminv1.UpdatePrincipalRequest) {
	if p.Strings == nil {
		p.Strings = map[string]string{}
	}
	for _, k := range req.GetDeleteStrings() {
		delete(p.Strings, k)
	}
	for k, v := range req.GetSetStrings() {
		p.Strings[k] = v
	}
}

// updateAliases adds and removes names in p's realm. An alias is a name to log in by, so it takes the right to add that name.
func (s *Service) updateAliases(ctx context.Context, p *statev1.Principal, req *adminv1.UpdatePrincipalRequest) error {
	for _, text := range req.GetAddAliases() {
		n, err := parseName(text, p.GetRealm())
		if err != nil {
			return err
		}
		if n.realm != p.GetRealm() {
			return invalid("add_aliases", "an alias is in its principal's realm")
		}
		if err := errors.Join(require(ctx, VerbAdd, n), notTGS(n)); err != nil {
			return err
		}
		if !slices.Contains(p.GetAliases(), n.local()) {
			p.Aliases = append(p.Aliases, n.local())
		}
	}
	for _, text := range req.GetRemoveAliases() {
		n, err := parseName(text, p.GetRealm())
		if err != nil {
			return err
		}
		i := slices.Index(p.GetAliases(), n.local())
		if i < 0 || n.realm != p.GetRealm() {
			return notFound("alias " + n.String())
		}
		p.Aliases = slices.Delete(p.Aliases, i, i+1)
	}
	return nil
}

// notTGS refuses an alias that reads as a ticket-granting service, of this realm or another: tickets for it would be sealed with the
// keys of a principal that is none, and whoever has those keys could make tickets that name anybody.
func notTGS(n name) error {
	if n.components[0] == "krbtgt" {
		return refuse(codes.FailedPrecondition, "PROTECTED", "%s is a ticket-granting service and can't be an alias", n)
	}
	return nil
}

// renumber gives the current keys another kvno, which their seals name.
func (s *Service) renumber(p *statev1.Principal, kvno uint32) error {
	if kvno == 0 || kvno > kvnoMax {
		return invalid("kvno", "a kvno is 1 to %d", kvnoMax)
	}
	if kvno == p.GetKvno() {
		return nil
	}
	if len(keysOf(p, kvno)) > 0 {
		return refuse(codes.FailedPrecondition, "KVNO_IN_USE", "kvno %d has keys already", kvno)
	}
	cl, err := s.Reader.Cluster()
	if err != nil {
		return err
	}
	for _, k := range keysOf(p, p.GetKvno()) {
		raw, err := s.Sealer.Open(masterkey.KeyAAD(cl.GetId(), p, k), k.GetKey())
		if err != nil {
			return err
		}
		k.Kvno = kvno
		if k.Key, err = s.Sealer.Seal(s.Rand, masterkey.KeyAAD(cl.GetId(), p, k), raw); err != nil {
			return err
		}
	}
	p.Kvno = kvno
	sortKeys(p)
	return nil
}

func sortKeys(p *statev1.Principal) {
	slices.SortStableFunc(p.Keys, func(a, b *statev1.Key) int { return int(int64(b.GetKvno()) - int64(a.GetKvno())) })
}

func (s principalServer) SetPassword(ctx context.Context, req *adminv1.SetPasswordRequest) (*adminv1.SetPasswordResponse, error) {
	resp := &adminv1.SetPasswordResponse{}
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
		if err := s.changeKeys(ctx, p, req); err != nil {
			return nil, err
		}
		return &change{what: what, cmd: putPrincipal(p, expect), answer: &adminv1.SetPasswordResponse{Kvno: p.GetKvno()}}, nil
	})
	if err != nil {
		return nil, err
	}
	resp.Meta = s.meta(res)
	return resp, nil
}

func (s *Service) changeKeys(ctx context.Context, p *statev1.Principal, req *adminv1.SetPasswordRequest) error {
	now := s.Now()
	password, random := sourceOf(req.GetKeys())
	if password == nil && !random {
		return invalid("keys", "a password or random keys are needed")
	}
	pol, err := s.policy(p.GetPolicy())
	if err != nil {
		return err
	}
	if password != nil {
		// MIT lets nobody choose the key of a lockdown_keys principal over the wire; random keys that stay inside are fine.
		if err := errors.Join(keysLeave(ctx, p), checkPassword(*password, nameOf(p), pol), checkMinLife(ctx, p, pol, now)); err != nil {
			return err
		}
		if err := s.checkHistory(p, *password, pol); err != nil {
			return err
		}
	}
	keysalts, err := s.chooseKeysalts(p.GetRealm(), req.GetKeys().GetKeysalts(), pol)
	if err != nil {
		return err
	}
	fresh, err := s.makeKeys(p, nextKVNO(p), password, keysalts)
	if err != nil {
		return err
	}
	remember(p, pol)
	replaceKeys(p, fresh, req.GetKeepOld(), 0)
	dropRetired(p, now.UnixMilli())
	p.LastPasswordChange, p.UnlockedAt = now.UnixMilli(), now.UnixMilli()
	p.PasswordExpiration = passwordExpiry(pol, now)
	p.Attributes &^= attrRequiresPWChange
	if req.GetOneTime() {
		p.Attributes |= attrRequiresPWChange
	}
	stamp(ctx, p, now)
	return nil
}

func (s principalServer) PurgeKeys(ctx context.Context, req *adminv1.PurgeKeysRequest) (*adminv1.PurgeKeysResponse, error) {
	resp := &adminv1.PurgeKeysResponse{}
	res, err := s.mutate(ctx, req, resp, req.GetExpectedRevision() != 0, func() (*change, error) {
		p, err := s.load(ctx, VerbModify, req.GetName())
		if err != nil {
			return nil, err
		}
		n := nameOf(p)
		if err := keysLeave(ctx, p); err != nil {
			return nil, err
		}
		if req.GetAll() {
			if err := needed(n); err != nil {
				return nil, err
			}
		}
		expect, err := atRevision(p.GetRevision(), req.GetExpectedRevision(), n.String())
		if err != nil {
			return nil, err
		}
		removed := purge(p, req)
		stamp(ctx, p, s.Now())
		return &change{what: n.String(), cmd: putPrincipal(p, expect), answer: &adminv1.PurgeKeysResponse{Removed: removed}}, nil
	})
	if err != nil {
		return nil, err
	}
	resp.Meta = s.meta(res)
	return resp, nil
}

// purge removes keys below a kvno and tells how many. The current kvno stays, and so do staged keys above it, unless all are to go.
func purge(p *statev1.Principal, req *adminv1.PurgeKeysRequest) uint32 {
	keep := req.GetKeepKvno()
	if keep == 0 {
		keep = p.GetKvno()
	}
	before := len(p.GetKeys())
	p.Keys = slices.DeleteFunc(p.Keys, func(k *statev1.Key) bool {
		return req.GetAll() || k.GetKvno() < keep && k.GetKvno() != p.GetKvno()
	})
	return uint32(before - len(p.GetKeys()))
}

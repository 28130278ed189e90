package adminapi

import (
	"context"
	"errors"
	"io"
	"strings"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/charon-kdc/charon/internal/mutant"
	"github.com/charon-kdc/charon/kdc/kdb"
	adminv1 "github.com/charon-kdc/charon/proto/charon/admin/v1"
	statev1 "github.com/charon-kdc/charon/proto/charon/state/v1"
	"github.com/charon-kdc/charon/raftstore/realm"
)

type principalServer struct {
	adminv1.UnimplementedPrincipalsServer
	*Service
}

const (
	attrRequiresPWChange  = uint32(kdb.RequiresPWChange)
	attrLockdownKeys      = uint32(kdb.LockdownKeys)
	attrDisallowAllTix    = uint32(kdb.DisallowAllTix)
	attrDisallowRenewable = uint32(kdb.DisallowRenewable)
	// attrDefault is what a new principal has unless it is cleared.
	attrDefault = uint32(kdb.RequiresPreAuth)

	stringsMax     = 64
	stringKeyMax   = 256
	stringValueMax = 16 << 10
	aliasesMax     = 64
)

// defaultPolicy is given to a new principal that names none, when it exists.
const defaultPolicy = "default"

// load finds a principal by name or alias and checks that the caller has verb over its canonical name. Who has no right over a name
// does not learn whether it exists.
func (s *Service) load(ctx context.Context, v Verb, text string) (*statev1.Principal, error) {
	n, err := parseName(text, rightsOf(ctx).realm)
	if err != nil {
		return nil, err
	}
	p, err := s.Reader.GetPrincipal(n.realm, n.components)
	switch {
	case errors.Is(err, realm.ErrNotFound):
		if err := require(ctx, v, n); err != nil {
			return nil, err
		}
		return nil, notFound(n.String())
	case err != nil:
		return nil, err
	}
	return p, require(ctx, v, nameOf(p))
}

// keysLeave refuses what would take keys of a lockdown_keys principal out, or replace it, for all but root (MIT: kadmin.local).
func keysLeave(ctx context.Context, p *statev1.Principal) error {
	if p.GetAttributes()&attrLockdownKeys == 0 || callerOf(ctx).Root {
		return nil
	}
	return refuse(codes.PermissionDenied, "LOCKDOWN_KEYS", "%s has lockdown_keys: do this as root on a node", nameOf(p))
}

func (s principalServer) GetPrincipal(ctx context.Context, req *adminv1.GetPrincipalRequest) (*adminv1.GetPrincipalResponse, error) {
	meta := s.readMeta()
	p, err := s.load(ctx, VerbInquire, req.GetName())
	if err != nil {
		return nil, err
	}
	out, err := s.view(p)
	if err != nil {
		return nil, err
	}
	meta.Revision = p.GetRevision()
	return &adminv1.GetPrincipalResponse{Meta: meta, Principal: out}, nil
}

func (s principalServer) CreatePrincipal(ctx context.Context, req *adminv1.CreatePrincipalRequest) (*adminv1.CreatePrincipalResponse, error) {
	resp := &adminv1.CreatePrincipalResponse{}
	n, err := parseName(req.GetName(), rightsOf(ctx).realm)
	if err != nil {
		return nil, err
	}
	if err := require(ctx, VerbAdd, n); err != nil {
		return nil, err
	}
	res, err := s.mutate(ctx, req, resp, false, func() (*change, error) {
		// The state machine decides whether the name is free; but a name that is taken now is told with its kvno.
		if p, err := s.Reader.GetPrincipal(n.realm, n.components); err == nil {
			return nil, s.existsAs(ctx, p)
		}
		p, err := s.newPrincipal(ctx, req, n)
		if err != nil {
			return nil, err
		}
		v, err := s.view(p)
		return &change{what: n.String(), cmd: putPrincipal(p, absent()), answer: &adminv1.CreatePrincipalResponse{Principal: v}}, err
	})
	if err != nil {
		return nil, err
	}
	resp.Meta = s.meta(res)
	resp.Principal.Revision = res.GetRevision()
	return resp, nil
}

func putPrincipal(p *statev1.Principal, e *statev1.Expect) *statev1.Command {
	return &statev1.Command{Op: &statev1.Command_PutPrincipal{PutPrincipal: &statev1.PutPrincipal{Principal: p, Expect: e}}}
}

// existsAs tells who may read it what stands under the name.
func (s *Service) existsAs(ctx context.Context, p *statev1.Principal) error {
	n := nameOf(p)
	if !rightsOf(ctx).may(VerbInquire, n) {
		return exists(n.String())
	}
	day := time.UnixMilli(p.GetCreatedAt()).UTC().Format("2006-01-02")
	return refuse(codes.AlreadyExists, "EXISTS", "%s exists (kvno %d, created %s); to change the password: charon principal password %s", n, p.GetKvno(), day, n.local())
}

func (s *Service) newPrincipal(ctx context.Context, req *adminv1.CreatePrincipalRequest, n name) (*statev1.Principal, error) {
	now := s.Now()
	if _, err := s.realm(n.realm); err != nil {
		return nil, err
	}
	p := &statev1.Principal{
		Id: make([]byte, 16), Realm: n.realm, Name: n.components, NameType: int32(n.nameType),
		Attributes: attrDefault&^req.GetClearAttributes() | req.GetSetAttributes(),
		MaxLife:    req.GetMaxLife(), MaxRenewableLife: req.GetMaxRenewableLife(),
		Expiration: req.GetExpiration(), PasswordExpiration: req.GetPasswordExpiration(),
		Policy: req.GetPolicy(), Strings: req.GetStrings(),
		CreatedAt: now.UnixMilli(), CreatedBy: callerOf(ctx).Subject,
	}
	stamp(ctx, p, now)
	if _, err := io.ReadFull(s.Rand, p.Id); err != nil {
		return nil, err
	}
	pol, err := s.policy(p.GetPolicy())
	if err != nil {
		return nil, err
	}
	if p.GetPolicy() == "" && !req.GetNoPolicy() {
		if pol, err = s.policy(defaultPolicy); err != nil {
			return nil, err
		}
		p.Policy = pol.GetName()
	}
	if err := checkFields(p); err != nil {
		return nil, err
	}
	return p, s.firstKeys(p, req.GetKeys(), max(1, req.GetKvno()), pol, now)
}

// firstKeys gives a new principal its keys. Without a source it has none.
func (s *Service) firstKeys(p *statev1.Principal, src *adminv1.NewKeys, kvno uint32, pol *statev1.Policy, now time.Time) error {
	password, random := sourceOf(src)
	if password == nil && !random {
		return nil
	}
	if password != nil {
		if err := checkPassword(*password, nameOf(p), pol); err != nil {
			return err
		}
	}
	keysalts, err := s.chooseKeysalts(p.GetRealm(), src.GetKeysalts(), pol)
	if err != nil {
		return err
	}
	if p.Keys, err = s.makeKeys(p, kvno, password, keysalts); err != nil {
		return err
	}
	if mutant.On(mutant.PasswordLogged) && password != nil {
		s.Logger.Info("password set", "name", nameOf(p).String(), "password", *password)
	}
	p.Kvno = kvno
	p.LastPasswordChange = now.UnixMilli()
	if p.GetPasswordExpiration() == 0 {
		p.PasswordExpiration = passwordExpiry(pol, now)
	}
	return nil
}

func sourceOf(src *adminv1.NewKeys) (password *string, random bool) {
	switch x := src.GetSource().(type) {
	case *adminv1.NewKeys_Password:
		return &x.Password, false
	case *adminv1.NewKeys_Random:
		return nil, x.Random
	}
	return nil, false
}

// checkFields holds a record against its bounds before it is proposed.
func checkFields(p *statev1.Principal) error {
	if !kdb.Attributes(p.GetAttributes()).Valid() {
		return invalid("attributes", "attributes 0x%x are not known", p.GetAttributes())
	}
	for field, v := range map[string]int64{"max_life": p.GetMaxLife(), "max_renewable_life": p.GetMaxRenewableLife(), "expiration": p.GetExpiration(), "password_expiration": p.GetPasswordExpiration()} {
		if v < 0 || v > timeMax {
			return invalid(field, "%s is out of range", field)
		}
	}
	if len(p.GetPolicy()) > 256 {
		return invalid("policy", "a policy's name has at most 256 bytes")
	}
	if len(p.GetStrings()) > stringsMax {
		return invalid("strings", "a principal has at most %d string attributes", stringsMax)
	}
	for k, v := range p.GetStrings() {
		if k == "" || len(k) > stringKeyMax || len(v) > stringValueMax {
			return invalid("strings", "a string attribute's name has 1 to %d bytes, its value at most %d", stringKeyMax, stringValueMax)
		}
	}
	if len(p.GetAliases()) > aliasesMax {
		return invalid("aliases", "a principal has at most %d aliases", aliasesMax)
	}
	return nil
}

// timeMax is the end of the year 9999 in ms: GeneralizedTime goes no further.
const timeMax = 253402300799_000

func (s principalServer) DeletePrincipal(ctx context.Context, req *adminv1.DeletePrincipalRequest) (*adminv1.DeletePrincipalResponse, error) {
	resp := &adminv1.DeletePrincipalResponse{}
	res, err := s.mutate(ctx, req, resp, req.GetExpectedRevision() != 0, func() (*change, error) {
		p, err := s.load(ctx, VerbDelete, req.GetName())
		if err != nil {
			return nil, err
		}
		n := nameOf(p)
		if err := errors.Join(keysLeave(ctx, p), needed(n)); err != nil {
			return nil, err
		}
		expect, err := atRevision(p.GetRevision(), req.GetExpectedRevision(), n.String())
		return &change{what: n.String(), answer: resp, cmd: &statev1.Command{Op: &statev1.Command_DeletePrincipal{
			DeletePrincipal: &statev1.DeletePrincipal{Realm: n.realm, Name: n.components, Expect: expect},
		}}}, err
	})
	if err != nil {
		return nil, err
	}
	resp.Meta = s.meta(res)
	return resp, nil
}

// needed refuses to take away the realm's own ticket-granting service.
func needed(n name) error {
	if len(n.components) == 2 && n.components[0] == "krbtgt" && n.components[1] == n.realm {
		return refuse(codes.FailedPrecondition, "PROTECTED", "%s is the realm itself: without it there are no tickets", n)
	}
	return nil
}

func (s principalServer) RenamePrincipal(ctx context.Context, req *adminv1.RenamePrincipalRequest) (*adminv1.RenamePrincipalResponse, error) {
	resp := &adminv1.RenamePrincipalResponse{}
	to, err := parseName(req.GetNewName(), rightsOf(ctx).realm)
	if err != nil {
		return nil, err
	}
	if err := require(ctx, VerbAdd, to); err != nil {
		return nil, err
	}
	res, err := s.mutate(ctx, req, resp, req.GetExpectedRevision() != 0, func() (*change, error) {
		p, err := s.load(ctx, VerbDelete, req.GetName())
		if err != nil {
			return nil, err
		}
		return s.rename(ctx, p, to, req.GetExpectedRevision())
	})
	if err != nil {
		return nil, err
	}
	resp.Meta = s.meta(res)
	resp.Principal.Revision = res.GetRevision()
	return resp, nil
}

// rename keeps id and keys. The salts a client must use were made of the old name, so they are explicit from now on.
func (s *Service) rename(ctx context.Context, p *statev1.Principal, to name, expected uint64) (*change, error) {
	from := nameOf(p)
	if err := errors.Join(keysLeave(ctx, p), needed(from), needed(to)); err != nil {
		return nil, err
	}
	if from.realm != to.realm {
		return nil, invalid("new_name", "a principal can't be renamed into another realm")
	}
	if from.equal(to) {
		return nil, exists(to.String())
	}
	expect, err := atRevision(p.GetRevision(), expected, from.String())
	if err != nil {
		return nil, err
	}
	p.Name, p.NameType = to.components, int32(to.nameType)
	pinSalts(p)
	stamp(ctx, p, s.Now())
	v, err := s.view(p)
	return &change{what: from.String() + " or " + to.String(), answer: &adminv1.RenamePrincipalResponse{Principal: v},
		cmd: &statev1.Command{Op: &statev1.Command_RenamePrincipal{
			RenamePrincipal: &statev1.RenamePrincipal{Realm: from.realm, OldName: from.components, Expect: expect, Principal: p},
		}}}, err
}

func pinSalts(p *statev1.Principal) {
	for _, k := range p.GetKeys() {
		k.SaltDefault = false
		if mutant.On(mutant.RenameMovesSalt) {
			k.Salt = p.GetRealm() + strings.Join(p.GetName(), "")
		}
	}
	for _, h := range p.GetKeyHistory() {
		for _, k := range h.GetKeys() {
			k.SaltDefault = false
		}
	}
}

// stamp notes who changed p, and when.
func stamp(ctx context.Context, p *statev1.Principal, now time.Time) {
	p.ModifiedAt, p.ModifiedBy = now.UnixMilli(), callerOf(ctx).Subject
}

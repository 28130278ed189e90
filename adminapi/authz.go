package adminapi

import (
	"context"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"

	statev1 "github.com/charon-kdc/charon/proto/charon/state/v1"
)

// Verb is a right that a role can give.
type Verb string

const (
	VerbAdd      Verb = "add"
	VerbModify   Verb = "modify"
	VerbDelete   Verb = "delete"
	VerbList     Verb = "list"
	VerbInquire  Verb = "inquire"
	VerbChangePW Verb = "changepw"
	VerbExtract  Verb = "extract" // read keys; "*" does not hold it
	VerbSetKey   Verb = "setkey"
	VerbPolicy   Verb = "policy"
	VerbCluster  Verb = "cluster" // nodes, tokens, realms: who holds it can let a node in, and so read everything
	VerbRole     Verb = "role"
	VerbBackup   Verb = "backup" // encrypted to the recovery kit; to a key of the caller's own it takes extract as well
	verbAny      Verb = "any"    // of those: the caller has some role
)

var verbs = []Verb{VerbAdd, VerbModify, VerbDelete, VerbList, VerbInquire, VerbChangePW, VerbExtract, VerbSetKey, VerbPolicy, VerbCluster, VerbRole, VerbBackup}

// rights are what one caller may do, as of one reading of the role table.
type rights struct {
	caller Caller
	realm  string // the default realm
	grants []grant
}

type grant struct {
	role   *statev1.Role
	target principalGlob
}

type rightsKey struct{}

func withRights(ctx context.Context, r *rights) context.Context {
	return context.WithValue(ctx, rightsKey{}, r)
}

// rightsOf are the rights that the guard found; without any nothing is allowed.
func rightsOf(ctx context.Context) *rights {
	if r, ok := ctx.Value(rightsKey{}).(*rights); ok {
		return r
	}
	return &rights{}
}

func (s *Service) loadRights(c Caller) (*rights, error) {
	r := &rights{caller: c}
	cl, err := s.Reader.Cluster()
	if err != nil {
		return nil, err
	}
	r.realm = cl.GetDefaultRealm()
	if c.Root {
		return r, nil
	}
	roles, err := s.Reader.Roles()
	if err != nil {
		return nil, err
	}
	for _, role := range roles {
		if subjectMatches(role.GetSubject(), c.Subject) {
			r.grants = append(r.grants, grant{role, parsePrincipalGlob(role.GetTarget(), r.realm)})
		}
	}
	return r, nil
}

// subjectMatches holds the kind ("cert:", "krb:") apart from the glob, so that no pattern reaches another kind.
func subjectMatches(pattern, subject string) bool {
	pk, pn, ok := strings.Cut(pattern, ":")
	sk, sn, ok2 := strings.Cut(subject, ":")
	return ok && ok2 && pk == sk && sn != "" && glob(pn, sn)
}

func roleHas(role *statev1.Role, v Verb) bool {
	if slices.Contains(role.GetVerbs(), string(v)) {
		return true
	}
	return v != VerbExtract && slices.Contains(role.GetVerbs(), "*")
}

// own is the subject's own entry: of "cert:alice" the principal alice in the default realm.
func (r *rights) own(n name) bool {
	kind, text, ok := strings.Cut(r.caller.Subject, ":")
	if !ok || (kind != "cert" && kind != "krb") {
		return false
	}
	me, err := parseName(text, r.realm)
	return err == nil && me.equal(n)
}

// may tells whether the caller has verb over the principal n, given by its canonical name.
func (r *rights) may(v Verb, n name) bool {
	if r.caller.Root {
		return true
	}
	for _, g := range r.grants {
		if roleHas(g.role, v) && g.target.match(n) && (!g.role.GetOwn() || r.own(n)) {
			return true
		}
	}
	return false
}

// holds tells whether the caller has verb at all, whatever over.
func (r *rights) holds(v Verb) bool {
	if r.caller.Root {
		return true
	}
	for _, g := range r.grants {
		if v == verbAny || roleHas(g.role, v) {
			return true
		}
	}
	return false
}

// everywhere tells whether the caller has verb without a target: rights over policies, roles and the cluster have none.
func (r *rights) everywhere(v Verb) bool {
	if r.caller.Root {
		return true
	}
	for _, g := range r.grants {
		if roleHas(g.role, v) && g.target.all && !g.role.GetOwn() {
			return true
		}
	}
	return false
}

// mayGrant tells whether the caller holds, over the same target or everything, each right that role gives: nobody can hand
// out more than he has.
func (r *rights) mayGrant(role *statev1.Role) bool {
	if r.caller.Root {
		return true
	}
	given := map[Verb]bool{}
	for _, v := range role.GetVerbs() {
		if v != "*" {
			given[Verb(v)] = true
			continue
		}
		for _, each := range verbs {
			if each != VerbExtract {
				given[each] = true
			}
		}
	}
	for v := range given {
		ok := slices.ContainsFunc(r.grants, func(g grant) bool {
			return roleHas(g.role, v) && !g.role.GetOwn() && (g.target.all || g.role.GetTarget() == role.GetTarget())
		})
		if !ok {
			return false
		}
	}
	return true
}

// require is the refusal of v over n, or nil.
func require(ctx context.Context, v Verb, n name) error {
	if rightsOf(ctx).may(v, n) {
		return nil
	}
	return denied(ctx, v, n.String())
}

func requireEverywhere(ctx context.Context, v Verb) error {
	if rightsOf(ctx).everywhere(v) {
		return nil
	}
	return denied(ctx, v, "the realm")
}

func denied(ctx context.Context, v Verb, over string) error {
	c := callerOf(ctx)
	return refuse(codes.PermissionDenied, "PERMISSION_DENIED", "%s has no right %q over %s; an administrator can give it: charon role grant %s %s",
		c.Subject, v, over, c.Subject, v).with("caller", c.Subject, "verb", string(v), "target", over)
}

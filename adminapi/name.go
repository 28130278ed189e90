package adminapi

import (
	"slices"

	"google.golang.org/grpc/codes"

	"github.com/charon-kdc/charon/kdc/krb5"
	statev1 "github.com/charon-kdc/charon/proto/charon/state/v1"
)

// name is one principal's name.
type name struct {
	realm      string
	components []string
	nameType   krb5.NameType
}

// parseName reads a principal's text form; the default realm is taken when it has none.
func parseName(s, defaultRealm string) (name, error) {
	pn, realm, err := krb5.ParsePrincipal(s, defaultRealm)
	if err != nil {
		return name{}, invalid("name", "%v", err)
	}
	if realm == "" {
		return name{}, invalid("name", "%q has no realm", s)
	}
	return name{realm: realm, components: pn.NameString, nameType: pn.NameType}, nil
}

func nameOf(p *statev1.Principal) name {
	return name{realm: p.GetRealm(), components: p.GetName(), nameType: krb5.NameType(p.GetNameType())}
}

func (n name) krb5() krb5.PrincipalName {
	return krb5.PrincipalName{NameType: n.nameType, NameString: n.components}
}

// local is the text form without realm.
func (n name) local() string { return n.krb5().String() }

// String is the text form with realm.
func (n name) String() string { return krb5.FormatPrincipal(n.krb5(), n.realm) }

func (n name) equal(o name) bool {
	return n.realm == o.realm && slices.Equal(n.components, o.components)
}

// invalid is a request that is wrong by itself.
func invalid(field, format string, args ...any) *refusal {
	return refuse(codes.InvalidArgument, "INVALID", format, args...).with("field", field)
}

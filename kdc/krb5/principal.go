package krb5

import (
	"errors"
	"fmt"
	"strings"
)

// Bounds of names, in decoders and encoders.
const (
	nameComponentsMax = 10
	nameComponentMax  = 256  // octets of one component, and of a realm
	nameMax           = 1024 // octets of all components
)

// MkName is a name of that type and those components.
func MkName(t NameType, components ...string) PrincipalName {
	return PrincipalName{NameType: t, NameString: components}
}

// TGSName is krbtgt/realm, the ticket-granting service's name (RFC 4120 section 7.3).
func TGSName(realm string) PrincipalName { return MkName(NTSrvInst, "krbtgt", realm) }

// IsTGS tells whether n has the form krbtgt/REALM, and gives that realm.
func (n PrincipalName) IsTGS() (realm string, ok bool) {
	if len(n.NameString) == 2 && n.NameString[0] == "krbtgt" {
		return n.NameString[1], true
	}
	return "", false
}

// Equal compares components. The name type is a hint and does not count (RFC 4120 section 6.2).
func (n PrincipalName) Equal(o PrincipalName) bool {
	if len(n.NameString) != len(o.NameString) {
		return false
	}
	for i, c := range n.NameString {
		if c != o.NameString[i] {
			return false
		}
	}
	return true
}

// String is the name without realm as MIT's krb5_unparse_name writes it: components joined by '/', with '/', '@', '\', tab,
// newline, backspace and NUL escaped. ParsePrincipal reads it back.
func (n PrincipalName) String() string {
	if len(n.NameString) == 1 && !strings.ContainsAny(n.NameString[0], escaped) {
		return n.NameString[0]
	}
	var b strings.Builder
	for i, c := range n.NameString {
		if i > 0 {
			b.WriteByte('/')
		}
		escape(&b, c)
	}
	return b.String()
}

// FormatPrincipal is name@REALM with the escapes of String.
func FormatPrincipal(n PrincipalName, realm string) string {
	size := len(realm) + 1 + len(n.NameString)
	for _, c := range n.NameString {
		size += len(c)
	}
	var b strings.Builder
	b.Grow(size) // one allocation where nothing is escaped
	for i, c := range n.NameString {
		if i > 0 {
			b.WriteByte('/')
		}
		escape(&b, c)
	}
	b.WriteByte('@')
	escape(&b, realm)
	return b.String()
}

const escaped = "/@\\\t\n\b\x00"

func escape(b *strings.Builder, s string) {
	for i := 0; i < len(s); i++ {
		switch c := s[i]; c {
		case '/', '@', '\\':
			b.WriteByte('\\')
			b.WriteByte(c)
		case '\t':
			b.WriteString(`\t`)
		case '\n':
			b.WriteString(`\n`)
		case '\b':
			b.WriteString(`\b`)
		case 0:
			b.WriteString(`\0`)
		default:
			b.WriteByte(c)
		}
	}
}

// ErrPrincipal is wrapped by every error of ParsePrincipal.
var ErrPrincipal = errors.New("malformed principal name")

// ParsePrincipal reads name or name@REALM with MIT's escapes: \n, \t, \b, \0, and a backslash before any other character for that
// character. Without a realm it is defaultRealm, which may be empty. The name type is NT-SRV-INST for krbtgt/X, NT-WELLKNOWN for
// WELLKNOWN/..., and NT-PRINCIPAL for all else. The bounds of the wire hold.
func ParsePrincipal(s, defaultRealm string) (PrincipalName, string, error) {
	bad := func(why string) (PrincipalName, string, error) {
		return PrincipalName{}, "", fmt.Errorf("%w %q: %s", ErrPrincipal, s, why)
	}
	var parts []string
	var part strings.Builder
	inRealm := false
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case c == '\\':
			i++
			if i == len(s) {
				return bad("it ends in a backslash")
			}
			part.WriteByte(unescape(s[i]))
		case c == '@' && inRealm:
			return bad("it has two realms")
		case c == '@', c == '/' && !inRealm: // a realm may hold a slash: RFC 4120 section 6.1, X500 style
			parts = append(parts, part.String())
			part.Reset()
			inRealm = c == '@'
		default:
			part.WriteByte(c)
		}
	}
	realm := defaultRealm
	if inRealm {
		realm = part.String()
		if realm == "" {
			return bad("the realm is empty")
		}
	} else {
		parts = append(parts, part.String())
	}
	if len(parts) == 1 && parts[0] == "" {
		return bad("the name is empty")
	}
	n := PrincipalName{NameType: inferNameType(parts), NameString: parts}
	if !n.bounded() || len(realm) > nameComponentMax {
		return bad("it is too long")
	}
	return n, realm, nil
}

func unescape(c byte) byte {
	switch c {
	case 'n':
		return '\n'
	case 't':
		return '\t'
	case 'b':
		return '\b'
	case '0':
		return 0
	}
	return c
}

func inferNameType(parts []string) NameType {
	switch {
	case len(parts) == 2 && parts[0] == "krbtgt":
		return NTSrvInst
	case len(parts) >= 2 && parts[0] == "WELLKNOWN":
		return NTWellKnown
	}
	return NTPrincipal
}

// bounded tells whether n may go on the wire.
func (n PrincipalName) bounded() bool {
	if len(n.NameString) == 0 || len(n.NameString) > nameComponentsMax {
		return false
	}
	total := 0
	for _, c := range n.NameString {
		if len(c) > nameComponentMax {
			return false
		}
		total += len(c)
	}
	return total <= nameMax
}

// DefaultSalt is the salt of a password key when no other is named: the realm and all components joined (RFC 4120 section 4).
func DefaultSalt(realm string, n PrincipalName) string {
	return realm + strings.Join(n.NameString, "")
}

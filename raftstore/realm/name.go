package realm

import (
	"fmt"
	"strings"
)

// Bounds on names, in bytes.
const (
	nameComponentsMax = 10
	nameComponentMax  = 256
	nameMax           = 1024
	realmNameMax      = 256
	labelMax          = 256 // names of policies, roles, secrets
)

// NameText is a principal's name without its realm, escaped as MIT's krb5_unparse_name does: components joined by '/',
// and a backslash before '/', '@', '\\' and in \n, \t, \b, \0. Different names have different texts.
func NameText(name []string) string {
	var b strings.Builder
	for i, c := range name {
		if i > 0 {
			b.WriteByte('/')
		}
		for j := range len(c) {
			switch c[j] {
			case '/', '@', '\\':
				b.WriteByte('\\')
				b.WriteByte(c[j])
			case '\n':
				b.WriteString(`\n`)
			case '\t':
				b.WriteString(`\t`)
			case '\b':
				b.WriteString(`\b`)
			case 0:
				b.WriteString(`\0`)
			default:
				b.WriteByte(c[j])
			}
		}
	}
	return b.String()
}

// ParseName is the reverse of NameText. It accepts only what NameText writes, so that one name has one text, and only
// names within the bounds.
func ParseName(text string) ([]string, error) {
	var name []string
	var c []byte
	for i := 0; i < len(text); i++ {
		switch ch := text[i]; ch {
		case '/':
			name, c = append(name, string(c)), nil
		case '\\':
			i++
			if i == len(text) {
				return nil, fmt.Errorf("name %q ends in a backslash", text)
			}
			c = append(c, unescape(text[i]))
		default:
			c = append(c, ch)
		}
	}
	name = append(name, string(c))
	if NameText(name) != text {
		return nil, fmt.Errorf("name %q is not in canonical form; write %q", text, NameText(name))
	}
	return name, checkName(name)
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

func checkName(name []string) error {
	if len(name) == 0 || len(name) == 1 && name[0] == "" {
		return fmt.Errorf("name is empty")
	}
	if len(name) > nameComponentsMax {
		return fmt.Errorf("name has %d components, at most %d", len(name), nameComponentsMax)
	}
	sum := 0
	for _, c := range name {
		if len(c) > nameComponentMax {
			return fmt.Errorf("name component of %d bytes, at most %d", len(c), nameComponentMax)
		}
		sum += len(c)
	}
	if sum > nameMax {
		return fmt.Errorf("name of %d bytes, at most %d", sum, nameMax)
	}
	return nil
}

func checkRealmName(realm string) error {
	if realm == "" || len(realm) > realmNameMax || strings.IndexByte(realm, 0) >= 0 {
		return fmt.Errorf("realm name %q: 1 to %d bytes without NUL", realm, realmNameMax)
	}
	return nil
}

func checkLabel(kind, name string) error {
	if name == "" || len(name) > labelMax {
		return fmt.Errorf("%s name of %d bytes; 1 to %d", kind, len(name), labelMax)
	}
	return nil
}

// NameKey is the key of a principal, or of an alias, in the state file and in a Change: the realm, a NUL byte (which no
// realm has), and NameText(name). Keys sort by realm, then by text.
func NameKey(realm string, name []string) string { return textKey(realm, NameText(name)) }

func textKey(realm, text string) string { return realm + "\x00" + text }

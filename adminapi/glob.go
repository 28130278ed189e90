package adminapi

import "strings"

// globMax bounds a pattern's length in bytes.
const globMax = 1024

// glob matches s against a pattern of "*" (any run), "?" (one byte), "[abc]" "[a-z]" "[!a]" (one byte of a set) and "\x"
// (x itself). The work is bounded by len(pattern)*len(s): only the last "*" is ever tried again.
func glob(pattern, s string) bool {
	p, i := 0, 0
	star, mark := -1, 0
	for i < len(s) {
		if p < len(pattern) && pattern[p] == '*' {
			star, mark = p, i
			p++
			continue
		}
		if n, ok := globOne(pattern[p:], s[i]); ok {
			p += n
			i++
			continue
		}
		if star < 0 {
			return false
		}
		mark++
		p, i = star+1, mark
	}
	for p < len(pattern) && pattern[p] == '*' {
		p++
	}
	return p == len(pattern)
}

// globOne matches one byte against the head of pattern, and tells how long that head is.
func globOne(pattern string, c byte) (int, bool) {
	if pattern == "" {
		return 0, false
	}
	switch pattern[0] {
	case '?':
		return 1, true
	case '\\':
		if len(pattern) > 1 {
			return 2, pattern[1] == c
		}
	case '[':
		if end := strings.IndexByte(pattern[1:], ']'); end > 0 {
			return end + 2, inSet(pattern[1:end+1], c)
		}
	}
	return 1, pattern[0] == c
}

func inSet(set string, c byte) bool {
	negate := set[0] == '!' || set[0] == '^'
	if negate {
		set = set[1:]
	}
	for i := 0; i < len(set); i++ {
		lo, hi := set[i], set[i]
		if i+2 < len(set) && set[i+1] == '-' {
			hi = set[i+2]
			i += 2
		}
		if lo <= c && c <= hi {
			return !negate
		}
	}
	return negate
}

// splitUnescaped cuts s at every sep that no backslash precedes.
func splitUnescaped(s string, sep byte) []string {
	var out []string
	start := 0
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case sep:
			out = append(out, s[start:i])
			start = i + 1
		}
	}
	return append(out, s[start:])
}

// principalGlob is a glob over principals as a role has it: "*" does not cross a component or the realm, so that "*" in
// "*@R" is one component and "HTTP/*" can't match "HTTP/a/b". Empty and "*" alone match everything.
type principalGlob struct {
	all        bool
	components []string
	realm      string
}

func parsePrincipalGlob(s, defaultRealm string) principalGlob {
	if s == "" || s == "*" {
		return principalGlob{all: true}
	}
	parts := splitUnescaped(s, '@')
	g := principalGlob{components: splitUnescaped(parts[0], '/'), realm: defaultRealm}
	if len(parts) > 1 {
		g.realm = strings.Join(parts[1:], "@")
	}
	return g
}

func (g principalGlob) match(n name) bool {
	if g.all {
		return true
	}
	if !glob(g.realm, n.realm) || len(g.components) != len(n.components) {
		return false
	}
	for i, c := range g.components {
		if !glob(c, n.components[i]) {
			return false
		}
	}
	return true
}

package adminapi

import (
	"strings"
	"testing"
)

func TestGlob(t *testing.T) {
	for _, c := range []struct {
		pattern, s string
		want       bool
	}{
		{"*", "", true}, {"*", "HTTP/web", true}, {"", "", true}, {"", "a", false},
		{"HTTP/*", "HTTP/web.example.com", true}, {"HTTP/*", "HTTPS/web", false},
		{"a*b*c", "axxbyyc", true}, {"a*b*c", "axxbyy", false}, {"?lice", "alice", true}, {"?lice", "lice", false},
		{"[a-c]x", "bx", true}, {"[a-c]x", "dx", false}, {"[!a-c]x", "dx", true}, {"[^a]x", "ax", false}, {"[ab", "[ab", true},
		{`\*`, "*", true}, {`\*`, "x", false}, {`a\`, `a\`, true}, {"[]", "[]", true},
	} {
		if got := glob(c.pattern, c.s); got != c.want {
			t.Errorf("glob(%q, %q) = %v", c.pattern, c.s, got)
		}
	}
}

// A pattern of stars against a long name must not take exponential time.
func TestGlobIsBounded(t *testing.T) {
	if glob(strings.Repeat("*a", 200)+"b", strings.Repeat("a", 1000)) {
		t.Error("matched")
	}
}

func TestPrincipalGlob(t *testing.T) {
	for _, c := range []struct {
		glob, principal string
		want            bool
	}{
		{"", "a/b/c@OTHER", true}, {"*", "a/b/c@OTHER", true},
		{"HTTP/*", "HTTP/web@EXAMPLE.COM", true}, {"HTTP/*", "HTTP/web@OTHER", false}, {"HTTP/*", "HTTP@EXAMPLE.COM", false},
		{"HTTP/*", "HTTP/web/admin@EXAMPLE.COM", false}, {"*@EXAMPLE.COM", "alice@EXAMPLE.COM", true},
		{"*@EXAMPLE.COM", "alice/admin@EXAMPLE.COM", false}, {"*/admin@*", "alice/admin@OTHER", true},
		{`HTTP\/*`, "HTTP/web@EXAMPLE.COM", false}, {`HTTP\/*`, `HTTP\/web@EXAMPLE.COM`, true},
		// A name with an escaped separator is one component: no glob over two reaches it.
		{"HTTP/*", `HTTP\/web@EXAMPLE.COM`, false},
	} {
		n, err := parseName(c.principal, testRealm)
		if err != nil {
			t.Fatal(err)
		}
		if got := parsePrincipalGlob(c.glob, testRealm).match(n); got != c.want {
			t.Errorf("%q over %q: %v", c.glob, c.principal, got)
		}
	}
}

func FuzzGlob(f *testing.F) {
	f.Add("a*[b-c]?\\*", "abc*")
	f.Fuzz(func(t *testing.T, pattern, s string) {
		if len(pattern) > globMax || len(s) > globMax {
			return
		}
		glob(pattern, s)
		parsePrincipalGlob(pattern, "R").match(name{realm: "R", components: []string{s}})
		if !glob("*"+strings.NewReplacer(`\`, `\\`, "*", `\*`, "?", `\?`, "[", `\[`).Replace(s)+"*", "x"+s+"y") {
			t.Errorf("escaped %q does not match itself", s)
		}
	})
}

package krb5

import (
	"errors"
	"strings"
	"testing"
)

func TestParsePrincipal(t *testing.T) {
	for _, v := range []struct {
		in    string
		parts []string
		realm string
		typ   NameType
		out   string // with realm, as printed
	}{
		{"alice", []string{"alice"}, "R", NTPrincipal, "alice@R"},
		{"alice@EXAMPLE.COM", []string{"alice"}, "EXAMPLE.COM", NTPrincipal, "alice@EXAMPLE.COM"},
		{"host/a.example@E", []string{"host", "a.example"}, "E", NTPrincipal, "host/a.example@E"},
		{"krbtgt/E@E", []string{"krbtgt", "E"}, "E", NTSrvInst, "krbtgt/E@E"},
		{"krbtgt@E", []string{"krbtgt"}, "E", NTPrincipal, "krbtgt@E"},
		{"WELLKNOWN/ANONYMOUS@E", []string{"WELLKNOWN", "ANONYMOUS"}, "E", NTWellKnown, "WELLKNOWN/ANONYMOUS@E"},
		{`alice\@corp@E`, []string{"alice@corp"}, "E", NTPrincipal, `alice\@corp@E`},
		{`a\/b/c@E`, []string{"a/b", "c"}, "E", NTPrincipal, `a\/b/c@E`},
		{`a\\@E`, []string{`a\`}, "E", NTPrincipal, `a\\@E`},
		{`\n\t\b\0x`, []string{"\n\t\b\x00x"}, "R", NTPrincipal, `\n\t\b\0x@R`},
		{`\q`, []string{"q"}, "R", NTPrincipal, "q@R"},
		{"a@C=US/O=OSF", []string{"a"}, "C=US/O=OSF", NTPrincipal, `a@C=US\/O=OSF`},
		{"host/@E", []string{"host", ""}, "E", NTPrincipal, "host/@E"},
		{"with space@E", []string{"with space"}, "E", NTPrincipal, "with space@E"},
		{"žofie", []string{"žofie"}, "R", NTPrincipal, "žofie@R"},
	} {
		n, realm, err := ParsePrincipal(v.in, "R")
		if err != nil || !n.Equal(MkName(0, v.parts...)) || realm != v.realm || n.NameType != v.typ {
			t.Errorf("%q is %q in %q of %v, %v", v.in, n.NameString, realm, n.NameType, err)
		}
		if out := FormatPrincipal(n, realm); out != v.out {
			t.Errorf("%q prints as %q, want %q", v.in, out, v.out)
		}
	}
	for _, in := range []string{"", "@R", "alice@", "a@b@c", `alice\`, strings.Repeat("a/", 10) + "a", strings.Repeat("a", 257), "a@" + strings.Repeat("R", 257), strings.Repeat(strings.Repeat("a", 250)+"/", 4) + strings.Repeat("a", 250)} {
		if n, _, err := ParsePrincipal(in, "R"); !errors.Is(err, ErrPrincipal) {
			t.Errorf("%.30q is %v, %v; want ErrPrincipal", in, n.NameString, err)
		}
	}
}

func TestNames(t *testing.T) {
	if !MkName(NTPrincipal, "a", "b").Equal(MkName(NTSrvHst, "a", "b")) {
		t.Error("the name type counts in Equal")
	}
	if MkName(1, "a", "b").Equal(MkName(1, "a/b")) || MkName(1, "a").Equal(MkName(1, "A")) || MkName(1, "a").Equal(MkName(1, "a", "")) {
		t.Error("names that differ are equal")
	}
	if realm, ok := TGSName("E").IsTGS(); realm != "E" || !ok {
		t.Error("krbtgt/E is no TGS")
	}
	for _, n := range []PrincipalName{{}, MkName(2, "krbtgt"), MkName(2, "krbtgt", "E", "x"), MkName(2, "host", "E")} {
		if _, ok := n.IsTGS(); ok {
			t.Errorf("%v is a TGS", n)
		}
	}
	// RFC 3962 appendix B has the salt of raeburn.
	if s := DefaultSalt("ATHENA.MIT.EDU", MkName(1, "raeburn")); s != "ATHENA.MIT.EDUraeburn" {
		t.Error(s)
	}
	if s := DefaultSalt("E", MkName(1, "host", "a.example")); s != "Ehosta.example" {
		t.Error(s)
	}
}

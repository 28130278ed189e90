package realm

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
)

func TestNames(t *testing.T) {
	for _, name := range [][]string{
		{"alice"}, {"host", "a.example.com"}, {"a/b"}, {"a", "b"}, {"", "x"}, {"x", ""}, {"a@b"}, {`a\`}, {"\n\t\b\x00"}, {"é"}, {"n"},
	} {
		text := NameText(name)
		back, err := ParseName(text)
		if err != nil || !slices.Equal(back, name) {
			t.Errorf("%q: text %q, back %q, %v", name, text, back, err)
		}
	}
	for _, text := range []string{"", "a@R", `a\`, `\a`, "a\nb", "a\x00"} {
		if name, err := ParseName(text); err == nil {
			t.Errorf("%q was taken for %q", text, name)
		}
	}
}

func TestListPrincipals(t *testing.T) {
	db := openTest(t)
	var all []string
	for i := range 30 {
		text := fmt.Sprintf("user%02d", i)
		if i%3 == 0 {
			text = fmt.Sprintf("host/h%02d.example.com", i)
		}
		all = append(all, text)
		mustApply(t, db, putP(principal(text, "alias-of-"+strings.ReplaceAll(text, "/", "-")), absent()))
	}
	other := principal("user00")
	other.Realm = "R2"
	mustApply(t, db, putP(other, absent()))
	slices.Sort(all)
	for _, limit := range []int{0, 1, 2, 7, 1000} {
		var got []string
		for after, pages := "", 0; ; pages++ {
			page, next, err := db.ListPrincipals("R", after, limit)
			if err != nil || limit > 0 && len(page) > limit || pages > 40 {
				t.Fatal(len(page), pages, err)
			}
			got = append(got, names(page)...)
			if after = next; next == "" {
				break
			}
		}
		if !slices.Equal(got, all) {
			t.Errorf("limit %d: %q, want %q", limit, got, all)
		}
	}
	if n := db.Counts(); n.Principals != 31 || n.Aliases != 30 || n.FileBytes == 0 {
		t.Error(n)
	}
	if page, next, err := db.ListPrincipals("nowhere", "", 0); len(page) > 0 || next != "" || err != nil {
		t.Error(page, next, err)
	}
}

func TestReaders(t *testing.T) {
	db := base(t)
	err := db.View(func(tx *Tx) error {
		p, err := tx.Principal("R", []string{"al"})
		if err != nil || NameText(p.Name) != "alice" {
			t.Error(p, err)
		}
		if index, term, err := tx.Applied(); index != 9 || term != 1 || err != nil {
			t.Error(index, term)
		}
		return errors.ErrUnsupported
	})
	if err != errors.ErrUnsupported {
		t.Error(err)
	}
	check := func(what string, n int, err error) {
		t.Helper()
		if n != 1 || err != nil {
			t.Errorf("%s: %d, %v", what, n, err)
		}
	}
	policies, err := db.Policies()
	check("policies", len(policies), err)
	nodes, err := db.Nodes()
	check("nodes", len(nodes), err)
	tokens, err := db.Tokens()
	check("tokens", len(tokens), err)
	roles, err := db.Roles()
	check("roles", len(roles), err)
	if p, err := db.Policy("pol"); err != nil || p.MinLength != 8 {
		t.Error(p, err)
	}
	if r, err := db.Realm("R"); err != nil || r.MaxLife != 86400 {
		t.Error(r, err)
	}
	if n, err := db.Node(id16("id1")); err != nil || n.Name != "n1" {
		t.Error(n, err)
	}
	if r, err := db.Role("role"); err != nil || r.Subject != "cert:alice" {
		t.Error(r, err)
	}
	if s, err := db.Secret("replay-key"); err != nil || string(s.Key.Box) != "sealed" {
		t.Error(s, err)
	}
	if c, err := db.Cluster(); err != nil || c.DefaultRealm != "R" {
		t.Error(c, err)
	}
	for what, err := range map[string]error{
		"policy": second(db.Policy("x")), "realm": second(db.Realm("x")), "node": second(db.Node(id16("x"))), "token": second(db.Token(id8("x"))),
		"role": second(db.Role("x")), "secret": second(db.Secret("x")), "principal": second(db.GetPrincipal("R", []string{"x"})),
		"empty key": second(db.Policy("")), "cluster": second(openTest(t).Cluster()),
	} {
		if err != ErrNotFound {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func second[T any](_ T, err error) error { return err }

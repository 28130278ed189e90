package realm

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	statev1 "github.com/charon-kdc/charon/proto/charon/state/v1"
)

// base is a state in which every kind of record exists. Revisions 1 to 8 are alice, bob, pol, R, node, role, secret, cluster.
func base(t testing.TB) *DB {
	db := openTest(t)
	mustApply(t, db, putP(principal("alice", "al", "alice/alias"), absent()), putP(principal("bob"), absent()), putPol("pol", absent()), putRealm("R", absent()),
		putN("id1", "n1", absent()), putRole("role", absent()), putS("replay-key", absent()), putC("c", 1, absent()), putT(token("t1")))
	return db
}

func with(p *statev1.Principal, f func(*statev1.Principal)) *statev1.Principal {
	f(p)
	return p
}

// pinned is alice's record under another name.
func pinned(text string, aliases ...string) *statev1.Principal {
	return with(principal(text, aliases...), func(p *statev1.Principal) { p.Id = id16("alice") })
}

func TestCommands(t *testing.T) {
	long := strings.Repeat("x", 300)
	manyAliases := make([]string, 65)
	for i := range manyAliases {
		manyAliases[i] = strings.Repeat("a", i+1)
	}
	ok := statev1.Code_CODE_OK
	notFound, exists, conflict, invalid := statev1.Code_CODE_NOT_FOUND, statev1.Code_CODE_EXISTS, statev1.Code_CODE_CONFLICT, statev1.Code_CODE_INVALID
	for _, c := range []struct {
		name string
		cmd  *statev1.Command
		code statev1.Code
		text string // in the message
	}{
		{"create principal", putP(principal("carol"), absent()), ok, ""},
		{"create principal without condition", putP(principal("carol"), nil), ok, ""},
		{"create existing", putP(principal("alice"), absent()), exists, `"alice@R" exists`},
		{"update", putP(principal("alice"), present()), ok, ""},
		{"update missing", putP(principal("carol"), present()), notFound, `"carol@R"`},
		{"update at revision", putP(principal("alice"), atRevision(1)), ok, ""},
		{"update at other revision", putP(principal("alice"), atRevision(7)), conflict, "at revision 1, not 7"},
		{"update missing at revision", putP(principal("carol"), atRevision(1)), notFound, ""},
		{"expect absent=false", putP(principal("carol"), &statev1.Expect{Condition: &statev1.Expect_Absent{}}), invalid, ""},
		{"expect present=false", putP(principal("carol"), &statev1.Expect{Condition: &statev1.Expect_Present{}}), invalid, ""},
		{"other id under the same name", putP(with(principal("alice"), func(p *statev1.Principal) { p.Id = id16("x") }), present()), invalid, "ids do not change"},
		{"create under an alias", putP(principal("al"), absent()), exists, `alias of "alice@R"`},
		{"alias that is a name", putP(principal("carol", "bob"), absent()), exists, `"bob@R" is the name of a principal`},
		{"alias that is another's alias", putP(principal("carol", "al"), absent()), exists, `alias of "alice@R"`},
		{"own aliases again, and one more", putP(principal("alice", "alice/alias", "al", "third"), present()), ok, ""},
		{"alias that is the own name", putP(principal("alice", "alice"), present()), invalid, "name itself"},
		{"alias twice", putP(principal("carol", "c", "c"), absent()), invalid, "twice"},
		{"alias not canonical", putP(principal("carol", `\c`), absent()), invalid, "canonical"},
		{"alias with a realm", putP(principal("carol", "c@R"), absent()), invalid, "canonical"},
		{"alias too long", putP(principal("carol", long), absent()), invalid, "component of 300"},
		{"too many aliases", putP(principal("carol", manyAliases...), absent()), invalid, "65 aliases"},
		{"same alias in another realm", putP(with(principal("carol", "al"), func(p *statev1.Principal) { p.Realm = "S" }), absent()), ok, ""},
		{"no principal", putP(nil, absent()), invalid, "id of 0 bytes"},
		{"id too short", putP(with(principal("carol"), func(p *statev1.Principal) { p.Id = p.Id[:15] }), absent()), invalid, "id of 15 bytes"},
		{"no realm", putP(with(principal("carol"), func(p *statev1.Principal) { p.Realm = "" }), absent()), invalid, "realm name"},
		{"NUL in realm", putP(with(principal("carol"), func(p *statev1.Principal) { p.Realm = "a\x00b" }), absent()), invalid, "realm name"},
		{"realm too long", putP(with(principal("carol"), func(p *statev1.Principal) { p.Realm = long }), absent()), invalid, "realm name"},
		{"no name", putP(with(principal("carol"), func(p *statev1.Principal) { p.Name = nil }), absent()), invalid, "empty"},
		{"empty name", putP(with(principal("carol"), func(p *statev1.Principal) { p.Name = []string{""} }), absent()), invalid, "empty"},
		{"eleven components", putP(with(principal("carol"), func(p *statev1.Principal) { p.Name = strings.Split("a/a/a/a/a/a/a/a/a/a/a", "/") }), absent()), invalid, "11 components"},
		{"component too long", putP(with(principal("carol"), func(p *statev1.Principal) { p.Name = []string{long} }), absent()), invalid, "component of 300"},
		{"name too long", putP(with(principal("carol"), func(p *statev1.Principal) {
			p.Name = []string{long[:256], long[:256], long[:256], long[:256], "x"}
		}), absent()), invalid, "1025 bytes"},
		{"record too large", putP(with(principal("carol"), func(p *statev1.Principal) { p.Strings = map[string]string{"a": strings.Repeat("x", recordMax)} }), absent()), invalid, "at most"},

		{"delete", delP("alice", nil), ok, ""},
		{"delete at revision", delP("alice", atRevision(1)), ok, ""},
		{"delete at other revision", delP("alice", atRevision(2)), conflict, ""},
		{"delete missing", delP("carol", nil), notFound, ""},
		{"delete missing, expected", delP("carol", present()), notFound, ""},
		{"delete by alias", delP("al", nil), notFound, ""},

		{"rename", renP("alice", pinned("alicia"), atRevision(1)), ok, ""},
		{"rename, old name becomes alias", renP("alice", pinned("alicia", "alice"), nil), ok, ""},
		{"rename to own alias", renP("alice", pinned("al"), nil), ok, ""},
		{"rename to existing", renP("alice", pinned("bob"), nil), exists, `"bob@R" exists`},
		{"rename to another's alias", renP("bob", with(principal("al"), func(p *statev1.Principal) { p.Id = id16("bob") }), nil), exists, "alias of"},
		{"rename missing", renP("carol", principal("dave"), nil), notFound, ""},
		{"rename by alias", renP("al", pinned("alicia"), nil), notFound, ""},
		{"rename at other revision", renP("alice", pinned("alicia"), atRevision(2)), conflict, ""},
		{"rename with other id", renP("alice", principal("alicia"), nil), invalid, "ids do not change"},
		{"rename to the same", renP("alice", pinned("alice"), nil), invalid, "another name"},
		{"rename to another realm", renP("alice", with(pinned("alicia"), func(p *statev1.Principal) { p.Realm = "S" }), nil), invalid, "same realm"},
		{"rename with default salt", renP("alice", with(pinned("alicia"), func(p *statev1.Principal) { p.Keys[0].SaltDefault = true }), nil), invalid, "default salt"},
		{"rename to nothing", renP("alice", nil, nil), invalid, ""},

		{"create policy", putPol("p2", absent()), ok, ""},
		{"create existing policy", putPol("pol", absent()), exists, ""},
		{"policy without name", putPol("", nil), invalid, ""},
		{"policy name too long", putPol(long, nil), invalid, ""},
		{"delete policy", delPol("pol", atRevision(3)), ok, ""},
		{"delete policy at other revision", delPol("pol", atRevision(4)), conflict, ""},
		{"delete missing policy", delPol("p2", nil), notFound, ""},

		{"update realm", putRealm("R", present()), ok, ""},
		{"update missing realm", putRealm("S", present()), notFound, ""},
		{"realm without name", putRealm("", nil), invalid, ""},

		{"create node", putN("id2", "n2", absent()), ok, ""},
		{"update node", putN("id1", "n1", present()), ok, ""},
		{"second node of a name", putN("id2", "n1", absent()), exists, `node "n1" exists`},
		{"node without name", putN("id2", "", absent()), invalid, ""},
		{"delete node", delN("id1", present()), ok, ""},
		{"delete missing node", delN("id2", nil), notFound, ""},

		{"create token", putT(token("t2")), ok, ""},
		{"create token again", putT(token("t1")), exists, ""},
		{"token without end", putT(func() *statev1.Token { x := token("t2"); x.ExpiresAt = 0; return x }()), invalid, "without an end"},
		{"token used before it is made", putT(func() *statev1.Token { x := token("t2"); x.UsedBy = sum32("k"); return x }()), invalid, "used before"},
		{"token with short hash", putT(func() *statev1.Token { x := token("t2"); x.SecretHash = nil; return x }()), invalid, "secret hash"},
		{"use missing token", useT("t2", "key"), notFound, ""},
		{"delete token", delT("t1"), ok, ""},
		{"delete missing token", delT("t2"), notFound, ""},

		{"create role", putRole("r2", absent()), ok, ""},
		{"create existing role", putRole("role", absent()), exists, ""},
		{"delete role", delRole("role", nil), ok, ""},
		{"delete missing role", delRole("r2", nil), notFound, ""},

		{"update secret", putS("replay-key", atRevision(7)), ok, ""},
		{"create existing secret", putS("replay-key", absent()), exists, ""},
		{"secret without name", putS("", nil), invalid, ""},

		{"update cluster", putC("c", 1, atRevision(8)), ok, ""},
		{"create a second cluster", putC("d", 1, absent()), exists, ""},
		{"another cluster id", putC("d", 1, nil), invalid, "id does not change"},
		{"feature level again", setLevel(1), ok, ""},
		{"feature level down", setLevel(0), invalid, "below"},

		{"empty batch", batch(), invalid, "0 commands"},
		{"batch", batch(putP(principal("carol"), absent()), putPol("p2", absent())), ok, ""},
		{"batch that undoes itself", batch(putP(principal("carol"), absent()), delP("carol", nil), putP(principal("carol"), absent())), ok, ""},
		{"batch whose last part fails", batch(putP(principal("carol", "c"), absent()), delP("bob", nil), putPol("pol", absent())), exists, `policy "pol"`},
		{"batch in a batch", batch(batch(putPol("p2", nil))), invalid, "command 1"},
		{"request id in a batch", batch(putPol("p2", nil), withID(putPol("p3", nil), uuid7(t0, 1), "")), invalid, "command 2"},
		{"batch too long", batch(slices.Repeat([]*statev1.Command{delPol("x", nil)}, batchMax+1)...), invalid, "1001 commands"},
		{"response too long", &statev1.Command{Response: make([]byte, responseMax+1), Op: putPol("p2", nil).Op}, invalid, "response"},
	} {
		t.Run(c.name, func(t *testing.T) {
			db := base(t)
			before := contents(t, db)
			r := apply(t, db, c.cmd)
			if r.Code != c.code || !strings.Contains(r.Message, c.text) {
				t.Fatalf("got %s, want %v with %q", describe(r), c.code, c.text)
			}
			if index, _ := db.Applied(); r.Index != index {
				t.Errorf("result of index %d, applied %d", r.Index, index)
			}
			if after := contents(t, db); (c.code == ok) == bytes.Equal(before, after) {
				t.Errorf("records changed: %v, with %v", !bytes.Equal(before, after), c.code)
			}
			checkAliases(t, db)
		})
	}
}

// contents is every record, without the header of the snapshot, which any entry changes.
func contents(t testing.TB, db *DB) []byte {
	t.Helper()
	var b bytes.Buffer
	info, err := db.WriteSnapshot(&b)
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes()[headerStart+headerFixed+len(info.Config)+4 : b.Len()-4]
}

// checkAliases holds the alias index against the records.
func checkAliases(t testing.TB, db *DB) {
	t.Helper()
	want := uint64(0)
	for _, realm := range []string{"R", "S"} {
		ps, _, err := db.ListPrincipals(realm, "", 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range ps {
			for _, a := range p.Aliases {
				want++
				name, err := ParseName(a)
				if err != nil {
					t.Fatal(err)
				}
				if q, err := db.GetPrincipal(realm, name); err != nil || !proto.Equal(p, q) {
					t.Errorf("alias %q leads to %v, %v; not to %v", a, q, err, p)
				}
			}
		}
	}
	if got := db.Counts().Aliases; got != want {
		t.Errorf("%d aliases in the index, %d in the records", got, want)
	}
}

func TestTokenIsSingleUse(t *testing.T) {
	db := base(t)
	for _, c := range []struct {
		at   int64
		key  string
		code statev1.Code
	}{
		{t0, "k1", statev1.Code_CODE_OK},
		{t0 + 1, "k2", statev1.Code_CODE_TOKEN_REFUSED},
		{t0 + 2, "k1", statev1.Code_CODE_OK}, // a join that was cut short resumes
		{t0 + 60_000, "k1", statev1.Code_CODE_TOKEN_REFUSED},
	} {
		if r := applyAt(t, db, c.at, useT("t1", c.key)); r.Code != c.code {
			t.Errorf("%s at %d: %s, want %v", c.key, c.at-t0, describe(r), c.code)
		}
	}
	tok, err := db.Token(id8("t1"))
	if err != nil || tok.UsedAt != t0 || !bytes.Equal(tok.UsedBy, sum32("k1")) {
		t.Error(tok, err)
	}
	if r := apply(t, db, useT("t1", "")); r.Code == statev1.Code_CODE_OK {
		t.Error("another key accepted")
	}
	mustApply(t, db, putT(func() *statev1.Token { x := token("late"); x.ExpiresAt = t0 + 70_000; return x }()))
	if r := applyAt(t, db, t0+70_000, useT("late", "k")); r.Code != statev1.Code_CODE_TOKEN_REFUSED {
		t.Error("expired token accepted:", describe(r))
	}
	short := &statev1.Command{Op: &statev1.Command_UseToken{UseToken: &statev1.UseToken{Id: id8("t1"), UsedBy: []byte("k")}}}
	if r := apply(t, db, short); r.Code != statev1.Code_CODE_INVALID {
		t.Error(describe(r))
	}
}

// A revision seen once for a name never comes again, whatever became of the record in between.
func TestRevisionsNeverGoBack(t *testing.T) {
	db := openTest(t)
	last := uint64(0)
	for i := range 5 {
		r := apply(t, db, putP(principal("alice"), absent()))
		if r.Code != statev1.Code_CODE_OK || r.Revision <= last {
			t.Fatalf("round %d: %v after revision %d", i, r, last)
		}
		if stale := apply(t, db, delP("alice", atRevision(last))); stale.Code != statev1.Code_CODE_CONFLICT {
			t.Fatal("a condition on the former record's revision held:", describe(stale))
		}
		last = r.Revision
		mustApply(t, db, delP("alice", atRevision(last)))
	}
	r := apply(t, db, batch(putP(principal("alice"), absent()), putP(principal("alice"), present())))
	p, err := db.GetPrincipal("R", []string{"alice"})
	if err != nil || p.Revision != last+2 || r.Revision != p.Revision {
		t.Error(p, err, r)
	}
}

func TestRenameKeepsTheIDAndMovesAliases(t *testing.T) {
	db := base(t)
	mustApply(t, db, renP("alice", pinned("alicia", "alice", "al"), nil))
	for _, text := range []string{"alicia", "alice", "al"} {
		p, err := db.GetPrincipal("R", []string{text})
		if err != nil || NameText(p.Name) != "alicia" || !bytes.Equal(p.Id, id16("alice")) {
			t.Errorf("%s: %v, %v", text, p, err)
		}
	}
	if _, err := db.GetPrincipal("R", []string{"alice", "alias"}); !errors.Is(err, ErrNotFound) {
		t.Error("alias that the new record lacks:", err)
	}
	mustApply(t, db, delP("alicia", nil))
	for _, text := range []string{"alicia", "alice", "al"} {
		if _, err := db.GetPrincipal("R", []string{text}); !errors.Is(err, ErrNotFound) {
			t.Errorf("%s after deletion: %v", text, err)
		}
	}
}

func TestBatchIsAllOrNothing(t *testing.T) {
	db := base(t)
	r := apply(t, db, batch(delP("bob", nil), putP(principal("bob"), absent()), delP("nobody", nil)))
	if r.Code != statev1.Code_CODE_NOT_FOUND {
		t.Fatal(describe(r))
	}
	if p, err := db.GetPrincipal("R", []string{"bob"}); err != nil || p.Revision != 2 {
		t.Error(p, err)
	}
	if got := apply(t, db, putPol("p2", absent())).Revision; got != 9 {
		t.Errorf("the refused batch used revisions: next is %d", got)
	}
}

func TestLimits(t *testing.T) {
	db := openTest(t)
	for i := range int(bucketMax[nodes]) {
		n := string(rune('a' + i))
		mustApply(t, db, putN(n, n, absent()))
	}
	if r := apply(t, db, putN("more", "more", absent())); r.Code != statev1.Code_CODE_LIMIT {
		t.Error(describe(r))
	}
	if r := apply(t, db, putN("a", "a", present())); r.Code != statev1.Code_CODE_OK {
		t.Error("an update at the limit:", describe(r))
	}
	for i := range int(bucketMax[tokens]) {
		mustApply(t, db, putT(token(string(rune('a'+i)))))
	}
	if r := apply(t, db, putT(token("more"))); r.Code != statev1.Code_CODE_LIMIT {
		t.Error(describe(r))
	}
}

func TestFeatureLevel(t *testing.T) {
	db := openTest(t)
	if r := apply(t, db, setLevel(1)); r.Code != statev1.Code_CODE_NOT_FOUND {
		t.Error(describe(r))
	}
	mustApply(t, db, putC("c", 0, absent()), setLevel(1))
	if got := db.FeatureLevel(); got != 1 {
		t.Error(got)
	}
	mustApply(t, db, putC("c", 0, nil)) // an update of other fields does not lower it
	if c, err := db.Cluster(); err != nil || c.FeatureLevel != 1 || db.FeatureLevel() != 1 {
		t.Error(c, err, db.FeatureLevel())
	}
}

package realm

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	statev1 "github.com/charon-kdc/charon/proto/charon/state/v1"
)

func stageMK(version uint32, again bool) *statev1.Command {
	return &statev1.Command{Op: &statev1.Command_StageMasterKey{StageMasterKey: &statev1.StageMasterKey{Version: version, Check: sum32(fmt.Sprint("key ", version)), By: "root", Again: again}}}
}

func activateMK(version uint32, ids ...string) *statev1.Command {
	a := &statev1.ActivateMasterKey{Version: version}
	for _, id := range ids {
		a.Nodes = append(a.Nodes, id16(id))
	}
	return &statev1.Command{Op: &statev1.Command_ActivateMasterKey{ActivateMasterKey: a}}
}

func resealed(version uint32, ps ...*statev1.ResealPrincipal) *statev1.Command {
	return &statev1.Command{Op: &statev1.Command_Reseal{Reseal: &statev1.Reseal{Version: version, Principals: ps}}}
}

func finishMK(version uint32) *statev1.Command {
	return &statev1.Command{Op: &statev1.Command_FinishReseal{FinishReseal: &statev1.FinishReseal{Version: version}}}
}

func retireMK(below uint32) *statev1.Command {
	return &statev1.Command{Op: &statev1.Command_RetireMasterKeys{RetireMasterKeys: &statev1.RetireMasterKeys{Below: below}}}
}

func dropRetiredOf(texts ...string) *statev1.Command {
	c := &statev1.DropRetired{}
	for _, text := range texts {
		name, err := ParseName(text)
		if err != nil {
			panic(err)
		}
		c.Principals = append(c.Principals, &statev1.PrincipalName{Realm: "R", Name: name})
	}
	return &statev1.Command{Op: &statev1.Command_DropRetired{DropRetired: c}}
}

// anew is p sealed under version.
func anew(p *statev1.Principal, version uint32) *statev1.ResealPrincipal {
	r := &statev1.ResealPrincipal{Realm: p.GetRealm(), Name: p.GetName(), Revision: p.GetRevision()}
	for range boxesOf(p) {
		r.Boxes = append(r.Boxes, &statev1.Sealed{MasterKeyVersion: version, Box: fmt.Appendf(nil, "anew %d", version)})
	}
	return r
}

// rotating is a realm of alice, bob and a secret at master key version 1, with version 2 staged and, if active, active.
func rotating(t testing.TB, active bool) *DB {
	db := openTest(t)
	c := putC("c", 1, absent())
	c.GetPutCluster().Cluster.MasterKeyVersion = 1
	s := putS("replay-key", absent())
	s.GetPutSecret().Secret.Key.MasterKeyVersion = 1
	mustApply(t, db, c, putP(principal("alice"), absent()), putP(principal("bob"), absent()), s, putN("id1", "n1", absent()), putN("id2", "n2", absent()), stageMK(2, false))
	if active {
		mustApply(t, db, activateMK(2, "id1", "id2"))
	}
	return db
}

func get1(t testing.TB, db *DB, text string) *statev1.Principal {
	t.Helper()
	name, err := ParseName(text)
	if err != nil {
		t.Fatal(err)
	}
	p, err := db.GetPrincipal("R", name)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func clusterOf(t testing.TB, db *DB) *statev1.Cluster {
	t.Helper()
	c, err := db.Cluster()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestMasterKeyCommands(t *testing.T) {
	ok, conflict, invalid, inUse := statev1.Code_CODE_OK, statev1.Code_CODE_CONFLICT, statev1.Code_CODE_INVALID, statev1.Code_CODE_IN_USE
	short := stageMK(2, false)
	short.GetStageMasterKey().Check = []byte("short")
	many := resealed(2)
	for range resealMax + 1 {
		many.GetReseal().Principals = append(many.GetReseal().Principals, anew(principal("x"), 2))
	}
	for _, c := range []struct {
		name   string
		active bool
		before []*statev1.Command
		cmd    *statev1.Command
		code   statev1.Code
		text   string
	}{
		{"a second rotation", false, nil, stageMK(3, false), inUse, "to version 2"},
		{"staged anew", false, nil, stageMK(3, true), ok, ""},
		{"staged anew under the same version", false, nil, stageMK(2, true), conflict, "is 3"},
		{"staged anew when active", true, nil, stageMK(3, true), conflict, ""},
		{"without a check", false, nil, short, invalid, ""},
		{"active though a node lacks it", false, nil, activateMK(2, "id1"), conflict, "node n2"},
		{"active though a node has just joined", false, []*statev1.Command{putN("id3", "n3", absent())}, activateMK(2, "id1", "id2"), conflict, "node n3"},
		{"active", false, nil, activateMK(2, "id1", "id2", "gone"), ok, ""},
		{"active again", true, nil, activateMK(2, "id1", "id2"), ok, ""},
		{"active under another version", false, nil, activateMK(3, "id1", "id2"), conflict, ""},
		{"active after a holder was removed", false, []*statev1.Command{delN("id2", nil)}, activateMK(2, "id1"), conflict, "not staged"},
		{"staged anew after a holder was removed", false, []*statev1.Command{delN("id2", nil)}, stageMK(3, true), ok, ""},
		{"active after a removal", false, []*statev1.Command{delN("id2", nil), stageMK(3, true)}, activateMK(3, "id1"), ok, ""},
		{"resealed before it is active", false, nil, resealed(2), conflict, ""},
		{"resealed under the old version", true, nil, resealed(1), conflict, ""},
		{"too many at once", true, nil, many, invalid, "at most 1000"},
		{"finished before it is active", false, nil, finishMK(2), conflict, ""},
		{"finished", true, nil, finishMK(2), ok, ""},
		{"finished twice", true, []*statev1.Command{finishMK(2)}, finishMK(2), conflict, ""},
		{"retired while rotating", true, nil, retireMK(2), inUse, ""},
		{"retired", true, []*statev1.Command{finishMK(2)}, retireMK(2), ok, ""},
		{"retired too far", true, []*statev1.Command{finishMK(2)}, retireMK(3), conflict, ""},
		{"the next rotation", true, []*statev1.Command{finishMK(2)}, stageMK(3, false), ok, ""},
	} {
		db := rotating(t, c.active)
		mustApply(t, db, c.before...)
		if r := apply(t, db, c.cmd); r.Code != c.code || !strings.Contains(r.GetMessage(), c.text) {
			t.Errorf("%s: %s, want %v %q", c.name, describe(r), c.code, c.text)
		}
	}
}

func TestReseal(t *testing.T) {
	db := rotating(t, true)
	alice, bob := get1(t, db, "alice"), get1(t, db, "bob")
	// bob changes his password between the read and the command.
	changed := principal("bob")
	changed.Kvno, changed.Keys[0].Kvno = 2, 2
	changed.Keys[0].Key = &statev1.Sealed{MasterKeyVersion: 2, Box: []byte("new password")}
	mustApply(t, db, putP(changed, atRevision(bob.GetRevision())))
	cmd := resealed(2, anew(alice, 2), anew(bob, 2), anew(principal("nobody"), 2))
	secret, err := db.Secret("replay-key")
	if err != nil {
		t.Fatal(err)
	}
	cmd.GetReseal().Secrets = []*statev1.ResealSecret{
		{Name: "replay-key", Revision: secret.GetRevision(), Key: &statev1.Sealed{MasterKeyVersion: 2, Box: []byte("s")}}, {Name: "none"},
	}
	if n, err := db.CountStale(2); n != 2 || err != nil {
		t.Errorf("%d records to go, %v", n, err)
	}
	for range 2 {
		mustApply(t, db, cmd)
		if a := get1(t, db, "alice"); string(a.GetKeys()[0].GetKey().GetBox()) != "anew 2" || a.GetRevision() != alice.GetRevision() {
			t.Errorf("alice: %v", a)
		}
		if b := get1(t, db, "bob"); b.GetKvno() != 2 || string(b.GetKeys()[0].GetKey().GetBox()) != "new password" {
			t.Errorf("a changed password was undone: %v", b)
		}
	}
	if n, err := db.CountStale(2); n != 0 || err != nil {
		t.Errorf("%d records to go, %v", n, err)
	}
	if n, err := db.CountStale(3); n != 3 || err != nil {
		t.Errorf("%d records under another version, %v", n, err)
	}
	// What a slow writer read before must not come back.
	for name, c := range map[string]*statev1.Command{
		"update":  putP(alice, atRevision(alice.GetRevision())),
		"rename":  renP("alice", with(proto.CloneOf(alice), func(p *statev1.Principal) { p.Name = []string{"alicia"} }), nil),
		"new":     putP(principal("carol"), absent()),
		"secret":  putS("replay-key", present()),
		"cluster": putC("c", 1, present()),
	} {
		want := statev1.Code_CODE_CONFLICT
		if name == "cluster" {
			want = statev1.Code_CODE_OK // and its versions stay
		}
		if r := apply(t, db, c); r.Code != want {
			t.Errorf("%s with what was sealed before: %s, want %v", name, describe(r), want)
		}
	}
	if c := clusterOf(t, db); c.GetMasterKeyVersion() != 2 || c.GetMasterKeyRotation().GetVersion() != 2 {
		t.Errorf("cluster: %v", c)
	}
	mustApply(t, db, finishMK(2))
	if c := clusterOf(t, db); c.GetMasterKeyRotation() != nil || c.GetMasterKeyAt() != t0 {
		t.Errorf("cluster: %v", c)
	}
}

// A record whose keys were put into another order since they were read is not given boxes of others: they would not open.
func TestResealOfAChangedRecord(t *testing.T) {
	db := rotating(t, false)
	p := principal("carol")
	p.Keys = append(p.Keys, &statev1.Key{Kvno: 2, Etype: 18, Key: &statev1.Sealed{MasterKeyVersion: 1, Box: []byte("second")}})
	mustApply(t, db, putP(p, absent()), activateMK(2, "id1", "id2"))
	read := get1(t, db, "carol")
	other := proto.CloneOf(read)
	other.Keys[0], other.Keys[1] = other.Keys[1], other.Keys[0]
	mustApply(t, db, putP(other, present()), resealed(2, anew(read, 2)))
	for _, k := range get1(t, db, "carol").GetKeys() {
		if k.GetKey().GetMasterKeyVersion() != 1 {
			t.Errorf("kvno %d was given a box that was read for another key", k.GetKvno())
		}
	}
}

// What is not sealed anew yet can be written back as it is, under its own name or another: a rotation stops nobody's work.
func TestWritesWhileRotating(t *testing.T) {
	db := rotating(t, true)
	mustApply(t, db, putP(with(get1(t, db, "alice"), func(p *statev1.Principal) { p.MaxLife = 7 }), present()),
		renP("bob", with(get1(t, db, "bob"), func(p *statev1.Principal) { p.Name = []string{"aa"} }), nil))
	page, err := db.StalePrincipals(2, nil, 1)
	if err != nil || len(page.Principals) != 1 || page.Principals[0].GetName()[0] != "aa" || page.Looked != 1 || page.Next == nil {
		t.Fatalf("%+v %v", page, err)
	}
	if page, err = db.StalePrincipals(2, page.Next, 9); err != nil || len(page.Principals) != 1 || page.Next != nil {
		t.Fatalf("%+v %v", page, err)
	}
}

func TestDropRetired(t *testing.T) {
	db := openTest(t)
	p := principal("alice")
	for i, at := range []int64{t0 + 1000, t0 + 2000, 0} {
		p.Keys = append(p.Keys, &statev1.Key{Kvno: uint32(10 + i), Etype: 18, State: statev1.KeyState_KEY_STATE_RETIRING, RetireAt: at, Key: &statev1.Sealed{MasterKeyVersion: 1, Box: []byte("b")}})
	}
	p.Keys = append(p.Keys, &statev1.Key{Kvno: 20, Etype: 18, State: statev1.KeyState_KEY_STATE_STAGED, RetireAt: 1, Key: &statev1.Sealed{MasterKeyVersion: 1, Box: []byte("b")}})
	mustApply(t, db, putP(p, absent()), putP(principal("bob"), absent()))
	for _, c := range []struct {
		at   int64
		keys int
	}{{t0 + 999, 5}, {t0 + 1000, 4}, {t0 + 1500, 4}, {t0, 4}, {t0 + 90_000_000, 3}} {
		before := get1(t, db, "alice").GetRevision()
		if r := applyAt(t, db, c.at, dropRetiredOf("alice", "bob", "nobody")); r.Code != statev1.Code_CODE_OK {
			t.Fatal(describe(r))
		}
		a := get1(t, db, "alice")
		if len(a.GetKeys()) != c.keys {
			t.Errorf("at %d: %d keys, want %d", c.at-t0, len(a.GetKeys()), c.keys)
		}
		if b := get1(t, db, "bob"); len(b.GetKeys()) != 1 || b.GetRevision() != 2 {
			t.Errorf("bob: %v", b)
		}
		if a.GetRevision() < before {
			t.Errorf("revision went from %d to %d", before, a.GetRevision())
		}
	}
}

// randomRotation is a command of a rotation over the few names and versions that randomCommand uses.
func randomRotation(r *rand.Rand, name func() string) *statev1.Command {
	v := uint32(r.IntN(4))
	switch r.IntN(6) {
	case 0:
		return stageMK(v, r.IntN(2) == 0)
	case 1:
		return activateMK(v, "a", "b", "c", "d")
	case 2:
		p := principal(name())
		p.Revision = uint64(r.IntN(40))
		return resealed(v, anew(p, v))
	case 3:
		return finishMK(v)
	case 4:
		return retireMK(v)
	}
	return dropRetiredOf(name(), name())
}

package realm

import (
	"bytes"
	"fmt"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"

	statev1 "github.com/charon-kdc/charon/proto/charon/state/v1"
)

func renew(id, key string, f func(*statev1.RenewNode)) *statev1.Command {
	c := &statev1.RenewNode{Id: id16(id), KeyHash: sum32(key), Present: sum32("first"), Until: 5000}
	if f != nil {
		f(c)
	}
	return &statev1.Command{Op: &statev1.Command_RenewNode{RenewNode: c}}
}

func activate(c *statev1.RenewNode) { c.Activate = true }

func nodeOf(t *testing.T, db *DB, id string) *statev1.Node {
	t.Helper()
	n, err := db.Node(id16(id))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestRenewNode(t *testing.T) {
	db := base(t)
	mustApply(t, db, putN("id2", "n2", absent()), renew("id1", "second", nil))
	n := nodeOf(t, db, "id1")
	if !bytes.Equal(n.GetKeyHash(), sum32("first")) || !bytes.Equal(n.GetNextKeyHash(), sum32("second")) {
		t.Fatalf("%v", n)
	}
	refused := func(what string, code statev1.Code, cmd *statev1.Command) {
		t.Helper()
		before := nodeOf(t, db, "id1")
		if r := apply(t, db, cmd); r.GetCode() != code {
			t.Errorf("%s: %v %s, want %v", what, r.GetCode(), r.GetMessage(), code)
		}
		if after := nodeOf(t, db, "id1"); !proto.Equal(before, after) {
			t.Errorf("%s: the record has changed: %v", what, after)
		}
	}
	refused("a key that nobody asked for", statev1.Code_CODE_CONFLICT, renew("id1", "third", activate))
	refused("no such node", statev1.Code_CODE_NOT_FOUND, renew("id9", "third", nil))
	refused("a short hash", statev1.Code_CODE_INVALID, renew("id1", "x", func(c *statev1.RenewNode) { c.KeyHash = c.KeyHash[:5] }))
	refused("another node's next key", statev1.Code_CODE_EXISTS, renew("id2", "second", nil))
	mustApply(t, db, renew("id1", "second", activate), renew("id1", "second", activate))
	n = nodeOf(t, db, "id1")
	if !bytes.Equal(n.GetKeyHash(), sum32("second")) || len(n.GetNextKeyHash()) > 0 || len(n.GetRetiredKeys()) != 1 || !bytes.Equal(n.GetRetiredKeys()[0].GetHash(), sum32("first")) {
		t.Fatalf("%v", n)
	}
	refused("a retired key", statev1.Code_CODE_EXISTS, renew("id1", "first", nil))
	refused("another node's retired key", statev1.Code_CODE_EXISTS, renew("id2", "first", nil))

	// What the node tells of itself leaves its keys alone.
	news := proto.CloneOf(n)
	news.KeyHash, news.TokenId, news.NextKeyHash, news.RetiredKeys, news.Version, news.BootCounter = nil, nil, nil, nil, "2", n.GetBootCounter()+1
	mustApply(t, db, &statev1.Command{Op: &statev1.Command_PutNode{PutNode: &statev1.PutNode{Node: news}}})
	if n = nodeOf(t, db, "id1"); n.GetVersion() != "2" || !bytes.Equal(n.GetKeyHash(), sum32("second")) || len(n.GetRetiredKeys()) != 1 {
		t.Errorf("after news: %v", n)
	}

	// Retired keys are forgotten once their certificates have ended, and are bounded.
	for i := range 2 * RetiredMax {
		key := fmt.Sprint("key", i)
		until := func(c *statev1.RenewNode) { c.Activate, c.Until = true, 1<<45 }
		mustApply(t, db, renew("id1", key, nil), renew("id1", key, until))
	}
	if got := len(nodeOf(t, db, "id1").GetRetiredKeys()); got != RetiredMax {
		t.Errorf("%d retired keys, want %d", got, RetiredMax)
	}
	r := applyAt(t, db, 1<<46, renew("id1", "late", nil))
	if r.GetCode() != statev1.Code_CODE_OK {
		t.Fatal(r)
	}
	applyAt(t, db, 1<<46, renew("id1", "late", func(c *statev1.RenewNode) { c.Activate, c.Until = true, 1<<47 }))
	if got := nodeOf(t, db, "id1").GetRetiredKeys(); len(got) != 1 {
		t.Errorf("%d retired keys after all have ended", len(got))
	}
}

// A token can certify a member's new key, once and for that member alone; it lets in nobody.
func TestRenewNodeByToken(t *testing.T) {
	db := base(t)
	tok := token("tr")
	tok.NodeName, tok.NodeId = "n1", id16("id1")
	mustApply(t, db, putN("id2", "n2", absent()), putT(tok), useT("tr", "new"))
	by := func(c *statev1.RenewNode) { c.Activate, c.TokenId = true, id8("tr") }
	for what, cmd := range map[string]*statev1.Command{
		"another node":        renew("id2", "new", by),
		"another key":         renew("id1", "other", by),
		"a token that is not": renew("id1", "new", func(c *statev1.RenewNode) { c.Activate, c.TokenId = true, id8("no") }),
		"an ordinary token":   renew("id1", "new", func(c *statev1.RenewNode) { c.Activate, c.TokenId = true, id8("t1") }),
	} {
		if r := apply(t, db, cmd); r.GetCode() != statev1.Code_CODE_TOKEN_REFUSED {
			t.Errorf("%s: %v %s", what, r.GetCode(), r.GetMessage())
		}
	}
	joiner := &statev1.Node{Id: id16("id3"), ReplayId: id16("r3"), Name: "n3", KeyHash: sum32("new"), TokenId: id8("tr")}
	r := apply(t, db, &statev1.Command{Op: &statev1.Command_PutNode{PutNode: &statev1.PutNode{Node: joiner, Expect: absent()}}})
	if r.GetCode() != statev1.Code_CODE_TOKEN_REFUSED {
		t.Errorf("it let in a node: %v %s", r.GetCode(), r.GetMessage())
	}
	mustApply(t, db, renew("id1", "new", by), useT("tr", "new"), renew("id1", "new", by))
	if r := apply(t, db, useT("tr", "other")); r.GetCode() != statev1.Code_CODE_TOKEN_REFUSED {
		t.Errorf("used again by another key: %v", r)
	}
	n := nodeOf(t, db, "id1")
	if !bytes.Equal(n.GetKeyHash(), sum32("new")) || len(n.GetRetiredKeys()) != 1 {
		t.Errorf("%v", n)
	}
	if tok, err := db.Token(id8("tr")); err != nil || tok.GetClosedAt() == 0 {
		t.Errorf("the token: %v, %v", tok, err)
	}
}

func TestSetAutoRemoval(t *testing.T) {
	db := base(t)
	set := func(after int64, voters uint32) *statev1.Result {
		return apply(t, db, &statev1.Command{Op: &statev1.Command_SetAutoRemoval{SetAutoRemoval: &statev1.SetAutoRemoval{After: after, Voters: voters}}})
	}
	for _, bad := range [][2]int64{{0, 3}, {59, 3}, {86400, 2}, {86400, 0}, {-1, 3}} {
		if r := set(bad[0], uint32(bad[1])); r.GetCode() != statev1.Code_CODE_INVALID {
			t.Errorf("%v: %v", bad, r)
		}
	}
	for _, good := range [][2]int64{{86400, 3}, {60, 5}, {0, 0}} {
		if r := set(good[0], uint32(good[1])); r.GetCode() != statev1.Code_CODE_OK {
			t.Errorf("%v: %v", good, r)
		}
		cl, err := db.Cluster()
		if err != nil || cl.GetAutoRemoveAfter() != good[0] || cl.GetAutoRemoveVoters() != uint32(good[1]) {
			t.Errorf("%v: %v, %v", good, cl, err)
		}
	}
}

func TestRecover(t *testing.T) {
	db := base(t)
	index, term := db.Applied()
	if err := db.Recover(index-1, term, []byte("c")); err == nil {
		t.Error("recovered below the applied index")
	}
	if err := db.Recover(index+5, term+1, nil); err == nil {
		t.Error("recovered without a configuration")
	}
	if err := db.Recover(index+5, term+1, []byte("conf")); err != nil {
		t.Fatal(err)
	}
	i, tm := db.Applied()
	ci, conf := db.Configuration()
	if i != index+5 || tm != term+1 || ci != index+5 || string(conf) != "conf" || db.Installed() != index+5 {
		t.Errorf("%d %d, configuration %d %q, installed %d", i, tm, ci, conf, db.Installed())
	}
	if _, err := db.GetPrincipal("R", []string{"alice"}); err != nil {
		t.Error(err)
	}
}

// Whoever holds a node's key can have another certified. A new key by a token takes that out of force, too, and so does the node's own next one.
func TestRenewalRetiresWhatItReplaces(t *testing.T) {
	db := base(t)
	tok := token("tr")
	tok.NodeName, tok.NodeId = "n1", id16("id1")
	until := func(c *statev1.RenewNode) { c.Until = 1 << 45 }
	mustApply(t, db, renew("id1", "thief's", until), renew("id1", "thief's other", until), putT(tok), useT("tr", "new"),
		renew("id1", "new", func(c *statev1.RenewNode) { c.Activate, c.TokenId, c.Until = true, id8("tr"), 1<<45 }))
	n := nodeOf(t, db, "id1")
	if !bytes.Equal(n.GetKeyHash(), sum32("new")) || len(n.GetNextKeyHash()) > 0 {
		t.Fatalf("%v", n)
	}
	for _, key := range []string{"first", "thief's", "thief's other"} {
		if !slices.ContainsFunc(n.GetRetiredKeys(), func(k *statev1.RetiredKey) bool { return bytes.Equal(k.GetHash(), sum32(key)) }) {
			t.Errorf("%s key is good still", key)
		}
	}
}

package realm

import (
	"errors"
	"testing"

	"google.golang.org/protobuf/proto"

	statev1 "github.com/charon-kdc/charon/proto/charon/state/v1"
)

// joiner is the record of a node that token lets in under key.
func joiner(id, name, key, token string) *statev1.Node {
	return &statev1.Node{Id: id16(id), ReplayId: id16("replay of " + id), Name: name, KeyHash: sum32(key), TokenId: id8(token)}
}

func putRecord(n *statev1.Node, e *statev1.Expect) *statev1.Command {
	return &statev1.Command{Op: &statev1.Command_PutNode{PutNode: &statev1.PutNode{Node: proto.CloneOf(n), Expect: e}}}
}

// admitted has node "in", let in with token "t" under key "k".
func admitted(t *testing.T) (*DB, *statev1.Node) {
	t.Helper()
	db := openTest(t)
	in := joiner("in", "kdc2", "k", "t")
	mustApply(t, db, putT(token("t")), useT("t", "k"), putRecord(in, absent()))
	return db, in
}

func TestNodeIdentitiesAreUnique(t *testing.T) {
	db, in := admitted(t)
	mustApply(t, db, putT(token("t2")), useT("t2", "k2"))
	other := joiner("other", "kdc3", "k2", "t2")
	for what, change := range map[string]func(n *statev1.Node){
		"name":      func(n *statev1.Node) { n.Name = in.Name },
		"replay id": func(n *statev1.Node) { n.ReplayId = in.ReplayId },
		"key":       func(n *statev1.Node) { n.KeyHash = in.KeyHash },
		"token":     func(n *statev1.Node) { n.TokenId, n.KeyHash = in.TokenId, in.KeyHash },
		"realm id":  func(n *statev1.Node) { n.Id = in.Id },
	} {
		n := proto.CloneOf(other)
		change(n)
		if r := apply(t, db, putRecord(n, absent())); r.Code != statev1.Code_CODE_EXISTS {
			t.Errorf("another node's %s: %s", what, describe(r))
		}
	}
	mustApply(t, db, putRecord(other, absent()))
}

// What a node says of itself later changes neither its ids nor whom the record was made for.
func TestNodeKeepsItsIdentity(t *testing.T) {
	db, in := admitted(t)
	news := proto.CloneOf(in)
	news.KeyHash, news.TokenId, news.PeerAddress, news.BootCounter = nil, nil, "elsewhere:7750", 1
	mustApply(t, db, putRecord(news, nil))
	got, err := db.Node(in.Id)
	if err != nil || string(got.KeyHash) != string(in.KeyHash) || string(got.TokenId) != string(in.TokenId) || got.PeerAddress != news.PeerAddress {
		t.Errorf("%v, %v", got, err)
	}
	for what, change := range map[string]func(n *statev1.Node){
		"replay id": func(n *statev1.Node) { n.ReplayId = id16("x") },
		"key":       func(n *statev1.Node) { n.KeyHash = sum32("x") },
		"token":     func(n *statev1.Node) { n.TokenId = id8("x") },
	} {
		n := proto.CloneOf(in)
		n.BootCounter = 1
		change(n)
		if r := apply(t, db, putRecord(n, nil)); r.Code != statev1.Code_CODE_EXISTS {
			t.Errorf("another %s: %s", what, describe(r))
		}
	}
}

func TestNodeNeedsItsToken(t *testing.T) {
	db := openTest(t)
	mustApply(t, db, putT(token("free")), putT(token("t")), useT("t", "k"))
	for what, n := range map[string]*statev1.Node{
		"a token that is not there":     joiner("a", "a", "k", "none"),
		"a token bound to no key":       joiner("a", "a", "k", "free"),
		"a token bound to another key":  joiner("a", "a", "k2", "t"),
		"a token but no key":            {Id: id16("a"), Name: "a", TokenId: id8("t")},
		"a replay id of the wrong size": {Id: id16("a"), Name: "a", ReplayId: []byte("short")},
	} {
		if r := apply(t, db, putRecord(n, absent())); r.Code != statev1.Code_CODE_TOKEN_REFUSED && r.Code != statev1.Code_CODE_INVALID {
			t.Errorf("%s: %s", what, describe(r))
		}
	}
	mustApply(t, db, putRecord(joiner("a", "a", "k", "t"), absent()))
}

// Once the node that it let in has run, a token is of no use to anybody; a join that was cut short before that resumes.
func TestTokenClosesWhenItsNodeHasRun(t *testing.T) {
	db, in := admitted(t)
	mustApply(t, db, useT("t", "k"))
	in.BootCounter = 1
	mustApply(t, db, putRecord(in, nil))
	if tok, err := db.Token(id8("t")); err != nil || tok.ClosedAt == 0 {
		t.Errorf("%v, %v", tok, err)
	}
	if r := apply(t, db, useT("t", "k")); r.Code != statev1.Code_CODE_TOKEN_REFUSED {
		t.Error("resumed after the node has run:", describe(r))
	}
}

// A node that was removed does not come back with the token that let it in, nor by a join that was at work meanwhile.
func TestRemovingANodeTakesItsToken(t *testing.T) {
	db, in := admitted(t)
	mustApply(t, db, delN("in", nil))
	if _, err := db.Token(id8("t")); !errors.Is(err, ErrNotFound) {
		t.Errorf("the token is still there: %v", err)
	}
	if r := apply(t, db, useT("t", "k")); r.Code != statev1.Code_CODE_NOT_FOUND {
		t.Error("the token of a removed node:", describe(r))
	}
	if r := apply(t, db, putRecord(in, absent())); r.Code != statev1.Code_CODE_TOKEN_REFUSED {
		t.Error("a removed node was recorded again:", describe(r))
	}
}

package raftstore

import (
	"errors"
	"testing"

	"github.com/charon-kdc/charon/kdc/kdb"
)

func TestOneNode(t *testing.T) {
	c := newCluster(t, 1, nil)
	n := c.nodes[0]
	r := n.propose(create(c.principal("alice", 1)))
	if r.GetIndex() == 0 {
		t.Error("result without an index")
	}
	p, err := n.lookup("alice")
	if err != nil || p.KVNO != 1 || len(p.Keys) != 1 {
		t.Fatalf("lookup: %+v, %v", p, err)
	}
	if _, err := n.lookup("nobody"); !errors.Is(err, kdb.ErrNotFound) {
		t.Errorf("unknown principal: %v", err)
	}
	if v := n.verdict("a", "1"); v != kdb.Fresh {
		t.Errorf("first: %v", v)
	}
	if v := n.verdict("a", "1"); v != kdb.Same {
		t.Errorf("resent: %v", v)
	}
	if v := n.verdict("a", "2"); v != kdb.Repeat {
		t.Errorf("copied: %v", v)
	}
}

package raftstore

import (
	"errors"
	"testing"
	"time"

	"github.com/charon-kdc/charon/kdc/kdb"
	statev1 "github.com/charon-kdc/charon/proto/charon/state/v1"
	"github.com/charon-kdc/charon/raftstore/realm"
)

// A node that becomes fresh while a look-up is in work has not made that look-up fresh: it read the state from before.
func TestMissingOnlyWhereTheReadWasFresh(t *testing.T) {
	c := newCluster(t, 1, nil)
	s := c.nodes[0].store
	held := &grant{until: time.Now().Add(time.Hour)}
	var during *grant
	s.kdb.find = func(string, []string) (*statev1.Principal, error) {
		s.lease.grant.Store(during)
		return nil, realm.ErrNotFound
	}
	s.kdb.findRealm = func(string) (*statev1.Realm, error) {
		s.lease.grant.Store(during)
		return nil, realm.ErrNotFound
	}
	c.nodes[0].kill() // so that nothing renews the lease
	for _, x := range []struct {
		what           string
		before, during *grant
		want           error
	}{
		{"fresh before and after", held, held, kdb.ErrNotFound},
		{"fresh only after", nil, held, kdb.ErrStale},
		{"never fresh", nil, nil, kdb.ErrStale},
	} {
		during = x.during
		s.lease.grant.Store(x.before)
		if _, err := s.kdb.Principal(testRealm, krbName("alice")); !errors.Is(err, x.want) {
			t.Errorf("%s: principal: %v, want %v", x.what, err, x.want)
		}
		s.lease.grant.Store(x.before)
		if _, err := s.kdb.Realm("OTHER"); !errors.Is(err, x.want) {
			t.Errorf("%s: realm: %v, want %v", x.what, err, x.want)
		}
	}
}

// What was settled by WaitAllApplied is not missing at any node that is fresh.
func TestSettledIsNotMissing(t *testing.T) {
	c := newCluster(t, 3, nil)
	c.waitReady()
	l := c.waitLeader()
	for _, name := range []string{"a", "b", "c", "d", "e"} {
		r := l.propose(create(c.principal(name, 1)))
		if _, err := l.store.WaitAllApplied(t.Context(), r.GetIndex()); err != nil {
			t.Fatal(err)
		}
		for _, n := range c.nodes {
			if _, err := n.store.KDB().Principal(testRealm, krbName(name)); errors.Is(err, kdb.ErrNotFound) {
				t.Errorf("%s says that there is no %s, which is settled", n.name, name)
			}
		}
	}
}

package node

import (
	"crypto"
	"crypto/rand"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/charon-kdc/charon/adminapi/jointoken"
	"github.com/charon-kdc/charon/kdc/kdb/masterkey"
	"github.com/charon-kdc/charon/node/join"
	"github.com/charon-kdc/charon/node/pki"
	adminv1 "github.com/charon-kdc/charon/proto/charon/admin/v1"
	"github.com/charon-kdc/charon/raftstore"
)

// stranger asks to be let in by a program of its own.
func stranger(t *testing.T, tok *jointoken.Token, name string) *join.Joiner {
	t.Helper()
	key, err := pki.NewKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := testConfig(t)
	req, err := c.joinRequest(name, "test", FeatureLevelMax)
	if err != nil {
		t.Fatal(err)
	}
	id, replayID, err := raftstore.Prepare(c.raftPath())
	if err != nil {
		t.Fatal(err)
	}
	req.RealmID, req.ReplayID = id[:], replayID[:]
	return &join.Joiner{Token: tok, Key: key, Request: *req, Now: time.Now, Timeout: 30 * time.Second}
}

func mustJoin(t *testing.T, j *join.Joiner) {
	t.Helper()
	if _, err := j.Join(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func refused(t *testing.T, what string, j *join.Joiner) {
	t.Helper()
	if g, err := j.Join(t.Context()); !errors.Is(err, join.ErrRefused) || g != nil {
		t.Errorf("%s: %v, want ErrRefused", what, err)
	} else {
		t.Logf("%s: %v", what, err)
	}
}

// A token is for a new node: none gives a certificate in the name of one that is there.
func TestTokenGivesNobodyElsesIdentity(t *testing.T) {
	c := testConfig(t)
	initNode(t, c, "kdc1")
	n1 := runNode(t, c)
	n1.waitReady()
	creds, err := loadCredentials(c.Dir, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	_, replayID, err := raftstore.Prepare(c.raftPath())
	if err != nil {
		t.Fatal(err)
	}
	tok, key := n1.token("kdc9"), stranger(t, nil, "kdc9").Key
	for what, change := range map[string]func(r *join.Request){
		"the id":                       func(r *join.Request) { r.RealmID = creds.Node[:] },
		"both ids":                     func(r *join.Request) { r.RealmID, r.ReplayID = creds.Node[:], replayID[:] },
		"both ids and the name":        func(r *join.Request) { r.RealmID, r.ReplayID, r.Name = creds.Node[:], replayID[:], "kdc1" },
		"the replay id":                func(r *join.Request) { r.ReplayID = replayID[:] },
		"the name":                     func(r *join.Request) { r.Name = "kdc1" },
		"the peer address":             func(r *join.Request) { r.PeerAddress = c.Peer.Address },
		"no realm id, as good as none": func(r *join.Request) { r.RealmID = make([]byte, 16) },
	} {
		j := stranger(t, tok, "kdc9")
		j.Key = key
		change(&j.Request)
		refused(t, "kdc1's: "+what, j)
	}
	n1.waitVoters(1)

	// One token lets in one node, whatever else its holder calls itself.
	j := stranger(t, n1.token("kdc2"), "kdc2")
	mustJoin(t, j)
	mustJoin(t, j) // resumed
	twin := stranger(t, j.Token, "kdc2")
	twin.Key = j.Key
	refused(t, "the same token and key as another node", twin)
	other := *j
	other.Request.ReplayID = twin.Request.ReplayID
	refused(t, "the same node with another replay id", &other)
}

func (n *testNode) remove(name string) {
	n.t.Helper()
	within(n.t, 20*time.Second, "node remove "+name, func() error {
		_, err := adminv1.NewClusterClient(n.dial()).RemoveNode(n.t.Context(), &adminv1.RemoveNodeRequest{RequestId: requestID(), Name: name, Force: true})
		return err
	})
}

// A node that was removed needs a new token, however its join went.
func TestRemovedNodeIsNotLetInByItsOldToken(t *testing.T) {
	c := testConfig(t)
	initNode(t, c, "kdc1")
	n1 := runNode(t, c)
	n1.waitReady()
	j := stranger(t, n1.token("kdc2"), "kdc2")
	mustJoin(t, j)
	n1.remove("kdc2")
	refused(t, "removed before it ran", j)
	other := stranger(t, j.Token, "kdc2")
	refused(t, "by another key", other)
	mustJoin(t, stranger(t, n1.token("kdc2"), "kdc2"))
}

// The join is over when the node runs: nobody gets a second certificate, or the master key again.
func TestTokenOfARunningNodeIsClosed(t *testing.T) {
	c := testConfig(t)
	initNode(t, c, "kdc1")
	n1 := runNode(t, c)
	n1.waitReady()
	tok := n1.token("kdc2")
	n2 := joinNode(t, tok, "kdc2")
	n2.waitReady()
	n1.waitVoters(2)
	creds, err := loadCredentials(n2.c.Dir, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	j := stranger(t, tok, "kdc2")
	j.Key = creds.certificate().PrivateKey.(crypto.Signer)
	id, replayID, err := raftstore.Prepare(n2.c.raftPath())
	if err != nil {
		t.Fatal(err)
	}
	j.Request.RealmID, j.Request.ReplayID = id[:], replayID[:]
	within(t, 20*time.Second, "the token's end", func() error { // the node tells of its start by and by
		if _, err := j.Join(t.Context()); !errors.Is(err, join.ErrRefused) {
			return fmt.Errorf("joined again: %v", err)
		}
		return nil
	})
}

// A version of the master key that is staged goes to nodes that confirm it, and not to whoever asks to be let in.
func TestJoinerIsNotGivenAStagedMasterKey(t *testing.T) {
	c := testConfig(t)
	initNode(t, c, "kdc1")
	path := filepath.Join(c.Dir, masterKeyFile)
	ring, err := masterkey.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := masterkey.NewFile(path, ring, "").Put(2, make([]byte, 32)); err != nil {
		t.Fatal(err)
	}
	n1 := runNode(t, c)
	n1.waitReady()
	g, err := stranger(t, n1.token("kdc2"), "kdc2").Join(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if r, err := masterkey.Parse(g.MasterKey); err != nil || !slices.Equal(r.Versions(), []uint32{1}) {
		t.Errorf("given %v, %v", r.Versions(), err)
	}
}

package raftstore

import (
	"context"
	"crypto/rand"
	"errors"
	"path/filepath"
	"testing"

	"google.golang.org/grpc/codes"
	grpcpeer "google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/charon-kdc/charon/kdc/kdb/masterkey"
	peerv1 "github.com/charon-kdc/charon/proto/charon/peer/v1"
	statev1 "github.com/charon-kdc/charon/proto/charon/state/v1"
	"github.com/charon-kdc/charon/raftstore/forward"
	"github.com/charon-kdc/charon/raftstore/peer"
)

// callFrom is a call that comes from a member's connection.
func callFrom(t testing.TB, id peer.NodeID) context.Context {
	return grpcpeer.NewContext(t.Context(), &grpcpeer.Peer{AuthInfo: forward.AuthInfo{Peer: id}})
}

// TestStagedKeyIsForRecordedNodes: a node whose record is gone may still be a server of the group for a while, and the key that takes
// the place of the one that it knew must not reach it.
func TestStagedKeyIsForRecordedNodes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "master.key")
	c := newCluster(t, 1, func(cfg *Config) { cfg.Keys = masterkey.NewFile(path, cfg.Ring, "") })
	n := c.nodes[0]
	check, err := n.store.MakeMasterKey(2)
	if err != nil {
		t.Fatal(err)
	}
	if r := n.propose(&statev1.Command{Op: &statev1.Command_StageMasterKey{StageMasterKey: &statev1.StageMasterKey{Version: 2, Check: check, By: "test"}}}); r.GetCode() != 0 {
		t.Fatal(r)
	}
	key, err := c.ring.Key(2)
	if err != nil {
		t.Fatal(err)
	}
	svc := &service{s: n.store}
	give := func(ctx context.Context, version uint32) codes.Code {
		r, err := svc.GiveMasterKey(ctx, &peerv1.GiveMasterKeyRequest{Version: version})
		if (err == nil) != (string(r.GetKey()) == string(key)) {
			t.Errorf("%v, with %d bytes of key", err, len(r.GetKey()))
		}
		return status.Code(err)
	}
	take := func(ctx context.Context, key []byte) codes.Code {
		_, err := svc.TakeMasterKey(ctx, &peerv1.TakeMasterKeyRequest{Version: 2, Key: append([]byte{}, key...)})
		return status.Code(err)
	}
	member, gone := callFrom(t, n.id), callFrom(t, peer.NodeID{1})
	for _, o := range []struct {
		what      string
		got, want codes.Code
	}{
		{"a member takes it", give(member, 2), codes.OK},
		{"a member takes what is in use", give(member, 1), codes.NotFound},
		{"a removed node takes it", give(gone, 2), codes.PermissionDenied},
		{"nobody takes it", give(t.Context(), 2), codes.PermissionDenied},
		{"a member hands it out", take(member, key), codes.OK},
		{"a member hands out another", take(member, make([]byte, 32)), codes.FailedPrecondition},
		{"a member hands out nothing", take(member, nil), codes.FailedPrecondition},
		{"a removed node hands it out", take(gone, key), codes.PermissionDenied},
		{"nobody hands it out", take(t.Context(), key), codes.PermissionDenied},
	} {
		if o.got != o.want {
			t.Errorf("%s: %v, want %v", o.what, o.got, o.want)
		}
	}
}

// TestForeignMasterKey: a key file of another cluster has the right numbers. A node that starts with it stops, and one that gets the realm later
// serves and seals nothing.
func TestForeignMasterKey(t *testing.T) {
	other := mustRing(t)
	c := newCluster(t, 1, func(cfg *Config) {
		if cfg.Self.GetName() == "n2" {
			cfg.Ring = other
		}
	})
	n2 := c.newNode("n2")
	c.join(n2)
	c.waitFor("n2 to have the realm", func() bool { return n2.store.db.FeatureLevel() != 0 && n2.store.noMasterKey() != "" })
	if _, err := other.Seal(rand.Reader, masterkey.SecretAAD(c.id[:], "x"), []byte("x")); !errors.Is(err, masterkey.ErrNoVersion) {
		t.Errorf("sealed under another cluster's key: %v", err)
	}
	if as, _, why := n2.store.Ready(); as || why == "" {
		t.Errorf("serves with another cluster's key: %q", why)
	}
	n2.stop()
	s, err := Open(n2.config(nil))
	if !errors.Is(err, ErrNoMasterKey) {
		t.Errorf("started with another cluster's key: %v", err)
	}
	if err == nil {
		n2.store = s
	}
}

func mustRing(t *testing.T) *masterkey.Ring {
	t.Helper()
	r, err := masterkey.Generate(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

package join

import (
	"context"
	"crypto/rand"
	"errors"
	"testing"
	"time"

	"github.com/charon-kdc/charon/node/pki"
	statev1 "github.com/charon-kdc/charon/proto/charon/state/v1"
)

// A node that members refuse is told by one of its own authority whether it was removed.
func TestRemoved(t *testing.T) {
	nodes, err := pki.NewAuthority(rand.Reader, pki.Nodes, cluster, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	other, err := pki.NewAuthority(rand.Reader, pki.Nodes, cluster, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	member := [16]byte{1}
	m := &memory{authority: nodes, nodes: map[string]*statev1.Node{"kdc2": {Id: member[:], Name: "kdc2"}}}
	addr := start(t, m, nodes)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if removed, err := Removed(ctx, addr, nodes.Cert, member, time.Now()); removed || err != nil {
		t.Errorf("a member: %v, %v", removed, err)
	}
	if removed, err := Removed(ctx, addr, nodes.Cert, [16]byte{2}, time.Now()); !removed || err != nil {
		t.Errorf("one that is none: %v, %v", removed, err)
	}
	if removed, err := Removed(ctx, addr, other.Cert, [16]byte{2}, time.Now()); removed || !errors.Is(err, ErrPin) {
		t.Errorf("by a stranger's word: %v, %v", removed, err)
	}
	m.mu.Lock()
	m.noLeader = true
	m.mu.Unlock()
	if removed, err := Removed(ctx, addr, nodes.Cert, [16]byte{2}, time.Now()); removed || !errors.Is(err, ErrUnsure) {
		t.Errorf("without a leader: %v, %v", removed, err)
	}
}

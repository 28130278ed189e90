// Package adminapitest is a cluster of one node for tests of the admin API and its clients: the real state machine, and a log that is a counter.
//
// It owns the ways in which a cluster can fail a caller. It must not know the admin API.
package adminapitest

import (
	"bytes"
	"context"
	"crypto/rand"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/charon-kdc/charon/kdc/kdb/masterkey"
	"github.com/charon-kdc/charon/kdc/krb5/kcrypto"
	statev1 "github.com/charon-kdc/charon/proto/charon/state/v1"
	"github.com/charon-kdc/charon/raftstore"
	"github.com/charon-kdc/charon/raftstore/peer"
	"github.com/charon-kdc/charon/raftstore/realm"
)

// Realm is the default realm of the cluster.
const Realm = "EXAMPLE.COM"

// Store is the cluster.
type Store struct {
	DB   *realm.DB
	Ring *masterkey.Ring
	// Removed are the nodes taken out; Nodes what Status answers; Contact what LastContact does.
	Removed []peer.NodeID
	Nodes   raftstore.Status
	Contact time.Duration
	// NoQuorum is what LostQuorum says.
	NoQuorum bool
	// Handed are the nodes that were given a master key; HandErr is what they answer.
	Handed  []peer.NodeID
	HandErr error

	keys      *masterkey.File
	now       func() time.Time
	mu        sync.Mutex
	index     uint64
	proposals int
	follower  bool
	// Late is what WaitAllApplied tells.
	Late    []raftstore.NodeRef
	waited  uint64
	before  func()
	lose    *bool
	again   bool
	waitErr error
}

// New makes a realm with one voter, n1, whose log has the time of now.
func New(t testing.TB, now func() time.Time) *Store {
	t.Helper()
	db, err := realm.Open(filepath.Join(t.TempDir(), "realm.db"), realm.Options{NoSync: true, MmapSize: 16 << 20})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	ring, err := masterkey.Generate(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	self := raftstore.NodeRef{ID: peer.NodeID{1}, Name: "n1"}
	s := &Store{DB: db, Ring: ring, now: now, Nodes: raftstore.Status{
		Self: self, Leader: self, Quorum: true, Voters: 1,
		Nodes: []raftstore.NodeStatus{{NodeRef: self, Role: "leader", Reachable: true}},
	}}
	s.keys = masterkey.NewFile(filepath.Join(t.TempDir(), "master.key"), ring, "")
	db.Subscribe(func([]realm.Change) {
		if cl, err := db.Cluster(); err == nil {
			_ = ring.Use(cl.GetMasterKeyVersion()) // as the store does
		}
	})
	s.found(t)
	return s
}

// MakeMasterKey makes a version on this node's disk.
func (s *Store) MakeMasterKey(version uint32) ([]byte, error) {
	key := make([]byte, 32)
	if _, err := rand.Read(key); err != nil {
		return nil, err
	}
	if err := s.keys.Put(version, key); err != nil {
		return nil, err
	}
	return s.Ring.Check(make([]byte, 16), version)
}

// HasMasterKey tells whether this node has that key.
func (s *Store) HasMasterKey(version uint32, check []byte) bool {
	have, err := s.Ring.Check(make([]byte, 16), version)
	return err == nil && bytes.Equal(have, check)
}

// HandMasterKey notes to whom.
func (s *Store) HandMasterKey(_ context.Context, to peer.NodeID, _ uint32) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.Handed = append(s.Handed, to)
	return s.HandErr
}

// FetchMasterKey finds nothing.
func (s *Store) FetchMasterKey(context.Context, peer.NodeID, uint32) (bool, error) {
	return false, s.HandErr
}

// found puts into the state what charon init would.
func (s *Store) found(t testing.TB) {
	cluster := make([]byte, 16)
	secret := func(name string) *statev1.Sealed {
		b, err := s.Ring.Seal(rand.Reader, masterkey.SecretAAD(cluster, name), make([]byte, 32))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for _, cmd := range []*statev1.Command{
		{Op: &statev1.Command_PutCluster{PutCluster: &statev1.PutCluster{Cluster: &statev1.Cluster{Id: cluster, DefaultRealm: Realm, FeatureLevel: realm.FeatureLevelMax, MasterKeyVersion: 1}}}},
		{Op: &statev1.Command_PutRealm{PutRealm: &statev1.PutRealm{Realm: &statev1.Realm{
			Name: Realm, MaxLife: 36000, MaxRenewableLife: 7 * 86400, Etypes: []int32{int32(kcrypto.AES256SHA2), int32(kcrypto.AES128SHA1)},
		}}}},
		{Op: &statev1.Command_PutSecret{PutSecret: &statev1.PutSecret{Secret: &statev1.Secret{Name: raftstore.ReplayKeyName, Key: secret(raftstore.ReplayKeyName)}}}},
		{Op: &statev1.Command_PutSecret{PutSecret: &statev1.PutSecret{Secret: &statev1.Secret{Name: "ca/node", Certificate: []byte("DER"), Key: secret("ca/node")}}}},
		{Op: &statev1.Command_PutNode{PutNode: &statev1.PutNode{Node: &statev1.Node{
			Id: append([]byte{1}, make([]byte, 15)...), ReplayId: append([]byte{2}, make([]byte, 15)...),
			Name: "n1", PeerAddress: "n1.example.com:7750", AdminAddress: "n1.example.com:7749", KdcAddress: "n1.example.com:88", KpasswdAddress: "n1.example.com:464", FeatureLevelMax: realm.FeatureLevelMax,
		}}}},
	} {
		if res, err := s.Apply(cmd); err != nil || res.GetCode() != statev1.Code_CODE_OK {
			t.Fatalf("founding the realm: %v %v", res, err)
		}
	}
	s.proposals = 0
}

// Before has f run ahead of the next proposal, once.
func (s *Store) Before(f func()) { s.mu.Lock(); defer s.mu.Unlock(); s.before = f }

// Lose has the next proposal answer that its outcome is unknown: after it was applied, or without.
func (s *Store) Lose(applied bool) { s.mu.Lock(); defer s.mu.Unlock(); s.lose = &applied }

// Again has the next proposal made twice, as a store does that missed the answer to its first try.
func (s *Store) Again() { s.mu.Lock(); defer s.mu.Unlock(); s.again = true }

// FailWait has WaitAllApplied answer err from now on.
func (s *Store) FailWait(err error) { s.mu.Lock(); defer s.mu.Unlock(); s.waitErr, s.waited = err, 0 }

// Depose makes the node a follower of nobody.
func (s *Store) Depose() { s.mu.Lock(); defer s.mu.Unlock(); s.follower = true }

// Proposals counts what was applied since the realm was founded.
func (s *Store) Proposals() int { s.mu.Lock(); defer s.mu.Unlock(); return s.proposals }

// Waited is the index that WaitAllApplied was last asked for.
func (s *Store) Waited() uint64 { s.mu.Lock(); defer s.mu.Unlock(); return s.waited }

// Propose applies cmd, unless Lose or Before say otherwise.
func (s *Store) Propose(_ context.Context, cmd *statev1.Command) (*statev1.Result, error) {
	s.mu.Lock()
	before, lose, again := s.before, s.lose, s.again
	s.before, s.lose, s.again = nil, nil, false
	s.mu.Unlock()
	if before != nil {
		before()
	}
	lost := &raftstore.UnknownOutcomeError{Err: context.DeadlineExceeded}
	if lose != nil && !*lose {
		return nil, lost
	}
	if again {
		if _, err := s.Apply(cmd); err != nil {
			return nil, err
		}
	}
	res, err := s.Apply(cmd)
	if lose != nil {
		return nil, lost
	}
	return res, err
}

// Apply puts cmd into the log.
func (s *Store) Apply(cmd *statev1.Command) (*statev1.Result, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	data, err := realm.EncodeEnvelope(cmd, s.now().UnixMilli())
	if err != nil {
		return nil, err
	}
	s.index++
	s.proposals++
	res, _, err := s.DB.ApplyBatch([]realm.Entry{{Index: s.index, Term: 1, Data: data}})
	if err != nil {
		return nil, err
	}
	if d := cmd.GetDeleteNode(); d != nil && res[0].GetCode() == statev1.Code_CODE_OK {
		s.Removed = append(s.Removed, peer.NodeID(d.GetId()))
	}
	return res[0], nil
}

// IsLeader is true until Depose.
func (s *Store) IsLeader() bool { s.mu.Lock(); defer s.mu.Unlock(); return !s.follower }

// VerifyLeader fails after Depose.
func (s *Store) VerifyLeader(context.Context) error {
	if !s.IsLeader() {
		return &raftstore.NotAppliedError{Err: raftstore.ErrNoLeader}
	}
	return nil
}

// WaitAllApplied notes the index.
func (s *Store) WaitAllApplied(_ context.Context, index uint64) ([]raftstore.NodeRef, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waited = index
	return s.Late, s.waitErr
}

// LockRemovals does nothing.
func (s *Store) LockRemovals() (unlock func()) { return func() {} }

// AwaitRemovals fails as FailWait says.
func (s *Store) AwaitRemovals(context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.waitErr
}

// TransferLeadership does nothing.
func (s *Store) TransferLeadership(context.Context, string) error { return nil }

// Status is Nodes.
func (s *Store) Status(context.Context) raftstore.Status { return s.Nodes }

// LostQuorum is NoQuorum.
func (s *Store) LostQuorum() bool { return s.NoQuorum }

// LastContact is Contact.
func (s *Store) LastContact() time.Duration { return s.Contact }

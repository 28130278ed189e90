package adminapi

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/test/bufconn"

	"github.com/charon-kdc/charon/kdc/kdb/masterkey"
	"github.com/charon-kdc/charon/kdc/krb5/kcrypto"
	adminv1 "github.com/charon-kdc/charon/proto/charon/admin/v1"
	statev1 "github.com/charon-kdc/charon/proto/charon/state/v1"
	"github.com/charon-kdc/charon/raftstore"
	"github.com/charon-kdc/charon/raftstore/peer"
	"github.com/charon-kdc/charon/raftstore/realm"
)

const testRealm = "EXAMPLE.COM"

var t0 = time.Date(2026, 11, 2, 12, 0, 0, 0, time.UTC)

// fakeStore is a cluster of one over the real state machine, with a log that is a counter.
type fakeStore struct {
	db  *realm.DB
	now func() time.Time

	mu        sync.Mutex
	index     uint64
	proposals int
	follower  bool
	waited    uint64
	// before runs ahead of the next proposal is applied, once.
	before func()
	// lose answers that the outcome is unknown: after applying (true) or without (false).
	lose *bool
	// waitErr fails WaitAllApplied.
	waitErr error
	removed []peer.NodeID
	status  raftstore.Status
}

func (f *fakeStore) Propose(_ context.Context, cmd *statev1.Command) (*statev1.Result, error) {
	f.mu.Lock()
	before, lose := f.before, f.lose
	f.before, f.lose = nil, nil
	f.mu.Unlock()
	if before != nil {
		before()
	}
	if lose != nil && !*lose {
		return nil, &raftstore.UnknownOutcomeError{Err: context.DeadlineExceeded}
	}
	res, err := f.apply(cmd)
	if lose != nil {
		return nil, &raftstore.UnknownOutcomeError{Err: context.DeadlineExceeded}
	}
	return res, err
}

func (f *fakeStore) apply(cmd *statev1.Command) (*statev1.Result, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	data, err := realm.EncodeEnvelope(cmd, f.now().UnixMilli())
	if err != nil {
		return nil, err
	}
	f.index++
	f.proposals++
	res, _, err := f.db.ApplyBatch([]realm.Entry{{Index: f.index, Term: 1, Data: data}})
	if err != nil {
		return nil, err
	}
	return res[0], nil
}

func (f *fakeStore) IsLeader() bool { f.mu.Lock(); defer f.mu.Unlock(); return !f.follower }
func (f *fakeStore) VerifyLeader(context.Context) error {
	if !f.IsLeader() {
		return &raftstore.NotAppliedError{Err: raftstore.ErrNoLeader}
	}
	return nil
}
func (f *fakeStore) WaitAllApplied(_ context.Context, index uint64) ([]raftstore.NodeRef, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.waited = index
	return nil, f.waitErr
}
func (f *fakeStore) RemoveNode(_ context.Context, id peer.NodeID) error {
	f.removed = append(f.removed, id)
	return nil
}
func (f *fakeStore) TransferLeadership(context.Context, string) error { return nil }
func (f *fakeStore) Status(context.Context) raftstore.Status          { return f.status }

// bench is one node's API with doors on in-memory listeners.
type bench struct {
	t     *testing.T
	store *fakeStore
	svc   *Service
	clock time.Time
	mu    sync.Mutex
	audit []AuditEvent
	peer  *grpc.ClientConn
}

func (b *bench) now() time.Time { b.mu.Lock(); defer b.mu.Unlock(); return b.clock }
func (b *bench) advance(d time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.clock = b.clock.Add(d)
}

// newBench makes a realm with one voter, n1.
func newBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{t: t, clock: t0}
	db, err := realm.Open(filepath.Join(t.TempDir(), "realm.db"), realm.Options{NoSync: true, MmapSize: 16 << 20})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	ring, err := masterkey.Generate(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	id := peer.NodeID{1}
	b.store = &fakeStore{db: db, now: b.now, status: raftstore.Status{
		Self: raftstore.NodeRef{ID: id, Name: "n1"}, Leader: raftstore.NodeRef{ID: id, Name: "n1"}, Quorum: true, Voters: 1,
		Nodes: []raftstore.NodeStatus{{NodeRef: raftstore.NodeRef{ID: id, Name: "n1"}, Role: "leader", Reachable: true}},
	}}
	b.found(ring)
	b.svc, err = New(Config{
		Store: b.store, Reader: db, Sealer: ring, NodeName: "n1", PeerAddress: "n1.example.com:7750", Version: "1.0.0",
		Now: b.now, Rand: rand.Reader, OwnUID: 4711,
		Audit: func(e AuditEvent) { b.mu.Lock(); defer b.mu.Unlock(); b.audit = append(b.audit, e) },
	})
	if err != nil {
		t.Fatal(err)
	}
	b.peer = serveFor(t, b.svc, DoorPeer)
	return b
}

// found puts what charon init would into the state.
func (b *bench) found(ring *masterkey.Ring) {
	cluster := make([]byte, 16)
	secret, err := ring.Seal(rand.Reader, masterkey.SecretAAD(cluster, secretReplayKey), make([]byte, 32))
	if err != nil {
		b.t.Fatal(err)
	}
	for _, cmd := range []*statev1.Command{
		{Op: &statev1.Command_PutCluster{PutCluster: &statev1.PutCluster{Cluster: &statev1.Cluster{Id: cluster, DefaultRealm: testRealm, FeatureLevel: 1}}}},
		{Op: &statev1.Command_PutRealm{PutRealm: &statev1.PutRealm{Realm: &statev1.Realm{Name: testRealm, MaxLife: 36000, MaxRenewableLife: 7 * 86400,
			Etypes: []int32{int32(kcrypto.AES256SHA2), int32(kcrypto.AES128SHA1)}}}}},
		{Op: &statev1.Command_PutSecret{PutSecret: &statev1.PutSecret{Secret: &statev1.Secret{Name: secretReplayKey, Key: secret}}}},
		{Op: &statev1.Command_PutSecret{PutSecret: &statev1.PutSecret{Secret: &statev1.Secret{Name: "ca/node", Certificate: []byte("DER"), Key: secret}}}},
		{Op: &statev1.Command_PutNode{PutNode: &statev1.PutNode{Node: &statev1.Node{Id: append([]byte{1}, make([]byte, 15)...), ReplayId: append([]byte{2}, make([]byte, 15)...),
			Name: "n1", PeerAddress: "n1.example.com:7750", AdminAddress: "n1.example.com:7749", KdcAddress: "n1.example.com:88"}}}},
	} {
		if res, err := b.store.apply(cmd); err != nil || res.GetCode() != statev1.Code_CODE_OK {
			b.t.Fatalf("founding: %v %v", res, err)
		}
	}
	b.store.proposals = 0
}

// serveFor serves s by one door in memory.
func serveFor(t *testing.T, s *Service, door Door) *grpc.ClientConn {
	t.Helper()
	ln := bufconn.Listen(1 << 20)
	srv := grpc.NewServer()
	s.Register(srv, door)
	done := make(chan struct{})
	go func() { defer close(done); srv.Serve(ln) }()
	conn, err := grpc.NewClient("passthrough:///bench", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return ln.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(); srv.Stop(); <-done })
	return conn
}

// as is a context whose calls over the peer door are made in that subject's name.
func as(subject string) context.Context {
	return metadata.AppendToOutgoingContext(context.Background(), metaCaller, subject)
}

// rid makes request ids that differ by n, at the bench's clock.
func (b *bench) rid(n byte) []byte {
	id := make([]byte, 16)
	binary.BigEndian.PutUint64(id, uint64(b.now().UnixMilli())<<16)
	id[6], id[8], id[15] = 0x70, 0x80, n
	return id
}

// fresh makes a random request id.
func (b *bench) fresh() []byte {
	id := b.rid(0)
	if _, err := rand.Read(id[9:]); err != nil {
		b.t.Fatal(err)
	}
	return id
}

func (b *bench) principals() adminv1.PrincipalsClient { return adminv1.NewPrincipalsClient(b.peer) }
func (b *bench) keytabs() adminv1.KeytabsClient       { return adminv1.NewKeytabsClient(b.peer) }
func (b *bench) policies() adminv1.PoliciesClient     { return adminv1.NewPoliciesClient(b.peer) }
func (b *bench) roles() adminv1.RolesClient           { return adminv1.NewRolesClient(b.peer) }
func (b *bench) cluster() adminv1.ClusterClient       { return adminv1.NewClusterClient(b.peer) }

func password(p string) *adminv1.NewKeys {
	return &adminv1.NewKeys{Source: &adminv1.NewKeys_Password{Password: p}}
}

func random() *adminv1.NewKeys {
	return &adminv1.NewKeys{Source: &adminv1.NewKeys_Random{Random: true}}
}

// add makes a principal as root.
func (b *bench) add(name string, keys *adminv1.NewKeys, attrs uint32) *adminv1.Principal {
	b.t.Helper()
	r, err := b.principals().CreatePrincipal(as("root"), &adminv1.CreatePrincipalRequest{RequestId: b.fresh(), Name: name, Keys: keys, SetAttributes: attrs})
	if err != nil {
		b.t.Fatal(err)
	}
	return r.GetPrincipal()
}

// grant gives rights as root.
func (b *bench) grant(r *adminv1.Role) {
	b.t.Helper()
	if _, err := b.roles().GrantRole(as("root"), &adminv1.GrantRoleRequest{RequestId: b.fresh(), Role: r}); err != nil {
		b.t.Fatal(err)
	}
}

package adminapi

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"net"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/test/bufconn"

	"github.com/charon-kdc/charon/adminapi/adminapitest"
	adminv1 "github.com/charon-kdc/charon/proto/charon/admin/v1"
)

const testRealm = adminapitest.Realm

var t0 = time.Date(2026, 11, 2, 12, 0, 0, 0, time.UTC)

// bench is one node's API with doors on in-memory listeners.
type bench struct {
	t     *testing.T
	store *adminapitest.Store
	svc   *Service
	clock time.Time
	mu    sync.Mutex
	audit []AuditEvent
	peer  *grpc.ClientConn
	made  fakeBackups
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
	b.store = adminapitest.New(t, b.now)
	var err error
	b.svc, err = New(Config{
		Store: b.store, Reader: b.store.DB, Sealer: b.store.Ring, MasterKeys: b.store, NodeName: "n1", PeerAddress: "n1.example.com:7750", Version: "1.0.0",
		Now: b.now, Rand: rand.Reader, OwnUID: 4711, Backups: &b.made,
		Audit: func(e AuditEvent) { b.mu.Lock(); defer b.mu.Unlock(); b.audit = append(b.audit, e) },
	})
	if err != nil {
		t.Fatal(err)
	}
	b.peer = serveFor(t, b.svc, DoorPeer)
	return b
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

func (b *bench) rotation() adminv1.RotationClient { return adminv1.NewRotationClient(b.peer) }

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

// Package adminapi is the admin API of a realm, charon.admin.v1: who may call what, what a mutation does to the
// replicated records, and how an outcome becomes a gRPC status.
//
// It owns every decision that needs a clock, randomness or the master key on the way to a command: new keys, salts,
// ids and times are made here, on the leader, so that the state machine only checks and stores. It must not know Raft,
// sockets, files or the command line; the store, the forwarding connection and the node's own figures come in by Config.
package adminapi

import (
	"context"
	"crypto"
	"errors"
	"io"
	"log/slog"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection"

	"github.com/charon-kdc/charon/kdc/kdb"
	"github.com/charon-kdc/charon/kdc/kdb/masterkey"
	adminv1 "github.com/charon-kdc/charon/proto/charon/admin/v1"
	statev1 "github.com/charon-kdc/charon/proto/charon/state/v1"
	"github.com/charon-kdc/charon/raftstore"
	"github.com/charon-kdc/charon/raftstore/peer"
	"github.com/charon-kdc/charon/raftstore/realm"
)

// Store is the replicated realm as the admin API writes it; *raftstore.Store is one.
type Store interface {
	// Propose returns what the state machine answered. Errors: *raftstore.NotAppliedError, *raftstore.UnknownOutcomeError.
	Propose(ctx context.Context, cmd *statev1.Command) (*statev1.Result, error)
	// IsLeader tells whether this node leads the realm.
	IsLeader() bool
	// VerifyLeader returns when this node leads and has applied all that was acknowledged before the call.
	VerifyLeader(ctx context.Context) error
	// WaitAllApplied returns when no node answers from a state before index any more. late are the nodes that only stopped answering.
	WaitAllApplied(ctx context.Context, index uint64) (late []raftstore.NodeRef, err error)
	// LockRemovals is held by who decides on a removal by what would be left.
	LockRemovals() (unlock func())
	// AwaitRemovals returns when no group has a node without a record any more. Error: *raftstore.UnknownOutcomeError, and it goes on.
	AwaitRemovals(ctx context.Context) error
	TransferLeadership(ctx context.Context, name string) error
	Status(ctx context.Context) raftstore.Status
	// LastContact is the age of this node's last contact with a leader; negative when none is on record.
	LastContact() time.Duration
	// LostQuorum tells that no leader is known and none was heard of for so long that this is no election.
	LostQuorum() bool
}

// Reader is the applied state of this node; *realm.DB is one. A record that is not there is realm.ErrNotFound. What it
// returns is the caller's own copy.
type Reader interface {
	Applied() (index, term uint64)
	// Outcome is what became of a request id.
	Outcome(requestID []byte) (*statev1.Outcome, error)
	// GetPrincipal resolves aliases; name is components.
	GetPrincipal(realm string, name []string) (*statev1.Principal, error)
	// ListPrincipals gives at most limit records after that name text. next is "" at the end.
	ListPrincipals(realm, after string, limit int) (page []*statev1.Principal, next string, err error)
	Policy(name string) (*statev1.Policy, error)
	Policies() ([]*statev1.Policy, error)
	Realm(name string) (*statev1.Realm, error)
	Nodes() ([]*statev1.Node, error)
	Token(id []byte) (*statev1.Token, error)
	Tokens() ([]*statev1.Token, error)
	Role(id string) (*statev1.Role, error)
	Roles() ([]*statev1.Role, error)
	Secret(name string) (*statev1.Secret, error)
	Cluster() (*statev1.Cluster, error)
	Realms() ([]*statev1.Realm, error)
	// Now is the log's time, in ms since the epoch.
	Now() int64
	Counts() realm.Counts
	// Subscribe has f called with what each applied entry changed. It must not block.
	Subscribe(f func([]realm.Change))
	// StalePrincipals, StaleSecrets and CountStale look for what is not sealed under a version of the master key.
	StalePrincipals(version uint32, from []byte, limit int) (realm.Page, error)
	StaleSecrets(version uint32) ([]*statev1.Secret, error)
	CountStale(version uint32) (int, error)
	// RetiringPrincipals have keys that go at a set time.
	RetiringPrincipals(from []byte, limit int) (realm.Page, error)
}

// Sealer opens and seals what the state keeps secret; *masterkey.Ring is one.
type Sealer interface {
	Seal(rand io.Reader, aad masterkey.AAD, plain []byte) (*statev1.Sealed, error)
	Open(aad masterkey.AAD, s *statev1.Sealed) ([]byte, error)
}

// Forwarder reaches other nodes' peer listeners; *forward.Forward is one.
type Forwarder interface {
	LeaderConn(ctx context.Context) (*grpc.ClientConn, peer.NodeID, error)
	Conn(id peer.NodeID) (*grpc.ClientConn, error)
}

// Activity is the replicated count of a principal's logins; kdb.Proofs is one.
type Activity interface {
	Activity(id kdb.ID) kdb.Activity
}

// AuditEvent is one admin call, for the audit log.
type AuditEvent struct {
	Time     time.Time
	Method   string // "/charon.admin.v1.Principals/CreatePrincipal"
	Caller   string // "root", "cert:NAME"
	Target   string // the principal, policy, role or node named in the request
	Code     string // gRPC code, "OK" when done
	Reason   string // ErrorInfo reason, empty when done
	Duration time.Duration
	// Forwarded: this node handed the call to the leader, which audits it too.
	Forwarded bool
}

// Config is what a Service works with. Store, Reader, Sealer, NodeName, Now and Rand are required.
type Config struct {
	Store     Store
	Reader    Reader
	Sealer    Sealer
	Forwarder Forwarder // nil: there are no other nodes
	Activity  Activity  // nil: nothing is counted
	Backups   Backups   // nil: this node makes none
	// Diverged is why this node's state must not be read, empty while it may. nil: it may always.
	Diverged func() string
	// MasterKeys are this node's own; nil: it can take no other version.
	MasterKeys MasterKeys
	// NodeName stands in every answer.
	NodeName string
	// PeerAddress is host:port that a join token leads to.
	PeerAddress string
	Version     string
	// IssueAdmin certifies an admin client's public key under a name, by the admin authority: DER. Nil: this node can't.
	IssueAdmin func(name string, pub crypto.PublicKey) ([]byte, error)
	// Stats is what this node measured of itself. It must not block. Nil: nothing is known.
	Stats func() *adminv1.NodeStats
	// Now is the cluster's time, by which deadlines in the state are made and held; Rand makes keys and ids.
	Now    func() time.Time
	Rand   io.Reader
	Logger *slog.Logger
	// Audit is called once a call, after it. It must not block. May be nil.
	Audit func(AuditEvent)
	// Doctor finds out what is wrong. Nil: Diagnose is not served.
	Doctor Doctor
	// OwnUID is the uid whose unix socket peers are root's equals besides uid 0.
	OwnUID uint32
}

// Service answers the admin API.
type Service struct {
	Config
	health *health.Server

	tender *tender
	calls  calls
	// at, if not nil, is called between the steps of a rotation. For tests.
	at func(step string) error

	hashMu  sync.Mutex
	hashKey []byte
	hashRev uint64
}

// New returns a Service, or says which part of c is missing.
func New(c Config) (*Service, error) {
	if c.Store == nil || c.Reader == nil || c.Sealer == nil || c.NodeName == "" || c.Now == nil || c.Rand == nil {
		return nil, errors.New("adminapi: Store, Reader, Sealer, NodeName, Now and Rand are required")
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Service{Config: c, health: health.NewServer(), tender: newTender()}
	s.Reader.Subscribe(s.tender.retiring.changed)
	return s, nil
}

// Door is the kind of listener a call came in by. It decides whose word counts for who the caller is.
type Door int

const (
	// DoorUnix: the kernel says which uid is at the other end. The server must use UnixCredentials.
	DoorUnix Door = iota + 1
	// DoorTLS: a verified client certificate of the admin authority names the caller.
	DoorTLS
	// DoorPeer: another member, whose mTLS connection was checked, says for whom it calls. Only here the caller's identity is read from metadata.
	DoorPeer
)

// Register adds the API to srv, whose listener is the given kind. gRPC health and reflection come with it, except on DoorPeer.
func (s *Service) Register(srv *grpc.Server, door Door) {
	for _, d := range []struct {
		desc *grpc.ServiceDesc
		impl any
	}{
		{&adminv1.Principals_ServiceDesc, principalServer{Service: s}},
		{&adminv1.Keytabs_ServiceDesc, keytabServer{Service: s}},
		{&adminv1.Policies_ServiceDesc, policyServer{Service: s}},
		{&adminv1.Roles_ServiceDesc, roleServer{Service: s}},
		{&adminv1.Cluster_ServiceDesc, clusterServer{Service: s}},
		{&adminv1.Backups_ServiceDesc, backupServer{Service: s}},
		{&adminv1.Rotation_ServiceDesc, rotationServer{Service: s}},
		{&adminv1.Diagnosis_ServiceDesc, diagnosisServer{Service: s}},
		{&adminv1.Upgrade_ServiceDesc, upgradeServer{Service: s}},
	} {
		srv.RegisterService(s.guarded(d.desc, door), d.impl)
	}
	if door != DoorPeer {
		healthpb.RegisterHealthServer(srv, s.health)
		reflection.Register(srv)
	}
}

// SetServing sets what gRPC health answers for the whole server and for each service.
func (s *Service) SetServing(ok bool) {
	st := healthpb.HealthCheckResponse_NOT_SERVING
	if ok {
		st = healthpb.HealthCheckResponse_SERVING
	}
	s.health.SetServingStatus("", st)
	for _, d := range []string{"Principals", "Keytabs", "Policies", "Roles", "Cluster", "Backups", "Rotation"} {
		s.health.SetServingStatus("charon.admin.v1."+d, st)
	}
}

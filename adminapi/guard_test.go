package adminapi

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	grpcpeer "google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	adminv1 "github.com/charon-kdc/charon/proto/charon/admin/v1"
	"github.com/charon-kdc/charon/raftstore/peer"
)

// reasonOf is code and ErrorInfo reason of a call's error, "OK" for none.
func reasonOf(err error) string {
	if err == nil {
		return "OK"
	}
	if info := errorInfo(err); info != nil {
		return info.GetReason()
	}
	return status.Code(err).String()
}

func wantReason(t *testing.T, err error, code codes.Code, reason string) {
	t.Helper()
	if status.Code(err) != code || reasonOf(err) != reason {
		t.Errorf("got %v %s (%v), want %v %s", status.Code(err), reasonOf(err), err, code, reason)
	}
}

func TestEveryMethodHasARule(t *testing.T) {
	known := 0
	for _, d := range []grpc.ServiceDesc{adminv1.Principals_ServiceDesc, adminv1.Keytabs_ServiceDesc, adminv1.Policies_ServiceDesc, adminv1.Roles_ServiceDesc, adminv1.Cluster_ServiceDesc, adminv1.Backups_ServiceDesc, adminv1.Rotation_ServiceDesc, adminv1.Diagnosis_ServiceDesc, adminv1.Upgrade_ServiceDesc} {
		for _, m := range d.Methods {
			full := "/" + d.ServiceName + "/" + m.MethodName
			if _, ok := rules[full]; !ok {
				t.Errorf("%s has no rule", full)
			}
			if _, err := answerOf(full); err != nil {
				t.Errorf("%s can't be forwarded: %v", full, err)
			}
			known++
		}
		for _, m := range d.Streams {
			if _, ok := rules["/"+d.ServiceName+"/"+m.StreamName]; !ok {
				t.Errorf("stream %s of %s has no rule", m.StreamName, d.ServiceName)
			}
			known++
		}
	}
	if known != len(rules) {
		t.Errorf("%d rules for %d methods", len(rules), known)
	}
}

// Who calls is what the door proves, and forwarded names count at the members' door alone.
func TestIdentifyByDoor(t *testing.T) {
	b := newBench(t)
	forged := metadata.NewIncomingContext(context.Background(), metadata.Pairs(metaCaller, "root"))
	withAuth := func(info credentials.AuthInfo) context.Context {
		return grpcpeer.NewContext(forged, &grpcpeer.Peer{AuthInfo: info})
	}
	ending := func(cn string, at time.Time) credentials.AuthInfo {
		return credentials.TLSInfo{State: tls.ConnectionState{VerifiedChains: [][]*x509.Certificate{{{Subject: pkix.Name{CommonName: cn}, NotAfter: at}}}}}
	}
	cert := func(cn string) credentials.AuthInfo { return ending(cn, b.svc.Now().Add(time.Hour)) }
	for _, c := range []struct {
		what string
		ctx  context.Context
		door Door
		want string
		root bool
	}{
		{"uid 0", withAuth(unixAuthInfo{uid: 0}), DoorUnix, "root", true},
		{"the server's uid", withAuth(unixAuthInfo{uid: 4711}), DoorUnix, "root", true},
		{"another uid", withAuth(unixAuthInfo{uid: 1000}), DoorUnix, "", false},
		{"a certificate at the unix door", withAuth(cert("alice")), DoorUnix, "", false},
		{"nobody at the unix door", forged, DoorUnix, "", false},
		{"a certificate", withAuth(cert("alice")), DoorTLS, "cert:alice", false},
		{"a certificate named root", withAuth(cert("root")), DoorTLS, "cert:root", false},
		{"a certificate with a glob for a name", withAuth(cert("*")), DoorTLS, "", false},
		{"a certificate that ended since the handshake", withAuth(ending("alice", b.svc.Now().Add(-time.Second))), DoorTLS, "", false},
		{"a certificate without a name", withAuth(cert("")), DoorTLS, "", false},
		{"TLS without certificate", withAuth(credentials.TLSInfo{}), DoorTLS, "", false},
		{"unix credentials at the TLS door", withAuth(unixAuthInfo{uid: 0}), DoorTLS, "", false},
		{"a member for root", forged, DoorPeer, "root", true},
		{"a member for nobody", context.Background(), DoorPeer, "", false},
		{"a member for an unknown kind", metadata.NewIncomingContext(context.Background(), metadata.Pairs(metaCaller, "krb:x")), DoorPeer, "", false},
		{"a member for two", metadata.NewIncomingContext(context.Background(), metadata.Pairs(metaCaller, "root", metaCaller, "cert:x")), DoorPeer, "", false},
		{"no door", withAuth(unixAuthInfo{uid: 0}), 0, "", false},
	} {
		got, err := b.svc.identify(c.ctx, c.door)
		if got.Subject != c.want || got.Root != c.root || (err == nil) != (c.want != "") {
			t.Errorf("%s: %+v %v, want %q root=%v", c.what, got, err, c.want, c.root)
		}
	}
}

// A real socket: the kernel names this process, whatever the metadata says.
func TestUnixDoor(t *testing.T) {
	b := newBench(t)
	b.svc.OwnUID = uint32(os.Getuid())
	path := filepath.Join(t.TempDir(), "admin.sock")
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	srv := grpc.NewServer(grpc.Creds(UnixCredentials()))
	b.svc.Register(srv, DoorUnix)
	b.svc.SetServing(true)
	done := make(chan struct{})
	go func() { defer close(done); srv.Serve(ln) }()
	t.Cleanup(func() { srv.Stop(); <-done })
	conn, err := grpc.NewClient("unix:"+path, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	r, err := adminv1.NewRolesClient(conn).GetPrivileges(as("cert:nobody"), &adminv1.GetPrivilegesRequest{})
	if err != nil || !r.GetRoot() || r.GetCaller() != "root" {
		t.Errorf("privileges over the socket: %v %v", r, err)
	}
	h, err := healthpb.NewHealthClient(conn).Check(context.Background(), &healthpb.HealthCheckRequest{Service: "charon.admin.v1.Keytabs"})
	if err != nil || h.GetStatus() != healthpb.HealthCheckResponse_SERVING {
		t.Errorf("health: %v %v", h, err)
	}
	_, err = adminv1.NewClusterClient(conn).GetNodeStats(context.Background(), &adminv1.GetNodeStatsRequest{})
	wantReason(t, err, codes.PermissionDenied, "PERMISSION_DENIED")
	if len(b.audit) != 2 || b.audit[0].Caller != "root" || b.audit[0].Code != "OK" || b.audit[1].Code != "PermissionDenied" {
		t.Errorf("audit: %+v", b.audit)
	}
}

// oneHop is a Forwarder to one other node.
type oneHop struct{ conn *grpc.ClientConn }

func (o oneHop) LeaderConn(context.Context) (*grpc.ClientConn, peer.NodeID, error) {
	return o.conn, peer.NodeID{1}, nil
}
func (o oneHop) Conn(peer.NodeID) (*grpc.ClientConn, error) { return o.conn, nil }

// A follower hands on what must reach the leader, in the caller's name, and answers LOCAL reads itself.
func TestFollowerForwards(t *testing.T) {
	leader := newBench(t)
	leader.add("alice", random(), 0)
	leader.grant(&adminv1.Role{Subject: "cert:helpdesk", Verbs: []string{"inquire"}})
	follower := newBench(t)
	follower.store.Depose()
	follower.svc.NodeName = "n2"
	follower.svc.Forwarder = oneHop{leader.peer}
	ctx := withCaller(context.Background(), Caller{})

	call := func(subject string, req *adminv1.GetPrincipalRequest) (*adminv1.GetPrincipalResponse, error) {
		in := grpcpeer.NewContext(ctx, &grpcpeer.Peer{AuthInfo: credentials.TLSInfo{State: tls.ConnectionState{
			VerifiedChains: [][]*x509.Certificate{{{Subject: pkix.Name{CommonName: subject}, NotAfter: time.Unix(1<<40, 0)}}}}}})
		resp, err := follower.svc.serve(in, DoorTLS, api+"Principals/GetPrincipal", req, func(ctx context.Context, r any) (any, error) {
			return principalServer{Service: follower.svc}.GetPrincipal(ctx, r.(*adminv1.GetPrincipalRequest))
		})
		if err != nil {
			return nil, err
		}
		return resp.(*adminv1.GetPrincipalResponse), nil
	}
	r, err := call("helpdesk", &adminv1.GetPrincipalRequest{Name: "alice"})
	if err != nil || r.GetMeta().GetNode() != "n1" || r.GetPrincipal().GetName() != "alice@EXAMPLE.COM" {
		t.Errorf("forwarded: %v %v", r, err)
	}
	_, err = call("mallory", &adminv1.GetPrincipalRequest{Name: "alice"})
	wantReason(t, err, codes.PermissionDenied, "PERMISSION_DENIED")
	// The follower's own state has neither role nor alice.
	_, err = call("helpdesk", &adminv1.GetPrincipalRequest{Name: "alice", Consistency: adminv1.Consistency_CONSISTENCY_LOCAL})
	wantReason(t, err, codes.PermissionDenied, "PERMISSION_DENIED")

	// One hop: what comes in by the members' door is not handed on.
	_, err = follower.principals().DeletePrincipal(as("root"), &adminv1.DeletePrincipalRequest{RequestId: follower.fresh(), Name: "alice"})
	wantReason(t, err, codes.Unavailable, "NOT_APPLIED")
	if leader.store.Proposals() != 2 {
		t.Errorf("%d proposals, want alice and the role", leader.store.Proposals())
	}
}

// A lost connection to the leader leaves a mutation's outcome open, and a read's not.
func TestForwardLost(t *testing.T) {
	down := status.Error(codes.Unavailable, "connection reset")
	wantReason(t, toStatus(forwardError(down, &adminv1.DeletePrincipalRequest{}), "n2", []byte{1, 2}), codes.Unavailable, "OUTCOME_UNKNOWN")
	wantReason(t, toStatus(forwardError(down, &adminv1.GetPrincipalRequest{}), "n2", nil), codes.Unavailable, "NOT_APPLIED")
	info := errorInfo(toStatus(forwardError(down, &adminv1.DeletePrincipalRequest{}), "n2", []byte{1, 2}))
	if info.GetMetadata()["request_id"] != "0102" || info.GetMetadata()["outcome"] != "unknown" {
		t.Errorf("metadata %v", info.GetMetadata())
	}
}

func TestInternalErrorsSayNothing(t *testing.T) {
	err := toStatus(os.ErrPermission, "n1", nil)
	wantReason(t, err, codes.Internal, "INTERNAL")
	if got := status.Convert(err).Message(); got != "internal error; the node's log says more" {
		t.Errorf("message %q", got)
	}
}

func TestPanicIsAnError(t *testing.T) {
	b := newBench(t)
	in := metadata.NewIncomingContext(context.Background(), metadata.Pairs(metaCaller, "root"))
	_, err := b.svc.serve(in, DoorPeer, api+"Roles/GetPrivileges", &adminv1.GetPrivilegesRequest{}, func(context.Context, any) (any, error) { panic("boom") })
	wantReason(t, err, codes.Internal, "INTERNAL")
}

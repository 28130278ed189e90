// Package forward carries gRPC calls between the nodes of a cluster, most of all from a follower to the leader: one hop,
// over the peer port's charon-forward/1 service.
//
// It owns the server, the client connections and the identity of the calling node. It must not know what is called, nor
// Raft: who leads and where a node is come from its Directory.
package forward

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	grpcpeer "google.golang.org/grpc/peer"

	"github.com/charon-kdc/charon/raftstore/peer"
)

// ErrNoLeader says that no leader is known now.
var ErrNoLeader = errors.New("no leader known")

// ErrSelf says that the node asked for is this one.
var ErrSelf = errors.New("that node is this one")

// messageMax bounds one message, in bytes: a forwarded admin page of a thousand records fits.
const messageMax = 16 << 20

// Directory tells who leads and where nodes are.
type Directory interface {
	// LeaderID of the realm group; false when unknown.
	LeaderID() (peer.NodeID, bool)
	// PeerAddress of a member, host:port.
	PeerAddress(id peer.NodeID) (string, bool)
	// Self is this node.
	Self() peer.NodeID
}

// Forward is one node's server and its connections to the others.
type Forward struct {
	id     *peer.Identity
	dir    Directory
	server *grpc.Server

	mu     sync.Mutex
	conns  map[peer.NodeID]*conn
	closed bool
}

type conn struct {
	cc   *grpc.ClientConn
	addr string
}

// New makes the server; services are registered on Server() before Serve.
func New(id *peer.Identity, dir Directory, opts ...grpc.ServerOption) *Forward {
	opts = append([]grpc.ServerOption{
		grpc.Creds(handshaken{}),
		grpc.MaxRecvMsgSize(messageMax),
		grpc.MaxConcurrentStreams(1024),
		grpc.WaitForHandlers(true),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
	}, opts...)
	return &Forward{id: id, dir: dir, server: grpc.NewServer(opts...), conns: map[peer.NodeID]*conn{}}
}

// Server to register services on.
func (f *Forward) Server() *grpc.Server { return f.server }

// Serve accepts on the mux's listener until Close.
func (f *Forward) Serve(ln net.Listener) error {
	err := f.server.Serve(ln)
	if errors.Is(err, grpc.ErrServerStopped) || errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// Caller is the member that makes the call, from its certificate. False: the call did not come over the peer port.
func Caller(ctx context.Context) (peer.NodeID, bool) {
	p, ok := grpcpeer.FromContext(ctx)
	if !ok {
		return peer.NodeID{}, false
	}
	a, ok := p.AuthInfo.(AuthInfo)
	return a.Peer, ok && !a.Peer.IsZero()
}

// CallerKey is the key by which Caller's member has shown itself.
func CallerKey(ctx context.Context) (peer.KeyHash, bool) {
	p, ok := grpcpeer.FromContext(ctx)
	if !ok {
		return peer.KeyHash{}, false
	}
	a, ok := p.AuthInfo.(AuthInfo)
	return a.Key, ok
}

// LeaderConn is a connection to the leader of the realm group. Errors: ErrNoLeader, ErrSelf.
func (f *Forward) LeaderConn(ctx context.Context) (*grpc.ClientConn, peer.NodeID, error) {
	id, ok := f.dir.LeaderID()
	if !ok {
		return nil, id, ErrNoLeader
	}
	cc, err := f.Conn(id)
	return cc, id, err
}

// Conn is a connection to a member; it is shared and must not be closed. It dials when first used and again after losses.
func (f *Forward) Conn(id peer.NodeID) (*grpc.ClientConn, error) {
	if id == f.dir.Self() {
		return nil, ErrSelf
	}
	addr, ok := f.dir.PeerAddress(id)
	if !ok {
		return nil, fmt.Errorf("node %v: %w", id, peer.ErrNotMember)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return nil, net.ErrClosed
	}
	if c, ok := f.conns[id]; ok {
		if c.addr == addr {
			if c.cc.GetState() == connectivity.TransientFailure {
				c.cc.ResetConnectBackoff()
			}
			return c.cc, nil
		}
		c.cc.Close() // it has moved
		delete(f.conns, id)
	}
	cc, err := grpc.NewClient("passthrough:///"+addr,
		grpc.WithTransportCredentials(handshaken{}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(messageMax)),
		grpc.WithDisableServiceConfig(),
		grpc.WithIdleTimeout(0),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 3 * time.Second, PermitWithoutStream: true}),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
			MinConnectTimeout: 2 * time.Second,
		}),
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
			ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
			defer cancel()
			return peer.Dial(ctx, peer.ALPNForward, addr, f.id, id)
		}))
	if err != nil {
		return nil, fmt.Errorf("connecting to node %v: %w", id, err)
	}
	f.conns[id] = &conn{cc: cc, addr: addr}
	return cc, nil
}

// Dial is a connection to whichever member answers at an address, for a node that does not run. The caller closes it.
func Dial(id *peer.Identity, addr string) (*grpc.ClientConn, error) {
	return grpc.NewClient("passthrough:///"+addr,
		grpc.WithTransportCredentials(handshaken{}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(messageMax)),
		grpc.WithDisableServiceConfig(),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 3 * time.Second}),
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
			return peer.Dial(ctx, peer.ALPNForward, addr, id, peer.NodeID{})
		}))
}

// Drop closes the connection to a node that has left.
func (f *Forward) Drop(id peer.NodeID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if c, ok := f.conns[id]; ok {
		c.cc.Close()
		delete(f.conns, id)
	}
}

// Renew has every later call go by a new connection, with the certificate that the node has by then. Calls in work have grace to end.
func (f *Forward) Renew(grace time.Duration) {
	f.mu.Lock()
	old := f.conns
	f.conns = map[peer.NodeID]*conn{}
	f.mu.Unlock()
	time.AfterFunc(grace, func() {
		for _, c := range old {
			c.cc.Close()
		}
	})
}

// Close ends connections and server; calls in work are cancelled.
func (f *Forward) Close() {
	f.mu.Lock()
	f.closed = true
	for id, c := range f.conns {
		c.cc.Close()
		delete(f.conns, id)
	}
	f.mu.Unlock()
	f.server.Stop()
}

// AuthInfo is who is at the other end of a peer connection.
type AuthInfo struct {
	credentials.CommonAuthInfo
	Peer peer.NodeID
	Key  peer.KeyHash
}

// AuthType names the mechanism.
func (AuthInfo) AuthType() string { return "charon-peer" }

// handshaken are credentials over connections whose TLS handshake peer has done, on both sides.
type handshaken struct{}

func (handshaken) handshake(c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	pc, ok := c.(*peer.Conn)
	if !ok || pc.Peer.IsZero() {
		return nil, nil, errors.New("not a connection of a member")
	}
	return pc, AuthInfo{
		CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity},
		Peer:           pc.Peer,
		Key:            pc.Key,
	}, nil
}

func (h handshaken) ClientHandshake(_ context.Context, _ string, c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return h.handshake(c)
}

func (h handshaken) ServerHandshake(c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return h.handshake(c)
}

func (handshaken) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "tls"}
}
func (h handshaken) Clone() credentials.TransportCredentials { return h }
func (handshaken) OverrideServerName(string) error           { return nil }

package forward

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"log/slog"
	"math/big"
	"net"
	"net/url"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	peerv1 "github.com/charon-kdc/charon/proto/charon/peer/v1"
	"github.com/charon-kdc/charon/raftstore/peer"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var cluster = [16]byte{1}

// node is one end, with a service that says who called.
type node struct {
	id  peer.NodeID
	mux *peer.Mux
	fwd *Forward
	wg  sync.WaitGroup
}

type directory struct {
	mu     sync.Mutex
	self   peer.NodeID
	leader peer.NodeID
	addr   map[peer.NodeID]string
}

func (d *directory) LeaderID() (peer.NodeID, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.leader, !d.leader.IsZero()
}

func (d *directory) PeerAddress(id peer.NodeID) (string, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	a, ok := d.addr[id]
	return a, ok
}

func (d *directory) Self() peer.NodeID { return d.self }

type whoami struct{ peerv1.UnimplementedPeerServer }

func (whoami) Info(ctx context.Context, _ *peerv1.InfoRequest) (*peerv1.InfoResponse, error) {
	id, ok := Caller(ctx)
	if !ok {
		return nil, status.Error(codes.PermissionDenied, "no caller")
	}
	return &peerv1.InfoResponse{Id: id[:]}, nil
}

func issuer(t *testing.T) func(id peer.NodeID) peer.Identity {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	root := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "CA"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, root, root, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	if root, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(root)
	return func(id peer.NodeID) peer.Identity {
		leaf := &x509.Certificate{
			SerialNumber: big.NewInt(2), NotBefore: root.NotBefore, NotAfter: root.NotAfter,
			KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
			URIs: []*url.URL{peer.URI(cluster, id)},
		}
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		der, err := x509.CreateCertificate(rand.Reader, leaf, root, k.Public(), key)
		if err != nil {
			t.Fatal(err)
		}
		cert := &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: k}
		return peer.Identity{
			ClusterID:   cluster,
			Certificate: func() (*tls.Certificate, error) { return cert, nil },
			Roots:       func() *x509.CertPool { return pool },
		}
	}
}

func start(t *testing.T, id peer.NodeID, ident peer.Identity, dir *directory) *node {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	dir.self = id
	n := &node{id: id, mux: peer.NewMux(ln, &ident, slog.New(slog.DiscardHandler)), fwd: New(&ident, dir)}
	peerv1.RegisterPeerServer(n.fwd.Server(), whoami{})
	n.wg.Add(2)
	go func() {
		defer n.wg.Done()
		if err := n.mux.Serve(); err != nil {
			t.Error(err)
		}
	}()
	go func() {
		defer n.wg.Done()
		if err := n.fwd.Serve(n.mux.Listener(peer.ALPNForward)); err != nil {
			t.Error(err)
		}
	}()
	t.Cleanup(n.stop)
	return n
}

func (n *node) stop() {
	n.fwd.Close()
	_ = n.mux.Close()
	n.wg.Wait()
}

func TestCallsCarryTheCaller(t *testing.T) {
	issue := issuer(t)
	a, b, stranger := peer.NodeID{0xa}, peer.NodeID{0xb}, peer.NodeID{0xc}
	dir := &directory{addr: map[peer.NodeID]string{}}
	na := start(t, a, issue(a), dir)
	leader := start(t, b, issue(b), &directory{})
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()

	if _, _, err := na.fwd.LeaderConn(ctx); !errors.Is(err, ErrNoLeader) {
		t.Errorf("no leader known: %v", err)
	}
	dir.mu.Lock()
	dir.leader, dir.addr[b] = b, leader.mux.Addr().String()
	dir.mu.Unlock()
	cc, id, err := na.fwd.LeaderConn(ctx)
	if err != nil || id != b {
		t.Fatalf("%v, %v", id, err)
	}
	info, err := peerv1.NewPeerClient(cc).Info(ctx, &peerv1.InfoRequest{})
	if err != nil || [16]byte(info.GetId()) != [16]byte(a) {
		t.Fatalf("caller %x, %v; want %v", info.GetId(), err, a)
	}
	if again, err := na.fwd.Conn(b); err != nil || again != cc {
		t.Errorf("a second connection to one node: %v", err)
	}
	if _, err := na.fwd.Conn(a); !errors.Is(err, ErrSelf) {
		t.Errorf("to itself: %v", err)
	}
	if _, err := na.fwd.Conn(stranger); !errors.Is(err, peer.ErrNotMember) {
		t.Errorf("to a stranger: %v", err)
	}

	// Another node sits at the address: it must not get the call.
	other := start(t, stranger, issue(stranger), &directory{})
	dir.mu.Lock()
	dir.addr[b] = other.mux.Addr().String()
	dir.mu.Unlock()
	cc, err = na.fwd.Conn(b)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := peerv1.NewPeerClient(cc).Info(ctx, &peerv1.InfoRequest{}); status.Code(err) != codes.Unavailable {
		t.Errorf("a call for one node reached another: %v", err)
	}
	na.fwd.Drop(b)
	na.fwd.Close()
	if _, err := na.fwd.Conn(b); !errors.Is(err, net.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

func TestCallerOfAnotherTransport(t *testing.T) {
	if id, ok := Caller(context.Background()); ok {
		t.Errorf("a call from nowhere has a caller: %v", id)
	}
}

package adminapi

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/charon-kdc/charon/kdc/kdb/masterkey"
	adminv1 "github.com/charon-kdc/charon/proto/charon/admin/v1"
	statev1 "github.com/charon-kdc/charon/proto/charon/state/v1"
	"github.com/charon-kdc/charon/raftstore"
	"github.com/charon-kdc/charon/raftstore/peer"
	"github.com/charon-kdc/charon/raftstore/realm"
)

const patience = 40 * time.Second

// realCluster is three nodes with the real store in one process, whose leader dies where a test says.
type realCluster struct {
	t     *testing.T
	id    [16]byte
	key   *ecdsa.PrivateKey
	ca    *x509.Certificate
	nodes []*realNode

	mu   sync.Mutex
	step string // at which the leader dies, once
	died chan *realNode
}

type realNode struct {
	c    *realCluster
	name string
	dir  string
	addr string
	id   peer.NodeID
	cert *tls.Certificate
	now  atomic.Pointer[running] // nil while dead
}

// running is a node from a start to its death.
type running struct {
	*realNode
	store  *raftstore.Store
	svc    *Service
	conn   *grpc.ClientConn
	ctx    context.Context
	cancel context.CancelFunc
	tended chan struct{}
}

func newRealCluster(t *testing.T) *realCluster {
	c := &realCluster{t: t, died: make(chan *realNode, 1)}
	var err error
	if c.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	c.ca = c.issue(&x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}, nil, &c.key.PublicKey)
	ring, err := masterkey.Generate(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, n := range c.nodes {
			n.kill()
		}
	})
	for i := range 3 {
		n := c.newNode(fmt.Sprintf("n%d", i+1), ring)
		if i == 0 {
			n.start(&raftstore.Bootstrap{Commands: c.genesis(ring)})
			continue
		}
		c.join(n)
	}
	return c
}

func (c *realCluster) issue(tmpl, parent *x509.Certificate, pub *ecdsa.PublicKey) *x509.Certificate {
	c.t.Helper()
	tmpl.SerialNumber, tmpl.Subject = big.NewInt(time.Now().UnixNano()), pkix.Name{CommonName: "test"}
	tmpl.NotBefore, tmpl.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	if parent == nil {
		parent = tmpl
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, pub, c.key)
	if err != nil {
		c.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		c.t.Fatal(err)
	}
	return cert
}

// newNode has the ring on its disk and is not started.
func (c *realCluster) newNode(name string, ring *masterkey.Ring) *realNode {
	c.t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		c.t.Fatal(err)
	}
	defer ln.Close()
	n := &realNode{c: c, name: name, dir: filepath.Join(c.t.TempDir(), name), addr: ln.Addr().String()}
	if err := os.MkdirAll(n.dir, 0o700); err != nil {
		c.t.Fatal(err)
	}
	if err := ring.WriteFile(n.keyPath()); err != nil {
		c.t.Fatal(err)
	}
	if n.id, _, err = raftstore.Prepare(n.dir); err != nil {
		c.t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		c.t.Fatal(err)
	}
	cert := c.issue(&x509.Certificate{
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}, URIs: []*url.URL{peer.URI(c.id, n.id)},
	}, c.ca, &key.PublicKey)
	n.cert = &tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key}
	c.nodes = append(c.nodes, n)
	return n
}

func (n *realNode) keyPath() string { return filepath.Join(n.dir, "master.key") }

func (n *realNode) start(b *raftstore.Bootstrap) {
	n.c.t.Helper()
	if err := n.tryStart(b); err != nil {
		n.c.t.Fatalf("starting %s: %v", n.name, err)
	}
}

func (n *realNode) tryStart(b *raftstore.Bootstrap) error {
	t := n.c.t
	ring, err := masterkey.Load(n.keyPath())
	if err != nil {
		return err
	}
	var ln net.Listener
	n.c.until("port of "+n.name, func() bool { ln, err = net.Listen("tcp", n.addr); return err == nil })
	roots := x509.NewCertPool()
	roots.AddCert(n.c.ca)
	log := slog.New(slog.DiscardHandler)
	if os.Getenv("CHARON_TEST_LOG") != "" {
		log = slog.New(slog.NewTextHandler(t.Output(), nil)).With("node", n.name)
	}
	s, err := raftstore.Open(raftstore.Config{
		Dir: n.dir, Self: &statev1.Node{Name: n.name, PeerAddress: n.addr}, Listener: ln, Bootstrap: b, Ring: ring, Keys: masterkey.NewFile(n.keyPath(), ring, ""),
		Identity: peer.Identity{
			ClusterID: n.c.id, Certificate: func() (*tls.Certificate, error) { return n.cert, nil }, Roots: func() *x509.CertPool { return roots },
		},
		MapSize: 64 << 20, LogMapSize: 64 << 20, Logger: log,
		Fatal:  func(err error) { t.Errorf("%s: %v", n.name, err) },
		Timing: raftstore.Timing{Heartbeat: 300 * time.Millisecond, Lease: 200 * time.Millisecond, Commit: 20 * time.Millisecond, PromoteAfter: 100 * time.Millisecond},
	})
	if err != nil {
		return err
	}
	r := &running{realNode: n, store: s, tended: make(chan struct{})}
	r.svc, err = New(Config{
		Store: s, Reader: s.DB(), Sealer: ring, Forwarder: s.Forward(), MasterKeys: s, NodeName: n.name, Now: time.Now, Rand: rand.Reader, Logger: log,
	})
	if err != nil {
		return err
	}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	r.svc.at = r.reached
	r.svc.Register(s.Forward().Server(), DoorPeer)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := s.Start(ctx); err != nil {
		return err
	}
	r.conn = serveFor(t, r.svc, DoorPeer)
	n.now.Store(r)
	go func() { defer close(r.tended); r.svc.Tend(r.ctx) }()
	return nil
}

// reached is where the leader dies: it goes no further, and is killed.
func (n *running) reached(step string) error {
	n.c.mu.Lock()
	dies := step == n.c.step
	if dies {
		n.c.step = ""
	}
	n.c.mu.Unlock()
	if !dies {
		return nil
	}
	n.c.died <- n.realNode
	<-n.ctx.Done()
	return errDied
}

// kill ends a node without handing anything over.
func (n *realNode) kill() {
	r := n.now.Swap(nil)
	if r == nil {
		return
	}
	r.cancel()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := r.store.Shutdown(ctx); err != nil {
		n.c.t.Errorf("stopping %s: %v", n.name, err)
	}
	<-r.tended
}

func (c *realCluster) until(what string, ok func() bool) {
	c.t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			c.t.Fatalf("waited %v for %s", patience, what)
		}
	}
}

func (c *realCluster) alive() (out []*running) {
	for _, n := range c.nodes {
		if r := n.now.Load(); r != nil {
			out = append(out, r)
		}
	}
	return out
}

func (c *realCluster) leader() *running {
	for _, n := range c.alive() {
		if n.store.IsLeader() {
			return n
		}
	}
	return nil
}

func (c *realCluster) join(n *realNode) {
	c.t.Helper()
	var peers []raftstore.JoinPeer
	for _, o := range c.alive() {
		peers = append(peers, raftstore.JoinPeer{ID: o.id.String(), PeerAddress: o.addr})
	}
	if err := raftstore.SaveJoinPeers(n.dir, peers); err != nil {
		c.t.Fatal(err)
	}
	_, replayID, err := raftstore.Prepare(n.dir)
	if err != nil {
		c.t.Fatal(err)
	}
	n.start(nil)
	rec := &statev1.Node{Id: n.id[:], ReplayId: replayID[:], Name: n.name, PeerAddress: n.addr, FeatureLevelMax: realm.FeatureLevelMax}
	c.until("the leader to add "+n.name, func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		l := c.leader()
		return l != nil && l.store.AddNode(ctx, rec) == nil
	})
	c.ready()
}

// ready waits until all that live serve, and vote if they are members.
func (c *realCluster) ready() {
	c.t.Helper()
	c.until("all nodes to be ready", func() bool {
		for _, n := range c.alive() {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			st := n.store.Status(ctx)
			cancel()
			if _, tgs, _ := n.store.Ready(); !tgs || st.Voters != len(c.nodes) || st.Leader.ID.IsZero() {
				return false
			}
		}
		return true
	})
}

// genesis is a realm with a krbtgt and some principals.
func (c *realCluster) genesis(ring *masterkey.Ring) []*statev1.Command {
	secret := func(name string) *statev1.Command {
		b, err := ring.Seal(rand.Reader, masterkey.SecretAAD(c.id[:], name), make([]byte, 32))
		if err != nil {
			c.t.Fatal(err)
		}
		return &statev1.Command{Op: &statev1.Command_PutSecret{PutSecret: &statev1.PutSecret{Secret: &statev1.Secret{Name: name, Key: b}}}}
	}
	out := []*statev1.Command{
		{Op: &statev1.Command_PutCluster{PutCluster: &statev1.PutCluster{Cluster: &statev1.Cluster{
			Id: c.id[:], DefaultRealm: testRealm, FeatureLevel: realm.FeatureLevelMax, MasterKeyVersion: 1,
		}}}},
		putRealm(&statev1.Realm{Name: testRealm, MaxLife: 36000, MaxRenewableLife: 604800, Etypes: []int32{18}}, nil),
		secret(raftstore.ReplayKeyName), secret("ca/node"), secret("cookie-key"),
	}
	batch := &statev1.Batch{}
	for i := range 601 {
		p := &statev1.Principal{Id: make([]byte, 16), Realm: testRealm, Name: []string{"p", fmt.Sprint(i)}, Kvno: 1}
		if i == 0 {
			p.Name = []string{"krbtgt", testRealm}
			p.LastPasswordChange = time.Now().UnixMilli()
		}
		if _, err := rand.Read(p.Id); err != nil {
			c.t.Fatal(err)
		}
		k := &statev1.Key{Kvno: 1, Etype: 18}
		var err error
		if k.Key, err = ring.Seal(rand.Reader, masterkey.KeyAAD(c.id[:], p, k), make([]byte, 32)); err != nil {
			c.t.Fatal(err)
		}
		p.Keys = []*statev1.Key{k}
		batch.Commands = append(batch.Commands, putPrincipal(p, nil))
	}
	return append(out, &statev1.Command{Op: &statev1.Command_Batch{Batch: batch}})
}

// dieAt has the leader killed once it reaches step while f runs, and started again when the others have ended what it began.
func (c *realCluster) dieAt(step string, f func(), ended func() bool) {
	c.t.Helper()
	c.mu.Lock()
	c.step = step
	c.mu.Unlock()
	done := make(chan struct{})
	go func() { defer close(done); f() }()
	var dead *realNode
	select {
	case dead = <-c.died:
	case <-time.After(patience):
		c.t.Fatalf("step %q was not reached", step)
	}
	dead.kill()
	c.until("another node to lead", func() bool { return c.leader() != nil })
	if strings.HasPrefix(step, "master key staged") || step == "master key everywhere" {
		// Every node must store the key: the dead one, too.
		c.until("who lacks the key to be named", func() bool {
			r := c.masterKey()
			return slices.ContainsFunc(r.GetRotation().GetWaiting(), func(w string) bool { return strings.HasPrefix(w, dead.name+": ") })
		})
		dead.start(nil)
	}
	c.until("the end after a death at "+step, ended)
	<-done
	if dead.now.Load() == nil {
		dead.start(nil)
	}
	c.ready()
}

// everywhere tells whether f holds of every living node's own state.
func (c *realCluster) everywhere(f func(*running) bool) func() bool {
	return func() bool { return !slices.ContainsFunc(c.alive(), func(n *running) bool { return !f(n) }) }
}

func (c *realCluster) call(f func(ctx context.Context, n *running) error) {
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		n := c.leader()
		if n == nil {
			continue
		}
		ctx, cancel := context.WithTimeout(as("root"), 5*time.Second)
		err := f(ctx, n)
		cancel()
		if err == nil {
			return
		}
	}
	c.t.Error("a call that never succeeds")
}

func (c *realCluster) masterKey() (resp *adminv1.GetMasterKeyResponse) {
	c.call(func(ctx context.Context, n *running) (err error) {
		resp, err = adminv1.NewRotationClient(n.conn).GetMasterKey(ctx, &adminv1.GetMasterKeyRequest{})
		return err
	})
	return resp
}

func requestIDNow() []byte {
	id := make([]byte, 16)
	if _, err := rand.Read(id); err != nil {
		panic(err)
	}
	ms := time.Now().UnixMilli()
	for i := range 6 {
		id[i] = byte(ms >> (40 - 8*i))
	}
	id[6], id[8] = id[6]&0x0f|0x70, id[8]&0x3f|0x80
	return id
}

// A leader that dies at any step of a rotation is followed by one that ends it, and the caller's retries act once. Then the whole cluster dies at
// once, a node that may hold the staged key is removed, and one comes back with an old key file.
func TestRotationsOutliveLeaders(t *testing.T) {
	c := newRealCluster(t)
	tgs := func(n *running) string {
		p, err := n.store.DB().GetPrincipal(testRealm, []string{"krbtgt", testRealm})
		if err != nil {
			return err.Error()
		}
		return states(p)
	}
	kvno := 1
	for _, step := range []string{"krbtgt staged", "krbtgt everywhere", "krbtgt active"} {
		req := &adminv1.RotateKrbtgtRequest{RequestId: requestIDNow(), RevokeOld: true}
		kvno++
		c.dieAt(step, func() {
			c.call(func(ctx context.Context, n *running) error {
				_, err := adminv1.NewRotationClient(n.conn).RotateKrbtgt(ctx, req)
				return err
			})
		}, c.everywhere(func(n *running) bool { return tgs(n) == fmt.Sprintf("%d:active", kvno) }))
	}

	version := uint32(1)
	clean := func(n *running) bool {
		cl, err := n.store.DB().Cluster()
		if err != nil || cl.GetMasterKeyRotation() != nil || cl.GetMasterKeyVersion() != version {
			return false
		}
		stale, err := n.store.DB().CountStale(version)
		return err == nil && stale == 0 && opens(t, n)
	}
	rotate := func() {
		req := &adminv1.RotateMasterKeyRequest{RequestId: requestIDNow()}
		c.call(func(ctx context.Context, n *running) error {
			_, err := adminv1.NewRotationClient(n.conn).RotateMasterKey(ctx, req)
			return err
		})
	}
	for _, step := range []string{
		"master key staged", "master key everywhere", "master key active", "master key resealing", "master key resealed", "master key finished",
	} {
		version++
		c.dieAt(step, rotate, c.everywhere(clean))
	}

	t.Log("all nodes die while resealing")
	version++
	c.mu.Lock()
	c.step = "master key resealing"
	c.mu.Unlock()
	rotate()
	<-c.died
	for _, n := range c.nodes {
		n.kill()
	}
	for _, n := range c.nodes {
		n.start(nil)
	}
	c.until("the end after a power cut", c.everywhere(clean))
	c.ready()

	t.Log("an old key file is put back")
	old, err := os.ReadFile(c.nodes[2].keyPath())
	if err != nil {
		t.Fatal(err)
	}
	version++
	rotate()
	c.until("a rotation", c.everywhere(clean))
	n := c.nodes[2]
	n.kill()
	newest, err := os.ReadFile(n.keyPath())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(n.keyPath(), old, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := n.tryStart(nil); err == nil || !strings.Contains(err.Error(), "put the file of another node in its place") {
		t.Fatalf("started with an old key file: %v", err)
	}
	if err := os.WriteFile(n.keyPath(), newest, 0o600); err != nil {
		t.Fatal(err)
	}
	n.start(nil)
	c.ready()

	t.Log("retired")
	c.call(func(ctx context.Context, n *running) error {
		_, err := adminv1.NewRotationClient(n.conn).RetireMasterKeys(ctx, &adminv1.RetireMasterKeysRequest{RequestId: requestIDNow()})
		return err
	})
	c.until("old versions to be gone from every disk", c.everywhere(func(n *running) bool {
		ring, err := masterkey.Load(n.keyPath())
		return err == nil && slices.Equal(ring.Versions(), []uint32{version})
	}))

	t.Log("a node that may hold the staged key is removed")
	version += 2 // the staged one is given up
	n.kill()
	c.call(func(ctx context.Context, l *running) error {
		cl, err := l.store.DB().Cluster()
		if err != nil {
			return err
		}
		cmd, _, err := l.svc.newVersion(cl, "root", false) // as RotateMasterKey would not with a node down
		if err != nil {
			return err
		}
		res, err := l.store.Propose(ctx, cmd)
		return applied(res, err, "staging")
	})
	c.call(func(ctx context.Context, l *running) error {
		_, err := adminv1.NewClusterClient(l.conn).RemoveNode(ctx, &adminv1.RemoveNodeRequest{RequestId: requestIDNow(), Name: n.name, Force: true})
		return err
	})
	c.until("a rotation without it", c.everywhere(clean))
}

// opens tells whether the node's own ring opens what its state holds.
func opens(t *testing.T, n *running) bool {
	p, err := n.store.DB().GetPrincipal(testRealm, []string{"p", "600"})
	if err != nil {
		t.Error(err)
		return false
	}
	if _, err := n.svc.openKey(n.c.id[:], p, p.GetKeys()[0]); err != nil {
		t.Errorf("%s: %v", n.name, err)
	}
	return true
}

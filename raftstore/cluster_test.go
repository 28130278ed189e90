package raftstore

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"go.uber.org/goleak"

	"github.com/charon-kdc/charon/kdc/kdb"
	"github.com/charon-kdc/charon/kdc/kdb/masterkey"
	"github.com/charon-kdc/charon/kdc/krb5"
	"github.com/charon-kdc/charon/kdc/krb5/kcrypto"
	statev1 "github.com/charon-kdc/charon/proto/charon/state/v1"
	"github.com/charon-kdc/charon/raftstore/peer"
	"github.com/charon-kdc/charon/raftstore/realm"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for something that must come.
const patience = 40 * time.Second

// authority is a node CA made for a test.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "node CA"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return &authority{cert, key, pool}
}

func (a *authority) issue(t testing.TB, cluster [16]byte, id peer.NodeID) *tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "node"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		URIs:        []*url.URL{peer.URI(cluster, id)},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func (a *authority) identity(t testing.TB, cluster [16]byte, id peer.NodeID) peer.Identity {
	cert := a.issue(t, cluster, id)
	return peer.Identity{
		ClusterID:   cluster,
		Certificate: func() (*tls.Certificate, error) { return cert, nil },
		Roots:       func() *x509.CertPool { return a.pool },
	}
}

// cluster is some nodes in one process.
type cluster struct {
	t     testing.TB
	id    [16]byte
	ca    *authority
	ring  *masterkey.Ring
	nodes []*testNode
	tune  func(*Config)
	// made at this feature level; 0: the newest.
	madeAt uint32
	// ctime of every proof: it is part of an authenticator, so a copy has the same.
	ctime time.Time
}

type testNode struct {
	c     *cluster
	name  string
	dir   string
	addr  string
	id    peer.NodeID
	store *Store // nil while stopped
	// off: the node's certificate can't be used, so it makes and takes no connections.
	off atomic.Bool
}

// newCluster makes n nodes that all vote. tune, if not nil, changes each node's configuration.
func newCluster(t testing.TB, n int, tune func(*Config), options ...func(*cluster)) *cluster {
	t.Helper()
	c := &cluster{t: t, ca: newAuthority(t), tune: tune, ctime: time.Now()}
	for _, o := range options {
		o(c)
	}
	if _, err := rand.Read(c.id[:]); err != nil {
		t.Fatal(err)
	}
	var err error
	if c.ring, err = masterkey.Generate(rand.Reader); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.close)
	for i := range n {
		c.add(fmt.Sprintf("n%d", i+1))
	}
	return c
}

func (c *cluster) close() {
	for _, n := range c.nodes {
		n.stop()
	}
}

// add makes the first node of the cluster, or joins one and waits until it votes in both groups.
func (c *cluster) add(name string) *testNode {
	c.t.Helper()
	n := c.newNode(name)
	if len(c.nodes) == 1 {
		n.start(&Bootstrap{Commands: c.firstCommands()})
		c.waitFor(name+" ready", func() bool { _, tgs, _ := n.store.Ready(); return tgs })
		return n
	}
	c.join(n)
	c.waitFor(name+" votes in both groups", func() bool { return c.votes(n) && n.ready() })
	return n
}

func (c *cluster) newNode(name string) *testNode {
	c.t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		c.t.Fatal(err)
	}
	n := &testNode{c: c, name: name, dir: filepath.Join(c.t.TempDir(), name), addr: ln.Addr().String()}
	ln.Close()
	if err := os.MkdirAll(n.dir, 0o700); err != nil {
		c.t.Fatal(err)
	}
	n.prepare()
	c.nodes = append(c.nodes, n)
	return n
}

func (n *testNode) prepare() {
	n.c.t.Helper()
	id, _, err := Prepare(n.dir)
	if err != nil {
		n.c.t.Fatal(err)
	}
	n.id = id
}

// join lets n into the running cluster as a joiner would be: known to the leader, told of the members.
func (c *cluster) join(n *testNode) {
	c.t.Helper()
	var peers []JoinPeer
	for _, o := range c.nodes {
		if o != n {
			peers = append(peers, JoinPeer{ID: o.id.String(), PeerAddress: o.addr})
		}
	}
	if err := SaveJoinPeers(n.dir, peers); err != nil {
		c.t.Fatal(err)
	}
	n.start(nil)
	_, replayID, err := Prepare(n.dir)
	if err != nil {
		c.t.Fatal(err)
	}
	rec := &statev1.Node{Id: n.id[:], ReplayId: replayID[:], Name: n.name, PeerAddress: n.addr, FeatureLevelMax: n.store.cfg.Self.GetFeatureLevelMax()}
	c.waitFor("leader adds "+n.name, func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		l := c.leader()
		return l != nil && l.store.AddNode(ctx, rec) == nil
	})
}

func (n *testNode) config(b *Bootstrap) Config { return n.configOn(n.addr, b) }

func (n *testNode) configOn(addr string, b *Bootstrap) Config {
	n.c.t.Helper()
	var ln net.Listener
	n.c.waitFor("port of "+n.name, func() (ok bool) {
		var err error
		ln, err = net.Listen("tcp", addr)
		return err == nil
	})
	cfg := Config{
		Dir:       n.dir,
		Self:      &statev1.Node{Name: n.name, PeerAddress: n.addr, Version: "test"},
		Listener:  ln,
		Identity:  n.identity(),
		Ring:      n.c.ring,
		Bootstrap: b,
		MapSize:   64 << 20, LogMapSize: 64 << 20,
		Fatal: func(err error) { n.c.t.Errorf("%s: fatal: %v", n.name, err) },
		Timing: Timing{
			Heartbeat: 300 * time.Millisecond, Lease: 200 * time.Millisecond, Commit: 20 * time.Millisecond,
			PromoteAfter: 100 * time.Millisecond,
		},
	}
	if testing.Verbose() && os.Getenv("CHARON_TEST_LOG") != "" {
		cfg.Logger = slog.New(slog.NewTextHandler(os.Stderr, nil)).With("node", n.name)
	}
	if n.c.tune != nil {
		n.c.tune(&cfg)
	}
	return cfg
}

func (n *testNode) identity() peer.Identity {
	id := n.c.ca.identity(n.c.t, n.c.id, n.id)
	cert := id.Certificate
	id.Certificate = func() (*tls.Certificate, error) {
		if n.off.Load() {
			return nil, errors.New("cut off by the test")
		}
		return cert()
	}
	return id
}

// cut parts n from all others; heal undoes it.
func (n *testNode) cut() {
	n.off.Store(true)
	for _, o := range n.c.nodes {
		if o != n && o.store != nil {
			n.store.mux.CloseNode(o.id)
			o.store.mux.CloseNode(n.id)
		}
	}
}

func (n *testNode) heal() { n.off.Store(false) }

func (n *testNode) start(b *Bootstrap) { n.c.t.Helper(); n.run(b, nil) }

// startWith starts a member after change.
func (n *testNode) startWith(change func(s *Store)) { n.c.t.Helper(); n.run(nil, change) }

func (n *testNode) run(b *Bootstrap, change func(s *Store)) {
	n.c.t.Helper()
	s, err := Open(n.config(b))
	if err != nil {
		n.c.t.Fatalf("%s: %v", n.name, err)
	}
	if change != nil {
		change(s)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := s.Start(ctx); err != nil {
		n.c.t.Fatalf("%s: %v", n.name, err)
	}
	n.store = s
}

// stop is orderly.
func (n *testNode) stop() {
	if n.store == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := n.store.Shutdown(ctx); err != nil {
		n.c.t.Errorf("%s: shutdown: %v", n.name, err)
	}
	n.store = nil
}

// kill stops a node without handing anything over.
func (n *testNode) kill() {
	n.store.closing.Do(func() { n.store.stopErr = n.store.stop() })
	n.store = nil
}

func (n *testNode) ready() bool {
	if n.store == nil {
		return false
	}
	_, tgs, _ := n.store.Ready()
	service, _ := n.store.Service()
	return tgs && service == ServiceNormal && n.store.KDB().Fresh()
}

// votes tells whether n votes in both groups, as the leader of the realm sees it.
func (c *cluster) votes(n *testNode) bool {
	l := c.leader()
	if l == nil {
		return false
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	voting := func(role string) bool { return role == RoleLeader || role == RoleFollower }
	for _, s := range l.store.Status(ctx).Nodes {
		if s.Name == n.name {
			return voting(s.Role) && voting(s.ReplayRole)
		}
	}
	return false
}

func (c *cluster) leader() *testNode {
	for _, n := range c.nodes {
		if n.store != nil && n.store.IsLeader() {
			return n
		}
	}
	return nil
}

func (c *cluster) waitLeader() *testNode {
	c.t.Helper()
	var l *testNode
	c.waitFor("a leader", func() bool { l = c.leader(); return l != nil })
	return l
}

func (c *cluster) follower() *testNode {
	c.t.Helper()
	l := c.waitLeader()
	i := slices.IndexFunc(c.nodes, func(n *testNode) bool { return n != l && n.store != nil })
	return c.nodes[i]
}

func (c *cluster) waitFor(what string, ok func() bool) {
	c.t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if ok() {
			return
		}
	}
	c.t.Fatalf("waited in vain for: %s", what)
}

// waitReady waits until every running node serves AS and TGS and is fresh.
func (c *cluster) waitReady() {
	c.t.Helper()
	for _, n := range c.nodes {
		if n.store != nil {
			c.waitFor(n.name+" ready", n.ready)
		}
	}
}

const testRealm = "TEST.CHARON"

func (c *cluster) level() uint32 {
	if c.madeAt != 0 {
		return c.madeAt
	}
	return realm.FeatureLevelMax
}

func (c *cluster) firstCommands() []*statev1.Command {
	key := make([]byte, 32)
	sealed, err := c.ring.Seal(rand.Reader, masterkey.SecretAAD(c.id[:], ReplayKeyName), key)
	if err != nil {
		c.t.Fatal(err)
	}
	return []*statev1.Command{
		{Op: &statev1.Command_PutCluster{PutCluster: &statev1.PutCluster{Cluster: &statev1.Cluster{
			Id: c.id[:], DefaultRealm: testRealm, FeatureLevel: c.level(), MasterKeyVersion: 1,
		}}}},
		{Op: &statev1.Command_PutRealm{PutRealm: &statev1.PutRealm{Realm: &statev1.Realm{
			Name: testRealm, MaxLife: 36000, MaxRenewableLife: 604800,
			Etypes: []int32{int32(kcrypto.AES256SHA2), int32(kcrypto.AES256SHA1)},
		}}}},
		{Op: &statev1.Command_PutSecret{PutSecret: &statev1.PutSecret{Secret: &statev1.Secret{Name: ReplayKeyName, Key: sealed}}}},
	}
}

// principal is a record with one AES key.
func (c *cluster) principal(name string, kvno uint32) *statev1.Principal {
	c.t.Helper()
	id := uuid.New()
	p := &statev1.Principal{Id: id[:], Realm: testRealm, Name: []string{name}, NameType: 1, Kvno: kvno}
	k := &statev1.Key{Kvno: kvno, Etype: int32(kcrypto.AES256SHA1), Salt: testRealm + name, SaltDefault: true}
	plain := make([]byte, 32)
	plain[0] = byte(kvno)
	var err error
	if k.Key, err = c.ring.Seal(rand.Reader, masterkey.KeyAAD(c.id[:], p, k), plain); err != nil {
		c.t.Fatal(err)
	}
	p.Keys = []*statev1.Key{k}
	return p
}

func create(p *statev1.Principal) *statev1.Command {
	id := uuid.Must(uuid.NewV7())
	return &statev1.Command{
		RequestId:   id[:],
		RequestHash: []byte("hash of the request, 32 bytes...")[:32],
		Op: &statev1.Command_PutPrincipal{PutPrincipal: &statev1.PutPrincipal{
			Principal: p, Expect: &statev1.Expect{Condition: &statev1.Expect_Absent{Absent: true}},
		}},
	}
}

func replace(p *statev1.Principal) *statev1.Command {
	return &statev1.Command{Op: &statev1.Command_PutPrincipal{PutPrincipal: &statev1.PutPrincipal{
		Principal: p, Expect: &statev1.Expect{Condition: &statev1.Expect_Present{Present: true}},
	}}}
}

// propose at n must succeed.
func (n *testNode) propose(cmd *statev1.Command) *statev1.Result {
	n.c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	r, err := n.store.Propose(ctx, cmd)
	if err != nil {
		n.c.t.Fatalf("%s: propose: %v", n.name, err)
	}
	if r.GetCode() != statev1.Code_CODE_OK {
		n.c.t.Fatalf("%s: propose: %v %s", n.name, r.GetCode(), r.GetMessage())
	}
	return r
}

// lookup at n, retried while the node is not fresh.
func (n *testNode) lookup(name string) (p *kdb.Principal, err error) {
	n.c.t.Helper()
	n.c.waitFor("an answer of "+n.name, func() bool {
		p, err = n.store.KDB().Principal(testRealm, krb5.PrincipalName{NameType: 1, NameString: []string{name}})
		return !errors.Is(err, kdb.ErrStale)
	})
	return p, err
}

// accepted is what the KDC makes of a verdict. A proof presented once may be Same: its node sent it again after it lost
// the answer.
func accepted(v kdb.Verdict) bool { return v == kdb.Fresh || v == kdb.Same }

// verdict of a proof presented at n.
func (n *testNode) verdict(proof, request string) kdb.Verdict {
	n.c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	v, err := n.store.Proofs().Submit(kdb.Proof{Ciphertext: []byte(proof), Request: []byte(request), Time: n.c.ctime}).Wait(ctx)
	if err != nil {
		n.c.t.Fatalf("%s: verdict: %v", n.name, err)
	}
	return v
}

func krbName(name string) krb5.PrincipalName {
	return krb5.PrincipalName{NameType: 1, NameString: []string{name}}
}

// reseal seals k again after p changed what its seal is bound to.
func (c *cluster) reseal(p *statev1.Principal, k *statev1.Key) {
	c.t.Helper()
	var err error
	if k.Key, err = c.ring.Seal(rand.Reader, masterkey.KeyAAD(c.id[:], p, k), make([]byte, 32)); err != nil {
		c.t.Fatal(err)
	}
}

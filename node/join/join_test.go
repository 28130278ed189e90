package join

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/charon-kdc/charon/adminapi/jointoken"
	"github.com/charon-kdc/charon/node/pki"
	statev1 "github.com/charon-kdc/charon/proto/charon/state/v1"
	"github.com/charon-kdc/charon/raftstore/peer"
)

var cluster = [16]byte{1, 2, 3}

// memory is a cluster of one, in memory.
type memory struct {
	mu        sync.Mutex
	authority *pki.Authority
	leader    string
	noLeader  bool
	tokens    map[string]*statev1.Token
	nodes     map[string]*statev1.Node
	order     []string
	fail      int           // so many Admits fail first
	admitting chan struct{} // if not nil, closed by Admit, which then waits for admit
	admit     chan struct{}
	released  int
}

func (m *memory) Known(_ context.Context, id peer.NodeID) (bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.noLeader {
		return false, errors.New("no leader now")
	}
	for _, n := range m.nodes {
		if bytes.Equal(n.GetId(), id[:]) {
			return true, nil
		}
	}
	return false, nil
}

func (m *memory) Leader(context.Context) (string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.noLeader {
		return "", &RetryError{Err: errors.New("no leader now")}
	}
	return m.leader, nil
}

func (m *memory) Token(_ context.Context, id []byte) (*statev1.Token, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.tokens[string(id)], nil
}

func (m *memory) UseToken(_ context.Context, id, by []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.order = append(m.order, "use")
	t := m.tokens[string(id)]
	switch {
	case t.UsedBy == nil && t.ExpiresAt < time.Now().UnixMilli():
		return &RefusedError{Why: "the token has expired"}
	case t.UsedBy == nil:
		t.UsedBy = by
	case !bytes.Equal(t.UsedBy, by):
		return &RefusedError{Why: "the token was used by another node"}
	}
	return nil
}

func (m *memory) Admit(_ context.Context, n *statev1.Node, pub crypto.PublicKey, hosts []string) (*Grant, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.order = append(m.order, "admit")
	if m.admitting != nil {
		close(m.admitting)
		<-m.admit
	}
	if m.fail > 0 {
		m.fail--
		return nil, errors.New("disk on fire")
	}
	m.nodes[n.GetName()] = n
	cert, err := m.authority.IssueNode(rand.Reader, time.Now(), pub, pki.NodeIdentity{Cluster: cluster, Node: [16]byte(n.GetId()), Name: n.GetName()}, hosts)
	if err != nil {
		return nil, err
	}
	m.released++
	return &Grant{ClusterID: cluster[:], Realm: "R", Name: n.GetName(), Certificate: cert, Authority: m.authority.Cert.Raw, MasterKey: []byte("the master key")}, nil
}

func (m *memory) Recertify(context.Context, *statev1.Node, crypto.PublicKey, []string) (*Grant, error) {
	return nil, &RefusedError{Why: "not in this test"}
}

// start serves m on a loopback port, as a node certified by signer.
func start(t *testing.T, m *memory, signer *pki.Authority) string {
	t.Helper()
	key, err := pki.NewKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := signer.IssueNode(rand.Reader, time.Now(), key.Public(), pki.NodeIdentity{Cluster: cluster, Node: [16]byte{9}, Name: "kdc1"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	cert := &tls.Certificate{Certificate: [][]byte{der, signer.Cert.Raw}, PrivateKey: key}
	roots := x509.NewCertPool()
	roots.AddCert(signer.Cert)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	mux := peer.NewMux(ln, &peer.Identity{
		ClusterID:   cluster,
		Certificate: func() (*tls.Certificate, error) { return cert, nil },
		Roots:       func() *x509.CertPool { return roots },
		Allowed:     func(peer.NodeID) bool { return false },
	}, log)
	s := &Server{Backend: m, Logger: log}
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.Serve(context.Background(), mux.Listener(peer.ALPNJoin)); err != nil {
			t.Error(err)
		}
	})
	wg.Go(func() { _ = mux.Serve() })
	t.Cleanup(func() {
		mux.Close()
		wg.Wait()
	})
	return ln.Addr().String()
}

func authority(t *testing.T) *pki.Authority {
	t.Helper()
	a, err := pki.NewAuthority(rand.Reader, pki.Nodes, cluster, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func newMemory(t *testing.T) *memory {
	t.Helper()
	return &memory{authority: authority(t), tokens: map[string]*statev1.Token{}, nodes: map[string]*statev1.Node{}}
}

func (m *memory) token(t *testing.T, addr, name string, ttl time.Duration) *jointoken.Token {
	t.Helper()
	tok, err := jointoken.New(rand.Reader, m.authority.Pin(), addr, name)
	if err != nil {
		t.Fatal(err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.tokens[string(tok.ID[:])] = tok.Record(time.Now(), time.Now().Add(ttl), "root")
	return tok
}

func joiner(t *testing.T, tok *jointoken.Token, name string) *Joiner {
	t.Helper()
	key, err := pki.NewKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &Joiner{
		Token: tok, Key: key, Now: time.Now, Timeout: 20 * time.Second,
		Request: Request{
			Name: name, RealmID: bytes.Repeat([]byte{4}, 16), ReplayID: bytes.Repeat([]byte{5}, 16), PeerAddress: "127.0.0.1:1",
			AdminAddress: "127.0.0.1:2", KDCAddress: "127.0.0.1:3", HTTPAddress: "127.0.0.1:4", Hosts: []string{"kdc2"}, Version: "test",
		},
	}
}

func TestJoin(t *testing.T) {
	m := newMemory(t)
	addr := start(t, m, m.authority)
	j := joiner(t, m.token(t, addr, "kdc2", time.Hour), "")
	g, err := j.Join(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if g.Name != "kdc2" || string(g.MasterKey) != "the master key" || m.nodes["kdc2"].GetPeerAddress() != "127.0.0.1:1" {
		t.Errorf("%+v", g)
	}
	if fmt.Sprint(m.order) != "[use admit]" {
		t.Errorf("order %v: the token's use must be committed before anything is given", m.order)
	}
	// A crash after the answer: the same key comes again and is let in again.
	if _, err := j.Join(t.Context()); err != nil {
		t.Errorf("resuming: %v", err)
	}
	// A thief with the same token comes second.
	thief := joiner(t, j.Token, "kdc2")
	if _, err := thief.Join(t.Context()); !errors.Is(err, ErrRefused) {
		t.Errorf("thief: %v", err)
	}
}

func TestJoinResumesAfterAFailure(t *testing.T) {
	m := newMemory(t)
	m.fail = 2
	j := joiner(t, m.token(t, start(t, m, m.authority), "", time.Hour), "kdc3")
	if _, err := j.Join(t.Context()); err != nil {
		t.Fatal(err)
	}
	if m.released != 1 || len(m.order) != 6 {
		t.Errorf("released %d times, order %v", m.released, m.order)
	}
}

func TestJoinRefused(t *testing.T) {
	m := newMemory(t)
	addr := start(t, m, m.authority)
	unknown, err := jointoken.New(rand.Reader, m.authority.Pin(), addr, "")
	if err != nil {
		t.Fatal(err)
	}
	other := m.token(t, addr, "", time.Hour)
	forged := *unknown
	forged.ID = other.ID // the right id with another secret
	badName := joiner(t, other, "Not A Name")
	badHost := joiner(t, other, "kdc2")
	badHost.Request.Hosts = []string{""}
	badID := joiner(t, other, "kdc2")
	badID.Request.RealmID = nil
	for what, j := range map[string]*Joiner{
		"unknown token": joiner(t, unknown, "kdc2"),
		"other secret":  joiner(t, &forged, "kdc2"),
		"expired":       joiner(t, m.token(t, addr, "", -time.Minute), "kdc2"),
		"other name":    joiner(t, m.token(t, addr, "kdc2", time.Hour), "kdc9"),
		"bad name":      badName, "bad host": badHost, "bad id": badID,
	} {
		if _, err := j.Join(t.Context()); !errors.Is(err, ErrRefused) {
			t.Errorf("%s: %v, want ErrRefused", what, err)
		}
	}
	if m.released != 0 {
		t.Errorf("the master key was released %d times", m.released)
	}
}

func TestJoinHoldsTheServerAgainstThePin(t *testing.T) {
	m := newMemory(t)
	addr := start(t, m, authority(t)) // somebody else's node answers
	j := joiner(t, m.token(t, addr, "", time.Hour), "kdc2")
	if _, err := j.Join(t.Context()); !errors.Is(err, ErrPin) {
		t.Errorf("%v, want ErrPin", err)
	}
	if len(m.order) != 0 {
		t.Error("the impostor was talked to")
	}
}

func TestJoinFollowsToTheLeaderAndWaitsForOne(t *testing.T) {
	m := newMemory(t)
	leader := start(t, m, m.authority)
	f := &memory{authority: m.authority, leader: leader}
	m.noLeader = true
	go func() {
		time.Sleep(50 * time.Millisecond) // an election
		m.mu.Lock()
		defer m.mu.Unlock()
		m.noLeader = false
	}()
	j := joiner(t, m.token(t, start(t, f, m.authority), "", time.Hour), "kdc2")
	if _, err := j.Join(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// Connections that ask for nothing, more than there are places for, keep no joiner out.
func TestStrangersDoNotCrowdOutAJoiner(t *testing.T) {
	m := newMemory(t)
	addr := start(t, m, m.authority)
	for range 3 * joinsMax {
		c, err := tls.Dial("tcp", addr, &tls.Config{NextProtos: []string{peer.ALPNJoin}, InsecureSkipVerify: true})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	j := joiner(t, m.token(t, addr, "kdc2", time.Hour), "kdc2")
	j.Timeout = requestTimeout / 2 // before the strangers' time is up
	if _, err := j.Join(t.Context()); err != nil {
		t.Error(err)
	}
}

// Who has proved that it holds a token is not turned out for strangers while the cluster takes its time.
func TestAJoinAtWorkIsNotCrowdedOut(t *testing.T) {
	m := newMemory(t)
	m.admitting, m.admit = make(chan struct{}), make(chan struct{})
	addr := start(t, m, m.authority)
	done := make(chan error, 1)
	j := joiner(t, m.token(t, addr, "kdc2", time.Hour), "kdc2")
	go func() {
		_, err := j.Join(context.Background())
		done <- err
	}()
	<-m.admitting
	for range 3 * joinsMax {
		c, err := tls.Dial("tcp", addr, &tls.Config{NextProtos: []string{peer.ALPNJoin}, InsecureSkipVerify: true})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	close(m.admit)
	if err := <-done; err != nil {
		t.Error(err)
	}
	if fmt.Sprint(m.order) != "[use admit]" {
		t.Errorf("order %v: the joiner had to come again", m.order)
	}
}

func TestMessagesAreBounded(t *testing.T) {
	if err := readMessage(bytes.NewReader([]byte{0xff, 0xff, 0xff, 0xff, '{'}), new(Request)); err == nil || errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("4 GiB: %v", err)
	}
}

func FuzzReadRequest(f *testing.F) {
	var b bytes.Buffer
	if err := writeMessage(&b, &Request{Name: "kdc2", RealmID: make([]byte, 16)}); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	f.Fuzz(func(t *testing.T, in []byte) {
		r := new(Request)
		if readMessage(bytes.NewReader(in), r) == nil {
			_ = r.check()
		}
	})
}

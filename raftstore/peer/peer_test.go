package peer

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/url"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	cluster = [16]byte{0xc1}
	nodeA   = NodeID{0xa}
	nodeB   = NodeID{0xb}
	nodeC   = NodeID{0xc} // has a certificate but is no member
)

type ca struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newCA(t *testing.T) *ca {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "CA"},
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
	return &ca{cert, key}
}

// issue makes a certificate; change may spoil it.
func (a *ca) issue(t *testing.T, uris []*url.URL, change func(*x509.Certificate)) *tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "node"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		URIs:        uris,
	}
	if change != nil {
		change(tmpl)
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func (a *ca) identity(cert *tls.Certificate, allowed func(NodeID) bool) *Identity {
	return &Identity{
		ClusterID:   cluster,
		Certificate: func() (*tls.Certificate, error) { return cert, nil },
		Roots: func() *x509.CertPool {
			p := x509.NewCertPool()
			p.AddCert(a.cert)
			return p
		},
		Allowed: allowed,
	}
}

func members(id NodeID) bool { return id == nodeA || id == nodeB }

// serve runs node A's port; every service echoes.
func serve(t *testing.T, id *Identity) *Mux {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m := NewMux(ln, id, slog.New(slog.DiscardHandler))
	var wg sync.WaitGroup
	wg.Add(1)
	go func() {
		defer wg.Done()
		if err := m.Serve(); err != nil {
			t.Errorf("serve: %v", err)
		}
	}()
	for _, p := range m.alpn {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for {
				c, err := m.Listener(p).Accept()
				if err != nil {
					return
				}
				wg.Add(1)
				go func() {
					defer wg.Done()
					defer c.Close()
					_, _ = io.WriteString(c, p+" for "+c.(*Conn).Peer.String()+"\n")
					_, _ = io.Copy(c, c)
				}()
			}
		}()
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
		wg.Wait()
	})
	return m
}

// greeting dials and reads what the service says; with TLS 1.3 a client learns only then that its certificate was refused.
func greeting(t *testing.T, m *Mux, alpn string, id *Identity, want NodeID) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	c, err := Dial(ctx, alpn, m.Addr().String(), id, want)
	if err != nil {
		return "", err
	}
	defer c.Close()
	return readLine(c)
}

func readLine(c net.Conn) (string, error) {
	if err := c.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		return "", err
	}
	var line []byte
	var b [1]byte
	for {
		if _, err := io.ReadFull(c, b[:]); err != nil {
			return "", err
		}
		if b[0] == '\n' {
			return string(line), nil
		}
		line = append(line, b[0])
	}
}

var memberServices = []string{ALPNRealm, ALPNReplay, ALPNBatch, ALPNForward}

func TestEachServiceGetsItsConnections(t *testing.T) {
	a := newCA(t)
	m := serve(t, a.identity(a.issue(t, []*url.URL{URI(cluster, nodeA)}, nil), members))
	b := a.identity(a.issue(t, []*url.URL{URI(cluster, nodeB)}, nil), members)
	for _, alpn := range memberServices {
		got, err := greeting(t, m, alpn, b, nodeA)
		if want := alpn + " for " + nodeB.String(); err != nil || got != want {
			t.Errorf("%s: %q, %v; want %q", alpn, got, err, want)
		}
	}
}

func TestRefusedAtEachService(t *testing.T) {
	a, other := newCA(t), newCA(t)
	m := serve(t, a.identity(a.issue(t, []*url.URL{URI(cluster, nodeA)}, nil), members))
	good := []*url.URL{URI(cluster, nodeB)}
	for _, c := range []struct {
		name string
		cert *tls.Certificate
	}{
		{"no member", a.issue(t, []*url.URL{URI(cluster, nodeC)}, nil)},
		{"other authority", other.issue(t, good, nil)},
		{"other cluster", a.issue(t, []*url.URL{URI([16]byte{0xc2}, nodeB)}, nil)},
		{"no node in it", a.issue(t, nil, nil)},
		{"two nodes in it", a.issue(t, []*url.URL{URI(cluster, nodeB), URI(cluster, nodeA)}, nil)},
		{"malformed node id", a.issue(t, []*url.URL{{Scheme: "charon", Host: URI(cluster, nodeB).Host, Path: "/node/0b"}}, nil)},
		{"expired", a.issue(t, good, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) })},
		{"an admin's usage", a.issue(t, good, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} })},
		{"none", &tls.Certificate{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			id := a.identity(c.cert, nil)
			for _, alpn := range memberServices {
				if got, err := greeting(t, m, alpn, id, nodeA); err == nil {
					t.Errorf("%s let it in: %q", alpn, got)
				}
			}
		})
	}
}

func TestClientChecksTheServer(t *testing.T) {
	a, other := newCA(t), newCA(t)
	b := a.identity(a.issue(t, []*url.URL{URI(cluster, nodeB)}, nil), members)
	for _, c := range []struct {
		name string
		cert *tls.Certificate
		want error
	}{
		{"another node", a.issue(t, []*url.URL{URI(cluster, nodeB)}, nil), ErrOtherNode},
		{"other authority", other.issue(t, []*url.URL{URI(cluster, nodeA)}, nil), nil},
		{"an admin's usage", a.issue(t, []*url.URL{URI(cluster, nodeA)}, func(c *x509.Certificate) {
			c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
		}), nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := serve(t, a.identity(c.cert, members))
			if _, err := greeting(t, m, ALPNRealm, b, nodeA); err == nil || c.want != nil && !errors.Is(err, c.want) {
				t.Errorf("dial: %v, want %v", err, c.want)
			}
		})
	}
	m := serve(t, a.identity(a.issue(t, []*url.URL{URI(cluster, nodeC)}, nil), members))
	if _, err := greeting(t, m, ALPNRealm, b, NodeID{}); !errors.Is(err, ErrNotMember) {
		t.Errorf("dialled a node that has left: %v", err)
	}
}

// The join service takes no certificate, and leads nowhere else.
func TestJoinService(t *testing.T) {
	a := newCA(t)
	m := serve(t, a.identity(a.issue(t, []*url.URL{URI(cluster, nodeA)}, nil), members))
	dial := func(protos ...string) (*tls.Conn, error) {
		return tls.Dial("tcp", m.Addr().String(), &tls.Config{NextProtos: protos, InsecureSkipVerify: true})
	}
	c, err := dial(ALPNJoin)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if got, err := readLine(c); err != nil || got != ALPNJoin+" for "+(NodeID{}).String() {
		t.Errorf("join: %q, %v", got, err)
	}
	for _, protos := range [][]string{{ALPNJoin, ALPNRealm}, {ALPNRealm, ALPNJoin}, {ALPNForward}, {"h2"}, nil} {
		c, err := dial(protos...)
		if err != nil {
			continue
		}
		if got, err := readLine(c); err == nil {
			t.Errorf("%q without a certificate: %q", protos, got)
		}
		c.Close()
	}
	old, err := tls.Dial("tcp", m.Addr().String(), &tls.Config{NextProtos: []string{ALPNJoin}, InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12})
	if err == nil {
		old.Close()
		t.Error("TLS 1.2 was accepted")
	}
}

func TestCloseNode(t *testing.T) {
	a := newCA(t)
	m := serve(t, a.identity(a.issue(t, []*url.URL{URI(cluster, nodeA)}, nil), members))
	b := a.identity(a.issue(t, []*url.URL{URI(cluster, nodeB)}, nil), members)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	c, err := Dial(ctx, ALPNRealm, m.Addr().String(), b, nodeA)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := readLine(c); err != nil {
		t.Fatal(err)
	}
	m.CloseNode(nodeC)
	if _, err := io.WriteString(c, "still here\n"); err != nil {
		t.Fatal(err)
	}
	if got, err := readLine(c); err != nil || got != "still here" {
		t.Fatalf("%q, %v", got, err)
	}
	m.CloseNode(nodeB)
	if _, err := readLine(c); err == nil {
		t.Error("the connection of a node that left is open")
	}
}

// Bytes that are no handshake, and a client that says nothing, do no harm to others.
func TestGarbage(t *testing.T) {
	a := newCA(t)
	m := serve(t, a.identity(a.issue(t, []*url.URL{URI(cluster, nodeA)}, nil), members))
	for range 8 {
		c, err := net.Dial("tcp", m.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := c.Write([]byte("GET / HTTP/1.0\r\n\r\n")); err != nil {
			t.Fatal(err)
		}
		silent, err := net.Dial("tcp", m.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer silent.Close()
	}
	b := a.identity(a.issue(t, []*url.URL{URI(cluster, nodeB)}, nil), members)
	if _, err := greeting(t, m, ALPNBatch, b, nodeA); err != nil {
		t.Error(err)
	}
}

// A certificate must be valid at one of the times that its judge takes for possible, and at one is enough: its own clock may be wrong.
func TestCertificateTimes(t *testing.T) {
	a := newCA(t)
	now := time.Now()
	const year = 365 * 24 * time.Hour
	for _, c := range []struct {
		name  string
		times []time.Time
		ok    bool
	}{
		{"right", []time.Time{now}, true},
		{"a year on", []time.Time{now.Add(year)}, false},
		{"a year back", []time.Time{now.Add(-year)}, false},
		{"a year on, the cluster is right", []time.Time{now.Add(year), now}, true},
		{"a year back, the cluster is right", []time.Time{now.Add(-year), now}, true},
		{"both wrong", []time.Time{now.Add(-year), now.Add(year)}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			judge := a.identity(a.issue(t, []*url.URL{URI(cluster, nodeA)}, nil), members)
			judge.Times = func() []time.Time { return c.times }
			other := a.identity(a.issue(t, []*url.URL{URI(cluster, nodeB)}, nil), members)
			m := serve(t, judge)
			if _, err := greeting(t, m, ALPNForward, other, nodeA); (err == nil) != c.ok {
				t.Errorf("as a server: %v", err)
			}
			m = serve(t, other)
			if _, err := greeting(t, m, ALPNForward, judge, nodeB); (err == nil) != c.ok {
				t.Errorf("as a client: %v", err)
			}
		})
	}
}

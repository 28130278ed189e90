package node

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/charon-kdc/charon/adminapi/jointoken"
	"github.com/charon-kdc/charon/node/join"
	adminv1 "github.com/charon-kdc/charon/proto/charon/admin/v1"
)

// testNode is a node run in this process.
type testNode struct {
	t       *testing.T
	c       *Config
	cancel  context.CancelFunc
	stopped sync.Once
	done    chan error
	reopen  chan struct{}
}

func freePorts(t *testing.T, n int) []int {
	t.Helper()
	var out []int
	for range n {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		out = append(out, ln.Addr().(*net.TCPAddr).Port)
	}
	return out
}

func testConfig(t *testing.T) *Config {
	t.Helper()
	p := freePorts(t, 4)
	text := fmt.Sprintf("dir = %q\n[kdc]\naddresses = [\"127.0.0.1:%d\"]\n[admin]\naddress = \"127.0.0.1:%d\"\n[peer]\naddress = \"127.0.0.1:%d\"\n[http]\naddress = \"127.0.0.1:%d\"\n[raft]\npromote_after = \"50ms\"\n[drain]\nnotice = \"0s\"\n",
		filepath.Join(shortDir(t), "n"), p[0], p[1], p[2], p[3])
	c, err := ParseConfig("test.toml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// shortDir is a temporary directory whose path leaves room for a unix socket's.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "charon")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func testLogger(t *testing.T) *slog.Logger {
	if testing.Verbose() {
		return slog.New(slog.NewTextHandler(t.Output(), nil))
	}
	return slog.New(slog.DiscardHandler)
}

func initNode(t *testing.T, c *Config, name string) *InitResult {
	t.Helper()
	r, err := Init(t.Context(), InitOptions{Realm: "EXAMPLE.COM", Name: name, Config: c, Version: "test", Logger: testLogger(t)})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func runNode(t *testing.T, c *Config) *testNode {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	n := &testNode{t: t, c: c, cancel: cancel, done: make(chan error, 1), reopen: make(chan struct{})}
	go func() {
		n.done <- Run(ctx, RunOptions{Config: c, Version: "test", Logger: testLogger(t), Reopen: n.reopen})
	}()
	t.Cleanup(n.stop)
	return n
}

// stop ends the node; again it does nothing.
func (n *testNode) stop() { n.stopped.Do(n.end) }

func (n *testNode) end() {
	n.cancel()
	select {
	case err := <-n.done:
		if err != nil {
			n.t.Errorf("node in %s: %v", n.c.Dir, err)
		}
		close(n.done)
	case <-time.After(30 * time.Second):
		n.t.Errorf("node in %s does not stop", n.c.Dir)
	}
}

// within polls until f gives no error.
func within(t *testing.T, d time.Duration, what string, f func() error) {
	t.Helper()
	deadline := time.Now().Add(d)
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %v after %v", what, err, d)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func (n *testNode) get(path string) (int, string, error) {
	resp, err := http.Get("http://" + n.c.HTTP.Address + path)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b), err
}

func (n *testNode) waitReady() {
	n.t.Helper()
	within(n.t, 30*time.Second, "readiness of "+n.c.Dir, func() error {
		code, body, err := n.get("/readyz")
		if err == nil && code != http.StatusOK {
			err = fmt.Errorf("%d %s", code, body)
		}
		return err
	})
}

func (n *testNode) dial() *grpc.ClientConn {
	n.t.Helper()
	cc, err := grpc.NewClient("unix://"+n.c.SocketPath(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { cc.Close() })
	return cc
}

func requestID() []byte {
	id := NewRequestID(time.Now())
	return id[:]
}

func (n *testNode) token(name string) *jointoken.Token {
	n.t.Helper()
	var tok *jointoken.Token
	within(n.t, 20*time.Second, "token create", func() error {
		r, err := adminv1.NewClusterClient(n.dial()).CreateToken(n.t.Context(), &adminv1.CreateTokenRequest{RequestId: requestID(), NodeName: name, Ttl: 600})
		if err != nil {
			return err
		}
		tok, err = jointoken.Parse(r.GetToken())
		return err
	})
	return tok
}

func joinNode(t *testing.T, tok *jointoken.Token, name string) *testNode {
	t.Helper()
	c := testConfig(t)
	r, err := Join(t.Context(), JoinOptions{Token: tok, Name: name, Config: c, Version: "test", Timeout: 30 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	if r.Realm != "EXAMPLE.COM" || r.Name != name {
		t.Errorf("%+v", r)
	}
	return runNode(t, c)
}

func (n *testNode) waitVoters(want int) {
	n.t.Helper()
	within(n.t, 30*time.Second, fmt.Sprint(want, " voters"), func() error {
		st, err := adminv1.NewClusterClient(n.dial()).GetStatus(n.t.Context(), &adminv1.GetStatusRequest{})
		if err == nil && (int(st.GetVoters()) != want || !st.GetQuorum()) {
			err = fmt.Errorf("%d voters, quorum %v", st.GetVoters(), st.GetQuorum())
		}
		return err
	})
}

func TestInitRunAndStop(t *testing.T) {
	c := testConfig(t)
	r := initNode(t, c, "kdc1")
	if len(r.CAPin) != 64 || !strings.HasPrefix(r.Recovery, recoveryPrefix) || len(r.ETypes) != 4 {
		t.Errorf("%+v", r)
	}
	for f, mode := range map[string]os.FileMode{masterKeyFile: 0o600, nodeKeyFile: 0o600, "admin/root.key": 0o600} {
		if st, err := os.Stat(filepath.Join(c.Dir, f)); err != nil || st.Mode().Perm() != mode {
			t.Errorf("%s: %v, want mode %o", f, err, mode)
		}
	}
	if _, err := Init(t.Context(), InitOptions{Realm: "EXAMPLE.COM", Name: "kdc1", Config: c, Logger: testLogger(t)}); !errors.Is(err, ErrExists) {
		t.Errorf("init again: %v", err)
	}
	n := runNode(t, c)
	n.waitReady()
	if err := Run(t.Context(), RunOptions{Config: c, Logger: testLogger(t)}); err == nil {
		t.Error("two nodes on one data directory")
	} else if _, ok := errors.AsType[*LockedError](err); !ok {
		t.Errorf("two nodes on one data directory: %v", err)
	}
	n.checkPages()
	n.checkAdminTLS()
}

func (n *testNode) checkPages() {
	n.t.Helper()
	if code, body, err := n.get("/livez"); err != nil || code != 200 || body != "ok\n" {
		n.t.Errorf("/livez: %d %q %v", code, body, err)
	}
	code, body, err := n.get("/readyz?role=leader")
	var r readiness
	if err != nil || code != 200 || json.Unmarshal([]byte(body), &r) != nil || !r.Leader || !r.Ready {
		n.t.Errorf("/readyz?role=leader: %d %q %v", code, body, err)
	}
	if code, _, _ := n.get("/readyz?role=king"); code != 400 {
		n.t.Errorf("/readyz?role=king: %d", code)
	}
	_, body, err = n.get("/metrics")
	if err != nil {
		n.t.Fatal(err)
	}
	for _, name := range []string{
		"charon_raft_leader", "charon_raft_index", "charon_raft_last_contact_seconds", "charon_replay_wait_seconds", "charon_principals",
		"charon_lockouts_total", "charon_cert_expiry_seconds", "charon_clock_offset_seconds", "charon_audit_dropped_total", "charon_build_info",
	} {
		if !strings.Contains(body, "\n"+name) {
			n.t.Errorf("/metrics has no %s", name)
		}
	}
}

// The admin port takes the certificate that init made, and no node's.
func (n *testNode) checkAdminTLS() {
	n.t.Helper()
	ca, err := os.ReadFile(filepath.Join(n.c.Dir, adminDir, caFile))
	if err != nil {
		n.t.Fatal(err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca) {
		n.t.Fatal("admin/ca.crt holds no certificate")
	}
	call := func(cert, key string) error {
		pair, err := tls.LoadX509KeyPair(filepath.Join(n.c.Dir, cert), filepath.Join(n.c.Dir, key))
		if err != nil {
			return err
		}
		cc, err := grpc.NewClient(n.c.Admin.Address, grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{
			Certificates: []tls.Certificate{pair}, RootCAs: roots, MinVersion: tls.VersionTLS13,
		})))
		if err != nil {
			return err
		}
		defer cc.Close()
		_, err = adminv1.NewClusterClient(cc).ListNodes(n.t.Context(), &adminv1.ListNodesRequest{})
		return err
	}
	if err := call("admin/root.crt", "admin/root.key"); err != nil {
		n.t.Errorf("the admin client's certificate: %v", err)
	}
	if err := call(nodeCertFile, nodeKeyFile); err == nil {
		n.t.Error("a node's certificate opened the admin door")
	}
}

func TestInitBeginsAnewAfterACrash(t *testing.T) {
	c := testConfig(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // the store can't be bootstrapped
	if _, err := Init(ctx, InitOptions{Realm: "EXAMPLE.COM", Name: "kdc1", Config: c, Logger: testLogger(t)}); err == nil {
		t.Fatal("init ended well without bootstrap")
	}
	initNode(t, c, "kdc1")
	runNode(t, c).waitReady()
}

func TestThreeNodesJoinDrainAndRemove(t *testing.T) {
	c := testConfig(t)
	initNode(t, c, "kdc1")
	n1 := runNode(t, c)
	n1.waitReady()
	tok := n1.token("kdc2")
	n2 := joinNode(t, tok, "kdc2")
	n2.waitReady()
	n3 := joinNode(t, n1.token("kdc3"), "kdc3")
	n3.waitReady()
	n1.waitVoters(3)

	_, err := Join(t.Context(), JoinOptions{Token: tok, Config: testConfig(t), Timeout: 20 * time.Second})
	if !errors.Is(err, join.ErrRefused) {
		t.Errorf("the token of kdc2 a second time: %v", err)
	}

	// Drain of the leader: its readiness goes first, and leadership is handed over without an election's wait.
	n1.cancel()
	within(t, 20*time.Second, "another leader", func() error {
		for _, n := range []*testNode{n2, n3} {
			if code, _, err := n.get("/readyz?role=leader"); err == nil && code == 200 {
				return nil
			}
		}
		return errors.New("none")
	})
	if err := <-n1.done; err != nil {
		t.Fatalf("drain: %v", err)
	}
	n1.done <- nil
	n1 = runNode(t, c)
	n1.waitReady()
	n2.waitVoters(3)

	// Removal: the node says so and stops answering.
	leader := n2
	victim := n3
	if code, _, _ := n2.get("/readyz?role=leader"); code != 200 {
		leader, victim = n3, n2
	}
	name := map[*testNode]string{n2: "kdc2", n3: "kdc3"}[victim]
	within(t, 20*time.Second, "node remove", func() error {
		_, err := adminv1.NewClusterClient(leader.dial()).RemoveNode(t.Context(), &adminv1.RemoveNodeRequest{RequestId: requestID(), Name: name, Force: true})
		return err
	})
	victim.waitRemoved()
	// Nor does it serve when it is started again, by its state of long ago.
	victim.cancel()
	if err := <-victim.done; err != nil {
		t.Fatal(err)
	}
	victim.done <- nil
	if _, err := os.Stat(filepath.Join(victim.c.Dir, removedFile)); err == nil {
		if err := Run(t.Context(), RunOptions{Config: victim.c, Version: "test", Logger: testLogger(t)}); !errors.Is(err, errRemoved) {
			t.Errorf("a start after the removal: %v", err)
		}
	} else { // it has learnt of it from the others
		runNode(t, victim.c).waitRemoved()
	}
}

// waitRemoved waits until the node says that it was removed, and answers neither clients nor administrators: it has every key.
func (n *testNode) waitRemoved() {
	n.t.Helper()
	within(n.t, 30*time.Second, "the removed node to stop serving", func() error {
		code, body, err := n.get("/readyz")
		if err == nil && (code != http.StatusServiceUnavailable || !strings.Contains(body, "was removed")) {
			err = fmt.Errorf("%d %s", code, body)
		}
		return err
	})
	for network, addr := range map[string]string{"unix": n.c.SocketPath(), "tcp": n.c.Admin.Address} {
		within(n.t, 10*time.Second, "the admin door to close", func() error {
			c, err := net.Dial(network, addr)
			if err != nil {
				return nil
			}
			defer c.Close()
			return fmt.Errorf("%s answers", addr)
		})
	}
}

// neverAnswersAS asks the node's port 88 again and again until stop, and fails when it answers.
func (n *testNode) neverAnswersAS() (stop func()) {
	addr, err := netip.ParseAddrPort(n.c.KDC.Addresses[0])
	if err != nil {
		n.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(n.t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			p := &prober{addr: addr, now: time.Now}
			req, _, err := p.request("EXAMPLE.COM")
			if err == nil {
				err = p.dial()
			}
			if err != nil {
				n.t.Error(err)
				return
			}
			// The port may not be open yet, or no more: then the read fails at once.
			_ = p.conn.SetDeadline(time.Now().Add(100 * time.Millisecond))
			_, _ = p.conn.Write(req)
			if got, err := p.conn.Read(make([]byte, 8192)); err == nil {
				n.t.Errorf("a removed node answers an AS request with %d bytes", got)
				cancel()
			}
			p.close()
		}
	}()
	return func() { cancel(); <-done }
}

// A node that was away when it was removed finds out from the others, who refuse its certificate.
func TestNodeRemovedWhileAwayStopsServing(t *testing.T) {
	c := testConfig(t)
	initNode(t, c, "kdc1")
	n1 := runNode(t, c)
	n1.waitReady()
	n2 := joinNode(t, n1.token("kdc2"), "kdc2")
	n3 := joinNode(t, n1.token("kdc3"), "kdc3")
	n2.waitReady()
	n3.waitReady()
	n1.waitVoters(3)
	n3.cancel()
	if err := <-n3.done; err != nil {
		t.Fatal(err)
	}
	n3.done <- nil
	within(t, 20*time.Second, "node remove", func() error {
		_, err := adminv1.NewClusterClient(n1.dial()).RemoveNode(t.Context(), &adminv1.RemoveNodeRequest{RequestId: requestID(), Name: "kdc3", Force: true})
		return err
	})
	n1.waitVoters(2)
	n3 = runNode(t, n3.c)
	stop := n3.neverAnswersAS()
	n3.waitRemoved()
	stop()
	if code, body, err := n1.get("/readyz"); err != nil || code != http.StatusOK {
		t.Errorf("kdc1: %d %s %v", code, body, err)
	}
	// A member said so, and it is remembered.
	if _, err := os.Stat(filepath.Join(n3.c.Dir, removedFile)); err != nil {
		t.Errorf("the removal is not remembered: %v", err)
	}
}

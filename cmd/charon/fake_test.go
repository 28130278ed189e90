package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/charon-kdc/charon/adminapi"
	"github.com/charon-kdc/charon/adminapi/adminapitest"
	adminv1 "github.com/charon-kdc/charon/proto/charon/admin/v1"
)

// TestMain puts all layouts into one time zone.
func TestMain(m *testing.M) {
	time.Local = time.UTC
	os.Exit(m.Run())
}

// fakeNode is one node's admin socket over a cluster of one.
type fakeNode struct {
	t     *testing.T
	store *adminapitest.Store
	stdin string
	addr  string
	stop  func() // ends the node
}

func newFakeNode(t *testing.T) *fakeNode {
	t.Helper()
	return newFakeNodeWith(t, func(*adminapi.Config) {})
}

// newFakeNodeWith is one whose configuration change may change.
func newFakeNodeWith(t *testing.T, change func(*adminapi.Config)) *fakeNode {
	t.Helper()
	n := &fakeNode{t: t, store: adminapitest.New(t, time.Now)}
	conf := adminapi.Config{
		Store: n.store, Reader: n.store.DB, Sealer: n.store.Ring, MasterKeys: n.store, NodeName: "n1", PeerAddress: "n1.example.com:7750", Version: "1.0.0",
		Now: time.Now, Rand: rand.Reader, OwnUID: uint32(os.Getuid()),
		Stats: func() *adminv1.NodeStats { return &adminv1.NodeStats{AsPerSecond: 212.3, P99Us: 4900} },
	}
	change(&conf)
	svc, err := adminapi.New(conf)
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "charon") // t.TempDir may be longer than a socket's path
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("unix", filepath.Join(dir, "admin.sock"))
	if err != nil {
		t.Fatal(err)
	}
	srv := grpc.NewServer(grpc.Creds(adminapi.UnixCredentials()))
	svc.Register(srv, adminapi.DoorUnix)
	done := make(chan struct{})
	go func() { defer close(done); srv.Serve(ln) }()
	ctx, cancel := context.WithCancel(context.Background())
	tended := make(chan struct{})
	go func() { defer close(tended); svc.Tend(ctx) }()
	n.stop = func() { srv.Stop(); <-done; cancel(); <-tended }
	t.Cleanup(func() { n.stop(); os.RemoveAll(dir) })
	n.addr = "unix://" + ln.Addr().String()
	t.Setenv("CHARON_ADDR", n.addr)
	return n
}

// run is one command line.
func (n *fakeNode) run(args ...string) (out, errOut string, code int) {
	n.t.Helper()
	var o, e bytes.Buffer
	code = run(context.Background(), args, strings.NewReader(n.stdin), &o, &e)
	return o.String(), e.String(), code
}

// want runs a command that must exit with code and print those parts on standard output, or on standard error when it fails.
func (n *fakeNode) want(code int, parts []string, args ...string) string {
	n.t.Helper()
	out, errOut, got := n.run(args...)
	text := out
	if code != exitOK {
		text = errOut
	}
	if got != code {
		n.t.Errorf("charon %s: exit %d, want %d\n%s%s", strings.Join(args, " "), got, code, out, errOut)
	}
	for _, p := range parts {
		if !strings.Contains(text, p) {
			n.t.Errorf("charon %s: no %q in\n%s", strings.Join(args, " "), p, text)
		}
	}
	return text
}

// Package realm starts a real Charon realm for tests: `charon dev` with nodes that are processes of their own, and runs
// other people's Kerberos clients against it. It knows the command line and the JSON of `charon dev`, and nothing else of Charon.
package realm

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Name of every realm started here.
const Name = "EXAMPLE.COM"

// Node is one process of the realm, as `charon dev --json` prints it.
type Node struct {
	Name  string `json:"name"`
	PID   int    `json:"pid"`
	Dir   string `json:"dir"`
	KDC   string `json:"kdc"`
	Admin string `json:"admin"`
	Peer  string `json:"peer"`
	HTTP  string `json:"http"`
}

// Realm is a running `charon dev`.
type Realm struct {
	Dir      string `json:"dir"`
	Name     string `json:"realm"`
	Krb5Conf string `json:"krb5_conf"`
	Admin    string `json:"admin"`
	Nodes    []Node `json:"nodes"`
	bin      string
}

// Binary is the charon binary under test: CHARON_BIN, or one built into t's directory.
func Binary(t testing.TB) string {
	t.Helper()
	if b := os.Getenv("CHARON_BIN"); b != "" {
		return b
	}
	return Build(t, "")
}

// Build builds a charon binary with build tags into t's directory.
func Build(t testing.TB, tags string) string {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "charon")
	cmd := exec.Command("go", "build", "-tags", tags, "-o", bin, "github.com/charon-kdc/charon/cmd/charon")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("building charon: %v\n%s", err, out)
	}
	return bin
}

// Start starts a realm of n nodes and stops it when the test ends. args go to `charon dev`.
func Start(t testing.TB, n int, args ...string) *Realm {
	t.Helper()
	return StartBinary(t, Binary(t), n, args...)
}

// StartBinary is Start with a charon binary of the caller's.
func StartBinary(t testing.TB, bin string, n int, args ...string) *Realm {
	t.Helper()
	dir := TempDir(t)
	r := &Realm{bin: bin}
	cmd := exec.Command(r.bin, append([]string{"dev", "--nodes", fmt.Sprint(n), "--realm", Name, "--dir", dir, "--json", "--detach"}, args...)...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	t.Cleanup(func() { r.remove(t, dir) })
	if err := cmd.Run(); err != nil {
		t.Fatalf("charon dev: %v\n%s%s%s", err, stdout.String(), stderr.String(), r.logs(dir))
	}
	if err := json.Unmarshal(stdout.Bytes(), r); err != nil {
		t.Fatalf("charon dev --json: %v in %q", err, stdout.String())
	}
	return r
}

func (r *Realm) remove(t testing.TB, dir string) {
	if t.Failed() {
		t.Log(r.logs(dir))
	}
	if out, err := exec.Command(r.bin, "dev", "stop", dir).CombinedOutput(); err != nil {
		t.Errorf("charon dev stop: %v\n%s", err, out)
	}
	for _, n := range r.Nodes {
		if alive(n.PID) {
			t.Errorf("node %s (pid %d) outlived charon dev stop", n.Name, n.PID)
			syscall.Kill(n.PID, syscall.SIGKILL)
		}
	}
}

// TempDir is a directory that goes with the test. Other than t.TempDir's its path is short enough for a socket in it
// (107 bytes), and daemons that give up root can read what is in it.
func TempDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "charon-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// logs is the end of every node's log, for a failed test.
func (r *Realm) logs(dir string) string {
	var b strings.Builder
	paths, _ := filepath.Glob(filepath.Join(dir, "n*", "*.log"))
	for _, p := range paths {
		data, _ := os.ReadFile(p)
		if len(data) > 3000 {
			data = data[len(data)-3000:]
		}
		fmt.Fprintf(&b, "--- %s\n%s\n", p, data)
	}
	return b.String()
}

// alive tells whether a process runs; a zombie does not.
func alive(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, rest, ok := strings.Cut(string(stat), ") ")
	return ok && !strings.HasPrefix(rest, "Z")
}

// Config writes a krb5.conf whose KDCs are kdcs, in that order, with more lines in [libdefaults], and returns its path.
func (r *Realm) Config(t testing.TB, kdcs []string, libdefaults ...string) string {
	t.Helper()
	var b strings.Builder
	fmt.Fprintf(&b, "[libdefaults]\n default_realm = %s\n dns_lookup_kdc = false\n dns_lookup_realm = false\n dns_canonicalize_hostname = false\n rdns = false\n", Name)
	for _, l := range libdefaults {
		fmt.Fprintf(&b, " %s\n", l)
	}
	fmt.Fprintf(&b, "[realms]\n %s = {\n", Name)
	for _, k := range kdcs {
		fmt.Fprintf(&b, "  kdc = %s\n", k)
	}
	fmt.Fprintf(&b, "  auth_to_local = RULE:[1:$1@$0](alice@%s)s/.*/%s/\n  auth_to_local = DEFAULT\n }\n", Name, currentUser())
	fmt.Fprintf(&b, "[domain_realm]\n localhost = %s\n .example.com = %s\n", Name, Name)
	path := filepath.Join(TempDir(t), "krb5.conf")
	if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func currentUser() string {
	out, err := exec.Command("id", "-un").Output()
	if err != nil {
		return "root"
	}
	return strings.TrimSpace(string(out))
}

// KDCs are the addresses of the nodes' port 88.
func (r *Realm) KDCs() []string {
	out := make([]string, len(r.Nodes))
	for i, n := range r.Nodes {
		out[i] = n.KDC
	}
	return out
}

// Session is an environment for client programs: one krb5.conf and one credential cache.
type Session struct {
	t     testing.TB
	r     *Realm
	Conf  string
	Cache string
	Env   []string
}

// Session makes one that asks kdcs in that order; none means all nodes.
func (r *Realm) Session(t testing.TB, kdcs []string, libdefaults ...string) *Session {
	t.Helper()
	if len(kdcs) == 0 {
		kdcs = r.KDCs()
	}
	s := &Session{t: t, r: r, Conf: r.Config(t, kdcs, libdefaults...)}
	s.Cache = filepath.Join(filepath.Dir(s.Conf), "cc")
	s.Env = append(slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "KRB5") }),
		"KRB5_CONFIG="+s.Conf, "KRB5CCNAME=FILE:"+s.Cache, "LC_ALL=C", "TZ=UTC")
	return s
}

// Run runs a program with stdin and returns what it printed on both outputs.
func (s *Session) Run(stdin string, argv ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env, cmd.Stdin = s.Env, strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// OK runs a program that must succeed.
func (s *Session) OK(stdin string, argv ...string) string {
	s.t.Helper()
	out, err := s.Run(stdin, argv...)
	if err != nil {
		s.t.Fatalf("%s: %v\n%s", strings.Join(argv, " "), err, out)
	}
	return out
}

// Refused runs a program that must fail with a message that has want in it.
func (s *Session) Refused(want, stdin string, argv ...string) {
	s.t.Helper()
	out, err := s.Run(stdin, argv...)
	if err == nil || !strings.Contains(out, want) {
		s.t.Fatalf("%s: err %v, want a failure that says %q, got\n%s", strings.Join(argv, " "), err, want, out)
	}
}

// Charon runs the charon binary as administrator through the socket of the first node and must succeed.
func (r *Realm) Charon(t testing.TB, argv ...string) string {
	t.Helper()
	out, err := r.TryCharon("", argv...)
	if err != nil {
		t.Fatalf("charon %s: %v\n%s", strings.Join(argv, " "), err, out)
	}
	return out
}

// TryCharon is Charon that may fail; addr is a node's admin socket, "" the first node's.
func (r *Realm) TryCharon(addr string, argv ...string) (string, error) {
	if addr == "" {
		addr = r.Admin
	}
	cmd := exec.Command(r.bin, argv...)
	cmd.Env = append(os.Environ(), "CHARON_ADDR="+addr, "KRB5_CONFIG="+r.Krb5Conf)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// Kadmin runs one kadmin command line and must succeed.
func (r *Realm) Kadmin(t testing.TB, query string) string {
	t.Helper()
	return r.Charon(t, "kadmin", "-q", query)
}

// Socket is a node's admin address.
func (n Node) Socket() string { return "unix://" + filepath.Join(n.Dir, "admin.sock") }

// Keytab writes principal's keytab to a file and returns its path.
func (r *Realm) Keytab(t testing.TB, principal string) string {
	t.Helper()
	path := filepath.Join(TempDir(t), "keytab")
	r.Charon(t, "keytab", "ensure", principal, "--out", path)
	return path
}

// Kill kills a node with SIGKILL and waits until it is gone.
func (r *Realm) Kill(t testing.TB, i int) {
	t.Helper()
	pid := r.Nodes[i].PID
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatalf("killing %s (pid %d): %v", r.Nodes[i].Name, pid, err)
	}
	Eventually(t, 10*time.Second, "the killed process to go", func() bool { return !alive(pid) })
}

// ServerCommand is `charon server` for a node that does not run.
func (r *Realm) ServerCommand(i int, args ...string) *exec.Cmd {
	return exec.Command(r.bin, append([]string{"server", "--config", filepath.Join(r.Nodes[i].Dir, "charon.toml")}, args...)...)
}

// Restart starts a killed node again, with more arguments; the child is reaped when it ends.
func (r *Realm) Restart(t testing.TB, i int, args ...string) {
	t.Helper()
	n := &r.Nodes[i]
	log, err := os.OpenFile(filepath.Join(n.Dir, "restart.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := r.ServerCommand(i, args...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	n.PID = cmd.Process.Pid
	done := make(chan struct{})
	go func() { cmd.Wait(); close(done) }()
	t.Cleanup(func() { cmd.Process.Kill(); <-done })
}

// Leader is the index of the node that leads the realm group, waiting for one for up to 30 s.
func (r *Realm) Leader(t testing.TB) int {
	t.Helper()
	leader := -1
	Eventually(t, 30*time.Second, "a leader", func() bool {
		leader = slices.IndexFunc(r.Nodes, func(n Node) bool { return httpOK("http://" + n.HTTP + "/readyz?role=leader") })
		return leader >= 0
	})
	return leader
}

// Ready waits until every node, or those in only, answers /readyz.
func (r *Realm) Ready(t testing.TB, only ...int) {
	t.Helper()
	for i := range r.Nodes {
		if len(only) > 0 && !slices.Contains(only, i) {
			continue
		}
		Eventually(t, 60*time.Second, r.Nodes[i].Name+" to be ready", func() bool { return httpOK("http://" + r.Nodes[i].HTTP + "/readyz") })
	}
}

// Eventually polls until ok, and fails the test when it does not become so.
func Eventually(t testing.TB, limit time.Duration, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(limit); ; time.Sleep(20 * time.Millisecond) {
		if ok() {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("waited %s for %s", limit, what)
		}
	}
}

// FreePort is a TCP port on loopback that was free a moment ago.
func FreePort(t testing.TB) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// Package backup loses a whole realm and brings it back from a backup, with processes and clients as an operator has them.
package backup

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/charon-kdc/charon/test/realm"
)

const password = "correct horse"

// host is a machine: a data directory, its ports, and the server on it.
type host struct {
	t    *testing.T
	bin  string
	dir  string
	node realm.Node
	cmd  *exec.Cmd
	done chan struct{}
}

func newHost(t *testing.T, bin, name string) *host {
	t.Helper()
	addr := func() string { return fmt.Sprintf("127.0.0.1:%d", realm.FreePort(t)) }
	h := &host{t: t, bin: bin, dir: filepath.Join(realm.TempDir(t), "d")}
	h.node = realm.Node{Name: name, Dir: h.dir, KDC: addr(), Admin: addr(), Peer: addr(), HTTP: addr()}
	t.Cleanup(h.kill)
	return h
}

// places are the flags of init and restore.
func (h *host) places() []string {
	return []string{
		"--dir", h.dir, "--address", "127.0.0.1", "--kdc-address", h.node.KDC, "--admin-address", h.node.Admin,
		"--peer-address", h.node.Peer, "--http-address", h.node.HTTP,
	}
}

func (h *host) try(argv ...string) (string, error) {
	cmd := exec.Command(h.bin, argv...)
	cmd.Env = append(os.Environ(), "CHARON_ADDR="+h.node.Socket())
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (h *host) run(argv ...string) string {
	h.t.Helper()
	out, err := h.try(argv...)
	if err != nil {
		h.t.Fatalf("charon %s: %v\n%s", strings.Join(argv, " "), err, out)
	}
	return out
}

// refused runs a line that must fail with that exit code and those words.
func (h *host) refused(code int, want string, argv ...string) {
	h.t.Helper()
	out, err := h.try(argv...)
	exit, ok := err.(*exec.ExitError)
	if !ok || exit.ExitCode() != code || !strings.Contains(out, want) || strings.Count(out, "\n") != 1 {
		h.t.Errorf("charon %s: %v, want exit %d and one line with %q, got\n%s", strings.Join(argv, " "), err, code, want, out)
	}
}

func (h *host) start() {
	h.t.Helper()
	log, err := os.OpenFile(h.dir+".log", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		h.t.Fatal(err)
	}
	defer log.Close()
	h.cmd = exec.Command(h.bin, "server", "--config", filepath.Join(h.dir, "charon.toml"))
	h.cmd.Stdout, h.cmd.Stderr = log, log
	if err := h.cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	h.done = make(chan struct{})
	go func(cmd *exec.Cmd, done chan struct{}) { _ = cmd.Wait(); close(done) }(h.cmd, h.done)
}

func (h *host) kill() {
	if h.cmd == nil {
		return
	}
	_ = h.cmd.Process.Signal(syscall.SIGKILL)
	<-h.done
	if h.t.Failed() {
		b, _ := os.ReadFile(h.dir + ".log")
		h.t.Logf("--- %s\n%s", h.node.Name, b[max(0, len(b)-3000):])
	}
	h.cmd = nil
}

// join makes the host a node of first's cluster and starts it.
func (h *host) join(first *host) {
	h.t.Helper()
	token := filepath.Join(realm.TempDir(h.t), "token")
	if err := os.WriteFile(token, []byte(first.run("token", "create", h.node.Name)), 0o600); err != nil {
		h.t.Fatal(err)
	}
	h.run(append([]string{"join", "--token-file", token, "--no-start"}, h.places()...)...)
	h.start()
}

func of(hosts ...*host) *realm.Realm {
	r := &realm.Realm{Name: realm.Name}
	for _, h := range hosts {
		r.Nodes = append(r.Nodes, h.node)
	}
	return r
}

func TestARealmComesBack(t *testing.T) {
	bin := realm.Binary(t)
	old := newHost(t, bin, "old1")
	out := old.run(append([]string{"init", "--realm", realm.Name, "--name", "old1"}, old.places()...)...)
	kit := filepath.Join(realm.TempDir(t), "kit")
	if err := os.WriteFile(kit, []byte(regexp.MustCompile(`CHARON-RECOVERY-1-[A-Z0-9-]+`).FindString(out)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	old.start()
	of(old).Ready(t)
	old.run("principal", "add", "alice", "--password", password)
	keytab := filepath.Join(realm.TempDir(t), "keytab")
	old.run("keytab", "ensure", "HTTP/web.example.com", "--out", keytab)
	old.run("keytab", "rotate", "HTTP/web.example.com", "--out", keytab)
	s := of(old).Session(t, nil)
	s.OK(password+"\n", "kinit", "alice")
	tgt := s.Cache + ".tgt"
	copyFile(t, s.Cache, tgt)
	was := s.OK("", "kvno", "HTTP/web.example.com")

	// The backup, and that the kit which init printed opens it.
	store := realm.TempDir(t)
	line := old.run("backup", "save", store)
	m := regexp.MustCompile(`^index (\d+)  \d+ principals  \S+ [kM]?B  sha256 ([0-9a-f]{64})  \S+ s  (\S+)\n$`).FindStringSubmatch(line)
	if m == nil {
		t.Fatalf("%q", line)
	}
	file := m[3]
	b, err := os.ReadFile(file)
	if sum := sha256.Sum256(b); err != nil || hex.EncodeToString(sum[:]) != m[2] || filepath.Base(file) != "charon-"+m[1]+".cbk" {
		t.Errorf("%s: %x %v, want what the line says: %s", file, sum, err, line)
	}
	if st, err := os.Stat(file); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", st.Mode(), err)
	}
	if out := old.run("status"); !strings.Contains(out, "last backup ") || !strings.Contains(out, "(verified)") {
		t.Errorf("charon status:\n%s", out)
	}
	old.kill() // from here on no node is needed
	if out := old.run("backup", "verify", file, "--kit-file", kit); !strings.Contains(out, "every one opens") || !strings.Contains(out, "index "+m[1]) {
		t.Errorf("charon backup verify:\n%s", out)
	}
	old.refused(3, "no such file", "backup", "verify", file+".none", "--kit-file", kit)
	bad := filepath.Join(store, "bad.cbk")
	if err := os.WriteFile(bad, b[:len(b)-1], 0o600); err != nil {
		t.Fatal(err)
	}
	old.refused(1, "damaged or not whole", "backup", "verify", bad, "--kit-file", kit)
	old.refused(2, "--new-cluster", "backup", "restore", file)
	old.refused(4, "there is a node already", "backup", "restore", file, "--new-cluster", "--kit-file", kit, "--dir", old.dir)

	// The restore.
	k1, k2, k3 := newHost(t, bin, "k1"), newHost(t, bin, "k2"), newHost(t, bin, "k3")
	k1.run(append([]string{"backup", "restore", file, "--new-cluster", "--kit-file", kit, "--name", "k1", "--no-replay-epoch"}, k1.places()...)...)
	k1.start()
	of(k1).Ready(t)
	k2.join(k1)
	k3.join(k1)
	r := of(k1, k2, k3)
	r.Ready(t)
	realm.Eventually(t, 60*time.Second, "three voters", func() bool {
		out, err := k1.try("status")
		return err == nil && strings.Contains(out, "3/3 nodes   quorum ok (tolerates 1)")
	})

	for _, n := range r.Nodes {
		now := r.Session(t, []string{n.KDC})
		// The TGT of the lost realm's days buys a ticket, which has the kvno of those days and opens by the keytab of those days.
		copyFile(t, tgt, now.Cache)
		if is := now.OK("", "kvno", "-k", keytab, "HTTP/web.example.com"); !strings.HasPrefix(is, was[:len(was)-1]) || !strings.Contains(was, "kvno = 2") {
			t.Errorf("%s: %q, before the loss %q", n.Name, is, was)
		}
		now.OK("", "kinit", "-k", "-t", keytab, "HTTP/web.example.com")
		now.OK(password+"\n", "kinit", "alice")
		now.OK("", "kvno", "-k", keytab, "HTTP/web.example.com")
	}
	// What the lost cluster's admins and nodes hold opens nothing, and the new cluster's own does.
	admin := []string{"--addr", k1.node.Admin, "--identity"}
	k1.run(append(admin, filepath.Join(k1.dir, "admin"), "status")...)
	if out, err := k1.try(append(admin, filepath.Join(old.dir, "admin"), "status", "--timeout", "2s")...); err == nil {
		t.Errorf("the lost cluster's admin certificate:\n%s", out)
	}
	old.start() // from the dead: it serves its own realm, and the new cluster does not hear of it
	of(old).Ready(t)
	if out := k1.run("node", "list"); strings.Contains(out, "old1") {
		t.Errorf("charon node list:\n%s", out)
	}
	old.kill()

	// Without the waiver the replay epoch holds service tickets back, and nothing else.
	e := newHost(t, bin, "e1")
	if out := e.run(append([]string{"backup", "restore", file, "--new-cluster", "--kit-file", kit, "--name", "e1"}, e.places()...)...); !strings.Contains(out, "service tickets from ") {
		t.Errorf("charon backup restore:\n%s", out)
	}
	e.start()
	realm.Eventually(t, 30*time.Second, "a login at e1", func() bool {
		_, err := of(e).Session(t, nil).Run(password+"\n", "kinit", "alice")
		return err == nil
	})
	held := of(e).Session(t, nil)
	held.OK(password+"\n", "kinit", "alice")
	held.Refused("KDC_ERR_SVC_UNAVAILABLE", "", bin, "kvno", "HTTP/web.example.com") // MIT's kvno asks for half a minute
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

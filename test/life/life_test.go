// Package life takes a real realm through what happens to a cluster in years: nodes are replaced and move while it serves, and a majority is lost for good.
package life

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/charon-kdc/charon/test/realm"
)

const password = "correct horse"

func start(t *testing.T) *realm.Realm {
	t.Helper()
	r := realm.Start(t, 3, "--principal", "alice="+password, "--service", "HTTP/web.example.com")
	r.Ready(t)
	return r
}

// place chooses addresses for a node and writes its configuration.
func place(t *testing.T, n *realm.Node) {
	t.Helper()
	for _, a := range []*string{&n.KDC, &n.Admin, &n.Peer, &n.HTTP} {
		*a = fmt.Sprintf("127.0.0.1:%d", realm.FreePort(t))
	}
	text := fmt.Sprintf("dir = %q\n[kdc]\naddresses = [%q]\n[admin]\naddress = %q\n[peer]\naddress = %q\n[http]\naddress = %q\n[raft]\npromote_after = \"50ms\"\n[drain]\nnotice = \"0s\"\n",
		n.Dir, n.KDC, n.Admin, n.Peer, n.HTTP)
	if err := os.WriteFile(filepath.Join(n.Dir, "charon.toml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// join has a new node of that name join through the node at via, and returns its index.
func join(t *testing.T, r *realm.Realm, via int, name string) int {
	t.Helper()
	n := realm.Node{Name: name, Dir: filepath.Join(realm.TempDir(t), name)}
	if err := os.Mkdir(n.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	place(t, &n)
	var token string
	realm.Eventually(t, 30*time.Second, "a token for "+name, func() bool {
		out, err := r.TryCharon(r.Nodes[via].Socket(), "token", "create", name)
		token = out
		return err == nil
	})
	file := filepath.Join(filepath.Dir(n.Dir), "token")
	if err := os.WriteFile(file, []byte(token), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := r.TryCharon("", "join", "--config", filepath.Join(n.Dir, "charon.toml"), "--token-file", file, "--no-start"); err != nil {
		t.Fatalf("joining %s: %v\n%s", name, err, out)
	}
	r.Nodes = append(r.Nodes, n)
	r.Restart(t, len(r.Nodes)-1)
	return len(r.Nodes) - 1
}

// offline runs charon on a stopped node's configuration.
func offline(t *testing.T, r *realm.Realm, n realm.Node, args ...string) string {
	t.Helper()
	out, err := r.TryCharon("", append(args, "--config", filepath.Join(n.Dir, "charon.toml"))...)
	if err != nil {
		t.Fatalf("charon %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// load is clients that log in and ask for tickets at all nodes until stop, which says how many did and what failed.
func load(t *testing.T, r *realm.Realm, kdcs []string) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	var done atomic.Int64
	var mu sync.Mutex
	var failed []string
	for i := range 2 {
		s := r.Session(t, append(kdcs[i:len(kdcs):len(kdcs)], kdcs[:i]...))
		wg.Go(func() {
			for ctx.Err() == nil {
				out, err := s.Run(password+"\n", "kinit", "alice")
				if err == nil {
					out, err = s.Run("", "kvno", "-q", "HTTP/web.example.com")
				}
				if err != nil {
					mu.Lock()
					failed = append(failed, fmt.Sprintf("%v: %s", err, out))
					mu.Unlock()
				}
				done.Add(1)
			}
		})
	}
	return func() {
		t.Helper()
		before := done.Load()
		realm.Eventually(t, 60*time.Second, "clients to go on", func() bool { return done.Load() > before+2 })
		cancel()
		wg.Wait()
		if len(failed) > 0 {
			t.Errorf("%d of %d logins failed: %s", len(failed), done.Load(), failed[0])
		}
		t.Logf("%d logins and service tickets", done.Load())
	}
}

// voters waits until the realm has these voters, all in health.
func voters(t *testing.T, r *realm.Realm, via int, names ...string) {
	t.Helper()
	var out string
	defer func() {
		if t.Failed() {
			t.Log(out)
		}
	}()
	realm.Eventually(t, 60*time.Second, fmt.Sprint("voters ", names), func() bool {
		var err error
		out, err = r.TryCharon(r.Nodes[via].Socket(), "status")
		for _, n := range names {
			ok := false
			for line := range strings.Lines(out) {
				f := strings.Fields(line)
				ok = ok || len(f) > 2 && f[0] == n && (f[1] == "leader" || f[1] == "follower") && f[2] == "ok"
			}
			if !ok {
				return false
			}
		}
		return err == nil && strings.Contains(out, fmt.Sprintf("%d/%d nodes   quorum ok", len(names), len(names)))
	})
}

// A second process on a node's data directory is refused, by whatever it comes.
func TestOneProcessADirectory(t *testing.T) {
	r := start(t)
	config := filepath.Join(r.Nodes[0].Dir, "charon.toml")
	list := filepath.Join(realm.TempDir(t), "list")
	if err := os.WriteFile(list, []byte(`{"cluster":"x","survivors":[{"name":"n1","id":"`+strings.Repeat("1", 32)+`","replay_id":"`+strings.Repeat("2", 32)+`","peer_address":"a:1","realm":{},"replay":{}}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"server"}, {"server", "--compact-log"}, {"server", "--recover", list}, {"node", "survivors"}, {"node", "moved", "n2=127.0.0.1:1"},
	} {
		out, err := r.TryCharon("", append(args, "--config", config)...)
		if err == nil || !strings.Contains(out, "is in use by another charon process; stop it first") {
			t.Errorf("charon %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	s := r.Session(t, nil)
	s.OK(password+"\n", "kinit", "alice")
	s.OK("", "kvno", "HTTP/web.example.com")

	r.Kill(t, 2)
	if out := offline(t, r, r.Nodes[2], "server", "--compact-log"); strings.Count(out, "log.db: ") != 2 {
		t.Errorf("--compact-log: %s", out)
	}
	r.Restart(t, 2)
	r.Ready(t)
}

// A node dies, another takes its place, first by the operator's hand, while clients go on.
func TestReplaceUnderLoad(t *testing.T) {
	r := start(t)
	stop := load(t, r, r.KDCs())
	leader := r.Leader(t)
	r.Kill(t, leader)
	via := r.Leader(t)
	dead, third := r.Nodes[leader].Name, r.Nodes[3-leader-via].Name
	n4 := join(t, r, via, "n4")
	r.Ready(t, n4)
	realm.Eventually(t, 60*time.Second, "the dead node's removal", func() bool {
		out, err := r.TryCharon(r.Nodes[via].Socket(), "node", "remove", dead, "--force")
		if err != nil {
			t.Log(out)
		}
		return err == nil
	})
	voters(t, r, via, r.Nodes[via].Name, third, "n4")
	if out, err := r.TryCharon(r.Nodes[n4].Socket(), "node", "transfer", "n4"); err != nil {
		t.Errorf("moving leadership: %v %s", err, out)
	}
	if got := r.Leader(t); got != n4 {
		t.Errorf("%s leads", r.Nodes[got].Name)
	}
	stop()
	if out, err := r.TryCharon(r.Nodes[n4].Socket(), "node", "auto-remove", "--after", "24h"); err != nil || !strings.Contains(out, "while 3 voters stay") {
		t.Errorf("%v %s", err, out)
	}
	if out, err := r.TryCharon(r.Nodes[n4].Socket(), "node", "auto-remove", "off"); err != nil || !strings.Contains(out, "stay until charon node remove") {
		t.Errorf("%v %s", err, out)
	}
}

// Nodes come back at other addresses while clients go on: one, then one whose others were down meanwhile, then all at once.
func TestNodesMove(t *testing.T) {
	r := start(t)
	at := func(i int) string { return r.Nodes[i].Name + " at " + r.Nodes[i].Peer }
	moved := func(via int) {
		t.Helper()
		realm.Eventually(t, 60*time.Second, "the addresses in node list", func() bool {
			out, err := r.TryCharon(r.Nodes[via].Socket(), "node", "list")
			for _, n := range r.Nodes {
				err2 := error(nil)
				if !strings.Contains(out, n.Peer) || !strings.Contains(out, n.KDC) || !strings.Contains(out, n.Admin) {
					err2 = fmt.Errorf("not yet")
				}
				if err2 != nil {
					return false
				}
			}
			return err == nil
		})
	}
	last := 2
	if r.Leader(t) == last {
		last = 1
	}
	kdcs := []string{r.Nodes[0].KDC, r.Nodes[3-last].KDC, r.Nodes[last].KDC}
	stop := load(t, r, kdcs)
	r.Kill(t, last)
	place(t, &r.Nodes[last])
	r.Restart(t, last)
	r.Ready(t, last)
	moved(0)
	stop()
	t.Log("moved: " + at(last))

	for i := range r.Nodes {
		r.Kill(t, i)
	}
	place(t, &r.Nodes[0])
	for i := range r.Nodes {
		r.Restart(t, i)
	}
	r.Ready(t)
	moved(1)

	var notes []string
	for i := range r.Nodes {
		r.Kill(t, i)
		place(t, &r.Nodes[i])
		notes = append(notes, r.Nodes[i].Name+"="+r.Nodes[i].Peer)
	}
	offline(t, r, r.Nodes[0], append([]string{"node", "moved"}, notes...)...)
	for i := range r.Nodes {
		r.Restart(t, i)
	}
	r.Ready(t)
	moved(2)
	voters(t, r, 1, "n1", "n2", "n3")
	s := r.Session(t, nil)
	s.OK(password+"\n", "kinit", "alice")
	s.OK("", "kvno", "HTTP/web.example.com")
}

// Two of three nodes are lost for good. What the operator does is docs/cluster.md, step by step.
func TestLostQuorum(t *testing.T) {
	r := start(t)
	r.Charon(t, "principal", "add", "kept", "--random")
	for i := range r.Nodes {
		r.Kill(t, i)
	}
	left, stolen := r.Nodes[0], r.Nodes[1]
	list := filepath.Join(realm.TempDir(t), "peers.json")
	if err := os.WriteFile(list, []byte(offline(t, r, left, "node", "survivors")), 0o600); err != nil {
		t.Fatal(err)
	}
	spare := filepath.Join(realm.TempDir(t), "spare")
	if out, err := exec.Command("cp", "-a", left.Dir, spare).CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}

	// First with the replay cache's new epoch, as it is right.
	out := offline(t, r, left, "server", "--recover", list)
	for _, want := range []string{"goes on from the log of n1", "No longer nodes: n2, n3", "Service tickets are given again from"} {
		if !strings.Contains(out, want) {
			t.Errorf("--recover does not say %q: %s", want, out)
		}
	}
	r.Restart(t, 0)
	s := r.Session(t, []string{left.KDC})
	realm.Eventually(t, 60*time.Second, "logins", func() bool {
		_, err := s.Run(password+"\n", "kinit", "alice")
		return err == nil
	})
	if out, err := s.Run("", "kvno", "HTTP/web.example.com"); err == nil {
		t.Errorf("a service ticket right after a recovery: %s", out)
	}
	if st := r.Charon(t, "status"); !strings.Contains(st, "NO SERVICE TICKETS until") {
		t.Errorf("status does not say so: %s", st)
	}
	r.Kill(t, 0)

	// Then the operator waives it.
	if err := os.RemoveAll(left.Dir); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("cp", "-a", spare, left.Dir).CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	if out := offline(t, r, left, "server", "--recover", list, "--waive-replay-epoch"); !strings.Contains(out, "waived") {
		t.Errorf("--waive-replay-epoch: %s", out)
	}
	audit, err := os.ReadFile(filepath.Join(left.Dir, "audit.log"))
	if err != nil || !strings.Contains(string(audit), "REPLAY_EPOCH_WAIVED; lost: n2 n3") {
		t.Errorf("the waiver is not audited: %v", err)
	}
	r.Restart(t, 0)
	r.Ready(t, 0)
	s.OK(password+"\n", "kinit", "alice")
	s.OK("", "kvno", "HTTP/web.example.com")
	if out := r.Charon(t, "principal", "show", "kept"); !strings.Contains(out, "kept") {
		t.Errorf("an acknowledged principal: %s", out)
	}

	// Two others join under the old names; a lost node that comes back is told that it is none.
	a, b := join(t, r, 0, "n2"), join(t, r, 0, "n3")
	r.Ready(t, 0, a, b)
	voters(t, r, 0, "n1", "n2", "n3")
	r.Restart(t, 1)
	realm.Eventually(t, 60*time.Second, "the lost node to see that it was removed", func() bool {
		log, err := os.ReadFile(filepath.Join(stolen.Dir, "restart.log"))
		return err == nil && strings.Contains(string(log), "was removed from the cluster")
	})
	old := r.Session(t, []string{stolen.KDC})
	if out, err := old.Run(password+"\n", "kinit", "alice"); err == nil {
		t.Errorf("a lost node logs in: %s", out)
	}
	r.Kill(t, 1)
	r.Charon(t, "principal", "add", "after", "--random")
	for _, i := range []int{a, b} {
		if out, err := r.TryCharon(r.Nodes[i].Socket(), "principal", "show", "after", "--local"); err != nil {
			t.Errorf("%s: %v %s", r.Nodes[i].Name, err, out)
		}
	}
}

// An admin client's certificate is issued, opens the admin port by TLS, and renews itself but no other.
func TestAdminCertificate(t *testing.T) {
	r := realm.Start(t, 1, "--principal", "alice="+password)
	r.Ready(t)
	dir := filepath.Join(realm.TempDir(t), "ops")
	r.Charon(t, "admin-cert", "issue", "ops", "--out", dir)
	if out, err := r.TryCharon("", "admin-cert", "issue", "ops", "--out", dir); err == nil || !strings.Contains(out, "--replace") {
		t.Errorf("over the files that are there: %v %s", err, out)
	}
	r.Charon(t, "role", "grant", "cert:ops", "list", "inquire")
	byTLS := func(args ...string) (string, error) {
		return r.TryCharon(r.Nodes[0].Admin, append(args, "--identity", dir)...)
	}
	if out, err := byTLS("principal", "list"); err != nil || !strings.Contains(out, "alice") {
		t.Errorf("by TLS: %v %s", err, out)
	}
	if out, err := byTLS("admin-cert", "issue", "root", "--out", filepath.Join(dir, "stolen")); err == nil || !strings.Contains(out, "cluster") {
		t.Errorf("another's name: %v %s", err, out)
	}
	before, err := os.ReadFile(filepath.Join(dir, "ops.crt"))
	if err != nil {
		t.Fatal(err)
	}
	if out, err := byTLS("admin-cert", "issue", "ops", "--out", dir, "--replace"); err != nil {
		t.Errorf("its own name again: %v %s", err, out)
	}
	after, err := os.ReadFile(filepath.Join(dir, "ops.crt"))
	if err != nil || string(before) == string(after) {
		t.Errorf("not renewed: %v", err)
	}
	if out, err := byTLS("principal", "list"); err != nil {
		t.Errorf("by the renewed one: %v %s", err, out)
	}
}

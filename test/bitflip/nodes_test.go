package bitflip

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/charon-kdc/charon/node"
	"github.com/charon-kdc/charon/test/realm"
)

// damaged is the exit status of a server that finds its files damaged.
const damaged = 7

// alike waits until all nodes tell the same hash of the realm's state at the same index.
func alike(t *testing.T, r *realm.Realm, via int) {
	t.Helper()
	realm.Eventually(t, 60*time.Second, "all nodes to have the same state", func() bool {
		out, err := r.TryCharon(r.Nodes[via].Socket(), "status", "-o", "json")
		var st struct {
			Nodes []struct {
				StateHash      string `json:"state_hash"`
				StateHashIndex uint64 `json:"state_hash_index"`
				Health         string `json:"health"`
			} `json:"nodes"`
		}
		if err != nil || json.Unmarshal([]byte(out), &st) != nil || len(st.Nodes) != 3 {
			return false
		}
		for _, n := range st.Nodes {
			if n.Health != "ok" || n.StateHash == "" || n.StateHash != st.Nodes[0].StateHash || n.StateHashIndex != st.Nodes[0].StateHashIndex {
				return false
			}
		}
		return true
	})
}

// ends runs a node until it ends by itself.
func ends(t *testing.T, cmd *exec.Cmd) (code int, out string) {
	t.Helper()
	var b bytes.Buffer
	cmd.Stdout, cmd.Stderr = &b, &b
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	select {
	case err := <-done:
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) {
			t.Fatal(err)
		}
		return cmd.ProcessState.ExitCode(), b.String()
	case <-time.After(60 * time.Second):
		_ = cmd.Process.Kill()
		<-done
		t.Fatalf("the node did not end:\n%s", b.String())
	}
	return 0, ""
}

// spoil flips the first bit of a stopped node's file, from an offset on, that is found.
func spoil(t *testing.T, n realm.Node, name string, from int) {
	t.Helper()
	path := filepath.Join(n.Dir, name)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	conf := config(t, n.Dir)
	realm.Eventually(t, 10*time.Second, "the killed node to let go of its directory", func() bool {
		_, err := node.CheckFiles(conf)
		var locked *node.LockedError
		return !errors.As(err, &locked)
	})
	for at := from; at < len(b); at += 97 {
		b[at] ^= 0x10
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := node.CheckFiles(conf); node.IsDamage(err) {
			t.Logf("%s, byte %d: %v", name, at, err)
			return
		} else if err != nil {
			t.Fatal(err)
		}
		b[at] ^= 0x10
	}
	t.Fatalf("no flip in %s is found", path)
}

// A node that starts on a flipped bit refuses in one line that names the file and the remedy, and the remedy works; the others notice nothing.
func TestRealNodes(t *testing.T) {
	r := start(t)
	alike(t, r, 0)
	for _, c := range []struct {
		file string
		from int
	}{
		{"raft/realm/state.db", 2 * os.Getpagesize()},
		{"raft/realm/state.db", 16}, // a meta page
	} {
		r.Kill(t, 2)
		spoil(t, r.Nodes[2], c.file, c.from)
		r.Charon(t, "principal", "add", fmt.Sprintf("meanwhile%d", c.from), "--random")
		code, out := ends(t, r.ServerCommand(2))
		last := lastLine(out)
		if code != damaged || !strings.Contains(last, filepath.Base(c.file)) || !strings.Contains(last, "charon server --rebuild") {
			t.Errorf("%s: status %d, %s", c.file, code, last)
		}
		r.Restart(t, 2, "--rebuild")
		r.Ready(t)
		alike(t, r, 2)
	}

	// The log: who it was must never vote again.
	r.Kill(t, 2)
	spoil(t, r.Nodes[2], "raft/replay/log.db", 2*os.Getpagesize())
	code, out := ends(t, r.ServerCommand(2))
	last := lastLine(out)
	if code != damaged || !strings.Contains(last, "replay/log.db") || !strings.Contains(last, "charon node remove") || !strings.Contains(last, "charon join") {
		t.Errorf("log: status %d, %s", code, last)
	}
	if code, out := ends(t, r.ServerCommand(2, "--rebuild")); code != damaged {
		t.Errorf("a rebuild with a damaged log: status %d, %s", code, out)
	}
	replace(t, r, 2)
	r.Ready(t)
	alike(t, r, 2)
}

// replace does what the remedy for a damaged log says.
func replace(t *testing.T, r *realm.Realm, i int) {
	t.Helper()
	n := r.Nodes[i]
	r.Charon(t, "node", "remove", n.Name, "--force")
	conf, err := os.ReadFile(filepath.Join(n.Dir, "charon.toml"))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Rename(n.Dir, n.Dir+".damaged"), os.Mkdir(n.Dir, 0o700), os.WriteFile(filepath.Join(n.Dir, "charon.toml"), conf, 0o600)); err != nil {
		t.Fatal(err)
	}
	token := filepath.Join(realm.TempDir(t), "token")
	if err := os.WriteFile(token, []byte(r.Charon(t, "token", "create", n.Name)), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := r.TryCharon("", "join", "--config", filepath.Join(n.Dir, "charon.toml"), "--token-file", token, "--no-start"); err != nil {
		t.Fatalf("joining again: %v\n%s", err, out)
	}
	r.Restart(t, i)
}

func lastLine(out string) string {
	lines := strings.Split(strings.TrimSpace(out), "\n")
	return lines[len(lines)-1]
}

// A record that rots while its node runs is not served: the node ends with the reason, and refuses to start.
func TestFlipWhileRunning(t *testing.T) {
	r := realm.Start(t, 3, "--principal", "bob="+password)
	r.Ready(t)
	r.Kill(t, 2)
	cmd := r.ServerCommand(2)
	type end struct {
		code int
		out  string
	}
	ended := make(chan end, 1)
	var b bytes.Buffer
	cmd.Stdout, cmd.Stderr = &b, &b
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	go func() {
		_ = cmd.Wait()
		ended <- end{cmd.ProcessState.ExitCode(), b.String()}
	}()
	r.Nodes[2].PID = cmd.Process.Pid
	r.Ready(t)

	path := filepath.Join(r.Nodes[2].Dir, "raft", "realm", "state.db")
	state, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	key, hits := []byte(realm.Name+"\x00bob"), 0
	for at := 0; ; hits++ {
		i := bytes.Index(state[at:], key)
		if i < 0 {
			break
		}
		at += i + len(key)
		if _, err := f.WriteAt([]byte{state[at+20] ^ 1}, int64(at+20)); err != nil {
			t.Fatal(err)
		}
	}
	if hits == 0 {
		t.Fatal("bob is not in the state file")
	}
	s := r.Session(t, []string{r.Nodes[2].KDC})
	if out, err := s.Run(password+"\n", "kinit", "bob"); err == nil {
		t.Errorf("a ticket by a record that has rotted: %s", out)
	}
	select {
	case e := <-ended:
		if last := lastLine(e.out); e.code != damaged || !strings.Contains(last, "state.db") || !strings.Contains(last, "--rebuild") {
			t.Errorf("status %d, %s", e.code, last)
		}
	case <-time.After(60 * time.Second):
		t.Fatal("the node goes on")
	}
	r.Session(t, []string{r.Nodes[0].KDC, r.Nodes[1].KDC}).OK(password+"\n", "kinit", "bob")
	r.Restart(t, 2, "--rebuild")
	r.Ready(t)
	alike(t, r, 2)
	r.Session(t, []string{r.Nodes[2].KDC}).OK(password+"\n", "kinit", "bob")
}

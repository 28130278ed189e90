package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/charon-kdc/charon/kdc/krb5"
	"github.com/charon-kdc/charon/kdc/krb5/client"
	"github.com/charon-kdc/charon/node"
)

// The test binary is charon when a node's process is started from it.
func init() {
	switch os.Getenv("CHARON_TEST_MAIN") {
	case "1":
		main()
	case "slow", "stubborn":
		pretend(os.Getenv("CHARON_TEST_MAIN") == "slow")
	}
}

// charon runs one command in this process; nodes that it starts are processes.
func charon(t *testing.T, args ...string) (out string, code int) {
	t.Helper()
	t.Setenv("CHARON_TEST_MAIN", "1")
	var stdout, stderr bytes.Buffer
	code = run(context.WithoutCancel(t.Context()), args, strings.NewReader(""), &stdout, &stderr)
	if code != exitOK {
		t.Logf("charon %s: exit %d: %s", strings.Join(args, " "), code, stderr.String())
	}
	return stdout.String(), code
}

// devDir is short, for the unix sockets in it, and gone at the end with whatever runs in it.
func devDir(t *testing.T) string {
	t.Helper()
	parent, err := os.MkdirTemp("", "charon-t")
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(parent, "d")
	t.Cleanup(func() {
		if d, err := loadDev(dir); err == nil {
			for _, n := range d.Nodes {
				if pid, ok := node.RunningPID(n.Dir); ok {
					t.Errorf("%s still runs", n.Name)
					_ = syscall.Kill(pid, syscall.SIGKILL)
				}
			}
		}
		os.RemoveAll(parent)
	})
	return dir
}

// login is kinit where there is one, and always our own client.
func login(t *testing.T, d *devRealm, n devNode) {
	t.Helper()
	if _, err := client.AS(t.Context(), client.ASRequest{
		Via: client.Via{KDCs: []string{n.KDC}}, Realm: d.Realm, Client: krb5.MkName(krb5.NTPrincipal, "alice"), Secret: client.Password("secret"),
	}); err != nil {
		t.Errorf("login at %s: %v", n.Name, err)
	}
	kinit, err := exec.LookPath("kinit")
	if err != nil {
		t.Log("kinit (krb5-user) is not here; only our own client was used")
		return
	}
	conf, err := os.ReadFile(d.KRB5Conf)
	if err != nil {
		t.Fatal(err)
	}
	one := filepath.Join(t.TempDir(), "krb5.conf")
	kdcs := regexp.MustCompile(`(?m)^\t\tkdc = .*\n`)
	first := kdcs.FindIndex(conf)
	conf = append(append(append([]byte{}, conf[:first[0]]...), "\t\tkdc = "+n.KDC+"\n"...), kdcs.ReplaceAll(conf[first[0]:], nil)...)
	if err := os.WriteFile(one, conf, 0o600); err != nil {
		t.Fatal(err)
	}
	env := append(os.Environ(), "KRB5_CONFIG="+one, "KRB5CCNAME=FILE:"+filepath.Join(t.TempDir(), "cc"))
	for _, c := range [][]string{{kinit, "alice"}, {"kvno", "HTTP/web.example.com"}, {kinit, "-k", "HTTP/web.example.com"}} {
		cmd := exec.Command(c[0], c[1:]...)
		cmd.Env, cmd.Stdin = env, strings.NewReader("secret\n")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s at %s: %v\n%s", strings.Join(c, " "), n.Name, err, out)
		}
	}
}

func udpPorts(t *testing.T, n int) string {
	t.Helper()
	p := &portPicker{}
	defer p.release()
	var out []string
	for range n {
		a, err := p.both()
		if err != nil {
			t.Fatal(err)
		}
		_, port, err := net.SplitHostPort(a)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, port)
	}
	return strings.Join(out, ",")
}

func TestDevDetachKillStopStart(t *testing.T) {
	dir := devDir(t)
	ports := udpPorts(t, 3)
	out, code := charon(t, "dev", "--detach", "--json", "--dir", dir, "--nodes", "3", "--realm", "EXAMPLE.COM", "--kdc-ports", ports,
		"--principal", "alice=secret", "--service", "HTTP/web.example.com")
	if code != exitOK {
		t.Fatal("charon dev")
	}
	d := new(devRealm)
	dec := json.NewDecoder(strings.NewReader(out))
	dec.DisallowUnknownFields()
	if err := dec.Decode(d); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	t.Cleanup(func() { charon(t, "dev", "stop", "--rm", dir) })
	for i, n := range d.Nodes {
		if want := "127.0.0.1:" + strings.Split(ports, ",")[i]; n.KDC != want || !alive(n.PID) {
			t.Errorf("%+v: want KDC %s and a live process", n, want)
		}
		login(t, d, n)
	}
	if _, code := charon(t, "dev", "--dir", dir); code != exitConflict {
		t.Errorf("charon dev on a realm that is there: exit %d", code)
	}

	// As a test suite would: kill one, and start it again itself.
	if err := syscall.Kill(d.Nodes[0].PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	login(t, d, d.Nodes[1])
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	again := exec.Command(self, "server", "--config", filepath.Join(d.Nodes[0].Dir, "charon.toml"))
	again.Env = append(os.Environ(), "CHARON_TEST_MAIN=1")
	if err := again.Start(); err != nil {
		t.Fatal(err)
	}
	d.Nodes[0].PID = again.Process.Pid
	ended := make(chan error, 1)
	go func() { ended <- again.Wait() }()
	ctx, cancel := context.WithTimeout(t.Context(), devDeadline)
	defer cancel()
	if err := d.Nodes[0].await(ctx, "?role=voter"); err != nil {
		t.Fatal(err)
	}
	login(t, d, d.Nodes[0])

	if _, code := charon(t, "dev", "stop", dir); code != exitOK {
		t.Error("charon dev stop")
	}
	if err := <-ended; err != nil {
		t.Errorf("the node that was started by hand ended with %v", err)
	}
	for _, n := range d.Nodes {
		if pid, running := node.RunningPID(n.Dir); running {
			t.Errorf("%s runs as %d after the stop", n.Name, pid)
		}
	}
	if _, code := charon(t, "dev", "start", "--detach", dir); code != exitOK {
		t.Fatal("charon dev start")
	}
	for _, n := range d.Nodes {
		login(t, d, n)
	}
}

// foreground starts charon dev as a process of its own and reads its two shell lines.
func foreground(t *testing.T) (c *exec.Cmd, dir string) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c = exec.Command(self, "dev", "--principal", "alice=secret")
	c.Env = append(os.Environ(), "CHARON_TEST_MAIN=1")
	c.Stderr = os.Stderr
	pipe, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(pipe)
	conf, err := r.ReadString('\n')
	if err != nil {
		t.Fatalf("%q, %v", conf, err)
	}
	addr, err := r.ReadString('\n')
	if err != nil {
		t.Fatalf("%q, %v", addr, err)
	}
	m := regexp.MustCompile(`^export KRB5_CONFIG=(/.+)/krb5\.conf\n$`).FindStringSubmatch(conf)
	if m == nil || addr != fmt.Sprintf("export CHARON_ADDR=unix://%s/n1/admin.sock\n", m[1]) {
		t.Fatalf("shell lines %q %q", conf, addr)
	}
	go io.Copy(io.Discard, r)
	return c, m[1]
}

func TestDevInTheForegroundEndsWithItsNodes(t *testing.T) {
	for _, s := range []syscall.Signal{syscall.SIGINT, syscall.SIGKILL} {
		t.Run(s.String(), func(t *testing.T) {
			c, dir := foreground(t)
			d, err := loadDev(dir)
			if err != nil {
				t.Fatal(err)
			}
			defer os.RemoveAll(dir)
			if err := c.Process.Signal(s); err != nil {
				t.Fatal(err)
			}
			err = c.Wait()
			if s == syscall.SIGINT {
				if err != nil {
					t.Errorf("ended with %v", err)
				}
				if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
					t.Errorf("its temporary directory is still there: %v", err)
				}
			}
			deadline := time.Now().Add(20 * time.Second)
			for alive(d.Nodes[0].PID) {
				if time.Now().After(deadline) {
					_ = syscall.Kill(d.Nodes[0].PID, syscall.SIGKILL)
					t.Fatal("its node lives on")
				}
				time.Sleep(20 * time.Millisecond)
			}
		})
	}
}

func TestDevRefuses(t *testing.T) {
	for _, args := range [][]string{
		{"--nodes", "0"}, {"--nodes", "8"}, {"--nodes", "3", "--kdc-ports", "1,2"}, {"--kpasswd-ports", "1,2"}, {"--kdc-ports", "70000"},
		{"--principal", "alice"}, {"--principal", "=x"}, {"unexpected"},
	} {
		if _, code := charon(t, append([]string{"dev"}, args...)...); code != exitUsage {
			t.Errorf("%v: exit %d, want %d", args, code, exitUsage)
		}
	}
	for _, verb := range []string{"stop", "start"} {
		if _, code := charon(t, "dev", verb, t.TempDir()); code != exitNotFound {
			t.Errorf("%s of nothing: exit %d, want %d", verb, code, exitNotFound)
		}
	}
}

func TestDemo(t *testing.T) {
	out, code := charon(t, "dev", "demo")
	if code != exitOK {
		t.Fatalf("exit %d after\n%s", code, out)
	}
	want := regexp.MustCompile(`(?s)^three nodes on loopback: n1( leader)?, n2( leader)?, n3( leader)? +realm DEMO\.CHARON
kinit alice +krbtgt/DEMO\.CHARON +aes256-sha2 +valid 10 h +n\d +\d+\.\d ms
kvno HTTP/web +HTTP/web +aes256-sha2 +n\d +\d+\.\d ms
AP exchange HTTP/web  client proved, server proved \(mutual\)
replay of that TGS-REQ's authenticator at n\d:  KRB_AP_ERR_REPEAT +refused
kill -9 n\d \(the leader\)
  new leader n\d after \d+\.\d s; kinit during the election: (\d+) of (\d+) ok
principal added on the new leader, visible on n\d +ok
all good\. Try it by hand:  make demo KEEP=1   \(prints the KRB5_CONFIG to use\)
$`)
	m := want.FindStringSubmatch(out)
	if m == nil || m[4] != m[5] {
		t.Errorf("got\n%s", out)
	}
}

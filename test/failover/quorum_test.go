package failover

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/charon-kdc/charon/kdc/krb5"
	"github.com/charon-kdc/charon/kdc/krb5/client"
	"github.com/charon-kdc/charon/test/attack"
	"github.com/charon-kdc/charon/test/realm"
)

// TestWithoutQuorum stops two of three nodes and looks at what the third does, with MIT's clients: under without_quorum = serve it goes on by
// itself, under refuse it sends clients away; changes are refused at once either way. An authenticator that both sides accepted, in different
// requests, is found out when they meet.
func TestWithoutQuorum(t *testing.T) {
	r := realm.Start(t, 3, "--principal", "alice="+password, "--service", "HTTP/web.example.com")
	r.Ready(t)
	q := &quorumTest{t: t, r: r}
	t.Cleanup(func() {
		for _, n := range r.Nodes {
			syscall.Kill(n.PID, syscall.SIGCONT)
		}
	})
	q.serve()
	q.refuse()
}

type quorumTest struct {
	t *testing.T
	r *realm.Realm
}

func (q *quorumTest) signal(sig syscall.Signal, nodes ...int) {
	q.t.Helper()
	for _, i := range nodes {
		if err := syscall.Kill(q.r.Nodes[i].PID, sig); err != nil {
			q.t.Fatal(err)
		}
	}
}

// readyz is the first node's.
func (q *quorumTest) readyz() (code int, body struct {
	Degraded bool
	Reason   string
}) {
	c := http.Client{Timeout: 2 * time.Second}
	resp, err := c.Get("http://" + q.r.Nodes[0].HTTP + "/readyz")
	if err != nil {
		return 0, body
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err == nil {
		err = json.Unmarshal(b, &body)
	}
	if err != nil {
		q.t.Error(err)
	}
	return resp.StatusCode, body
}

func (q *quorumTest) serve() {
	t, r := q.t, q.r
	before := r.Session(t, r.KDCs()[:1])
	before.OK(password+"\n", "kinit", "alice")
	tgt := q.login()
	two, err := attack.NewPair(tgt, web)
	if err != nil {
		t.Fatal(err)
	}

	q.signal(syscall.SIGSTOP, 1, 2)
	realm.Eventually(t, 30*time.Second, "the node left to serve alone", func() bool { code, body := q.readyz(); return code == 200 && body.Degraded })
	s := r.Session(t, r.KDCs()[:1])
	s.OK(password+"\n", "kinit", "alice")
	s.OK("", "kvno", "HTTP/web.example.com")
	s.Refused("Password incorrect", "wrong\n", "kinit", "alice")
	q.unavailable(krb5.PrincipalName{NameType: krb5.NTPrincipal, NameString: []string{"nobody"}}) // whom the node does not have, and who may exist
	q.asked(0, "a request", two.First, 0)
	q.asked(0, "a resent request", two.First, 0)
	q.asked(0, "its authenticator in another request", two.Other, krb5.ErrRepeat)
	q.nothingDone()
	if out := r.Charon(t, "status"); !strings.Contains(out, "NO QUORUM") || !strings.Contains(out, "degraded") {
		t.Errorf("status:\n%s", out)
	}
	if m := realm.Get(t, "http://"+r.Nodes[0].HTTP+"/metrics"); !strings.Contains(m, "\ncharon_degraded 1\n") {
		t.Error("charon_degraded is not 1")
	}

	// The other side: it has a quorum, and has not heard of the first request.
	q.signal(syscall.SIGSTOP, 0)
	q.signal(syscall.SIGCONT, 1, 2)
	r.Ready(t, 1, 2)
	q.asked(1, "the authenticator in another request, at the other side", two.Other, 0)
	q.signal(syscall.SIGCONT, 0)
	begun := time.Now()
	realm.Eventually(t, 30*time.Second, "the node to be back", func() bool { code, body := q.readyz(); return code == 200 && !body.Degraded && body.Reason == "" })
	t.Logf("back after %v", time.Since(begun).Round(10*time.Millisecond))
	realm.Eventually(t, 30*time.Second, "the report", func() bool { return len(q.audited("DOUBLE_ACCEPT")) > 0 })
	found := q.audited("DOUBLE_ACCEPT")
	if len(found) != 1 || found[0]["reason"] != "cut-off" || found[0]["authenticator"] == "" {
		t.Fatalf("reported: %v", found)
	}
	named := 0
	for _, line := range q.audited("ISSUE") {
		if line["authenticator"] == found[0]["authenticator"] && line["degraded"] == true && line["replay"] == "unconfirmed" {
			named++
		}
	}
	if named == 0 {
		t.Errorf("no audit line of the request whose authenticator was accepted twice: %v", found)
	}
	for _, status := range []string{"DEGRADED", "HEALED"} {
		realm.Eventually(t, 10*time.Second, "an audit line "+status, func() bool { return len(q.audited(status)) > 0 })
	}
	realm.Eventually(t, 10*time.Second, "metrics that tell of the authenticator that was accepted twice, and that the node is back", func() bool {
		m := realm.Get(t, "http://"+r.Nodes[0].HTTP+"/metrics")
		return strings.Contains(m, `charon_replay_double_accepts_total{cause="cut-off"} 1`) && strings.Contains(m, "\ncharon_degraded 0\n")
	})
	for _, n := range r.Nodes {
		realm.Eventually(t, 10*time.Second, "DOUBLE ACCEPTS in the status of "+n.Name, func() bool {
			out, err := r.TryCharon(n.Socket(), "status")
			return err == nil && strings.Contains(out, "DOUBLE ACCEPTS 1")
		})
	}
	q.asked(2, "the same authenticator once more", append([]byte(nil), two.First...), krb5.ErrRepeat)
}

func (q *quorumTest) refuse() {
	t, r := q.t, q.r
	r.Kill(t, 0)
	conf := filepath.Join(r.Nodes[0].Dir, "charon.toml")
	b, err := os.ReadFile(conf)
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Replace(string(b), "[kdc]\n", "[kdc]\nwithout_quorum = \"refuse\"\n", 1)
	if text == string(b) {
		t.Fatalf("no [kdc] in\n%s", b)
	}
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	r.Restart(t, 0)
	r.Ready(t)
	tgt := q.login()
	two, err := attack.NewPair(tgt, web)
	if err != nil {
		t.Fatal(err)
	}
	q.signal(syscall.SIGSTOP, 1, 2)
	realm.Eventually(t, 30*time.Second, "the node left to be not ready", func() bool { code, _ := q.readyz(); return code == 503 })
	q.asked(0, "a request", two.First, krb5.ErrSvcUnavailable)
	q.unavailable(alice)
	q.nothingDone()
	q.signal(syscall.SIGCONT, 1, 2)
	r.Ready(t)
	s := r.Session(t, r.KDCs()[:1])
	s.OK(password+"\n", "kinit", "alice")
	s.OK("", "kvno", "HTTP/web.example.com")
}

func (q *quorumTest) login() *client.Credential {
	q.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	tgt, err := client.AS(ctx, client.ASRequest{Via: client.Via{KDCs: q.r.KDCs()}, Realm: realm.Name, Client: alice, Secret: client.Password(password)})
	if err != nil {
		q.t.Fatal(err)
	}
	return tgt
}

// unavailable: a login at the node left ends in KDC_ERR_SVC_UNAVAILABLE. (MIT's kinit asks again for half a minute.)
func (q *quorumTest) unavailable(name krb5.PrincipalName) {
	q.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	_, err := client.AS(ctx, client.ASRequest{Via: client.Via{KDCs: q.r.KDCs()[:1]}, Realm: realm.Name, Client: name, Secret: client.Password(password)})
	if err == nil || !strings.Contains(err.Error(), krb5.ErrSvcUnavailable.String()) {
		q.t.Errorf("a login as %v: %v", name, err)
	}
}

func (q *quorumTest) asked(node int, what string, msg []byte, want krb5.ErrorCode) {
	q.t.Helper()
	if code := attack.Ask(q.t, q.r.Nodes[node].KDC, msg); code != want {
		q.t.Errorf("%s answers %s with %v, want %v", q.r.Nodes[node].Name, what, code, want)
	}
}

// nothingDone: a change at the node left is refused at once, and certainly not made.
func (q *quorumTest) nothingDone() {
	q.t.Helper()
	begun := time.Now()
	out, err := q.r.TryCharon(q.r.Nodes[0].Socket(), "principal", "add", "nobody", "--nokey")
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 5 || !strings.Contains(out, "nothing was done") {
		q.t.Errorf("principal add without a quorum: %v\n%s", err, out)
	}
	if took := time.Since(begun); took > 5*time.Second {
		q.t.Errorf("principal add was refused after %v", took)
	}
}

// audited are the first node's audit lines of a status.
func (q *quorumTest) audited(status string) (out []map[string]any) {
	q.t.Helper()
	b, err := os.ReadFile(filepath.Join(q.r.Nodes[0].Dir, "audit.log"))
	if err != nil {
		q.t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		var m map[string]any
		if json.Unmarshal([]byte(line), &m) == nil && m["status"] == status {
			out = append(out, m)
		}
	}
	return out
}

// Package failover kills the nodes of a real realm under load and checks what was promised to its clients.
package failover

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/charon-kdc/charon/kdc/krb5"
	"github.com/charon-kdc/charon/kdc/krb5/client"
	"github.com/charon-kdc/charon/test/attack"
	"github.com/charon-kdc/charon/test/realm"
)

const (
	password = "correct horse"
	kills    = 6
)

var (
	alice = krb5.PrincipalName{NameType: krb5.NTPrincipal, NameString: []string{"alice"}}
	web   = krb5.PrincipalName{NameType: krb5.NTSrvHst, NameString: []string{"HTTP", "web.example.com"}}
)

// TestFailover kills the leader again and again, restarts it, and at last kills all nodes at once, while clients of every kind go on.
//
// What must hold: no acknowledged admin write is lost; no client exchange fails beyond its normal retries; one authenticator
// in two different requests is never accepted twice, at any pair of nodes; a resent packet is answered at any node.
func TestFailover(t *testing.T) {
	r := realm.Start(t, 3, "--principal", "alice="+password, "--service", "HTTP/web.example.com")
	r.Ready(t)
	load := &load{t: t, r: r, nodes: slices.Clone(r.Nodes), acked: map[string]bool{}}
	stop := load.start()

	for i := range kills {
		leader := r.Leader(t)
		r.Kill(t, leader)
		next := r.Leader(t)
		t.Logf("kill %d: %s led, %s leads", i, r.Nodes[leader].Name, r.Nodes[next].Name)
		load.awaitProgress()
		r.Restart(t, leader)
		r.Ready(t, leader)
	}
	stop()
	if n := load.failures.Load(); n > 0 {
		t.Errorf("%d of %d client exchanges failed beyond their retries", n, load.exchanges.Load())
	}
	t.Logf("%d exchanges, %d kinit processes, %d writes acknowledged, %d with unknown outcome, %d pairs of one authenticator, %d resends",
		load.exchanges.Load(), load.kinits.Load(), len(load.acked), load.unknown.Load(), load.pairs.Load(), load.resends.Load())
	if load.pairs.Load() == 0 || load.resends.Load() == 0 || load.kinits.Load() == 0 || len(load.acked) == 0 {
		t.Error("a part of the load did nothing: nothing was shown")
	}

	proof := load.accepted() // answered before the power cut
	for i := range r.Nodes {
		r.Kill(t, i)
	}
	for i := range r.Nodes {
		r.Restart(t, i)
	}
	r.Ready(t)
	load.check()
	for i := range r.Nodes {
		if code := attack.Ask(t, r.Nodes[i].KDC, proof.Other); code != krb5.ErrRepeat {
			t.Errorf("after the power cut %s answers a used authenticator in another request with %v, want KRB_AP_ERR_REPEAT", r.Nodes[i].Name, code)
		}
		if code := attack.Ask(t, r.Nodes[i].KDC, proof.First); code != 0 {
			t.Errorf("after the power cut %s answers a resent request with %v, want a ticket", r.Nodes[i].Name, code)
		}
	}
	s := r.Session(t, nil)
	s.OK(password+"\n", "kinit", "alice")
	s.OK("", "kvno", "HTTP/web.example.com")
}

// load is the clients, and what they were promised.
type load struct {
	t *testing.T
	r *realm.Realm
	// nodes as they were at first: a restart changes the process, not the addresses.
	nodes []realm.Node

	exchanges, failures, kinits, pairs, resends, unknown atomic.Int64

	mu    sync.Mutex
	acked map[string]bool // principals whose creation was acknowledged
}

// start starts the clients; stop ends them and waits.
func (l *load) start() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	loop := func(f func(n int)) {
		wg.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				f(n)
			}
		})
	}
	for i := range l.nodes {
		// Every client knows all nodes and asks another one first.
		kdcs := append(kdcsOf(l.nodes[i:]), kdcsOf(l.nodes[:i])...)
		loop(func(int) { l.exchange(kdcs) })
	}
	loop(l.write)
	p := &pairer{l: l, tgt: l.login()}
	loop(func(int) { p.attack() })
	s := l.r.Session(l.t, nil)
	loop(func(int) {
		if out, err := s.Run(password+"\n", "kinit", "alice"); err != nil {
			l.failures.Add(1)
			l.t.Errorf("kinit: %v\n%s", err, out)
		}
		l.exchanges.Add(1)
		l.kinits.Add(1)
	})
	return func() { cancel(); wg.Wait() }
}

func kdcsOf(nodes []realm.Node) []string {
	var out []string
	for _, n := range nodes {
		out = append(out, n.KDC)
	}
	return out
}

// exchange is a login and a service ticket, with a client's normal retries.
func (l *load) exchange(kdcs []string) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	via := client.Via{KDCs: kdcs}
	tgt, err := client.AS(ctx, client.ASRequest{Via: via, Realm: realm.Name, Client: alice, Secret: client.Password(password)})
	if err == nil {
		_, err = client.TGS(ctx, client.TGSRequest{Via: via, TGT: tgt, Server: web})
	}
	l.exchanges.Add(1)
	if err != nil {
		l.failures.Add(1)
		l.t.Errorf("exchange by %v: %v", kdcs, err)
	}
	time.Sleep(5 * time.Millisecond) // a pace, so that the cluster has time for the rest
}

// write creates a principal; it knows every node, as an administrator's shell does, and asks another one first each time. Exit 0 is the acknowledgement, 5 says that nothing was done, 6 that the outcome is unknown.
func (l *load) write(n int) {
	name := fmt.Sprintf("w%06d", n)
	var addrs []string
	for i := range l.nodes {
		addrs = append(addrs, l.nodes[(n+i)%len(l.nodes)].Socket())
	}
	out, err := l.r.TryCharon(strings.Join(addrs, ","), "principal", "add", name, "--nokey")
	var exit *exec.ExitError
	switch {
	case err == nil:
		l.mu.Lock()
		l.acked[name] = true
		l.mu.Unlock()
	case errors.As(err, &exit) && exit.ExitCode() == 5:
	case errors.As(err, &exit) && exit.ExitCode() == 6:
		l.unknown.Add(1)
	default:
		l.t.Errorf("principal add %s: %v\n%s", name, err, out)
	}
}

// awaitProgress waits for another acknowledged write and another pair.
func (l *load) awaitProgress() {
	l.t.Helper()
	count := func() int { l.mu.Lock(); defer l.mu.Unlock(); return len(l.acked) }
	writes, pairs := count(), l.pairs.Load()
	realm.Eventually(l.t, 60*time.Second, "writes and tickets to go on", func() bool { return count() > writes && l.pairs.Load() > pairs })
}

// check reads every acknowledged principal at every node's own state, which may be behind for a while after a start.
func (l *load) check() {
	l.t.Helper()
	for _, n := range l.nodes {
		var missing []string
		realm.Eventually(l.t, 30*time.Second, "every acknowledged write on "+n.Name, func() bool {
			out, err := l.r.TryCharon(n.Socket(), "kadmin", "--local", "-q", "listprincs w*")
			if err != nil {
				return false
			}
			have := map[string]bool{}
			for line := range strings.Lines(out) {
				name, _, _ := strings.Cut(strings.TrimSpace(line), "@")
				have[name] = true
			}
			was := missing
			missing = nil
			for name := range l.acked {
				if !have[name] {
					missing = append(missing, name)
				}
			}
			if len(missing) > 0 && len(missing) != len(was) {
				l.t.Logf("%s: %d acknowledged principals are not there, such as %s", n.Name, len(missing), missing[0])
			}
			return len(missing) == 0
		})
	}
}

// accepted makes one more pair while all is well and returns it, its first form answered by the first node.
func (l *load) accepted() attack.Pair {
	l.t.Helper()
	two, err := attack.NewPair(l.login(), web)
	if err != nil {
		l.t.Fatal(err)
	}
	if code := attack.Ask(l.t, l.nodes[0].KDC, two.First); code != 0 {
		l.t.Fatalf("a first request was answered with %v", code)
	}
	return two
}

func (l *load) login() *client.Credential {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	tgt, err := client.AS(ctx, client.ASRequest{Via: client.Via{KDCs: kdcsOf(l.nodes)}, Realm: realm.Name, Client: alice, Secret: client.Password(password)})
	if err != nil {
		l.failures.Add(1)
		l.t.Fatalf("login: %v", err)
	}
	return tgt
}

// pairer attacks: it presents one authenticator in two requests to two nodes at once, and the accepted one again to every node.
type pairer struct {
	l   *load
	tgt *client.Credential
	n   int
}

func (p *pairer) attack() {
	l := p.l
	two, err := attack.NewPair(p.tgt, web)
	if err != nil {
		l.t.Errorf("building: %v", err)
		return
	}
	p.n++
	nodes := len(l.nodes)
	a, b := l.nodes[p.n%nodes].KDC, l.nodes[(p.n+1+p.n/nodes%(nodes-1))%nodes].KDC
	var first, other krb5.ErrorCode
	var wg sync.WaitGroup
	wg.Go(func() { first = attack.Ask(l.t, a, two.First) })
	wg.Go(func() { other = attack.Ask(l.t, b, two.Other) })
	wg.Wait()
	l.pairs.Add(1)
	if first == 0 && other == 0 {
		l.t.Errorf("%s and %s both accepted one authenticator, in two requests", a, b)
	}
	if first != 0 {
		return
	}
	for _, n := range l.nodes {
		if code := attack.Ask(l.t, n.KDC, two.First); code == krb5.ErrRepeat {
			l.t.Errorf("%s answers a resent request with KRB_AP_ERR_REPEAT", n.Name)
		}
		if code := attack.Ask(l.t, n.KDC, two.Other); code == 0 {
			l.t.Errorf("%s accepted an authenticator in another request than %s had answered", n.Name, a)
		}
	}
	l.resends.Add(1)
}

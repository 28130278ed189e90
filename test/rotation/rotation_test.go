// Package rotation rotates the keys of a real realm while clients go on, and checks that none of them notices.
package rotation

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/charon-kdc/charon/kdc/krb5"
	"github.com/charon-kdc/charon/kdc/krb5/client"
	"github.com/charon-kdc/charon/kdc/krb5/keytab"
	staterealm "github.com/charon-kdc/charon/raftstore/realm"
	"github.com/charon-kdc/charon/test/realm"
)

const password = "correct horse"

var (
	alice = krb5.PrincipalName{NameType: krb5.NTPrincipal, NameString: []string{"alice"}}
	web   = krb5.PrincipalName{NameType: krb5.NTSrvHst, NameString: []string{"HTTP", "web.example.com"}}
)

// TestRotation rotates krbtgt twice, the master key once with its leader killed in the middle, and a service's keys by staging, while clients of all
// nodes get tickets without one failure. Old tickets work until their key is retired, and at once no more once it is revoked. At the
// end nothing in any node's state is under the old master key.
func TestRotation(t *testing.T) {
	r := realm.Start(t, 3, "--principal", "alice="+password, "--service", "HTTP/web.example.com")
	r.Ready(t)
	l := &load{t: t, r: r, keytab: r.Keytab(t, "HTTP/web.example.com")}
	nodes := slices.Clone(r.Nodes)
	stop := l.start()
	first := l.login(r.KDCs())
	oldRing := read(t, filepath.Join(nodes[0].Dir, "master.key"))

	staged := filepath.Join(realm.TempDir(t), "staged.keytab")
	want(t, r.Charon(t, "keytab", "rotate", "HTTP/web.example.com", "--stage", "--out", staged), "kvno 2 staged")
	want(t, r.Charon(t, "krbtgt", "rotate", "--retire-after", "25s"), "kvno 1 -> 2, active on 3/3 nodes. kvno 1 accepts until")
	retired := time.Now().Add(25 * time.Second)
	l.awaitProgress()
	l.mustServe(first, "with a TGT from before the rotation")

	leader := r.Leader(t)
	want(t, r.Charon(t, "master-key", "rotate", "--detach"), "version 1 -> 2 begun")
	r.Kill(t, leader)
	l.awaitProgress()
	r.Restart(t, leader)
	follow := nodes[(leader+1)%3].Socket()
	out, err := r.TryCharon(follow, "master-key", "show", "--watch")
	if err != nil || !strings.Contains(out, "master key version 2 is active") {
		t.Fatalf("master-key show --watch: %v\n%s", err, out)
	}
	r.Ready(t)
	l.awaitProgress()

	if n := l.kvnoOf(web); n != 1 {
		t.Errorf("a ticket under the staged key, kvno %d", n)
	}
	l.addKeytab(staged)
	want(t, r.Charon(t, "keytab", "activate", "HTTP/web.example.com", "--retire-after", "3s"), "kvno 2 active on 3/3 nodes. kvno 1 still opens tickets until")
	if n := l.kvnoOf(web); n != 2 {
		t.Errorf("a ticket under kvno %d after the activation", n)
	}
	realm.Eventually(t, 30*time.Second, "the retired key of HTTP/web to go", func() bool {
		return !strings.Contains(r.Charon(t, "keytab", "show", "HTTP/web.example.com"), "opens only")
	})

	// By the command's own end the second rotation is everywhere; the first one's key goes when it was said to.
	want(t, r.Charon(t, "krbtgt", "rotate", "--retire-after", "10m"), "kvno 2 -> 3, active on 3/3 nodes")
	if time.Now().Before(retired.Add(-time.Second)) {
		l.mustServe(first, "before the end of its key")
	}
	l.awaitProgress()
	realm.Eventually(t, time.Minute, "the retired key of krbtgt to go", func() bool {
		out := r.Charon(t, "keytab", "show", "krbtgt/"+realm.Name)
		return !strings.Contains(out, "\n1 ") && strings.Contains(out, "\n2 ")
	})
	if time.Now().Before(retired.Add(-time.Second)) {
		t.Errorf("krbtgt's key went %v before its time", time.Until(retired))
	}
	l.refused(first)
	second := l.login(r.KDCs())
	l.mustServe(second, "with a TGT of today")

	stop()
	if n := l.failures.Load(); n > 0 {
		t.Errorf("%d of %d exchanges failed", n, l.exchanges.Load())
	}
	t.Logf("%d exchanges, %d kinit and kvno processes, %d failures", l.exchanges.Load(), l.processes.Load(), l.failures.Load())

	want(t, r.Charon(t, "krbtgt", "rotate", "--revoke-old", "--force"), "kvno 3 and older are gone")
	l.refused(second)
	l.mustServe(l.login(r.KDCs()), "with a TGT from after the revocation")

	for i := range r.Nodes {
		r.Kill(t, i)
	}
	for _, n := range nodes {
		scan(t, n)
	}
	startsNot(t, r, nodes[0], oldRing)
}

func want(t *testing.T, out, part string) {
	t.Helper()
	if !strings.Contains(out, part) {
		t.Errorf("%q does not say %q", out, part)
	}
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// scan reads a stopped node's state file.
func scan(t *testing.T, n realm.Node) {
	t.Helper()
	db, err := staterealm.Open(filepath.Join(n.Dir, "raft", "realm", "state.db"), staterealm.Options{MmapSize: 64 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if stale, err := db.CountStale(2); stale != 0 || err != nil {
		t.Errorf("%s: %d records under another master key than version 2, %v", n.Name, stale, err)
	}
	if all, err := db.CountStale(1); all == 0 || err != nil {
		t.Errorf("%s: the scan finds nothing, %v", n.Name, err)
	}
}

// startsNot gives a node the key file from before the rotation.
func startsNot(t *testing.T, r *realm.Realm, n realm.Node, ring []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(n.Dir, "master.key"), ring, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := r.TryCharon(n.Socket(), "server", "--config", filepath.Join(n.Dir, "charon.toml"))
	if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() == 0 || !strings.Contains(out, "put the file of another node in its place") {
		t.Errorf("with the old master key file: %v\n%s", err, out)
	}
}

// load is the clients of all nodes.
type load struct {
	t *testing.T
	r *realm.Realm

	exchanges, failures, processes atomic.Int64

	mu     sync.Mutex
	keytab string
}

func (l *load) addKeytab(path string) {
	l.t.Helper()
	kt, err := keytab.Read(path)
	if err != nil {
		l.t.Fatal(err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := keytab.Append(l.keytab, kt.Entries...); err != nil {
		l.t.Fatal(err)
	}
}

// opens tells whether the service can open the ticket, as it would with its keytab.
func (l *load) opens(ticket *krb5.Ticket) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	kt, err := keytab.Read(l.keytab)
	if err != nil {
		return err
	}
	k, _, ok := kt.Find(realm.Name, web, ticket.EncPart.KVNO, ticket.EncPart.EType)
	if !ok {
		return fmt.Errorf("no key of kvno %d", ticket.EncPart.KVNO)
	}
	_, err = krb5.OpenTicket(k, ticket)
	return err
}

func (l *load) start() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	kdcs := l.r.KDCs()
	for i := range kdcs {
		// Every client knows all nodes and asks another one first.
		order := append(slices.Clone(kdcs[i:]), kdcs[:i]...)
		wg.Go(func() {
			for ctx.Err() == nil {
				l.exchange(order)
				time.Sleep(5 * time.Millisecond) // a pace, so that the cluster has time for the rest
			}
		})
		s := l.r.Session(l.t, order)
		wg.Go(func() {
			for ctx.Err() == nil {
				for _, argv := range [][]string{{"kinit", "alice"}, {"kvno", "HTTP/web.example.com"}} {
					l.processes.Add(1)
					if out, err := s.Run(password+"\n", argv...); err != nil {
						l.fail("%v: %v\n%s", argv, err, out)
					}
				}
			}
		})
	}
	return func() { cancel(); wg.Wait() }
}

func (l *load) fail(format string, args ...any) {
	l.failures.Add(1)
	l.t.Errorf(format, args...)
}

func (l *load) exchange(kdcs []string) {
	l.exchanges.Add(1)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	via := client.Via{KDCs: kdcs}
	tgt, err := client.AS(ctx, client.ASRequest{Via: via, Realm: realm.Name, Client: alice, Secret: client.Password(password)})
	if err != nil {
		l.fail("AS by %v: %v", kdcs, err)
		return
	}
	svc, err := client.TGS(ctx, client.TGSRequest{Via: via, TGT: tgt, Server: web})
	if err != nil {
		l.fail("TGS by %v with a TGT of kvno %d: %v", kdcs, tgt.Ticket.EncPart.KVNO, err)
		return
	}
	if err := l.opens(&svc.Ticket); err != nil {
		l.fail("the service can't open its ticket: %v", err)
	}
}

// awaitProgress waits for some more exchanges.
func (l *load) awaitProgress() {
	l.t.Helper()
	n, p := l.exchanges.Load(), l.processes.Load()
	realm.Eventually(l.t, time.Minute, "tickets to go on", func() bool { return l.exchanges.Load() > n+10 && l.processes.Load() > p+2 })
}

func (l *load) login(kdcs []string) *client.Credential {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	tgt, err := client.AS(ctx, client.ASRequest{Via: client.Via{KDCs: kdcs}, Realm: realm.Name, Client: alice, Secret: client.Password(password)})
	if err != nil {
		l.t.Fatalf("login: %v", err)
	}
	return tgt
}

func (l *load) ask(kdc string, tgt *client.Credential) (*client.Credential, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	return client.TGS(ctx, client.TGSRequest{Via: client.Via{KDCs: []string{kdc}}, TGT: tgt, Server: web})
}

// kvnoOf is the key that tickets for a service are under now.
func (l *load) kvnoOf(krb5.PrincipalName) uint32 {
	l.t.Helper()
	svc, err := l.ask(l.r.Nodes[0].KDC, l.login(l.r.KDCs()))
	if err != nil {
		l.t.Fatal(err)
	}
	return svc.Ticket.EncPart.KVNO
}

// mustServe: every node takes the TGT.
func (l *load) mustServe(tgt *client.Credential, when string) {
	l.t.Helper()
	for _, n := range l.r.Nodes {
		if _, err := l.ask(n.KDC, tgt); err != nil {
			l.t.Errorf("%s, %s: %v", n.Name, when, err)
		}
	}
}

// refused: no node takes the TGT, and each says that it is the key.
func (l *load) refused(tgt *client.Credential) {
	l.t.Helper()
	for _, n := range l.r.Nodes {
		_, err := l.ask(n.KDC, tgt)
		if err == nil || !strings.Contains(err.Error(), krb5.ErrBadKeyVer.String()) {
			l.t.Errorf("%s takes a TGT of kvno %d, or refuses it otherwise: %v", n.Name, tgt.Ticket.EncPart.KVNO, err)
		}
	}
}

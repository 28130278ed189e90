// Package chaos runs a realm of three processes, each in a network namespace and on a disk of its own, breaks them and the network between them in every way of
// its list, and holds what clients and administrators saw against what was promised.
//
// It owns the hosts (namespaces, disks, processes), the relays that traffic passes, the faults and the histories. It knows Charon from outside:
// command line, admin API, port 88, health and metrics.
package chaos

import (
	"context"
	"flag"
	"math/rand/v2"
	"path/filepath"
	"regexp"
	"slices"
	"testing"
	"time"

	"github.com/charon-kdc/charon/kdc/krb5"
	"github.com/charon-kdc/charon/kdc/krb5/client"
	adminv1 "github.com/charon-kdc/charon/proto/charon/admin/v1"
	"github.com/charon-kdc/charon/test/realm"
)

var (
	lasts = flag.Duration("chaos.for", time.Minute, "how long faults are inflicted")
	seed  = flag.Uint64("chaos.seed", 0, "fixes the order of faults and their victims; 0: another one each time")
	tags  = flag.String("chaos.tags", "", "more build tags for the charon binary, separated by commas; with charon_mutants the bug that CHARON_MUTANT names is on in it")
	only  = flag.String("chaos.only", "", "regular expression: inflict no other faults than those whose names match")
	keep  = flag.String("chaos.keep", "", "directory for logs and the HTML history of a failed run")
)

// TestChaos inflicts every fault of the list, one after another, on a realm under load, and holds what was seen against the invariants of the promise: A to H as
// the checks below name them.
func TestChaos(t *testing.T) {
	if *seed == 0 {
		*seed = rand.Uint64()
	}
	t.Logf("seed %d", *seed)
	c := newCluster(t, realm.Build(t, "charon_testclock,"+*tags), 3, *seed)
	t.Cleanup(func() { c.keepFailed() })
	populate(t, c)
	for _, h := range c.hosts {
		realm.Eventually(t, time.Minute, h.name+" to be ready", func() bool { return h.ready() != "" })
	}
	base := c.measure()

	k := &clients{c: c, quiet: &quiet{quorum: true}, admin: newAdmin(c)}
	n := &nemesis{c: c, rng: rand.New(rand.NewPCG(*seed, 2)), faults: chosen(t), quiet: k.quiet, serves: k.serves, count: map[string]int{}}
	history := newRecorder()
	stop := k.start(history)
	ctx, cancel := context.WithTimeout(context.Background(), *lasts)
	defer cancel()
	n.run(ctx)
	pause(context.Background(), 2*time.Second) // the clients see it mended
	stop()

	report(t, k, n, history)
	history.check(t, c.outputs())
	checkSuccess(t, k)
	checkDoubles(t, k)
	checkSame(t, c, k.admin)
	checkTickets(t, k)
	checkRename(t, k)
	checkSecrets(t, c)
	checkUsage(t, c, base)
}

// chosen are the faults that -chaos.only leaves.
func chosen(t *testing.T) []fault {
	t.Helper()
	match, err := regexp.Compile(*only)
	if err != nil {
		t.Fatal(err)
	}
	out := slices.DeleteFunc(slices.Clone(faults), func(f fault) bool { return !match.MatchString(f.name) })
	if len(out) == 0 {
		t.Fatalf("no fault matches %q", *only)
	}
	return out
}

func populate(t *testing.T, c *cluster) {
	t.Helper()
	first := c.hosts[0].socket()
	for _, argv := range [][]string{
		{"kadmin", "-q", "addprinc -clearpolicy -pw " + password + " alice"},
		{"kadmin", "-q", "addprinc -clearpolicy -pw " + fmtPassword(0) + " bob"},
		{"keytab", "ensure", "HTTP/web.example.com", "--out", filepath.Join(c.dir, "keytab")},
	} {
		if out, err := c.charon(first, argv...); err != nil {
			t.Fatalf("charon %v: %v\n%s", argv, err, out)
		}
	}
}

func report(t *testing.T, k *clients, n *nemesis, history *recorder) {
	t.Helper()
	total := 0
	for _, f := range n.faults {
		if n.count[f.name] > 0 {
			t.Logf("%3d  %s", n.count[f.name], f.name)
		}
		total += n.count[f.name]
	}
	t.Logf("%d faults; %d exchanges with a majority, %d failed; %d kinit and kvno, %d failed; %d pairs of one authenticator, %d resends, %d accepted twice under degraded service",
		total, k.exchanges.Load(), k.failures.Load(), k.kinits.Load(), k.kinitFailures.Load(), k.pairs.Load(), k.resends.Load(), len(k.double))
	t.Logf("admin calls: %v; %d passwords changed, %d looks at a node in quiet", history, k.passwords.Load(), k.passwordChecks.Load())
	t.Logf("mended to full service: p50 %v, p99 %v; leader killed to the next one: p50 %v, p99 %v",
		quantile(n.healed, 0.5), quantile(n.healed, 0.99), quantile(n.failovers, 0.5), quantile(n.failovers, 0.99))
	for _, s := range k.said {
		t.Log(s)
	}
	if total == 0 || k.exchanges.Load() == 0 || k.kinits.Load() == 0 || k.pairs.Load() == 0 || k.resends.Load() == 0 || history.acknowledged() == 0 || k.passwords.Load() == 0 {
		t.Error("a part of the load did nothing: nothing was shown")
	}
}

func quantile(d []time.Duration, q float64) time.Duration {
	if len(d) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(d))
	return s[min(len(s)-1, int(q*float64(len(s))))].Round(time.Millisecond)
}

// checkSuccess is invariant F: with a majority, 99.9 % of exchanges succeed within the clients' own retries. One failure is within the promise of a short run.
func checkSuccess(t *testing.T, k *clients) {
	t.Helper()
	for what, x := range map[string][2]int64{
		"exchanges":      {k.failures.Load(), k.exchanges.Load()},
		"kinit and kvno": {k.kinitFailures.Load(), k.kinits.Load()},
	} {
		if x[0] > max(1, x[1]/1000) {
			t.Errorf("%d of %d %s failed while most nodes reached each other", x[0], x[1], what)
		}
	}
}

// checkTickets is invariant C for what is issued in the end: MIT's tools read it.
func checkTickets(t *testing.T, k *clients) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for _, argv := range [][]string{
		{"kinit", "-l", "1h", "alice"},
		{"kvno", "-k", filepath.Join(k.c.dir, "keytab"), "HTTP/web.example.com"},
		{"klist", "-ef"},
	} {
		if err := k.program(ctx, password+"\n", argv...); err != nil {
			t.Error(err)
		}
	}
	for _, h := range k.c.hosts {
		if _, err := k.login(ctx, alice, password, client.Via{KDCs: []string{h.kdcRelay()}}); err != nil {
			t.Errorf("login at %s after all is mended: %v", h.name, err)
		}
	}
}

// checkRename: who is renamed keeps the password, though its key was made with a salt of the old name.
func checkRename(t *testing.T, k *clients) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if _, err := k.admin.any().RenamePrincipal(ctx, &adminv1.RenamePrincipalRequest{RequestId: requestID(), Name: "alice", NewName: "alicia"}); err != nil {
		t.Error(err)
		return
	}
	for i, err := range k.everywhere(ctx, krb5.PrincipalName{NameType: krb5.NTPrincipal, NameString: []string{"alicia"}}, password) {
		if err != nil {
			t.Errorf("login at %s under the new name: %v", k.c.hosts[i].name, err)
		}
	}
}

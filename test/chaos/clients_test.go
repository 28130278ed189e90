package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/charon-kdc/charon/kdc/krb5"
	"github.com/charon-kdc/charon/kdc/krb5/client"
	adminv1 "github.com/charon-kdc/charon/proto/charon/admin/v1"
	"github.com/charon-kdc/charon/test/attack"
	"github.com/charon-kdc/charon/test/realm"
)

// The canaries are secrets that must not turn up anywhere but where the users of them put them.
const (
	password = "canary-8wq3-of-alice"
	changing = "canary-%d-of-bob"
)

var (
	alice   = krb5.PrincipalName{NameType: krb5.NTPrincipal, NameString: []string{"alice"}}
	bob     = krb5.PrincipalName{NameType: krb5.NTPrincipal, NameString: []string{"bob"}}
	service = krb5.PrincipalName{NameType: krb5.NTSrvHst, NameString: []string{"HTTP", "web.example.com"}}
)

// clients are what users and services do meanwhile.
type clients struct {
	c     *cluster
	quiet *quiet
	admin *admin

	exchanges, failures, kinits, kinitFailures atomic.Int64
	pairs, resends, passwords, passwordChecks  atomic.Int64

	mu     sync.Mutex
	said   []string // failures within the promise
	double []string // pairs that two nodes accepted, with the faults of the time
}

// kdcs are all relays, another one first each time.
func (c *cluster) kdcs(first int) []string {
	var out []string
	for i := range c.hosts {
		out = append(out, c.hosts[(first+i)%len(c.hosts)].kdcRelay())
	}
	return out
}

func (k *clients) login(ctx context.Context, who krb5.PrincipalName, secret string, via client.Via) (*client.Credential, error) {
	ctx, cancel := context.WithTimeout(ctx, 40*time.Second)
	defer cancel()
	return client.AS(ctx, client.ASRequest{Via: via, Realm: realm.Name, Client: who, Secret: client.Password(secret), Life: time.Hour})
}

// serves tells whether a node gives alice a ticket at once.
func (k *clients) serves(h *host) bool {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	_, err := k.login(ctx, alice, password, client.Via{KDCs: []string{h.kdcRelay()}})
	return err == nil
}

// exchange is a login and a service ticket, with a client's normal retries. Its failure counts when a majority of nodes could reach each other all the time.
func (k *clients) exchange(ctx context.Context, n int) {
	mark := k.quiet.mark()
	via := client.Via{KDCs: k.c.kdcs(n)}
	tgt, err := k.login(ctx, alice, password, via)
	if err == nil {
		tctx, cancel := context.WithTimeout(ctx, 40*time.Second)
		_, err = client.TGS(tctx, client.TGSRequest{Via: via, TGT: tgt, Server: service})
		cancel()
	}
	if ctx.Err() == nil {
		k.count(err, mark, &k.exchanges, &k.failures, "exchange")
	}
	pause(ctx, 10*time.Millisecond)
}

func (k *clients) count(err error, mark *mark, all, failed *atomic.Int64, what string) {
	if !k.quiet.majoritySince(mark) {
		return
	}
	all.Add(1)
	if err != nil {
		failed.Add(1)
		k.mu.Lock()
		defer k.mu.Unlock()
		if len(k.said) < 20 {
			k.said = append(k.said, fmt.Sprintf("%s under %s: %v", what, k.quiet.names(mark), err))
		}
	}
}

// mit is MIT's kinit and kvno, against all nodes.
func (k *clients) mit(ctx context.Context, n int) {
	mark := k.quiet.mark()
	err := k.program(ctx, password+"\n", "kinit", "-l", "1h", "alice")
	if err == nil {
		err = k.program(ctx, "", "kvno", "-q", "HTTP/web.example.com")
	}
	if ctx.Err() == nil {
		k.count(err, mark, &k.kinits, &k.kinitFailures, "kinit and kvno")
	}
	pause(ctx, 100*time.Millisecond)
}

func (k *clients) program(ctx context.Context, stdin string, argv ...string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = append(slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "KRB5") }),
		"KRB5_CONFIG="+k.c.conf, "KRB5CCNAME=FILE:"+filepath.Join(k.c.dir, "cc"), "LC_ALL=C")
	cmd.Stdin = strings.NewReader(stdin)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", argv[0], err, out)
	}
	return nil
}

// pair presents one authenticator in two requests to two nodes at once, and the accepted one again to all nodes.
func (k *clients) pair(ctx context.Context, tgt *client.Credential) {
	mark := k.quiet.mark()
	two, err := attack.NewPair(tgt, service)
	if err != nil {
		k.c.t.Errorf("building: %v", err)
		return
	}
	i := rand.IntN(len(k.c.hosts))
	j := (i + 1 + rand.IntN(len(k.c.hosts)-1)) % len(k.c.hosts)
	var first, other krb5.ErrorCode
	var wg sync.WaitGroup
	wg.Go(func() { first = attack.Ask(k.c.t, k.c.hosts[i].kdcRelay(), two.First) })
	wg.Go(func() { other = attack.Ask(k.c.t, k.c.hosts[j].kdcRelay(), two.Other) })
	wg.Wait()
	k.pairs.Add(1)
	both := first == 0 && other == 0
	for n := range k.c.hosts {
		if first != 0 {
			break
		}
		addr := k.c.hosts[n].kdcRelay()
		again, third := attack.Ask(k.c.t, addr, two.First), attack.Ask(k.c.t, addr, two.Other)
		if again == krb5.ErrRepeat && !both {
			k.c.t.Errorf("%s answers a resent request with KRB_AP_ERR_REPEAT, under %s", k.c.hosts[n].name, k.quiet.names(mark))
		}
		both = both || third == 0
		k.resends.Add(1)
	}
	if both {
		k.mu.Lock()
		k.double = append(k.double, k.quiet.names(mark))
		k.mu.Unlock()
	}
	pause(ctx, 20*time.Millisecond)
}

// change sets bob's password through any node. When nothing is broken meanwhile, the new one must work and the old one must fail at every node, from the
// acknowledgement on.
func (k *clients) change(ctx context.Context, n int) {
	mark := k.quiet.mark()
	before, after := fmt.Sprintf(changing, n-1), fmt.Sprintf(changing, n)
	id := requestID()
	for {
		tctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		_, err := k.admin.any().SetPassword(tctx, &adminv1.SetPasswordRequest{RequestId: id, Name: "bob", Keys: &adminv1.NewKeys{Source: &adminv1.NewKeys_Password{Password: after}}})
		cancel()
		if err == nil {
			break
		}
		if o := outcomeOf(err); o != nothing && o != unknown {
			k.c.t.Errorf("setting a password: %v", err)
		}
		if ctx.Err() != nil {
			return
		}
		pause(ctx, 200*time.Millisecond)
	}
	k.passwords.Add(1)
	for i, bad := range k.everywhere(ctx, bob, before) { // all at once: a node that lags does so for a moment
		h := k.c.hosts[i]
		_, good := k.login(ctx, bob, after, client.Via{KDCs: []string{h.kdcRelay()}})
		if !k.quiet.since(mark) || ctx.Err() != nil {
			break
		}
		k.passwordChecks.Add(1)
		if good != nil {
			k.c.t.Errorf("%s does not take the new password after it was acknowledged: %v", h.name, good)
		}
		var refused *krb5.Error
		if bad == nil || !errors.As(bad, &refused) {
			k.c.t.Errorf("%s answers the old password with %v after the change was acknowledged", h.name, bad)
		}
	}
	pause(ctx, 300*time.Millisecond)
}

// everywhere logs in at every node at once and returns what came of it, by host.
func (k *clients) everywhere(ctx context.Context, who krb5.PrincipalName, secret string) []error {
	out := make([]error, len(k.c.hosts))
	var wg sync.WaitGroup
	for i, h := range k.c.hosts {
		wg.Go(func() { _, out[i] = k.login(ctx, who, secret, client.Via{KDCs: []string{h.kdcRelay()}}) })
	}
	wg.Wait()
	return out
}

// start runs them all until stop, which waits for them.
func (k *clients) start(history *recorder) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	loop := func(f func(n int)) {
		wg.Go(func() {
			for n := 1; ctx.Err() == nil; n++ {
				f(n)
			}
		})
	}
	for i := range 3 {
		loop(func(n int) { k.exchange(ctx, n+i) })
	}
	loop(func(n int) { k.mit(ctx, n) })
	loop(func(n int) { k.change(ctx, n) })
	wg.Go(func() {
		for ctx.Err() == nil {
			tgt, err := k.login(ctx, alice, password, client.Via{KDCs: k.c.kdcs(0)})
			for n := 0; err == nil && n < 50 && ctx.Err() == nil; n++ {
				k.pair(ctx, tgt)
			}
		}
	})
	for n := range 4 {
		wg.Go(func() { k.admin.administrator(ctx, n, history) })
	}
	return func() { cancel(); wg.Wait() }
}

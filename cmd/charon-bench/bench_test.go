package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"math"
	mathrand "math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/charon-kdc/charon/kdc"
	"github.com/charon-kdc/charon/kdc/kdb/kdbtest"
	"github.com/charon-kdc/charon/kdc/krb5"
	"github.com/charon-kdc/charon/kdc/krb5/keytab"
	"github.com/charon-kdc/charon/kdc/transport"
)

const realm = "EXAMPLE.COM"

// serve runs our KDC with users u0 to u3, and gives its address and u1's keytab. between may change or swallow a reply.
func serve(t *testing.T, between func(reply []byte) []byte) (addr, keytabPath string) {
	t.Helper()
	r := kdbtest.New(realm)
	for i := range 4 {
		r.AddPassword(fmt.Sprint("u", i), "secret", 18, 17)
	}
	r.AddRandom("HTTP/web")
	r.AddRandom("host/web")
	k := kdc.New(kdc.Config{Store: r, Proofs: r, Now: time.Now, Rand: rand.Reader})
	s, err := transport.Listen(transport.Config{Addrs: []string{"127.0.0.1:0"}, PoisonBuffers: true, Handler: func(ctx context.Context, p transport.Packet) []byte {
		reply := k.Answer(ctx, kdc.Request{Data: p.Data, Peer: p.Peer, Local: p.Local, TCP: p.TCP, ReplyMax: p.ReplyMax})
		if between != nil {
			reply = between(bytes.Clone(reply))
		}
		return reply
	}})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { defer close(done); s.Serve(context.Background()) }()
	t.Cleanup(func() { s.Shutdown(context.Background()); <-done })

	p, err := r.Principal(realm, krb5.MkName(krb5.NTPrincipal, "u1"))
	if err != nil {
		t.Fatal(err)
	}
	kt := keytab.Keytab{}
	for _, key := range p.Keys {
		kt.Entries = append(kt.Entries, keytab.Entry{Realm: realm, Name: p.Name, KVNO: 1, Key: key.Key})
	}
	keytabPath = filepath.Join(t.TempDir(), "u1.keytab")
	if err := kt.WriteFile(keytabPath); err != nil {
		t.Fatal(err)
	}
	return s.Addrs()[0].String(), keytabPath
}

// load runs the command with what every test wants, and reads its JSON.
func load(t *testing.T, args ...string) (int, report, string) {
	t.Helper()
	var out, errs bytes.Buffer
	args = append([]string{"--realm", realm, "--duration", "150ms", "--concurrency", "4", "--sample", "1", "--json", "--timeout", "5s"}, args...)
	code := run(t.Context(), args, &out, &errs)
	var r report
	if out.Len() > 0 {
		if err := json.Unmarshal(out.Bytes(), &r); err != nil {
			t.Fatalf("%v in %s", err, out.Bytes())
		}
	}
	return code, r, errs.String()
}

func TestModes(t *testing.T) {
	addr, kt := serve(t, nil)
	users := []string{"--user", "u%d", "--users", "4", "--password", "secret"}
	for _, c := range []struct {
		name string
		args []string
	}{
		{"as", users},
		{"kinit", users},
		{"tgs", append(users, "--service", "HTTP/web,host/web")},
		{"mixed", append(users, "--service", "HTTP/web", "--mix", "50")},
		{"as", append(users, "--tcp")},
		{"tgs", append(users, "--tcp", "--service", "HTTP/web")},
		{"as", []string{"--keytab", kt}},
		{"as", []string{"--keytab", kt, "--user", "u1", "--etype", "aes128-sha1"}},
		{"as", append(users, "--kdc", addr+","+addr, "--udp")},
	} {
		t.Run(strings.Join(append([]string{c.name}, c.args...), " "), func(t *testing.T) {
			code, r, errs := load(t, append([]string{"--kdc", addr, "--mode", c.name, "--pids", fmt.Sprint(os.Getpid())}, c.args...)...)
			if code != 0 {
				t.Fatalf("exit code %d: %s", code, errs)
			}
			if r.Exchanges == 0 || len(r.Errors) > 0 || r.Bad > 0 || r.Checked != r.Exchanges {
				t.Error(r.text())
			}
			l := r.Latency
			if r.PerSecond <= 0 || l.P50 <= 0 || l.P50 > l.P99 || l.P99 > l.P999 || l.P999 > l.Max || r.LoadCPUSeconds <= 0 {
				t.Errorf("figures: %s", r.text())
			}
		})
	}
}

func TestTextReport(t *testing.T) {
	addr, _ := serve(t, nil)
	var out, errs bytes.Buffer
	if code := run(t.Context(), []string{"--kdc", addr, "--realm", realm, "--user", "u0", "--password", "secret", "--duration", "50ms"}, &out, &errs); code != 0 {
		t.Fatalf("exit code %d: %s", code, errs.String())
	}
	for _, want := range []string{"as over udp, 32 in flight", "p99.9", "errors      none", " 0 wrong"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
}

func TestRefusalsAreCounted(t *testing.T) {
	addr, _ := serve(t, nil)
	code, _, errs := load(t, "--kdc", addr, "--user", "u0", "--password", "wrong")
	if code != 1 || !strings.Contains(errs, "KDC_ERR_PREAUTH_FAILED") {
		t.Errorf("a wrong password: exit code %d, %s", code, errs)
	}
	var n atomic.Int32
	addr, _ = serve(t, func(reply []byte) []byte {
		if n.Add(1)%4 > 0 {
			return reply
		}
		e, _ := krb5.EncodeKRBError(&krb5.KRBError{ErrorCode: krb5.ErrRepeat, STime: time.Now().UTC(), Realm: realm, SName: krb5.TGSName(realm)})
		return e
	})
	code, r, errs := load(t, "--kdc", addr, "--user", "u0", "--password", "secret")
	if code != 0 || r.Errors["KRB_AP_ERR_REPEAT"] == 0 || r.Exchanges == 0 || r.Errors["KRB_AP_ERR_REPEAT"] > r.Exchanges {
		t.Errorf("exit code %d, %s, %s", code, r.text(), errs)
	}
}

// A KDC that gives every request the first one's reply has great figures.
func TestWrongRepliesAreFound(t *testing.T) {
	var first atomic.Pointer[[]byte]
	addr, _ := serve(t, func(reply []byte) []byte {
		first.CompareAndSwap(nil, &reply)
		return *first.Load()
	})
	code, r, errs := load(t, "--kdc", addr, "--user", "u0", "--password", "secret")
	if code != 1 || r.Bad != r.Checked || r.Bad == 0 || !strings.Contains(errs, "nonce") {
		t.Errorf("exit code %d, %s, %s", code, r.text(), errs)
	}
}

// Over UDP a lost reply is asked for again, and a late one is nobody else's.
func TestLostRepliesAreAskedForAgain(t *testing.T) {
	var n atomic.Int32
	addr, _ := serve(t, func(reply []byte) []byte {
		if n.Add(1)%50 == 0 {
			return nil
		}
		return reply
	})
	code, r, errs := load(t, "--kdc", addr, "--user", "u0", "--password", "secret", "--timeout", "100ms", "--duration", "400ms")
	if code != 0 || r.Resent == 0 || len(r.Errors) > 0 {
		t.Errorf("exit code %d, %s, %s", code, r.text(), errs)
	}
}

func TestNobodyThere(t *testing.T) {
	code, _, errs := load(t, "--kdc", "127.0.0.1:1", "--user", "u0", "--password", "x", "--timeout", "10ms")
	if code != 1 || !strings.Contains(errs, "refused") {
		t.Errorf("exit code %d: %s", code, errs)
	}
}

func TestUsage(t *testing.T) {
	ok := []string{"--realm", realm, "--user", "u", "--password", "x"}
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"--user", "u", "--password", "x"}, "--realm is missing"},
		{[]string{"--realm", realm}, "--keytab, or --user and --password"},
		{append(ok, "--mode", "xx"), "--mode is"},
		{append(ok, "--mode", "tgs"), "--service is needed"},
		{append(ok, "--users", "7"), "needs a --user with %d"},
		{append(ok, "--concurrency", "0"), "--concurrency is"},
		{append(ok, "--etype", "des"), "--etype"},
		{append(ok, "--udp", "--tcp"), "exclude each other"},
		{append(ok, "--pids", "x"), "--pids"},
		{append(ok, "stray"), "unexpected argument"},
		{append(ok, "--nonsense"), "nonsense"},
	} {
		var errs bytes.Buffer
		if code := run(context.Background(), c.args, &bytes.Buffer{}, &errs); code != 2 || !strings.Contains(errs.String(), c.want) {
			t.Errorf("%v: exit code %d, %s", c.args, code, errs.String())
		}
	}
	if code := run(context.Background(), []string{"--help"}, &bytes.Buffer{}, &bytes.Buffer{}); code != 0 {
		t.Errorf("--help: exit code %d", code)
	}
}

func TestKeytabWithoutTheKey(t *testing.T) {
	_, kt := serve(t, nil)
	for _, args := range [][]string{{"--keytab", kt, "--etype", "aes256-sha2"}, {"--keytab", kt, "--user", "other"}, {"--keytab", kt + "x"}, {"--keytab", kt, "--realm", "OTHER"}} {
		if code, _, errs := load(t, append(args, "--kdc", "127.0.0.1:1")...); code != 1 || !strings.Contains(errs, "--keytab") {
			t.Errorf("%v: exit code %d, %s", args, code, errs)
		}
	}
}

// Quantiles are never below the truth, and at most a 32nd above it.
func TestHistogram(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := mathrand.New(mathrand.NewPCG(seed, 0))
	var whole, half histogram
	var all []time.Duration
	for i := range 20000 {
		d := time.Duration(math.Exp(rnd.Float64() * 25))
		all = append(all, d)
		if i%2 == 0 {
			whole.add(d)
		} else {
			half.add(d)
		}
	}
	whole.merge(&half)
	slices.Sort(all)
	for _, q := range []float64{0, 0.01, 0.5, 0.9, 0.99, 0.999, 1} {
		want := all[min(int(q*float64(len(all))), len(all)-1)]
		if got := whole.quantile(q); got < want || float64(got) > float64(want)*(1+1.0/subBuckets)+1 {
			t.Errorf("quantile %v is %v, want %v", q, got, want)
		}
	}
	for v := uint64(0); v < 1<<20; v = v*9/8 + 1 {
		if i := bucket(v); bucketMax(i) < v || i > 0 && bucketMax(i-1) >= v {
			t.Errorf("%d is in bucket %d, of %d to %d", v, i, bucketMax(i-1)+1, bucketMax(i))
		}
	}
	if (&histogram{}).quantile(0.5) != 0 || (&histogram{}).mean() != 0 {
		t.Error("an empty histogram has a quantile")
	}
}

func TestPreparedRequestsDiffer(t *testing.T) {
	addr, _ := serve(t, nil)
	o, err := parse([]string{"--kdc", addr, "--realm", realm, "--mode", "mixed", "--user", "u%d", "--users", "2", "--password", "secret", "--service", "HTTP/web", "--mix", "50"}, &bytes.Buffer{})
	if err != nil {
		t.Fatal(err)
	}
	p, err := newPreparer(t.Context(), o, &bytes.Buffer{})
	if err != nil {
		t.Fatal(err)
	}
	seen := make(map[string]bool)
	as, tgs := 0, 0
	for range 3 {
		jobs, err := p.prepare(100)
		if err != nil {
			t.Fatal(err)
		}
		for _, j := range jobs {
			req, err := krb5.DecodeKDCReq(j.messages[0])
			if err != nil {
				t.Fatal(err)
			}
			proof := string(req.PAData[0].PADataValue)
			if seen[proof] {
				t.Fatal("a proof is used twice")
			}
			seen[proof] = true
			if req.MsgType == krb5.MsgASReq {
				as++
			} else {
				tgs++
			}
		}
	}
	if as != 150 || tgs != 150 {
		t.Errorf("%d AS and %d TGS, want half and half", as, tgs)
	}
}

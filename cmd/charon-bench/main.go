// Command charon-bench loads the KDCs of a realm and says what they bear. It works with any KDC.
//
// It owns requests made in advance, the clock round each exchange, and a check of what came back. It must not share the KDC's code for
// deciding anything: it speaks RFC 4120 through kdc/krb5/client.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/charon-kdc/charon/kdc/krb5"
	"github.com/charon-kdc/charon/kdc/krb5/kcrypto"
)

// options are the command line.
type options struct {
	mode        string
	kdcs        []string
	realm       string
	tcp         bool
	concurrency int
	duration    time.Duration
	user        string
	users       int
	password    string
	keytabs     []string
	services    []krb5.PrincipalName
	etype       kcrypto.EType
	mix         int
	pids        []int
	sample      int
	timeout     time.Duration
	json        bool
}

const usage = `charon-bench loads the KDCs of a realm.

  charon-bench --kdc 127.0.0.1:8801 --realm EXAMPLE.COM --mode as --user 'u%d' --users 100 --password secret
  charon-bench --kdc a:88,b:88,c:88 --realm EXAMPLE.COM --mode tgs --keytab users.keytab --service HTTP/web --json

Requests are made before the timed part: as is AS-REQ with an encrypted timestamp, kinit two AS-REQs (refused, then with
a timestamp) counted as one, tgs a TGS-REQ with an authenticator of its own, mixed both. Exit codes: 0 done; 1 an error,
or a reply that fails its check; 2 usage.

`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	o, err := parse(args, stderr)
	if errors.Is(err, flag.ErrHelp) {
		return 0
	}
	if err != nil {
		fmt.Fprintln(stderr, "charon-bench:", err)
		return 2
	}
	r, err := bench(ctx, o, stderr)
	if err != nil {
		fmt.Fprintln(stderr, "charon-bench:", err)
		return 1
	}
	if o.json {
		e := json.NewEncoder(stdout)
		e.SetIndent("", "  ")
		err = e.Encode(r)
	} else {
		_, err = io.WriteString(stdout, r.text())
	}
	if err != nil {
		fmt.Fprintln(stderr, "charon-bench: writing the report:", err)
		return 1
	}
	if r.Bad > 0 {
		fmt.Fprintf(stderr, "charon-bench: %d of %d replies checked are wrong, the first: %s\n", r.Bad, r.Checked, r.FirstBad)
		return 1
	}
	return 0
}

// parse reads the command line. Errors name the flag.
func parse(args []string, stderr io.Writer) (*options, error) {
	var o options
	f := flag.NewFlagSet("charon-bench", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.Usage = func() { io.WriteString(stderr, usage); f.PrintDefaults() }
	kdcs := f.String("kdc", "127.0.0.1:88", "addresses host:port, separated by commas; each in-flight request keeps to one")
	services := f.String("service", "", "services asked for by tgs and mixed, separated by commas")
	keytabs := f.String("keytab", "", "files with the users' keys, separated by commas; without --user every principal in them is a user")
	etype := f.String("etype", "aes256-cts-hmac-sha1-96", "enctype of session and reply keys")
	pids := f.String("pids", "", "processes of the KDCs, separated by commas: their CPU time is reported")
	udp := f.Bool("udp", false, "ask over UDP, which is the default")
	f.BoolVar(&o.tcp, "tcp", false, "ask over TCP, one connection for each request")
	f.StringVar(&o.mode, "mode", "as", "as, tgs, mixed or kinit")
	f.StringVar(&o.realm, "realm", "", "realm")
	f.IntVar(&o.concurrency, "concurrency", 32, "requests in flight, 1 to 4096")
	f.DurationVar(&o.duration, "duration", 10*time.Second, "timed part")
	f.StringVar(&o.user, "user", "", "principal, or a pattern with %d for the numbers from 0")
	f.IntVar(&o.users, "users", 1, "how many users the pattern makes, up to 100000")
	f.StringVar(&o.password, "password", "", "the users' password, when there is no keytab")
	f.IntVar(&o.mix, "mix", 10, "per cent of AS exchanges in mixed")
	f.IntVar(&o.sample, "sample", 50, "check one reply in so many")
	f.DurationVar(&o.timeout, "timeout", time.Second, "wait for a reply before the request is sent again, to the next KDC; three tries")
	f.BoolVar(&o.json, "json", false, "report as JSON")
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	if f.NArg() > 0 {
		return nil, fmt.Errorf("unexpected argument %q", f.Arg(0))
	}
	o.kdcs, o.keytabs = list(*kdcs), list(*keytabs)
	for _, s := range list(*services) {
		name, _, err := krb5.ParsePrincipal(s, o.realm)
		if err != nil {
			return nil, fmt.Errorf("--service: %w", err)
		}
		o.services = append(o.services, name)
	}
	for _, s := range list(*pids) {
		pid, err := strconv.Atoi(s)
		if err != nil {
			return nil, fmt.Errorf("--pids: %q is no process id", s)
		}
		o.pids = append(o.pids, pid)
	}
	var err error
	if o.etype, err = kcrypto.ParseEType(*etype); err != nil {
		return nil, fmt.Errorf("--etype: %w", err)
	}
	if *udp && o.tcp {
		return nil, errors.New("--udp and --tcp exclude each other")
	}
	return &o, o.validate()
}

func (o *options) validate() error {
	for _, rule := range []struct {
		ok   bool
		what string
	}{
		{o.mode == "as" || o.mode == "tgs" || o.mode == "mixed" || o.mode == "kinit", "--mode is as, tgs, mixed or kinit"},
		{o.realm != "", "--realm is missing"},
		{len(o.kdcs) > 0, "--kdc is empty"},
		{o.concurrency >= 1 && o.concurrency <= 4096, "--concurrency is 1 to 4096"},
		{o.duration > 0, "--duration is more than zero"},
		{o.timeout > 0, "--timeout is more than zero"},
		{o.users >= 1 && o.users <= 100000, "--users is 1 to 100000"},
		{o.users == 1 || strings.Contains(o.user, "%d"), "--users needs a --user with %d"},
		{o.mix >= 0 && o.mix <= 100, "--mix is 0 to 100"},
		{o.sample >= 1, "--sample is at least 1"},
		{len(o.keytabs) > 0 || o.user != "" && o.password != "", "--keytab, or --user and --password, say who logs in"},
		{len(o.services) > 0 || o.mode == "as" || o.mode == "kinit", "--service is needed for tgs and mixed"},
	} {
		if !rule.ok {
			return errors.New(rule.what)
		}
	}
	return nil
}

func list(s string) (out []string) {
	for _, w := range strings.Split(s, ",") {
		if w = strings.TrimSpace(w); w != "" {
			out = append(out, w)
		}
	}
	return out
}

const (
	chunkFirst = 2000
	chunkMax   = 50000
	warmup     = 1000
)

// bench makes requests and sends them, turn by turn, until the timed parts add up to the duration. Only the sending is timed: the
// KDC's processor is measured over the same turns.
func bench(ctx context.Context, o *options, progress io.Writer) (*report, error) {
	p, err := newPreparer(ctx, o, progress)
	if err != nil {
		return nil, err
	}
	r := newReport(o, len(p.users))
	chunk := chunkFirst
	d := newDriver(o)
	defer d.close()
	jobs, err := p.prepare(warmup)
	if err != nil {
		return nil, err
	}
	if t := d.run(ctx, jobs, o.duration); t.done == 0 {
		return nil, fmt.Errorf("warming up: %w", t.failed())
	}
	for r.timed < o.duration && ctx.Err() == nil {
		if jobs, err = p.prepare(chunk); err != nil {
			return nil, err
		}
		runtime.GC() // not while the clock runs
		before, err := readCPU(o.pids)
		if err != nil {
			return nil, err
		}
		turn := d.run(ctx, jobs, o.duration-r.timed)
		after, err := readCPU(o.pids)
		if err != nil {
			return nil, err
		}
		r.add(turn, after.sub(before))
		p.check(turn, r)
		if turn.done == 0 {
			return nil, fmt.Errorf("nothing was answered: %w", turn.failed())
		}
		rate := float64(turn.done) / turn.took.Seconds()
		chunk = min(max(int(2*rate), chunkFirst), chunkMax) // two seconds' worth
	}
	r.finish()
	return r, ctx.Err()
}

// Command bench compares Charon, on one node and on three, with Debian's krb5kdc on this machine in one run: exchanges a second and a
// CPU second, latency, what the replay commit adds, and how long admin writes stand still when the leader dies. `make bench` runs it.
//
// It owns the order of measurements and their medians; the load is charon-bench's. It must not know Charon but by its command line,
// its admin API and its metrics.
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
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

type options struct {
	charon, load string
	systems      []string
	modes        []string
	rounds       int
	duration     time.Duration
	inFlight     []int
	users        int
	etype        string
	kills        int
	json         string
	keep         bool
}

const usage = `bench compares Charon with Debian's krb5kdc on this machine. It wants an idle machine with two processors or more:
the KDC's processes run on all of them but the last, the load on the last one.

`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	o, err := parse(os.Args[1:], os.Stderr)
	if errors.Is(err, flag.ErrHelp) {
		os.Exit(0)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(2)
	}
	err = run(ctx, o, os.Stdout, os.Stderr)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func parse(args []string, stderr io.Writer) (*options, error) {
	var o options
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.Usage = func() { io.WriteString(stderr, usage); f.PrintDefaults() }
	f.StringVar(&o.charon, "charon", "bin/charon", "the charon binary")
	f.StringVar(&o.load, "load", "bin/charon-bench", "the charon-bench binary")
	systems := f.String("systems", strings.Join(systemNames, ","), "what to measure, in this order within a round")
	modes := f.String("modes", "as,tgs,kinit", "charon-bench's modes")
	f.IntVar(&o.rounds, "rounds", 3, "rounds; medians are printed")
	f.DurationVar(&o.duration, "duration", 4*time.Second, "timed part of one measurement")
	inFlight := f.String("in-flight", "32,256,1", "requests in flight; kinit is measured with the first number only")
	f.IntVar(&o.users, "users", 200, "clients")
	f.StringVar(&o.etype, "etype", "aes256-cts-hmac-sha1-96", "enctype of session and reply keys")
	f.IntVar(&o.kills, "kills", 20, "how often the leader of three nodes is killed; 0 leaves failover out")
	f.StringVar(&o.json, "json", "", "write every figure to this file, too")
	f.BoolVar(&o.keep, "keep", false, "keep the directory with configuration and logs")
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	o.systems, o.modes = strings.Split(*systems, ","), strings.Split(*modes, ",")
	for _, s := range o.systems {
		if !slices.Contains(systemNames, s) {
			return nil, fmt.Errorf("-systems: %q is none of %s", s, strings.Join(systemNames, ", "))
		}
	}
	for _, s := range strings.Split(*inFlight, ",") {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 {
			return nil, fmt.Errorf("-in-flight: %q is no number of requests", s)
		}
		o.inFlight = append(o.inFlight, n)
	}
	switch {
	case f.NArg() > 0:
		return nil, fmt.Errorf("unexpected argument %q", f.Arg(0))
	case o.rounds < 1 || o.duration <= 0 || o.users < 1 || o.kills < 0:
		return nil, errors.New("-rounds, -duration and -users are more than zero, -kills at least zero")
	}
	var err error
	if o.charon, err = filepath.Abs(o.charon); err == nil {
		o.load, err = filepath.Abs(o.load)
	}
	return &o, err
}

// run measures in rounds, every system in each, so that what the machine does meanwhile meets all of them.
func run(ctx context.Context, o *options, out, progress io.Writer) (err error) {
	dir, err := os.MkdirTemp("", "charon-bench-")
	if err != nil {
		return err
	}
	if o.keep {
		fmt.Fprintln(progress, "everything is in", dir)
	} else {
		defer os.RemoveAll(dir)
	}
	b := &bench{o: o, dir: dir, progress: progress, pin: newPinning(progress)}
	for _, name := range o.systems {
		fmt.Fprintf(progress, "making %s with %d users\n", name, o.users)
		s, err := b.make(ctx, name)
		if err != nil {
			return fmt.Errorf("making %s: %w", name, err)
		}
		b.systems = append(b.systems, s)
	}
	res := newResults(o, b.pin)
	for round := range o.rounds {
		for _, s := range b.systems {
			if err := b.measure(ctx, s, round, res); err != nil {
				return fmt.Errorf("measuring %s: %w", s.name(), err)
			}
		}
	}
	if o.kills > 0 {
		if res.Failover, err = b.failover(ctx); err != nil {
			return fmt.Errorf("measuring failover: %w", err)
		}
	}
	if o.json != "" {
		text, err := json.MarshalIndent(res, "", "  ")
		if err != nil {
			return err
		}
		if err := os.WriteFile(o.json, append(text, '\n'), 0o644); err != nil {
			return err
		}
	}
	_, err = io.WriteString(out, res.text())
	return err
}

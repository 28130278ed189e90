package sim

import (
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// report is what all runs of a test did together.
type report struct {
	mu         sync.Mutex
	span       time.Duration // simulated
	faults     map[string]int
	counts     map[string]int
	violations map[string]int
	healing    map[string][]time.Duration // by profile
	// exchanges that were due: tried while there was a quorum and no clock was wrong.
	tried, served map[string]int
	ops, guesses  int
}

func newReport() *report {
	return &report{
		faults: map[string]int{}, counts: map[string]int{}, violations: map[string]int{}, healing: map[string][]time.Duration{},
		tried: map[string]int{}, served: map[string]int{},
	}
}

func (r *report) fault(name string)     { r.mu.Lock(); defer r.mu.Unlock(); r.faults[name]++ }
func (r *report) count(name string)     { r.mu.Lock(); defer r.mu.Unlock(); r.counts[name]++ }
func (r *report) violation(kind string) { r.mu.Lock(); defer r.mu.Unlock(); r.violations[kind]++ }
func (r *report) addOps(n int)          { r.mu.Lock(); defer r.mu.Unlock(); r.ops += n }
func (r *report) addGuesses(n int)      { r.mu.Lock(); defer r.mu.Unlock(); r.guesses += n }

func (r *report) ran(d time.Duration) { r.mu.Lock(); defer r.mu.Unlock(); r.span += d }

func (r *report) healed(profile string, d time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.healing[profile] = append(r.healing[profile], d)
}

func (r *report) exchange(kind string, ok, due bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.counts[kind+" exchanges"]++
	if due {
		r.tried[kind]++
		if ok {
			r.served[kind]++
		}
	}
}

func sum(m map[string]int) (n int) {
	for _, v := range m {
		n += v
	}
	return n
}

func quantile(d []time.Duration, q float64) time.Duration {
	if len(d) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(d))
	return s[min(len(s)-1, int(q*float64(len(s))))]
}

// write shows everything.
func (r *report) write(w io.Writer) {
	r.mu.Lock()
	defer r.mu.Unlock()
	fmt.Fprintf(w, "simulated %.2f h, %d faults, %d violations\n", r.span.Hours(), sum(r.faults), sum(r.violations))
	for _, part := range []struct {
		title string
		m     map[string]int
	}{{"faults", r.faults}, {"checked", r.counts}, {"violations", r.violations}} {
		for _, k := range slices.Sorted(maps.Keys(part.m)) {
			fmt.Fprintf(w, "  %-10s %-36s %7d\n", part.title, k, part.m[k])
		}
	}
	fmt.Fprintf(w, "  %-10s %-36s %7d\n", "checked", "operations in histories", r.ops)
	fmt.Fprintf(w, "  %-10s %-36s %7d\n", "checked", "wrong guesses answered", r.guesses)
	for _, p := range slices.Sorted(maps.Keys(r.healing)) {
		d := r.healing[p]
		fmt.Fprintf(w, "  healing to all ready and fresh (%s): p50 %v, p99 %v, most %v, of %d\n", p, quantile(d, 0.5), quantile(d, 0.99), quantile(d, 1), len(d))
	}
	for _, k := range slices.Sorted(maps.Keys(r.tried)) {
		fmt.Fprintf(w, "  %s served while there was a quorum: %d of %d, %.3f %%\n", k, r.served[k], r.tried[k], 100*float64(r.served[k])/float64(max(1, r.tried[k])))
	}
}

// servedLeast is the share of exchanges that must be served while there is a quorum, once there are many (docs/testing.md, F, says 99.9 % of a service under
// single faults; here several are at work at any moment).
const servedLeast = 0.985

// judge holds the figures of all runs against what is promised.
func (r *report) judge(t testing.TB) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range []profile{lan, wan} {
		if d := r.healing[p.name]; len(d) >= 20 && quantile(d, 0.5) > p.fresh {
			t.Errorf("%s: half of the time it takes more than %v until all nodes are ready and fresh, want %v", p.name, quantile(d, 0.5), p.fresh)
		}
	}
	for kind, n := range r.tried {
		if n >= 1000 && float64(r.served[kind]) < servedLeast*float64(n) {
			t.Errorf("%s: %d of %d exchanges served while there was a quorum", kind, r.served[kind], n)
		}
	}
}

// ledger appends a line to the file LEDGER.
func (r *report) ledger(path string, seed uint64) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	commit, err := exec.Command("git", "describe", "--always", "--dirty").Output()
	if err != nil {
		commit = []byte("unknown")
	}
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(f, "%s  %-16s %8.2f %8d %8d %11d  %d\n", time.Now().UTC().Format("2006-01-02"), strings.TrimSpace(string(commit)),
		r.span.Hours(), sum(r.faults), r.counts["acknowledged writes"], sum(r.violations), seed)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return err
}

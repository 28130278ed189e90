package main

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"maps"
	"math"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"
)

// results is everything that was measured, as -json writes it.
type results struct {
	Time    time.Time         `json:"time"`
	Machine machine           `json:"machine"`
	Charon  string            `json:"charon"`
	Size    int64             `json:"charon_octets"`
	EType   string            `json:"etype"`
	Cells   []*cellResult     `json:"cells"`
	Wait    map[string]waited `json:"replay_wait_ms"` // by "system mode in-flight"
	// Failover is from the leader's kill to the next acknowledged write; nil when it was not measured.
	Failover *failoverResult `json:"failover,omitempty"`

	waits map[cell]buckets
}

type machine struct {
	CPU     string `json:"cpu"`
	CPUs    int    `json:"cpus"`
	Kernel  string `json:"kernel"`
	Servers string `json:"server_cpus"`
	Load    string `json:"load_cpus"`
}

// cellResult is one cell's rounds. Its methods give medians.
type cellResult struct {
	cell
	Rounds []*loadReport `json:"rounds"`
}

type waited struct {
	P50 float64 `json:"p50"`
	P99 float64 `json:"p99"`
}

type failoverResult struct {
	P50 float64   `json:"p50_ms"`
	P99 float64   `json:"p99_ms"`
	MS  []float64 `json:"ms"`
}

func newResults(o *options, pin pinning) *results {
	return &results{
		Time: time.Now().UTC(), Machine: machine{cpuModel(), runtime.NumCPU(), kernel(), pin.Server, pin.Load},
		Charon: version(context.Background(), o.charon), Size: size(o.charon), EType: o.etype,
		Wait: make(map[string]waited), waits: make(map[cell]buckets),
	}
}

func cpuModel() string {
	text, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return runtime.GOARCH
	}
	for line := range bytes.Lines(text) {
		if name, value, ok := strings.Cut(string(line), ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return runtime.GOARCH
}

func kernel() string {
	text, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(text))
}

func (r *results) add(c cell, l *loadReport, wait buckets) {
	at := r.find(c)
	if at == nil {
		at = &cellResult{cell: c}
		r.Cells = append(r.Cells, at)
	}
	at.Rounds = append(at.Rounds, l)
	if wait[math.Inf(1)] == 0 || c.Mode != "tgs" {
		return // an AS reply does not wait
	}
	if r.waits[c] == nil {
		r.waits[c] = make(buckets)
	}
	r.waits[c].add(wait)
	r.Wait[fmt.Sprintf("%s %s %d", c.System, c.Mode, c.InFlight)] = waited{1e3 * r.waits[c].quantile(0.5), 1e3 * r.waits[c].quantile(0.99)}
}

// find is nil for what was not measured.
func (r *results) find(c cell) *cellResult {
	for _, x := range r.Cells {
		if x.cell == c {
			return x
		}
	}
	return nil
}

func (c *cellResult) median(of func(*loadReport) float64) float64 {
	if c == nil {
		return math.NaN()
	}
	var all []float64
	for _, l := range c.Rounds {
		all = append(all, of(l))
	}
	return quantile(all, 0.5)
}

// failed counts what gave no ticket in all rounds, after three tries.
func (c *cellResult) failed() (n uint64) {
	for _, l := range c.Rounds {
		for _, k := range l.Errors {
			n += k
		}
	}
	return n
}

func perSecond(l *loadReport) float64    { return l.PerSecond }
func perCPUSecond(l *loadReport) float64 { return l.PerCPUSecond }
func p50(l *loadReport) float64          { return l.Latency.P50 }
func p99(l *loadReport) float64          { return l.Latency.P99 }

// text is the report for a reader.
func (r *results) text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s   %s, %d CPUs (servers %s, load %s), Linux %s   %s, %.1f MB   %s\n\n",
		r.Time.Format(time.DateTime), r.Machine.CPU, r.Machine.CPUs, r.Machine.Servers, r.Machine.Load, r.Machine.Kernel, r.Charon, float64(r.Size)/1e6, r.EType)
	fmt.Fprintf(&b, "%-6s %4s  %-14s %10s %12s %9s %9s %7s   %-18s %s\n", "mode", "n", "system", "a second", "a CPU second", "p50 ms", "p99 ms", "failed", "ratio to krb5kdc", "ratio to krb5kdc-nopac")
	for _, c := range r.sorted() {
		fmt.Fprintf(&b, "%-6s %4d  %-14s %10.0f %12.0f %9.2f %9.2f %7d   %-18s %s\n", c.Mode, c.InFlight, c.System, c.median(perSecond), c.median(perCPUSecond),
			c.median(p50)/1e3, c.median(p99)/1e3, c.failed(), r.ratio(c, mitDebian), r.ratio(c, mitNoPAC))
	}
	b.WriteString("\nmedians of rounds; n is requests in flight; ratios are of exchanges a second and of exchanges a CPU second of all the KDC's processes\n")
	b.WriteString("krb5kdc: Debian's, DB2, lockout writes off; krb5kdc-nopac without the PAC in tickets, which Charon does not issue either\n")
	r.writeReplay(&b)
	if f := r.Failover; f != nil {
		fmt.Fprintf(&b, "\nleader killed (SIGKILL) to next acknowledged admin write, %d kills: p50 %.0f ms   p99 %.0f ms\n", len(f.MS), f.P50, f.P99)
	}
	return b.String()
}

// sorted is every cell, those to be compared side by side.
func (r *results) sorted() []*cellResult {
	place := make(map[string]int) // of modes, and of systems, in the order in which they were measured
	for _, c := range r.Cells {
		for _, name := range []string{c.Mode, c.System} {
			if _, seen := place[name]; !seen {
				place[name] = len(place)
			}
		}
	}
	out := slices.Clone(r.Cells)
	slices.SortStableFunc(out, func(a, b *cellResult) int {
		return cmp.Or(place[a.Mode]-place[b.Mode], a.InFlight-b.InFlight, place[a.System]-place[b.System])
	})
	return out
}

// ratio is "1.9x 2.4x": on the clock and by CPU time; "" where there is nothing to compare.
func (r *results) ratio(c *cellResult, to string) string {
	base := r.find(cell{to, c.Mode, c.InFlight})
	if base == nil || base == c {
		return ""
	}
	return fmt.Sprintf("%5.2fx %5.2fx", c.median(perSecond)/base.median(perSecond), c.median(perCPUSecond)/base.median(perCPUSecond))
}

// writeReplay says what the replay commit adds: by the nodes' own clock, and as TGS against AS latency, of which one node has the same share of work.
func (r *results) writeReplay(b *strings.Builder) {
	if len(r.Wait) == 0 {
		return
	}
	b.WriteString("\nadded by the replay commit, from proof to verdict (" + waitMetric + ")\n")
	for _, what := range slices.Sorted(maps.Keys(r.Wait)) {
		w := r.Wait[what]
		fmt.Fprintf(b, "  %-24s p50 %.2f ms   p99 %.2f ms\n", what, w.P50, w.P99)
	}
	for _, system := range []string{charonOne, charonThree} {
		as, tgs := r.find(cell{system, "as", 1}), r.find(cell{system, "tgs", 1})
		if as != nil && tgs != nil {
			fmt.Fprintf(b, "  %-24s TGS slower than AS by p50 %.2f ms   p99 %.2f ms (one in flight)\n", system, (tgs.median(p50)-as.median(p50))/1e3, (tgs.median(p99)-as.median(p99))/1e3)
		}
	}
}

// quantile is of a few values, between neighbours by interpolation; NaN of none.
func quantile(values []float64, q float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	v := slices.Sorted(slices.Values(values))
	at := q * float64(len(v)-1)
	low := int(at)
	if low == len(v)-1 {
		return v[low]
	}
	return v[low] + (at-float64(low))*(v[low+1]-v[low])
}

func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K { return slices.Sorted(maps.Keys(m)) }

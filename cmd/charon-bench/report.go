package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// report is the result, as --json prints it.
type report struct {
	Mode        string   `json:"mode"`
	Transport   string   `json:"transport"` // "udp" or "tcp"
	KDCs        []string `json:"kdcs"`
	EType       string   `json:"etype"`
	Concurrency int      `json:"concurrency"`
	Users       int      `json:"users"`
	// Seconds that were timed, and Exchanges that gave a ticket within them.
	Seconds   float64 `json:"seconds"`
	Exchanges uint64  `json:"exchanges"`
	PerSecond float64 `json:"per_second"`
	Latency   latency `json:"latency_us"`
	// Errors counts exchanges that gave none, by the KDC's error ("KRB_AP_ERR_REPEAT") or "no answer".
	Errors map[string]uint64 `json:"errors"`
	// Resent counts requests sent again after a timeout.
	Resent uint64 `json:"resent"`
	// Checked replies were opened and compared with their requests; Bad ones were wrong.
	Checked  uint64 `json:"checked"`
	Bad      uint64 `json:"bad"`
	FirstBad string `json:"first_bad,omitempty"`
	// CPUSeconds is what the processes of --pids spent in the timed part, LoadCPUSeconds what this one did.
	CPUSeconds     float64 `json:"cpu_seconds,omitempty"`
	PerCPUSecond   float64 `json:"per_cpu_second,omitempty"`
	LoadCPUSeconds float64 `json:"load_cpu_seconds"`

	timed     time.Duration
	cpu       cpuTime
	histogram histogram
}

// latency is in microseconds.
type latency struct {
	P50  float64 `json:"p50"`
	P99  float64 `json:"p99"`
	P999 float64 `json:"p99_9"`
	Mean float64 `json:"mean"`
	Max  float64 `json:"max"`
}

func newReport(o *options, users int) *report {
	r := &report{Mode: o.mode, Transport: "udp", KDCs: o.kdcs, EType: o.etype.String(), Concurrency: o.concurrency, Users: users, Errors: make(map[string]uint64)}
	if o.tcp {
		r.Transport = "tcp"
	}
	return r
}

func (r *report) add(t *turn, c cpuTime) {
	r.timed += t.took
	r.Exchanges += t.done
	r.Resent += t.resent
	r.cpu.server += c.server
	r.cpu.load += c.load
	r.histogram.merge(&t.latency)
	for what, n := range t.errors {
		r.Errors[what] += n
	}
}

func (r *report) finish() {
	us := func(d time.Duration) float64 { return float64(d.Nanoseconds()/100) / 10 }
	h := &r.histogram
	r.Latency = latency{us(h.quantile(0.50)), us(h.quantile(0.99)), us(h.quantile(0.999)), us(h.mean()), us(h.max)}
	r.Seconds = r.timed.Seconds()
	r.PerSecond = float64(r.Exchanges) / r.Seconds
	r.CPUSeconds, r.LoadCPUSeconds = r.cpu.server.Seconds(), r.cpu.load.Seconds()
	if r.CPUSeconds > 0 {
		r.PerCPUSecond = float64(r.Exchanges) / r.CPUSeconds
	}
}

// text is the report for a reader.
func (r *report) text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s over %s, %d in flight, %s, %s\n", r.Mode, r.Transport, r.Concurrency, r.EType, strings.Join(r.KDCs, " "))
	fmt.Fprintf(&b, "  exchanges   %d in %.1f s   %.0f/s\n", r.Exchanges, r.Seconds, r.PerSecond)
	fmt.Fprintf(&b, "  latency     p50 %.2f ms   p99 %.2f ms   p99.9 %.2f ms   max %.2f ms\n", r.Latency.P50/1e3, r.Latency.P99/1e3, r.Latency.P999/1e3, r.Latency.Max/1e3)
	if r.CPUSeconds > 0 {
		fmt.Fprintf(&b, "  KDC's CPU   %.2f s   %.0f exchanges a CPU second\n", r.CPUSeconds, r.PerCPUSecond)
	}
	fmt.Fprintf(&b, "  load's CPU  %.2f s\n", r.LoadCPUSeconds)
	fmt.Fprintf(&b, "  errors      %s   resent %d\n", r.errorText(), r.Resent)
	fmt.Fprintf(&b, "  checked     %d replies, %d wrong\n", r.Checked, r.Bad)
	return b.String()
}

func (r *report) errorText() string {
	if len(r.Errors) == 0 {
		return "none"
	}
	var out []string
	for _, what := range slices.Sorted(maps.Keys(r.Errors)) {
		out = append(out, fmt.Sprintf("%s %d", what, r.Errors[what]))
	}
	return strings.Join(out, ", ")
}

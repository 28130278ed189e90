package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// loadReport is what this program reads of charon-bench's JSON.
type loadReport struct {
	PerSecond    float64           `json:"per_second"`
	PerCPUSecond float64           `json:"per_cpu_second"`
	Latency      latency           `json:"latency_us"`
	Errors       map[string]uint64 `json:"errors"`
	Resent       uint64            `json:"resent"`
	Checked      uint64            `json:"checked"`
	Seconds      float64           `json:"seconds"`
	LoadCPU      float64           `json:"load_cpu_seconds"`
}

// latency is in microseconds.
type latency struct {
	P50 float64 `json:"p50"`
	P99 float64 `json:"p99"`
}

// cell is one kind of measurement: a system, a mode, so many requests in flight.
type cell struct {
	System   string `json:"system"`
	Mode     string `json:"mode"`
	InFlight int    `json:"in_flight"`
}

// measure starts s, runs every mode against it with each number of requests in flight, and stops it.
func (b *bench) measure(ctx context.Context, s system, round int, res *results) (err error) {
	if err := s.start(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	for i, inFlight := range b.o.inFlight {
		for _, mode := range b.o.modes {
			if mode == "kinit" && i > 0 {
				continue
			}
			if err := b.measureCell(ctx, s, cell{s.name(), mode, inFlight}, round, res); err != nil {
				return err
			}
		}
	}
	return nil
}

func (b *bench) measureCell(ctx context.Context, s system, c cell, round int, res *results) error {
	before, err := scrapeWait(s.metrics())
	if err != nil {
		return err
	}
	r, err := b.load(ctx, s, c)
	if err != nil {
		return err
	}
	after, err := scrapeWait(s.metrics())
	if err != nil {
		return err
	}
	res.add(c, r, after.sub(before))
	fmt.Fprintf(b.progress, "round %d  %-14s %-6s %4d in flight  %8.0f/s  %8.0f a CPU second  p50 %.2f ms  p99 %.2f ms  load %.0f %% busy%s\n",
		round+1, c.System, c.Mode, c.InFlight, r.PerSecond, r.PerCPUSecond, r.Latency.P50/1e3, r.Latency.P99/1e3, 100*r.LoadCPU/r.Seconds, errorText(r))
	return nil
}

func errorText(r *loadReport) string {
	if len(r.Errors) == 0 && r.Resent == 0 {
		return ""
	}
	return fmt.Sprintf("  errors %v resent %d", r.Errors, r.Resent)
}

// load runs charon-bench once. It fails when a reply was wrong, not when some requests were refused: those are counted.
func (b *bench) load(ctx context.Context, s system, c cell) (*loadReport, error) {
	argv := append(append([]string(nil), b.pin.load...), b.o.load,
		"--kdc", strings.Join(s.kdcs(), ","), "--realm", realm, "--mode", c.Mode, "--service", service, "--keytab", s.keytab(), "--etype", b.o.etype,
		"--concurrency", fmt.Sprint(c.InFlight), "--duration", b.o.duration.String(), "--pids", strings.Trim(strings.ReplaceAll(fmt.Sprint(s.pids()), " ", ","), "[]"), "--json")
	out, err := output(ctx, nil, argv...)
	if err != nil {
		return nil, err
	}
	var r loadReport
	if err := json.Unmarshal(out, &r); err != nil {
		return nil, fmt.Errorf("reading charon-bench's report: %w", err)
	}
	if r.Checked == 0 {
		return nil, errors.New("charon-bench checked no reply")
	}
	return &r, nil
}

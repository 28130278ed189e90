package main

import (
	"bytes"
	"math"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestQuantile(t *testing.T) {
	for _, c := range []struct {
		values []float64
		q      float64
		want   float64
	}{
		{[]float64{3}, 0.99, 3}, {[]float64{3, 1, 2}, 0.5, 2}, {[]float64{4, 1, 2, 3}, 0.5, 2.5}, {[]float64{1, 2}, 1, 2}, {[]float64{0, 10}, 0.99, 9.9},
	} {
		if got := quantile(c.values, c.q); math.Abs(got-c.want) > 1e-9 {
			t.Errorf("quantile(%v, %v) = %v, want %v", c.values, c.q, got, c.want)
		}
	}
	if !math.IsNaN(quantile(nil, 0.5)) {
		t.Error("there is a median of nothing")
	}
}

const page = `# HELP charon_replay_wait_seconds waits
# TYPE charon_replay_wait_seconds histogram
charon_replay_wait_seconds_bucket{le="0.001"} 10
charon_replay_wait_seconds_bucket{le="0.002"} 90
charon_replay_wait_seconds_bucket{le="0.004"} 100
charon_replay_wait_seconds_bucket{le="+Inf"} 100
charon_replay_wait_seconds_sum 0.2
charon_replay_wait_seconds_count 100
charon_other_bucket{le="+Inf"} 7
`

func TestWaitsOfAllNodesAddUp(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte(page)) }))
	defer s.Close()
	b, err := scrapeWait([]string{s.URL, s.URL})
	if err != nil {
		t.Fatal(err)
	}
	if b[0.002] != 180 || b[math.Inf(1)] != 200 || len(b) != 4 {
		t.Errorf("got %v", b)
	}
	one, _ := parseBuckets(strings.NewReader(page), waitMetric)
	for q, want := range map[float64]float64{0.05: 0.0005, 0.5: 0.0015, 0.95: 0.003} {
		if got := b.sub(one).quantile(q); math.Abs(got-want) > 1e-9 {
			t.Errorf("quantile %v is %v, want %v", q, got, want)
		}
	}
	if got := (buckets{1: 0, math.Inf(1): 5}).quantile(0.5); got != 1 {
		t.Errorf("above the last bound: %v, want that bound", got)
	}
	if !math.IsNaN((buckets{1: 0, math.Inf(1): 0}).quantile(0.5)) {
		t.Error("there is a median of nothing")
	}
	if _, err := parseBuckets(strings.NewReader(waitMetric+`_bucket{le="x"} 1`), waitMetric); err == nil {
		t.Error("a bound that is no number is accepted")
	}
	s.Close()
	if _, err := scrapeWait([]string{s.URL}); err == nil {
		t.Error("a node that is down has metrics")
	}
}

func TestReport(t *testing.T) {
	r := &results{Wait: make(map[string]waited), waits: make(map[cell]buckets), Failover: &failoverResult{P50: 900, P99: 1400, MS: make([]float64, 20)}}
	for round := range 3 {
		n := float64(round)
		r.add(cell{charonThree, "as", 1}, &loadReport{PerSecond: 1000, PerCPUSecond: 900, Latency: latency{P50: 500, P99: 900}}, nil)
		r.add(cell{charonThree, "tgs", 1}, &loadReport{PerSecond: 3000 + n, PerCPUSecond: 800, Latency: latency{P50: 3500, P99: 9900}}, buckets{0.002: 10, math.Inf(1): 10})
		r.add(cell{mitDebian, "tgs", 1}, &loadReport{PerSecond: 2000 + n, PerCPUSecond: 1600}, buckets{})
	}
	text := r.text()
	for _, want := range []string{"1.50x  0.50x", "charon-3 tgs 1           p50 1.00 ms", "TGS slower than AS by p50 3.00 ms   p99 9.00 ms", "20 kills: p50 900 ms   p99 1400 ms"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	if strings.Contains(text, "NaN") {
		t.Errorf("a figure is missing in\n%s", text)
	}
	if got := r.find(cell{mitDebian, "tgs", 1}).median(perSecond); got != 2001 {
		t.Errorf("median %v, want 2001", got)
	}
}

func TestParse(t *testing.T) {
	for _, args := range [][]string{{"-systems", "heimdal"}, {"-rounds", "0"}, {"stray"}, {"-kills", "-1"}} {
		if _, err := parse(args, &bytes.Buffer{}); err == nil {
			t.Errorf("%v is accepted", args)
		}
	}
	o, err := parse([]string{"-charon", "x", "-systems", "krb5kdc"}, &bytes.Buffer{})
	if err != nil || !strings.HasPrefix(o.charon, "/") || len(o.systems) != 1 {
		t.Errorf("%+v, %v", o, err)
	}
}

package main

import (
	"bufio"
	"fmt"
	"io"
	"math"
	"net/http"
	"strconv"
	"strings"
)

// waitMetric is how long TGS requests waited for the shared replay cache.
const waitMetric = "charon_replay_wait_seconds"

// buckets is a Prometheus histogram: counts of what is at most so many seconds, cumulative, +Inf included.
type buckets map[float64]float64

// scrapeWait adds the histograms of several nodes up.
func scrapeWait(urls []string) (buckets, error) {
	sum := make(buckets)
	for _, url := range urls {
		resp, err := httpClient.Get(url)
		if err != nil {
			return nil, err
		}
		b, err := parseBuckets(resp.Body, waitMetric)
		resp.Body.Close()
		if err != nil || resp.StatusCode != http.StatusOK {
			return nil, fmt.Errorf("reading %s: status %s, %w", url, resp.Status, err)
		}
		for le, n := range b {
			sum[le] += n
		}
	}
	return sum, nil
}

// parseBuckets reads one histogram of the Prometheus text format; labels beside le add up.
func parseBuckets(r io.Reader, name string) (buckets, error) {
	out := make(buckets)
	s := bufio.NewScanner(r)
	for s.Scan() {
		rest, ok := strings.CutPrefix(s.Text(), name+"_bucket{")
		if !ok {
			continue
		}
		labels, value, ok := strings.Cut(rest, "} ")
		_, le, found := strings.Cut(labels, `le="`)
		le, _, closed := strings.Cut(le, `"`)
		at, err := strconv.ParseFloat(le, 64)
		n, err2 := strconv.ParseFloat(strings.TrimSpace(value), 64)
		if !ok || !found || !closed || err != nil || err2 != nil {
			return nil, fmt.Errorf("no bucket of a histogram: %q", s.Text())
		}
		out[at] += n
	}
	return out, s.Err()
}

func (b buckets) sub(o buckets) buckets {
	out := make(buckets, len(b))
	for le, n := range b {
		out[le] = n - o[le]
	}
	return out
}

func (b buckets) add(o buckets) {
	for le, n := range o {
		b[le] += n
	}
}

// quantile is in seconds, between the bounds of its bucket by interpolation, as Prometheus does it. NaN when nothing was counted.
func (b buckets) quantile(q float64) float64 {
	rank := q * b[math.Inf(1)]
	low, lowCount := 0.0, 0.0
	for _, le := range sortedKeys(b) {
		n := b[le]
		if n < rank || n == 0 {
			low, lowCount = le, n
			continue
		}
		if math.IsInf(le, 1) {
			return low
		}
		return low + (le-low)*(rank-lowCount)/(n-lowCount)
	}
	return math.NaN()
}

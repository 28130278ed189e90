package main

import (
	"math/bits"
	"time"
)

// subBuckets is how many buckets a power of two has: a quantile is at most 1/32 above the truth.
const subBuckets = 32

// histogram counts durations up to an hour or so, in nanoseconds. The zero value is empty.
type histogram struct {
	counts [64 * subBuckets]uint64
	n      uint64
	sum    time.Duration
	max    time.Duration
}

func (h *histogram) add(d time.Duration) {
	d = max(d, 0)
	h.counts[bucket(uint64(d))]++
	h.n++
	h.sum += d
	h.max = max(h.max, d)
}

// bucket is linear below 32 and logarithmic above, 32 steps to an octave.
func bucket(v uint64) int {
	if v < subBuckets {
		return int(v)
	}
	exp := bits.Len64(v) - 6 // v>>exp is 32 to 63
	return exp*subBuckets + int(v>>exp)
}

// bucketMax is the largest value of a bucket.
func bucketMax(i int) uint64 {
	if i < 2*subBuckets {
		return uint64(i)
	}
	exp := i/subBuckets - 1
	return uint64(i%subBuckets+subBuckets+1)<<exp - 1
}

func (h *histogram) merge(o *histogram) {
	for i, c := range o.counts {
		h.counts[i] += c
	}
	h.n += o.n
	h.sum += o.sum
	h.max = max(h.max, o.max)
}

// quantile is the duration that q (0 to 1) of all are not above. 0 when there are none.
func (h *histogram) quantile(q float64) time.Duration {
	if h.n == 0 {
		return 0
	}
	rank := min(uint64(q*float64(h.n)), h.n-1)
	for i, c := range h.counts {
		if rank < c {
			return min(time.Duration(bucketMax(i)), h.max)
		}
		rank -= c
	}
	return h.max
}

func (h *histogram) mean() time.Duration {
	if h.n == 0 {
		return 0
	}
	return h.sum / time.Duration(h.n)
}

package node

import (
	"testing"
	"time"

	"github.com/charon-kdc/charon/kdc"
)

func TestRates(t *testing.T) {
	now := time.Duration(0)
	r := &rates{elapsed: func() time.Duration { return now }}
	for range 10 { // ten seconds
		for i := range 100 {
			d := time.Millisecond
			if i >= 98 { // two of a hundred are slow
				d = 50 * time.Millisecond
			}
			r.observe(&kdc.Event{Type: "AS", Duration: d})
			r.observe(&kdc.Event{Type: "TGS", Duration: d})
			r.observe(&kdc.Event{Type: "TGS", Duration: d})
		}
		now += time.Second
	}
	as, tgs, p99 := r.read()
	if as != 100 || tgs != 200 {
		t.Errorf("AS %v/s, TGS %v/s; want 100 and 200", as, tgs)
	}
	if p99 < 50*time.Millisecond || p99 > 57*time.Millisecond {
		t.Errorf("p99 %v, want 50 ms and at most an eighth more", p99)
	}
	now += rateSeconds * time.Second
	if as, tgs, p99 := r.read(); as != 0 || tgs != 0 || p99 != 0 {
		t.Errorf("after ten silent seconds: %v %v %v", as, tgs, p99)
	}
}

func TestRateBucketsHoldTheirDuration(t *testing.T) {
	last := -1
	for d := time.Duration(0); d < 30*time.Second; d += d/16 + time.Microsecond {
		b := bucketOf(d)
		if b < last {
			t.Fatalf("%v: bucket %d after %d", d, b, last)
		}
		last = b
		if top := durationOf(b); top < d.Truncate(time.Microsecond) || top > d+d/8+time.Microsecond {
			t.Errorf("%v is in the bucket up to %v", d, top)
		}
	}
	if b := bucketOf(time.Hour); b >= len(rateSlot{}.latency) {
		t.Errorf("an hour is out of bounds: %d", b)
	}
}

package limit

import (
	"net/netip"
	"runtime"
	"testing"
	"time"
)

func TestPrefixes(t *testing.T) {
	for _, c := range []struct {
		p    Prefixes
		addr string
		want string
	}{
		{Prefixes{}, "192.0.2.77", "192.0.2.0/24"},
		{Prefixes{}, "::ffff:192.0.2.77", "192.0.2.0/24"},
		{Prefixes{}, "2001:db8:1:2345:6::7", "2001:db8:1:2300::/56"},
		{Prefixes{}, "fe80::1%eth0", "fe80::/56"},
		{Prefixes{V4: 32, V6: 128}, "192.0.2.77", "192.0.2.77/32"},
		{Prefixes{V4: 32, V6: 128}, "2001:db8::7", "2001:db8::7/128"},
		{Prefixes{V4: 8, V6: 48}, "10.9.8.7", "10.0.0.0/8"},
	} {
		if got := c.p.Of(netip.MustParseAddr(c.addr)); got != netip.MustParsePrefix(c.want) {
			t.Errorf("%+v of %s: %v, want %s", c.p, c.addr, got, c.want)
		}
	}
	if got := (Prefixes{}).Of(netip.Addr{}); got.IsValid() {
		t.Errorf("no address: %v", got)
	}
}

func TestTable(t *testing.T) {
	now := time.Unix(1000, 0)
	table := NewTable(Rate{PerSecond: 2, Burst: 5}, 100)
	took := func(key uint64, n int) (ok int) {
		for range n {
			if table.Allow(key, now) {
				ok++
			}
		}
		return ok
	}
	for _, c := range []struct {
		name string
		pass time.Duration
		key  uint64
		want int
	}{
		{"the burst", 0, 1, 5},
		{"nothing left", 0, 1, 0},
		{"another key has its own", 0, 2, 5},
		{"half a second later", 500 * time.Millisecond, 1, 1},
		{"two seconds later", 2 * time.Second, 1, 4},
		{"an hour later it is the burst again", time.Hour, 1, 5},
		{"back in time nothing comes of it", -time.Hour, 1, 0},
	} {
		now = now.Add(c.pass)
		if got := took(c.key, 10); got != c.want {
			t.Errorf("%s: %d, want %d", c.name, got, c.want)
		}
	}
}

func TestHasTakesNothing(t *testing.T) {
	now := time.Unix(1000, 0)
	table := NewTable(Rate{PerSecond: 1, Burst: 1}, 100)
	for range 3 {
		if !table.Has(7, now) {
			t.Fatal("a look took the token")
		}
	}
	if table.Len() != 0 {
		t.Error("a look is remembered")
	}
	if !table.Allow(7, now) || table.Has(7, now) || table.Allow(7, now) {
		t.Error("the one token is not one")
	}
}

func TestZeroRateIsNoLimit(t *testing.T) {
	var none *Table
	if NewTable(Rate{}, 1) != none {
		t.Error("a table for no limit")
	}
	for range 1000 {
		if !none.Allow(1, time.Time{}) || !none.Has(1, time.Time{}) || none.Len() != 0 {
			t.Fatal("no limit refuses")
		}
	}
	if !NewTable(Rate{PerSecond: .01}, 1).Allow(1, time.Unix(0, 0)) {
		t.Error("a slow rate never allows the first")
	}
}

// Whoever comes with ever new keys grows nothing, and loses nobody's bucket who comes again and again meanwhile.
func TestTableIsBounded(t *testing.T) {
	now := time.Unix(1000, 0)
	const most = 1 << 10
	table := NewTable(Rate{PerSecond: 1e-9, Burst: 1}, most)
	const regular = uint64(1) << 60
	table.Allow(regular, now)
	for i := range uint64(200_000) {
		if !table.Allow(i, now) {
			t.Fatalf("key %d is new, and refused", i)
		}
		if i%64 == 0 && table.Allow(regular, now) {
			t.Fatalf("after %d other keys the bucket of one that goes on asking is forgotten", i)
		}
	}
	if n := table.Len(); n > 2*(most+shards) {
		t.Errorf("%d keys remembered, want at most twice %d", n, most)
	}
	runtime.KeepAlive(table)
}

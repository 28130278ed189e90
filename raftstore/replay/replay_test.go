package replay

import (
	"encoding/binary"
	"errors"
	"flag"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/charon-kdc/charon/kdc/kdb"
)

var seedFlag = flag.Uint64("seed", 0, "seed of the random tests; 0 takes a new one")

// seeded is a random source whose seed is printed when the test fails.
func seeded(t testing.TB) *rand.Rand {
	seed := *seedFlag
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("to run again: -seed %d", seed)
		}
	})
	return rand.New(rand.NewPCG(seed, 2))
}

// t0 is the leader time of the tests, in seconds.
const t0 = int64(1_800_000_000)

func k(n int) (out [16]byte) {
	binary.LittleEndian.PutUint64(out[:], uint64(n)*0x9e3779b97f4a7c15)
	binary.LittleEndian.PutUint64(out[8:], uint64(n))
	return out
}

func proof(n, r int, ctime int64) Proof {
	return Proof{K: k(n), R: [8]byte{byte(r)}, CTime: ctime}
}

func batchEntry(t testing.TB, at int64, proofs []Proof, attempts []Attempt) []byte {
	t.Helper()
	b, err := EncodeBatch(at*1000, proofs, attempts)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func mustApply(t testing.TB, s *State, entry []byte) []Verdict {
	t.Helper()
	v, err := s.Apply(entry)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func one(t testing.TB, s *State, at int64, p Proof) Verdict {
	t.Helper()
	return mustApply(t, s, batchEntry(t, at, []Proof{p}, nil))[0]
}

func TestVerdictsAreThoseOfKDB(t *testing.T) {
	for v, want := range map[Verdict]kdb.Verdict{Fresh: kdb.Fresh, Same: kdb.Same, Repeat: kdb.Repeat, Stale: kdb.Stale} {
		if uint8(v) != uint8(want) {
			t.Errorf("%v is %d, kdb has %d", v, v, want)
		}
	}
}

func TestVerdicts(t *testing.T) {
	s := New()
	const skew = 300
	edge := int64(skew + 60)
	for i, c := range []struct {
		at   int64
		p    Proof
		want Verdict
	}{
		{t0, proof(1, 1, t0), Fresh},
		{t0, proof(1, 1, t0), Same},
		{t0, proof(1, 2, t0), Repeat},
		{t0, proof(1, 1, t0), Same}, // a repeat does not replace it
		{t0, proof(2, 1, t0), Fresh},
		{t0, proof(3, 1, t0-edge), Fresh},
		{t0, proof(4, 1, t0-edge-3), Stale},
		{t0, proof(4, 1, t0-edge), Fresh}, // and was not stored
		{t0, proof(5, 1, t0+edge), Fresh},
		{t0, proof(6, 1, t0+edge+1), Stale},
		{t0, proof(6, 1, t0+edge), Fresh},
		{t0, proof(7, 1, math.MaxInt64), Stale},
		{t0, proof(7, 1, math.MinInt64/2), Stale},
		{t0, proof(7, 1, -1), Stale},
		{t0 + 1, proof(3, 1, t0-edge), Same},
		{t0 + 3, proof(3, 1, t0-edge), Stale}, // its bucket is gone
		{t0, proof(3, 1, t0-edge), Stale},     // and time does not go back
		{t0 + 3, proof(1, 1, t0), Same},
		{t0 + edge, proof(1, 1, t0), Same},
		{t0 + edge + 3, proof(1, 1, t0), Stale},
		{t0 + edge + 3, proof(5, 2, t0+edge), Repeat},
		{t0 + 100_000, proof(5, 1, t0+edge), Stale}, // after hours of silence
		{t0 + 100_000, proof(5, 1, t0+100_000), Fresh},
	} {
		if got := one(t, s, c.at, c.p); got != c.want {
			t.Errorf("step %d: %v, want %v", i, got, c.want)
		}
	}
	if st := s.Stats(); st.Items != 1 || st.Buckets != 1 {
		t.Errorf("%+v", st)
	}
	if got := s.Now(); got != (t0+100_000)*1000 {
		t.Error(got)
	}
}

func TestContainsRecordsNothing(t *testing.T) {
	s := New()
	if v := s.Contains(proof(1, 1, t0)); v != Fresh {
		t.Error(v)
	}
	if v := one(t, s, t0, proof(1, 1, t0)); v != Fresh {
		t.Error(v)
	}
	for _, c := range []struct {
		p    Proof
		want Verdict
	}{{proof(1, 1, t0), Same}, {proof(1, 2, t0), Repeat}, {proof(2, 1, t0), Fresh}, {proof(2, 1, t0+1000), Fresh}, {proof(2, 1, t0-1000), Stale}} {
		if v := s.Contains(c.p); v != c.want {
			t.Errorf("%v: %v", c, v)
		}
	}
}

// Time moves on with entries without items, which an idle leader writes.
func TestEmptyBatchMovesTime(t *testing.T) {
	s := New()
	one(t, s, t0, proof(1, 1, t0))
	if v := mustApply(t, s, batchEntry(t, t0+1000, nil, nil)); len(v) != 0 {
		t.Error(v)
	}
	if st := s.Stats(); st.Items != 0 || st.Low != (t0+1000-360)/2*2-2 {
		t.Errorf("%+v, low is %d before now", st, t0+1000-st.Low)
	}
}

func TestSkew(t *testing.T) {
	s := New()
	set := func(at int64, d time.Duration) {
		t.Helper()
		b, err := EncodeSkew(at*1000, d)
		if err != nil {
			t.Fatal(err)
		}
		mustApply(t, s, b)
		if s.Skew() != d {
			t.Error(s.Skew())
		}
	}
	one(t, s, t0, proof(1, 1, t0-350))
	set(t0, 10*time.Minute)
	// What lay before low when the skew was smaller can't be judged: it may have been seen and dropped.
	if v := one(t, s, t0, proof(2, 1, t0-400)); v != Stale {
		t.Error(v)
	}
	if v := one(t, s, t0+300, proof(1, 2, t0-350)); v != Repeat {
		t.Error("dropped too early:", v)
	}
	if v := one(t, s, t0, proof(3, 1, t0+650)); v != Fresh {
		t.Error(v)
	}
	set(t0+300, time.Second)
	if v := one(t, s, t0+300, proof(1, 2, t0-350)); v != Stale {
		t.Error("lowering is immediate:", v)
	}
	for _, d := range []time.Duration{0, -1, time.Hour + time.Second, 1500 * time.Millisecond} {
		if _, err := EncodeSkew(t0, d); err == nil {
			t.Errorf("skew %v was taken", d)
		}
	}
}

// After the cache lost track, an authenticator that may have been accepted before is never accepted again, also one from
// a client whose clock is ahead (RFC 4120 section 3.2.3).
func TestEpoch(t *testing.T) {
	s := New()
	notBefore := t0 + 360
	b, err := EncodeEpoch(t0*1000, Epoch{ID: k(9), NotBefore: notBefore * 1000})
	if err != nil {
		t.Fatal(err)
	}
	mustApply(t, s, b)
	for i, c := range []struct {
		at, ctime int64
		want      Verdict
	}{
		{t0, t0, Stale}, {t0 + 300, t0 + 300, Stale},
		{t0 + 400, notBefore, Stale}, // accepted at t0 with a clock ahead by skew and slack, perhaps
		{t0 + 400, notBefore + 1, Fresh}, {t0 + 1000, t0 + 1000, Fresh},
	} {
		if v := one(t, s, c.at, proof(i, 1, c.ctime)); v != c.want {
			t.Errorf("step %d: %v, want %v", i, v, c.want)
		}
	}
	s = New()
	mustApply(t, s, b)
	a := Attempt{Proof: proof(1, 1, t0), Principal: k(5), Failed: true}
	if v := mustApply(t, s, batchEntry(t, t0, nil, []Attempt{a})); v[0] != Fresh {
		t.Error("a failed attempt goes uncounted:", v)
	}
	older, err := EncodeEpoch(t0*1000, Epoch{ID: k(8), NotBefore: 1})
	if err != nil {
		t.Fatal(err)
	}
	mustApply(t, s, older)
	if e := s.Epoch(); e.ID != k(9) || e.NotBefore != notBefore*1000 {
		t.Error(e)
	}
	if _, err := EncodeEpoch(t0, Epoch{}); err == nil {
		t.Error("an epoch without an end was taken")
	}
}

func TestAttempts(t *testing.T) {
	s := New()
	n := 0
	who, other := k(100), k(101)
	for i, c := range []struct {
		at   int64
		a    Attempt
		same bool // the former proof again
		want uint32
	}{
		{at: t0, a: Attempt{Failed: true}, want: 1},
		{at: t0, a: Attempt{Failed: true}, same: true, want: 1},
		{at: t0 + 1, a: Attempt{Failed: true}, want: 2},
		{at: t0 + 8, a: Attempt{Failed: true}, same: true, want: 2}, // the client's resend arrives later
		{at: t0 + 10, a: Attempt{Failed: true, Window: 9}, want: 3}, // 9 s after the last one
		{at: t0 + 20, a: Attempt{Failed: true, Window: 9}, want: 1}, // 10 s
		{at: t0 + 21, a: Attempt{}, want: 0},
		{at: t0 + 22, a: Attempt{Failed: true}, want: 1},
		{at: t0 + 23, a: Attempt{Failed: true, UnlockedAt: (t0+22)*1000 - 1}, want: 2},
		{at: t0 + 24, a: Attempt{Failed: true, UnlockedAt: (t0 + 23) * 1000}, want: 1},
		{at: t0 + 90_000, a: Attempt{Failed: true}, want: 2}, // without a window they add up for ever
	} {
		if !c.same {
			n++
		}
		c.a.Proof, c.a.Principal = proof(n, 1, c.at), who
		v := mustApply(t, s, batchEntry(t, c.at, nil, []Attempt{c.a}))[0]
		if want := map[bool]Verdict{false: Fresh, true: Same}[c.same]; v != want {
			t.Errorf("step %d: %v, want %v", i, v, want)
		}
		got := s.Activity(who)
		if got.Failures != c.want {
			t.Errorf("step %d: %d failures, want %d", i, got.Failures, c.want)
		}
		if v == Fresh && c.a.Failed && got.LastFailure != c.at*1000 || v == Fresh && !c.a.Failed && got.LastSuccess != c.at*1000 {
			t.Errorf("step %d: %+v", i, got)
		}
	}
	if got := s.Activity(other); got != (Activity{}) {
		t.Error(got)
	}
	// The proof of an attempt is in the same sets as all others.
	if v := one(t, s, t0+90_000, proof(n, 2, t0+90_000)); v != Repeat {
		t.Error(v)
	}
}

func TestVerdictsOfAMixedEntry(t *testing.T) {
	s := New()
	got := mustApply(t, s, batchEntry(t, t0, []Proof{proof(1, 1, t0), proof(1, 2, t0), proof(2, 1, t0-999)},
		[]Attempt{{Proof: proof(1, 1, t0)}, {Proof: proof(3, 1, t0)}}))
	if want := []Verdict{Fresh, Repeat, Stale, Same, Fresh}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

func TestCountersAreBounded(t *testing.T) {
	s := New()
	s.counters.max = 4
	n := 0
	attempt := func(who int, failed bool) {
		n++
		mustApply(t, s, batchEntry(t, t0, nil, []Attempt{{Proof: proof(n, 1, t0), Principal: k(who), Failed: failed}}))
	}
	known := func(want ...int) {
		t.Helper()
		var got []int
		for i := range 20 {
			if s.Activity(k(i)) != (Activity{}) {
				got = append(got, i)
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("counted are %v, want %v", got, want)
		}
	}
	attempt(1, true)
	attempt(2, false)
	attempt(3, false)
	attempt(4, true)
	attempt(2, false) // 3 is now the oldest without failures
	attempt(5, false)
	known(1, 2, 4, 5)
	attempt(6, true)
	attempt(7, true) // only failures are left
	known(1, 4, 6, 7)
	attempt(1, true)
	attempt(8, true)
	known(1, 6, 7, 8)
	attempt(9, false)
	known(1, 7, 8, 9)
	if s.Activity(k(1)).Failures != 2 || s.Stats().Counters != 4 {
		t.Error(s.Activity(k(1)), s.Stats())
	}
}

func TestEntriesThatCannotBeApplied(t *testing.T) {
	good := batchEntry(t, t0, []Proof{proof(1, 1, t0)}, []Attempt{{Proof: proof(2, 1, t0), Failed: true}})
	change := func(at int, b byte) []byte { c := slices.Clone(good); c[at] = b; return c }
	skew, err := EncodeSkew(t0, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	epoch, err := EncodeEpoch(t0, Epoch{NotBefore: 1})
	if err != nil {
		t.Fatal(err)
	}
	zero := func(b []byte, n int) []byte { c := slices.Clone(b); clear(c[len(c)-n:]); return c }
	second := partHeader + itemSize[kindProofs]
	for name, c := range map[string]struct {
		b   []byte
		err error
	}{
		"empty":            {nil, ErrCorrupt},
		"version":          {change(0, 2), ErrTooNew},
		"kind":             {change(1, 7), ErrTooNew},
		"hold 2":           {append(EncodeHold(t0, true)[:partHeader], 2), ErrCorrupt},
		"hold nothing":     {EncodeHold(t0, true)[:partHeader], ErrCorrupt},
		"kind 0":           {change(1, 0), ErrTooNew},
		"more items":       {change(10, 200), ErrCorrupt},
		"4 G items":        {change(13, 255), ErrCorrupt},
		"negative time":    {change(9, 255), ErrCorrupt},
		"cut":              {good[:len(good)-1], ErrCorrupt},
		"cut header":       {good[:second+3], ErrCorrupt},
		"second part":      {change(second, 9), ErrTooNew},
		"flags":            {change(second+partHeader+44, 2), ErrTooNew},
		"skew 0":           {zero(skew, 4), ErrCorrupt},
		"skew nothing":     {skew[:len(skew)-4], ErrCorrupt},
		"epoch 0":          {zero(epoch, 8), ErrCorrupt},
		"too many parts":   {slices.Repeat(batchEntry(t, t0, nil, nil), partsMax+1), ErrCorrupt},
		"too many in all":  {slices.Repeat(batchEntry(t, t0, make([]Proof, 10_000), nil), 2), ErrCorrupt},
		"one byte behind":  {append(slices.Clone(good), 1), ErrCorrupt},
		"other byte after": {append(slices.Clone(good), 7), ErrTooNew},
	} {
		s := New()
		if _, err := s.Apply(c.b); !errors.Is(err, c.err) {
			t.Errorf("%s: %v, want %v", name, err, c.err)
		}
		if st := s.Stats(); st.Items != 0 || s.Now() != 0 {
			t.Errorf("%s: half of it was applied: %+v", name, st)
		}
	}
	if _, err := EncodeBatch(t0, make([]Proof, ItemsMax), make([]Attempt, 1)); !errors.Is(err, ErrTooMany) {
		t.Error(err)
	}
	full := mustApply(t, New(), batchEntry(t, t0, make([]Proof, ItemsMax), nil))
	if len(full) != ItemsMax {
		t.Error(len(full))
	}
}

// The bytes in the log are for ever: this fails when a change of the code changes them.
func TestEntryFormatIsFixed(t *testing.T) {
	a := Attempt{Proof: Proof{K: [16]byte{1}, R: [8]byte{2}, CTime: 9}, Principal: [16]byte{3}, Failed: true, Window: 4, UnlockedAt: 5}
	got, err := EncodeBatch(10_999, []Proof{a.Proof}, []Attempt{a})
	if err != nil {
		t.Fatal(err)
	}
	item := "\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\x00\x00\x00\x00\x00\x00\xff\xff\xff\xff"
	want := "\x01\x01\xf7\x2a\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00" + item +
		"\x01\x02\xf7\x2a\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00" + item +
		"\x03\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x04\x00\x00\x00\x05\x00\x00\x00\x00\x00\x00\x00"
	if string(got) != want {
		t.Errorf("%q", got)
	}
	if got, err = EncodeJournal(10_999, []Proof{a.Proof}); err != nil {
		t.Fatal(err)
	}
	if want := "\x01\x05\xf7\x2a\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00" + item; string(got) != want {
		t.Errorf("%q", got)
	}
	if got, want := EncodeHold(10_999, true), "\x01\x06\xf7\x2a\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x01"; string(got) != want {
		t.Errorf("%q", got)
	}
}

func TestPaced(t *testing.T) {
	var now time.Time
	now = now.Add(time.Hour)
	var slept time.Duration
	syncs := 0
	w := Paced(discard{}, 1<<20, func() time.Time { return now }, func(d time.Duration) { slept += d; now = now.Add(d) }, func() error { syncs++; return nil })
	for range 20 * 16 {
		if _, err := w.Write(make([]byte, 64<<10)); err != nil {
			t.Fatal(err)
		}
	}
	if slept.Round(time.Millisecond) != 20*time.Second || syncs != 2 {
		t.Errorf("20 MiB at 1 MiB/s: slept %v, %d syncs", slept, syncs)
	}
}

type discard struct{}

func (discard) Write(b []byte) (int, error) { return len(b), nil }

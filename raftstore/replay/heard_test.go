package replay

import "testing"

func TestCountBesideTheLog(t *testing.T) {
	s := New()
	who := k(100)
	guess := func(n int, at int64) Attempt {
		return Attempt{Proof: proof(n, 1, at), Principal: who, Failed: true}
	}
	base := Activity{Failures: 3, LastFailure: (t0 - 10) * 1000}
	for i, c := range []struct {
		a    Attempt
		at   int64
		base Activity
		v    Verdict
		want uint32
	}{
		{guess(1, t0), t0, base, Fresh, 4},
		{guess(1, t0+5), t0 + 5, base, Same, 4}, // a client's resend
		{guess(2, t0+6), t0 + 6, base, Fresh, 5},
		{guess(3, t0+2), t0 + 2, base, Fresh, 6}, // the node's clock went back: time here does not
		{guess(4, t0+7), t0 + 7, Activity{Failures: 9, LastFailure: (t0 + 7) * 1000}, Fresh, 10},
		{guess(5, t0+9), t0 + 9, Activity{LastSuccess: (t0 + 8) * 1000}, Fresh, 1},
		{Attempt{Proof: proof(6, 1, t0+10), Principal: who}, t0 + 10, base, Fresh, 0},
	} {
		if v := s.Count(c.at*1000, c.a, c.base); v != c.v {
			t.Errorf("step %d: %v, want %v", i, v, c.v)
		}
		if got := s.Activity(who).Failures; got != c.want {
			t.Errorf("step %d: %d failures, want %d", i, got, c.want)
		}
	}
	if v := s.Attempted(proof(2, 1, t0+15)); v != Same {
		t.Error(v)
	}
	if v := s.Attempted(proof(9, 1, t0)); v != Fresh {
		t.Error(v)
	}
	if s.Stats().Counters != 1 {
		t.Error(s.Stats())
	}
}

func TestMerge(t *testing.T) {
	for _, c := range []struct{ a, b, want Activity }{
		{Activity{}, Activity{}, Activity{}},
		{Activity{3, 30, 0}, Activity{}, Activity{3, 30, 0}},
		{Activity{3, 30, 0}, Activity{5, 50, 0}, Activity{5, 50, 0}},
		{Activity{3, 50, 0}, Activity{5, 30, 0}, Activity{5, 50, 0}},
		{Activity{3, 30, 0}, Activity{0, 30, 40}, Activity{0, 30, 40}}, // a success after them
		{Activity{3, 50, 0}, Activity{0, 30, 40}, Activity{3, 50, 40}}, // and before
		{Activity{1, 50, 40}, Activity{4, 30, 0}, Activity{1, 50, 40}},
		{Activity{2, 50, 40}, Activity{1, 45, 40}, Activity{2, 50, 40}},
	} {
		if got := c.a.Merge(c.b); got != c.want {
			t.Errorf("%v and %v: %v, want %v", c.a, c.b, got, c.want)
		}
		if got := c.b.Merge(c.a); got != c.want {
			t.Errorf("%v and %v: %v, want %v", c.b, c.a, got, c.want)
		}
		if got := c.a.Merge(c.a); got != c.a {
			t.Errorf("%v and itself: %v", c.a, got)
		}
	}
}

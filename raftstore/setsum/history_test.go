package setsum

import "testing"

// Whatever the distance between two replicas, up to 60,000 entries, one of the points that the first tells is one that the other has.
func TestHistoriesMeet(t *testing.T) {
	hash := func(i uint64) Hash { return HashOf([]byte{byte(i), byte(i >> 8), byte(i >> 16)}) }
	var ahead History
	for i := uint64(3); i < 100_000; i++ {
		if i%7 != 0 { // an entry that the state does not see
			ahead.Add(Point{i, hash(i)})
		}
	}
	if n := len(ahead.at); n > recentMax+len(strides)*marksMax {
		t.Errorf("%d points held", n)
	}
	for _, behind := range []uint64{0, 1, 5, 100, 1000, 5000, 40_000, 60_000} {
		var other History
		for i := uint64(3); i < 100_000-behind; i++ {
			if i%7 != 0 {
				other.Add(Point{i, hash(i)})
			}
		}
		met := 0
		for _, p := range other.Tell() {
			if h, ok := ahead.At(p.Index); ok {
				met++
				if h != p.Hash {
					t.Errorf("index %d: another hash", p.Index)
				}
			}
		}
		if met == 0 {
			t.Errorf("%d behind: no common point", behind)
		}
	}
	ahead.Reset(Point{5, hash(5)})
	if got := ahead.Tell(); len(got) != 1 || got[0].Index != 5 || ahead.Last().Index != 5 {
		t.Errorf("after a reset: %v", got)
	}
}

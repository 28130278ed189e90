package kdc

import (
	"testing"
	"time"
)

// What is configured never counts for more than what the replay cache covers.
func TestSkewIsWhatTheReplayCacheCovers(t *testing.T) {
	covered := 5 * time.Minute
	s := &Server{cfg: Config{ClockSkew: 10 * time.Minute}}
	if got := s.skew(); got != 10*time.Minute {
		t.Errorf("with nobody to ask: %v", got)
	}
	s.cfg.SkewNow = func() time.Duration { return covered }
	for _, c := range []struct{ covered, want time.Duration }{{5 * time.Minute, 5 * time.Minute}, {time.Hour, 10 * time.Minute}} {
		if covered = c.covered; s.skew() != c.want {
			t.Errorf("the cache covers %v: %v, want %v", c.covered, s.skew(), c.want)
		}
	}
}

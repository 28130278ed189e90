//go:build charon_testclock

package wallclock

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestOffsetFollowsTheFile(t *testing.T) {
	path = filepath.Join(t.TempDir(), "offset")
	for _, text := range []string{"5m\n", "-8760h", "0s"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		want, _ := time.ParseDuration(strings.TrimSpace(text))
		for end := time.Now().Add(10 * time.Second); ; {
			off := Now().Sub(time.Now())
			if (off - want).Abs() < time.Second {
				break
			}
			if time.Now().After(end) {
				t.Fatalf("offset is %v, want %v", off, want)
			}
			time.Sleep(5 * time.Millisecond)
		}
	}
	if err := os.WriteFile(path, []byte("half a wor"), 0o600); err != nil {
		t.Fatal(err)
	}
	time.Sleep(2 * rereadEvery)
	if off := Now().Sub(time.Now()); off.Abs() > time.Second {
		t.Fatalf("a torn file moved the clock by %v", off)
	}
}

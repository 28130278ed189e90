package mutant

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
)

func TestNamesDiffer(t *testing.T) {
	if len(Names) < 20 {
		t.Errorf("%d planted bugs, want at least 20", len(Names))
	}
	sorted := slices.Clone(Names)
	slices.Sort(sorted)
	if n := len(slices.Compact(sorted)); n != len(Names) {
		t.Errorf("%d names, %d of them different", len(Names), n)
	}
}

// A release has neither the names of the planted bugs nor the variable that plants them. The same search finds both in a build with the tag.
func TestReleaseHasNone(t *testing.T) {
	for _, c := range []struct {
		tags string
		want bool
	}{{"", false}, {"charon_mutants", true}} {
		bin := filepath.Join(t.TempDir(), "charon")
		cmd := exec.Command("go", "build", "-trimpath", "-tags", c.tags, "-o", bin, "../../cmd/charon")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("building with tags %q: %v\n%s", c.tags, err, out)
		}
		text, err := os.ReadFile(bin)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range []string{"charon-mutant:", "CHARON_MUTANT"} {
			if got := bytes.Contains(text, []byte(s)); got != c.want {
				t.Errorf("built with tags %q: the binary has %q: %v, want %v", c.tags, s, got, c.want)
			}
		}
	}
}

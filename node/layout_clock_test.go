package node

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// serverParts is what runs in a server. What a client asks its own clock for is its own business.
var serverParts = []string{"adminapi", "node", "raftstore", "kdc"}

// wallReadings take time.Now for the time of day: as a function handed on, or by a method to which the monotonic reading is nothing.
var wallReadings = regexp.MustCompile(`\btime\.Now\b(?:[^(\w]|$)|\btime\.Now\(\)\.(?:UTC|Unix\w*|Local|In|Format|AppendFormat|Date|Clock|Year|Month|Day|Hour|Truncate|Round|String)\b`)

// stopwatches are the places that hand time.Now on to measure with, by file, each with the text around it.
var stopwatches = map[string]string{
	"node/run.go":                    "Elapsed: time.Now",
	"node/wallclock/wallclock.go":    "return time.Now()",
	"raftstore/fsm.go":               "replay.Paced(sink, snapshotPace, time.Now,",
	"raftstore/logstore/logstore.go": "opts.Now = time.Now",
	"raftstore/config.go":            "c.Now = time.Now", // a store that is given no clock
}

func TestLayoutOneWallClock(t *testing.T) {
	for _, part := range serverParts {
		err := filepath.WalkDir(filepath.Join("..", part), func(path string, d fs.DirEntry, err error) error {
			rel := strings.TrimPrefix(filepath.ToSlash(path), "../")
			switch {
			case err != nil:
				return err
			case d.IsDir() && (d.Name() == "testdata" || slices.Contains([]string{"kdc/krb5/client", "kdc/krb5/internal", "kdc/kdb/kdbtest", "adminapi/adminapitest"}, rel)):
				return filepath.SkipDir
			case d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") || strings.HasSuffix(path, ".pb.go") || rel == "node/wallclock/testclock.go":
				return nil
			}
			text, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			for n, line := range strings.Split(string(text), "\n") {
				code, _, _ := strings.Cut(line, "//")
				if wallReadings.MatchString(code) && (stopwatches[rel] == "" || !strings.Contains(line, stopwatches[rel])) {
					t.Errorf("%s:%d: %s\n\ttakes the machine's clock for the time of day: wallclock.Now does that, and what is below node is handed it", rel, n+1, strings.TrimSpace(line))
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// Without its tag wallclock is the machine's clock, and nothing else.
func TestLayoutWallclockIsTheMachines(t *testing.T) {
	text, err := os.ReadFile("wallclock/wallclock.go")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(string(text), "//go:build !charon_testclock\n") || !strings.HasSuffix(string(text), "\nimport \"time\"\n\n// Now is the time of day.\nfunc Now() time.Time { return time.Now() }\n") {
		t.Error("node/wallclock/wallclock.go does more than return time.Now()")
	}
	test, err := os.ReadFile("wallclock/testclock.go")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(string(test), "//go:build charon_testclock\n") {
		t.Error("node/wallclock/testclock.go is not held back by its tag")
	}
}

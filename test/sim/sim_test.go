package sim

import (
	"flag"
	"fmt"
	mrand "math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

var (
	seedFlag     = flag.Uint64("seed", 0, "seed of the schedules of faults; 0: by the clock")
	span         = flag.Duration("span", time.Minute, "simulated time in all runs together")
	each         = flag.Duration("each", 30*time.Second, "simulated time of one run")
	least        = flag.Int("faults", 0, "fail if fewer faults were injected")
	ledger       = flag.String("ledger", "", "file to append a line to")
	only         = flag.String("profile", "", "lan or wan; empty: both in turn")
	verbose      = flag.Bool("raft", false, "keep the lines of the raft library, too")
	showUnserved = flag.Bool("unserved", false, "show what happened before each exchange that was due and not served")
	tail         = flag.Int("tail", 120, "lines of what happened to show with a violation")
)

// TestSim runs clusters under faults and checks what was promised (docs/testing.md).
func TestSim(t *testing.T) {
	seed := *seedFlag
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("seed %d: repeat with -seed %d", seed, seed)
	rep := newReport()
	runs := int((*span + *each - 1) / *each)
	t.Run("runs", func(t *testing.T) {
		for i := range runs {
			s := seed + uint64(i)*1_000_003
			prof := []profile{lan, wan}[i%2]
			switch *only {
			case "lan":
				prof = lan
			case "wan":
				prof = wan
			}
			long := min(*each, *span-time.Duration(i)**each)
			t.Run(fmt.Sprintf("%s-%d", prof.name, s), func(t *testing.T) {
				t.Parallel()
				runOne(t, s, prof, long, rep)
			})
		}
	})
	rep.write(os.Stdout)
	if n := sum(rep.faults); n < *least {
		t.Errorf("%d faults, want at least %d", n, *least)
	}
	rep.judge(t)
	if *ledger != "" {
		if err := rep.ledger(*ledger, seed); err != nil {
			t.Error(err)
		}
	}
}

// runOne is one cluster in one bubble.
func runOne(t *testing.T, seed uint64, prof profile, long time.Duration, rep *report) {
	dir := filepath.Join(t.TempDir(), "nodes")
	bubble := ""
	defer func() {
		if p := recover(); p != nil {
			leftBehind(t, bubble, p)
		}
	}()
	synctest.Test(t, func(t *testing.T) {
		bubble = ownBubble()
		w := newWorld(t, dir, seed, prof, rep)
		d := w.newDesk()
		x := &run{w: w, d: d, rand: mrand.New(mrand.NewPCG(seed, 0))}
		begun := time.Now()
		x.episodes(long)
		rep.ran(time.Since(begun))
		d.close()
		for _, n := range w.live() {
			n.crash(false)
		}
		w.stop()
		w.wg.Wait()
		time.Sleep(2 * holdMax) // what is under way comes to nothing
	})
}

var inBubble = regexp.MustCompile(`^goroutine \d+ \[.*(synctest bubble \d+)\]`)

func ownBubble() string {
	b := make([]byte, 200)
	m := inBubble.FindSubmatch(b[:runtime.Stack(b, false)])
	if m == nil {
		return "?"
	}
	return string(m[1])
}

// leaks are goroutines that the raft library leaves behind when a leader ends in the middle of a transfer (raft issue 696), or with something in its queues.
var leaks = []string{"raft.(*Raft).leadershipTransfer", "raft.(*Raft).leaderLoop.func", "raft.(*deferError).Error"}

// leftBehind looks at the goroutines that a bubble's end found waiting for ever: the library's are known, all others are ours.
func leftBehind(t *testing.T, bubble string, p any) {
	b := make([]byte, 64<<20)
	b = b[:runtime.Stack(b, true)]
	found := false
	for _, g := range strings.Split(string(b), "\n\n") {
		if !strings.Contains(g, bubble+"]") {
			continue
		}
		found = true
		if !slices.ContainsFunc(leaks, func(l string) bool { return strings.Contains(g, l) }) {
			t.Errorf("left behind at the end of the run: %s", g)
		}
	}
	if !found {
		panic(p)
	}
}

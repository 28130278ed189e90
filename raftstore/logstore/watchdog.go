package logstore

import (
	"fmt"
	"sync"
	"time"

	"github.com/charon-kdc/charon/internal/mutant"
)

// write runs one write under the stall watchdog. Any error is fatal: after a failed fsync the page cache can't be trusted,
// and the library keeps a wrong last index. So is a write that does not end: heartbeats do not touch the disk, so a leader
// whose disk hangs would keep its leadership and the cluster would stop (raft issue 503).
func (s *Store) write(what string, f func() error) error {
	defer afterRunning(s.opts.StallLimit, func() {
		s.opts.Fatal(fmt.Errorf("%s raft log %s takes more than %v: the disk stalls", what, s.path, s.opts.StallLimit))
	})()
	if s.opts.Slow != nil {
		slow := time.AfterFunc(slowAfter, s.opts.Slow)
		defer slow.Stop()
	}
	if err := f(); err != nil && !mutant.On(mutant.FailedWriteIgnored) {
		return s.fatal(what, err)
	}
	return nil
}

// runningSteps is in how many steps afterRunning counts.
const runningSteps = 10

// afterRunning calls f when this process has run for d, unless stop is called before. A process that was stopped, or whose machine was paused, in the
// middle of a write has no slow disk: its stop counts as one step.
func afterRunning(d time.Duration, f func()) (stop func()) {
	var mu sync.Mutex
	var t *time.Timer
	left := runningSteps
	mu.Lock()
	defer mu.Unlock()
	t = time.AfterFunc(d/runningSteps, func() {
		mu.Lock()
		left--
		over := left == 0
		if left > 0 {
			t.Reset(d / runningSteps)
		}
		mu.Unlock()
		if over {
			f()
		}
	})
	return func() {
		mu.Lock()
		defer mu.Unlock()
		left = 0
		t.Stop()
	}
}

func (s *Store) fatal(what string, err error) error {
	err = fmt.Errorf("%s raft log %s: %w", what, s.path, err)
	s.opts.Fatal(err)
	return err
}

// NoteInstall counts an installed snapshot. Installs that follow each other without an append between them mean that this
// node can't leave the loop by itself (raft issue 697): the process must start again.
func (s *Store) NoteInstall() {
	now := s.opts.Now()
	s.mu.Lock()
	kept := s.installs[:0]
	for _, t := range s.installs {
		if now.Sub(t) < installsWindow {
			kept = append(kept, t)
		}
	}
	s.installs = append(kept, now)
	n := len(s.installs)
	s.mu.Unlock()
	if n >= installsMax {
		s.opts.Fatal(fmt.Errorf("raft log %s: %d snapshots installed within %v and no entry appended", s.path, n, installsWindow))
	}
}

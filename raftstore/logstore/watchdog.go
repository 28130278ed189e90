package logstore

import (
	"fmt"
	"time"
)

// write runs one write under the stall watchdog. Any error is fatal: after a failed fsync the page cache can't be trusted,
// and the library keeps a wrong last index. So is a write that does not end: heartbeats do not touch the disk, so a leader
// whose disk hangs would keep its leadership and the cluster would stop (raft issue 503).
func (s *Store) write(what string, f func() error) error {
	stall := time.AfterFunc(s.opts.StallLimit, func() {
		s.opts.Fatal(fmt.Errorf("%s raft log %s takes more than %v: the disk stalls", what, s.path, s.opts.StallLimit))
	})
	defer stall.Stop()
	if s.opts.Slow != nil {
		slow := time.AfterFunc(slowAfter, s.opts.Slow)
		defer slow.Stop()
	}
	if err := f(); err != nil {
		return s.fatal(what, err)
	}
	return nil
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

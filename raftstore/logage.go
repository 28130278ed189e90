package raftstore

import (
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// LogStatus says how far back a group's log reaches here, and what the last snapshot took that this node was sent. A node that takes longer
// to install a snapshot than the log reaches back is sent another one for ever.
type LogStatus struct {
	Group string
	// First and Last index of the log; 0: it is empty.
	First, Last uint64
	// Oldest is when the first entry was appended, by its leader's clock. Zero: unknown.
	Oldest time.Time
	// Installed is when the last snapshot was installed since the start, Took how long that was from its first byte. Zero: none was.
	Installed time.Time
	Took      time.Duration
}

// Logs are both groups' logs.
func (s *Store) Logs() []LogStatus {
	var out []LogStatus
	for _, g := range []*group{s.realm, s.replay} {
		l := LogStatus{Group: g.name}
		l.Installed, l.Took = g.install.last()
		first, err := g.log.FirstIndex()
		last, lastErr := g.log.LastIndex()
		if err == nil && lastErr == nil && first > 0 {
			l.First, l.Last = first, last
			var e raft.Log
			if g.log.GetLog(first, &e) == nil {
				l.Oldest = e.AppendedAt
			}
		}
		out = append(out, l)
	}
	return out
}

// installTimer measures snapshots that a leader sends.
type installTimer struct {
	mu    sync.Mutex
	begun time.Time
	ended time.Time
	took  time.Duration
}

func (t *installTimer) begin() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.begun = time.Now()
}

func (t *installTimer) end() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.begun.IsZero() {
		t.ended = time.Now()
		t.took, t.begun = t.ended.Sub(t.begun), time.Time{}
	}
}

func (t *installTimer) last() (time.Time, time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.ended, t.took
}

// installed is called after a snapshot that a leader sent took the state's place.
func (g *group) installed() {
	g.install.end()
	g.log.NoteInstall()
}

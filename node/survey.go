package node

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/charon-kdc/charon/raftstore"
)

const (
	surveyEvery = time.Second
	surveyLimit = 900 * time.Millisecond
)

// survey asks the store how the cluster is, in the background, so that a scrape or a health question never waits for the network.
type survey struct {
	status func(context.Context) raftstore.Status
	log    *slog.Logger
	seen   func(raftstore.Status) // may be nil
	last   atomic.Pointer[raftstore.Status]
}

func (s *survey) run(ctx context.Context) {
	for {
		sctx, cancel := context.WithTimeout(ctx, surveyLimit)
		st := s.status(sctx)
		cancel()
		s.last.Store(&st)
		if s.seen != nil {
			s.seen(st)
		}
		every := surveyEvery
		if !s.voter() {
			every = surveyEvery / 10 // somebody may wait for a joined node's vote
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(every):
		}
	}
}

// own is this node's line of the last survey; ok is false before the first.
func (s *survey) own() (n raftstore.NodeStatus, st raftstore.Status, ok bool) {
	p := s.last.Load()
	if p == nil {
		return n, st, false
	}
	for _, n := range p.Nodes {
		if n.ID == p.Self.ID {
			return n, *p, true
		}
	}
	return n, *p, false
}

// lag is how many entries this node is behind the leader, as far as it knows.
func (s *survey) lag() uint64 {
	n, st, ok := s.own()
	if !ok {
		return 0
	}
	if st.CommitIndex > st.Applied {
		return max(n.Lag, st.CommitIndex-st.Applied)
	}
	return n.Lag
}

// voter tells whether this node votes in both groups.
func (s *survey) voter() bool {
	n, _, ok := s.own()
	votes := func(role string) bool { return role == "leader" || role == "follower" }
	return ok && votes(n.Role) && votes(n.ReplayRole)
}

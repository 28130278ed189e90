package raftstore

import (
	"context"
	"slices"

	"github.com/hashicorp/raft"
)

// surplus tells whether a server of the replay group has surely left the realm. A replay leader that lags in the realm group may not have
// heard yet of a node that just joined; so this asks the realm's leader, which proves that it leads, waits until everything it had applied is
// applied here, and looks again. The list of servers that id comes from must have been read before.
func (s *Store) surplus(ctx context.Context, id raft.ServerID) bool {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Timing.RPC)
	defer cancel()
	index, ok := s.lease.ask(ctx)
	if !ok || s.applied.wait(ctx, index) != nil {
		return false
	}
	want, ok := s.wantedReplay()
	return ok && !slices.ContainsFunc(want, func(v raft.Server) bool { return v.ID == id })
}

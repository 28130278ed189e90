package raftstore

import (
	"errors"
	"io"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// reach holds a leader's entries back from a follower that its heartbeats don't reach. The library would try, and wait ever longer between two
// tries, ten seconds in the end; a follower that is back after half a minute would hear heartbeats and get no entries for as long. Here the
// entry goes out with the first heartbeat that is answered.
type reach struct {
	mu      sync.Mutex
	down    map[raft.ServerID]bool // the last heartbeat failed
	changed chan struct{}          // closed and replaced when one is up again
}

// reachPoll is how often who waits looks whether it still leads.
const reachPoll = 50 * time.Millisecond

var errUnreachable = errors.New("heartbeats don't reach the node")

func newReach() *reach {
	return &reach{down: map[raft.ServerID]bool{}, changed: make(chan struct{})}
}

// note takes the outcome of a heartbeat. Only servers that are down take room.
func (r *reach) note(id raft.ServerID, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch was := r.down[id]; {
	case err != nil:
		r.down[id] = true
	case was:
		delete(r.down, id)
		close(r.changed)
		r.changed = make(chan struct{})
	}
}

// wait returns when heartbeats reach id, or with errUnreachable when wanted no longer holds.
func (r *reach) wait(id raft.ServerID, wanted func() bool) error {
	for {
		r.mu.Lock()
		down, changed := r.down[id], r.changed
		r.mu.Unlock()
		if !down {
			return nil
		}
		if !wanted() {
			r.mu.Lock()
			delete(r.down, id)
			r.mu.Unlock()
			return errUnreachable
		}
		t := time.NewTimer(reachPoll)
		select {
		case <-changed:
		case <-t.C:
		}
		t.Stop()
	}
}

// isHeartbeat: the library's heartbeats say nothing but who leads in which term.
func isHeartbeat(a *raft.AppendEntriesRequest) bool {
	return len(a.Entries) == 0 && a.PrevLogEntry == 0 && a.PrevLogTerm == 0 && a.LeaderCommitIndex == 0
}

func (b *ballot) AppendEntries(id raft.ServerID, to raft.ServerAddress, req *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	if isHeartbeat(req) {
		err := b.NetworkTransport.AppendEntries(id, to, req, resp)
		b.reach.note(id, err)
		return err
	}
	if err := b.reach.wait(id, func() bool { return b.leads(id, req.Term) }); err != nil {
		return err
	}
	return b.NetworkTransport.AppendEntries(id, to, req, resp)
}

func (b *ballot) InstallSnapshot(id raft.ServerID, to raft.ServerAddress, req *raft.InstallSnapshotRequest, resp *raft.InstallSnapshotResponse, data io.Reader) error {
	if err := b.reach.wait(id, func() bool { return b.leads(id, req.Term) }); err != nil {
		return err
	}
	return b.NetworkTransport.InstallSnapshot(id, to, req, resp, data)
}

// leads tells whether this node leads in that term and id is one of the servers.
func (g *group) leads(id raft.ServerID, term uint64) bool {
	if !g.live.Load() || g.raft.State() != raft.Leader || g.raft.CurrentTerm() != term {
		return false
	}
	servers, _ := g.servers()
	return has(servers, id)
}

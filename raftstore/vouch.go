package raftstore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"

	"github.com/charon-kdc/charon/internal/mutant"
	peerv1 "github.com/charon-kdc/charon/proto/charon/peer/v1"
	statev1 "github.com/charon-kdc/charon/proto/charon/state/v1"
	"github.com/charon-kdc/charon/raftstore/peer"
	"github.com/charon-kdc/charon/raftstore/realm"
)

// vouchEvery is how often a node that nobody has vouched for asks again.
const vouchEvery = 100 * time.Millisecond

// An old copy of a data directory has forgotten votes and acknowledged entries; if it votes, what was acknowledged can be lost. The disk
// can't tell. So every start is counted on disk and in the realm, and a node that starts takes no part in votes until others have said
// how many starts they know of (DESIGN.md, "Who may vote"). A member that lags knows less than was committed, so its word alone is taken only when
// it is current, which needs a leader, or when nobody else answers. After a power cut of all the nodes vouch for each other; a node alone has no quorum
// in any case. Until then it follows a leader, and node keeps port 88 closed unless nobody answers for 3 s.

// checkBoot counts this start and refuses, before anything runs, what the other members know to be an old copy.
func (s *Store) checkBoot(ctx context.Context) error {
	disk := s.boot
	s.boot++ // what is asked in the name of this start
	answers := s.askAll(ctx)
	vouched, err := s.judge(answers, disk)
	if err == nil {
		err = s.judgeLevel(answers)
	}
	if err != nil {
		return err
	}
	if err := s.cfg.Disk.writeCount(s.bootPath(), s.boot); err != nil {
		return fmt.Errorf("counting this start: %w", err)
	}
	s.vouched.Store(vouched)
	return nil
}

// vouch asks until a member answers. It runs before announce: from then on the others know of this start.
func (s *Store) vouch(ctx context.Context) {
	for ctx.Err() == nil && !s.vouched.Load() {
		vouched, err := s.judge(s.askAll(ctx), s.boot-1)
		if err != nil {
			s.fatal(err)
			return
		}
		s.vouched.Store(vouched)
		if !vouched {
			pause(ctx, vouchEvery)
		}
	}
}

// Vouched tells whether other members have vouched for this node since its start.
func (s *Store) Vouched() bool { return s.vouched.Load() }

// judge compares what members know with the starts that the disk had seen before this one. They vouch when one of them is current, or when all
// other voters have answered, or those that did have been waited with for VouchWait.
func (s *Store) judge(answers map[peer.NodeID]*peerv1.InfoResponse, disk uint64) (vouched bool, err error) {
	any, current := false, false
	for id, info := range answers {
		if known := info.GetBootCounterOfAsker(); known > disk && !mutant.On(mutant.BootCounterIgnored) {
			return false, s.oldCopy(disk, known, "node "+s.ref(id).Name)
		}
		if info.GetApplied() > 0 {
			any, current = true, current || info.GetCurrent()
		}
	}
	return current || any && (s.allOf(answers) || s.uptime() > s.cfg.Timing.VouchWait), nil
}

// allOf tells whether every other voter has answered, and has a state.
func (s *Store) allOf(answers map[peer.NodeID]*peerv1.InfoResponse) bool {
	servers, _ := s.configured()
	for _, v := range servers {
		id := nodeID(v.ID)
		if v.Suffrage == raft.Voter && id != s.id && answers[id].GetApplied() == 0 {
			return false
		}
	}
	return len(servers) > 0
}

// knownStarts is how many starts of a member this node knows of: by its state, or by the end of its log, which after a power cut nobody can call
// committed yet. An entry that never is does no harm: a node counts a start on its disk before it tells anybody.
func (s *Store) knownStarts(id peer.NodeID) uint64 {
	var known uint64
	if n, err := s.db.Node(id[:]); err == nil {
		known = n.GetBootCounter()
	}
	last, err := s.realm.log.LastIndex()
	if err != nil {
		return known
	}
	for i := s.applied.get() + 1; i <= last; i++ {
		var l raft.Log
		if s.realm.log.GetLog(i, &l) != nil || l.Type != raft.LogCommand {
			continue
		}
		if cmd, _, err := realm.DecodeEnvelope(l.Data); err == nil {
			known = max(known, startsIn(cmd, id))
		}
	}
	return known
}

// startsIn is the start of a member that a command tells of; 0 for none.
func startsIn(cmd *statev1.Command, id peer.NodeID) (known uint64) {
	if n := cmd.GetPutNode().GetNode(); toNodeID(n.GetId()) == id {
		known = n.GetBootCounter()
	}
	for _, c := range cmd.GetBatch().GetCommands() {
		if n := c.GetPutNode().GetNode(); toNodeID(n.GetId()) == id {
			known = max(known, n.GetBootCounter())
		}
	}
	return known
}

// Current tells whether this node's applied state holds everything that was acknowledged before the call.
func (s *Store) Current(ctx context.Context) bool {
	if !s.started.Load() {
		return false
	}
	return s.lease.fresh() || s.realm.ready.Load() && s.VerifyLeader(ctx) == nil
}

func (s *Store) oldCopy(disk, known uint64, who string) error {
	return fmt.Errorf("%w: %s is an old copy: it has seen %d starts, %s knows of %d: remove the data directory and join again",
		ErrBroken, s.cfg.Dir, disk, who, known)
}

var errNoVotes = errors.New("does not vote until other members have vouched for it")

// ballot is raft's transport, without votes while votes is false: none asked for, none given, and no leadership taken over. What it does with
// entries is told at reach.
type ballot struct {
	*raft.NetworkTransport
	votes func() bool
	// mayLead: it may ask for votes.
	mayLead func() bool
	rpcs    chan raft.RPC
	done    chan struct{}
	ended   chan struct{}
	reach   *reach
	// leads tells whether entries for a server are still to be sent in a term.
	leads func(id raft.ServerID, term uint64) bool
}

func newBallot(t *raft.NetworkTransport, votes, mayLead func() bool, leads func(id raft.ServerID, term uint64) bool) *ballot {
	b := &ballot{
		NetworkTransport: t, votes: votes, mayLead: mayLead, rpcs: make(chan raft.RPC), done: make(chan struct{}), ended: make(chan struct{}),
		reach: newReach(), leads: leads,
	}
	go b.pump()
	return b
}

// stop is called once raft has stopped.
func (b *ballot) stop() {
	close(b.done)
	<-b.ended
}

func (b *ballot) pump() {
	defer close(b.ended)
	in := b.NetworkTransport.Consumer()
	for {
		select {
		case <-b.done:
			return
		case rpc := <-in:
			if b.refuse(rpc) || b.leadsNoMore(rpc) {
				continue
			}
			select {
			case b.rpcs <- rpc:
			case <-b.done:
				return
			}
		}
	}
}

// refuse answers what has to do with votes, and tells whether it did. A vote not granted is an answer like any other; the candidate goes on.
func (b *ballot) refuse(rpc raft.RPC) bool {
	if b.votes() {
		return false
	}
	switch rpc.Command.(type) {
	case *raft.RequestVoteRequest:
		rpc.Respond(&raft.RequestVoteResponse{}, nil)
	case *raft.RequestPreVoteRequest:
		rpc.Respond(&raft.RequestPreVoteResponse{}, nil)
	case *raft.TimeoutNowRequest:
		rpc.Respond(&raft.TimeoutNowResponse{}, errNoVotes)
	default:
		return false
	}
	return true
}

func (b *ballot) Consumer() <-chan raft.RPC { return b.rpcs }

func (b *ballot) RequestVote(id raft.ServerID, to raft.ServerAddress, req *raft.RequestVoteRequest, resp *raft.RequestVoteResponse) error {
	if !b.votes() {
		return errNoVotes
	}
	if !b.mayLead() {
		return errStrayed
	}
	return b.NetworkTransport.RequestVote(id, to, req, resp)
}

func (b *ballot) RequestPreVote(id raft.ServerID, to raft.ServerAddress, req *raft.RequestPreVoteRequest, resp *raft.RequestPreVoteResponse) error {
	if !b.votes() {
		return errNoVotes
	}
	if !b.mayLead() {
		return errStrayed
	}
	return b.NetworkTransport.RequestPreVote(id, to, req, resp)
}

// votes tells whether this node takes part in votes of g.
func (g *group) votes() bool {
	return g.s.vouched.Load() || g.alone.Load() || mutant.On(mutant.UnvouchedVotes)
}

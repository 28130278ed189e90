package raftstore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"
	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/protobuf/proto"

	"github.com/charon-kdc/charon/internal/mutant"
	peerv1 "github.com/charon-kdc/charon/proto/charon/peer/v1"
	statev1 "github.com/charon-kdc/charon/proto/charon/state/v1"
	"github.com/charon-kdc/charon/raftstore/peer"
	"github.com/charon-kdc/charon/raftstore/realm"
)

const (
	// electionWait is how long a proposal waits for a leader before it gives up, having done nothing.
	electionWait = 5 * time.Second
	// proposeLimit bounds a proposal whose caller has no deadline.
	proposeLimit = 30 * time.Second
)

// requestIDSize is the size of a request id; a command without one must not be sent twice.
const requestIDSize = 16

// Propose replicates cmd and returns its result. Followers forward it, one hop. A refusal by the state machine is a Result with
// a code, not an error. When it returns, this node has applied the command, unless ctx ended first. For up to 5 s it waits for a
// leader and, where that is safe, tries again: after nothing was done, and after an unknown outcome if cmd has a request id, by which it acts
// once. Without a quorum it does not wait (ErrNoQuorum). Errors: *NotAppliedError (of a *LevelError where the cluster's feature level is too low), *UnknownOutcomeError.
func (s *Store) Propose(ctx context.Context, cmd *statev1.Command) (*statev1.Result, error) {
	ctx, cancel := context.WithTimeout(ctx, proposeLimit)
	defer cancel()
	election, stop := context.WithTimeout(ctx, electionWait)
	defer stop()
	var unknown error // of an earlier try: from then on "nothing was done" is no longer true
	for {
		changed := s.realm.changes()
		r, err := s.proposeOnce(ctx, election, cmd)
		if err == nil {
			return r, nil
		}
		var na *NotAppliedError
		again := true
		if errors.As(err, &na) {
			again = na.again
			if errors.Is(err, ErrNoLeader) && s.LostQuorum() {
				err, again = &NotAppliedError{Err: ErrNoQuorum}, false
			}
		} else {
			unknown = err
			again = len(cmd.GetRequestId()) == requestIDSize
		}
		if !again || !waitChange(election, changed) {
			if unknown != nil && mutant.On(mutant.UnknownAsNotApplied) {
				return nil, s.notApplied(unknown)
			}
			if unknown != nil {
				return nil, unknown
			}
			return nil, err
		}
	}
}

// waitChange waits a moment, or less if leadership changes. False: ctx ended.
func waitChange(ctx context.Context, changed <-chan struct{}) bool {
	t := time.NewTimer(50 * time.Millisecond)
	defer t.Stop()
	select {
	case <-changed:
	case <-t.C:
	case <-ctx.Done():
	}
	return ctx.Err() == nil
}

func (s *Store) proposeOnce(ctx, election context.Context, cmd *statev1.Command) (*statev1.Result, error) {
	leader, ok := s.Leader()
	switch {
	case !ok:
		return nil, &NotAppliedError{Err: ErrNoLeader, again: true}
	case leader.ID == s.id:
		return s.proposeHere(ctx, cmd)
	}
	r, err := s.proposeThere(ctx, election, leader, cmd)
	if err != nil {
		return nil, err
	}
	// Reads that follow on this node see the write; if this node lags, the write stands all the same.
	_ = s.applied.wait(ctx, r.GetIndex())
	return r, nil
}

// proposeHere appends to this node's log; only a leader that has passed its barrier does.
func (s *Store) proposeHere(ctx context.Context, cmd *statev1.Command) (*statev1.Result, error) {
	if !s.realm.ready.Load() {
		return nil, s.notApplied(raft.ErrNotLeader)
	}
	if err := s.checkLevel(ctx, cmd); err != nil {
		return nil, err
	}
	data, err := realm.EncodeEnvelope(cmd, s.realmStamp())
	if err != nil {
		return nil, &NotAppliedError{Err: err}
	}
	if mutant.On(mutant.AckBeforeCommit) {
		s.realm.raft.Apply(data, s.cfg.Timing.RPC)
		return &statev1.Result{Index: s.realm.raft.LastIndex()}, nil
	}
	start := time.Now()
	f, err := s.realm.apply(ctx, data)
	if err != nil {
		return nil, s.classify(err)
	}
	if observe := s.cfg.Observe.Commit; observe != nil {
		observe(realmGroup, time.Since(start))
	}
	switch r := f.Response().(type) {
	case *statev1.Result:
		r = proto.CloneOf(r)
		if r.GetIndex() == 0 {
			r.Index = f.Index()
		}
		return r, nil
	case error:
		return nil, &UnknownOutcomeError{Err: r}
	default:
		return nil, &UnknownOutcomeError{Err: fmt.Errorf("state machine answered %T", r)}
	}
}

func (s *Store) notApplied(err error) *NotAppliedError {
	leader, _ := s.Leader()
	return &NotAppliedError{Leader: leader, Err: err, again: true}
}

// classify tells what is certain from what is not.
func (s *Store) classify(err error) error {
	for _, certain := range []error{raft.ErrNotLeader, raft.ErrLeadershipTransferInProgress, raft.ErrEnqueueTimeout, raft.ErrAbortedByRestore} {
		if errors.Is(err, certain) {
			return s.notApplied(err)
		}
	}
	return &UnknownOutcomeError{Err: err}
}

// proposeThere asks the leader. Until the connection stands nothing was sent; after that an error leaves the outcome open.
func (s *Store) proposeThere(ctx, election context.Context, leader NodeRef, cmd *statev1.Command) (*statev1.Result, error) {
	cc, err := s.fwd.Conn(leader.ID)
	if err != nil {
		return nil, &NotAppliedError{Leader: leader, Err: err, again: true}
	}
	if err := connected(election, cc, s.cfg.Timing.RPC); err != nil {
		return nil, &NotAppliedError{Leader: leader, Err: fmt.Errorf("connecting to the leader, %s: %w", leader.Name, err), again: true}
	}
	ctx, cancel := s.whileLeads(ctx, leader.ID)
	defer cancel()
	resp, err := peerv1.NewPeerClient(cc).Propose(ctx, &peerv1.ProposeRequest{Command: cmd})
	if err != nil {
		return nil, &UnknownOutcomeError{Err: fmt.Errorf("forwarding to the leader, %s: %w", leader.Name, err)}
	}
	switch resp.GetOutcome() {
	case peerv1.ProposeResponse_OUTCOME_APPLIED:
		return resp.GetResult(), nil
	case peerv1.ProposeResponse_OUTCOME_NOT_APPLIED:
		return nil, &NotAppliedError{Leader: s.ref(toNodeID(resp.GetLeader())), Err: errors.New(resp.GetMessage()), again: resp.GetRetry()}
	default:
		return nil, &UnknownOutcomeError{Err: errors.New(resp.GetMessage())}
	}
}

// whileLeads ends when another node is known to lead: an answer from the former leader may never come.
func (s *Store) whileLeads(ctx context.Context, leader peer.NodeID) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		for {
			changed := s.realm.changes()
			if now := nodeID(s.realm.leader()); !now.IsZero() && now != leader {
				cancel()
				return
			}
			select {
			case <-ctx.Done():
				return
			case <-changed:
			}
		}
	}()
	return ctx, cancel
}

// connected waits until cc stands, or limit.
func connected(ctx context.Context, cc *grpc.ClientConn, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		st := cc.GetState()
		switch st {
		case connectivity.Ready:
			return nil
		case connectivity.Shutdown:
			return errors.New("connection is shut down")
		case connectivity.TransientFailure:
			return errors.New("node does not answer")
		case connectivity.Idle:
			cc.Connect()
		}
		if !cc.WaitForStateChange(ctx, st) {
			return ctx.Err()
		}
	}
}

// IsLeader tells whether this node leads the realm group and has applied everything before its term.
func (s *Store) IsLeader() bool { return s.realm.ready.Load() }

// Leader of the realm group as this node knows it.
func (s *Store) Leader() (NodeRef, bool) {
	id := nodeID(s.realm.leader())
	if id.IsZero() {
		return NodeRef{}, false
	}
	return s.ref(id), true
}

// VerifyLeader returns when this node has proved that it leads and its applied state holds every acknowledged write. Error:
// *NotAppliedError.
func (s *Store) VerifyLeader(ctx context.Context) error {
	if !s.realm.ready.Load() {
		return s.notApplied(raft.ErrNotLeader)
	}
	if mutant.On(mutant.ReadWithoutVerify) {
		return nil
	}
	if err := s.realm.await(ctx, func() raft.Future { return s.realm.raft.VerifyLeader() }); err != nil {
		return s.notApplied(err)
	}
	return nil
}

// WaitApplied returns when this node has applied index, a Result's, or with ctx's error.
func (s *Store) WaitApplied(ctx context.Context, index uint64) error {
	return s.applied.wait(ctx, index)
}

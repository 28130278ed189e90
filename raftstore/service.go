package raftstore

import (
	"context"
	"errors"
	"time"

	"github.com/hashicorp/raft"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	peerv1 "github.com/charon-kdc/charon/proto/charon/peer/v1"
	"github.com/charon-kdc/charon/raftstore/forward"
	"github.com/charon-kdc/charon/raftstore/peer"
)

// service answers the other nodes. Its callers have shown a member's certificate.
type service struct {
	peerv1.UnimplementedPeerServer
	s *Store
}

// Propose appends here or not at all: a forwarded proposal is never forwarded again.
func (v *service) Propose(ctx context.Context, req *peerv1.ProposeRequest) (*peerv1.ProposeResponse, error) {
	if !v.s.started.Load() || req.GetCommand() == nil {
		return &peerv1.ProposeResponse{Outcome: peerv1.ProposeResponse_OUTCOME_NOT_APPLIED, Message: "not started", Retry: true}, nil
	}
	r, err := v.s.proposeHere(ctx, req.GetCommand())
	var na *NotAppliedError
	switch {
	case err == nil:
		return &peerv1.ProposeResponse{Result: r}, nil
	case errors.As(err, &na):
		return &peerv1.ProposeResponse{
			Outcome: peerv1.ProposeResponse_OUTCOME_NOT_APPLIED, Message: na.Err.Error(), Leader: na.Leader.ID[:], Retry: na.again,
		}, nil
	default:
		return &peerv1.ProposeResponse{Outcome: peerv1.ProposeResponse_OUTCOME_UNKNOWN, Message: err.Error()}, nil
	}
}

func (v *service) WaitApplied(ctx context.Context, req *peerv1.WaitAppliedRequest) (*peerv1.WaitAppliedResponse, error) {
	if err := v.s.applied.wait(ctx, req.GetIndex()); err != nil {
		return nil, status.FromContextError(err).Err()
	}
	return &peerv1.WaitAppliedResponse{Applied: v.s.applied.get()}, nil
}

func (v *service) Lease(ctx context.Context, _ *peerv1.LeaseRequest) (*peerv1.LeaseResponse, error) {
	caller, ok := forward.Caller(ctx)
	if !ok {
		return nil, status.Error(codes.PermissionDenied, "not a member")
	}
	index, ok := v.s.grantLease(ctx, caller)
	return &peerv1.LeaseResponse{Granted: ok, Index: index}, nil
}

func (v *service) Info(ctx context.Context, req *peerv1.InfoRequest) (*peerv1.InfoResponse, error) {
	caller, ok := forward.Caller(ctx)
	if !ok {
		return nil, status.Error(codes.PermissionDenied, "not a member")
	}
	v.s.where.sign(caller)
	v.s.where.report(caller, req.GetPeerAddress(), req.GetBootCounter())
	current := req.GetVouch() && v.s.Current(ctx) // before the state is read
	r := v.s.info(caller)
	if req.GetVouch() {
		r.Current, r.BootCounterOfAsker = current, v.s.knownStarts(caller)
	}
	return r, nil
}

func (v *service) Transfer(ctx context.Context, req *peerv1.TransferRequest) (*peerv1.TransferResponse, error) {
	if !v.s.started.Load() {
		return nil, status.Error(codes.Unavailable, "not started")
	}
	g := v.s.realm
	if req.GetReplay() {
		g = v.s.replay
	}
	if err := v.s.transferFrom(ctx, g, toNodeID(req.GetTo())); err != nil {
		if errors.Is(err, raft.ErrNotLeader) {
			return nil, status.Error(codes.FailedPrecondition, err.Error())
		}
		return nil, status.Error(codes.Unavailable, err.Error())
	}
	return &peerv1.TransferResponse{}, nil
}

// silenceTold is how long a member must not have been heard of before others are told.
const silenceTold = 5 * time.Second

// info is this node's state, as it tells another.
func (s *Store) info(asker peer.NodeID) *peerv1.InfoResponse {
	r := &peerv1.InfoResponse{
		Id: s.id[:], ReplayId: s.replayID[:],
		Name: s.cfg.Self.GetName(), Version: s.cfg.Self.GetVersion(),
		Clock:           s.cfg.Now().UnixMilli(),
		Uptime:          s.uptime().Milliseconds(),
		Applied:         s.applied.get(),
		LastContact:     s.lease.known().Milliseconds(),
		ReplayState:     s.proofs.stateName(),
		FeatureLevelMax: s.cfg.Self.GetFeatureLevelMax(),
		FeatureLevel:    s.db.FeatureLevel(),
		ClockOut:        s.clock.announced(),
		ClockOffsetMs:   s.clocks.own().Milliseconds(),
		Journal:         uint64(s.heard.journal.left()),
	}
	r.Service, _ = s.Service()
	s.show(r)
	r.MasterKeyVersions, r.MasterKeyFixed = s.masterKeys(), s.keysFixed()
	if s.started.Load() {
		r.LastIndex = s.realm.raft.LastIndex()
		r.ReplayApplied = s.replay.raft.AppliedIndex()
		r.ReplayLastIndex = s.replay.raft.LastIndex()
		leader := nodeID(s.realm.leader())
		r.Leader = leader[:]
		if id := s.replay.leader(); id != "" {
			if n, ok := s.nodeOfReplay(nodeID(id)); ok {
				r.ReplayLeader = n[:]
			}
		}
	}
	servers, index := s.configured()
	r.ConfigurationIndex = index
	for _, v := range servers {
		id := nodeID(v.ID)
		addr, _ := s.peerAddress(id)
		m := &peerv1.Member{Id: id[:], PeerAddress: addr, Voter: v.Suffrage == raft.Voter}
		if rec, err := s.db.Node(id[:]); err == nil {
			_, m.BootCounter = s.where.of(id, rec)
		}
		if id != s.id {
			if d := s.where.silence(id); d > silenceTold {
				r.Silent = append(r.Silent, &peerv1.Silence{Id: id[:], For: d.Milliseconds()})
			}
		}
		r.Members = append(r.Members, m)
	}
	if n, err := s.db.Node(asker[:]); err == nil {
		r.BootCounterOfAsker = n.GetBootCounter()
	}
	return r
}

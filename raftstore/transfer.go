package raftstore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	peerv1 "github.com/charon-kdc/charon/proto/charon/peer/v1"
	statev1 "github.com/charon-kdc/charon/proto/charon/state/v1"
	"github.com/charon-kdc/charon/raftstore/peer"
)

// transferLimit is how long a node that stops lets itself hand over.
const transferLimit = 2 * time.Second

// HandOver gives the groups that this node leads to others, both at once, in at most 2 s; what another node leads stays there. A group that
// has no other voter stays here without an error.
func (s *Store) HandOver(ctx context.Context) error {
	if !s.started.Load() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, transferLimit)
	defer cancel()
	groups := []*group{s.realm, s.replay}
	errs := make([]error, len(groups))
	var wg sync.WaitGroup
	for i, g := range groups {
		wg.Go(func() { errs[i] = g.handOver(ctx) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// handOver tries until this node does not lead g: the library gives up after one election timeout.
func (g *group) handOver(ctx context.Context) error {
	for g.raft.State() == raft.Leader && len(g.voters()) > 1 {
		err := g.await(ctx, func() raft.Future { return g.raft.LeadershipTransfer() })
		if g.raft.State() != raft.Leader {
			return nil
		}
		pause(ctx, 20*time.Millisecond)
		if ctx.Err() != nil {
			return fmt.Errorf("handing over the %s group: %w", g.name, cmp.Or(err, ctx.Err()))
		}
	}
	return nil
}

// transferTries is how often a transfer is tried: the library gives up after one election timeout, and leadership may
// move by itself meanwhile.
const transferTries = 3

// TransferLeadership hands both groups to that node and returns when this node knows that it leads them; with "" it takes whatever the
// realm's leader leads away from it, and lets raft choose. Any node. Errors: ErrNotMember, ErrNoLeader, ctx's, or why the leader refuses.
func (s *Store) TransferLeadership(ctx context.Context, name string) error {
	var to peer.NodeID
	if name != "" {
		nodes, err := s.db.Nodes()
		if err != nil {
			return fmt.Errorf("transferring leadership: %w", err)
		}
		i := slices.IndexFunc(nodes, func(n *statev1.Node) bool { return n.GetName() == name })
		if i < 0 {
			return fmt.Errorf("transferring leadership to %s: %w", name, ErrNotMember)
		}
		to = toNodeID(nodes[i].GetId())
	}
	from, _ := s.Leader()
	for _, g := range []*group{s.replay, s.realm} {
		before := g.leader()
		if now, _, ok := s.locate(g, before); name == "" && ok && now != from.ID {
			continue
		}
		var err error
		for range transferTries {
			err = s.transfer(ctx, g, to)
			if s.moved(ctx, g, before, to) {
				err = nil
				break
			}
			if err == nil {
				err = errors.New("another node leads")
			}
		}
		if err != nil {
			return fmt.Errorf("transferring leadership of the %s group: %w", g.name, err)
		}
	}
	return nil
}

// moved waits, for two election timeouts, until g is led by to, or by another node than before if to is zero.
func (s *Store) moved(ctx context.Context, g *group, before raft.ServerID, to peer.NodeID) bool {
	ctx, cancel := context.WithTimeout(ctx, 2*s.cfg.Timing.Heartbeat)
	defer cancel()
	for {
		changed := g.changes()
		if now := g.leader(); now != "" {
			node, _, ok := s.locate(g, now)
			if ok && (node == to || to.IsZero() && now != before) {
				return true
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return false
		}
	}
}

// transfer asks the group's leader, this node or another.
func (s *Store) transfer(ctx context.Context, g *group, to peer.NodeID) error {
	leader, _, ok := s.locate(g, g.leader())
	switch {
	case !ok:
		return ErrNoLeader
	case leader == to:
		return nil
	case leader == s.id:
		return s.transferFrom(ctx, g, to)
	}
	cc, err := s.fwd.Conn(leader)
	if err != nil {
		return err
	}
	_, err = peerv1.NewPeerClient(cc).Transfer(ctx, &peerv1.TransferRequest{Replay: g == s.replay, To: to[:]})
	return err
}

// transferFrom hands g over from this node.
func (s *Store) transferFrom(ctx context.Context, g *group, to peer.NodeID) error {
	if g.raft.State() != raft.Leader {
		return raft.ErrNotLeader
	}
	if to.IsZero() {
		if len(g.voters()) < 2 {
			return errors.New("there is no other voter")
		}
		return g.await(ctx, func() raft.Future { return g.raft.LeadershipTransfer() })
	}
	for _, v := range g.voters() {
		if node, _, ok := s.locate(g, v.ID); ok && node == to {
			return g.await(ctx, func() raft.Future { return g.raft.LeadershipTransferToServer(v.ID, v.Address) })
		}
	}
	return fmt.Errorf("%s is no voter of the %s group", s.ref(to).Name, g.name)
}

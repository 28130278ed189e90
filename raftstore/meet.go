package raftstore

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/hashicorp/raft"
	"google.golang.org/protobuf/proto"

	peerv1 "github.com/charon-kdc/charon/proto/charon/peer/v1"
	statev1 "github.com/charon-kdc/charon/proto/charon/state/v1"
	"github.com/charon-kdc/charon/raftstore/peer"
	"github.com/charon-kdc/charon/raftstore/realm"
)

const (
	// meetEvery is how often a node asks every other one how it is.
	meetEvery = 2 * time.Second
	// meetSoon is how often while its clock may take it out of service, or has.
	meetSoon = 500 * time.Millisecond
	// askLimit bounds one such question.
	askLimit = time.Second
	// announceEvery is how often a node tries to bring its record up to date until that is done.
	announceEvery = 500 * time.Millisecond
)

func (s *Store) uptime() time.Duration { return time.Since(s.begun) }

// askAll asks every other member and returns who answered.
func (s *Store) askAll(ctx context.Context) map[peer.NodeID]*peerv1.InfoResponse {
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	out := map[peer.NodeID]*peerv1.InfoResponse{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, id := range s.members.others() {
		wg.Add(1)
		go func() {
			defer wg.Done()
			if info := s.ask(ctx, id); info != nil {
				mu.Lock()
				defer mu.Unlock()
				out[id] = info
			}
		}()
	}
	wg.Wait()
	return out
}

// ask one member; nil when it does not answer. What it says of clock and membership is noted.
func (s *Store) ask(ctx context.Context, id peer.NodeID) *peerv1.InfoResponse {
	cc, err := s.fwd.Conn(id)
	if err != nil {
		return nil
	}
	asked := time.Now()
	info, err := peerv1.NewPeerClient(cc).Info(ctx, &peerv1.InfoRequest{
		PeerAddress: s.cfg.Self.GetPeerAddress(), BootCounter: s.boot, Vouch: !s.vouched.Load(),
	})
	if err != nil || toNodeID(info.GetId()) != id {
		return nil
	}
	s.clocks.answered(id, info.GetClock(), info.GetClockOut(), asked, time.Now())
	list := map[peer.NodeID]string{}
	s.where.sign(id)
	for _, m := range info.GetMembers() {
		list[toNodeID(m.GetId())] = m.GetPeerAddress()
		if other := toNodeID(m.GetId()); other != s.id && s.members.allowed(other) {
			s.where.report(other, m.GetPeerAddress(), m.GetBootCounter())
		}
	}
	if len(list) > 0 {
		s.members.learn(info.GetConfigurationIndex(), list)
	}
	return info
}

// meet keeps in touch with the other members and watches this node's clock.
func (s *Store) meet(ctx context.Context) {
	usual := min(meetEvery, 4*s.cfg.Timing.Heartbeat)
	dead := map[peer.NodeID]bool{}
	for ctx.Err() == nil {
		s.compareStates(ctx, s.askAll(ctx))
		s.watchDead(dead)
		every := usual
		if s.watchClock(ctx) {
			every = min(usual, meetSoon)
		}
		pause(ctx, every)
	}
}

// watchDead says once when a member has not been heard of for silentAfter, and when it is again.
func (s *Store) watchDead(dead map[peer.NodeID]bool) {
	for _, id := range s.members.others() {
		silence := s.where.silence(id)
		switch gone := silence > silentAfter; {
		case gone && !dead[id]:
			n := s.ref(id)
			s.cfg.Logger.Warn("a node does not answer", "node", n.Name, "address", n.PeerAddress, "for", silence.Round(time.Second))
			dead[id] = true
		case !gone && dead[id]:
			s.cfg.Logger.Info("a node answers again", "node", s.ref(id).Name)
			delete(dead, id)
		}
	}
}

// tendMembers closes the connections of nodes that have left.
func (s *Store) tendMembers(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.membership:
			s.members.refresh()
			s.savePeers()
		}
	}
}

// snapshotAfter and snapshotEvery: every start finds a "live" snapshot at the present index, which resets the library's count
// of entries since the last one; a node that restarts often would never truncate its log.
const (
	snapshotAfter = 30 * time.Second
	snapshotEvery = 24 * time.Hour
)

func (s *Store) tendSnapshots(ctx context.Context) {
	for wait := snapshotAfter; ; wait = snapshotEvery {
		pause(ctx, wait)
		if ctx.Err() != nil {
			return
		}
		err := s.realm.await(ctx, func() raft.Future { return s.realm.raft.Snapshot() })
		if err != nil && !errors.Is(err, raft.ErrNothingNewToSnapshot) {
			s.cfg.Logger.Warn("truncating the log", "group", realmGroup, "err", err)
		}
	}
}

// announce brings this node's record in the realm up to date, once: boot counter, addresses, version. A node without
// a record is not a member (yet) and waits.
func (s *Store) announce(ctx context.Context) {
	s.vouch(ctx)
	sent := false
	for ctx.Err() == nil {
		if s.announceOnce(ctx, &sent) {
			return
		}
		pause(ctx, announceEvery)
	}
}

// announceOnce tells whether there is nothing left to do. sent: an earlier try may have been applied. Where the realm counts this start
// without one, another disk with this node's identity made it.
func (s *Store) announceOnce(ctx context.Context, sent *bool) (done bool) {
	stored, err := s.db.Node(s.id[:])
	if err != nil {
		return false
	}
	switch known := stored.GetBootCounter(); {
	case known == s.boot && *sent:
		return true
	case known >= s.boot:
		s.fatal(s.oldCopy(s.boot-1, known, "the realm"))
		return true
	}
	n := proto.CloneOf(s.cfg.Self)
	realm.Prune(n, s.level()) // else a node of the next release could not say that it runs
	n.BootCounter, n.JoinedAt, n.Revision = s.boot, stored.GetJoinedAt(), stored.GetRevision()
	r, err := s.Propose(ctx, &statev1.Command{Op: &statev1.Command_PutNode{PutNode: &statev1.PutNode{
		Node: n, Expect: &statev1.Expect{Condition: &statev1.Expect_Revision{Revision: stored.GetRevision()}},
	}}})
	var na *NotAppliedError
	if err != nil && !errors.As(err, &na) {
		*sent = true
	}
	return err == nil && r.GetCode() == statev1.Code_CODE_OK
}

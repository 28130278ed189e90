package adminapi

import (
	"context"
	"sync"
	"time"

	"google.golang.org/grpc/metadata"

	"github.com/charon-kdc/charon/kdc/krb5/kcrypto"
	adminv1 "github.com/charon-kdc/charon/proto/charon/admin/v1"
	statev1 "github.com/charon-kdc/charon/proto/charon/state/v1"
	"github.com/charon-kdc/charon/raftstore"
)

const (
	// statsWait is how long a status call waits for another node.
	statsWait = time.Second
	// countMax is up to how many principals a status call counts the states of.
	countMax = 20_000
	// lagWarn in entries is what a follower that keeps up never reaches.
	lagWarn    = 1000
	expirySoon = 30 * 24 * time.Hour
)

func (s clusterServer) GetNodeStats(context.Context, *adminv1.GetNodeStatsRequest) (*adminv1.GetNodeStatsResponse, error) {
	return &adminv1.GetNodeStatsResponse{Meta: s.readMeta(), Stats: s.ownStats()}, nil
}

func (s *Service) ownStats() *adminv1.NodeStats {
	if s.Stats == nil {
		return nil
	}
	return s.Stats()
}

// GetStatus is what the asked node sees, quorum or not.
func (s clusterServer) GetStatus(ctx context.Context, req *adminv1.GetStatusRequest) (*adminv1.GetStatusResponse, error) {
	cl, err := s.Reader.Cluster()
	if err != nil {
		return nil, err
	}
	records, err := s.Reader.Nodes()
	if err != nil {
		return nil, err
	}
	st := s.Store.Status(ctx)
	resp := &adminv1.GetStatusResponse{
		Meta: s.readMeta(), Realm: cl.GetDefaultRealm(), ClusterId: cl.GetId(), FeatureLevel: cl.GetFeatureLevel(), Version: s.Version,
		Leader: st.Leader.Name, Voters: uint32(st.Voters), Quorum: st.Quorum, Tolerates: uint32(max(0, st.Tolerates)),
		AutoRemoveAfter: cl.GetAutoRemoveAfter(), AutoRemoveVoters: cl.GetAutoRemoveVoters(),
	}
	if st.TicketsFrom.After(s.Now()) {
		resp.TicketsFrom = st.TicketsFrom.UnixMilli()
	}
	resp.DoubleAccepts, resp.ServiceReason = st.Doubles, st.ServiceReason
	if !st.LastDouble.IsZero() {
		resp.LastDoubleAccept = st.LastDouble.UnixMilli()
	}
	resp.StateDispute = st.Dispute
	if resp.LastBackup, err = s.lastBackup(); err != nil {
		return nil, err
	}
	for _, m := range st.Nodes {
		resp.Nodes = append(resp.Nodes, nodeStatus(m, records))
		if m.Role != roleNonVoter && (m.Reachable || m.ID == st.Self.ID) {
			resp.VotersAlive++
		}
	}
	s.askStats(ctx, st, resp.Nodes)
	if req.GetBrief() {
		return resp, nil
	}
	return resp, s.count(cl.GetDefaultRealm(), resp)
}

func nodeStatus(m raftstore.NodeStatus, records []*statev1.Node) *adminv1.NodeStatus {
	out := &adminv1.NodeStatus{
		SilentMs: m.Silence.Milliseconds(),
		Role:     m.Role, FeatureLevelMax: m.FeatureLevelMax, Health: "ok", Applied: m.Applied, Lag: m.Lag,
		ContactMs: m.LastContact.Milliseconds(), ClockOffsetUs: m.ClockOffset.Microseconds(),
	}
	out.Service, out.Journal = m.Service, uint64(m.Journal)
	if m.State.Index > 0 {
		out.StateHash, out.StateHashIndex = m.State.Hash[:], m.State.Index
	}
	if m.LastContact < 0 {
		out.ContactMs = -1
	}
	switch {
	case !m.Reachable:
		out.Health = "down"
	case m.Diverged != "":
		out.Health, out.Diverged = "diverged", m.Diverged
	case m.ClockOut:
		out.Health = "clock"
	case m.Service == raftstore.ServiceDegraded:
		out.Health = "degraded"
	case m.Service == raftstore.ServiceRefusing, m.ReplayState == "cut-off":
		out.Health = "cut-off"
	case m.Lag > lagWarn:
		out.Health = "lagging"
	}
	for _, n := range records {
		if string(n.GetId()) == string(m.ID[:]) {
			out.Node = nodeView(n, m.Role)
		}
	}
	if out.Node == nil {
		out.Node = &adminv1.Node{Id: m.ID[:], Name: m.Name, PeerAddress: m.PeerAddress, Role: m.Role}
	}
	return out
}

// askStats asks all reachable nodes at once what they measured of themselves.
func (s *Service) askStats(ctx context.Context, st raftstore.Status, nodes []*adminv1.NodeStatus) {
	ctx, cancel := context.WithTimeout(ctx, statsWait)
	defer cancel()
	ctx = metadata.NewOutgoingContext(ctx, metadata.Pairs(metaCaller, callerOf(ctx).Subject))
	var wg sync.WaitGroup
	for i, m := range st.Nodes {
		if m.ID == st.Self.ID {
			nodes[i].Stats = s.ownStats()
			continue
		}
		if s.Forwarder == nil || !m.Reachable {
			continue
		}
		wg.Go(func() {
			conn, err := s.Forwarder.Conn(m.ID)
			if err != nil {
				return
			}
			if r, err := adminv1.NewClusterClient(conn).GetNodeStats(ctx, &adminv1.GetNodeStatsRequest{}); err == nil {
				nodes[i].Stats = r.GetStats()
			}
		})
	}
	wg.Wait()
}

// count fills in how many principals there are in which state, where they are few enough to be looked at.
func (s *Service) count(realmName string, resp *adminv1.GetStatusResponse) error {
	soon := s.Now().Add(expirySoon).UnixMilli()
	for after := ""; ; {
		page, next, err := s.Reader.ListPrincipals(realmName, after, pageMax)
		if err != nil {
			return err
		}
		for _, p := range page {
			if err := s.countOne(p, soon, resp); err != nil {
				return err
			}
		}
		if next == "" {
			resp.Counted = true
			return nil
		}
		if resp.GetPrincipals() >= countMax {
			resp.Principals, resp.Locked, resp.Expiring_30D, resp.Rc4Allowed = 0, 0, 0, 0
			return nil
		}
		after = next
	}
}

func (s *Service) countOne(p *statev1.Principal, soon int64, resp *adminv1.GetStatusResponse) error {
	v, err := s.view(p)
	if err != nil {
		return err
	}
	resp.Principals++
	if v.GetLockedOut() || v.GetAttributes()&attrDisallowAllTix != 0 {
		resp.Locked++
	}
	for _, end := range []int64{v.GetExpiration(), v.GetPasswordExpiration()} {
		if end != 0 && end < soon {
			resp.Expiring_30D++
			break
		}
	}
	for _, k := range v.GetKeys() {
		if kcrypto.EType(k.GetEtype()) == kcrypto.RC4HMAC {
			resp.Rc4Allowed++
			break
		}
	}
	return nil
}

package raftstore

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/raft"

	"github.com/charon-kdc/charon/raftstore/peer"
	"github.com/charon-kdc/charon/raftstore/setsum"
)

// Status is what Status returns.
type Status struct {
	Self         NodeRef
	Leader       NodeRef // of the realm group; zero if unknown
	ReplayLeader NodeRef
	// Quorum: a leader is known and was heard of within the lease.
	Quorum bool
	// Voters in both groups, and how many of the nodes may fail now without either group losing its quorum.
	Voters, Tolerates int
	// Applied index of the realm group here; CommitIndex as last heard.
	Applied, CommitIndex uint64
	FeatureLevel         uint32
	// ReplayState is ready, holding or cut-off.
	ReplayState string
	// Doubles is how many authenticators the cluster knows to have been accepted in two different requests, the last one found out at
	// LastDouble (zero: never).
	Doubles    uint64
	LastDouble time.Time
	// TicketsFrom: authenticators up to then are refused, since the replay cache lost track once; zero if it never did.
	TicketsFrom time.Time
	// ServiceReason is why this node's own service is not normal.
	ServiceReason string
	Nodes         []NodeStatus
	// Dispute is in what the members' states differ while no majority has one alike; empty: they don't.
	Dispute string
}

// NodeStatus is one member.
type NodeStatus struct {
	NodeRef
	KDCAddress, HTTPAddress string
	// Role is leader, follower or non-voter: a node that does not vote in both groups yet is no voter.
	Role string
	// ReplayRole likewise, in the replay group; "absent" until it is a member.
	ReplayRole string
	// Reachable: it answered.
	Reachable bool
	// Lag in entries behind the leader; LastContact is the age of its last contact with the leader (negative: unknown).
	Lag         uint64
	LastContact time.Duration
	Applied     uint64
	// ClockOffset is its clock minus the cluster's time, as of its last report. ClockOut: it has taken itself out of service for it.
	ClockOffset time.Duration
	ClockOut    bool
	Uptime      time.Duration
	Version     string
	ReplayState string
	// FeatureLevelMax is the highest feature level that it supports, as it says itself or said last; 0: unknown.
	FeatureLevelMax uint32
	// MasterKeys are the versions of the master key on its disk; MasterKeysFixed is why it can take no other.
	MasterKeys      []uint32
	MasterKeysFixed string
	// Silence is how long this node has not heard of it.
	Silence time.Duration
	// Service is ServiceNormal, ServiceDegraded or ServiceRefusing; Journal how many records of what it accepted alone it has to hand in.
	Service string
	Journal int
	// Diverged is why its state is taken for damaged, by itself or by this node; empty: it is not.
	Diverged string
	// State is the hash of its realm state at the last index that it has told.
	State setsum.Point
}

// The roles in Status.
const (
	RoleLeader   = "leader"
	RoleFollower = "follower"
	RoleNonVoter = "non-voter"
	RoleAbsent   = "absent"
)

// Status of the cluster as this node sees it; it asks the other members, within ctx and at most a second.
func (s *Store) Status(ctx context.Context) Status {
	answers := s.askAll(ctx)
	st := Status{
		Self:        s.Self(),
		Quorum:      s.quorum(),
		Applied:     s.applied.get(),
		ReplayState: s.proofs.stateName(),
		TicketsFrom: s.Epoch(),
	}
	_, st.ServiceReason = s.Service()
	st.FeatureLevel, st.Dispute = s.db.FeatureLevel(), s.Dispute()
	if n, last := s.state.Doubles(); n > 0 {
		st.Doubles, st.LastDouble = n, time.UnixMilli(last).UTC()
	}
	if s.started.Load() {
		st.CommitIndex = s.realm.raft.CommitIndex()
	}
	st.Leader, _ = s.Leader()
	if id := s.replay.leader(); id != "" {
		if n, ok := s.nodeOfReplay(nodeID(id)); ok {
			st.ReplayLeader = s.ref(n)
		}
	}
	servers, _ := s.configured()
	alive := map[peer.NodeID]bool{}
	for _, v := range servers {
		id := nodeID(v.ID)
		n := s.nodeStatus(id, v.Suffrage == raft.Voter, st.Leader.ID)
		if info := answers[id]; info != nil {
			n.Reachable = true
			n.Applied, n.Version, n.ReplayState = info.GetApplied(), info.GetVersion(), info.GetReplayState()
			n.Service, n.Journal = cmp.Or(info.GetService(), ServiceNormal), int(info.GetJournal())
			n.Lag = lag(st.CommitIndex, info.GetLastIndex())
			n.Diverged, n.State = first(info.GetDiverged(), s.oddOne(id)), lastShown(info)
			n.ClockOut = info.GetClockOut()
			n.Uptime = time.Duration(info.GetUptime()) * time.Millisecond
			n.MasterKeys, n.MasterKeysFixed = info.GetMasterKeyVersions(), info.GetMasterKeyFixed()
			n.LastContact = time.Duration(info.GetLastContact()) * time.Millisecond
			n.FeatureLevelMax = info.GetFeatureLevelMax()
		}
		alive[id] = n.Reachable
		if n.Role == RoleFollower && (n.ReplayRole == RoleNonVoter || n.ReplayRole == RoleAbsent) {
			n.Role = RoleNonVoter
		}
		if n.Role != RoleNonVoter {
			st.Voters++
		}
		st.Nodes = append(st.Nodes, n)
	}
	st.Nodes = append(st.Nodes, s.joining(servers)...)
	replayServers, _ := s.replay.servers()
	st.Tolerates = max(0, min(spare(servers, func(v raft.Server) bool { return alive[nodeID(v.ID)] }),
		spare(replayServers, func(v raft.Server) bool { n, ok := s.nodeOfReplay(nodeID(v.ID)); return ok && alive[n] })))
	slices.SortFunc(st.Nodes, func(a, b NodeStatus) int { return strings.Compare(a.Name, b.Name) })
	return st
}

// spare is how many more of a group's living voters it can lose; negative: it has no quorum.
func spare(servers []raft.Server, alive func(raft.Server) bool) int {
	voters, living := 0, 0
	for _, v := range servers {
		if v.Suffrage != raft.Voter {
			continue
		}
		voters++
		if alive(v) {
			living++
		}
	}
	return living - (voters/2 + 1)
}

// joining are the nodes that are recorded but no servers: their join was cut short, and resumes or is taken back by a removal.
func (s *Store) joining(servers []raft.Server) []NodeStatus {
	nodes, err := s.db.Nodes()
	if err != nil || len(servers) == 0 {
		return nil
	}
	var out []NodeStatus
	for _, n := range nodes {
		if id := toNodeID(n.GetId()); !has(servers, serverID(id)) {
			out = append(out, s.nodeStatus(id, false, peer.NodeID{}))
		}
	}
	return out
}

// nodeStatus is what this node knows of a member without asking.
func (s *Store) nodeStatus(id peer.NodeID, voter bool, leader peer.NodeID) NodeStatus {
	n := NodeStatus{NodeRef: s.ref(id), Role: role(voter, id == leader), ReplayRole: RoleAbsent, LastContact: -1}
	rec := s.cfg.Self
	if id != s.id {
		rec, _ = s.db.Node(id[:])
	}
	n.Version, n.FeatureLevelMax = rec.GetVersion(), rec.GetFeatureLevelMax()
	n.KDCAddress, n.HTTPAddress = rec.GetKdcAddress(), rec.GetHttpAddress()
	replayID := serverID(toNodeID(rec.GetReplayId()))
	servers, _ := s.replay.servers()
	for _, v := range servers {
		if v.ID == replayID {
			n.ReplayRole = role(v.Suffrage == raft.Voter, v.ID == s.replay.leader())
		}
	}
	n.ClockOffset, _ = s.clocks.offset(id)
	if id != s.id {
		n.Silence = s.where.silence(id)
	}
	if id == s.id {
		n.Reachable = true
		n.ClockOffset, n.ClockOut = s.clocks.own(), s.clock.out.Load()
		n.Service, _ = s.Service()
		n.Diverged, n.State = s.Diverged(), s.db.Hashes().Last()
		n.Journal = s.heard.journal.left()
		n.Applied, n.Version, n.ReplayState = s.applied.get(), s.cfg.Self.GetVersion(), s.proofs.stateName()
		n.Uptime, n.LastContact = s.uptime(), s.lease.known()
		n.MasterKeys, n.MasterKeysFixed = s.masterKeys(), s.keysFixed()
		if s.started.Load() {
			n.Lag = lag(s.realm.raft.CommitIndex(), s.realm.raft.LastIndex())
		}
	}
	return n
}

func role(voter, leads bool) string {
	switch {
	case leads:
		return RoleLeader
	case voter:
		return RoleFollower
	default:
		return RoleNonVoter
	}
}

// Ready tells whether AS and TGS can be served, by local knowledge and at once; reason says why not and is empty when both can.
func (s *Store) Ready() (as, tgs bool, reason string) {
	if why := s.unfit(); why != "" {
		return false, false, why
	}
	switch service, reason := s.Service(); service {
	case ServiceRefusing:
		return false, false, reason
	case ServiceDegraded:
		if s.proofs.cutOff() {
			why := s.proofs.mayJudge()
			return true, why == "", why
		}
	}
	if st := s.proofs.stateName(); st != stateNames[stateReady] {
		return true, false, "replay cache: " + st
	}
	if !s.proofs.caughtUp() {
		return true, false, "replay cache: catching up"
	}
	return true, true, ""
}

// unfit is why this node can't serve at all.
func (s *Store) unfit() string {
	switch {
	case !s.started.Load():
		return "not started"
	case s.integrity.out.Load():
		return s.Diverged() + ": charon server --rebuild"
	case s.applied.get() == 0:
		return "has not received the realm yet"
	case s.noMasterKey() != "":
		return s.noMasterKey()
	case !s.isMember():
		return "removed from the cluster"
	case s.lease.stale() > s.cfg.StaleLimit:
		return s.tooOld()
	}
	return s.wrongClock()
}

// LastContact is the age of the last contact with a leader, restarts of the process included; negative if none is on record.
func (s *Store) LastContact() time.Duration { return s.lease.known() }

package raftstore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/charon-kdc/charon/kdc/kdb"
	statev1 "github.com/charon-kdc/charon/proto/charon/state/v1"
	"github.com/charon-kdc/charon/raftstore/forward"
	"github.com/charon-kdc/charon/raftstore/peer"
	"github.com/charon-kdc/charon/raftstore/realm"
)

// ErrNoLeader says that no leader of the realm group is known. Nothing was done.
var ErrNoLeader = errors.New("no leader: the realm has no quorum or is electing")

// ErrNotMember says that the named node is not in the cluster.
var ErrNotMember = errors.New("no such node")

// NotAppliedError says that a command was certainly not appended: try again, there.
type NotAppliedError struct {
	// Leader is the node to try, if known.
	Leader NodeRef
	Err    error
}

func (e *NotAppliedError) Error() string { return fmt.Sprintf("nothing was done: %v", e.Err) }
func (e *NotAppliedError) Unwrap() error { return e.Err }

// UnknownOutcomeError says that a command may or may not take effect. Repeating it with its request id tells.
type UnknownOutcomeError struct {
	Err error
}

func (e *UnknownOutcomeError) Error() string { return fmt.Sprintf("outcome unknown: %v", e.Err) }
func (e *UnknownOutcomeError) Unwrap() error { return e.Err }

// NodeRef names a node. The zero value is no node.
type NodeRef struct {
	ID           peer.NodeID
	Name         string
	PeerAddress  string
	AdminAddress string
}

// Store is one node's part of the cluster.
type Store struct{}

// Open reads Dir, checks that identity, log and state belong together, and prepares both groups. Nothing runs yet: services
// may be registered on Forward().Server() and listeners taken from Mux() until Start.
func Open(cfg Config) (*Store, error) { return nil, errors.ErrUnsupported }

// Start runs both groups and, with Config.Bootstrap, makes the cluster. It returns when the local state can be read; AS
// readiness needs no more. ctx bounds the bootstrap only.
func (s *Store) Start(ctx context.Context) error { return errors.ErrUnsupported }

// Shutdown hands leadership of both groups over (at most 2 s), then stops raft, transports, logs and state, in this order.
func (s *Store) Shutdown(ctx context.Context) error { return errors.ErrUnsupported }

// Self is this node's id.
func (s *Store) Self() NodeRef { return NodeRef{} }

// DB is the applied realm state, for reading.
func (s *Store) DB() *realm.DB { return nil }

// Mux is the peer port; the join service takes its listener from it.
func (s *Store) Mux() *peer.Mux { return nil }

// Forward carries calls to other nodes.
func (s *Store) Forward() *forward.Forward { return nil }

// KDB is the principal database as the KDC reads it.
func (s *Store) KDB() kdb.Store { return nil }

// Proofs is the shared replay cache as the KDC uses it.
func (s *Store) Proofs() kdb.Proofs { return nil }

// Propose replicates cmd and returns its result. Followers forward it, one hop. A refusal by the state machine is a Result with
// a code, not an error. Errors: *NotAppliedError, *UnknownOutcomeError.
func (s *Store) Propose(ctx context.Context, cmd *statev1.Command) (*statev1.Result, error) {
	return nil, errors.ErrUnsupported
}

// IsLeader tells whether this node leads the realm group and has applied everything before its term.
func (s *Store) IsLeader() bool { return false }

// Leader of the realm group as this node knows it.
func (s *Store) Leader() (NodeRef, bool) { return NodeRef{}, false }

// VerifyLeader returns when this node has proved that it leads and its applied state holds every acknowledged write. Error: *NotAppliedError.
func (s *Store) VerifyLeader(ctx context.Context) error { return errors.ErrUnsupported }

// WaitApplied returns when this node has applied index, a Result's.
func (s *Store) WaitApplied(ctx context.Context, index uint64) error { return errors.ErrUnsupported }

// WaitAllApplied returns when every member has applied index or its freshness lease has run out (DESIGN.md section 5), at most about
// the lease after the call. late names the members that have not.
func (s *Store) WaitAllApplied(ctx context.Context, index uint64) (late []NodeRef, err error) {
	return nil, errors.ErrUnsupported
}

// AddNode adds a node to both groups as non-voter and stores its record; the leader promotes it once it keeps up. Leader only.
func (s *Store) AddNode(ctx context.Context, n *statev1.Node) error { return errors.ErrUnsupported }

// RemoveNode takes a node out of both groups and deletes its record. Leader only; the leader can't remove itself.
func (s *Store) RemoveNode(ctx context.Context, id peer.NodeID) error { return errors.ErrUnsupported }

// TransferLeadership hands both groups to that node ("" lets raft choose) and waits until it leads the realm. Any node.
func (s *Store) TransferLeadership(ctx context.Context, name string) error {
	return errors.ErrUnsupported
}

// Ready tells whether AS and TGS can be served; reason is empty when they can.
func (s *Store) Ready() (as, tgs bool, reason string) { return false, false, "" }

// Status of the cluster as this node sees it; it asks the other members, within ctx and at most a second.
func (s *Store) Status(ctx context.Context) Status { return Status{} }

// Status is what Status returns.
type Status struct {
	Self         NodeRef
	Leader       NodeRef // of the realm group; zero if unknown
	ReplayLeader NodeRef
	// Quorum: a leader is known and was heard of within the lease.
	Quorum bool
	// Voters of the realm group, and how many of them may fail now.
	Voters, Tolerates int
	// Applied index of the realm group here; CommitIndex as last heard.
	Applied, CommitIndex uint64
	FeatureLevel         uint32
	// ReplayState is ready, holding or cut-off.
	ReplayState string
	Nodes       []NodeStatus
}

// NodeStatus is one member.
type NodeStatus struct {
	NodeRef
	KDCAddress, HTTPAddress string
	// Role is leader, follower or non-voter.
	Role string
	// ReplayRole likewise, in the replay group; "absent" until it is a member.
	ReplayRole string
	// Reachable: it answered.
	Reachable bool
	// Lag in entries behind the leader; LastContact is the age of its last contact with the leader (negative: unknown).
	Lag         uint64
	LastContact time.Duration
	Applied     uint64
	// ClockOffset is its clock minus ours, as of the last answer.
	ClockOffset time.Duration
	Uptime      time.Duration
	Version     string
	ReplayState string
}

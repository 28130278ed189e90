package raftstore

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"time"

	"github.com/charon-kdc/charon/kdc/kdb/masterkey"
	statev1 "github.com/charon-kdc/charon/proto/charon/state/v1"
	"github.com/charon-kdc/charon/raftstore/logstore"
	"github.com/charon-kdc/charon/raftstore/peer"
)

// Config is what Open needs. Zero values of optional fields are named with each.
type Config struct {
	// Dir holds both groups: Dir/realm and Dir/replay, each with its id file, log and state.
	Dir string
	// Self is this node's record. Name and PeerAddress (host:port that the other nodes dial) are required; ids are
	// filled in from Dir. After a start the store brings the record in the realm up to date with it, boot counter included.
	Self *statev1.Node
	// Listener is the peer port. The store wraps it in TLS and ALPN, and closes it on Shutdown.
	Listener net.Listener
	// Identity is the cluster id, this node's certificate and the node CA. Allowed is set by the store.
	Identity peer.Identity
	// Ring opens sealed values. nil: no keys can be opened, and the KDC's look-ups answer kdb.ErrStale.
	Ring *masterkey.Ring
	// Keys is the file of Ring, for versions to come and go while the node runs. nil: none do.
	Keys *masterkey.File
	// Bootstrap makes a new cluster of this one node. Only on an empty Dir; refused otherwise.
	Bootstrap *Bootstrap
	// Timing; the zero value is for a LAN.
	Timing Timing
	// ClockSkew is the largest clockskew that a node of this cluster runs with. 0: 5 min. At most 1 h.
	ClockSkew time.Duration
	// StaleLimit: a node without contact to a leader for longer answers kdb.ErrStale. 0: 24 h.
	StaleLimit time.Duration
	// RefuseWithoutQuorum: a node that is cut off answers AS and TGS requests with kdb.ErrUnavailable. Else it serves from what it has, up to
	// StaleLimit (DESIGN.md, "Without a quorum").
	RefuseWithoutQuorum bool
	// AsyncReplay: relaxable proofs are judged by what this node has seen, and recorded behind the answer.
	AsyncReplay bool
	// CacheSize bounds the decoded principals kept. 0: 100,000.
	CacheSize int
	// MapSize is the address space reserved for the realm state file, in bytes. 0: 64 GiB.
	MapSize int
	// FeatureLevelMax holds the node back to a lower feature level than the release's. For tests of mixed clusters. 0: realm.FeatureLevelMax.
	FeatureLevelMax uint32
	// LogMapSize is the same for each log. 0: 1 GiB.
	LogMapSize int
	// Now is the wall clock. nil: the machine's.
	Now func() time.Time
	// Rand. nil: crypto/rand.
	Rand io.Reader
	// Logger. nil: discard.
	Logger *slog.Logger
	// Fatal ends the process: a disk that fails or a log that this version can't apply. It must not return in production.
	// nil: write the error to standard error and exit with status 70.
	Fatal func(error)
	// Observe is called with measurements; its functions must not block.
	Observe Observer
	// ScrubInterval is how often state and logs are read whole, and ScrubRate at how many bytes a second. 0: 24 h, 32 MB.
	ScrubInterval time.Duration
	ScrubRate     int
	// Disk is what lies below the store. The zero value is the real thing.
	Disk Disk
}

// Disk is where a simulation puts its own disk, one that fails, stalls and loses what was not flushed. Any field may be nil.
type Disk struct {
	// Log opens what is below the guards of a group's log (logstore.Options.Open).
	Log func(path string, noSync bool) (logstore.Backend, error)
	// Commit runs every transaction of the realm state (realm.Options.Commit).
	Commit func(path string, noSync bool, commit func() error) error
	// Sync flushes a small file or a directory.
	Sync func(*os.File) error
}

func (d Disk) sync(f *os.File) error {
	if d.Sync != nil {
		return d.Sync(f)
	}
	return f.Sync()
}

// Observer receives measurements. Any field may be nil.
type Observer struct {
	// StoreLogs: one write to a group's log ("realm", "replay").
	StoreLogs func(group string, d time.Duration, entries, bytes int)
	// Commit: one replicated entry from submit to applied, on its leader.
	Commit func(group string, d time.Duration)
	// ReplayWait: from Submit to the verdict.
	ReplayWait func(d time.Duration)
	// ReplayDropped: one request dropped because the queue was full.
	ReplayDropped func()
	// ReplayState: ready, holding or cut-off, on each change.
	ReplayState func(s string)
	// Clock: this node's clock is ClockOK, ClockWarn, ClockAlarm or ClockOut from now on, at that offset from the cluster's time.
	Clock func(level string, off time.Duration)
	// Service: ServiceNormal, ServiceDegraded or ServiceRefusing, on each change, and why.
	Service func(state, reason string)
	// DoubleAccept: an authenticator turned out to be accepted in two different requests.
	DoubleAccept func(DoubleAccept)
	// StateDiverged: this node's state turned out to differ from the majority's, and why. Once: it stays so until the process ends.
	StateDiverged func(why string)
	// StateDispute: the members' states differ and no majority tells who is right; empty: no more.
	StateDispute func(what string)
	// Journal: what became of n records of what was accepted without a quorum: JournalMerged, JournalDouble, JournalUncompared, JournalLost.
	Journal func(result string, n int)
	// Leadership of a group gained (true) or lost.
	Leadership func(group string, leader bool)
	// NodeRemoved: this node, the leader, removed one by itself, of which nobody had heard for so long; err is RemoveNode's.
	NodeRemoved func(n NodeRef, after time.Duration, err error)
}

// Bootstrap is what a new cluster starts with.
type Bootstrap struct {
	// Commands are proposed one by one, in order, before Start returns. A Batch makes several one.
	Commands []*statev1.Command
	// Restored: Seed has put a state into Dir, which the new cluster goes on from.
	Restored bool
	// Epoch, if not zero, begins a replay epoch: authenticators up to that time are refused, since an earlier cluster under the same keys
	// may have accepted them (RFC 4120 section 3.2.3).
	Epoch time.Time
}

// Timing are the clocks of both groups.
type Timing struct {
	// Heartbeat and election timeout. 0: 500 ms. At least 200 ms outside of tests.
	Heartbeat time.Duration
	// Lease of a leader. 0: half of Heartbeat.
	Lease time.Duration
	// Commit is how soon followers learn an idle commit index. 0: 50 ms.
	Commit time.Duration
	// RPC timeout between nodes. 0: 5 s.
	RPC time.Duration
	// Fresh is the freshness lease (DESIGN.md, "Reads after writes"). 0: 400 ms.
	Fresh time.Duration
	// CutOff is how long the replay client holds without a verdict. 0: 3 s.
	CutOff time.Duration
	// VouchWait is how long a starting node waits for members that do not answer before it takes the word of those that do. 0: 3 s.
	VouchWait time.Duration
	// Away is how long a member is silent before the replay log keeps what a journal of it must meet; Release how long all must have been
	// back before it keeps no more. 0: 10 s, 1 min.
	Away, Release time.Duration
	// PromoteAfter is how long a non-voter must keep up before it becomes a voter. 0: 10 s.
	PromoteAfter time.Duration
	// CommitGap is the least time between two replay entries; it grows to 2.5 times that under load. 0: 2 ms.
	CommitGap time.Duration
	// IdleBatch: an idle replay leader commits an empty batch so often. 0: 10 s.
	IdleBatch time.Duration
	// StallLimit: a log write that takes longer ends the process. 0: 10 s.
	StallLimit time.Duration
	// SnapshotInterval, SnapshotThreshold, TrailingLogs of both groups. 0: realm 30 s, 1024, 20000; replay 120 s, 8192, 16384.
	SnapshotInterval  time.Duration
	SnapshotThreshold uint64
	TrailingLogs      uint64
}

func orDefault[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}

func (t *Timing) fill() {
	orDefault(&t.Heartbeat, 500*time.Millisecond)
	orDefault(&t.Lease, t.Heartbeat/2)
	orDefault(&t.Commit, 50*time.Millisecond)
	orDefault(&t.RPC, 5*time.Second)
	orDefault(&t.Fresh, 400*time.Millisecond)
	orDefault(&t.CutOff, 3*time.Second)
	orDefault(&t.VouchWait, 3*time.Second)
	orDefault(&t.Away, 10*time.Second)
	orDefault(&t.Release, time.Minute)
	orDefault(&t.PromoteAfter, 10*time.Second)
	orDefault(&t.CommitGap, 2*time.Millisecond)
	orDefault(&t.IdleBatch, 10*time.Second)
	orDefault(&t.StallLimit, 10*time.Second)
}

func (c *Config) fill() error {
	if c.Dir == "" || c.Listener == nil || c.Self.GetName() == "" || c.Self.GetPeerAddress() == "" {
		return errors.New("opening the replicated store: Dir, Listener, Self.Name and Self.PeerAddress are required")
	}
	if c.Identity.Certificate == nil || c.Identity.Roots == nil {
		return errors.New("opening the replicated store: Identity needs a certificate and roots")
	}
	c.Timing.fill()
	orDefault(&c.ClockSkew, 5*time.Minute)
	if c.ClockSkew < 0 || c.ClockSkew > time.Hour {
		return fmt.Errorf("clock skew %v: at most 1h", c.ClockSkew)
	}
	orDefault(&c.StaleLimit, 24*time.Hour)
	orDefault(&c.CacheSize, 100_000)
	orDefault(&c.ScrubInterval, 24*time.Hour)
	orDefault(&c.ScrubRate, 32<<20)
	orDefault(&c.MapSize, 64<<30)
	orDefault(&c.LogMapSize, 1<<30)
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Rand == nil {
		c.Rand = rand.Reader
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Fatal == nil {
		c.Fatal = func(err error) {
			fmt.Fprintln(os.Stderr, "charon: fatal:", err)
			os.Exit(70)
		}
	}
	return nil
}

package raftstore

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/charon-kdc/charon/internal/mutant"
	"github.com/charon-kdc/charon/raftstore/logstore"
	"github.com/charon-kdc/charon/raftstore/peer"
)

// startFactor stretches the timeouts until a leader is seen, so that nodes that start together hold no needless elections.
const startFactor = 3

// group is one Raft group of this node.
type group struct {
	name string
	dir  string
	id   raft.ServerID
	s    *Store

	log   *logstore.Store
	snaps raft.SnapshotStore
	fsm   raft.FSM
	// committedConf is the servers of the last configuration that is committed, as far as it is applied here, and its index.
	committedConf func() (uint64, []raft.Server)
	conf          *raft.Config
	raft          *raft.Raft // set by start; others read it only once live
	live          atomic.Bool
	calls         calls
	trans         *ballot
	// alone: this node is the only voter.
	alone atomic.Bool
	// install is timed for Logs.
	install installTimer

	// ready: this node leads and has applied everything before its term.
	ready atomic.Bool
	// led, if set, is called at the start of a term, before ready; set before start.
	led func()
	// duties run while ready; set before start.
	duties func(ctx context.Context)

	mu       sync.Mutex
	changed  chan struct{} // closed and replaced when leader or ready change
	observer *raft.Observer
}

func (s *Store) newGroup(name string, id peer.NodeID) *group {
	return &group{
		name: name, s: s, id: serverID(id),
		dir:     filepath.Join(s.cfg.Dir, name),
		changed: make(chan struct{}),
	}
}

func serverID(id peer.NodeID) raft.ServerID { return raft.ServerID(id.String()) }

func nodeID(id raft.ServerID) peer.NodeID {
	n, err := peer.ParseNodeID(string(id))
	if err != nil {
		return peer.NodeID{}
	}
	return n
}

// openLog opens the group's log behind its guards.
func (g *group) openLog(slow func()) error {
	opts := logstore.Options{
		MapSize:    g.s.cfg.LogMapSize,
		StallLimit: g.s.cfg.Timing.StallLimit,
		Fatal:      g.s.fatal,
		Slow:       slow,
		Open:       g.s.cfg.Disk.Log,
	}
	if f := g.s.cfg.Observe.StoreLogs; f != nil {
		opts.Observe = func(d time.Duration, entries, bytes int) { f(g.name, d, entries, bytes) }
	}
	var err error
	path := filepath.Join(g.dir, logFile)
	g.log, err = logstore.Open(path, opts)
	return damage(path, err)
}

// checkLog holds log and state, at path, against each other, as reaches says, and finishes what a crash after an installation left undone. applied
// and term are those of the state or of the last snapshot; installed is the index of the last snapshot that came from a leader.
func (g *group) checkLog(path string, applied, term, installed uint64) error {
	if err := reaches(g.log, g.dir, path, applied, installed); err != nil || applied == 0 {
		return err
	}
	dropped, err := g.log.Reconcile(applied, term)
	if dropped {
		g.s.cfg.Logger.Info("dropped the log that an installed snapshot replaces", "group", g.name, "index", applied)
	}
	return err
}

// handOverSlow has a leader whose disk is slow hand over, once the write that is slow has ended. It is called beside that write and waits for
// nothing: if no other voter takes over, the next slow write tries again.
func (g *group) handOverSlow() {
	if g.ready.Load() {
		g.s.cfg.Logger.Warn("the disk is slow; handing leadership over", "group", g.name)
		g.raft.LeadershipTransfer()
	}
}

func (g *group) config() *raft.Config {
	t := g.s.cfg.Timing
	c := raft.DefaultConfig()
	c.ProtocolVersion = 3
	c.LocalID = g.id
	c.HeartbeatTimeout = t.Heartbeat
	c.ElectionTimeout = t.Heartbeat
	c.LeaderLeaseTimeout = t.Lease
	c.CommitTimeout = t.Commit
	c.MaxAppendEntries = 256
	c.ShutdownOnRemove = false
	c.NoLegacyTelemetry = true
	c.Logger = newHCLogger(g.s.cfg.Logger, g.name, &g.s.stopping)
	switch g.name {
	case realmGroup:
		c.BatchApplyCh = true
		c.SnapshotThreshold, c.SnapshotInterval, c.TrailingLogs = 1024, 30*time.Second, 20000
		c.NoSnapshotRestoreOnStart = true
	case replayGroup:
		c.SnapshotThreshold, c.SnapshotInterval, c.TrailingLogs = 8192, 120*time.Second, 16384
	}
	if t.SnapshotThreshold > 0 {
		c.SnapshotThreshold = t.SnapshotThreshold
	}
	if t.SnapshotInterval > 0 {
		c.SnapshotInterval = t.SnapshotInterval
	}
	if t.TrailingLogs > 0 {
		c.TrailingLogs = t.TrailingLogs
	}
	return c
}

// start runs the group. bootstrap makes it a cluster of one.
func (g *group) start(alpn string, bootstrap bool) error {
	g.trans = newBallot(raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		ServerAddressProvider: addresses{g},
		Logger:                newHCLogger(g.s.cfg.Logger, g.name, &g.s.stopping),
		Stream:                &stream{s: g.s, alpn: alpn, ln: g.s.mux.Listener(alpn)},
		MaxPool:               3,
		// No pipelining: when a follower refuses an entry or a newer term comes up, its sender and its decoder can wait for
		// each other for ever. That follower gets no more entries while heartbeats keep it quiet, and Shutdown never
		// returns (raft issue 612; seen in our own tests). One entry in flight is what we want in any case.
		MaxRPCsInFlight:         1,
		Timeout:                 g.s.cfg.Timing.RPC,
		MsgpackUseNewTimeFormat: true,
	}), g.votes, g.mayLead, g.leads)
	g.conf = g.config()
	cache, err := raft.NewLogCache(512, g.log)
	if err != nil {
		return err
	}
	if bootstrap {
		err := raft.BootstrapCluster(g.conf, cache, g.log, g.snaps, g.trans, raft.Configuration{Servers: []raft.Server{
			{Suffrage: raft.Voter, ID: g.id, Address: raft.ServerAddress(g.s.cfg.Self.GetPeerAddress())},
		}})
		if err != nil {
			return fmt.Errorf("making the %s group: %w", g.name, err)
		}
	} else {
		g.conf.HeartbeatTimeout *= startFactor
		g.conf.ElectionTimeout *= startFactor
	}
	g.raft, err = raft.NewRaft(g.conf, g.fsm, cache, g.log, g.snaps, g.trans)
	if err != nil {
		return fmt.Errorf("starting the %s group: %w", g.name, err)
	}
	g.live.Store(true)
	if voters := g.voters(); len(voters) == 1 && voters[0].ID == g.id {
		g.alone.Store(true)
		g.settle() // nobody to hold an election against
	}
	return nil
}

// settle puts the timeouts back to what they are for good.
func (g *group) settle() {
	rc := g.raft.ReloadableConfig()
	t := g.s.cfg.Timing.Heartbeat
	if rc.HeartbeatTimeout == t {
		return
	}
	rc.HeartbeatTimeout, rc.ElectionTimeout = t, t
	if err := g.raft.ReloadConfig(rc); err != nil {
		g.s.cfg.Logger.Error("reloading raft timeouts", "group", g.name, "err", err)
	}
}

// servers of the latest configuration, and the index of its entry once that is committed; 0 until then. A change that is decided by
// what the servers are is submitted with that index, and only then: raft refuses it when another one came between. (The library's own
// future always says 0, which it takes for "whatever the configuration is".)
func (g *group) servers() ([]raft.Server, uint64) {
	if !g.live.Load() {
		return nil, 0
	}
	f := g.raft.GetConfiguration()
	if f.Error() != nil {
		return nil, 0
	}
	servers := f.Configuration().Servers
	index, committed := g.committedConf()
	if !slices.Equal(servers, committed) {
		return servers, 0
	}
	return servers, index
}

// settled is servers once no change is under way, or ctx's error.
func (g *group) settled(ctx context.Context) ([]raft.Server, uint64, error) {
	for {
		servers, index := g.servers()
		if index > 0 {
			return servers, index, nil
		}
		pause(ctx, 10*time.Millisecond)
		if err := ctx.Err(); err != nil {
			return nil, 0, fmt.Errorf("waiting for a change of the %s group to end: %w", g.name, err)
		}
	}
}

func (g *group) voters() []raft.Server {
	all, _ := g.servers()
	var out []raft.Server
	for _, s := range all {
		if s.Suffrage == raft.Voter {
			out = append(out, s)
		}
	}
	return out
}

func (g *group) leader() raft.ServerID {
	if !g.live.Load() {
		return ""
	}
	_, id := g.raft.LeaderWithID()
	return id
}

// changes returns a channel that is closed at the next change of leader or readiness.
func (g *group) changes() <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.changed
}

func (g *group) notify() {
	g.mu.Lock()
	defer g.mu.Unlock()
	close(g.changed)
	g.changed = make(chan struct{})
}

// watch follows the group's leadership until ctx ends. It never blocks raft: the observer drops what it can't hold, and every round reads the
// present state rather than the event.
func (g *group) watch(ctx context.Context) {
	seen := make(chan raft.Observation, 16)
	g.observer = raft.NewObserver(seen, false, func(o *raft.Observation) bool {
		_, ok := o.Data.(raft.LeaderObservation)
		return ok
	})
	g.raft.RegisterObserver(g.observer)
	defer g.raft.DeregisterObserver(g.observer)

	var cancel context.CancelFunc
	var running sync.WaitGroup
	stop := func() {
		if cancel != nil {
			cancel()
			running.Wait()
			cancel = nil
		}
	}
	defer stop()
	gained := func() {
		stop() // "gained" may come twice without a "lost" between
		var dctx context.Context
		dctx, cancel = context.WithCancel(ctx)
		running.Add(1)
		go func() {
			defer running.Done()
			g.lead(dctx)
		}()
	}
	if g.raft.State() == raft.Leader {
		gained()
	}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		if g.leader() != "" {
			g.settle()
		}
		select {
		case <-ctx.Done():
			return
		case leads := <-g.raft.LeaderCh():
			if leads {
				gained()
			} else {
				stop()
			}
			g.notify()
		case <-seen:
			g.notify()
		case <-tick.C:
		}
	}
}

// lead is one term of leadership: a barrier, then the duties until ctx ends.
func (g *group) lead(ctx context.Context) {
	if !mutant.On(mutant.LeadsBeforeApplied) && !g.barrier(ctx) {
		return
	}
	if g.led != nil {
		g.led()
	}
	g.ready.Store(true)
	g.notify()
	observe := g.s.cfg.Observe.Leadership
	if observe != nil {
		observe(g.name, true)
	}
	g.s.cfg.Logger.Info("leading", "group", g.name)
	defer func() {
		g.ready.Store(false)
		g.notify()
		if observe != nil {
			observe(g.name, false)
		}
	}()
	g.duties(ctx)
}

// barrierLimit is how long a leader may stay unable to commit because of a leadership transfer that never ended.
const barrierLimit = 5 * time.Second

// barrier reports that everything before this term is applied here. A transfer whose flag stays set for ever makes this
// process useless as a leader (raft issue 696): it must end.
func (g *group) barrier(ctx context.Context) bool {
	start := time.Now()
	for ctx.Err() == nil {
		err := g.await(ctx, func() raft.Future { return g.raft.Barrier(barrierLimit) })
		switch {
		case err == nil:
			return ctx.Err() == nil
		case errors.Is(err, raft.ErrLeadershipTransferInProgress) && time.Since(start) > barrierLimit:
			g.s.fatal(fmt.Errorf("%s group: leads but a leadership transfer does not end (raft issue 696)", g.name))
			return false
		case errors.Is(err, raft.ErrNotLeader), errors.Is(err, raft.ErrRaftShutdown), errors.Is(err, raft.ErrLeadershipLost):
			return false
		}
		pause(ctx, 20*time.Millisecond)
	}
	return false
}

// stop ends the group: raft first, since raft panics when its store closes under it.
func (g *group) stop() error {
	var err error
	if g.raft != nil {
		g.calls.close(drainLimit)
		err = g.raft.Shutdown().Error()
	}
	if g.trans != nil {
		g.trans.CloseStreams()
		err = errors.Join(err, g.trans.Close())
		g.trans.stop()
	}
	return err
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// stream is raft's StreamLayer over the peer port.
type stream struct {
	s    *Store
	alpn string
	ln   net.Listener
}

func (l *stream) Accept() (net.Conn, error) { return l.ln.Accept() }
func (l *stream) Close() error              { return l.ln.Close() }
func (l *stream) Addr() net.Addr            { return advertised(l.s.cfg.Self.GetPeerAddress()) }

// dialLimit bounds an attempt to connect: the kernel asks again less and less often, and a node that comes back must be found soon.
const dialLimit = 2 * time.Second

// Dial takes "node-id@host:port", as the address provider gives it: only that node may answer.
func (l *stream) Dial(address raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	id, addr, ok := strings.Cut(string(address), "@")
	if !ok {
		return nil, fmt.Errorf("dialling %s: %w", address, ErrNotMember)
	}
	want, err := peer.ParseNodeID(id)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), min(timeout, max(dialLimit, 2*l.s.cfg.Timing.Heartbeat)))
	defer cancel()
	return peer.Dial(ctx, l.alpn, addr, l.s.identity, want)
}

type advertised string

func (a advertised) Network() string { return "tcp" }
func (a advertised) String() string  { return string(a) }

// addresses maps server ids to where nodes are now, so that a node may move without leaving the cluster. It never fails, because
// the library would then dial the configured address, whoever sits there: a node that lost its disk and came back under a
// new identity would acknowledge entries in the name of its old one.
type addresses struct{ g *group }

func (a addresses) ServerAddr(id raft.ServerID) (raft.ServerAddress, error) {
	node, addr, ok := a.g.s.locate(a.g, id)
	if !ok {
		return unknownServer, nil
	}
	return raft.ServerAddress(node.String() + "@" + addr), nil
}

// unknownServer can't be dialled.
const unknownServer = "unknown"

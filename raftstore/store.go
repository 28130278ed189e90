package raftstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
	"google.golang.org/protobuf/proto"

	"github.com/charon-kdc/charon/kdc/kdb"
	peerv1 "github.com/charon-kdc/charon/proto/charon/peer/v1"
	statev1 "github.com/charon-kdc/charon/proto/charon/state/v1"
	"github.com/charon-kdc/charon/raftstore/forward"
	"github.com/charon-kdc/charon/raftstore/peer"
	"github.com/charon-kdc/charon/raftstore/realm"
	"github.com/charon-kdc/charon/raftstore/replay"
)

// NodeRef names a node. The zero value is no node.
type NodeRef struct {
	ID           peer.NodeID
	Name         string
	PeerAddress  string
	AdminAddress string
}

// Store is one node's part of the cluster.
type Store struct {
	cfg      Config
	id       peer.NodeID
	replayID peer.NodeID
	boot     uint64
	begun    time.Time
	// integrity is what comparing the states has shown.
	integrity integrity
	// vouched: another member has said that this disk is the newest it knows of.
	vouched  atomic.Bool
	identity *peer.Identity

	db      *realm.DB
	state   *replay.State
	applied *watermark // realm group
	counted *watermark // replay group
	heard   *heard
	mux     *peer.Mux
	fwd     *forward.Forward
	realm   *group
	replay  *group
	caching *replayFSM
	members *members
	clocks  *clocks
	clock   clockState
	lease   *lease
	grants  grants
	kdb     *principals
	proofs  *proofs
	// clockTold keeps lines about the clock from repeating.
	clockTold peer.Repeats
	commit    *committer
	// lostTrack is why what this node accepted alone before its start may not all be known; empty: it is.
	lostTrack string
	service   atomic.Pointer[string] // as of the last noteService

	// keyless is why the master key does not do; nil and empty: it does. keysChanged is signalled when that may have changed.
	keyless     atomic.Pointer[string]
	keysChanged chan struct{}

	where *whereabouts
	// changing is held by who checks what a removal would leave, until it is done.
	changing sync.Mutex
	// removedAt is when this process last removed a node by itself.
	removedAt time.Time

	started, stopping atomic.Bool
	cancel            context.CancelFunc
	wg                sync.WaitGroup
	closing           sync.Once
	stopErr           error
	// membership is signalled when the configuration may have changed.
	membership chan struct{}
}

// Open reads Dir, checks that identity, log and state belong together, and prepares both groups. Nothing runs yet: services
// may be registered on Forward().Server() and listeners taken from Mux() until Start. The listener is Open's from the call on.
// Errors: ErrBroken, ErrNoMasterKey.
func Open(cfg Config) (*Store, error) {
	if err := cfg.fill(); err != nil {
		return nil, err
	}
	cfg.Self = proto.CloneOf(cfg.Self)
	s := &Store{
		cfg:         cfg,
		begun:       time.Now(),
		membership:  make(chan struct{}, 1),
		keysChanged: make(chan struct{}, 1),
	}
	if err := s.open(); err != nil {
		return nil, errors.Join(err, s.closeFiles(), cfg.Listener.Close())
	}
	return s, nil
}

func (s *Store) open() error {
	var err error
	if s.id, s.replayID, err = Prepare(s.cfg.Dir); err != nil {
		return err
	}
	s.cfg.Self.Id, s.cfg.Self.ReplayId = s.id[:], s.replayID[:]
	if err := checkRecovering(s.cfg.Dir); err != nil {
		return err
	}
	if s.where, err = newWhereabouts(s.cfg.Dir); err != nil {
		return err
	}
	if s.boot, err = readCount(s.bootPath()); err != nil {
		return fmt.Errorf("reading the count of starts: %w", err)
	}
	if err := s.loadDiverged(); err != nil {
		return fmt.Errorf("reading whether this node's state differs: %w", err)
	}
	if err := s.openRealm(); err != nil {
		return err
	}
	s.cfg.Self.FeatureLevelMax = s.db.FeatureLevelMax()
	if err := s.checkMasterKey(); err != nil {
		return err
	}
	if err := s.openReplay(); err != nil {
		return err
	}
	joinPeers, err := loadJoinPeers(s.cfg.Dir)
	if err != nil {
		return err
	}
	s.members = &members{s: s, joinPeers: joinPeers}
	s.clocks = newClocks(s.cfg.Now, func() int { return len(s.members.all()) })
	s.lease = newLease(s, s.lastContact())
	identity := s.cfg.Identity
	identity.Allowed = s.members.allowed
	identity.Retired = s.retired
	s.db.Subscribe(func(changes []realm.Change) {
		if slices.ContainsFunc(changes, func(c realm.Change) bool { return c.Kind == realm.KindNode }) {
			s.membershipChanged() // a key may have been retired
		}
	})
	identity.Times = s.certificateTimes
	s.identity = &identity
	s.mux = peer.NewMux(s.cfg.Listener, s.identity, s.cfg.Logger)
	s.fwd = forward.New(s.identity, directory{s})
	peerv1.RegisterPeerServer(s.fwd.Server(), &service{s: s})
	s.kdb = newPrincipals(s)
	s.commit = newCommitter(s)
	s.proofs = newProofs(s)
	if s.lostTrack != "" {
		s.proofs.trusted = s.begun.Add(s.cfg.ClockSkew + replay.Slack)
		s.cfg.Logger.Error("the journal of what was accepted without a quorum is not whole: no service tickets from this node alone until authenticators of that time have expired",
			"why", s.lostTrack, "until", s.proofs.trusted.UTC())
	}
	s.realm.led = func() { s.grants.lead(time.Now()) }
	s.realm.duties = s.leadRealm
	s.replay.duties = s.leadReplay
	return nil
}

// certificateTimes are this machine's time, the cluster's, and that of the last entries applied here, which a node that starts with a wrong clock has.
func (s *Store) certificateTimes() []time.Time {
	return []time.Time{s.cfg.Now(), s.Now(), time.UnixMilli(max(s.db.Now(), s.state.Now()))}
}

func (s *Store) openRealm() error {
	g := s.newGroup(realmGroup, s.id)
	s.realm = g
	if err := g.openLog(nil); err != nil {
		return err
	}
	var err error
	s.db, err = realm.Open(filepath.Join(g.dir, stateFile), realm.Options{
		MmapSize: s.cfg.MapSize, FeatureLevelMax: s.cfg.FeatureLevelMax, Commit: s.cfg.Disk.Commit, Sync: s.cfg.Disk.Sync,
		Damaged: func(err error) { s.fatal(stateDamage(filepath.Join(g.dir, stateFile), err)) },
	})
	if err != nil {
		return damage(filepath.Join(g.dir, stateFile), err)
	}
	index, term := s.db.Applied()
	if err := g.checkLog(s.db.Path(), index, term, s.db.Installed()); err != nil {
		return err
	}
	s.applied = newWatermark(index)
	g.fsm = &realmFSM{db: s.db, fatal: s.fatal, applied: s.applied, configs: s.membershipChanged, installed: g.installed}
	g.committedConf = func() (uint64, []raft.Server) {
		index, conf := s.db.Configuration()
		if len(conf) == 0 {
			return 0, nil
		}
		return index, raft.DecodeConfiguration(conf).Servers
	}
	g.snaps, err = newLiveStore(s.db, g.dir, g.install.begin)
	return err
}

func (s *Store) openReplay() error {
	g := s.newGroup(replayGroup, s.replayID)
	s.replay = g
	if err := g.openLog(g.handOverSlow); err != nil {
		return err
	}
	snaps, err := newFramedSnapshots(g.dir, 1, newHCLogger(s.cfg.Logger, g.name, &s.stopping))
	if err != nil {
		return err
	}
	if err := snaps.verify(); err != nil {
		return damage(snaps.dir, err)
	}
	received := &receivedSnapshots{snaps, g.log, g.dir, s.cfg.Disk, g.install.begin}
	g.snaps = received
	list, err := snaps.List()
	if err != nil {
		return err
	}
	var index, term, sent uint64
	if len(list) > 0 {
		index, term = list[0].Index, list[0].Term
		if sent, err = readCount(filepath.Join(g.dir, installFile)); err != nil {
			return fmt.Errorf("reading which snapshot was sent: %w", err)
		}
	}
	if err := g.checkLog(snaps.dir, index, term, sent); err != nil {
		return err
	}
	s.state = replay.New()
	s.counted = newWatermark(0)
	s.caching = &replayFSM{state: s.state, levelMax: s.db.FeatureLevelMax(), fatal: s.fatal, applied: s.counted, installed: g.installed, dir: g.dir, snapshots: received}
	g.fsm = s.caching
	g.committedConf = s.caching.configuration
	s.heard = newHeard(s.state, s.counted)
	if err := s.heard.tail(g.log, received); err != nil {
		return fmt.Errorf("reading the end of the replay log in %s: %w", g.dir, err)
	}
	s.heard.journal, s.lostTrack, err = openJournal(filepath.Join(g.dir, journalFile), hostBoot(), s.cfg.Disk, s.heard.remember)
	return err
}

// Start runs both groups and, with Config.Bootstrap, makes the cluster. It returns when the local state can be read; AS
// readiness needs no more. ctx bounds the questions to peers and the bootstrap. After an error the store is shut down.
func (s *Store) Start(ctx context.Context) error {
	if err := s.start(ctx); err != nil {
		sctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		return errors.Join(err, s.Shutdown(sctx))
	}
	return nil
}

func (s *Store) start(ctx context.Context) error {
	bootstrap := s.cfg.Bootstrap != nil
	if bootstrap {
		if err := s.checkEmpty(); err != nil {
			return err
		}
	}
	run, cancel := context.WithCancel(context.Background())
	s.cancel = cancel
	s.goDo(func() {
		if err := s.mux.Serve(); err != nil {
			s.fatal(err)
		}
	})
	s.goDo(func() {
		if err := s.fwd.Serve(s.mux.Listener(peer.ALPNForward)); err != nil {
			s.fatal(err)
		}
	})
	if err := s.checkBoot(ctx); err != nil {
		return err
	}
	if err := s.realm.start(peer.ALPNRealm, bootstrap && !s.cfg.Bootstrap.Restored); err != nil {
		return err
	}
	if err := s.replay.start(peer.ALPNReplay, bootstrap); err != nil {
		return err
	}
	s.caching.started.Store(true)
	s.started.Store(true)
	s.membershipChanged()
	for _, loop := range []func(context.Context){
		s.realm.watch, s.replay.watch, s.lease.run, s.proofs.run, s.commit.serve, s.meet, s.tendMembers, s.tendFiles, s.tendSnapshots, s.tendKeys, s.tendJournal,
	} {
		s.goDo(func() { loop(run) })
	}
	if bootstrap {
		return s.bootstrap(ctx)
	}
	s.goDo(func() { s.announce(run) })
	return nil
}

func (s *Store) bootPath() string { return filepath.Join(s.cfg.Dir, bootFile) }

func (s *Store) goDo(f func()) {
	s.wg.Add(1)
	go func() {
		defer s.wg.Done()
		f()
	}()
}

// checkEmpty refuses to make a cluster where one is or was.
func (s *Store) checkEmpty() error {
	index, _ := s.db.Applied()
	fresh, err := s.realm.log.Fresh()
	if err != nil {
		return err
	}
	other, err := s.replay.log.Fresh()
	if err != nil {
		return err
	}
	if s.cfg.Bootstrap.Restored {
		if index == 0 || fresh || !other || s.db.Installed() != index {
			return fmt.Errorf("making a cluster in %s: no restored state is there, or it has run before", s.cfg.Dir)
		}
		return nil
	}
	if index > 0 || !fresh || !other || len(s.members.joinPeers) > 0 {
		return fmt.Errorf("making a cluster in %s: there is one already", s.cfg.Dir)
	}
	return nil
}

// bootstrap writes the first records: this node's, then those asked for.
func (s *Store) bootstrap(ctx context.Context) error {
	if err := s.waitReady(ctx, s.realm); err != nil {
		return fmt.Errorf("making the cluster: %w", err)
	}
	self := proto.CloneOf(s.cfg.Self)
	self.BootCounter = s.boot
	self.JoinedAt = s.Now().UnixMilli()
	cmds := []*statev1.Command{{Op: &statev1.Command_PutNode{PutNode: &statev1.PutNode{
		Node: self, Expect: &statev1.Expect{Condition: &statev1.Expect_Absent{Absent: true}},
	}}}}
	for _, c := range append(cmds, s.cfg.Bootstrap.Commands...) {
		r, err := s.Propose(ctx, c)
		if err != nil {
			return fmt.Errorf("making the cluster: %w", err)
		}
		if r.GetCode() != statev1.Code_CODE_OK {
			return fmt.Errorf("making the cluster: %v: %s", r.GetCode(), r.GetMessage())
		}
	}
	if at := s.cfg.Bootstrap.Epoch; !at.IsZero() {
		return s.BeginEpoch(ctx, at)
	}
	return nil
}

func (s *Store) waitReady(ctx context.Context, g *group) error {
	for {
		ch := g.changes()
		if g.ready.Load() {
			return nil
		}
		select {
		case <-ch:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Nodes is how many members the cluster has, non-voters included, as far as this node knows.
func (s *Store) Nodes() int { return len(s.members.all()) }

func (s *Store) membershipChanged() {
	select {
	case s.membership <- struct{}{}:
	default:
	}
}

// retired tells whether a member's key was replaced.
func (s *Store) retired(id peer.NodeID, key peer.KeyHash) bool {
	n, err := s.db.Node(id[:])
	if err != nil {
		return false
	}
	return slices.ContainsFunc(n.GetRetiredKeys(), func(k *statev1.RetiredKey) bool { return bytes.Equal(k.GetHash(), key[:]) })
}

// Reconnect has this node show the certificate that Config.Identity gives by now: connections that were made before end, those of calls in work
// after grace. To be called when the certificate was renewed.
func (s *Store) Reconnect(grace time.Duration) {
	s.fwd.Renew(grace)
	for _, g := range []*group{s.realm, s.replay} {
		if g.live.Load() {
			g.trans.CloseStreams()
		}
	}
	s.proofs.relink()
}

// fatal ends the process by Config.Fatal; in tests it may return.
func (s *Store) fatal(err error) {
	s.cfg.Logger.Error("fatal", "err", err)
	s.cfg.Fatal(err)
}

// Shutdown hands leadership of both groups over (at most 2 s), then stops raft, transports, logs and state, in this order.
// ctx bounds the handing over only.
func (s *Store) Shutdown(ctx context.Context) error {
	s.closing.Do(func() { s.stopErr = s.shutdown(ctx) })
	return s.stopErr
}

func (s *Store) shutdown(ctx context.Context) error {
	if s.started.Load() {
		if err := s.HandOver(ctx); err != nil {
			s.cfg.Logger.Warn("stopping as a leader", "err", err)
		}
	}
	return s.stop()
}

// stop ends everything at once, leadership or not.
func (s *Store) stop() error {
	s.stopping.Store(true)
	if s.cancel != nil {
		s.cancel()
	}
	s.fwd.Close()
	err := errors.Join(s.realm.stop(), s.replay.stop(), s.mux.Close())
	s.wg.Wait()
	s.commit.wait()
	return errors.Join(err, s.closeFiles())
}

func (s *Store) closeFiles() error {
	var err error
	for _, g := range []*group{s.realm, s.replay} {
		if g != nil && g.log != nil {
			err = errors.Join(err, g.log.Close())
		}
	}
	if s.heard != nil && s.heard.journal != nil {
		err = errors.Join(err, s.heard.journal.close())
	}
	if s.db != nil {
		err = errors.Join(err, s.db.Close())
	}
	return err
}

// Self is this node.
func (s *Store) Self() NodeRef { return s.ref(s.id) }

// DB is the applied realm state, for reading.
func (s *Store) DB() *realm.DB { return s.db }

// Mux is the peer port; the join service takes its listener from it.
func (s *Store) Mux() *peer.Mux { return s.mux }

// Forward carries calls to other nodes.
func (s *Store) Forward() *forward.Forward { return s.fwd }

// KDB is the principal database as the KDC reads it.
func (s *Store) KDB() kdb.Store { return s.kdb }

// Proofs is the shared replay cache as the KDC uses it.
func (s *Store) Proofs() kdb.Proofs { return s.proofs }

package raftstore

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	statev1 "github.com/charon-kdc/charon/proto/charon/state/v1"
	"github.com/charon-kdc/charon/raftstore/logstore"
	"github.com/charon-kdc/charon/raftstore/peer"
	"github.com/charon-kdc/charon/raftstore/realm"
	"github.com/charon-kdc/charon/raftstore/replay"
)

const (
	// recoveringFile is there from the first to the last write of a recovery: a data directory that has it must not run.
	recoveringFile = "recovering"
	// recoveredFile lists, on the node whose realm log was chosen, the members that are lost: it takes their records away when it leads.
	recoveredFile = "recovered.json"
)

// Recovery is what Recover needs.
type Recovery struct {
	Dir       string
	Survivors *Survivors
	// WaiveEpoch: service tickets are given at once, though an authenticator that a lost node accepted can then be accepted again.
	WaiveEpoch bool
	// ClockSkew is the node's. It may be raised by the state.
	ClockSkew time.Duration
	Now       func() time.Time
}

// Recovered is what Recover did.
type Recovered struct {
	// Base is the survivor whose realm log was taken, and ReplayBase likewise: alone they vote at first, the others are promoted.
	Base, ReplayBase string
	// Lost are the members that are none any more; filled in on Base only.
	Lost []string
	// TicketsFrom is when service tickets are given again; zero: at once.
	TicketsFrom time.Time
	// Again: an earlier recovery with this file was cut short, or had been done.
	Again bool
}

// Recover makes a cluster of the survivors out of the data directory of one of them, whose node is stopped (DESIGN.md, "A lost quorum"). Every
// survivor is given the same list. The log that reaches furthest is taken as it is, with entries that were never committed; the others give up what
// they have not applied and follow. After a crash it is called again with the same list.
func Recover(r Recovery) (*Recovered, error) {
	if err := r.Survivors.check(); err != nil {
		return nil, err
	}
	d, err := openDisk(r.Dir)
	if err != nil {
		return nil, err
	}
	out, err := r.run(d)
	return out, errors.Join(err, d.close())
}

func (r *Recovery) run(d *disk) (*Recovered, error) {
	own, err := d.survivor()
	if err != nil {
		return nil, err
	}
	cluster, err := d.cluster()
	if err != nil {
		return nil, err
	}
	again, err := r.admissible(own, cluster)
	if err != nil {
		return nil, err
	}
	base := r.Survivors.best(func(v Survivor) LogEnd { return v.Realm }, "")
	replayBase := r.Survivors.best(func(v Survivor) LogEnd { return v.Replay }, base.ID)
	out := &Recovered{Base: base.Name, ReplayBase: replayBase.Name, Again: again}
	if err := r.mark(); err != nil {
		return nil, err
	}
	if err := d.recoverRealm(r.Survivors, base.ID == own.ID); err != nil {
		return nil, fmt.Errorf("recovering the realm group: %w", err)
	}
	epoch, now, err := r.epoch(d)
	if err != nil {
		return nil, fmt.Errorf("reading the replay log: %w", err)
	}
	conf := r.Survivors.configuration(replayBase, func(v Survivor) string { return v.ReplayID })
	if err := d.recoverReplay(conf, epoch, now, replayBase.ID == own.ID); err != nil {
		return nil, fmt.Errorf("recovering the replay group: %w", err)
	}
	if epoch.NotBefore > 0 {
		out.TicketsFrom = time.UnixMilli(epoch.NotBefore)
	}
	if base.ID == own.ID {
		if out.Lost, err = d.noteLost(r.Survivors); err != nil {
			return nil, err
		}
	}
	if err := d.noteMoves(r.Survivors); err != nil {
		return nil, err
	}
	return out, r.unmark()
}

// admissible tells whether this list may be worked off here: it is this cluster's, has this node, and says of it what its disk says; or it was begun
// here before.
func (r *Recovery) admissible(own Survivor, cluster string) (again bool, err error) {
	if cluster != r.Survivors.Cluster {
		return false, fmt.Errorf("the list of survivors is of cluster %.8s, this node is of %.8s", r.Survivors.Cluster, cluster)
	}
	i := slices.IndexFunc(r.Survivors.Survivors, func(v Survivor) bool { return v.ID == own.ID && v.ReplayID == own.ReplayID })
	if i < 0 {
		return false, fmt.Errorf("the list of survivors lacks this node, %s: add it with charon node survivors, and give every survivor the same list", own.Name)
	}
	list, err := json.Marshal(r.Survivors)
	if err != nil {
		return false, err
	}
	begun, err := os.ReadFile(filepath.Join(r.Dir, recoveringFile))
	switch {
	case err == nil && bytes.Equal(begun, list):
		return true, nil
	case err == nil:
		return false, errors.New("a recovery with another list of survivors was cut short here: finish it with that list")
	case !errors.Is(err, os.ErrNotExist):
		return false, err
	}
	if v := r.Survivors.Survivors[i]; v.Realm != own.Realm || v.Replay != own.Replay {
		return false, fmt.Errorf("the list says that %s's logs end at %v and %v, they end at %v and %v: it has run since; make the list again with charon node survivors",
			own.Name, v.Realm, v.Replay, own.Realm, own.Replay)
	}
	return false, nil
}

func (e LogEnd) String() string { return fmt.Sprintf("%d/%d", e.Term, e.Index) }

func (r *Recovery) mark() error {
	list, err := json.Marshal(r.Survivors)
	if err != nil {
		return err
	}
	return writeFile(filepath.Join(r.Dir, recoveringFile), list)
}

func (r *Recovery) unmark() error {
	return errors.Join(os.Remove(filepath.Join(r.Dir, recoveringFile)), syncDir(r.Dir))
}

// checkRecovering refuses a directory in which a recovery was cut short.
func checkRecovering(dir string) error {
	_, err := os.Stat(filepath.Join(dir, recoveringFile))
	switch {
	case err == nil:
		return fmt.Errorf("%w: a recovery in %s was cut short: run charon server --recover again with the same list", ErrBroken, dir)
	case errors.Is(err, os.ErrNotExist):
		return nil
	}
	return err
}

// epoch is the new life of the replay cache: what the lost nodes accepted is not known, so no authenticator from before its begin is taken. It goes by the
// widest clock skew that any node may have allowed, and by the time of the logs where this machine's clock is behind it. now is the replay log's time, in ms.
func (r *Recovery) epoch(d *disk) (e replay.Epoch, now int64, err error) {
	if r.WaiveEpoch {
		return e, 0, nil
	}
	end := newHeard(replay.New(), newWatermark(0))
	if err := end.tail(d.replay, d.snaps); err != nil {
		return e, 0, err
	}
	state := end.viewOrNew()
	lost := time.UnixMilli(max(r.Now().UnixMilli(), d.db.Now(), state.Now()))
	e.NotBefore = EpochAfter(lost, max(r.ClockSkew, replay.SkewDefault, state.Skew())).UnixMilli()
	_, err = rand.Read(e.ID[:])
	return e, max(state.Now(), 1), err
}

// configuration has one voter; the others are promoted once they have caught up, so that nobody votes by a log that lacks what the voter's has.
func (f *Survivors) configuration(base Survivor, id func(Survivor) string) raft.Configuration {
	var c raft.Configuration
	for _, v := range f.Survivors {
		s := raft.Server{Suffrage: raft.Nonvoter, ID: raft.ServerID(id(v)), Address: raft.ServerAddress(v.PeerAddress)}
		if v.ID == base.ID {
			s.Suffrage = raft.Voter
		}
		c.Servers = append(c.Servers, s)
	}
	return c
}

// recoverRealm: the base applies its whole log; another node keeps what it has applied, which the base has, too, and drops the rest.
func (d *disk) recoverRealm(f *Survivors, base bool) error {
	conf := f.configuration(f.best(func(v Survivor) LogEnd { return v.Realm }, ""), func(v Survivor) string { return v.ID })
	if base {
		store, err := newLiveStore(d.db, filepath.Join(d.dir, realmGroup), func() {})
		if err != nil {
			return err
		}
		return recoverGroup(serverID(d.id), &recoverFSM{apply: d.applyRealm, snapshot: liveSnapshot{}}, d.realm, &recoverSnaps{store}, conf)
	}
	index, term := d.db.Applied()
	if err := d.db.Recover(index, term, raft.EncodeConfiguration(conf)); err != nil {
		return err
	}
	first, err := d.realm.FirstIndex()
	if err != nil {
		return err
	}
	last, err := d.realm.LastIndex()
	if err != nil || last == 0 {
		return err
	}
	return d.realm.DeleteRange(first, last)
}

func (d *disk) applyRealm(l *raft.Log) error {
	_, _, err := d.db.ApplyBatch([]realm.Entry{{Index: l.Index, Term: l.Term, Data: l.Data}})
	return err
}

// recoverReplay brings the cache up to the end of its log and begins the epoch in it. On the base the epoch is one more entry of the log: the others, each
// with an epoch of its own until they meet the base, are behind that, and take the base's state.
func (d *disk) recoverReplay(conf raft.Configuration, epoch replay.Epoch, now int64, base bool) error {
	if base && epoch.NotBefore > 0 {
		if err := d.appendEpoch(epoch, now); err != nil {
			return err
		}
		epoch = replay.Epoch{}
	}
	state := replay.New()
	fsm := &recoverFSM{
		apply:   func(l *raft.Log) error { _, err := state.Apply(l.Data); return err },
		restore: state.Restore,
	}
	fsm.last = func() error {
		if epoch.NotBefore > 0 {
			entry, err := replay.EncodeEpoch(now, epoch)
			if err != nil {
				return err
			}
			if _, err := state.Apply(entry); err != nil {
				return err
			}
		}
		fsm.snapshot = &replaySnapshot{state.Snapshot(), filepath.Join(d.dir, replayGroup)}
		return nil
	}
	noted := &receivedSnapshots{d.snaps, d.replay, filepath.Join(d.dir, replayGroup), Disk{}, func() {}}
	return recoverGroup(serverID(d.replayID), fsm, d.replay, &notedSnapshots{noted}, conf)
}

// appendEpoch makes the epoch the last entry of the replay log.
func (d *disk) appendEpoch(epoch replay.Epoch, now int64) error {
	v, err := d.survivor()
	if err != nil {
		return err
	}
	data, err := replay.EncodeEpoch(now, epoch)
	if err != nil {
		return err
	}
	return d.replay.StoreLog(&raft.Log{Index: v.Replay.Index + 1, Term: v.Replay.Term, Type: raft.LogCommand, Data: data})
}

func recoverGroup(id raft.ServerID, fsm raft.FSM, log *logstore.Store, snaps raft.SnapshotStore, conf raft.Configuration) error {
	c := raft.DefaultConfig()
	c.LocalID, c.ProtocolVersion = id, 3
	c.NoLegacyTelemetry = true
	c.Logger = newHCLogger(slog.New(slog.DiscardHandler), "", new(atomic.Bool))
	_, trans := raft.NewInmemTransport("")
	return raft.RecoverCluster(c, fsm, log, log, snaps, trans, conf)
}

// recoverFSM is a state machine for raft.RecoverCluster alone, which ignores what Apply answers.
type recoverFSM struct {
	apply    func(*raft.Log) error
	restore  func(io.Reader) error // nil: the state is there already
	last     func() error          // before the snapshot; may be nil
	snapshot raft.FSMSnapshot
	err      error
}

func (f *recoverFSM) Apply(l *raft.Log) any {
	if f.err == nil {
		f.err = f.apply(l)
	}
	return nil
}

func (f *recoverFSM) Restore(r io.ReadCloser) error {
	defer r.Close()
	if f.restore == nil {
		return nil
	}
	return f.restore(r)
}

func (f *recoverFSM) Snapshot() (raft.FSMSnapshot, error) {
	if f.err == nil && f.last != nil {
		f.err = f.last()
	}
	return f.snapshot, f.err
}

// recoverSnaps puts the new configuration into the state file, which is the snapshot.
type recoverSnaps struct{ *liveStore }

func (s *recoverSnaps) Create(_ raft.SnapshotVersion, index, term uint64, c raft.Configuration, _ uint64, _ raft.Transport) (raft.SnapshotSink, error) {
	return &recoverSink{db: s.db, index: index, term: term, conf: raft.EncodeConfiguration(c)}, nil
}

type recoverSink struct {
	db          *realm.DB
	index, term uint64
	conf        []byte
}

func (s *recoverSink) Write(p []byte) (int, error) { return len(p), nil }
func (s *recoverSink) ID() string                  { return liveID }
func (s *recoverSink) Cancel() error               { return nil }
func (s *recoverSink) Close() error                { return s.db.Recover(s.index, s.term, s.conf) }

// notedSnapshots notes every snapshot as one that replaces the log.
type notedSnapshots struct{ *receivedSnapshots }

func (s *notedSnapshots) Create(v raft.SnapshotVersion, index, term uint64, c raft.Configuration, ci uint64, t raft.Transport) (raft.SnapshotSink, error) {
	if err := s.received(index); err != nil {
		return nil, err
	}
	return s.receivedSnapshots.Create(v, index, term, c, ci, t)
}

// lostNodes is recoveredFile.
type lostNodes struct {
	Lost []string `json:"lost"` // ids, hex
}

// noteLost writes down which members the list lacks and returns their names.
func (d *disk) noteLost(f *Survivors) (names []string, err error) {
	nodes, err := d.db.Nodes()
	if err != nil {
		return nil, err
	}
	var lost lostNodes
	for _, n := range nodes {
		id := toNodeID(n.GetId()).String()
		if !slices.ContainsFunc(f.Survivors, func(v Survivor) bool { return v.ID == id }) {
			lost.Lost = append(lost.Lost, id)
			names = append(names, n.GetName())
		}
	}
	slices.Sort(names)
	b, err := json.Marshal(lost)
	if err != nil {
		return nil, err
	}
	return names, writeFile(filepath.Join(d.dir, recoveredFile), sealText(b))
}

// finishRecovery takes away, as the realm's leader, the records of the nodes that a recovery has left out, so that others can join under
// their names. It tells whether there is nothing left to do.
func (s *Store) finishRecovery(ctx context.Context) (done bool) {
	path := filepath.Join(s.cfg.Dir, recoveredFile)
	b, err := readSealed(path)
	if errors.Is(err, os.ErrNotExist) {
		return true
	}
	var lost lostNodes
	if err == nil {
		err = json.Unmarshal(b, &lost)
	}
	for _, text := range lost.Lost {
		if err != nil {
			break
		}
		err = s.forgetNode(ctx, text)
	}
	if err == nil {
		err = errors.Join(os.Remove(path), syncDir(s.cfg.Dir))
	}
	if err != nil {
		s.cfg.Logger.Warn("taking away the records of the nodes that were lost", "err", err)
	}
	return err == nil
}

func (s *Store) forgetNode(ctx context.Context, text string) error {
	id, err := peer.ParseNodeID(text)
	if err != nil {
		return err
	}
	if servers, _ := s.realm.servers(); has(servers, serverID(id)) {
		return nil // it is a member again
	}
	r, err := s.Propose(ctx, &statev1.Command{Op: &statev1.Command_DeleteNode{DeleteNode: &statev1.DeleteNode{Id: id[:]}}})
	if err != nil {
		return err
	}
	if c := r.GetCode(); c != statev1.Code_CODE_OK && c != statev1.Code_CODE_NOT_FOUND {
		return fmt.Errorf("%v: %s", c, r.GetMessage())
	}
	return nil
}

package raftstore

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	peerv1 "github.com/charon-kdc/charon/proto/charon/peer/v1"
	"github.com/charon-kdc/charon/raftstore/peer"
	"github.com/charon-kdc/charon/raftstore/setsum"
)

// Every node keeps a hash of each group's state at the last indexes and shows some with every answer to Info (DESIGN.md, "The state's hash").
// Each compares what it is shown with its own: where a majority of the members has one hash and this node another, this node has strayed.
// It answers nobody from its state and leads no group any more, whatever happens, until it is rebuilt. Where nobody has a majority nobody can tell
// who is right: all go on, and all say so.

// divergedFile, in Config.Dir, is there while this node's state is known to differ: its line says why.
const divergedFile = "diverged"

// replayHashEvery: of the replay group's many entries those with such indexes are hashed.
const replayHashEvery = 8

// disputeRounds is how many comparisons in a row must find no majority before that is said.
const disputeRounds = 3

type integrity struct {
	out atomic.Bool // diverged != ""; every look-up asks

	mu       sync.Mutex
	diverged string
	dispute  string
	doubtful int                    // rounds in a row that found a dispute
	odd      map[peer.NodeID]string // members that differ from a majority
	scrubbed time.Time
}

func (s *Store) hashes() map[string]*setsum.History {
	return map[string]*setsum.History{realmGroup: s.db.Hashes(), replayGroup: &s.caching.hashes}
}

// show is this node's part of Info.
func (s *Store) show(r *peerv1.InfoResponse) {
	for group, h := range s.hashes() {
		for _, p := range h.Tell() {
			r.StateHashes = append(r.StateHashes, &peerv1.StateHash{Replay: group == replayGroup, Index: p.Index, Hash: p.Hash[:]})
		}
	}
	r.Diverged = s.Diverged()
}

// shownMax bounds what is taken of an answer.
const shownMax = 256

func readShown(info *peerv1.InfoResponse) map[string]map[uint64]setsum.Hash {
	out := map[string]map[uint64]setsum.Hash{realmGroup: {}, replayGroup: {}}
	for i, p := range info.GetStateHashes() {
		if i == shownMax {
			break
		}
		group := realmGroup
		if p.GetReplay() {
			group = replayGroup
		}
		if len(p.GetHash()) == len(setsum.Hash{}) {
			out[group][p.GetIndex()] = setsum.Hash(p.GetHash())
		}
	}
	return out
}

// lastShown is the newest hash of the realm state in an answer.
func lastShown(info *peerv1.InfoResponse) (p setsum.Point) {
	for i, h := range readShown(info)[realmGroup] {
		if i > p.Index {
			p = setsum.Point{Index: i, Hash: h}
		}
	}
	return p
}

// verdict is what a comparison has found.
type verdict struct {
	diverged, dispute string
	odd               map[peer.NodeID]string
}

// judgeHashes compares, where members is how many there are, this node included.
func judgeHashes(members int, group string, own func(uint64) (setsum.Hash, bool), others map[peer.NodeID]map[uint64]setsum.Hash, name func(peer.NodeID) string) verdict {
	v := verdict{odd: map[peer.NodeID]string{}}
	indexes := map[uint64]bool{}
	for _, points := range others {
		for i := range points {
			indexes[i] = true
		}
	}
	for i := range indexes {
		count := map[setsum.Hash]int{}
		mine, known := own(i)
		if known {
			count[mine]++
		}
		for _, points := range others {
			if h, ok := points[i]; ok {
				count[h]++
			}
		}
		if len(count) < 2 {
			continue
		}
		var right setsum.Hash
		most := 0
		for h, n := range count {
			if n > most {
				right, most = h, n
			}
		}
		at := fmt.Sprintf("%s state at index %d", group, i)
		if 2*most <= members {
			v.dispute = fmt.Sprintf("the nodes' %s differs, and no majority has it alike", at)
			continue
		}
		if known && mine != right {
			v.diverged = fmt.Sprintf("%s differs from what %d of %d nodes have", at, most, members)
		}
		for id, points := range others {
			if h, ok := points[i]; ok && h != right {
				v.odd[id] = fmt.Sprintf("node %s: %s differs from the majority's", name(id), at)
			}
		}
	}
	if v.diverged != "" || len(v.odd) > 0 {
		v.dispute = "" // at another index there is a majority
	}
	return v
}

// compareStates is one round of comparison, over what the members that answered have shown.
func (s *Store) compareStates(ctx context.Context, answers map[peer.NodeID]*peerv1.InfoResponse) {
	servers, _ := s.configured()
	all := verdict{odd: map[peer.NodeID]string{}}
	for group, h := range s.hashes() {
		others := map[peer.NodeID]map[uint64]setsum.Hash{}
		for _, v := range servers {
			if info := answers[nodeID(v.ID)]; info != nil {
				others[nodeID(v.ID)] = readShown(info)[group]
			}
		}
		v := judgeHashes(len(servers), group, h.At, others, func(id peer.NodeID) string { return s.ref(id).Name })
		all.diverged, all.dispute = first(all.diverged, v.diverged), first(all.dispute, v.dispute)
		for id, why := range v.odd {
			all.odd[id] = why
		}
	}
	s.note(all)
	if s.integrity.out.Load() && (s.realm.ready.Load() || s.replay.ready.Load()) {
		if err := s.HandOver(ctx); err != nil {
			s.cfg.Logger.Warn("handing leadership over, since this node's state differs", "err", err)
		}
	}
}

func first(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// note takes a verdict and says what is new in it.
func (s *Store) note(v verdict) {
	in := &s.integrity
	in.mu.Lock()
	strayed := v.diverged != "" && in.diverged == ""
	if v.dispute == "" {
		in.doubtful = 0
	} else if in.doubtful++; in.doubtful < disputeRounds {
		v.dispute = "" // a third may only be late with its answer
	}
	disputed := v.dispute != "" && in.dispute == ""
	settled := v.dispute == "" && in.dispute != ""
	var odd []string
	for id, why := range v.odd {
		if in.odd[id] == "" {
			odd = append(odd, why)
		}
	}
	in.odd, in.dispute = v.odd, v.dispute
	if strayed {
		in.diverged = v.diverged
		in.out.Store(true)
	}
	in.mu.Unlock()
	for _, why := range odd {
		s.cfg.Logger.Error("a node's state differs from the majority's; it serves no more until charon server --rebuild there", "what", why)
	}
	if strayed {
		s.strayed(v.diverged)
	}
	if disputed {
		s.cfg.Logger.Error("the nodes' states differ and no majority tells whose is right", "what", v.dispute)
	}
	if settled {
		s.cfg.Logger.Info("the nodes' states are alike again")
	}
	if f := s.cfg.Observe.StateDispute; f != nil && (disputed || settled) {
		f(v.dispute)
	}
}

// strayed is the moment at which this node learns that its state differs.
func (s *Store) strayed(why string) {
	s.cfg.Logger.Error("this node's state differs from the majority's: it answers nobody and leads nothing until charon server --rebuild", "what", why)
	s.kdb.cache.clear()
	if err := s.cfg.Disk.writeFile(s.divergedPath(), sealText([]byte(why+"\n"))); err != nil {
		s.fatal(fmt.Errorf("remembering that this node's state differs: %w", err))
	}
	if f := s.cfg.Observe.StateDiverged; f != nil {
		f(why)
	}
}

func (s *Store) divergedPath() string { return filepath.Join(s.cfg.Dir, divergedFile) }

// readDiverged is why the node of a data directory is known to have strayed; empty: it is not.
func readDiverged(dir string) (why string, err error) {
	b, err := readSealed(filepath.Join(dir, divergedFile))
	switch {
	case errors.Is(err, os.ErrNotExist):
		return "", nil
	case errors.Is(err, ErrBroken):
		return "state differs from the other nodes', and the note of how is damaged", nil
	case err != nil:
		return "", err
	}
	return strings.TrimSpace(string(b)), nil
}

// loadDiverged reads at start whether this node had strayed.
func (s *Store) loadDiverged() error {
	why, err := readDiverged(s.cfg.Dir)
	if err != nil || why == "" {
		return err
	}
	s.integrity.diverged = why
	s.integrity.out.Store(true)
	s.cfg.Logger.Error("this node's state differed from the majority's before this start, and does until charon server --rebuild", "what", s.integrity.diverged)
	return nil
}

// Diverged is why this node's state differs from what a majority has; empty while it does not.
func (s *Store) Diverged() string {
	s.integrity.mu.Lock()
	defer s.integrity.mu.Unlock()
	return s.integrity.diverged
}

// Dispute is in what the members' states differ while no majority tells who is right; empty while they don't.
func (s *Store) Dispute() string {
	s.integrity.mu.Lock()
	defer s.integrity.mu.Unlock()
	return s.integrity.dispute
}

// oddOne is why this node takes a member's state for the one that strayed; empty when it does not.
func (s *Store) oddOne(id peer.NodeID) string {
	s.integrity.mu.Lock()
	defer s.integrity.mu.Unlock()
	return s.integrity.odd[id]
}

// Scrubbed is when the files were last read whole without a finding; the start counts.
func (s *Store) Scrubbed() time.Time {
	s.integrity.mu.Lock()
	defer s.integrity.mu.Unlock()
	return s.integrity.scrubbed
}

// tendFiles reads state and logs whole from time to time, since bits flip on disks that nobody reads, too. What it finds ends the process.
func (s *Store) tendFiles(ctx context.Context) {
	s.noteScrub()
	for {
		pause(ctx, s.cfg.ScrubInterval)
		if ctx.Err() != nil {
			return
		}
		begun := time.Now()
		if err := s.scrub(ctx); err != nil {
			if ctx.Err() == nil {
				s.fatal(err)
			}
			return
		}
		s.noteScrub()
		s.cfg.Logger.Info("state and logs read whole, nothing wrong with them", "took", time.Since(begun).Round(time.Millisecond))
	}
}

func (s *Store) noteScrub() {
	s.integrity.mu.Lock()
	defer s.integrity.mu.Unlock()
	s.integrity.scrubbed = time.Now()
}

func (s *Store) scrub(ctx context.Context) error {
	for _, g := range []*group{s.realm, s.replay} {
		path := filepath.Join(g.dir, logFile)
		if err := g.log.Scrub(ctx, s.cfg.ScrubRate); err != nil {
			return damage(path, err)
		}
	}
	if err := s.db.Scrub(ctx, s.cfg.ScrubRate); err != nil {
		return damage(s.db.Path(), err)
	}
	return nil
}

// mayLead tells whether this node may ask for votes of g or take its leadership over.
func (g *group) mayLead() bool { return !g.s.integrity.out.Load() || g.alone.Load() }

var errStrayed = errors.New("does not lead: its state differs from the majority's")

// vote requests that a node sends, and being told to lead, are what leads to leadership; its own vote for others it gives all the same: its log is good.
func (b *ballot) leadsNoMore(rpc raft.RPC) bool {
	if b.mayLead() {
		return false
	}
	if _, ok := rpc.Command.(*raft.TimeoutNowRequest); !ok {
		return false
	}
	rpc.Respond(&raft.TimeoutNowResponse{}, errStrayed)
	return true
}

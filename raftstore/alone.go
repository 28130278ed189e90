package raftstore

import (
	"context"
	"encoding/hex"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/charon-kdc/charon/kdc/kdb"
	"github.com/charon-kdc/charon/raftstore/replay"
)

// How a node answers port 88, in Status and to Observer.Service (DESIGN.md, "Without a quorum").
const (
	// ServiceNormal: with the others, or between leaders.
	ServiceNormal = "normal"
	// ServiceDegraded: it was cut off for CutOff, and serves from what it has.
	ServiceDegraded = "degraded"
	// ServiceRefusing: it was cut off and refuses, by configuration or because it knows too little.
	ServiceRefusing = "refusing"
)

// DoubleAccept is one authenticator that was accepted in two different requests, found out afterwards.
type DoubleAccept struct {
	// Authenticator names it in the audit lines of both answers: 16 hex digits.
	Authenticator string
	// Time inside it.
	Time time.Time
	// Cause is "cut-off" or "async", the setting under which this node's answer was given.
	Cause string
}

// What became of records of the journal, for Observer.Journal.
const (
	JournalMerged     = "merged"     // nobody else accepted it
	JournalDouble     = "double"     // somebody did, in another request
	JournalUncompared = "uncompared" // nobody can tell any more
	JournalLost       = "lost"       // the journal was full or could not be written
)

// goAlone prepares for judging without the others. Until that is done nothing is answered alone.
func (p *proofs) goAlone() {
	err := p.s.heard.journal.begin()
	if was := p.alone.Swap(err == nil); err != nil && (was || p.stateName() != stateNames[stateCutOff]) {
		p.s.cfg.Logger.Error("cut off, and authenticators can't be journalled: no service tickets", "err", err)
	}
}

// mayJudge is why this node may not judge authenticators by its own memory; empty: it may. A node that the replay log never told anything has none.
func (p *proofs) mayJudge() string {
	if !p.alone.Load() {
		return "authenticators can't be journalled"
	}
	if p.s.heard.journal.forgetful() {
		return "authenticators can't be journalled, nor can that be noted"
	}
	p.mu.Lock()
	joined := p.joinedAt > 0
	p.mu.Unlock()
	if !joined && p.s.heard.last == 0 {
		return "has never been part of the replay cache"
	}
	if left := time.Until(p.trusted); left > 0 {
		return fmt.Sprintf("has lost track of authenticators: no service tickets alone for another %v", left.Round(time.Second))
	}
	return ""
}

// decideAlone is what a proof gets from a node that is cut off.
func (p *proofs) decideAlone(w *pending) (kdb.Verdict, error) {
	serve, now := !p.s.cfg.RefuseWithoutQuorum, p.s.Now().UnixMilli()
	pr := w.item.Proof
	switch {
	case w.item.attempt:
		v, full := p.s.heard.count(w.item, w.sent, now) // before its reply leaves
		p.noteFull(full)
		if serve {
			return kdb.Verdict(v), nil
		}
	case w.answered: // recorded as well as this node can
		v, full := p.s.heard.accept(pr, w.sent, now)
		p.noteFull(full)
		return kdb.Verdict(v), nil
	case w.relaxable && serve && p.mayJudge() == "":
		if p.seen.copied(pr) {
			return kdb.Repeat, nil
		}
		v, full := p.s.heard.accept(pr, w.sent, now)
		p.noteFull(full)
		if p.s.heard.journal.forgetful() {
			break
		}
		if v == replay.Fresh || v == replay.Same {
			p.seen.check(pr)
			return kdb.Unconfirmed, nil
		}
		return kdb.Verdict(v), nil
	}
	return 0, kdb.ErrUnavailable
}

func (p *proofs) noteFull(full bool) {
	if full {
		p.s.cfg.Logger.Error("the journal of what is accepted without a quorum takes no more: what else this node accepts can't be compared afterwards", "held", p.s.heard.journal.max)
	}
	if f := p.s.cfg.Observe.Journal; f != nil {
		if lost := p.s.heard.journal.takeLost(); lost > 0 {
			f(JournalLost, lost)
		}
	}
}

// late takes the cluster's verdict on what this node has answered already.
func (p *proofs) late(w *pending) {
	cause := "cut-off"
	if w.answered {
		cause = "async"
	}
	result := JournalMerged
	switch {
	case w.item.attempt && w.item.Failed:
		return
	case w.v == kdb.Stale && !w.item.attempt:
		result = JournalUncompared
	case w.v == kdb.Repeat:
		result = JournalDouble
		if !p.reported.add(w.item.Proof) {
			return
		}
		tag := tagOf(w.item.Proof)
		d := DoubleAccept{Authenticator: hex.EncodeToString(tag[:]), Time: time.Unix(w.item.CTime, 0).UTC(), Cause: cause}
		p.s.cfg.Logger.Error("an authenticator was accepted in two different requests, by this node and by another one", "authenticator", d.Authenticator, "time", d.Time, "cause", cause)
		if f := p.s.cfg.Observe.DoubleAccept; f != nil {
			f(d)
		}
	}
	if f := p.s.cfg.Observe.Journal; f != nil && w.journal {
		f(result, 1)
	}
}

// reportedMax bounds the doubles that are remembered.
const reportedMax = 1 << 12

// reported are the doubles that were told of, since a proof that is submitted again gets its verdict again.
type reported struct {
	mu   sync.Mutex
	seen map[replay.Proof]struct{}
}

func (r *reported) add(p replay.Proof) (isNew bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, known := r.seen[p]; known {
		return false
	}
	if r.seen == nil || len(r.seen) >= reportedMax {
		r.seen = map[replay.Proof]struct{}{}
	}
	r.seen[p] = struct{}{}
	return true
}

// cutOff tells whether this node has had no leader or no verdict for CutOff, in which it ran.
func (s *Store) cutOff() bool {
	return s.started.Load() && (s.lease.lost.Load() || s.proofs.cutOff())
}

// LostQuorum tells whether no leader of the realm is known and none was heard of for CutOff: no election is about to end this, and no
// change can be made.
func (s *Store) LostQuorum() bool {
	return s.started.Load() && s.realm.leader() == "" && s.lease.lost.Load()
}

// Service is how this node answers port 88 now, and why.
func (s *Store) Service() (state, reason string) {
	if !s.cutOff() {
		return ServiceNormal, ""
	}
	switch {
	case s.cfg.RefuseWithoutQuorum:
		return ServiceRefusing, "no quorum, and without_quorum is refuse"
	case s.lease.stale() > s.cfg.StaleLimit:
		return ServiceRefusing, s.tooOld()
	}
	return ServiceDegraded, fmt.Sprintf("no quorum: serving from this node's own state, last contact %v ago", s.lease.stale().Round(time.Second))
}

// Holding tells whether proofs wait for a leader, as during an election.
func (s *Store) Holding() bool { return s.proofs.stateName() == stateNames[stateHolding] }

// Degraded tells whether the node is cut off and serves from what it has.
func (s *Store) Degraded() bool {
	state, _ := s.Service()
	return state == ServiceDegraded
}

// tooOld says that StaleLimit has passed.
func (s *Store) tooOld() string {
	if age := s.lease.stale(); age < unheard {
		return fmt.Sprintf("no leader heard of for %v", age.Round(time.Second))
	}
	return "no leader heard of, and its own log does not say when there last was one"
}

// noteService tells of a change of Service, once each.
func (s *Store) noteService() {
	state, reason := s.Service()
	if was := s.service.Swap(&state); was != nil && *was == state || was == nil && state == ServiceNormal {
		return
	}
	switch state {
	case ServiceNormal:
		s.cfg.Logger.Warn("back with the other nodes: service is normal")
	case ServiceDegraded:
		s.cfg.Logger.Error("cut off from the other nodes: serving from this node's own state, authenticators are checked against this node's memory only", "reason", reason)
	case ServiceRefusing:
		s.cfg.Logger.Error("cut off from the other nodes: requests are refused", "reason", reason)
	}
	if f := s.cfg.Observe.Service; f != nil {
		f(state, reason)
	}
}

// unheard is the age of a contact that nobody knows of.
const unheard = 10 * 365 * 24 * time.Hour

// clockBackMax is how far the clock may stand before the last entry's time at a start.
const clockBackMax = time.Minute

// lastContact is how long before this start the node was last with the others, by the last entry in its replay log: while there is a quorum one
// is written at least every ten seconds, so that no stamp of its own is needed. A clock that has been put back can't tell, and the only voter is always up to date.
func (s *Store) lastContact() time.Duration {
	servers, _ := s.configured()
	voters, own := 0, false
	for _, v := range servers {
		if v.Suffrage == raft.Voter {
			voters, own = voters+1, own || nodeID(v.ID) == s.id
		}
	}
	if own && voters == 1 {
		return 0
	}
	gap := s.cfg.Now().Sub(time.UnixMilli(s.heard.last))
	if s.heard.last == 0 || gap < -clockBackMax {
		return unheard
	}
	return min(max(0, gap), unheard)
}

// journalFlushEvery is how much of the journal a power cut may cost.
const journalFlushEvery = time.Second

// tendJournal flushes the journal, beside the watch, which must not wait for a disk.
func (s *Store) tendJournal(ctx context.Context) {
	for failing := false; ctx.Err() == nil; pause(ctx, journalFlushEvery) {
		err := s.heard.journal.flush()
		if err != nil && !failing {
			s.cfg.Logger.Error("flushing the journal of what is accepted without a quorum", "err", err)
		}
		failing = err != nil
	}
}

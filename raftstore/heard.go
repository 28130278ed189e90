package raftstore

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/raft"

	"github.com/charon-kdc/charon/internal/mutant"
	"github.com/charon-kdc/charon/raftstore/replay"
)

// heard is what this node knows beyond the replay state that it has applied (DESIGN.md, "What a node knows beyond its applied state"): the entries at the end of its own log, which
// after a power cut nobody can call committed yet, and what it counted and accepted while it was cut off. Only what the node decides by itself looks here,
// lockout, copied proofs and, without a quorum, authenticators; verdicts of the cluster never do, and the applied state never learns from it but through the log.
type heard struct {
	applied *replay.State
	counted *watermark // of applied
	// view is the applied state and more; nil while there is no more.
	view atomic.Pointer[replay.State]
	// last is the leader time of the last entry in the log when this process started, in ms; 0: there was none.
	last int64

	mu sync.Mutex
	// until: once the entry of that index is applied, the log has told everything but what is in journal and under way.
	until   uint64
	journal *journal
	// keep: the view holds what the journal could not, up to that time in ms.
	keep int64
	// tailed: the view holds what the log's end has, committed or not; known are the proofs that are in the journal as well.
	tailed   bool
	known    map[[16]byte]struct{}
	underway int  // items of the journal that wait for their verdicts
	sent     bool // some of them went to a leader
	failed   bool // one of them got no verdict
}

func newHeard(applied *replay.State, counted *watermark) *heard {
	return &heard{applied: applied, counted: counted}
}

// remember takes what an earlier process of this node journalled. inLog is the index by which the log had it; 0: it had not.
func (h *heard) remember(j journalled, inLog uint64) {
	h.until = max(h.until, inLog)
	h.know(j.K)
	view := h.viewOrNew()
	if j.attempt {
		view.Count(j.at, j.Attempt, h.applied.Activity(j.Principal))
	} else {
		view.Accept(j.at, j.Proof)
	}
	h.view.Store(view)
}

// viewOrNew is called with mu held, or before anything runs.
func (h *heard) viewOrNew() *replay.State {
	if view := h.view.Load(); view != nil {
		return view
	}
	return h.applied.View()
}

// tail reads the entries behind the snapshot that the applied state will start from. Call it before raft runs. An entry that this release
// can't follow is an error, as it would be once it is committed.
func (h *heard) tail(log raft.LogStore, snaps raft.SnapshotStore) error {
	list, err := snaps.List()
	if err != nil {
		return err
	}
	first, err := log.FirstIndex()
	if err != nil {
		return err
	}
	last, err := log.LastIndex()
	if err != nil {
		return err
	}
	view := replay.New()
	if len(list) > 0 {
		if err := restoreFrom(snaps, list[0].ID, view); err != nil {
			return err
		}
		first = max(first, list[0].Index+1)
	}
	for i := max(first, 1); i <= last; i++ {
		var l raft.Log
		if err := log.GetLog(i, &l); err != nil {
			return fmt.Errorf("reading entry %d: %w", i, err)
		}
		if l.Type != raft.LogCommand {
			continue
		}
		if _, err := view.Apply(l.Data); err != nil {
			return fmt.Errorf("reading entry %d: %w", i, err)
		}
		h.until = i
	}
	if h.tailed = h.until > 0; h.tailed || len(list) > 0 {
		h.view.Store(view) // the applied state does not have the snapshot yet
	}
	h.last = view.Now()
	return nil
}

func restoreFrom(snaps raft.SnapshotStore, id string, to *replay.State) error {
	_, r, err := snaps.Open(id)
	if err != nil {
		return err
	}
	return errors.Join(to.Restore(r), r.Close())
}

// activity is the stricter of what was applied and what was heard.
func (h *heard) activity(id [16]byte) replay.Activity {
	act := h.applied.Activity(id)
	if view := h.view.Load(); view != nil {
		act = act.Merge(view.Activity(id))
	}
	return act
}

// copied tells whether a proof is known from another request.
func (h *heard) copied(p replay.Proof) bool {
	if h.applied.Contains(p) == replay.Repeat {
		return true
	}
	view := h.view.Load()
	return view != nil && view.Contains(p) == replay.Repeat
}

// count counts an attempt that got no verdict, at a time in ms, and journals it. Only Fresh was counted. full: the journal had no room for it, the first time.
func (h *heard) count(it item, sent bool, at int64) (v replay.Verdict, full bool) {
	if !it.attempt {
		return replay.Fresh, false // a success that changes no count
	}
	if it.Failed {
		if v := h.applied.Attempted(it.Proof); v != replay.Fresh {
			return v, false
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	view := h.viewOrNew()
	v = view.Count(at, it.Attempt, h.applied.Activity(it.Principal))
	if v != replay.Fresh && !h.onlyInTail(v, it.K) {
		return v, false
	}
	return v, h.note(view, journalled{it, sent || v == replay.Same, at})
}

// accept is this node's own verdict on an authenticator, at a time in ms, and journals what it calls Fresh.
func (h *heard) accept(p replay.Proof, sent bool, at int64) (v replay.Verdict, full bool) {
	if v := h.applied.Judge(p); v != replay.Fresh {
		return v, false
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	view := h.viewOrNew()
	v = view.Accept(at, p)
	if v != replay.Fresh && !h.onlyInTail(v, p.K) {
		return v, false
	}
	return v, h.note(view, journalled{item{Attempt: replay.Attempt{Proof: p}}, sent, at})
}

// onlyInTail tells whether what is answered as the same request again is known from the log's end alone, which the others may never commit: then the
// journal must have it, too. mu is held.
func (h *heard) onlyInTail(v replay.Verdict, k [16]byte) bool {
	if v != replay.Same || !h.tailed {
		return false
	}
	_, known := h.known[k]
	return !known
}

// know is called with mu held, or before anything runs. What the journal holds bounds the map.
func (h *heard) know(k [16]byte) {
	if !h.tailed {
		return
	}
	if h.known == nil {
		h.known = map[[16]byte]struct{}{}
	}
	if len(h.known) < journalMax {
		h.known[k] = struct{}{}
	}
}

func (h *heard) note(view *replay.State, j journalled) (full bool) {
	if mutant.On(mutant.NotJournalled) {
		return false
	}
	h.view.Store(view)
	h.know(j.K)
	full = h.journal.add(j)
	if h.journal.lostRecords() > 0 {
		h.keep = j.at + 2*(h.applied.Skew()+replay.Slack).Milliseconds()
	}
	return full
}

// resubmit takes at most n records from the journal, unless some are under way. A failure that waited for so long that the log would call
// it stale gets the present time, unless it may be in the log under its own.
func (h *heard) resubmit(n int, at int64) ([]journalled, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.underway > 0 {
		return nil, nil
	}
	out, err := h.journal.batch(n)
	if err != nil || len(out) == 0 {
		return nil, err
	}
	h.underway, h.sent, h.failed = len(out), false, false
	oldest := at/1000 - int64(h.applied.Skew().Seconds())
	for i := range out {
		if it := &out[i]; it.attempt && it.Failed && !it.sent && it.CTime < oldest {
			it.CTime = at / 1000
		}
	}
	return out, nil
}

// decided takes n records of the journal off the list: their entry is that of index.
func (h *heard) decided(n int, index uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.until = max(h.until, index)
	h.ended(n)
}

// again: n records got no verdict this time, either. sent: they went to a leader.
func (h *heard) again(n int, sent bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.failed, h.sent = true, h.sent || sent
	h.ended(n)
}

// ended is called with mu held. A batch is submitted again as a whole, which changes nothing that was decided.
func (h *heard) ended(n int) {
	if h.underway -= n; h.underway == 0 {
		h.journal.done(!h.failed, h.sent, h.until)
	}
}

// settle drops the view once the applied state has all of it, and the journal with it unless the node is alone.
func (h *heard) settle(alone bool, at int64) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.underway > 0 || h.journal.left() > 0 || h.counted.get() < h.until || at < h.keep {
		return nil
	}
	h.view.Store(nil)
	h.tailed, h.known = false, nil
	if alone {
		return nil
	}
	return h.journal.clear()
}

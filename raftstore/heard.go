package raftstore

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/raft"

	"github.com/charon-kdc/charon/raftstore/replay"
)

// journalMax bounds the attempts of a cut-off node that are submitted once there is a leader again. Further ones count here only.
const journalMax = 1 << 15

// heard is what this node knows beyond the replay state that it has applied (DESIGN.md, "What a node knows beyond its applied state"): the entries at the end of its own log, which
// after a power cut nobody can call committed yet, and the attempts it saw while cut off. Only what the node decides by itself looks here,
// lockout and copied proofs; verdicts never do, and the applied state never learns from it but through the log.
type heard struct {
	applied *replay.State
	counted *watermark // of applied
	// view is the applied state and more; nil while there is no more.
	view atomic.Pointer[replay.State]

	mu sync.Mutex
	// until: once the entry of that index is applied, the log has told everything but what is in journal and under way.
	until    uint64
	journal  []journalled
	underway int // items of the journal that wait for their verdicts
	lost     int // items that the journal had no room for
	max      int
}

// journalled is an attempt that was counted here only. sent: it may be in the log all the same, under the time it has.
type journalled struct {
	item
	sent bool
}

func newHeard(applied *replay.State, counted *watermark) *heard {
	return &heard{applied: applied, counted: counted, max: journalMax}
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
	if h.until > 0 {
		h.view.Store(view)
	}
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

// count counts an attempt that got no verdict, at a time in ms, and journals it. It tells whether the journal had no room for it, the first time.
func (h *heard) count(it item, sent bool, at int64) (full bool) {
	if !it.attempt || it.Failed && h.applied.Attempted(it.Proof) != replay.Fresh {
		return false
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	view := h.view.Load()
	if view == nil {
		view = replay.New()
	}
	if view.Count(at, it.Attempt, h.applied.Activity(it.Principal)) != replay.Fresh {
		return false
	}
	h.view.Store(view)
	if len(h.journal) >= h.max {
		h.lost++
		return h.lost == 1
	}
	h.journal = append(h.journal, journalled{it, sent})
	return false
}

// resubmit takes at most n attempts from the journal, unless some are under way. A failure that waited for so long that the log would call
// it stale gets the present time, unless it may be in the log under its own.
func (h *heard) resubmit(n int, at int64) []journalled {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.underway > 0 || len(h.journal) == 0 {
		return nil
	}
	n = min(n, len(h.journal))
	out := h.journal[:n:n]
	if h.journal = h.journal[n:]; len(h.journal) == 0 {
		h.journal = nil
	}
	h.underway = n
	oldest := at/1000 - int64(h.applied.Skew().Seconds())
	for i := range out {
		if it := &out[i]; it.Failed && !it.sent && it.CTime < oldest {
			it.CTime = at / 1000
		}
	}
	return out
}

// decided takes n attempts of the journal off the list: their entry is that of index.
func (h *heard) decided(n int, index uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.underway -= n
	h.until = max(h.until, index)
}

// again puts attempts back that got no verdict this time, either.
func (h *heard) again(items []journalled) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.underway -= len(items)
	h.journal = append(items, h.journal...)
}

// settle drops the view once the applied state has all of it.
func (h *heard) settle() {
	if h.view.Load() == nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.journal) == 0 && h.underway == 0 && h.counted.get() >= h.until {
		h.view.Store(nil)
		h.lost = 0
	}
}

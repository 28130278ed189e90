package disk

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"time"

	"github.com/hashicorp/raft"
)

// errNotFound has the text that hashicorp/raft compares with.
var errNotFound = errors.New("not found")

// writeBack is how long a kernel keeps what nobody flushes.
const writeBack = 5 * time.Second

// Log is the durable log and vote of one group. It is below logstore's guards, in the place of raft-boltdb.
type Log struct {
	d  *Disk
	st logState
	// noSync: the process did not ask for writes to be flushed. pending are those of the last seconds, oldest first; base is without them.
	noSync  bool
	base    logState
	pending []pendingWrite
	// votes are the pairs of term and candidate that the process wrote.
	votes map[string]bool
}

type pendingWrite struct {
	at time.Time
	do func(*logState)
}

type logState struct {
	first, last uint64 // 0, 0: empty
	entries     map[uint64]*raft.Log
	kv          map[string][]byte
}

func newLogState() logState {
	return logState{entries: map[uint64]*raft.Log{}, kv: map[string][]byte{}}
}

func (s *logState) clone() logState {
	return logState{s.first, s.last, maps.Clone(s.entries), maps.Clone(s.kv)}
}

// clone is the log as the next process finds it.
func (l *Log) clone(to *Disk, power bool) *Log {
	out := &Log{d: to, st: l.st.clone(), votes: maps.Clone(l.votes)}
	if power && l.noSync {
		out.st = l.base.clone()
		keep := 0
		if len(l.pending) > 0 {
			keep = l.d.rand.IntN(len(l.pending) + 1)
		}
		for _, w := range l.pending[:keep] {
			w.do(&out.st)
		}
	}
	return out
}

// OpenLog opens the log of the group whose directory path is in.
func (d *Disk) OpenLog(path string, noSync bool) (*Log, error) {
	group := filepath.Base(filepath.Dir(path))
	d.mu.Lock()
	defer d.mu.Unlock()
	l := d.logs[group]
	if l == nil {
		l = &Log{d: d, st: newLogState(), votes: map[string]bool{}}
		d.logs[group] = l
	}
	l.noSync = noSync
	if noSync {
		l.base = l.st.clone()
	}
	return l, nil
}

// change runs one write.
func (l *Log) change(op Op, do func(*logState)) error {
	return l.d.write(op, func() error {
		do(&l.st)
		if !l.noSync {
			return nil
		}
		now := time.Now()
		l.pending = append(l.pending, pendingWrite{now, do})
		for len(l.pending) > 0 && now.Sub(l.pending[0].at) > writeBack {
			l.pending[0].do(&l.base)
			l.pending = l.pending[1:]
		}
		return nil
	}, nil)
}

// FirstIndex implements raft.LogStore.
func (l *Log) FirstIndex() (uint64, error) {
	l.d.mu.Lock()
	defer l.d.mu.Unlock()
	return l.st.first, nil
}

// LastIndex implements raft.LogStore.
func (l *Log) LastIndex() (uint64, error) {
	l.d.mu.Lock()
	defer l.d.mu.Unlock()
	return l.st.last, nil
}

// GetLog implements raft.LogStore.
func (l *Log) GetLog(index uint64, out *raft.Log) error {
	l.d.mu.Lock()
	defer l.d.mu.Unlock()
	e := l.st.entries[index]
	if e == nil {
		return raft.ErrLogNotFound
	}
	*out = *e
	return nil
}

// StoreLog implements raft.LogStore.
func (l *Log) StoreLog(e *raft.Log) error { return l.StoreLogs([]*raft.Log{e}) }

// StoreLogs implements raft.LogStore: all or none.
func (l *Log) StoreLogs(list []*raft.Log) error {
	own := make([]*raft.Log, len(list))
	for i, e := range list {
		c := *e
		c.Data, c.Extensions = bytes.Clone(e.Data), bytes.Clone(e.Extensions)
		own[i] = &c
	}
	return l.change(Append, func(s *logState) {
		for _, e := range own {
			s.entries[e.Index] = e
			if s.first == 0 || e.Index < s.first {
				s.first = e.Index
			}
			s.last = max(s.last, e.Index)
		}
	})
}

// DeleteRange implements raft.LogStore.
func (l *Log) DeleteRange(lo, hi uint64) error {
	return l.change(Truncate, func(s *logState) {
		for i := lo; i <= hi; i++ {
			delete(s.entries, i)
		}
		s.first, s.last = 0, 0
		for i := range s.entries {
			if s.first == 0 || i < s.first {
				s.first = i
			}
			s.last = max(s.last, i)
		}
	})
}

// Set implements raft.StableStore.
func (l *Log) Set(key, val []byte) error {
	k, v := string(key), bytes.Clone(val)
	return l.change(Vote, func(s *logState) {
		s.kv[k] = v
		if vote, ok := voteOf(s.kv); ok && (k == oneRecord || k == candKey) {
			l.votes[vote] = true
		}
	})
}

// Get implements raft.StableStore.
func (l *Log) Get(key []byte) ([]byte, error) {
	l.d.mu.Lock()
	defer l.d.mu.Unlock()
	v, ok := l.st.kv[string(key)]
	if !ok {
		return nil, errNotFound
	}
	return bytes.Clone(v), nil
}

// SetUint64 implements raft.StableStore.
func (l *Log) SetUint64(key []byte, v uint64) error {
	k := string(key)
	return l.change(Vote, func(s *logState) { s.kv[k] = binary.BigEndian.AppendUint64(nil, v) })
}

// GetUint64 implements raft.StableStore.
func (l *Log) GetUint64(key []byte) (uint64, error) {
	v, err := l.Get(key)
	if err != nil {
		return 0, err
	}
	if len(v) != 8 {
		return 0, fmt.Errorf("%s has %d bytes", key, len(v))
	}
	return binary.BigEndian.Uint64(v), nil
}

// Close does nothing: the disk stays.
func (l *Log) Close() error { return nil }

// A vote on disk is one record of logstore's, or what the library would write by itself: a term, and then a candidate.
const (
	oneRecord = "CharonVote"
	termKey   = "LastVoteTerm"
	candKey   = "LastVoteCand"
)

func voteOf(kv map[string][]byte) (string, bool) {
	if v, ok := kv[oneRecord]; ok {
		return string(v), true
	}
	term, ok := kv[termKey]
	return string(term) + string(kv[candKey]), ok
}

// TornVotes are the groups whose disk holds a vote that was never given: a term with the candidate of another.
func (d *Disk) TornVotes() (groups []string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for name, l := range d.logs {
		if vote, ok := voteOf(l.st.kv); ok && !l.votes[vote] {
			groups = append(groups, name)
		}
	}
	slices.Sort(groups)
	return groups
}

package logstore

import (
	"errors"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

func open(t *testing.T, path string) *Store {
	t.Helper()
	s, err := Open(path, Options{Fatal: func(err error) { t.Errorf("fatal: %v", err) }})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func fill(t *testing.T, s *Store, from, to, term uint64) {
	t.Helper()
	var logs []*raft.Log
	for i := from; i <= to; i++ {
		logs = append(logs, &raft.Log{Index: i, Term: term, Data: []byte("x")})
	}
	if err := s.StoreLogs(logs); err != nil {
		t.Fatal(err)
	}
}

func span(t *testing.T, s *Store) [2]uint64 {
	t.Helper()
	first, err := s.FirstIndex()
	if err != nil {
		t.Fatal(err)
	}
	last, err := s.LastIndex()
	if err != nil {
		t.Fatal(err)
	}
	return [2]uint64{first, last}
}

// A crash between the library's two writes of a vote (raft issue 661) must leave the former vote whole.
func TestTornVote(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log.db")
	s := open(t, path)
	if _, err := s.GetUint64(keyVoteTerm); err == nil || err.Error() != "not found" {
		t.Fatalf("term of no vote: %v; want the text that the library compares with", err)
	}
	if _, err := s.Get(keyVoteCand); err == nil || err.Error() != "not found" {
		t.Fatalf("candidate of no vote: %v", err)
	}
	vote := func(term uint64, cand string) {
		t.Helper()
		if err := errors.Join(s.SetUint64(keyVoteTerm, term), s.Set(keyVoteCand, []byte(cand))); err != nil {
			t.Fatal(err)
		}
	}
	want := func(term uint64, cand string) {
		t.Helper()
		gotTerm, err1 := s.GetUint64(keyVoteTerm)
		gotCand, err2 := s.Get(keyVoteCand)
		if err1 != nil || err2 != nil || gotTerm != term || string(gotCand) != cand {
			t.Fatalf("vote: term %d (%v), candidate %q (%v); want %d, %q", gotTerm, err1, gotCand, err2, term, cand)
		}
	}
	vote(4, "a")
	want(4, "a")
	if err := s.SetUint64(keyVoteTerm, 5); err != nil { // and then the power goes
		t.Fatal(err)
	}
	want(4, "a")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, path)
	defer s.Close()
	want(4, "a")
	vote(6, "b")
	want(6, "b")
}

func TestDeleteRange(t *testing.T) {
	for _, c := range []struct {
		name             string
		last             uint64
		min, max         uint64
		want             [2]uint64
		wantTransactions int64
	}{
		{"head, in chunks", 2000, 1, 1300, [2]uint64{1301, 2000}, 3},
		{"head from before the first", 2000, 0, 100, [2]uint64{101, 2000}, 1},
		{"suffix", 2000, 700, 2000, [2]uint64{1, 699}, 1},
		{"everything", 2000, 1, 2000, [2]uint64{0, 0}, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := open(t, filepath.Join(t.TempDir(), "log.db"))
			defer s.Close()
			fill(t, s, 1, c.last, 1)
			counted := &faulty{Backend: s.bolt}
			s.bolt = counted
			if err := s.DeleteRange(c.min, c.max); err != nil {
				t.Fatal(err)
			}
			if got := span(t, s); got != c.want {
				t.Errorf("log spans %v, want %v", got, c.want)
			}
			if n := counted.deletes.Load(); n != c.wantTransactions {
				t.Errorf("%d transactions, want %d", n, c.wantTransactions)
			}
		})
	}
}

func TestReconcile(t *testing.T) {
	for _, c := range []struct {
		name        string
		from, to    uint64
		index, term uint64
		dropped     bool
	}{
		{"log continues the snapshot", 5, 20, 10, 3, false},
		{"snapshot right before the log", 11, 20, 10, 9, false},
		{"no snapshot", 1, 20, 0, 0, false},
		{"gap after the snapshot", 15, 20, 10, 3, true},
		{"entry of another term at its index", 5, 20, 10, 4, true},
		{"log ends before the snapshot", 5, 9, 10, 3, true},
		{"log ends with the snapshot", 5, 10, 10, 3, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := open(t, filepath.Join(t.TempDir(), "log.db"))
			defer s.Close()
			fill(t, s, c.from, c.to, 3)
			dropped, err := s.Reconcile(c.index, c.term)
			if err != nil || dropped != c.dropped {
				t.Fatalf("dropped %v, %v; want %v", dropped, err, c.dropped)
			}
			want := [2]uint64{c.from, c.to}
			if c.dropped {
				want = [2]uint64{}
			}
			if got := span(t, s); got != want {
				t.Errorf("log spans %v, want %v", got, want)
			}
		})
	}
}

// faulty counts and breaks writes.
type faulty struct {
	Backend
	deletes atomic.Int64
	err     error
	block   chan struct{}
}

func (f *faulty) DeleteRange(min, max uint64) error {
	f.deletes.Add(1)
	return f.Backend.DeleteRange(min, max)
}

func (f *faulty) StoreLogs(logs []*raft.Log) error {
	if f.block != nil {
		<-f.block
	}
	if f.err != nil {
		return f.err
	}
	return f.Backend.StoreLogs(logs)
}

func TestWriteErrorIsFatal(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "log.db"))
	defer s.Close()
	eio := errors.New("input/output error")
	s.bolt = &faulty{Backend: s.bolt, err: eio}
	var got error
	s.opts.Fatal = func(err error) { got = err }
	if err := s.StoreLog(&raft.Log{Index: 1, Term: 1}); !errors.Is(err, eio) {
		t.Errorf("StoreLog: %v", err)
	}
	if !errors.Is(got, eio) {
		t.Errorf("fatal: %v, want the disk's error", got)
	}
}

func TestStallIsFatal(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "log.db"))
	defer s.Close()
	block := make(chan struct{})
	s.bolt = &faulty{Backend: s.bolt, block: block}
	s.opts.StallLimit = 10 * time.Millisecond
	fatal := make(chan error, 1)
	s.opts.Fatal = func(err error) { fatal <- err }
	done := make(chan error, 1)
	go func() { done <- s.StoreLog(&raft.Log{Index: 1, Term: 1}) }()
	select {
	case <-fatal:
	case <-time.After(10 * time.Second):
		t.Error("a stalled write went unnoticed")
	}
	close(block)
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// Slow is told while the write still runs, and only of a slow one.
func TestSlowWriteIsReported(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "log.db"))
	defer s.Close()
	block := make(chan struct{})
	slow := make(chan struct{}, 1)
	s.opts.Slow = func() { slow <- struct{}{} }
	if err := s.StoreLog(&raft.Log{Index: 1, Term: 1}); err != nil {
		t.Fatal(err)
	}
	s.bolt = &faulty{Backend: s.bolt, block: block}
	done := make(chan error, 1)
	go func() { done <- s.StoreLog(&raft.Log{Index: 2, Term: 1}) }()
	select {
	case <-slow:
	case err := <-done:
		t.Fatal("the write ended:", err)
	case <-time.After(8 * time.Second):
		t.Error("a slow write went unnoticed")
	}
	close(block)
	if err := <-done; err != nil {
		t.Error(err)
	}
	if len(slow) > 0 {
		t.Error("reported twice")
	}
}

func TestSnapshotLoop(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "log.db"))
	defer s.Close()
	now := time.Unix(1e9, 0)
	fatal := 0
	s.opts.Now = func() time.Time { return now }
	s.opts.Fatal = func(error) { fatal++ }
	s.NoteInstall()
	s.NoteInstall()
	fill(t, s, 1, 1, 1) // an append between them: no loop
	s.NoteInstall()
	s.NoteInstall()
	now = now.Add(installsWindow)
	s.NoteInstall()
	if fatal != 0 {
		t.Fatal("installs with an append between them, or long apart, were taken for a loop")
	}
	s.NoteInstall()
	s.NoteInstall()
	if fatal != 1 {
		t.Fatalf("three installs in a row: fatal called %d times", fatal)
	}
}

func TestFresh(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "log.db"))
	defer s.Close()
	if ok, err := s.Fresh(); !ok || err != nil {
		t.Fatalf("new log: %v, %v", ok, err)
	}
	if err := s.SetUint64([]byte("CurrentTerm"), 1); err != nil {
		t.Fatal(err)
	}
	if ok, err := s.Fresh(); ok || err != nil {
		t.Fatalf("log with a term: %v, %v", ok, err)
	}
}

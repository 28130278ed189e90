package backup

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	backupv1 "github.com/charon-kdc/charon/proto/charon/backup/v1"
	statev1 "github.com/charon-kdc/charon/proto/charon/state/v1"
)

// plan is a schedule whose clock, leadership and cluster are the test's.
type plan struct {
	*Schedule
	f       *fixture
	t       *testing.T
	now     time.Time
	leads   bool
	changed uint64
	term    uint64 // of the last change
	last    *statev1.BackupNote
	results []string
}

func newPlan(t *testing.T) *plan {
	p := &plan{f: newFixture(t), t: t, now: time.UnixMilli(1_900_000_000_000), leads: true}
	p.changed, p.term = p.f.index, 1
	clock := func() time.Time { return p.now }
	src := p.f.source()
	src.Now = clock
	p.Schedule = &Schedule{
		Dir: t.TempDir(), Every: time.Hour, Keep: 3, Node: "n1", Now: clock, Log: slog.New(slog.DiscardHandler),
		Leads:   func() bool { return p.leads },
		Changed: func() (uint64, uint64) { return p.term, p.changed },
		Applied: func() (uint64, uint64) { index, term := p.f.db.Applied(); return term, index },
		Cluster: func() ([]byte, error) { return p.f.cluster, nil },
		Save:    func(w io.Writer) (*Summary, error) { return Save(w, src, nil, true) },
		Last:    func() *statev1.BackupNote { return p.last },
		Note:    func(_ context.Context, n *statev1.BackupNote) error { p.last = n; return nil },
		Result:  func(r string) { p.results = append(p.results, r) },
	}
	return p
}

// look has d pass, looks, and wants these results since the last call.
func (p *plan) look(d time.Duration, want ...string) {
	p.t.Helper()
	p.now = p.now.Add(d)
	p.results = nil
	p.Look(p.t.Context())
	if strings.Join(p.results, " ") != strings.Join(want, " ") {
		p.t.Fatalf("after %v: %v, want %v (%v)", d, p.results, want, p.Failure())
	}
}

func (p *plan) change(name string) {
	p.f.principal(name)
	p.changed, p.term = p.f.index, 1
}

func (p *plan) files() []File {
	p.t.Helper()
	l, err := List(p.Dir, p.f.cluster)
	if err != nil {
		p.t.Fatal(err)
	}
	return l
}

func TestSchedule(t *testing.T) {
	p := newPlan(t)
	p.leads = false
	p.look(0)
	if len(p.files()) != 0 {
		t.Fatal("a node that does not lead wrote a backup")
	}
	p.leads = true
	p.look(0, Written) // the first at once
	if f := p.files(); len(f) != 1 || filepath.Base(f[0].Path) != FileName(p.f.index) || p.last.GetIndex() != p.f.index || !p.last.GetVerified() {
		t.Fatal(f, p.last)
	}
	if st, err := os.Stat(p.files()[0].Path); err != nil || st.Mode().Perm() != 0o600 {
		t.Error(st.Mode(), err)
	}
	p.change("a")
	p.look(59 * time.Minute) // not due
	p.look(time.Minute, Written)
	// Nothing changed: the newest is read again instead, once an Every.
	p.look(time.Hour, Checked)
	if p.last.GetCheckedAt() != p.now.UnixMilli() || !p.last.GetVerified() {
		t.Error(p.last)
	}
	p.look(time.Minute)
	p.look(time.Hour, Checked)
	p.change("b")
	p.look(time.Second, Written) // overdue
	p.change("c")
	p.look(time.Hour, Written)
	p.change("d")
	p.look(time.Hour, Written)
	f := p.files()
	if len(f) != 3 || f[2].Header.GetIndex() != p.f.index {
		t.Errorf("%d files, want the newest 3", len(f))
	}
	if left, _ := filepath.Glob(filepath.Join(p.Dir, ".*")); len(left) > 0 {
		t.Error("left behind:", left)
	}
	for _, b := range f {
		if _, err := VerifyFile(b.Path, p.f.kit); err != nil {
			t.Error(b.Path, err)
		}
	}
}

// A new leader whose directory is its own has none of the former's files, and writes one whatever the cluster knows.
func TestScheduleOfANewLeader(t *testing.T) {
	p := newPlan(t)
	p.look(0, Written)
	p.Dir = t.TempDir()
	p.look(time.Minute, Written)
	// With a directory that all share it goes on where the other stopped.
	q := newPlan(t)
	q.Dir, q.f.cluster = p.Dir, p.f.cluster
	q.changed, q.now, q.last = p.changed, p.now, p.last
	q.look(time.Minute)
}

func TestScheduleReplacesADamagedBackup(t *testing.T) {
	p := newPlan(t)
	p.look(0, Written)
	path := p.files()[0].Path
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)-20] ^= 1
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	p.look(time.Hour, Written)
	if _, err := VerifyFile(path, p.f.kit); err != nil {
		t.Error(err)
	}
	// So it is when the file is gone.
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	p.look(time.Second, Written)
}

func TestScheduleFailure(t *testing.T) {
	p := newPlan(t)
	dir := p.Dir
	p.Dir = filepath.Join(dir, "gone")
	p.look(0, Failed)
	if p.Failure() == nil {
		t.Error("no failure is told")
	}
	p.look(59 * time.Second) // not again at once
	p.Dir = dir
	p.look(time.Second, Written)
	if p.Failure() != nil {
		t.Error(p.Failure())
	}
	// A backup that breaks off leaves nothing, and the earlier ones stay.
	broken := errors.New("disk full")
	save := p.Save
	p.Save = func(w io.Writer) (*Summary, error) {
		if _, err := w.Write(make([]byte, 100)); err != nil {
			return nil, err
		}
		return nil, broken
	}
	p.change("a")
	p.look(time.Hour, Failed)
	if !errors.Is(p.Failure(), broken) || len(p.files()) != 1 {
		t.Error(p.Failure(), p.files())
	}
	if all, _ := os.ReadDir(dir); len(all) != 1 {
		t.Error("left behind:", all)
	}
	// What the disk gives back is not what was written.
	p.Save = func(w io.Writer) (*Summary, error) {
		s, err := save(w)
		if s != nil {
			s.SHA256[0] ^= 1
		}
		return s, err
	}
	p.look(time.Minute, Failed)
	p.Save = save
	p.leads = false
	p.look(time.Hour)
	if p.Failure() != nil {
		t.Error("a node that no longer leads still tells of its failure:", p.Failure())
	}
}

func TestWriteFileNeverReplacesSomethingElse(t *testing.T) {
	f, dir := newFixture(t), t.TempDir()
	save := func(w io.Writer) (*Summary, error) { return Save(w, f.source(), nil, true) }
	path, _, err := WriteFile(dir, save)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := WriteFile(dir, save); err != nil {
		t.Error("a backup of the same index over another:", err)
	}
	if err := os.WriteFile(path, []byte("my letters"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, target := range []string{dir, path} {
		if _, _, err := WriteFile(target, save); !errors.Is(err, os.ErrExist) {
			t.Error(err)
		}
	}
	f.cluster = []byte("another cluster!")
	if n, err := Prune(dir, &backupv1.Header{ClusterId: f.cluster, Index: 1 << 40}, 0); n != 0 || err != nil {
		t.Error(n, err)
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != "my letters" {
		t.Error(string(b), err)
	}
}

// After a recovery from a lost quorum the log may go on from a lower index than that of a backup by a lost leader: it holds not what came after, and never
// pushes out what does.
func TestScheduleAfterARecovery(t *testing.T) {
	lost := newPlan(t)
	for _, name := range []string{"a", "b", "c"} {
		lost.change(name)
	}
	lost.look(0, Written)
	p := newPlan(t)
	p.Dir, p.Keep, p.f.term, p.last = lost.Dir, 1, 2, lost.last
	p.change("after")
	p.term = 2
	p.look(time.Hour, Written)
	if f := p.files(); len(f) != 1 || f[0].Header.GetIndex() != p.f.index || f[0].Header.GetTerm() != 2 {
		t.Fatal("the present state's backup is not what is left:", f)
	}
	p.look(time.Hour, Checked)
}

// A file that only says that it is this cluster's latest stands in no backup's way.
func TestScheduleBelievesNoHeader(t *testing.T) {
	p := newPlan(t)
	p.look(0, Written)
	forge := func(term, index uint64) {
		t.Helper()
		b, err := preamble(&backupv1.Header{ClusterId: p.f.cluster, Recipients: []string{"age1"}, Term: term, Index: index, CreatedAt: p.now.UnixMilli()})
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(p.Dir, FileName(index)), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	p.Keep = 1
	forge(1<<40, 1<<40)
	p.change("a")
	p.look(time.Hour, Written)
	genuine := filepath.Join(p.Dir, FileName(p.f.index))
	if _, err := VerifyFile(genuine, p.f.kit); err != nil {
		t.Error("beside one that claims to be later:", err)
	}
	forge(1, p.f.index)
	p.look(time.Hour, Written)
	if _, err := VerifyFile(genuine, p.f.kit); err != nil {
		t.Error("in place of the newest:", err)
	}
}

// The newest backup stays until there is another, whatever is wrong with it.
func TestScheduleRemovesNothingFirst(t *testing.T) {
	p := newPlan(t)
	p.look(0, Written)
	path := p.files()[0].Path
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)-20] ^= 1
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	save := p.Save
	p.Save = func(io.Writer) (*Summary, error) { return nil, errors.New("disk full") }
	p.look(time.Hour, Failed)
	if len(p.files()) != 1 {
		t.Error("removed before another was there")
	}
	p.Save = save
	p.look(time.Minute, Written)
	if _, err := VerifyFile(path, p.f.kit); err != nil {
		t.Error(err)
	}
}

// What is called like a backup and is no file is not opened: a pipe would hold the schedule for ever.
func TestListOpensFilesOnly(t *testing.T) {
	dir, f := t.TempDir(), newFixture(t)
	if err := syscall.Mkfifo(filepath.Join(dir, FileName(5)), 0o600); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { _, err := List(dir, f.cluster); done <- err }()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("waits for a writer of the pipe")
	}
}

// What a writer that died has left goes after a day; what is being written stays.
func TestUnfinishedFilesAreSwept(t *testing.T) {
	p := newPlan(t)
	old, young := filepath.Join(p.Dir, tempPrefix+"1"), filepath.Join(p.Dir, tempPrefix+"2")
	for _, path := range []string{old, young} {
		if err := os.WriteFile(path, make([]byte, 9), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chtimes(old, time.Time{}, time.Now().Add(-25*time.Hour)); err != nil {
		t.Fatal(err)
	}
	p.look(0, Written)
	if _, err := os.Stat(old); !errors.Is(err, os.ErrNotExist) {
		t.Error("left behind:", err)
	}
	if _, err := os.Stat(young); err != nil {
		t.Error(err)
	}
}

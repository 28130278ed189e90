package realm

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"google.golang.org/protobuf/proto"

	statev1 "github.com/charon-kdc/charon/proto/charon/state/v1"
)

// kinds reads a stream and counts what is in it.
func kinds(b []byte) (map[Kind]int, SnapshotInfo, error) {
	out := map[Kind]int{}
	info, err := ScanSnapshot(bytes.NewReader(b), func(r Record) error {
		if (r.Kind == 0) != (r.Message == nil) {
			return fmt.Errorf("kind %v with %T", r.Kind, r.Message)
		}
		out[r.Kind]++
		return nil
	})
	return out, info, err
}

func TestScanSnapshot(t *testing.T) {
	db := base(t)
	mustApply(t, db, withID(putPol("by id", nil), uuid7(t0, 1), "p"))
	b := snapshotBytes(t, db)
	got, info, err := kinds(b)
	if err != nil {
		t.Fatal(err)
	}
	// Two aliases, one outcome and its expiry are of no kind.
	want := map[Kind]int{KindPrincipal: 2, KindPolicy: 2, KindRealm: 1, KindNode: 1, KindToken: 1, KindRole: 1, KindSecret: 1, KindCluster: 1, 0: 4}
	if fmt.Sprint(got) != fmt.Sprint(want) || info.Index != 10 || info.Size != int64(len(b)) {
		t.Errorf("%v, want %v; %+v", got, want, info)
	}
	r := seeded(t)
	for i := range b {
		c := bytes.Clone(b)
		c[i] ^= byte(1 + r.IntN(255))
		for what, b := range map[string][]byte{"flipped": c, "cut": b[:i]} {
			if _, _, err := kinds(b); !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrTooNew) {
				t.Fatalf("%s at %d: %v", what, i, err)
			}
		}
	}
	mine := errors.New("of the visitor")
	if _, err := ScanSnapshot(bytes.NewReader(b), func(Record) error { return mine }); !errors.Is(err, mine) {
		t.Error(err)
	}
}

// What is noted after a snapshot has begun is in neither its records nor its counts, and Check sees each record before its bytes.
func TestSnapshotCheckAndCounts(t *testing.T) {
	db := base(t)
	s, err := db.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	mustApply(t, db, putP(principal("later"), nil))
	seen := 0
	s.Check = func(r Record) error {
		if r.Kind == KindPrincipal {
			seen++
		}
		return nil
	}
	if _, err := io.Copy(io.Discard, s); err != nil {
		t.Fatal(err)
	}
	if c := s.Counts(); seen != 2 || c.Principals != 2 || db.Counts().Principals != 3 {
		t.Error(seen, c)
	}
	mine := errors.New("of the check")
	again, err := db.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	again.Check = func(Record) error { return mine }
	header := int64(len(again.st.snapshotHeader()))
	if n, err := io.Copy(io.Discard, again); !errors.Is(err, mine) || n != header {
		t.Errorf("%d bytes before the refusal, the header has %d: %v", n, header, err)
	}
}

func TestRebuild(t *testing.T) {
	from := base(t)
	mustApply(t, from, withID(putPol("by id", nil), uuid7(t0, 1), "p"))
	b := snapshotBytes(t, from)
	path := filepath.Join(t.TempDir(), "state.db")
	edit := func(r Record) (bool, error) {
		switch m := r.Message.(type) {
		case *statev1.Node, *statev1.Token:
			return false, nil
		case *statev1.Cluster:
			m.Id = id16("another")
		}
		return true, nil
	}
	info, err := Rebuild(path, testOptions, bytes.NewReader(b), []byte("conf"), edit)
	if err != nil {
		t.Fatal(err)
	}
	db, err := Open(path, testOptions)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	index, term := db.Applied()
	if ci, conf := db.Configuration(); index != 10 || term != 1 || ci != 10 || string(conf) != "conf" || db.Installed() != 10 || info.Index != 10 {
		t.Error(index, term, ci, string(conf), db.Installed(), info)
	}
	got, back, err := kinds(snapshotBytes(t, db)) // the counters must be right, or this fails
	if err != nil || got[KindNode] != 0 || got[KindToken] != 0 || got[KindPrincipal] != 2 || back.Size != info.Size {
		t.Error(got, back, info, err)
	}
	if c, err := db.Cluster(); err != nil || !bytes.Equal(c.GetId(), id16("another")) || c.GetRevision() != 8 {
		t.Error(c, err)
	}
	want, _ := from.GetPrincipal("R", []string{"al"})
	if p, err := db.GetPrincipal("R", []string{"al"}); err != nil || !proto.Equal(p, want) {
		t.Error(p, err)
	}
	if _, err := db.Outcome(uuid7(t0, 1)); err != nil {
		t.Error("the outcome of a request id:", err)
	}
	// Commands go on behind the snapshot, revisions too.
	if r := apply(t, db, putP(principal("new"), absent())); r.GetIndex() != 11 || r.GetRevision() != 10 {
		t.Error(describe(r), r)
	}
	if _, err := Rebuild(path, testOptions, bytes.NewReader(b), nil, edit); err == nil {
		t.Error("a state was rebuilt over another")
	}
	for what, b := range map[string][]byte{"cut": b[:len(b)-1], "longer": append(bytes.Clone(b), 0)} {
		other := filepath.Join(t.TempDir(), "state.db")
		if _, err := Rebuild(other, testOptions, bytes.NewReader(b), nil, edit); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %v", what, err)
		}
		if left, _ := filepath.Glob(other + "*"); len(left) > 0 {
			t.Errorf("%s: left behind: %v", what, left)
		}
	}
	if _, err := os.Stat(installPath(path)); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

func note(index uint64, at int64) *statev1.Command {
	return &statev1.Command{Op: &statev1.Command_NoteBackup{NoteBackup: &statev1.NoteBackup{Note: &statev1.BackupNote{
		Index: index, At: at, Sha256: sum32("file"), Node: "n1", Bytes: 1, Verified: true,
	}}}}
}

func TestNoteBackup(t *testing.T) {
	db := base(t)
	before, err := db.Cluster()
	if err != nil {
		t.Fatal(err)
	}
	var told []Change
	db.Subscribe(func(c []Change) { told = append(told, c...) })
	mustApply(t, db, note(5, t0), note(4, t0-1)) // the second is older: nothing happens
	if len(told) != 1 || told[0].Kind != KindBackup {
		t.Error(told)
	}
	mustApply(t, db, putC("c", 1, atRevision(before.GetRevision()))) // by one who does not know of it
	c, err := db.Cluster()
	if err != nil || c.GetLastBackup().GetIndex() != 5 || c.GetLastBackup().GetAt() != t0 {
		t.Error(c, err)
	}
	looked := note(5, t0)
	looked.GetNoteBackup().Note.CheckedAt = t0 + 9
	mustApply(t, db, looked, note(5, t0))
	if c, err := db.Cluster(); err != nil || c.GetLastBackup().GetCheckedAt() != t0+9 {
		t.Error(c, err)
	}
	for what, cmd := range map[string]*statev1.Command{"ahead": note(1000, t0+1), "of nothing": note(0, t0+1), "timeless": note(5, 0)} {
		if r := apply(t, db, cmd); r.GetCode() != statev1.Code_CODE_INVALID {
			t.Errorf("%s: %s", what, describe(r))
		}
	}
}

package raftstore

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"github.com/charon-kdc/charon/raftstore/replay"
)

// reopened is the journal in path as the next process finds it, and what is not decided.
func reopened(t *testing.T, path string, boot byte) (j *journal, left []journalled, incomplete string) {
	t.Helper()
	j, incomplete, err := openJournal(path, [16]byte{boot}, Disk{}, func(r journalled, inLog uint64) {
		if inLog == 0 {
			left = append(left, r)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { j.close() })
	return j, left, incomplete
}

func authenticator(n int) journalled {
	return journalled{item: item{Attempt: replay.Attempt{Proof: replay.Proof{K: [16]byte{1, byte(n)}, R: [8]byte{2, byte(n)}, CTime: int64(1000 + n)}}}, at: int64(n)}
}

func wrongGuess(n int) journalled {
	g := authenticator(n)
	g.attempt, g.Failed, g.Principal, g.Window, g.UnlockedAt, g.sent = true, true, [16]byte{3}, 60, 1<<40, n%2 == 0
	return g
}

func TestJournal(t *testing.T) {
	path := filepath.Join(t.TempDir(), journalFile)
	j, left, incomplete := reopened(t, path, 7)
	if len(left) != 0 || incomplete != "" {
		t.Fatalf("%v, %q of nothing", left, incomplete)
	}
	var want []journalled
	for i := range 10 {
		r := authenticator(i)
		if i%3 == 0 {
			r = wrongGuess(i)
		}
		want = append(want, r)
		if j.add(r) {
			t.Fatal("full")
		}
	}
	// The process dies: nothing is closed.
	j, left, incomplete = reopened(t, path, 7)
	if !reflect.DeepEqual(left, want) || incomplete != "" || j.left() != 10 {
		t.Fatalf("%+v, %q", left, incomplete)
	}
	batch, err := j.batch(4)
	if err != nil || !reflect.DeepEqual(batch, want[:4]) {
		t.Fatalf("%+v, %v", batch, err)
	}
	if more, _ := j.batch(4); more != nil {
		t.Errorf("a second batch beside the first: %+v", more)
	}
	j.done(false, true, 0)
	if batch, _ = j.batch(4); len(batch) != 4 || !batch[1].sent {
		t.Errorf("after a try that may have reached a leader: %+v", batch)
	}
	j.done(true, false, 8)
	j.add(authenticator(10)) // cut off again
	want = append(want, authenticator(10))

	j, left, _ = reopened(t, path, 7)
	if !reflect.DeepEqual(left, want[4:]) || j.left() != 7 {
		t.Fatalf("%d left: %+v", j.left(), left)
	}
	for j.left() > 0 {
		if err := j.clear(); err != nil || j.file == nil {
			t.Fatal("cleared with records in it", err)
		}
		if batch, err := j.batch(3); err != nil || len(batch) == 0 {
			t.Fatal(batch, err)
		}
		j.done(true, false, 8)
	}
	if err := j.clear(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("the file is there when all is decided: %v", err)
	}
}

// What may be missing is known: after a power cut, when it was full, and when a bit has flipped.
func TestJournalIsNotWhole(t *testing.T) {
	path := filepath.Join(t.TempDir(), journalFile)
	j, _, _ := reopened(t, path, 7)
	if err := j.begin(); err != nil {
		t.Fatal(err)
	}
	j.max = 3
	for i := range 6 {
		if full := j.add(authenticator(i)); full != (i == 3) {
			t.Errorf("record %d: full is %v", i, full)
		}
	}
	if got := j.takeLost(); got != 3 || j.takeLost() != 0 {
		t.Errorf("%d lost", got)
	}
	if _, left, why := reopened(t, path, 7); len(left) != 3 || why == "" {
		t.Errorf("a full one: %d records, %q", len(left), why)
	}

	path = filepath.Join(t.TempDir(), journalFile)
	j, _, _ = reopened(t, path, 7)
	for i := range 5 {
		j.add(authenticator(i))
	}
	if _, left, why := reopened(t, path, 8); len(left) != 5 || why == "" {
		t.Errorf("after the host went down: %d records, %q", len(left), why)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	seed := uint64(time.Now().UnixNano())
	r := rand.New(rand.NewPCG(seed, 0))
	for range 300 {
		b := bytes.Clone(whole)
		bit := r.IntN(8 * len(b))
		b[bit/8] ^= 1 << (bit % 8)
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		_, left, why := func() (*journal, []journalled, string) { return reopened(t, path, 7) }()
		if why == "" || len(left) < 4 {
			t.Errorf("seed %d, bit %d flipped: %d records, %q", seed, bit, len(left), why)
		}
	}
	if err := os.WriteFile(path, whole[:len(whole)-5], 0o600); err != nil {
		t.Fatal(err)
	}
	// The last record's answer did not leave, since it was not written.
	if _, left, why := reopened(t, path, 7); len(left) != 4 || why != "" {
		t.Errorf("cut in its last record: %d records, %q", len(left), why)
	}
}

func TestHeardKeepsTheJournal(t *testing.T) {
	h := newHeard(replay.New(), newWatermark(7))
	h.journal, _, _ = reopened(t, filepath.Join(t.TempDir(), journalFile), 1)
	h.journal.max = 3
	now := time.Now().UnixMilli()
	who := replay.Attempt{Principal: [16]byte{1}, Failed: true}
	for i := range 5 {
		who.Proof = replay.Proof{K: [16]byte{byte(i)}, CTime: now / 1000}
		if v, full := h.count(item{Attempt: who, attempt: true}, i == 0, now); v != replay.Fresh || full != (i == 3) {
			t.Errorf("guess %d: %v, full is %v", i, v, full)
		}
	}
	if got := h.activity(who.Principal).Failures; got != 5 {
		t.Errorf("%d failures, want all 5", got)
	}

	// An hour later the log would call them stale; the first may be in it.
	later := now + 3_600_000
	first, err := h.resubmit(2, later)
	if err != nil || len(first) != 2 || first[0].CTime != now/1000 || first[1].CTime != later/1000 {
		t.Errorf("%+v, %v", first, err)
	}
	if more, _ := h.resubmit(2, later); more != nil {
		t.Errorf("a second batch beside the first: %+v", more)
	}
	h.again(2, false)
	if first, _ = h.resubmit(9, later); len(first) != 3 {
		t.Errorf("%d of 3 after the first try failed", len(first))
	}
	h.decided(3, 9)
	settle := func(at int64) bool {
		if err := h.settle(false, at); err != nil {
			t.Fatal(err)
		}
		return h.view.Load() == nil
	}
	if settle(later) {
		t.Error("dropped before entry 9 is applied")
	}
	h.counted.advance(9)
	if settle(now + 1000) {
		t.Error("dropped what did not fit in the journal")
	}
	if !settle(later) || h.activity(who.Principal).Failures != 0 {
		t.Error("kept when everything is applied")
	}
}

// A journal that can't be written says so to the next process, without any room on the disk; one that can't even do that is not answered by.
func TestJournalOnAFullDisk(t *testing.T) {
	for _, gone := range []bool{false, true} {
		path := filepath.Join(t.TempDir(), journalFile)
		j, _, _ := reopened(t, path, 7)
		if j.add(authenticator(1)) {
			t.Fatal("full")
		}
		if err := j.file.Close(); err != nil {
			t.Fatal(err)
		}
		var err error
		if j.file, err = os.Open(path); err != nil { // nothing can be added
			t.Fatal(err)
		}
		if gone {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		}
		if !j.add(authenticator(2)) {
			t.Error("written")
		}
		if j.forgetful() != gone {
			t.Errorf("gone is %v: forgetful is %v", gone, !gone)
		}
		if _, left, why := reopened(t, path, 7); !gone && (why == "" || len(left) != 1) {
			t.Errorf("the next process: %d records, %q", len(left), why)
		}
	}
}

package replay

import (
	"bytes"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var rewriteGolden = flag.Bool("rewrite-golden", false, "write golden files that are missing; one that is there is for ever")

// levels is the newest feature level; raftstore/realm has it.
const levels = MergeLevel

// A golden directory is what a release of a feature level wrote: log.txt, one entry a line in hex, verdicts.txt and state.txt, what came of
// it, and snapshot, that state. Every later release must read them and give the same verdicts.
func TestGolden(t *testing.T) {
	for level := uint32(1); level <= levels; level++ {
		dir := filepath.Join("testdata/golden", fmt.Sprint("level", level))
		if *rewriteGolden {
			makeGolden(t, dir, level)
		}
		t.Run(fmt.Sprint("level", level), func(t *testing.T) { checkGolden(t, dir, level) })
	}
}

func readGolden(t *testing.T, dir, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func checkGolden(t *testing.T, dir string, level uint32) {
	var entries [][]byte
	seen := map[byte]bool{}
	for _, line := range strings.Fields(readGolden(t, dir, "log.txt")) {
		e, err := hex.DecodeString(line)
		if err != nil {
			t.Fatal(err)
		}
		if err := CheckLevel(e, level); err != nil {
			t.Error(err)
		}
		parts, _, err := decodeEntry(e)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range parts {
			seen[p.kind] = true
		}
		entries = append(entries, e)
	}
	for kind, l := range kindLevel {
		if l == level && !seen[byte(kind)] {
			t.Errorf("%s has no entry of kind %d: see goldenLog", dir, kind)
		}
	}
	s := New()
	verdicts, err := replayGolden(s, entries)
	if err != nil {
		t.Fatal(err)
	}
	if want := readGolden(t, dir, "verdicts.txt"); verdicts != want {
		t.Errorf("verdicts are\n%sfor ever they are\n%s", verdicts, want)
	}
	want := readGolden(t, dir, "state.txt")
	if got := dump(s, entries); got != want {
		t.Errorf("the log's state is\n%sfor ever it is\n%s", got, want)
	}
	restored := New()
	if err := restored.Restore(strings.NewReader(readGolden(t, dir, "snapshot"))); err != nil {
		t.Fatal(err)
	}
	if got := dump(restored, entries); got != want {
		t.Errorf("the snapshot's state is\n%sfor ever it is\n%s", got, want)
	}
}

func replayGolden(s *State, entries [][]byte) (string, error) {
	var out strings.Builder
	for i, e := range entries {
		v, err := s.Apply(e)
		if err != nil {
			return "", fmt.Errorf("entry %d: %w", i+1, err)
		}
		fmt.Fprintf(&out, "%d %v\n", i+1, v)
	}
	return out.String(), nil
}

// dump is the state as text: what it says of everything that the entries are about.
func dump(s *State, entries [][]byte) string {
	var out strings.Builder
	st := s.Stats()
	fmt.Fprintf(&out, "now %d skew %v epoch %x not before %d\n", s.Now(), s.Skew(), s.Epoch().ID, s.Epoch().NotBefore)
	fmt.Fprintf(&out, "items %d buckets %d counters %d low %d holding %v held %d doubles %d last %d\n", st.Items, st.Buckets, st.Counters, st.Low, st.Holding, st.Held, st.Doubles, st.LastDouble)
	for _, e := range entries {
		parts, _, err := decodeEntry(e)
		if err != nil {
			return err.Error()
		}
		for _, p := range parts {
			for i := range p.n {
				switch p.kind {
				case kindProofs, kindJournal:
					pr := p.proof(i)
					fmt.Fprintf(&out, "proof %x %x at %d: %v\n", pr.K, pr.R, pr.CTime, s.Contains(pr))
				case kindAttempts:
					a := p.attempt(i)
					fmt.Fprintf(&out, "principal %x: %+v\n", a.Principal, s.Activity(a.Principal))
				}
			}
		}
	}
	return out.String()
}

// goldenLog are the entries of a level's golden log. A new kind of the newest level is added to its list before that level's first release.
func goldenLog(t *testing.T, level uint32) [][]byte {
	skew, err := EncodeSkew((t0+3)*1000, 10*time.Minute)
	epoch, err2 := EncodeEpoch((t0+900)*1000, Epoch{ID: k(77), NotBefore: (t0 + 1300) * 1000})
	if err := errors.Join(err, err2); err != nil {
		t.Fatal(err)
	}
	attempt := func(n int, principal byte, failed bool, unlocked int64) Attempt {
		return Attempt{Proof: proof(n, 1, t0+4), Principal: [16]byte{principal}, Failed: failed, Window: 300, UnlockedAt: unlocked}
	}
	common := [][]byte{
		batchEntry(t, t0, []Proof{proof(1, 1, t0), proof(1, 1, t0), proof(1, 2, t0), proof(2, 1, t0-200), proof(3, 1, t0-9000), proof(4, 1, t0+9000)}, nil),
		batchEntry(t, t0+1, nil, nil),
		skew,
		batchEntry(t, t0+5, []Proof{proof(5, 1, t0+5)}, []Attempt{attempt(10, 1, true, 0), attempt(11, 1, true, 0), attempt(11, 1, true, 0), attempt(12, 2, true, 0), attempt(13, 2, false, 0), attempt(14, 3, true, (t0+100)*1000)}),
		batchEntry(t, t0+400, []Proof{proof(6, 1, t0+400), proof(2, 1, t0-200)}, nil),
	}
	if level == 1 {
		return append(common, epoch, batchEntry(t, t0+1400, []Proof{proof(7, 1, t0+1200), proof(8, 1, t0+1400)}, nil))
	}
	journal := func(at int64, proofs ...Proof) []byte {
		b, err := EncodeJournal(at*1000, proofs)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	return append(common,
		EncodeHold((t0+401)*1000, true), batchEntry(t, t0+402, []Proof{proof(20, 1, t0+402)}, nil), batchEntry(t, t0+2000, nil, nil),
		journal(t0+2001, proof(20, 2, t0+402), proof(21, 1, t0+403), proof(22, 1, t0+404)), journal(t0+2002, proof(21, 9, t0+403), proof(22, 1, t0+404)),
	)
}

// makeGolden writes what is missing, and refuses to change what is there.
func makeGolden(t *testing.T, dir string, level uint32) {
	t.Helper()
	entries := goldenLog(t, level)
	s := New()
	verdicts, err := replayGolden(s, entries)
	if err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	for _, e := range entries {
		fmt.Fprintf(&log, "%x\n", e)
	}
	var snapshot bytes.Buffer
	if _, err := s.Snapshot().WriteTo(&snapshot); err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{"log.txt": []byte(log.String()), "verdicts.txt": []byte(verdicts), "state.txt": []byte(dump(s, entries)), "snapshot": snapshot.Bytes()} {
		path := filepath.Join(dir, name)
		old, err := os.ReadFile(path)
		switch {
		case err == nil && !bytes.Equal(old, b):
			t.Errorf("%s would change: what was released is for ever. If it never was, remove the directory first", path)
		case errors.Is(err, os.ErrNotExist):
			if err := errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(path, b, 0o644)); err != nil {
				t.Fatal(err)
			}
		case err != nil:
			t.Fatal(err)
		}
	}
}

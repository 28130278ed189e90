package replay

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"
)

func restored(t testing.TB, b []byte) *State {
	t.Helper()
	s := New()
	if err := s.Restore(bytes.NewReader(b)); err != nil {
		t.Fatal(err)
	}
	return s
}

func snapshotBytes(t testing.TB, s *State) []byte {
	t.Helper()
	snap := s.Snapshot()
	b := snap.Bytes()
	if int64(len(b)) != snap.Size() {
		t.Fatalf("%d bytes, size said %d", len(b), snap.Size())
	}
	return b
}

// randomEntry is an entry over few enough proofs and principals that most meet what others left.
// randomEntry is one of any kind; those of feature level 2 only with merging.
func randomEntry(t testing.TB, r *rand.Rand, at int64, merging bool) []byte {
	switch r.IntN(60) {
	case 0:
		b, err := EncodeSkew(at*1000, time.Duration(1+r.IntN(900))*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		return b
	case 1:
		b, err := EncodeEpoch(at*1000, Epoch{ID: k(r.IntN(9)), NotBefore: (at - 300 + r.Int64N(200)) * 1000})
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	random := func() Proof {
		n := r.IntN(400)
		return proof(n, r.IntN(3), at-at%600+int64(n*7%500)-200)
	}
	if merging {
		switch r.IntN(12) {
		case 0:
			return EncodeHold(at*1000, r.IntN(4) > 0)
		case 1:
			journal := make([]Proof, r.IntN(5))
			for i := range journal {
				journal[i] = random()
				journal[i].CTime -= r.Int64N(2) * r.Int64N(2000)
			}
			return journalEntry(t, at, journal...)
		}
	}
	proofs, attempts := make([]Proof, r.IntN(8)), make([]Attempt, r.IntN(4))
	for i := range proofs {
		proofs[i] = random()
	}
	for i := range attempts {
		attempts[i] = Attempt{Proof: random(), Principal: k(r.IntN(12)), Failed: r.IntN(2) == 0, Window: uint32(r.IntN(3) * 30), UnlockedAt: r.Int64N(2) * (at - 20) * 1000}
	}
	return batchEntry(t, at, proofs, attempts)
}

// Replicas that apply one log, are snapshotted and restored at any point, and get the snapshot of another one instead of
// some entries, hold the same bytes and give the same verdicts.
func TestReplicas(t *testing.T) {
	r := seeded(t)
	for round := range 10 {
		limit := []int{0, 5}[r.IntN(2)]
		fresh := func() *State { s := New(); s.counters.max, s.maxHeld = limit, 20*limit; return s }
		log := make([][]byte, 600)
		one, verdicts, states := fresh(), make([][]Verdict, len(log)), make([][]byte, len(log))
		seen := map[Verdict]int{}
		at := t0
		for i := range log {
			at += r.Int64N(4) - r.Int64N(2)
			if r.IntN(100) == 0 {
				at += 2000
			}
			log[i] = randomEntry(t, r, at, true)
			verdicts[i] = mustApply(t, one, log[i])
			states[i] = snapshotBytes(t, one)
			for _, v := range verdicts[i] {
				seen[v]++
			}
		}
		if round == 0 {
			t.Log(seen, one.Stats())
		}
		for range 3 {
			s := fresh()
			for i := 0; i < len(log); i++ {
				switch r.IntN(40) {
				case 0: // restart from a snapshot of its own, written while entries went on
					snap := s.Snapshot()
					ahead := min(i+r.IntN(20), len(log))
					for _, e := range log[i:ahead] {
						mustApply(t, s, e)
					}
					b := snap.Bytes()
					s = fresh()
					if err := s.Restore(bytes.NewReader(b)); err != nil {
						t.Fatal(err)
					}
				case 1: // the snapshot of one that is ahead
					i = min(i+r.IntN(20), len(log)-1)
					if err := s.Restore(bytes.NewReader(states[i])); err != nil {
						t.Fatal(err)
					}
					continue
				}
				if got := mustApply(t, s, log[i]); !slices.Equal(got, verdicts[i]) {
					t.Fatalf("round %d, entry %d: %v, the other replica says %v", round, i, got, verdicts[i])
				}
				if !bytes.Equal(snapshotBytes(t, s), states[i]) {
					t.Fatalf("round %d: another state after entry %d", round, i)
				}
			}
		}
	}
}

// An entry handed in again changes no verdict and no byte: proofs are SAME or too old, and nothing is counted twice.
func TestEntriesAgainChangeNothing(t *testing.T) {
	s := New()
	proofs := []Proof{proof(1, 1, t0), proof(2, 1, t0-100)}
	attempts := []Attempt{{Proof: proof(3, 1, t0), Principal: k(1), Failed: true}, {Proof: proof(4, 1, t0), Principal: k(2)}}
	entry := batchEntry(t, t0, proofs, attempts)
	mustApply(t, s, entry)
	later := batchEntry(t, t0+5, nil, []Attempt{{Proof: proof(5, 1, t0+5), Principal: k(1), Failed: true}})
	mustApply(t, s, later)
	before := snapshotBytes(t, s)
	for _, v := range append(mustApply(t, s, entry), mustApply(t, s, later)...) {
		if v != Same {
			t.Error(v)
		}
	}
	if !bytes.Equal(snapshotBytes(t, s), before) {
		t.Error("another state")
	}
}

// small is a state with every kind of content.
func small(t testing.TB) *State {
	s := New()
	skew, err := EncodeSkew(t0*1000, 10*time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	epoch, err := EncodeEpoch(t0*1000, Epoch{ID: k(77), NotBefore: (t0 - 200) * 1000})
	if err != nil {
		t.Fatal(err)
	}
	mustApply(t, s, skew)
	mustApply(t, s, epoch)
	mustApply(t, s, batchEntry(t, t0, []Proof{proof(1, 1, t0), proof(2, 1, t0), proof(3, 1, t0-100), proof(4, 1, t0+300)},
		[]Attempt{{Proof: proof(5, 1, t0), Principal: k(1), Failed: true}, {Proof: proof(6, 1, t0), Principal: k(2)}, {Proof: proof(7, 1, t0), Principal: k(3)}}))
	return s
}

// merged is small that has held things and taken a journal.
func merged(t testing.TB) *State {
	s := small(t)
	mustApply(t, s, EncodeHold(t0*1000, true))
	mustApply(t, s, batchEntry(t, t0+1000, []Proof{proof(8, 1, t0+1000)}, nil))
	mustApply(t, s, journalEntry(t, t0+1000, proof(1, 2, t0), proof(9, 1, t0-5000), proof(8, 2, t0+1000)))
	return s
}

func TestDamagedSnapshotIsRefused(t *testing.T) {
	for name, state := range map[string]func(testing.TB) *State{"version 1": small, "version 2": merged} {
		t.Run(name, func(t *testing.T) { damage(t, snapshotBytes(t, state(t))) })
	}
}

func damage(t *testing.T, b []byte) {
	if again := snapshotBytes(t, restored(t, b)); !bytes.Equal(b, again) {
		t.Fatal("the restored state writes another snapshot")
	}
	s := New()
	one(t, s, t0, proof(9, 1, t0))
	want := snapshotBytes(t, s)
	refuse := func(what string, b []byte) {
		t.Helper()
		if err := s.Restore(bytes.NewReader(b)); !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrTooNew) {
			t.Errorf("%s: %v", what, err)
		}
	}
	r := seeded(t)
	for i := range b {
		c := bytes.Clone(b)
		c[i] ^= byte(1 + r.IntN(255))
		refuse(fmt.Sprintf("byte %d", i), c)
		refuse(fmt.Sprintf("cut at %d", i), b[:i])
	}
	refuse("one byte more", append(bytes.Clone(b), 0))
	version := resum(edit(b, 8, 3))
	if err := s.Restore(bytes.NewReader(version)); !errors.Is(err, ErrTooNew) {
		t.Error(err)
	}
	if !bytes.Equal(snapshotBytes(t, s), want) {
		t.Error("a refused snapshot changed the state")
	}
}

func edit(b []byte, at int, v ...byte) []byte {
	c := bytes.Clone(b)
	copy(c[at:], v)
	return c
}

// resum makes the checksums of a snapshot right.
func resum(b []byte) []byte {
	c := bytes.Clone(b)
	le := binary.LittleEndian
	le.PutUint32(c[headerSize-4:], crc32.Checksum(c[:headerSize-4], castagnoli))
	le.PutUint32(c[len(c)-4:], crc32.Checksum(c[:len(c)-4], castagnoli))
	return c
}

// Snapshots with right checksums and wrong contents.
func TestHostileSnapshotIsRefused(t *testing.T) {
	b := snapshotBytes(t, small(t))
	restored(t, resum(b))
	first, all := headerSize, bytes.Repeat([]byte{0xff}, 8)
	counterAt := len(b) - trailerSize - counterBytes // of the one with failures, the last
	for what, c := range map[string][]byte{
		"now":                edit(b, 12, all...),
		"low below":          edit(b, 20, make([]byte, 8)...),
		"low above":          edit(b, 20, all[:7]...),
		"skew 0":             edit(b, 28, 0, 0, 0, 0),
		"skew 4 G":           edit(b, 28, all[:4]...),
		"epoch":              edit(b, 48, all...),
		"buckets":            edit(b, 56, all[:4]...),
		"one bucket less":    edit(b, 56, b[56]-1),
		"items":              edit(b, 60, all...),
		"one item less":      edit(b, 60, b[60]-1),
		"counters":           edit(b, 68, all[:4]...),
		"counters exchanged": edit(edit(b, 68, b[72]), 72, b[68]),
		"bucket too low":     edit(b, first, make([]byte, 8)...),
		"bucket too high":    edit(b, first, all[:7]...),
		"empty bucket":       edit(b, first+8, 0),
		"4 G items":          edit(b, first+8, all[:4]...),
		"bucket twice":       edit(b, first+bucketHeader+itemBytes, b[first:first+8]...),
		"counter twice":      edit(b, counterAt-counterBytes, b[counterAt-2*counterBytes:counterAt-2*counterBytes+16]...),
		"failures in clean":  edit(b, counterAt-counterBytes+16, 1),
		"trailer":            edit(b, len(b)-trailerSize, 'E'),
	} {
		if err := New().Restore(bytes.NewReader(resum(c))); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %v", what, err)
		}
	}
	twice := bytes.Clone(b)
	at := bytes.Index(b, bytes.Join([][]byte{sliceOf(k(1)), {1}}, nil))
	copy(twice[at+itemBytes:], twice[at:at+itemBytes])
	if err := New().Restore(bytes.NewReader(resum(twice))); !errors.Is(err, ErrCorrupt) {
		t.Error("an item twice:", err)
	}
	broken := errors.New("disk gone")
	if err := New().Restore(&failingReader{b[:100], broken}); !errors.Is(err, broken) {
		t.Error(err)
	}
	if _, err := small(t).Snapshot().WriteTo(failingWriter{broken}); !errors.Is(err, broken) {
		t.Error(err)
	}
}

func sliceOf(a [16]byte) []byte { return a[:] }

type failingReader struct {
	b   []byte
	err error
}

func (f *failingReader) Read(p []byte) (int, error) {
	if len(f.b) == 0 {
		return 0, f.err
	}
	n := copy(p, f.b)
	f.b = f.b[n:]
	return n, nil
}

type failingWriter struct{ err error }

func (f failingWriter) Write([]byte) (int, error) { return 0, f.err }

// A snapshot is that of its moment while the log and readers go on beside it.
func TestSnapshotWhileApplying(t *testing.T) {
	s := New()
	for i := range 700 {
		one(t, s, t0, proof(i, 1, t0+int64(i%3)))
	}
	want := snapshotBytes(t, s)
	snap := s.Snapshot()
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := range 3000 {
			at := t0 + int64(i/4)
			mustApply(t, s, batchEntry(t, at, []Proof{proof(1000+i, 1, at)}, []Attempt{{Proof: proof(5000+i, 1, at), Principal: k(i % 50), Failed: true}}))
		}
	})
	wg.Go(func() {
		for i := range 3000 {
			s.Contains(proof(i, 1, t0))
			s.Activity(k(i % 50))
			s.Stats()
		}
	})
	for range 5 {
		if got := snap.Bytes(); !bytes.Equal(got, want) {
			t.Error("the snapshot moved")
		}
	}
	wg.Wait()
}

// The index finds everything across its growths, and nothing else.
func TestBucketGrows(t *testing.T) {
	r := seeded(t)
	var b bucket
	model := map[[16]byte][8]byte{}
	for range 20_000 {
		var it item
		// Few places and tags, so that chains are long.
		it.k[0], it.k[8], it.k[9], it.k[10] = byte(r.IntN(256)), byte(r.IntN(4)), byte(r.IntN(256)), byte(r.IntN(64))
		it.k[1] = byte(r.IntN(256))
		it.r[0] = byte(r.IntN(256))
		rr, seen := b.lookup(it.k)
		want, known := model[it.k]
		if seen != known || rr != want {
			t.Fatalf("%v %v, want %v %v", rr, seen, want, known)
		}
		if !seen {
			b.add(it)
			model[it.k] = it.r
		}
	}
	if b.n != len(model) {
		t.Error(b.n, len(model))
	}
	for key, want := range model {
		if rr, seen := b.lookup(key); !seen || rr != want {
			t.Fatal(key)
		}
	}
}

func FuzzApply(f *testing.F) {
	r := rand.New(rand.NewPCG(1, 1))
	for range 30 {
		f.Add(randomEntry(f, r, t0, true))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		s := small(t)
		v, err := s.Apply(b)
		if err != nil {
			if !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrTooNew) {
				t.Fatal(err)
			}
			if !bytes.Equal(snapshotBytes(t, s), snapshotBytes(t, small(t))) {
				t.Fatal("a refused entry changed the state")
			}
			return
		}
		if len(v) > ItemsMax || len(s.buckets) > int(bucketsMax) {
			t.Fatal(len(v), len(s.buckets))
		}
		a := snapshotBytes(t, s)
		if !bytes.Equal(snapshotBytes(t, restored(t, a)), a) {
			t.Fatal("another state after restoring")
		}
	})
}

func FuzzRestore(f *testing.F) {
	f.Add(snapshotBytes(f, small(f)))
	f.Add(snapshotBytes(f, New()))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > headerSize+4 {
			b = resum(b)
		}
		s := New()
		if err := s.Restore(bytes.NewReader(b)); err != nil {
			if !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrTooNew) {
				t.Fatal(err)
			}
			return
		}
		if !bytes.Equal(snapshotBytes(t, s), b) {
			t.Fatal("the restored state writes another snapshot")
		}
		one(t, s, t0, proof(1, 1, t0))
	})
}

// BenchmarkInsert is the time of one proof within entries of 1000, at 30,000 a second of log time, and what one held proof takes in memory.
func BenchmarkInsert(b *testing.B) {
	r := rand.New(rand.NewPCG(3, 3))
	const perEntry, perSecond = 1000, 30_000
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	s := New()
	proofs := make([]Proof, perEntry)
	n := 0
	b.ResetTimer()
	for range (b.N + perEntry - 1) / perEntry {
		b.StopTimer()
		at := t0*1000 + int64(n)*1000/perSecond
		for i := range proofs {
			binary.LittleEndian.PutUint64(proofs[i].K[:], r.Uint64())
			binary.LittleEndian.PutUint64(proofs[i].K[8:], r.Uint64())
			proofs[i].CTime = at / 1000
		}
		entry, err := EncodeBatch(at, proofs, nil)
		if err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
		if _, err := s.Apply(entry); err != nil {
			b.Fatal(err)
		}
		n += perEntry
	}
	b.StopTimer()
	runtime.GC()
	runtime.ReadMemStats(&after)
	b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/float64(s.Stats().Items), "B/item")
	runtime.KeepAlive(s)
}

func BenchmarkSnapshot(b *testing.B) {
	s := New()
	for i := range 1000 {
		ps := make([]Proof, 1000)
		for j := range ps {
			ps[j] = proof(i*1000+j, 1, t0-300+int64(i)/3)
		}
		mustApply(b, s, batchEntry(b, t0, ps, nil))
	}
	for b.Loop() {
		s.Snapshot()
	}
}

package replay

import (
	"bytes"
	"slices"
	"testing"
)

func journalEntry(t testing.TB, at int64, proofs ...Proof) []byte {
	t.Helper()
	b, err := EncodeJournal(at*1000, proofs)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// A journal meets what the cluster accepted meanwhile, however long ago that was, and the journals of others.
func TestJournalsMeet(t *testing.T) {
	s := New()
	accept := func(at int64, p Proof) {
		t.Helper()
		if v := one(t, s, at, p); v != Fresh {
			t.Fatal(v)
		}
	}
	accept(t0, proof(1, 1, t0))
	mustApply(t, s, EncodeHold((t0+10)*1000, true))
	accept(t0+10, proof(2, 1, t0+10))
	later := t0 + 10*3600
	accept(later, proof(3, 1, later))
	if v := one(t, s, later, proof(1, 2, t0)); v != Stale {
		t.Errorf("a held authenticator in an ordinary request: %v, want STALE as ever", v)
	}
	for _, c := range []struct {
		name  string
		proof Proof
		want  Verdict
	}{
		{"accepted by the cluster in another request", proof(1, 2, t0), Repeat},
		{"the same, submitted again", proof(1, 2, t0), Repeat},
		{"accepted in the same request", proof(2, 1, t0+10), Same},
		{"still within its time, in another request", proof(3, 2, later), Repeat},
		{"unknown and old", proof(4, 1, t0+3600), Fresh},
		{"what an earlier journal brought, in another request", proof(4, 2, t0+3600), Repeat},
		{"unknown and new", proof(5, 1, later), Fresh},
		{"from before anything was held", proof(6, 1, t0-86400), Stale},
		{"and yet another journal's", proof(6, 2, t0-86400), Repeat},
	} {
		if v := mustApply(t, s, journalEntry(t, later, c.proof)); !slices.Equal(v, []Verdict{c.want}) {
			t.Errorf("%s: %v, want %v", c.name, v, c.want)
		}
	}
	if st := s.Stats(); st.Doubles != 4 || st.LastDouble != later*1000 || !st.Holding {
		t.Errorf("%+v, want 4 doubles", st)
	}
	if v := one(t, s, later, proof(5, 2, later)); v != Repeat {
		t.Errorf("what a journal brought, in another request: %v", v)
	}
	mustApply(t, s, EncodeHold(later*1000, false))
	if st := s.Stats(); st.Doubles != 4 || st.Held != 0 || st.Holding {
		t.Errorf("after the hold: %+v", st)
	}
	if v := mustApply(t, s, journalEntry(t, later, proof(1, 3, t0))); v[0] != Stale {
		t.Errorf("when nothing is held any more: %v", v)
	}
}

func TestHeldIsBounded(t *testing.T) {
	s := New()
	s.maxHeld = 10
	mustApply(t, s, EncodeHold(t0*1000, true))
	for i := range 40 {
		at := t0 + int64(i)*1000
		mustApply(t, s, batchEntry(t, at, []Proof{proof(i, 1, at)}, nil))
	}
	if st := s.Stats(); st.Held > 10 {
		t.Errorf("%d held", st.Held)
	}
	if v := mustApply(t, s, journalEntry(t, t0+40_000, proof(35, 2, t0+35_000), proof(2, 2, t0+2000))); v[0] != Repeat || v[1] != Stale {
		t.Errorf("%v, want what is held and what is not", v)
	}
}

// A state that never held anything writes what the release before it reads.
func TestSnapshotVersionIsTheLeastThatHolds(t *testing.T) {
	s := small(t)
	if b := snapshotBytes(t, s); b[8] != 1 {
		t.Errorf("version %d", b[8])
	}
	m := merged(t)
	b := snapshotBytes(t, m)
	if b[8] != 2 {
		t.Errorf("version %d with something held", b[8])
	}
	again := restored(t, b)
	if got, want := again.Stats(), m.Stats(); got != want || got.Doubles != 2 {
		t.Errorf("%+v restored, was %+v", got, want)
	}
	for _, x := range []*State{m, again} {
		if v := mustApply(t, x, journalEntry(t, t0+1000, proof(1, 2, t0), proof(9, 2, t0-5000))); v[0] != Repeat || v[1] != Repeat {
			t.Error(v)
		}
	}
	if !bytes.Equal(snapshotBytes(t, m), snapshotBytes(t, again)) {
		t.Error("states differ")
	}
	mustApply(t, s, EncodeHold(t0*1000, true))
	mustApply(t, s, EncodeHold(t0*1000, false))
	if b := snapshotBytes(t, s); b[8] != 1 {
		t.Errorf("version %d when the hold is over and nothing was found", b[8])
	}
}

func TestView(t *testing.T) {
	s := New()
	e, err := EncodeSkew(t0*1000, 2*SkewDefault)
	if err != nil {
		t.Fatal(err)
	}
	mustApply(t, s, e)
	v := s.View()
	if v.Skew() != 2*SkewDefault || v.Now() != s.Now() {
		t.Errorf("skew %v, now %d", v.Skew(), v.Now())
	}
	at := (t0 + 100) * 1000
	for i, c := range []struct {
		p    Proof
		want Verdict
	}{
		{proof(1, 1, t0-500), Fresh}, {proof(1, 1, t0-500), Same}, {proof(1, 2, t0-500), Repeat}, {proof(2, 1, t0-5000), Stale},
	} {
		if got := v.Accept(at, c.p); got != c.want {
			t.Errorf("%d: %v, want %v", i, got, c.want)
		}
	}
	if got := s.Judge(proof(1, 2, t0)); got != Fresh {
		t.Errorf("the log's state learned from a view: %v", got)
	}
	epoch, err := EncodeEpoch(t0*1000, Epoch{NotBefore: t0 * 1000})
	if err != nil {
		t.Fatal(err)
	}
	mustApply(t, s, epoch)
	if got := s.Judge(proof(3, 1, t0-1)); got != Stale {
		t.Errorf("from before the epoch: %v", got)
	}
}

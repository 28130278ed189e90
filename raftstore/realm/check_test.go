package realm

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// A scrub beside writes finds nothing in a sound file, and a flipped bit in one that is not; it tells whoever wants to know.
func TestScrub(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	var told error
	o := testOptions
	o.Damaged = func(err error) { told = err }
	db, err := Open(path, o)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		for {
			if err := db.Scrub(ctx, 1<<40); err != nil {
				done <- err
				return
			}
		}
	}()
	for i := range 300 {
		mustApply(t, db, putP(principal(string(rune('a'+i%20))), nil))
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) || told != nil {
		t.Fatal(err, told)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	found := false
	for at := 0; at < len(b) && !found; at += 61 {
		write(t, path, at, b[at]^1)
		found = db.Scrub(t.Context(), 1<<40) != nil
		write(t, path, at, b[at])
	}
	if !found || !errors.Is(told, ErrCorrupt) {
		t.Errorf("found: %v, told: %v", found, told)
	}
	if err := db.Scrub(t.Context(), 1<<40); err != nil {
		t.Errorf("mended, and still: %v", err)
	}
}

func write(t *testing.T, path string, at int, v byte) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteAt([]byte{v}, int64(at))
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
}

// Two files that applied the same entries have the same hash at each index, whatever batches they came in and restarts lay between; another record, another hash.
func TestHashesAreAlike(t *testing.T) {
	path := filepath.Join(t.TempDir(), "b.db")
	a := openTest(t)
	b, err := Open(path, testOptions)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 40 {
		e := []Entry{
			{Index: uint64(2*i + 1), Term: 1, Data: envelope(t, putP(principal(string(rune('a'+i%7))), nil), t0+int64(i))},
			{Index: uint64(2*i + 2), Term: 1, Data: envelope(t, delP(string(rune('a'+i%5)), nil), t0+int64(i))},
		}
		if _, _, err := a.ApplyBatch(e); err != nil {
			t.Fatal(err)
		}
		for j := range e {
			if _, _, err := b.ApplyBatch(e[j : j+1]); err != nil {
				t.Fatal(err)
			}
		}
		for _, p := range a.Hashes().Tell() {
			if h, ok := b.Hashes().At(p.Index); ok && h != p.Hash {
				t.Fatalf("index %d: %v and %v", p.Index, p.Hash, h)
			}
		}
		if a.Hashes().Last() != b.Hashes().Last() {
			t.Fatalf("%v and %v", a.Hashes().Last(), b.Hashes().Last())
		}
		if i%10 == 9 {
			if err := b.Close(); err != nil {
				t.Fatal(err)
			}
			if b, err = Open(path, testOptions); err != nil {
				t.Fatal(err)
			}
		}
	}
	mustApply(t, b, putP(principal("other"), nil))
	if a.Hashes().Last().Hash == b.Hashes().Last().Hash {
		t.Error("another record, the same hash")
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
}

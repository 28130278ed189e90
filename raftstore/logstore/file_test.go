package logstore

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"go.etcd.io/bbolt"
)

var seed = flag.Uint64("seed", 0, "seed of the random tests; 0: by the time")

func random(t *testing.T) *rand.Rand {
	s := *seed
	if s == 0 {
		s = uint64(time.Now().UnixNano())
	}
	t.Logf("-seed %d", s)
	return rand.New(rand.NewPCG(s, 1))
}

// written is what a log must say: a model of file.
type written struct {
	first, last uint64
	logs        map[uint64]raft.Log
	conf        map[string]string
}

func (w *written) check(t *testing.T, f *file) {
	t.Helper()
	first, _ := f.FirstIndex()
	last, _ := f.LastIndex()
	if first != w.first || last != w.last {
		t.Fatalf("entries %d to %d, written were %d to %d", first, last, w.first, w.last)
	}
	for i := max(w.first, 3) - 2; i <= w.last+2; i++ {
		var l raft.Log
		err := f.GetLog(i, &l)
		want, there := w.logs[i]
		if there != (err == nil) || !there && !errors.Is(err, raft.ErrLogNotFound) || there && !reflect.DeepEqual(l, want) {
			t.Fatalf("entry %d: %+v, %v; written %v: %+v", i, l, err, there, want)
		}
	}
	for k, v := range w.conf {
		if got, err := f.Get([]byte(k)); err != nil || string(got) != v {
			t.Fatalf("%s: %q, %v; written %q", k, got, err, v)
		}
	}
}

// change makes one random change to both, as raft makes them: appends, a cut head, a cut end, all gone, a value.
func (w *written) change(t *testing.T, r *rand.Rand, f *file) {
	t.Helper()
	cut := func(lo, hi uint64) {
		if err := f.DeleteRange(lo, hi); err != nil {
			t.Fatal(err)
		}
		for i := lo; i <= hi; i++ {
			delete(w.logs, i)
		}
		switch {
		case len(w.logs) == 0:
			w.first, w.last = 0, 0
		case lo <= w.first:
			w.first = hi + 1
		default:
			w.last = lo - 1
		}
	}
	switch n := r.IntN(12); {
	case n < 6 || w.last == 0:
		at := w.last + 1
		if w.last == 0 {
			at = 1 + r.Uint64N(1000)
			w.first = at
		}
		var logs []*raft.Log
		for i := range 1 + r.Uint64N(40) {
			l := raft.Log{Index: at + i, Term: r.Uint64N(9), Type: raft.LogType(r.IntN(6)), Data: bytes.Repeat([]byte{byte(i)}, 1+r.IntN(300))}
			if r.IntN(2) == 0 {
				l.AppendedAt = time.Unix(0, r.Int64())
			}
			if r.IntN(9) == 0 {
				l.Extensions = []byte("extension")
			}
			logs = append(logs, &l)
			w.logs[l.Index] = l
			w.last = l.Index
		}
		if err := f.StoreLogs(logs); err != nil {
			t.Fatal(err)
		}
	case n < 8:
		cut(w.first, w.first+r.Uint64N(w.last-w.first+1))
	case n < 9:
		cut(w.first+r.Uint64N(w.last-w.first+1), w.last)
	case n < 10 && r.IntN(3) == 0:
		cut(w.first, w.last)
	default:
		k, v := fmt.Sprint("key", r.IntN(4)), fmt.Sprint(r.Uint64())
		w.conf[k] = v
		if err := f.Set([]byte(k), []byte(v)); err != nil {
			t.Fatal(err)
		}
	}
}

func reopened(t *testing.T, f *file, path string) *file {
	t.Helper()
	if f != nil {
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	f, err := openFile(path, 0, true)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestLogKeepsWhatIsWritten(t *testing.T) {
	r := random(t)
	for range 4 {
		path := filepath.Join(t.TempDir(), "log.db")
		f := reopened(t, nil, path)
		w := &written{logs: map[uint64]raft.Log{}, conf: map[string]string{}}
		for range 60 {
			w.change(t, r, f)
			if r.IntN(6) == 0 {
				w.check(t, f)
				f = reopened(t, f, path)
			}
		}
		w.check(t, f)
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// Every flipped bit of a log is found when it is opened, or changes nothing.
func TestFlippedBitsOfALog(t *testing.T) {
	r := random(t)
	dir := t.TempDir()
	path := filepath.Join(dir, "log.db")
	f := reopened(t, nil, path)
	w := &written{logs: map[uint64]raft.Log{}, conf: map[string]string{}}
	for range 40 {
		w.change(t, r, f)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	size, found := os.Getpagesize(), 0
	for n := range 600 {
		bit := r.IntN(8 * len(good))
		if n%2 == 0 {
			bit = 8*size*r.IntN(len(good)/size) + r.IntN(8*200)
		}
		c := bytes.Clone(good)
		c[bit/8] ^= 1 << (bit % 8)
		if err := os.WriteFile(path, c, 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := openFile(path, 0, true)
		if err != nil {
			if !errors.Is(err, ErrDamaged) {
				t.Fatalf("bit %d of page %d: %v", bit%(8*size), bit/(8*size), err)
			}
			found++
			continue
		}
		w.check(t, f)
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d of 600 flips found, the others harmless", found)
	if found < 10 {
		t.Errorf("only %d of 600 flips were found", found)
	}
}

// raw changes the file below its checks, as a page that takes another's place does.
func raw(t *testing.T, path string, change func(logs, conf *bbolt.Bucket) error) {
	t.Helper()
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{NoFreelistSync: true, FreelistType: bbolt.FreelistMapType})
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bbolt.Tx) error { return change(tx.Bucket(logsBucket), tx.Bucket(confBucket)) })
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
}

// What has right checksums and is not all, or not the newest, is found too.
func TestMissingAndOldRecordsAreFound(t *testing.T) {
	for what, change := range map[string]func(logs, conf *bbolt.Bucket) error{
		"the last entry":  func(logs, _ *bbolt.Bucket) error { return logs.Delete(indexKey(30)) },
		"the first entry": func(logs, _ *bbolt.Bucket) error { return logs.Delete(indexKey(1)) },
		"an entry":        func(logs, _ *bbolt.Bucket) error { return logs.Delete(indexKey(9)) },
		"the vote":        func(_, conf *bbolt.Bucket) error { return conf.Delete(keyVote) },
		"the summary":     func(_, conf *bbolt.Bucket) error { return conf.Delete(summaryKey) },
		"an older vote":   func(_, conf *bbolt.Bucket) error { return conf.Put(keyVote, sealValue(keyVote, []byte("........a"))) },
		"an entry of a former term": func(logs, _ *bbolt.Bucket) error {
			b, err := encodeEntry(indexKey(7), &raft.Log{Index: 7, Term: 1, Data: []byte("former")})
			return errors.Join(err, logs.Put(indexKey(7), b))
		},
		"an entry under another's key": func(logs, _ *bbolt.Bucket) error { return logs.Put(indexKey(8), logs.Get(indexKey(9))) },
	} {
		path := filepath.Join(t.TempDir(), "log.db")
		s := open(t, path)
		fill(t, s, 1, 30, 2)
		if err := errors.Join(s.SetUint64(keyVoteTerm, 2), s.Set(keyVoteCand, []byte("b")), s.Close()); err != nil {
			t.Fatal(err)
		}
		raw(t, path, change)
		if _, err := Open(path, Options{}); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// A damaged entry that is read later is fatal, and is not handed out.
func TestDamagedEntryIsFatal(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "log.db"))
	defer s.Close()
	fill(t, s, 1, 5, 1)
	f := s.bolt.(*file)
	err := f.bolt.Update(func(tx *bbolt.Tx) error {
		b := tx.Bucket(logsBucket)
		v := bytes.Clone(b.Get(indexKey(3)))
		v[len(v)-5] ^= 4
		return errors.Join(b.Put(indexKey(3), v), b.Delete(indexKey(4)))
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range []uint64{3, 4} {
		var fatal error
		s.opts.Fatal = func(err error) { fatal = err }
		var l raft.Log
		if err := s.GetLog(i, &l); !errors.Is(err, ErrDamaged) || !errors.Is(fatal, ErrDamaged) || l.Data != nil {
			t.Errorf("entry %d: %v, fatal %v, %q", i, err, fatal, l.Data)
		}
	}
}

// The library truncates the head in one goroutine while it appends in another.
func TestAppendsBesideTruncation(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log.db")
	f := reopened(t, nil, path)
	if err := f.StoreLogs([]*raft.Log{{Index: 1, Data: []byte("x")}}); err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() {
		for i := uint64(1); i < 200; i++ {
			if err := f.SetUint64([]byte("CurrentTerm"), i); err != nil {
				done <- err
				return
			}
			if last, _ := f.LastIndex(); last > 10 {
				first, _ := f.FirstIndex()
				if err := f.DeleteRange(first, last-10); err != nil {
					done <- err
					return
				}
			}
		}
		done <- nil
	}()
	for i := uint64(2); i < 300; i++ {
		if err := f.StoreLogs([]*raft.Log{{Index: i, Data: []byte("x")}}); err != nil {
			t.Fatal(err)
		}
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	f = reopened(t, f, path)
	if last, _ := f.LastIndex(); last != 299 {
		t.Errorf("last entry %d", last)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestScrub(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log.db")
	s := open(t, path)
	defer s.Close()
	done := make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		for {
			if err := s.Scrub(ctx, 1<<40); err != nil {
				done <- err
				return
			}
		}
	}()
	for i := uint64(1); i < 200; i++ {
		fill(t, s, i, i, 1)
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for at := 0; at < len(b); at += 61 {
		if _, err := f.WriteAt([]byte{b[at] ^ 8}, int64(at)); err != nil {
			t.Fatal(err)
		}
		err := s.Scrub(t.Context(), 1<<40)
		if _, err := f.WriteAt(b[at:at+1], int64(at)); err != nil {
			t.Fatal(err)
		}
		if errors.Is(err, ErrDamaged) {
			return
		}
	}
	t.Error("no flip was found")
}

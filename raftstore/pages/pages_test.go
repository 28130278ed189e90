package pages

import (
	"bytes"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"github.com/charon-kdc/charon/raftstore/setsum"
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

// options are those of our state files and logs.
func options(pageSize int) *bbolt.Options {
	return &bbolt.Options{NoFreelistSync: true, FreelistType: bbolt.FreelistMapType, PageSize: pageSize, NoSync: true, NoGrowSync: true}
}

// fill writes random records into three buckets, of which one stays small, and deletes some, in several transactions.
func fill(t *testing.T, r *rand.Rand, path string, pageSize, txs, perTx int) {
	t.Helper()
	db, err := bbolt.Open(path, 0o600, options(pageSize))
	if err != nil {
		t.Fatal(err)
	}
	for range txs {
		err := db.Update(func(tx *bbolt.Tx) error {
			for _, name := range []string{"large", "counting", "small"} {
				b, err := tx.CreateBucketIfNotExists([]byte(name))
				if err != nil {
					return err
				}
				for range perTx {
					key := fmt.Appendf(nil, "%x", r.IntN(40*perTx))
					value := make([]byte, r.IntN(300))
					switch {
					case name == "small":
						key, value = key[:1], value[:min(len(value), 4)]
					case name == "counting":
						key = binary.BigEndian.AppendUint64(nil, r.Uint64N(uint64(40*perTx)))
					case r.IntN(50) == 0:
						value = make([]byte, 3*pageSize+r.IntN(max(pageSize, 1)))
					}
					for i := range value {
						value[i] = byte(r.Uint32())
					}
					if r.IntN(3) == 0 {
						err = b.Delete(key)
					} else {
						err = b.Put(key, value)
					}
					if err != nil {
						return err
					}
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}

// sums are what Verify's visitor and bbolt say of the records.
func sums(path string, workers int) (setsum.Sum, error) {
	parts := make([]setsum.Sum, workers)
	_, err := Verify(path, Options{Workers: workers, Visit: func(w int, bucket string, key, value []byte) error {
		parts[w].Put(bucket[0], key, value)
		return nil
	}})
	var all setsum.Sum
	for _, p := range parts {
		all.Add(p)
	}
	return all, err
}

func sumsOfBolt(path string) (all setsum.Sum, err error) {
	db, err := bbolt.Open(path, 0o600, options(0))
	if err != nil {
		return all, err
	}
	err = db.View(func(tx *bbolt.Tx) error {
		return tx.ForEach(func(name []byte, b *bbolt.Bucket) error {
			return b.ForEach(func(k, v []byte) error {
				all.Put(name[0], k, v)
				if !bytes.Equal(b.Get(k), v) {
					return fmt.Errorf("Get of %q finds something else", k)
				}
				return nil
			})
		})
	})
	return all, errors.Join(err, db.Close())
}

func TestVerifyReadsWhatBoltWrites(t *testing.T) {
	r := random(t)
	for i, pageSize := range []int{0, 4096, 1024, 16384, 4096, 4096} {
		path := filepath.Join(t.TempDir(), "db")
		fill(t, r, path, pageSize, 1+r.IntN(40), 1+r.IntN(200))
		want, err := sumsOfBolt(path)
		if err != nil {
			t.Fatal(err)
		}
		for workers := 1; workers <= 3; workers++ {
			if got, err := sums(path, workers); err != nil || got != want {
				t.Errorf("file %d, %d workers: %v %v, bbolt reads %v", i, workers, got, err, want)
			}
		}
	}
}

// A file that bbolt has just made, with its list of free pages, and one that keeps that list.
func TestVerifyReadsFreeLists(t *testing.T) {
	r := random(t)
	path := filepath.Join(t.TempDir(), "db")
	o := options(0)
	o.NoFreelistSync = false
	for range 3 {
		db, err := bbolt.Open(path, 0o600, o)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Verify(path, Options{}); err != nil {
			t.Fatal(err)
		}
		err = db.Update(func(tx *bbolt.Tx) error {
			b, err := tx.CreateBucketIfNotExists([]byte("b"))
			for range 200 {
				err = errors.Join(err, b.Put(fmt.Append(nil, r.IntN(1000)), make([]byte, 200)), b.Delete(fmt.Append(nil, r.IntN(1000))))
			}
			return err
		})
		if err := errors.Join(err, db.Close()); err != nil {
			t.Fatal(err)
		}
		if _, err := Verify(path, Options{}); err != nil {
			t.Fatal(err)
		}
	}
}

// Every flipped bit is found by Verify, or changes the records' sum, or changes nothing that bbolt reads.
func TestFlippedBits(t *testing.T) {
	r := random(t)
	dir := t.TempDir()
	path, broken := filepath.Join(dir, "db"), filepath.Join(dir, "broken")
	fill(t, r, path, 1024, 12, 30)
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	want, err := sumsOfBolt(path)
	if err != nil {
		t.Fatal(err)
	}
	found, owner, harmless := 0, 0, 0
	for n := range 1000 {
		bit := r.IntN(8 * len(good))
		if n%3 == 0 { // the headers, where the damage is worst
			bit = 8*1024*r.IntN(len(good)/1024) + r.IntN(8*128)
		}
		c := bytes.Clone(good)
		c[bit/8] ^= 1 << (bit % 8)
		if err := os.WriteFile(broken, c, 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := sums(broken, 2)
		switch {
		case errors.Is(err, ErrDamaged):
			found++
		case err != nil:
			t.Fatalf("bit %d: %v", bit, err)
		case got != want:
			owner++
		default:
			harmless++
			if got, err := sumsOfBolt(broken); err != nil || got != want {
				t.Fatalf("bit %d of page %d: not found, and bbolt reads %v, %v", bit%8192, bit/8192, got, err)
			}
		}
	}
	t.Logf("%d found in the pages, %d by the sum, %d harmless", found, owner, harmless)
	if found < 100 || owner < 100 {
		t.Errorf("of 1000 flips %d were found in the pages and %d by the sum", found, owner)
	}
}

// Whole pages of garbage, cut files and pages put in another's place: Verify ends, without a panic.
func TestRuinedFiles(t *testing.T) {
	r := random(t)
	dir := t.TempDir()
	path, broken := filepath.Join(dir, "db"), filepath.Join(dir, "broken")
	fill(t, r, path, 1024, 8, 40)
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	want, err := sums(path, 1)
	if err != nil {
		t.Fatal(err)
	}
	pagesOf := len(good) / 1024
	for range 250 {
		c := bytes.Clone(good)
		switch r.IntN(4) {
		case 0:
			c = c[:r.IntN(len(c))]
		case 1:
			copy(c[1024*r.IntN(pagesOf):], good[1024*r.IntN(pagesOf):][:1024])
		case 2:
			at := 1024 * r.IntN(pagesOf)
			for i := range 1024 {
				c[at+i] = byte(r.Uint32())
			}
		case 3:
			for range 20 {
				c[1024*r.IntN(pagesOf)+r.IntN(200)] = byte(r.Uint32())
			}
		}
		if err := os.WriteFile(broken, c, 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := sums(broken, 2); err == nil && got == want {
			if got, err := sumsOfBolt(broken); err != nil || got != want {
				t.Fatalf("not found, and bbolt reads %v, %v", got, err)
			}
		}
	}
}

func TestNewestMetaPage(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "db")
	fill(t, random(t), path, 4096, 5, 20)
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	res, err := Verify(path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	newest := int(res.TxID % 2)
	damage := func(page, bits int) (Result, error, Result, error) {
		c := bytes.Clone(good)
		for i := range bits {
			c[4096*page+headerSize+16+i] ^= 1
		}
		if err := os.WriteFile(path, c, 0o600); err != nil {
			t.Fatal(err)
		}
		strict, err := Verify(path, Options{})
		lenient, lerr := Verify(path, Options{TornMeta: true})
		return strict, err, lenient, lerr
	}
	if _, err, _, lerr := damage(newest, 1); !errors.Is(err, ErrDamaged) || !errors.Is(lerr, ErrDamaged) {
		t.Errorf("a bit of the newest meta page: %v; %v", err, lerr)
	}
	if got, err, _, lerr := damage(1-newest, 1); err != nil || lerr != nil || got.TxID != res.TxID {
		t.Errorf("a bit of the older meta page: %v; %v; transaction %d of %d", err, lerr, got.TxID, res.TxID)
	}
	if _, err, got, lerr := damage(newest, 3); !errors.Is(err, ErrDamaged) || lerr != nil || !got.Torn || got.TxID != res.TxID-1 {
		t.Errorf("a torn meta page: %v; %v %+v", err, lerr, got)
	}
	if err := os.WriteFile(path, good, 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := Verify(path, Options{TxID: res.TxID - 1}); err != nil || got.TxID != res.TxID-1 {
		t.Errorf("the transaction before: %+v, %v", got, err)
	}
}

func TestGuard(t *testing.T) {
	if err := Guard(func() error { var p []int; _ = p[len(os.Args)+3]; return nil }); !errors.Is(err, ErrDamaged) {
		t.Error(err)
	}
	path := filepath.Join(t.TempDir(), "cut")
	fill(t, random(t), path, 4096, 3, 50)
	db, err := bbolt.Open(path, 0o600, options(0))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, 8192); err != nil { // reading beyond it is SIGBUS
		t.Fatal(err)
	}
	err = Guard(func() error {
		return db.View(func(tx *bbolt.Tx) error {
			return tx.ForEach(func(_ []byte, b *bbolt.Bucket) error { return b.ForEach(func(k, v []byte) error { return nil }) })
		})
	})
	if !errors.Is(err, ErrDamaged) {
		t.Error(err)
	}
}

func FuzzVerify(f *testing.F) {
	path := filepath.Join(f.TempDir(), "db")
	db, err := bbolt.Open(path, 0o600, options(1024))
	if err != nil {
		f.Fatal(err)
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		b, err := tx.CreateBucket([]byte("b"))
		return errors.Join(err, b.Put([]byte("k"), make([]byte, 2000)), b.Put([]byte("l"), nil))
	})
	b, rerr := os.ReadFile(path)
	if err := errors.Join(err, db.Close(), rerr); err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		_, err := verify(b, Options{Workers: 2, TornMeta: true, Visit: func(_ int, bucket string, k, v []byte) error {
			if len(bucket)+len(k)+len(v) > len(b) {
				t.Error("a record larger than the file")
			}
			return nil
		}})
		if err != nil && !errors.Is(err, ErrDamaged) {
			t.Error(err)
		}
	})
}

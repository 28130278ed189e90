package realm

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	statev1 "github.com/charon-kdc/charon/proto/charon/state/v1"
)

// large makes a state file of n principals with two keys each, as an import leaves it.
func large(b *testing.B, path string, n int) {
	b.Helper()
	db, err := Open(path, Options{NoSync: true})
	if err != nil {
		b.Fatal(err)
	}
	st := db.applied.Load().clone()
	st.index, st.term = uint64(n), 1
	o := &loaded{}
	for at := 0; at < n; at += installRecordsMax {
		err := db.file.bolt.Update(func(tx *bbolt.Tx) error {
			bucket := tx.Bucket(bucketNames[principals])
			bucket.FillPercent = 0.9
			for i := at; i < min(n, at+installRecordsMax); i++ {
				name := []string{fmt.Sprintf("user%08d", i)}
				p := &statev1.Principal{Id: make([]byte, 16), Realm: "EXAMPLE.COM", Name: name, NameType: 1, Kvno: 2, Attributes: 0x80, Policy: "default", CreatedBy: "cert:root", ModifiedBy: "cert:root", CreatedAt: 1 << 40, ModifiedAt: 1 << 40}
				for _, e := range []int32{18, 17} {
					p.Keys = append(p.Keys, &statev1.Key{Kvno: 2, Etype: e, Salt: "EXAMPLE.COM" + name[0], Key: &statev1.Sealed{MasterKeyVersion: 1, Box: make([]byte, 60)}})
				}
				payload, err := deterministic.Marshal(p)
				if err != nil {
					return err
				}
				key := []byte(NameKey("EXAMPLE.COM", name))
				v := sealRecord(principals, key, payload)
				if _, err := o.take(principals, key, v); err != nil {
					return err
				}
				if err := bucket.Put(key, v); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			b.Fatal(err)
		}
	}
	st.counts, st.size, st.sum = o.counts, o.size, o.sum
	if err := db.file.bolt.Update(st.write); err != nil {
		b.Fatal(err)
	}
	if err := db.Close(); err != nil {
		b.Fatal(err)
	}
}

// cpu reports the processor time of a benchmark, which says more than its duration on a busy machine.
func cpu(b *testing.B) func() {
	used := func() time.Duration {
		var u syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
			b.Fatal(err)
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	begun := used()
	return func() { b.ReportMetric((used()-begun).Seconds()/float64(b.N), "cpu-s/op") }
}

// BenchmarkOpen is what a start reads of a state of a million principals: the check of every page and record, and bbolt's own opening.
func BenchmarkOpen(b *testing.B) {
	path := filepath.Join(b.TempDir(), "state.db")
	large(b, path, 1_000_000)
	if fi, err := os.Stat(path); err == nil {
		b.Logf("%d MiB", fi.Size()>>20)
	}
	b.Run("check", func(b *testing.B) {
		defer cpu(b)()
		for b.Loop() {
			if err := check(path); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("open", func(b *testing.B) {
		defer cpu(b)()
		for b.Loop() {
			db, err := Open(path, Options{})
			if err != nil {
				b.Fatal(err)
			}
			db.Close()
		}
	})
}

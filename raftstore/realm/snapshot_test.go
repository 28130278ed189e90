package realm

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"go.etcd.io/bbolt"

	statev1 "github.com/charon-kdc/charon/proto/charon/state/v1"
	"github.com/charon-kdc/charon/raftstore/setsum"
)

func snapshotBytes(t testing.TB, db *DB) []byte {
	t.Helper()
	var b bytes.Buffer
	info, err := db.WriteSnapshot(&b)
	if err != nil {
		t.Fatal(err)
	}
	if int64(b.Len()) != info.Size {
		t.Fatalf("%d bytes, size said %d", b.Len(), info.Size)
	}
	return b.Bytes()
}

func TestSnapshotRoundTrip(t *testing.T) {
	from := base(t)
	if _, _, err := from.ApplyBatch([]Entry{{Index: 20, Term: 4, Config: []byte("conf")}}); err != nil {
		t.Fatal(err)
	}
	b := snapshotBytes(t, from)
	to := openTest(t)
	mustApply(t, to, putP(principal("zoe"), nil))
	var told []Change
	to.Subscribe(func(c []Change) { told = c })
	info, err := to.InstallSnapshot(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	if info.Index != 20 || info.Term != 4 || info.ConfigIndex != 20 || string(info.Config) != "conf" || info.FeatureLevel != 1 {
		t.Error(info)
	}
	if index, term := to.Applied(); index != 20 || term != 4 || to.Installed() != 20 || from.Installed() != 0 {
		t.Error(index, term, to.Installed(), from.Installed())
	}
	if len(told) != 1 || told[0].Kind != KindEverything {
		t.Error(told)
	}
	if !bytes.Equal(snapshotBytes(t, to), b) {
		t.Error("the installed state writes another snapshot")
	}
	f, g := from.Counts(), to.Counts()
	f.FileBytes, g.FileBytes = 0, 0
	if f != g {
		t.Error(f, g)
	}
	if _, err := to.GetPrincipal("R", []string{"zoe"}); err != ErrNotFound {
		t.Error("the former state shines through:", err)
	}
	// The log goes on, and a restart keeps the marker.
	mustApply(t, to, delP("alice", nil))
	path := to.path
	if err := to.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := Open(path, testOptions)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if index, _ := again.Applied(); index != 21 || again.Installed() != 20 {
		t.Error(index, again.Installed())
	}
}

// A stream of several blocks, with records across their edges; reading it in odd pieces gives the same bytes.
func TestSnapshotBlocks(t *testing.T) {
	db := openTest(t)
	for i := range 30 {
		p := principal(fmt.Sprintf("p%d", i))
		p.Strings = map[string]string{"pad": strings.Repeat("x", 99_991)}
		mustApply(t, db, putP(p, nil))
	}
	b := snapshotBytes(t, db)
	if len(b) < 2*blockMax {
		t.Fatal(len(b))
	}
	s, err := db.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	mustApply(t, db, delP("p3", nil)) // the open snapshot does not see it
	var got []byte
	for n := 1; ; n = n*3%10_007 + 1 {
		piece := make([]byte, n)
		m, err := s.Read(piece)
		got = append(got, piece[:m]...)
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(got, b) {
		t.Error("other bytes")
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if _, err := s.Read(make([]byte, 1)); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
	to := openTest(t)
	if _, err := to.InstallSnapshot(bytes.NewReader(b)); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(snapshotBytes(t, to), b) {
		t.Error("the installed state writes another snapshot")
	}
}

// refuses wants an installation to fail with ErrCorrupt or ErrTooNew and to leave everything as it was.
func refuses(t *testing.T, db *DB, want [32]byte, what string, b []byte) {
	t.Helper()
	refused(t, db, what, b)
	if hash(t, db) != want {
		t.Fatalf("%s: the state changed", what)
	}
}

func refused(t *testing.T, db *DB, what string, b []byte) {
	t.Helper()
	_, err := db.InstallSnapshot(bytes.NewReader(b))
	if !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrTooNew) {
		t.Errorf("%s: %v", what, err)
	}
}

func TestDamagedSnapshotIsRefused(t *testing.T) {
	from := openTest(t)
	mustApply(t, from, putP(principal("a", "b"), nil), withID(putPol("p", nil), uuid7(t0, 1), "p"))
	b := snapshotBytes(t, from)
	db := openTest(t)
	want := hash(t, db)
	r := seeded(t)
	for i := range b {
		c := bytes.Clone(b)
		c[i] ^= byte(1 + r.IntN(255))
		refused(t, db, fmt.Sprintf("byte %d of %d", i, len(b)), c)
		refused(t, db, fmt.Sprintf("cut at %d", i), b[:i])
	}
	refuses(t, db, want, "one byte more", append(bytes.Clone(b), 0))
	if _, err := os.Stat(installPath(db.path)); !errors.Is(err, os.ErrNotExist) {
		t.Error("a refused installation left its file:", err)
	}
	broken := errors.New("connection lost")
	if _, err := db.InstallSnapshot(io.MultiReader(bytes.NewReader(b[:50]), &failing{broken})); !errors.Is(err, broken) {
		t.Error(err)
	}
}

type failing struct{ err error }

func (f *failing) Read([]byte) (int, error) { return 0, f.err }

// rawRecord is a record as it stands in a payload.
func rawRecord(id bucketID, key string, payload []byte) []byte {
	v := sealRecord(id, []byte(key), payload)
	b := binary.LittleEndian.AppendUint16([]byte{byte(id)}, uint16(len(key)))
	b = binary.LittleEndian.AppendUint32(b, uint32(len(v)))
	return append(append(b, key...), v...)
}

// rawSum is the sum of the whole records that a payload has.
func rawSum(payload []byte) (sum setsum.Sum) {
	for len(payload) >= recordHeader {
		k := recordHeader + int(binary.LittleEndian.Uint16(payload[1:]))
		v := k + int(binary.LittleEndian.Uint32(payload[3:]))
		if v > len(payload) {
			return sum
		}
		sum.Put(payload[0], payload[recordHeader:k], payload[k:v])
		payload = payload[v:]
	}
	return sum
}

// rawStream is a stream whose checksums are right, of st's header and that payload.
func rawStream(st *state, records uint64, payload []byte) []byte {
	le := binary.LittleEndian
	st.counts, st.size, st.sum = [bucketCount]uint64{records}, uint64(len(payload)), rawSum(payload)
	b := st.snapshotHeader()
	for rest := payload; len(rest) > 0; {
		n := min(len(rest), blockMax)
		at := len(b)
		b = append(le.AppendUint32(b, uint32(n)), rest[:n]...)
		b = le.AppendUint32(b, crc32.Checksum(b[at:], castagnoli))
		rest = rest[n:]
	}
	b = le.AppendUint64(le.AppendUint64(le.AppendUint32(b, 0), records), uint64(len(payload)))
	return le.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

// Streams with right checksums and wrong contents.
func TestHostileSnapshotIsRefused(t *testing.T) {
	db := openTest(t)
	want := hash(t, db)
	rec := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	p, q := rawRecord(policies, "p", nil), rawRecord(policies, "q", nil)
	if _, err := openTest(t).InstallSnapshot(bytes.NewReader(rawStream(&state{index: 1}, 2, rec(p, q)))); err != nil {
		t.Fatal("a good stream was refused:", err)
	}
	for what, b := range map[string][]byte{
		"twice":              rawStream(&state{}, 2, rec(p, p)),
		"out of order":       rawStream(&state{}, 2, rec(q, p)),
		"buckets descending": rawStream(&state{}, 2, rec(p, rawRecord(principals, "z", nil))),
		"unknown bucket":     rawStream(&state{}, 1, append([]byte{byte(bucketCount)}, p[1:]...)),
		"record of another":  rawStream(&state{}, 1, append([]byte{byte(realms)}, p[1:]...)),
		"empty key":          rawStream(&state{}, 1, rawRecord(policies, "", nil)),
		"key too long":       rawStream(&state{}, 1, rawRecord(policies, strings.Repeat("k", keyMax+1), nil)),
		"value too long":     rawStream(&state{}, 1, rawRecord(policies, "k", make([]byte, valueMax))),
		"fewer records":      rawStream(&state{}, 2, p),
		"ends in a key":      rawStream(&state{}, 1, p[:recordHeader]),
		"ends in a header":   rawStream(&state{}, 1, rec(p, q[:3])),
		"feature level":      rawStream(&state{featureLevel: FeatureLevelMax + 1}, 1, p),
		"four gigabytes":     rawStream(&state{}, 1, []byte{byte(policies), 1, 0, 0xff, 0xff, 0xff, 0xff, 'k'}),
	} {
		refuses(t, db, want, what, b)
	}
	format := rawStream(&state{}, 1, p)
	format[8]++
	if _, err := db.InstallSnapshot(bytes.NewReader(format)); !errors.Is(err, ErrTooNew) {
		t.Error(err)
	}
}

// Readers neither stop nor see a mixture while snapshots are installed and entries applied.
func TestReadersDuringInstallation(t *testing.T) {
	from := openTest(t)
	mustApply(t, from, batch(putP(principal("a"), nil), putP(principal("b"), nil)))
	b := snapshotBytes(t, from)
	db := openTest(t)
	mustApply(t, db, batch(putP(principal("a"), nil), putP(principal("b"), nil)))

	held, err := db.Snapshot() // stays on the first file throughout
	if err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				err := db.View(func(tx *Tx) error {
					_, errA := tx.Principal("R", []string{"a"})
					_, errB := tx.Principal("R", []string{"b"})
					if (errA == nil) != (errB == nil) {
						t.Error("half a batch:", errA, errB)
					}
					return nil
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	for range 20 {
		mustApply(t, db, batch(delP("a", nil), delP("b", nil)))
		if _, err := db.InstallSnapshot(bytes.NewReader(b)); err != nil {
			t.Error(err)
		}
	}
	close(stop)
	wg.Wait()
	if n, err := io.Copy(io.Discard, held); err != nil || n != held.Info.Size {
		t.Error(n, err)
	}
	if err := held.Close(); err != nil {
		t.Error(err)
	}
}

// A crash while a snapshot is installed leaves either file.
func TestInterruptedInstallation(t *testing.T) {
	from := base(t)
	b := snapshotBytes(t, from)
	db := openTest(t)
	mustApply(t, db, putPol("old", nil))
	want := hash(t, db)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{0, 100, 4096} { // before the rename: a half file beside the old one
		if err := os.WriteFile(installPath(db.path), make([]byte, n), 0o600); err != nil {
			t.Fatal(err)
		}
		old, err := Open(db.path, testOptions)
		if err != nil {
			t.Fatal(err)
		}
		if hash(t, old) != want {
			t.Error("the old state changed")
		}
		if _, err := old.InstallSnapshot(bytes.NewReader(b[:len(b)-1])); !errors.Is(err, ErrCorrupt) {
			t.Error(err)
		}
		if err := old.Close(); err != nil {
			t.Fatal(err)
		}
	}
	real, err := Open(db.path, Options{MmapSize: 64 << 20})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := real.InstallSnapshot(bytes.NewReader(b)); err != nil {
		t.Fatal(err)
	}
	image, err := os.ReadFile(db.path) // after the rename, killed before anything else
	if err != nil {
		t.Fatal(err)
	}
	if err := real.Close(); err != nil {
		t.Fatal(err)
	}
	killed := filepath.Join(t.TempDir(), "killed.db")
	if err := os.WriteFile(killed, image, 0o600); err != nil {
		t.Fatal(err)
	}
	again, err := Open(killed, testOptions)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if hash(t, again) != hash(t, from) {
		t.Error("the new state is not whole")
	}
}

// Rot in the file is found when a record is read, applied over, or sent to another node.
func TestRotIsFound(t *testing.T) {
	db := base(t)
	key := []byte(NameKey("R", []string{"alice"}))
	err := db.file.bolt.Update(func(tx *bbolt.Tx) error {
		bucket := tx.Bucket(bucketNames[principals])
		v := bytes.Clone(bucket.Get(key))
		v[len(v)/2] ^= 1
		return bucket.Put(key, v)
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.GetPrincipal("R", []string{"alice"}); !errors.Is(err, ErrCorrupt) {
		t.Error(err)
	}
	if _, _, err := db.ListPrincipals("R", "", 0); !errors.Is(err, ErrCorrupt) {
		t.Error(err)
	}
	if _, err := db.WriteSnapshot(io.Discard); !errors.Is(err, ErrCorrupt) {
		t.Error(err)
	}
	_, _, err = db.ApplyBatch([]Entry{{Index: 99, Term: 1, Data: envelope(t, delP("alice", nil), t0)}})
	if !errors.Is(err, ErrCorrupt) {
		t.Error(err)
	}
	if p, err := db.GetPrincipal("R", []string{"bob"}); err != nil || p == nil {
		t.Error(err)
	}
}

func TestStateOfANewerReleaseIsRefused(t *testing.T) {
	newer := func(what string, change func(*state) []byte, want error) {
		db := openTest(t)
		path := filepath.Join(t.TempDir(), "newer.db")
		b, err := openBolt(path, testOptions, false)
		if err != nil {
			t.Fatal(err)
		}
		err = b.Update(func(tx *bbolt.Tx) error {
			if err := createBuckets(tx); err != nil {
				return err
			}
			return tx.Bucket(metaBucket).Put(stateKey, change(db.applied.Load().clone()))
		})
		if err := errors.Join(err, b.Close()); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(path, testOptions); !errors.Is(err, want) {
			t.Errorf("%s: %v", what, err)
		}
	}
	newer("format", func(s *state) []byte {
		b := s.encode()
		b[0]++
		return binary.LittleEndian.AppendUint32(b[:len(b)-4], crc32.Checksum(b[:len(b)-4], castagnoli))
	}, ErrTooNew)
	newer("format, rotten", func(s *state) []byte { b := s.encode(); b[0]++; return b }, ErrCorrupt)
	newer("feature level", func(s *state) []byte { s.featureLevel = FeatureLevelMax + 1; return s.encode() }, ErrTooNew)
	newer("checksum", func(s *state) []byte { b := s.encode(); b[9]++; return b }, ErrCorrupt)
	newer("cut", func(s *state) []byte { return s.encode()[:20] }, ErrCorrupt)
}

func FuzzInstallSnapshot(f *testing.F) {
	db := openTest(f)
	f.Add(snapshotBytes(f, db))
	if r := apply(f, db, putP(principal("a", "b"), nil)); r.Code != statev1.Code_CODE_OK {
		f.Fatal(r)
	}
	f.Add(snapshotBytes(f, db))
	f.Add(rawStream(&state{index: 3, config: []byte("c")}, 1, rawRecord(policies, "p", []byte{1, 2, 3})))
	f.Fuzz(func(t *testing.T, b []byte) {
		to, err := Open(filepath.Join(t.TempDir(), "realm.db"), testOptions)
		if err != nil {
			t.Fatal(err)
		}
		defer to.Close()
		info, err := to.InstallSnapshot(bytes.NewReader(b))
		if err != nil {
			return
		}
		var out bytes.Buffer
		again, err := to.WriteSnapshot(&out)
		if err != nil || again.Index != info.Index || int64(out.Len()) != again.Size {
			t.Fatal(err, info, again, out.Len())
		}
	})
}

func FuzzDecodeEnvelope(f *testing.F) {
	f.Add(envelope(f, putP(principal("a", "b"), absent()), t0))
	f.Add(envelope(f, batch(withID(putPol("p", nil), uuid7(t0, 1), "p"), setLevel(1)), t0))
	f.Fuzz(func(t *testing.T, b []byte) {
		cmd, at, err := DecodeEnvelope(b)
		if err != nil {
			if !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrTooNew) {
				t.Fatal(err)
			}
			return
		}
		// What decodes applies or is refused; it never stops a node.
		db, err := Open(filepath.Join(t.TempDir(), "realm.db"), testOptions)
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		if _, _, err := db.ApplyBatch([]Entry{{Index: 1, Term: 1, Data: b}}); err != nil {
			t.Fatal(err)
		}
		if again, err := EncodeEnvelope(cmd, at); err == nil {
			if _, at2, err := DecodeEnvelope(again); err != nil || at2 != at {
				t.Fatal(err)
			}
		}
	})
}

func FuzzParseName(f *testing.F) {
	f.Add(`host/a\/b\@c`)
	f.Fuzz(func(t *testing.T, text string) {
		if name, err := ParseName(text); err == nil && NameText(name) != text {
			t.Fatalf("%q -> %q -> %q", text, name, NameText(name))
		}
	})
}

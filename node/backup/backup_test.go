package backup

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"hash/crc32"
	"io"
	mathrand "math/rand/v2"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/charon-kdc/charon/kdc/kdb/masterkey"
	"github.com/charon-kdc/charon/node/pki"
	statev1 "github.com/charon-kdc/charon/proto/charon/state/v1"
	"github.com/charon-kdc/charon/raftstore/realm"
)

var seedFlag = flag.Uint64("seed", 0, "seed of the random tests; 0 takes a new one")

func seeded(t testing.TB) *mathrand.Rand {
	seed := *seedFlag
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("to run again: -seed %d", seed)
		}
	})
	return mathrand.New(mathrand.NewPCG(seed, 1))
}

// fixture is a realm's state and who may open its backups.
type fixture struct {
	t       testing.TB
	db      *realm.DB
	ring    *masterkey.Ring
	cluster []byte
	kit     *age.X25519Identity
	index   uint64
	term    uint64 // 0: 1
	mu      sync.Mutex
}

const opts = 64 << 20

func newFixture(t testing.TB) *fixture {
	t.Helper()
	f := &fixture{t: t, cluster: bytes.Repeat([]byte{7}, 16)}
	var err error
	if f.db, err = realm.Open(filepath.Join(t.TempDir(), "state.db"), realm.Options{MmapSize: opts, NoSync: true}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.db.Close() })
	if f.ring, err = masterkey.Generate(rand.Reader); err != nil {
		t.Fatal(err)
	}
	if f.kit, err = age.GenerateX25519Identity(); err != nil {
		t.Fatal(err)
	}
	f.apply(&statev1.Command{Op: &statev1.Command_PutCluster{PutCluster: &statev1.PutCluster{Cluster: &statev1.Cluster{
		Id: f.cluster, DefaultRealm: "R", FeatureLevel: 1, MasterKeyVersion: 1, RecoveryRecipient: f.kit.Recipient().String(),
	}}}})
	ca, err := pki.NewAuthority(rand.Reader, pki.Nodes, [16]byte(f.cluster), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	key, err := ca.MarshalKey()
	if err != nil {
		t.Fatal(err)
	}
	f.secret("ca/node", ca.Cert.Raw, key)
	f.secret("replay-key", nil, []byte(canary("replay")))
	for i := range 3 {
		f.principal(fmt.Sprintf("p%d", i))
	}
	return f
}

// canary is 32 bytes that can be looked for.
func canary(what string) string { return (what + strings.Repeat("-canary", 5))[:32] }

func (f *fixture) apply(c *statev1.Command) {
	f.t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	data, err := realm.EncodeEnvelope(c, 1_800_000_000_000)
	if err != nil {
		f.t.Fatal(err)
	}
	f.index++
	r, _, err := f.db.ApplyBatch([]realm.Entry{{Index: f.index, Term: max(1, f.term), Data: data}})
	if err != nil || r[0].GetCode() != statev1.Code_CODE_OK {
		f.t.Fatal(r, err)
	}
}

func (f *fixture) secret(name string, cert, key []byte) {
	f.t.Helper()
	box, err := f.ring.Seal(rand.Reader, masterkey.SecretAAD(f.cluster, name), key)
	if err != nil {
		f.t.Fatal(err)
	}
	f.apply(&statev1.Command{Op: &statev1.Command_PutSecret{PutSecret: &statev1.PutSecret{Secret: &statev1.Secret{Name: name, Certificate: cert, Key: box}}}})
}

// principal has one key and one in its history.
func (f *fixture) principal(name string) {
	f.t.Helper()
	p := &statev1.Principal{Id: []byte((name + strings.Repeat("_", 16))[:16]), Realm: "R", Name: []string{name}, NameType: 1, Kvno: 2}
	key := func(kvno uint32) *statev1.Key {
		k := &statev1.Key{Kvno: kvno, Etype: 18, Salt: "R" + name}
		var err error
		if k.Key, err = f.ring.Seal(rand.Reader, masterkey.KeyAAD(f.cluster, p, k), []byte(canary(name))); err != nil {
			f.t.Fatal(err)
		}
		return k
	}
	p.Keys = []*statev1.Key{key(2)}
	p.KeyHistory = []*statev1.KeyHistory{{Kvno: 1, Keys: []*statev1.Key{key(1)}}}
	f.apply(&statev1.Command{Op: &statev1.Command_PutPrincipal{PutPrincipal: &statev1.PutPrincipal{Principal: p}}})
}

func (f *fixture) source() Source {
	return Source{DB: f.db, Ring: f.ring, Node: "n1", Version: "test", Now: time.Now, ClockSkew: func() time.Duration { return 5 * time.Minute }}
}

func (f *fixture) save() []byte {
	f.t.Helper()
	var b bytes.Buffer
	s, err := Save(&b, f.source(), nil, true)
	if err != nil {
		f.t.Fatal(err)
	}
	if s.Bytes != uint64(b.Len()) {
		f.t.Errorf("%d bytes, the summary says %d", b.Len(), s.Bytes)
	}
	return b.Bytes()
}

func TestRoundTrip(t *testing.T) {
	f := newFixture(t)
	other, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	s, err := Save(&b, f.source(), []string{other.Recipient().String()}, true)
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []age.Identity{f.kit, other} {
		r, err := Verify(bytes.NewReader(b.Bytes()), id)
		if err != nil {
			t.Fatal(err)
		}
		h := r.Header
		if r.Keys != 6 || r.Secrets != 2 || h.GetPrincipals() != 3 || h.GetIndex() != f.index || h.GetRealm() != "R" || h.GetClockSkew() != 300 ||
			len(h.GetMasterKeyVersions()) != 1 || h.GetIndex() != s.Header.GetIndex() || s.Keys != 6 {
			t.Errorf("%+v of %+v", r, s)
		}
	}
	// Without the kit only the named recipient opens it.
	b.Reset()
	if _, err := Save(&b, f.source(), []string{other.Recipient().String()}, false); err != nil {
		t.Fatal(err)
	}
	if _, err := Verify(bytes.NewReader(b.Bytes()), f.kit); err == nil {
		t.Error("the kit opens what was not encrypted to it")
	}
	if _, err := Save(io.Discard, f.source(), nil, false); !errors.Is(err, ErrRecipient) {
		t.Errorf("no recipient: %v", err)
	}
	if _, err := Save(io.Discard, f.source(), []string{"age1nonsense"}, true); !errors.Is(err, ErrRecipient) {
		t.Errorf("no recipient's key: %v", err)
	}
}

// Every place where a file can be cut, and bytes flipped all over it.
func TestDamageIsRefused(t *testing.T) {
	f := newFixture(t)
	b := f.save()
	refused := func(what string, b []byte) {
		t.Helper()
		_, err := Verify(bytes.NewReader(b), f.kit)
		if !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrNotBackup) && !errors.Is(err, ErrTooNew) {
			t.Fatalf("%s: %v", what, err)
		}
	}
	for i := range b {
		refused(fmt.Sprintf("cut at %d of %d", i, len(b)), b[:i])
	}
	r := seeded(t)
	for range 1500 {
		c := bytes.Clone(b)
		i := r.IntN(len(c))
		c[i] ^= 1 << r.IntN(8)
		refused(fmt.Sprintf("bit flipped in byte %d", i), c)
	}
	refused("longer", append(bytes.Clone(b), 0))
	refused("two files", append(bytes.Clone(b), b...))
	if _, err := Verify(bytes.NewReader(b), f.kit); err != nil {
		t.Error("unharmed:", err)
	}
}

func TestWhatIsRefusedWithTheReason(t *testing.T) {
	f := newFixture(t)
	b := f.save()
	foreign := newFixture(t)
	_, err := Verify(bytes.NewReader(b), foreign.kit)
	if fe, ok := errors.AsType[*ForeignError](err); !ok || !strings.Contains(fe.Error(), foreign.kit.Recipient().String()) || !strings.Contains(fe.Error(), f.kit.Recipient().String()) {
		t.Errorf("another cluster's kit: %v", err)
	}
	newer := bytes.Clone(b)
	newer[len(magic)]++
	if _, err := Verify(bytes.NewReader(newer), f.kit); !errors.Is(err, ErrTooNew) {
		t.Errorf("newer format: %v", err)
	}
	if _, err := Verify(strings.NewReader("-----BEGIN SOMETHING-----"), f.kit); !errors.Is(err, ErrNotBackup) {
		t.Errorf("another file: %v", err)
	}
	h, raw, err := ReadHeader(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	// A header whose own checksum is right, put in front of another's body.
	h.Realm = "EVIL"
	swapped, err := preamble(h)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Verify(bytes.NewReader(append(swapped, b[len(raw):]...)), f.kit); !errors.Is(err, ErrDamaged) {
		t.Errorf("another header: %v", err)
	}
	h.Realm, h.FeatureLevel = "R", realm.FeatureLevelMax+1
	level, err := preamble(h)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Verify(bytes.NewReader(append(level, b[len(raw):]...)), f.kit); !errors.Is(err, ErrTooNew) {
		t.Errorf("newer feature level: %v", err)
	}
	huge := binary.LittleEndian.AppendUint32([]byte(magic), formatVersion)
	huge = binary.LittleEndian.AppendUint32(huge, 0xffffffff)
	huge = binary.LittleEndian.AppendUint32(huge, crc32.Checksum(huge, castagnoli))
	if _, err := Verify(bytes.NewReader(huge), f.kit); !errors.Is(err, ErrDamaged) {
		t.Errorf("a header of four gigabytes: %v", err)
	}
}

// A key that does not open stops the backup: it would be found out years later.
func TestSealedKeysMustOpen(t *testing.T) {
	f := newFixture(t)
	other, err := masterkey.Generate(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	good := f.ring
	f.ring = other
	f.principal("bad")
	f.ring = good
	var b bytes.Buffer
	if _, err := Save(&b, f.source(), nil, true); !errors.Is(err, ErrSealed) || !strings.Contains(err.Error(), "bad@R") {
		t.Errorf("saving: %v", err)
	}
	if _, err := Verify(bytes.NewReader(b.Bytes()), f.kit); !errors.Is(err, ErrDamaged) {
		t.Errorf("what was left behind: %v", err)
	}
}

func TestNoPlaintextInTheFile(t *testing.T) {
	f := newFixture(t)
	b := f.save()
	text := f.ring.Text()
	fields := bytes.Fields(text[bytes.IndexByte(text, '\n')+1:]) // version, key, perhaps more
	if len(fields) < 2 {
		t.Fatal("no master key")
	}
	key := fields[1]
	raw, err := base64.StdEncoding.DecodeString(string(key))
	if err != nil {
		t.Fatal(err)
	}
	for what, secret := range map[string][]byte{
		"a principal's key": []byte(canary("p1")), "the replay key": []byte(canary("replay")), "the master key": raw, "the master key's text": key,
		"a principal's name": []byte("p1@"), "a salt": []byte("Rp1"),
	} {
		if bytes.Contains(b, secret) {
			t.Errorf("%s stands in the file", what)
		}
	}
	// The age layer is not the only one: inside, keys are sealed under the master key.
	r, err := Open(bytes.NewReader(b), f.kit)
	if err != nil {
		t.Fatal(err)
	}
	state, err := io.ReadAll(r.State())
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(state, []byte("Rp1")) || bytes.Contains(state, []byte(canary("p1"))) {
		t.Error("the state inside: salts must be in it, keys in clear must not")
	}
}

// Under writes every backup is of exactly one index: what its header says and what is in it come from one transaction.
func TestConsistentUnderWrites(t *testing.T) {
	f := newFixture(t)
	// Each entry from index 4 on adds one principal: index and count tell each other.
	behind := f.index - 3
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range 400 {
			f.principal(fmt.Sprintf("w%d", i))
		}
	}()
	seen := map[uint64]bool{}
	for running := true; running; {
		select {
		case <-done:
			running = false
		default:
		}
		r, err := Verify(bytes.NewReader(f.save()), f.kit)
		if err != nil {
			t.Fatal(err)
		}
		h := r.Header
		if h.GetPrincipals() != h.GetIndex()-behind || r.Keys != 2*h.GetPrincipals() {
			t.Errorf("%d principals at index %d", h.GetPrincipals(), h.GetIndex())
		}
		seen[h.GetIndex()] = true
	}
	if len(seen) < 3 {
		t.Errorf("backups of %d indexes: nothing was written meanwhile, the test shows nothing", len(seen))
	}
}

// What is applied once the snapshot has begun is in none of its parts.
func TestHeaderIsOfTheSnapshot(t *testing.T) {
	f := newFixture(t)
	src, index := f.source(), f.index
	src.Now = func() time.Time { f.principal("meanwhile"); return time.Now() }
	var b bytes.Buffer
	s, err := Save(&b, src, nil, true)
	if err != nil {
		t.Fatal(err)
	}
	if h := s.Header; h.GetIndex() != index || h.GetPrincipals() != 3 || f.index != index+1 {
		t.Errorf("index %d with %d principals, want %d with 3; the state is at %d", h.GetIndex(), h.GetPrincipals(), index, f.index)
	}
	if _, err := Verify(&b, f.kit); err != nil {
		t.Error(err)
	}
}

// Anybody can encrypt to a public key: what is inside is checked by itself, too.
func TestForgedInside(t *testing.T) {
	f := newFixture(t)
	b := f.save()
	_, front, err := ReadHeader(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	body, err := age.Decrypt(bytes.NewReader(b[len(front):]), f.kit)
	if err != nil {
		t.Fatal(err)
	}
	inside, err := io.ReadAll(body)
	if err != nil {
		t.Fatal(err)
	}
	verify := func(inside []byte) error {
		out := bytes.NewBuffer(bytes.Clone(front))
		w, err := age.Encrypt(out, f.kit.Recipient())
		if err == nil {
			_, err = w.Write(inside)
		}
		if err = errors.Join(err, w.Close()); err != nil {
			t.Fatal(err)
		}
		_, err = Verify(out, f.kit)
		return err
	}
	if err := verify(inside); err != nil {
		t.Fatal("the same once more:", err)
	}
	r := seeded(t)
	at := []int{0, 31, 32, 40} // the preamble's hash, the ring
	for range 300 {
		at = append(at, r.IntN(len(inside)))
	}
	for i := len(inside) - 50; i < len(inside); i++ {
		at = append(at, i) // the trailer
	}
	for _, i := range at {
		c := bytes.Clone(inside)
		c[i] ^= 1 << r.IntN(8)
		if err := verify(c); !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrSealed) && !errors.Is(err, ErrTooNew) {
			t.Errorf("bit flipped in byte %d of %d: %v", i, len(inside), err)
		}
	}
	if err := verify(append(bytes.Clone(inside), 0)); !errors.Is(err, ErrDamaged) {
		t.Errorf("more behind the trailer: %v", err)
	}
	if err := verify(inside[:len(inside)-1]); !errors.Is(err, ErrDamaged) {
		t.Errorf("a cut trailer: %v", err)
	}
}

func TestRekey(t *testing.T) {
	f := newFixture(t)
	r, err := Open(bytes.NewReader(f.save()), f.kit)
	if err != nil {
		t.Fatal(err)
	}
	ring, err := masterkey.Generate(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cluster := [16]byte{9}
	r.Rekey(ring, cluster, rand.Reader)
	path := filepath.Join(t.TempDir(), "state.db")
	info, err := realm.Rebuild(path, realm.Options{MmapSize: opts, NoSync: true}, r.State(), nil, func(rec realm.Record) (bool, error) {
		return true, r.Record(rec)
	})
	if err == nil {
		err = errors.Join(r.Agrees(info), r.Finish())
	}
	if err != nil {
		t.Fatal(err)
	}
	db, err := realm.Open(path, realm.Options{MmapSize: opts, NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	p, err := db.GetPrincipal("R", []string{"p1"})
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range append(p.GetKeys(), p.GetKeyHistory()[0].GetKeys()...) {
		if plain, err := ring.Open(masterkey.KeyAAD(cluster[:], p, k), k.GetKey()); err != nil || string(plain) != canary("p1") {
			t.Errorf("kvno %d: %q %v", k.GetKvno(), plain, err)
		}
		if _, err := f.ring.Open(masterkey.KeyAAD(f.cluster, p, k), k.GetKey()); err == nil {
			t.Error("the lost cluster's master key opens a key of the new one")
		}
	}
}

// A realm of many principals passes through in the memory of a few: what is allocated at a time does not grow.
func TestMemoryIsBounded(t *testing.T) {
	f := newFixture(t)
	pad := strings.Repeat("x", 200_000)
	for i := range 300 { // 60 MB
		name := fmt.Sprintf("big%d", i)
		f.apply(&statev1.Command{Op: &statev1.Command_PutPrincipal{PutPrincipal: &statev1.PutPrincipal{Principal: &statev1.Principal{
			Id: []byte((name + strings.Repeat("_", 16))[:16]), Realm: "R", Name: []string{name}, Strings: map[string]string{"pad": pad},
		}}}})
	}
	file := filepath.Join(t.TempDir(), "file")
	peak := peakHeap(t, func() error {
		_, _, err := WriteFile(file, func(w io.Writer) (*Summary, error) { return Save(w, f.source(), nil, true) })
		return err
	})
	if peak > 32<<20 {
		t.Errorf("saving 60 MB took %d MB of heap", peak>>20)
	}
	peak = peakHeap(t, func() error {
		_, err := VerifyFile(file, f.kit)
		return err
	})
	if peak > 32<<20 {
		t.Errorf("verifying 60 MB took %d MB of heap", peak>>20)
	}
}

// peakHeap is how much more heap was in use at most while f ran.
func peakHeap(t *testing.T, f func() error) uint64 {
	t.Helper()
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	before, peak := m.HeapAlloc, m.HeapAlloc
	done := make(chan error, 1)
	go func() { done <- f() }()
	for tick := time.NewTicker(5 * time.Millisecond); ; {
		select {
		case err := <-done:
			tick.Stop()
			if err != nil {
				t.Fatal(err)
			}
			return peak - before
		case <-tick.C:
			runtime.ReadMemStats(&m)
			peak = max(peak, m.HeapAlloc)
		}
	}
}

// Any bytes are refused with a reason, or are a backup; memory follows what has arrived.
func FuzzVerify(f *testing.F) {
	x := newFixture(f)
	b := x.save()
	_, front, err := ReadHeader(bytes.NewReader(b))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add(front)
	f.Add(b[:len(magic)+8])
	f.Fuzz(func(t *testing.T, b []byte) {
		_, err := Verify(bytes.NewReader(b), x.kit)
		_, foreign := errors.AsType[*ForeignError](err)
		if err != nil && !foreign && !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrNotBackup) && !errors.Is(err, ErrTooNew) && !errors.Is(err, ErrSealed) {
			t.Fatal(err)
		}
	})
}

package masterkey

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	statev1 "github.com/charon-kdc/charon/proto/charon/state/v1"
)

func ring(t testing.TB) *Ring {
	t.Helper()
	r, err := Generate(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestSealBindsToTheRecord(t *testing.T) {
	r := ring(t)
	base := AAD{ClusterID: []byte("cluster"), Realm: "R", RecordType: "principal-key", PrincipalID: []byte("id"), KVNO: 3, EType: 18, Salt: "Ralice"}
	s, err := r.Seal(rand.Reader, base, []byte("secret"))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := r.Open(base, s); err != nil || string(got) != "secret" {
		t.Fatalf("open: %q, %v", got, err)
	}
	for name, change := range map[string]func(*AAD){
		"cluster":             func(a *AAD) { a.ClusterID = []byte("other") },
		"realm":               func(a *AAD) { a.Realm = "S" },
		"record type":         func(a *AAD) { a.RecordType = "secret/x" },
		"principal":           func(a *AAD) { a.PrincipalID = []byte("di") },
		"kvno":                func(a *AAD) { a.KVNO++ },
		"enctype":             func(a *AAD) { a.EType = 17 },
		"salt":                func(a *AAD) { a.Salt = "Rbob" },
		"bytes moved between": func(a *AAD) { a.PrincipalID, a.Salt = []byte("idR"), "alice" },
	} {
		a := base
		change(&a)
		if _, err := r.Open(a, s); !errors.Is(err, ErrOpen) {
			t.Errorf("opened under another %s: %v", name, err)
		}
	}
	for i := range s.GetBox() {
		bad := proto.CloneOf(s)
		bad.Box[i] ^= 1
		if _, err := r.Open(base, bad); !errors.Is(err, ErrOpen) {
			t.Fatalf("opened with byte %d flipped: %v", i, err)
		}
	}
	for n := range len(s.GetBox()) {
		if _, err := r.Open(base, &statev1.Sealed{MasterKeyVersion: 1, Box: s.GetBox()[:n]}); !errors.Is(err, ErrOpen) {
			t.Fatalf("opened with %d bytes: %v", n, err)
		}
	}
	if _, err := r.Open(base, &statev1.Sealed{MasterKeyVersion: 2, Box: s.GetBox()}); !errors.Is(err, ErrNoVersion) {
		t.Errorf("version that is not there: %v", err)
	}
	if _, err := ring(t).Open(base, s); !errors.Is(err, ErrOpen) {
		t.Errorf("opened by another ring: %v", err)
	}
	if _, err := r.Open(base, nil); err == nil {
		t.Error("opened nothing")
	}
	if _, err := r.Seal(rand.Reader, base, make([]byte, plainMax+1)); err == nil {
		t.Error("sealed more than the bound")
	}
}

// A rename moves a record to another name; its keys must open without a new seal.
func TestKeyAADSurvivesRename(t *testing.T) {
	k := &statev1.Key{Kvno: 1, Etype: 18, Salt: "Ralice", SaltDefault: true}
	before := &statev1.Principal{Id: []byte("0123456789abcdef"), Realm: "R", Name: []string{"alice"}, Keys: []*statev1.Key{k}}
	after := proto.CloneOf(before)
	after.Name, after.Keys[0].SaltDefault = []string{"bob"}, false
	r := ring(t)
	s, err := r.Seal(rand.Reader, KeyAAD([]byte("c"), before, k), []byte("key"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Open(KeyAAD([]byte("c"), after, after.Keys[0]), s); err != nil {
		t.Error(err)
	}
}

func TestFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "master.key")
	r := ring(t)
	if err := r.WriteFile(path); err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Fatalf("mode %v, %v", st.Mode(), err)
	}
	back, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	s, err := r.Seal(rand.Reader, SecretAAD([]byte("c"), "x"), []byte("v"))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := back.Open(SecretAAD([]byte("c"), "x"), s); err != nil || string(got) != "v" {
		t.Fatalf("read back: %q, %v", got, err)
	}
	if err := r.WriteFile(path); err != nil {
		t.Errorf("writing over: %v", err)
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(path), ".master-key-*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(path); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("a file that the group may read: %v", err)
	}
}

func TestParseRefuses(t *testing.T) {
	k := "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
	var raw [keySize]byte
	for i := range raw {
		raw[i] = byte(i)
	}
	line := func(version uint32) string { return fmt.Sprintf("%d %s %s", version, k, checkValue(version, raw)) }
	if r, err := Parse([]byte(heading + "\n" + line(1) + "\n" + line(4) + "\n")); err != nil || r.Current() != 4 || fmt.Sprint(r.Versions()) != "[1 4]" {
		t.Fatalf("two versions: %v", err)
	}
	for _, text := range []string{
		"", "charon-master-key 1\n" + line(1), heading, heading + "\n" + line(0), heading + "\n1", heading + "\n" + line(1)[:40],
		heading + "\n" + line(2) + "\n" + line(1), heading + "\n" + line(1) + "\n" + line(1), heading + "\nx" + line(1)[1:],
		heading + "\n4294967296" + line(1)[1:], strings.Repeat("x", fileMax+1), heading + "\n1 " + k, heading + "\n2" + line(1)[1:],
	} {
		if _, err := Parse([]byte(text)); err == nil {
			t.Errorf("parsed %q", text)
		} else if strings.Contains(err.Error(), k[:20]) {
			t.Errorf("the error holds the key: %v", err)
		}
	}
}

// One flipped bit of the file is refused, or changes no key.
func TestFlippedBitsOfTheFile(t *testing.T) {
	r := ring(t)
	text := r.Text()
	for bit := range 8 * len(text) {
		b := bytes.Clone(text)
		b[bit/8] ^= 1 << (bit % 8)
		if got, err := Parse(b); err == nil && !bytes.Equal(got.Text(), text) {
			t.Errorf("bit %d: another key is read", bit)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(ring(f).Text())
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := Parse(b)
		if err != nil {
			return
		}
		again, err := Parse(r.Text())
		if err != nil || !bytes.Equal(again.Text(), r.Text()) {
			t.Fatalf("does not read what it wrote: %v", err)
		}
	})
}

func TestPrintsNoKey(t *testing.T) {
	r := ring(t)
	j, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	raw := fmt.Sprintf("%x", r.keys[1].raw[:4])
	for _, s := range []string{fmt.Sprint(r), fmt.Sprintf("%v %+v %#v %s %x", r, r, r, r, r), string(j)} {
		if strings.Contains(s, raw) || !strings.Contains(s, "[master key ring]") {
			t.Errorf("prints %q", s)
		}
	}
}

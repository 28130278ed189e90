package keytab

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/charon-kdc/charon/kdc/krb5/kcrypto"
)

func TestWriteFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "kt")
	kt := parse(t, golden(t, "mit-keytab"))
	for range 2 { // the second time over itself, made readable in between
		if err := kt.WriteFile(path); err != nil {
			t.Fatal(err)
		}
		st, err := os.Stat(path)
		if err != nil || st.Mode() != 0o600 {
			t.Fatalf("mode %v, %v", st.Mode(), err)
		}
		if err := os.Chmod(path, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if b, err := os.ReadFile(path); err != nil || !bytes.Equal(b, golden(t, "mit-keytab")) {
		t.Errorf("%x, %v", b, err)
	}
	if left, _ := os.ReadDir(filepath.Dir(path)); len(left) != 1 {
		t.Errorf("files left over: %v", left)
	}
	bad := &Keytab{Entries: []Entry{{Realm: "R", Name: name("p")}}}
	if err := bad.WriteFile(path); !errors.Is(err, ErrFormat) {
		t.Errorf("an entry without a key: %v", err)
	}
	if got := bad.Bytes(); !bytes.Equal(got, []byte{5, 2}) {
		t.Errorf("an entry without a key in Bytes: %x", got)
	}
	if kt, err := Read(path); err != nil || len(kt.Entries) != 7 {
		t.Errorf("the refused write changed the file: %v", err)
	}
	if _, err := Read(path + ".none"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
}

func TestAppendCreates(t *testing.T) {
	path := filepath.Join(t.TempDir(), "kt")
	e := Entry{Realm: "R", Name: name("host", "a"), Timestamp: time.Unix(1e9, 0), KVNO: 70000, Key: key(t, kcrypto.AES256SHA2, 3)}
	for n := 1; n <= 2; n++ {
		if err := Append(path, e); err != nil {
			t.Fatal(err)
		}
		kt, err := Read(path)
		if err != nil || len(kt.Entries) != n || text(kt.Entries[n-1]) != text(e) || kt.Entries[n-1].KVNO != 70000 {
			t.Fatalf("%+v, %v", kt, err)
		}
	}
	if st, err := os.Stat(path); err != nil || st.Mode() != 0o600 {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
}

// The holes are of 81 and 65 octets. What fits goes in and the record keeps its length; what does not goes to the end.
func TestAppendFillsHoles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "kt")
	before := golden(t, "mit-keytab-with-holes")
	if err := os.WriteFile(path, before, 0o640); err != nil {
		t.Fatal(err)
	}
	small := Entry{Realm: "R", Name: name("small"), KVNO: 1, Key: key(t, kcrypto.AES128SHA1, 1)}
	large := Entry{Realm: "R", Name: name("large", string(bytes.Repeat([]byte("x"), 80))), KVNO: 2, Key: key(t, kcrypto.AES256SHA1, 2)}
	if err := Append(path, large, small, small, small); err != nil {
		t.Fatal(err)
	}
	kt, err := Read(path)
	if err != nil {
		t.Fatal(err)
	}
	var order string
	for _, e := range kt.Entries {
		order += e.Name.NameString[0] + " "
	}
	if order != "small small bob bob bob bob bob large small " {
		t.Errorf("order %s", order)
	}
	after, _ := os.ReadFile(path)
	if grown := len(after) - len(before); grown != 8+len(large.append(nil))+len(small.append(nil)) {
		t.Errorf("the file grew by %d octets", grown)
	}
	if !bytes.Equal(kt.Bytes(), after) {
		t.Error("filled holes do not survive being written again")
	}
	if st, _ := os.Stat(path); st.Mode() != 0o640 {
		t.Errorf("mode %v: the owner of a keytab knows who reads it", st.Mode())
	}
}

// A writer that left an old key in its hole must not have it carried on behind the new one.
func TestAppendClearsTheRestOfAHole(t *testing.T) {
	path := filepath.Join(t.TempDir(), "kt")
	secret := bytes.Repeat([]byte("secret"), 20)
	if err := os.WriteFile(path, append([]byte{5, 2, 0xff, 0xff, 0xff, 0x88}, secret...), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Append(path, Entry{Realm: "R", Name: name("p"), KVNO: 1, Key: key(t, kcrypto.AES128SHA1, 1)}); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil || len(b) != 6+len(secret) || bytes.Contains(b, []byte("secret")) || len(parse(t, b).Entries) != 1 {
		t.Errorf("%q, %v", b, err)
	}
}

func TestAppendDropsWhatReadersCannotReach(t *testing.T) {
	path := filepath.Join(t.TempDir(), "kt")
	if err := os.WriteFile(path, append(golden(t, "mit-stash"), "\x00\x00\x00\x00\x7fgarbage"...), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Append(path, Entry{Realm: "R", Name: name("p"), KVNO: 1, Key: key(t, kcrypto.AES128SHA1, 1)}); err != nil {
		t.Fatal(err)
	}
	if kt, err := Read(path); err != nil || len(kt.Entries) != 2 {
		t.Errorf("%+v, %v", kt, err)
	}
}

func TestAppendToWhatIsNoKeytab(t *testing.T) {
	path := filepath.Join(t.TempDir(), "passwd")
	if err := os.WriteFile(path, []byte("root:x:0:0"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := Append(path, Entry{Realm: "R", Name: name("p"), Key: key(t, kcrypto.AES128SHA1, 1)}); !errors.Is(err, ErrFormat) {
		t.Errorf("%v, want ErrFormat", err)
	}
	if b, _ := os.ReadFile(path); string(b) != "root:x:0:0" {
		t.Errorf("file is now %q", b)
	}
}

// Writers exclude each other, and a reader never meets half an entry.
func TestConcurrentAppend(t *testing.T) {
	path := filepath.Join(t.TempDir(), "kt")
	const writers, each = 4, 6
	if err := new(Keytab).WriteFile(path); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				e := Entry{Realm: "R", Name: name(fmt.Sprintf("w%d", w)), KVNO: uint32(i + 1), Key: key(t, kcrypto.AES256SHA1, byte(w))}
				if err := Append(path, e); err != nil {
					t.Error(err)
				}
				if _, err := Read(path); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	kt, err := Read(path)
	if err != nil || len(kt.Entries) != writers*each {
		t.Fatalf("%d entries, %v", len(kt.Entries), err)
	}
	for w := range writers {
		if _, kvno, _ := kt.Find("R", name(fmt.Sprintf("w%d", w)), 0, 0); kvno != each {
			t.Errorf("writer %d: newest kvno %d", w, kvno)
		}
	}
}

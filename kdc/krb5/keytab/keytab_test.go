package keytab

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/charon-kdc/charon/kdc/krb5"
	"github.com/charon-kdc/charon/kdc/krb5/kcrypto"
)

func golden(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func parse(t testing.TB, b []byte) *Keytab {
	t.Helper()
	kt, err := Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	return kt
}

func key(t testing.TB, e kcrypto.EType, fill byte) *kcrypto.Key {
	t.Helper()
	k, err := kcrypto.NewKey(e, bytes.Repeat([]byte{fill}, e.KeySize()))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func name(components ...string) krb5.PrincipalName {
	return krb5.PrincipalName{NameType: krb5.NTPrincipal, NameString: components}
}

// text is an entry in the manner of klist -keK.
func text(e Entry) string {
	return strings.Join([]string{
		krb5.FormatPrincipal(e.Name, e.Realm), e.Timestamp.Format(time.RFC3339), e.Key.EType().Short(), hex.EncodeToString(e.Key.Bytes()[:4]),
	}, " ")
}

// The camellia entry of bob is no use here: not an Entry, but kept.
func TestParseMITKeytab(t *testing.T) {
	kt := parse(t, golden(t, "mit-keytab"))
	want := []string{
		"hikvno/a.lab.test@LAB.TEST 2026-11-22T03:55:34Z aes256-sha1 527f6966",
		"hikvno/a.lab.test@LAB.TEST 2026-11-22T03:55:34Z aes128-sha2 573c16db",
		"bob@LAB.TEST 2026-11-22T03:55:34Z aes256-sha1 5c14be0e",
		"bob@LAB.TEST 2026-11-22T03:55:34Z aes128-sha1 8adbb3ac",
		"bob@LAB.TEST 2026-11-22T03:55:34Z aes256-sha2 a95ec76e",
		"bob@LAB.TEST 2026-11-22T03:55:34Z aes128-sha2 a180b0d4",
		"bob@LAB.TEST 2026-11-22T03:55:34Z rc4 536c4113",
	}
	kvnos := []uint32{300, 300, 6, 6, 6, 6, 6}
	var got []string
	for i, e := range kt.Entries {
		got = append(got, text(e))
		if i < len(kvnos) && e.KVNO != kvnos[i] || e.Name.NameType != krb5.NTPrincipal {
			t.Errorf("entry %d: kvno %d, name type %d", i, e.KVNO, e.Name.NameType)
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if len(parse(t, golden(t, "mit-keytab-with-holes")).Entries) != 5 {
		t.Error("the two holes were not skipped")
	}
}

func TestRoundTripIsByteEqual(t *testing.T) {
	for _, file := range []string{"mit-keytab", "mit-keytab-with-holes", "mit-stash", "heimdal-m-key"} {
		b := golden(t, file)
		if got := parse(t, b).Bytes(); !bytes.Equal(got, b) {
			t.Errorf("%s: written again as\n%x\nnot\n%x", file, got, b)
		}
	}
	if len(parse(t, golden(t, "heimdal-m-key")).Entries) != 0 {
		t.Error("a triple-DES master key became an entry")
	}
}

// What other writers do: no 32-bit kvno, a zero one, slack behind the entry, a key of a wrong size.
func TestOddRecords(t *testing.T) {
	e := Entry{Realm: "R", Name: name("p"), KVNO: 5, Key: key(t, kcrypto.AES128SHA1, 1)}
	long := e.append(nil)
	short := long[:len(long)-4]
	badKey := bytes.Replace(long, []byte{0, 17, 0, 16}, []byte{0, 18, 0, 16}, 1)
	for what, c := range map[string]struct {
		entry []byte
		want  int
	}{
		"8-bit kvno":        {short, 1},
		"zero 32-bit kvno":  {append(bytes.Clone(short), 0, 0, 0, 0), 1},
		"slack, 8-bit kvno": {append(bytes.Clone(short), 0, 0, 0), 1},
		"slack":             {append(bytes.Clone(long), 0, 0, 0, 0, 0, 9), 1},
		"key cut short":     {badKey, 0},
	} {
		b := binary.BigEndian.AppendUint32([]byte{5, 2}, uint32(len(c.entry)))
		b = append(b, c.entry...)
		kt := parse(t, b)
		if len(kt.Entries) != c.want || c.want == 1 && (kt.Entries[0].KVNO != 5 || !kt.Entries[0].Key.Equal(e.Key)) {
			t.Errorf("%s: %+v", what, kt.Entries)
		}
		if got := kt.Bytes(); !bytes.Equal(got, b) {
			t.Errorf("%s: written again as\n%x\nnot\n%x", what, got, b)
		}
		if tail := parse(t, append(b, 0, 0, 0, 0, 'x')); len(tail.Entries) != c.want {
			t.Errorf("%s: a record of length zero ends the file", what)
		}
	}
}

func TestParseFormat1(t *testing.T) {
	ne := binary.NativeEndian
	str := func(b []byte, s string) []byte { return append(ne.AppendUint16(b, uint16(len(s))), s...) }
	rec := ne.AppendUint16(nil, 3) // realm and two components
	rec = str(str(str(rec, "R"), "host"), "h")
	rec = ne.AppendUint32(rec, 1000)
	rec = append(rec, 7)
	rec = ne.AppendUint16(ne.AppendUint16(rec, 18), 32)
	rec = append(rec, make([]byte, 32)...)
	hole := int32(-3)
	b := append(ne.AppendUint32([]byte{5, 1}, uint32(hole)), 0, 0, 0)
	b = append(ne.AppendUint32(b, uint32(len(rec))), rec...)
	kt := parse(t, b)
	if len(kt.Entries) != 1 || text(kt.Entries[0]) != "host/h@R 1970-01-01T00:16:40Z aes256-sha1 00000000" || kt.Entries[0].KVNO != 7 {
		t.Fatalf("%+v", kt.Entries)
	}
	if again := parse(t, kt.Bytes()); len(again.Entries) != 1 || text(again.Entries[0]) != text(kt.Entries[0]) {
		t.Errorf("written in format 2: %+v", again.Entries)
	}
	path := filepath.Join(t.TempDir(), "v1")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Append(path, kt.Entries[0]); !errors.Is(err, ErrFormat) {
		t.Errorf("adding to format 1: %v", err)
	}
}

func TestParseRefuses(t *testing.T) {
	good := golden(t, "mit-keytab")
	if _, err := Parse(good[:2]); err != nil {
		t.Errorf("no entries: %v", err)
	}
	for n := range good {
		if _, err := Parse(good[:n]); err != nil && !errors.Is(err, ErrFormat) {
			t.Errorf("cut to %d: %v", n, err)
		} else if err == nil && n != 2 && !bytes.Equal(parse(t, good[:n]).Bytes(), good[:n]) {
			t.Errorf("cut to %d: accepted as something else", n)
		}
	}
	for what, b := range map[string][]byte{
		"empty":                   {},
		"text":                    []byte("# keytab\n"),
		"format 3":                {5, 3},
		"largest length":          {5, 2, 0x7f, 0xff, 0xff, 0xff, 0},
		"largest hole":            {5, 2, 0x80, 0, 0, 0, 0},
		"65,535 components":       {5, 2, 0, 0, 0, 4, 0xff, 0xff, 0, 0},
		"format 1, no components": {5, 1, 2, 0, 0, 0, 0, 0},
		"empty record of 1 octet": {5, 2, 0, 0, 0, 1, 0},
	} {
		if kt, err := Parse(b); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: %+v, %v, want ErrFormat", what, kt, err)
		}
	}
}

func TestFind(t *testing.T) {
	at := func(s int64) time.Time { return time.Unix(s, 0) }
	aes, sha2 := kcrypto.AES256SHA1, kcrypto.AES256SHA2
	entry := func(kvno uint32, ts int64, e kcrypto.EType, fill byte, n ...string) Entry {
		return Entry{Realm: "R", Name: name(n...), KVNO: kvno, Timestamp: at(ts), Key: key(t, e, fill)}
	}
	kt := &Keytab{Entries: []Entry{
		entry(44, 10, aes, 1, "old"), entry(44, 10, aes, 2, "old"), entry(300, 20, aes, 3, "old"), entry(300, 20, sha2, 4, "old"),
		entry(250, 10, aes, 5, "wrapped"), entry(3, 11, aes, 6, "wrapped"),
		entry(250, 10, aes, 8, "stale"), entry(3, 9, aes, 9, "stale"),
		entry(65535, 10, aes, 10, "wide"), entry(3, 10, aes, 11, "wide"), entry(200, 10, aes, 12, "high"), entry(130, 11, aes, 13, "high"),
	}}
	for _, c := range []struct {
		realm, name string
		kvno        uint32
		etype       kcrypto.EType
		fill        byte // 0: not found
		got         uint32
	}{
		{"R", "old", 300, aes, 3, 300},
		{"R", "old", 300, sha2, 4, 300},
		{"R", "old", 44, aes, 1, 44},       // the first of two equals
		{"R", "old", 556, aes, 1, 44},      // 556 mod 256 is 44
		{"R", "old", 44, sha2, 0, 0},       // 300 was not truncated
		{"R", "old", 45, aes, 0, 0},        //
		{"R", "old", 0, aes, 3, 300},       // newest
		{"R", "old", 0, 0, 3, 300},         // of any enctype
		{"R", "old", 0, 17, 0, 0},          //
		{"S", "old", 0, aes, 0, 0},         // another realm
		{"R", "young", 0, aes, 0, 0},       //
		{"R", "wrapped", 0, aes, 6, 3},     // 3 is newer than 250
		{"R", "stale", 0, aes, 8, 250},     // its timestamp is older
		{"R", "wide", 0, aes, 11, 3},       // 16 bits wrap, too
		{"R", "high", 0, aes, 12, 200},     // neither has wrapped
		{"R", "wrapped", 3, aes, 6, 3},     //
		{"R", "wrapped", 3 + 512, 0, 6, 3}, //
	} {
		k, kvno, ok := kt.Find(c.realm, krb5.PrincipalName{NameString: []string{c.name}}, c.kvno, c.etype)
		if ok != (c.fill != 0) || kvno != c.got || ok && k.Bytes()[0] != c.fill {
			t.Errorf("Find(%s@%s, kvno %d, etype %d) = %v, kvno %d, %v; want key %d, kvno %d", c.name, c.realm, c.kvno, c.etype, k, kvno, ok, c.fill, c.got)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, file := range []string{"mit-keytab", "mit-keytab-with-holes", "mit-stash", "heimdal-m-key"} {
		b := golden(f, file)
		f.Add(b)
		f.Add(b[:len(b)-3])
	}
	f.Add([]byte{5, 1, 3, 0, 0, 0, 1, 2, 3})
	f.Add([]byte{5, 2, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		kt, err := Parse(b)
		if err != nil {
			if !errors.Is(err, ErrFormat) {
				t.Fatal(err)
			}
			return
		}
		out := kt.Bytes()
		again := parse(t, out)
		// The 8-bit kvno may contradict the 32-bit one, which wins; nothing else changes, and nothing the second time.
		if b[1] == 2 && len(out) > len(b) || !bytes.Equal(again.Bytes(), out) {
			t.Fatalf("%x written again as %x", b, out)
		}
		if len(again.Entries) != len(kt.Entries) {
			t.Fatalf("%d entries became %d", len(kt.Entries), len(again.Entries))
		}
		for i, e := range kt.Entries {
			o := again.Entries[i]
			if e.KVNO != o.KVNO || !e.Key.Equal(o.Key) || !e.Timestamp.Equal(o.Timestamp) || e.Realm != o.Realm || !e.Name.Equal(o.Name) {
				t.Fatalf("entry %d became %+v, was %+v", i, o, e)
			}
		}
	})
}

package ccache

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/charon-kdc/charon/kdc/krb5"
	"github.com/charon-kdc/charon/kdc/krb5/kcrypto"
)

func golden(t testing.TB) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", "mit-ccache-v4"))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func parse(t testing.TB, b []byte) *CCache {
	t.Helper()
	c, err := Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func principal(t testing.TB, s string) Principal {
	t.Helper()
	n, realm, err := krb5.ParsePrincipal(s, "LAB.TEST")
	if err != nil {
		t.Fatal(err)
	}
	return Principal{realm, n}
}

// kinit -f and kvno of MIT krb5 1.20.1.
func TestParseMITCache(t *testing.T) {
	c := parse(t, golden(t))
	if c.Default.String() != "alice@LAB.TEST" || !c.HasOffset || c.Offset != 0 {
		t.Errorf("default %v, offset %v %v", c.Default, c.Offset, c.HasOffset)
	}
	if len(c.Creds) != 2 {
		t.Fatalf("%d credentials", len(c.Creds))
	}
	for i, want := range []struct {
		server string
		flags  krb5.TicketFlags
	}{{"krbtgt/LAB.TEST", 0x40e10000}, {"host/srv.lab.test", 0x40a90000}} {
		x := c.Creds[i]
		if !x.Client.Equal(c.Default) || !x.Server.Equal(principal(t, want.server)) || x.EType() != kcrypto.AES256SHA1 || x.Key == nil {
			t.Errorf("credential %d: %v for %v, %v", i, x.Client, x.Server, x.EType())
		}
		if !x.AuthTime.Equal(time.Date(2026, 11, 22, 3, 55, 12, 0, time.UTC)) || x.EndTime.Sub(x.StartTime) != 8*time.Hour || x.RenewTill.Sub(x.AuthTime) != 48*time.Hour {
			t.Errorf("credential %d: times %v %v %v %v", i, x.AuthTime, x.StartTime, x.EndTime, x.RenewTill)
		}
		if x.IsSKey || len(x.Addresses)+len(x.AuthData)+len(x.SecondTicket) != 0 || len(x.Ticket) < 100 || x.Ticket[0] != 0x61 {
			t.Errorf("credential %d: %+v", i, x)
		}
		if x.Flags != want.flags {
			t.Errorf("credential %d: flags %v, want %v", i, x.Flags, want.flags)
		}
	}
	if v, ok := c.Setting("fast_avail", "krbtgt/LAB.TEST@LAB.TEST"); !ok || string(v) != "yes" {
		t.Errorf("fast_avail %q %v", v, ok)
	}
	if v, ok := c.Setting("pa_type", "krbtgt/LAB.TEST@LAB.TEST"); !ok || string(v) != "2" {
		t.Errorf("pa_type %q %v; settings %+v", v, ok, c.Config)
	}
	if _, ok := c.Setting("fast_avail", ""); ok {
		t.Error("a setting of one principal is not the cache's")
	}
	if got := c.Bytes(); !bytes.Equal(got, golden(t)) {
		t.Errorf("written again as\n%x", got)
	}
}

// full is a cache with every field in use.
func full(t testing.TB) *CCache {
	k, err := kcrypto.NewKey(kcrypto.AES128SHA2, bytes.Repeat([]byte{7}, 16))
	if err != nil {
		t.Fatal(err)
	}
	at := func(h int) time.Time { return time.Date(2026, 1, 2, h, 0, 0, 0, time.UTC) }
	return &CCache{
		Default: principal(t, "alice"), Offset: -1500 * time.Millisecond, HasOffset: true,
		Config: []Config{{Key: "start_realm", Value: []byte("LAB.TEST")}, {Key: "pa_type", Principal: "krbtgt/LAB.TEST@LAB.TEST", Value: []byte("138")}},
		Creds: []Cred{
			{Client: principal(t, "alice"), Server: principal(t, "krbtgt/LAB.TEST"), Key: k, AuthTime: at(1), EndTime: at(9), Flags: krb5.TicketFlags(0x50c00000),
				Addresses: []krb5.HostAddress{{AddrType: 2, Address: []byte{10, 0, 0, 1}}, {AddrType: 24, Address: make([]byte, 16)}},
				AuthData:  krb5.AuthorizationData{{ADType: 1, ADData: []byte("if relevant")}, {ADType: -3, ADData: []byte{1}}},
				Ticket:    []byte("ticket")},
			{Client: principal(t, "alice"), Server: principal(t, `bob\/x@OTHER`), Key: k, AuthTime: at(1), StartTime: at(2), EndTime: at(3), RenewTill: at(4),
				IsSKey: true, Ticket: []byte("to user"), SecondTicket: []byte("second")},
		},
	}
}

func same(t *testing.T, got, want *CCache) {
	t.Helper()
	if !bytes.Equal(got.Bytes(), want.Bytes()) {
		t.Errorf("got\n%+v\nwant\n%+v", got, want)
	}
}

func TestFullCacheSurvives(t *testing.T) {
	path := filepath.Join(t.TempDir(), "cc")
	c := full(t)
	if err := c.WriteFile(path); err != nil {
		t.Fatal(err)
	}
	got, err := Read(path)
	if err != nil {
		t.Fatal(err)
	}
	same(t, got, c)
	x, y := got.Creds[0], got.Creds[1]
	if got.Offset != c.Offset || x.Addresses[1].AddrType != 24 || x.AuthData[1].ADType != -3 || string(x.AuthData[0].ADData) != "if relevant" ||
		!x.StartTime.IsZero() || !x.RenewTill.IsZero() || !x.Key.Equal(c.Creds[0].Key) || x.Flags != c.Creds[0].Flags {
		t.Errorf("%+v", x)
	}
	if !y.IsSKey || string(y.SecondTicket) != "second" || !y.Server.Equal(c.Creds[1].Server) || !y.RenewTill.Equal(c.Creds[1].RenewTill) {
		t.Errorf("%+v", y)
	}
	if st, err := os.Stat(path); err != nil || st.Mode() != 0o600 {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
}

func TestAppend(t *testing.T) {
	path := filepath.Join(t.TempDir(), "cc")
	c := full(t)
	extra := c.Creds[1]
	extra.Server, extra.EndTime = principal(t, "imap/mail"), extra.EndTime.Add(time.Hour)
	if err := Append(path, extra); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no cache yet: %v", err)
	}
	if err := c.WriteFile(path); err != nil {
		t.Fatal(err)
	}
	longer := extra
	longer.EndTime = longer.EndTime.Add(time.Hour)
	if err := Append(path, extra, longer); err != nil {
		t.Fatal(err)
	}
	got, err := Read(path)
	if err != nil {
		t.Fatal(err)
	}
	if x := got.Find(principal(t, "imap/mail")); len(got.Creds) != 4 || x == nil || !x.EndTime.Equal(longer.EndTime) {
		t.Errorf("%d credentials, found %+v", len(got.Creds), x)
	}
	if got.Find(principal(t, "imap/mail@OTHER")) != nil {
		t.Error("found a service of another realm")
	}
	c.Creds = append(c.Creds, extra, longer)
	same(t, got, c)
	if err := os.WriteFile(path, []byte("no cache"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Append(path, extra); !errors.Is(err, ErrFormat) {
		t.Errorf("adding to what is no cache: %v", err)
	}
}

// An enctype that is not implemented: the ticket is still the user's, and is passed on.
func TestUnknownEnctypeIsKept(t *testing.T) {
	b := golden(t)
	// The session key of the first ticket: enctype 18, 32 octets; make it camellia256.
	at := bytes.Index(b, []byte{0, 18, 0, 0, 0, 32})
	b[at+1] = 26
	c := parse(t, b)
	if x := c.Creds[0]; x.Key != nil || x.EType() != 26 || c.Creds[1].Key == nil {
		t.Errorf("%v, %v", x.Key, x.EType())
	}
	if !bytes.Equal(c.Bytes(), b) {
		t.Error("the key was lost")
	}
}

func TestRemovedRecordsAreSkipped(t *testing.T) {
	end := len(parse(t, golden(t)).Creds[1].append(nil)) // the last credential is the host ticket
	for what, change := range map[string]func(b []byte){
		"MIT": func(b []byte) {
			copy(b[timesAt(b, end):], []byte{0xff, 0xff, 0xff, 0xff})
			clear(b[timesAt(b, end)+8 : timesAt(b, end)+12])
		},
		"Heimdal": func(b []byte) { clear(b[timesAt(b, end)+8 : timesAt(b, end)+12]) },
	} {
		b := golden(t)
		change(b)
		if c := parse(t, b); len(c.Creds) != 1 || c.Find(principal(t, "host/srv.lab.test")) != nil || len(c.Config) != 2 {
			t.Errorf("%s: %d credentials, %d settings", what, len(c.Creds), len(c.Config))
		}
	}
	b := bytes.Replace(golden(t), []byte(configRealm), []byte("X-RMED-CONF:"), 1)
	c := parse(t, b)
	if _, ok := c.Setting("fast_avail", "krbtgt/LAB.TEST@LAB.TEST"); ok || len(c.Config) != 1 || len(c.Creds) != 2 {
		t.Errorf("removed setting: %d settings, %d credentials", len(c.Config), len(c.Creds))
	}
	// A cache that is copied must not bring the dead back, nor lose the living.
	if again := parse(t, c.Bytes()); len(again.Config) != 1 || len(again.Creds) != 2 {
		t.Errorf("written again: %d settings, %d credentials", len(again.Config), len(again.Creds))
	}
}

// timesAt is where the authtime of the last credential of n octets stands: behind two principals and a key of 32 octets.
func timesAt(b []byte, n int) int {
	at := len(b) - n
	for range 2 {
		at += 4
		parts := binary.BigEndian.Uint32(b[at:])
		at += 4
		for range parts + 1 {
			at += 4 + int(binary.BigEndian.Uint32(b[at:]))
		}
	}
	return at + 2 + 4 + 32
}

func TestOldFormats(t *testing.T) {
	for version := 1; version <= 3; version++ {
		b := oldCache(version)
		c := parse(t, b)
		if len(c.Creds) != 1 || c.Default.String() != "alice@LAB.TEST" || c.HasOffset {
			t.Fatalf("format %d: %+v", version, c)
		}
		x := c.Creds[0]
		if x.Server.String() != "host/a@LAB.TEST" || x.EType() != 17 || x.Key == nil || x.EndTime.Unix() != 3 || x.RenewTill.Unix() != 4 || !x.IsSKey || x.Flags != 0x40000000 ||
			string(x.Ticket) != "tkt" || string(x.SecondTicket) != "second" || len(x.Addresses) != 1 || string(x.Addresses[0].Address) != "addr" {
			t.Errorf("format %d: %+v", version, x)
		}
		if again := parse(t, c.Bytes()); again.Bytes()[1] != 4 || !again.Creds[0].Server.Equal(x.Server) {
			t.Errorf("format %d: not carried over to format 4", version)
		}
		for n := range b {
			if _, err := Parse(b[:n]); err != nil && !errors.Is(err, ErrFormat) {
				t.Errorf("format %d cut to %d: %v", version, n, err)
			}
		}
		path := filepath.Join(t.TempDir(), "old")
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := Append(path, x); !errors.Is(err, ErrFormat) {
			t.Errorf("adding to format %d: %v", version, err)
		}
	}
}

// oldCache is alice's ticket for host/a in format 1, 2 or 3.
func oldCache(version int) []byte {
	var o interface {
		binary.ByteOrder
		binary.AppendByteOrder
	} = binary.NativeEndian
	if version == 3 {
		o = binary.BigEndian
	}
	b := []byte{5, byte(version)}
	data := func(s string) { b = append(o.AppendUint32(b, uint32(len(s))), s...) }
	name := func(parts ...string) {
		n := uint32(len(parts))
		if version == 1 {
			n++
		} else {
			b = o.AppendUint32(b, 1)
		}
		b = o.AppendUint32(b, n)
		data("LAB.TEST")
		for _, p := range parts {
			data(p)
		}
	}
	name("alice")
	name("alice")
	name("host", "a")
	b = o.AppendUint16(b, 17)
	if version == 3 {
		b = o.AppendUint16(b, 17)
	}
	data("0123456789abcdef")
	for s := range uint32(4) {
		b = o.AppendUint32(b, s+1)
	}
	b = o.AppendUint32(append(b, 1), 0x40000000)
	b = o.AppendUint16(o.AppendUint32(b, 1), 2)
	data("addr")
	b = o.AppendUint32(b, 0)
	data("tkt")
	data("second")
	return b
}

func TestParseRefuses(t *testing.T) {
	good := golden(t)
	starts := map[int]bool{} // of credentials, where a cache may end
	for n := range good {
		c, err := Parse(good[:n])
		if err == nil {
			starts[n] = true
			continue
		}
		if !errors.Is(err, ErrFormat) || c != nil {
			t.Errorf("cut to %d: %v", n, err)
		}
	}
	if len(starts) != 4 {
		t.Errorf("a cache of four records may be cut in four places, not %v", starts)
	}
	for what, b := range map[string]string{
		"empty":              "",
		"format 5":           "\x05\x05",
		"format 0":           "\x05\x00",
		"keytab":             "\x05\x02\x00\x00\x00\x51",
		"header past end":    "\x05\x04\xff\xff\x00\x01",
		"field past header":  "\x05\x04\x00\x04\x00\x01\x00\x08",
		"2^32-1 components":  "\x05\x04\x00\x00\x00\x00\x00\x01\xff\xff\xff\xff\x00\x00\x00\x00",
		"realm of 2^31":      "\x05\x04\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x80\x00\x00\x00",
		"format 1, no realm": "\x05\x01\x00\x00\x00\x00\x00\x00\x00\x00",
	} {
		if c, err := Parse([]byte(b)); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: %+v, %v, want ErrFormat", what, c, err)
		}
	}
}

func TestHeaderFieldsOfOthersAreKept(t *testing.T) {
	b := golden(t)
	other := []byte{0x77, 0x77, 0, 3, 'a', 'b', 'c'}
	withOther := append([]byte{5, 4, 0, byte(12 + len(other))}, b[4:16]...)
	withOther = append(append(withOther, other...), b[16:]...)
	c := parse(t, withOther)
	if !c.HasOffset || len(c.Creds) != 2 || !bytes.Equal(c.Bytes(), withOther) {
		t.Errorf("offset %v, %d credentials, written %x", c.HasOffset, len(c.Creds), c.Bytes()[:32])
	}
}

func TestNames(t *testing.T) {
	for _, c := range []struct{ name, path, err string }{
		{"/tmp/krb5cc_7", "/tmp/krb5cc_7", ""},
		{"FILE:/run/cc", "/run/cc", ""},
		{"FILE:cc:1", "cc:1", ""},
		{"relative", "relative", ""},
		{"/odd:name", "/odd:name", ""},
		{"KEYRING:persistent:0", "", "KEYRING"},
		{"DIR:/run/user/0", "", "DIR"},
		{"MEMORY:x", "", "MEMORY"},
		{"file:/x", "", "file"},
		{"FILE:", "", "FILE:"},
		{":/x", "", ":/x"},
	} {
		t.Setenv("KRB5CCNAME", c.name)
		path, err := DefaultName()
		if path != c.path || (err == nil) != (c.err == "") || err != nil && (!errors.Is(err, ErrType) || !strings.Contains(err.Error(), c.err)) {
			t.Errorf("%q: %q, %v", c.name, path, err)
		}
	}
	t.Setenv("KRB5CCNAME", "")
	if path, err := DefaultName(); err != nil || !strings.HasPrefix(path, "/tmp/krb5cc_") {
		t.Errorf("no name: %q, %v", path, err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(golden(f))
	f.Add(golden(f)[:211])
	f.Add(full(f).Bytes())
	for version := 1; version <= 3; version++ {
		f.Add(oldCache(version))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := Parse(b)
		if err != nil {
			if !errors.Is(err, ErrFormat) {
				t.Fatal(err)
			}
			return
		}
		out := c.Bytes()
		again := parse(t, out)
		if len(again.Creds) != len(c.Creds) || len(again.Config) != len(c.Config) || !bytes.Equal(again.Bytes(), out) {
			t.Fatalf("%x written again as %x", b, out)
		}
	})
}

package ccache

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/charon-kdc/charon/kdc/krb5/kcrypto"
)

// klist runs the one of Debian's krb5-user, which `make test` installs.
func klist(t *testing.T, args ...string) string {
	t.Helper()
	path, err := exec.LookPath("klist")
	if err != nil {
		t.Fatalf("%v; it is in Debian's krb5-user", err)
	}
	conf := filepath.Join(t.TempDir(), "krb5.conf")
	if err := os.WriteFile(conf, []byte("[libdefaults]\n\tdefault_realm = LAB.TEST\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c := exec.Command(path, args...)
	c.Env = append(os.Environ(), "KRB5_CONFIG="+conf, "LC_ALL=C", "TZ=UTC")
	out, err := c.CombinedOutput()
	if err != nil {
		t.Fatalf("klist: %v\n%s", err, out)
	}
	return string(out)
}

func TestMITKlistReadsOurs(t *testing.T) {
	path := filepath.Join(t.TempDir(), "cc")
	c := parse(t, golden(t))
	k, err := kcrypto.NewKey(kcrypto.AES256SHA2, bytes.Repeat([]byte{1}, 32))
	if err != nil {
		t.Fatal(err)
	}
	ticket := c.Creds[0].Ticket // klist decodes it to show its enctype
	c.Offset = 90 * time.Second
	c.Config = append(c.Config, Config{Key: "refresh_time", Value: []byte("1800000000")})
	c.Creds = append(c.Creds, Cred{Client: c.Default, Server: principal(t, "HTTP/www.lab.test"), Key: k, AuthTime: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC),
		StartTime: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), EndTime: time.Date(2026, 1, 2, 13, 4, 5, 0, time.UTC), Flags: 0x40000000 | 0x00200000, Ticket: ticket})
	if err := c.WriteFile(path); err != nil {
		t.Fatal(err)
	}
	late := c.Creds[2]
	late.order, late.Server = 0, principal(t, `odd\/name\@x`)
	if err := Append(path, late); err != nil {
		t.Fatal(err)
	}
	out := klist(t, "-e", "-f", "-C", path)
	for _, want := range []string{
		"Default principal: alice@LAB.TEST",
		"11/22/26 03:55:12  11/22/26 11:55:12  krbtgt/LAB.TEST@LAB.TEST",
		"01/02/26 03:04:05  01/02/26 13:04:05  HTTP/www.lab.test@LAB.TEST\n\tFlags: FA, Etype (skey, tkt): aes256-cts-hmac-sha384-192, aes256-cts-hmac-sha1-96",
		`01/02/26 03:04:05  01/02/26 13:04:05  odd\/name\@x@LAB.TEST`,
		"config: fast_avail(krbtgt/LAB.TEST@LAB.TEST) = yes",
		"config: refresh_time = 1800000000",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("klist does not show %q:\n%s", want, out)
		}
	}
}

// What MIT shows of the recorded cache it shows of our copy of it.
func TestMITKlistSeesNoDifference(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "cc")
	var shown []string
	for _, b := range [][]byte{golden(t), parse(t, golden(t)).Bytes()} {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		shown = append(shown, klist(t, "-e", "-f", "-a", "-C", path))
	}
	if shown[0] != shown[1] || !strings.Contains(shown[0], "krbtgt/LAB.TEST") {
		t.Errorf("%s\nbecame\n%s", shown[0], shown[1])
	}
}

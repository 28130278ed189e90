package keytab

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/charon-kdc/charon/kdc/krb5"
	"github.com/charon-kdc/charon/kdc/krb5/kcrypto"
)

// mit runs a program of Debian's krb5-user, which `make test` installs.
func mit(t *testing.T, program string, args ...string) *exec.Cmd {
	t.Helper()
	path, err := exec.LookPath(program)
	if err != nil {
		t.Fatalf("%v; it is in Debian's krb5-user", err)
	}
	conf := filepath.Join(t.TempDir(), "krb5.conf")
	if err := os.WriteFile(conf, []byte("[libdefaults]\n\tdefault_realm = EXAMPLE.COM\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c := exec.Command(path, args...)
	c.Env = append(os.Environ(), "KRB5_CONFIG="+conf, "LC_ALL=C", "TZ=UTC")
	return c
}

func TestMITKlistReadsOurs(t *testing.T) {
	path := filepath.Join(t.TempDir(), "kt")
	stamp := time.Date(2026, 11, 22, 3, 55, 34, 0, time.UTC)
	var want []string
	for i, e := range []kcrypto.EType{17, 18, 19, 20, 23} {
		entry := Entry{Realm: "EXAMPLE.COM", Name: name("host", fmt.Sprintf("h%d.example.com", i)), Timestamp: stamp, KVNO: uint32(i * 200), Key: key(t, e, byte(i+1))}
		if err := Append(path, entry); err != nil {
			t.Fatal(err)
		}
		want = append(want, fmt.Sprintf("%4d 11/22/26 03:55:34 host/h%d.example.com@EXAMPLE.COM", i*200, i),
			fmt.Sprintf("%v)  (0x%x)", e, entry.Key.Bytes()))
	}
	out, err := mit(t, "klist", "-k", "-e", "-t", "-K", path).CombinedOutput()
	if err != nil {
		t.Fatalf("klist: %v\n%s", err, out)
	}
	for _, w := range want {
		if !strings.Contains(string(out), w) {
			t.Errorf("klist does not show %q:\n%s", w, out)
		}
	}
}

// ktutil reads what we wrote and writes it again in its own way, stamped with the time; nothing else may change on the way back.
func TestMITKtutilRoundTrip(t *testing.T) {
	dir := t.TempDir()
	ours, theirs := filepath.Join(dir, "ours"), filepath.Join(dir, "theirs")
	for _, file := range []string{"mit-keytab", "mit-keytab-with-holes"} {
		kt := parse(t, golden(t, file))
		kt.Entries = append(kt.Entries, Entry{Realm: "R", Name: name("added"), Timestamp: time.Unix(1e9, 0).UTC(), KVNO: 513, Key: key(t, kcrypto.AES128SHA2, 9)})
		if err := kt.WriteFile(ours); err != nil {
			t.Fatal(err)
		}
		os.Remove(theirs)
		c := mit(t, "ktutil")
		c.Stdin = strings.NewReader("rkt " + ours + "\nwkt " + theirs + "\nquit\n")
		if out, err := c.CombinedOutput(); err != nil {
			t.Fatalf("ktutil: %v\n%s", err, out)
		}
		back, err := Read(theirs)
		if err != nil {
			t.Fatal(err)
		}
		if len(back.Entries) != len(kt.Entries) {
			t.Fatalf("%s: %d entries came back of %d", file, len(back.Entries), len(kt.Entries))
		}
		for i, e := range kt.Entries {
			o := back.Entries[i]
			o.Timestamp = e.Timestamp
			if text(o) != text(e) || o.KVNO != e.KVNO || !o.Key.Equal(e.Key) {
				t.Errorf("%s: %s kvno %d came back as %s kvno %d", file, text(e), e.KVNO, text(o), o.KVNO)
			}
		}
	}
}

// MIT's string-to-key and default salt against ours, by way of ktutil's addent.
func TestMITPasswordKeys(t *testing.T) {
	const principal, password = "http/web.example.com@EXAMPLE.COM", "Sesam öffne dich"
	for _, e := range []kcrypto.EType{17, 18, 19, 20, 23} {
		path := filepath.Join(t.TempDir(), "kt")
		addPassword(t, path, fmt.Sprintf("addent -password -p %s -k 3 -e %v", principal, e), password)
		kt, err := Read(path)
		if err != nil || len(kt.Entries) != 1 {
			t.Fatalf("%v: %+v, %v", e, kt, err)
		}
		n, realm, err := krb5.ParsePrincipal(principal, "")
		if err != nil {
			t.Fatal(err)
		}
		want, err := kcrypto.StringToKey(e, password, krb5.DefaultSalt(realm, n), nil)
		if err != nil {
			t.Fatal(err)
		}
		if got, _, ok := kt.Find(realm, n, 3, e); !ok || !got.Equal(want) {
			t.Errorf("%v: MIT's key is %x, ours %s", e, kt.Entries[0].Key.Bytes(), hex.EncodeToString(want.Bytes()))
		}
	}
}

// addPassword runs one addent and writes the keytab. ktutil reads ahead of its prompts, so each line waits for the prompt before it.
func addPassword(t *testing.T, path, addent, password string) {
	t.Helper()
	c := mit(t, "ktutil")
	in, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	c.Stderr = c.Stdout
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	defer c.Wait()
	late := time.AfterFunc(30*time.Second, func() { c.Process.Kill() })
	defer late.Stop()
	for _, step := range []struct{ line, prompt string }{{addent, "Password for"}, {password, "ktutil:  "}, {"wkt " + path, "ktutil:  "}, {"quit", ""}} {
		fmt.Fprintln(in, step.line)
		awaitPrompt(t, out, step.prompt)
	}
	in.Close()
}

func awaitPrompt(t *testing.T, out io.Reader, prompt string) {
	t.Helper()
	var seen bytes.Buffer
	b := make([]byte, 1)
	for prompt != "" && !strings.HasSuffix(seen.String(), prompt) {
		if _, err := out.Read(b); err != nil {
			t.Fatalf("ktutil did not ask %q: %v\n%s", prompt, err, seen.String())
		}
		seen.Write(b)
	}
}

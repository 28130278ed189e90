package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/charon-kdc/charon/kdc/krb5"
	"github.com/charon-kdc/charon/kdc/krb5/ccache"
	"github.com/charon-kdc/charon/kdc/krb5/kcrypto"
	"github.com/charon-kdc/charon/kdc/krb5/keytab"
)

// freePort is a port that was free on loopback for UDP and TCP a moment ago.
func freePort(t *testing.T) int {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().(*net.TCPAddr).Port
}

// mitKDC runs Debian's krb5kdc with alice (password pw), bob and HTTP/web, whose keytab it returns.
func mitKDC(t *testing.T) (dir, kt string) {
	t.Helper()
	dir = t.TempDir()
	mit := mitRealm(t, dir)
	port := freePort(t)
	conf := fmt.Sprintf("[libdefaults]\n\tdefault_realm = EXAMPLE.COM\n\tdns_lookup_kdc = false\n[realms]\n\tEXAMPLE.COM = {\n\t\tkdc = 127.0.0.1:%d\n\t}\n", port)
	kdc := fmt.Sprintf("[kdcdefaults]\n\tkdc_ports = %[2]d\n\tkdc_tcp_ports = %[2]d\n[realms]\n\tEXAMPLE.COM = {\n\t\tdatabase_name = %[1]s/principal\n\t\tkey_stash_file = %[1]s/stash\n"+
		"\t\tmax_renewable_life = 7d\n\t}\n", dir, port)
	for name, text := range map[string]string{"krb5.conf": conf, "kdc.conf": kdc} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	kt = filepath.Join(dir, "http.keytab")
	for _, q := range []string{
		"modprinc -maxlife 1d -maxrenewlife 7d krbtgt/EXAMPLE.COM", "addprinc -pw pw -maxlife 1d -maxrenewlife 7d +requires_preauth alice",
		"addprinc -pw pw -maxlife 1d -maxrenewlife 7d bob", "addprinc -randkey -maxlife 1d -maxrenewlife 7d HTTP/web", "ktadd -k " + kt + " HTTP/web",
	} {
		mit("", "-q", q)
	}
	c := exec.Command("/usr/sbin/krb5kdc", "-n")
	c.Env = append(os.Environ(), "KRB5_CONFIG="+dir+"/krb5.conf", "KRB5_KDC_PROFILE="+dir+"/kdc.conf")
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Process.Kill(); c.Wait() })
	for end := time.Now().Add(30 * time.Second); ; {
		if conn, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", port), time.Second); err == nil {
			conn.Close()
			break
		}
		if time.Now().After(end) {
			t.Fatal("krb5kdc does not listen")
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Setenv("KRB5_CONFIG", dir+"/krb5.conf")
	t.Setenv("KRB5CCNAME", dir+"/cc")
	t.Setenv("TZ", "UTC")
	t.Setenv("LC_ALL", "C")
	return dir, kt
}

var (
	listedDates = regexp.MustCompile(`\d\d/\d\d/(20)?\d\d \d\d:\d\d:\d\d`)
	blanks      = regexp.MustCompile(`[ -]{2,}`)
	settings    = regexp.MustCompile(`(?m)^config: .*\n`)
)

// listed takes out the years and the widths of columns, which in MIT's go with the locale.
func listed(s string) string {
	return settings.ReplaceAllString(blanks.ReplaceAllString(listedDates.ReplaceAllString(s, "DATE"), "  "), "")
}

// The client side against another KDC, and its listings beside MIT's.
func TestClientSide(t *testing.T) {
	dir, kt := mitKDC(t)
	n := &fakeNode{t: t}
	mitKlist := func(args ...string) string {
		out, _ := exec.Command("klist", args...).Output()
		return string(out)
	}
	same := func(args ...string) {
		t.Helper()
		out, _, _ := n.run(append([]string{"klist"}, args...)...)
		if want := mitKlist(args...); listed(out) != listed(want) || out == "" {
			t.Errorf("klist %v:\n%s\nMIT's:\n%s", args, listed(out), listed(want))
		}
	}
	n.stdin = "wrong\n"
	n.want(exitError, []string{"kinit: Password incorrect while getting initial credentials\n"}, "kinit", "alice")
	n.want(exitError, []string{"kinit: Client 'nobody@EXAMPLE.COM' not found in Kerberos database while getting initial credentials\n"}, "kinit", "nobody")
	n.want(exitError, []string{"klist: No credentials cache found (filename: " + dir + "/cc)\n"}, "klist")
	if _, _, code := n.run("klist", "-s"); code != exitError {
		t.Errorf("klist -s without a cache: %d", code)
	}
	n.stdin = "pw\n"
	n.want(exitOK, nil, "kinit", "-f", "-p", "-r", "7d", "-l", "10h", "alice")
	n.want(exitOK, nil, "klist", "-s")
	n.want(exitOK, []string{"HTTP/web@EXAMPLE.COM: kvno = 2\n"}, "kvno", "HTTP/web")
	n.want(exitOK, []string{"HTTP/web@EXAMPLE.COM: kvno = 2, keytab entry valid\n"}, "kvno", "-k", kt, "HTTP/web")
	n.want(exitError, []string{"kvno: Server nobody@EXAMPLE.COM not found in Kerberos database while getting credentials for nobody@EXAMPLE.COM\n"}, "kvno", "nobody")
	same()
	same("-e", "-f", "-a")
	same("-k", kt)
	same("-k", "-e", "-t", kt)
	same("-k", "-e", "-K", kt)
	n.want(exitOK, nil, "kinit", "-R")
	same("-f")
	n.stdin = "pw\n"
	n.want(exitOK, nil, "kinit", "-c", dir+"/bob", "bob")
	n.want(exitOK, []string{"bob@EXAMPLE.COM: kvno = 0\n"}, "kvno", "--u2u", dir+"/bob", "bob")
	n.want(exitOK, nil, "kinit", "-k", "-t", kt, "HTTP/web")
	n.want(exitError, []string{"kinit: Keytab contains no suitable keys for alice@EXAMPLE.COM"}, "kinit", "-k", "-t", kt, "alice")
	stale := filepath.Join(dir, "stale.keytab")
	key, err := kcrypto.GenerateKey(rand.Reader, kcrypto.AES256SHA1)
	if err != nil {
		t.Fatal(err)
	}
	if err := keytab.Append(stale, keytab.Entry{Realm: "EXAMPLE.COM", Name: krb5.MkName(1, "alice"), KVNO: 1, Key: key, Timestamp: time.Now()}); err != nil {
		t.Fatal(err)
	}
	mitSays, _ := exec.Command("kinit", "-k", "-t", stale, "alice").CombinedOutput()
	n.want(exitError, []string{string(mitSays), "kinit: Preauthentication failed while"}, "kinit", "-k", "-t", stale, "alice")
	n.want(exitOK, nil, "kinit", "-S", "HTTP/web", "alice")
	same()
	n.want(exitOK, nil, "kinit", "-s", "1h", "-l", "2h", "alice")
	same("-f")
	n.want(exitError, []string{"kinit: Ticket not yet valid while validating credentials\n"}, "kinit", "-v")
	n.want(exitOK, nil, "kinit", "-a", "alice")
	same("-a", "-n")
	n.want(exitUsage, []string{"kinit: Bad lifetime value frob"}, "kinit", "-l", "frob", "alice")
	n.want(exitOK, nil, "kdestroy")
	if _, err := os.Stat(dir + "/cc"); !os.IsNotExist(err) {
		t.Errorf("after kdestroy: %v", err)
	}
	n.want(exitOK, nil, "kdestroy")
	n.want(exitError, []string{"No credentials cache found"}, "kvno", "HTTP/web")
}

func TestNoKDCAnswers(t *testing.T) {
	dir := t.TempDir()
	conf := fmt.Sprintf("[libdefaults]\n\tdefault_realm = EXAMPLE.COM\n[realms]\n\tEXAMPLE.COM = {\n\t\tkdc = tcp/127.0.0.1:%d\n\t}\n", freePort(t))
	if err := os.WriteFile(dir+"/krb5.conf", []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("KRB5_CONFIG", dir+"/krb5.conf")
	n := &fakeNode{t: t, stdin: "pw\n"}
	n.want(exitError, []string{"kinit: Cannot contact any KDC for the realm"}, "kinit", "-c", dir+"/cc", "alice")
}

func TestKlistUsable(t *testing.T) {
	now := time.Now()
	name := func(c ...string) ccache.Principal { return ccache.Principal{Realm: "R", Name: krb5.MkName(1, c...)} }
	cred := func(s ccache.Principal, d time.Duration) ccache.Cred {
		return ccache.Cred{Server: s, EndTime: now.Add(d)}
	}
	tgt := ccache.Principal{Realm: "R", Name: krb5.TGSName("R")}
	for _, c := range []struct {
		what  string
		creds []ccache.Cred
		want  bool
	}{
		{"empty", nil, false}, {"a good TGT", []ccache.Cred{cred(tgt, time.Hour)}, true}, {"an ended TGT", []ccache.Cred{cred(tgt, -time.Hour), cred(name("x"), time.Hour)}, false},
		{"a service ticket alone", []ccache.Cred{cred(name("x"), time.Hour)}, true}, {"an ended one", []ccache.Cred{cred(name("x"), -time.Hour)}, false},
	} {
		if got := usable(&ccache.CCache{Default: name("alice"), Creds: c.creds}, now); got != c.want {
			t.Errorf("%s: %v", c.what, got)
		}
	}
}

func TestFlagLetters(t *testing.T) {
	all := krb5.FlagForwardable | krb5.FlagForwarded | krb5.FlagProxiable | krb5.FlagProxy | krb5.FlagMayPostdate | krb5.FlagPostdated | krb5.FlagInvalid |
		krb5.FlagRenewable | krb5.FlagInitial | krb5.FlagHWAuthent | krb5.FlagPreAuthent | krb5.FlagTransitedPolicyChecked | krb5.FlagOKAsDelegate | krb5.FlagAnonymous
	if got := flagLetters(all); got != "FfPpDdiRIHATOa" {
		t.Errorf("%q", got)
	}
}

// A password must not come from the prompt of a command that was interrupted.
func TestInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	newFakeNode(t)
	var out, errOut strings.Builder
	if code := run(ctx, []string{"status"}, strings.NewReader(""), &out, &errOut); code == exitOK {
		t.Errorf("a cancelled call is done: %s", out.String())
	}
}

package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

func TestSplitArgs(t *testing.T) {
	for line, want := range map[string]string{
		`addprinc -pw x bob`: "addprinc|-pw|x|bob", `  a   b `: "a|b", `a "b c" d`: "a|b c|d", `a "b ""c"" d"`: `a|b "c" d`, `-pw "" x`: "-pw||x", `a"b c"d`: "ab cd", ``: "",
	} {
		got, err := splitArgs(line)
		if err != nil || strings.Join(got, "|") != want {
			t.Errorf("%q: %q %v", line, got, err)
		}
	}
	if _, err := splitArgs(`a "b`); err == nil {
		t.Error("unbalanced quotes pass")
	}
}

// mitRealm runs kadmin.local of Debian's krb5-admin-server, which `make test` installs, on a realm of its own.
func mitRealm(t *testing.T, dir string) func(input string, args ...string) (out, errOut string) {
	t.Helper()
	files := map[string]string{
		"krb5.conf": "[libdefaults]\n\tdefault_realm = EXAMPLE.COM\n",
		"kdc.conf": fmt.Sprintf("[realms]\n\tEXAMPLE.COM = {\n\t\tdatabase_name = %[1]s/principal\n\t\tkey_stash_file = %[1]s/stash\n\t\tacl_file = %[1]s/acl\n"+
			"\t\tsupported_enctypes = aes256-sha2:normal aes128-sha1:normal\n\t\tmax_life = 10h\n\t\tmax_renewable_life = 7d\n\t\tdefault_principal_flags = +preauth\n\t}\n", dir),
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	program := func(name string) string {
		for _, p := range []string{name, "/usr/sbin/" + name} {
			if path, err := exec.LookPath(p); err == nil {
				return path
			}
		}
		t.Fatalf("%s is not here; it is in Debian's krb5-admin-server", name)
		return ""
	}
	env := append(os.Environ(), "KRB5_CONFIG="+dir+"/krb5.conf", "KRB5_KDC_PROFILE="+dir+"/kdc.conf", "TZ=UTC", "LC_ALL=C")
	create := exec.Command(program("kdb5_util"), "create", "-s", "-P", "master")
	create.Env = env
	if out, err := create.CombinedOutput(); err != nil {
		t.Fatalf("kdb5_util: %v\n%s", err, out)
	}
	kadminLocal := program("kadmin.local")
	return func(input string, args ...string) (string, string) {
		var out, errOut bytes.Buffer
		c := exec.Command(kadminLocal, args...)
		c.Env, c.Stdin, c.Stdout, c.Stderr = env, strings.NewReader(input), &out, &errOut
		c.Run() // its exit code says nothing
		return out.String(), errOut.String()
	}
}

var (
	mitDates = regexp.MustCompile(`[A-Z][a-z]{2} [A-Z][a-z]{2} \d\d \d\d:\d\d:\d\d UTC 2026`)
	// MIT prompts without a terminal, too.
	mitPrompts = regexp.MustCompile(`^(Enter|Re-enter) password for principal ".*": $`)
	mitStamp   = regexp.MustCompile(`\t179\d{7}`)
)

// normal takes out what must differ: who modified, when in this run, the program's name, and MIT's line on whom it authenticates as.
func normal(text string) string {
	var out []string
	for _, line := range strings.Split(text, "\n") {
		if !strings.HasPrefix(line, "Authenticating as principal") && !mitPrompts.MatchString(line) {
			out = append(out, line)
		}
	}
	text = strings.Join(out, "\n")
	text = mitDates.ReplaceAllString(text, "DATE")
	text = mitStamp.ReplaceAllString(text, "\tSTAMP")
	return strings.NewReplacer("(root/admin@EXAMPLE.COM)", "(root)", `"root/admin@EXAMPLE.COM"`, `"root"`, "kadmin.local:", "kadmin:", "usage; add_policy", "usage: add_policy", "add_policy: parser lost count!\n", "").Replace(text)
}

// The same commands given to MIT's kadmin.local and to ours print the same.
func TestKadminIsMITs(t *testing.T) {
	n := newFakeNode(t)
	dir := t.TempDir()
	mit := mitRealm(t, dir)
	kt := filepath.Join(dir, "kt")
	for _, c := range []struct{ query, input string }{
		{query: "addprinc -pw x +requires_preauth bob"},
		{query: "addprinc -pw x bob"},
		{query: "add_principal -randkey HTTP/web"},
		{query: "ank -nokey -policy nope nk"},
		{query: "addprinc stdin", input: "pw\npw\n"},
		{query: `addprinc -pw "" x2`},
		{query: "addprinc -pw x -e aes256-sha1:normal,aes128-sha1:norealm -maxlife \"1 day\" -maxrenewlife \"7 days\" -expire \"2030-01-01 00:00:00\" -kvno 3 full"},
		{query: "getprinc full"},
		{query: "getprinc -terse full"},
		{query: "getprinc bob"},
		{query: "getprinc -terse bob"},
		{query: "get_principal bob"},
		{query: "getprinc nobody"},
		{query: "listprincs b*"},
		{query: "getprincs HTTP/*"},
		{query: `addpol -minlength 8 -minclasses 2 -maxlife "90 days" -minlife "1 day" -history 3 -maxfailure 5 -failurecountinterval "30 minutes" -lockoutduration "1 hour" p1`},
		{query: "addpol -allowedkeysalts aes256-cts-hmac-sha1-96:normal p2"},
		{query: "addpol p1"},
		{query: "getpol p1"},
		{query: "getpol -terse p1"},
		{query: "getpol p2"},
		{query: "getpol nope"},
		{query: "listpols"},
		{query: "modpol -maxlife 0 -minclasses 1 p1"},
		{query: "modpol nope"},
		{query: "getpol p1"},
		{query: "delpol p2"},
		{query: "delpol -force p2"},
		{query: "delpol -force p2"},
		{query: `modprinc -policy p1 -expire "2030-01-01 00:00:00" -pwexpire never -maxlife "10 hours" -maxrenewlife "7 days" -allow_tix +needchange bob`},
		{query: "getprinc bob"},
		{query: "modprinc -policy nope bob"},
		{query: "modprinc -policy p1 bob"},
		{query: "modprinc nobody"},
		{query: "cpw -pw short bob"},
		{query: "cpw -pw aaaaaaaaaa bob"},
		{query: "cpw -pw Longer123 bob"},
		{query: "cpw -pw Longer123 bob"},
		{query: "cpw -pw x nobody"},
		{query: "cpw -randkey bob"},
		{query: "change_password -randkey -e aes256-cts:normal,aes128-cts:norealm -keepold bob"},
		{query: "getprinc bob"},
		{query: "setstr bob foo bar"},
		{query: "getstrs bob"},
		{query: "delstr bob foo"},
		{query: "getstrs bob"},
		{query: "getstrs nobody"},
		{query: "setstr nobody a b"},
		{query: "purgekeys -keepkvno 2 bob"},
		{query: "purgekeys bob"},
		{query: "purgekeys -all bob"},
		{query: "purgekeys nobody"},
		{query: "getprinc bob"},
		{query: "renprinc bob robert"},
		{query: "renprinc -force full robert"},
		{query: "renprinc -force bob robert"},
		{query: "getprinc robert"},
		{query: "xst -k " + kt + " -norandkey HTTP/web"},
		{query: "ktadd -k " + kt + " HTTP/web"},
		{query: "ktadd -k " + kt + " -q HTTP/web"},
		{query: "ktadd -k " + kt + " -e aes256-sha1:normal HTTP/web"},
		{query: "ktadd -k " + kt + " nobody"},
		{query: "ktadd -k " + kt + " -glob HTTP*"},
		{query: "ktremove -k " + kt + " HTTP/web all"},
		{query: "ktremove -k " + kt + " HTTP/web"},
		{query: "delprinc robert", input: "yes\n"},
		{query: "delprinc -force robert"},
		{query: "delprinc nk", input: "no\n"},
		{query: "getprivs"},
		{query: "bogus"},
		{query: "getprinc"},
		{query: "addpol"},
		{query: "setstr bob"},
		{query: "delprinc"},
		{query: "renprinc a"},
	} {
		wantOut, wantErr := mit(c.input, "-q", c.query)
		if strings.Contains(c.query, kt) {
			os.Rename(kt, kt+".mit")
			os.Rename(kt+".ours", kt)
		}
		n.stdin = c.input
		out, errOut, _ := n.run("kadmin", "-q", c.query)
		if strings.Contains(c.query, kt) {
			os.Rename(kt, kt+".ours")
			os.Rename(kt+".mit", kt)
		}
		if normal(out) != normal(wantOut) {
			t.Errorf("%s: standard output\n%s\nMIT's\n%s", c.query, normal(out), normal(wantOut))
		}
		// MIT's ktadd tries the expression itself as well, and says that there is no such principal.
		if normal(errOut) != normal(wantErr) && !strings.Contains(c.query, "-glob") {
			t.Errorf("%s: standard error\n%s\nMIT's\n%s", c.query, normal(errOut), normal(wantErr))
		}
	}
}

// The exit code tells what MIT's does not.
func TestKadminExitCodes(t *testing.T) {
	n := newFakeNode(t)
	n.want(exitOK, nil, "kadmin", "-q", "addprinc -randkey alice")
	n.want(exitConflict, nil, "kadmin", "-q", "addprinc -randkey alice")
	n.want(exitNotFound, nil, "kadmin", "getprinc", "nobody")
	n.want(exitUsage, nil, "kadmin", "-q", "addprinc")
	n.want(exitUsage, nil, "kadmin", "-q", "modprinc -expire frob alice")
	n.want(exitOK, []string{"Principal \"bob@EXAMPLE.COM\" created."}, "kadmin", "addprinc", "-randkey", "+needchange", "bob")
	n.want(exitOK, []string{"Attributes: REQUIRES_PRE_AUTH REQUIRES_PWCHANGE\n"}, "kadmin", "getprinc", "bob")
}

// MIT's zero renewable life is "not renewable", and in a record of ours zero is the realm's bound: both print what holds.
func TestKadminRenewableLife(t *testing.T) {
	n := newFakeNode(t)
	shows := func(name, life, attributes string) {
		t.Helper()
		n.want(exitOK, []string{"\nMaximum renewable life: " + life + "\n", "\nAttributes:" + attributes + "\n"}, "kadmin", "getprinc", name)
	}
	n.want(exitOK, nil, "kadmin", "-q", "addprinc -randkey bob")
	shows("bob", "7 days 00:00:00", " REQUIRES_PRE_AUTH")
	n.want(exitOK, []string{"\nMaximum ticket life: 0 days 10:00:00\n"}, "kadmin", "getprinc", "bob")
	n.want(exitOK, []string{"\t36000\t", "\t604800\t"}, "kadmin", "getprinc", "-terse", "bob")
	n.want(exitOK, nil, "kadmin", "-q", "modprinc -maxrenewlife 0 bob")
	shows("bob", "0 days 00:00:00", " DISALLOW_RENEWABLE REQUIRES_PRE_AUTH")
	n.want(exitOK, []string{"renewable no\n"}, "principal", "show", "bob")
	n.want(exitOK, nil, "kadmin", "-q", `modprinc -maxrenewlife "2 days" bob`)
	shows("bob", "2 days 00:00:00", " REQUIRES_PRE_AUTH")

	// Who was made not renewable by the attribute stays so, whatever bound he gets.
	n.want(exitOK, nil, "kadmin", "-q", "modprinc -allow_renewable bob")
	n.want(exitOK, nil, "kadmin", "-q", `modprinc -maxrenewlife "3 days" bob`)
	shows("bob", "3 days 00:00:00", " DISALLOW_RENEWABLE REQUIRES_PRE_AUTH")

	n.want(exitOK, nil, "kadmin", "-q", "addprinc -randkey -maxrenewlife 0 carol")
	shows("carol", "0 days 00:00:00", " DISALLOW_RENEWABLE REQUIRES_PRE_AUTH")
	n.want(exitOK, nil, "kadmin", "-q", `modprinc -maxrenewlife "2 days" -allow_renewable carol`)
	shows("carol", "2 days 00:00:00", " DISALLOW_RENEWABLE REQUIRES_PRE_AUTH")

	// MIT's zero ticket life is "no bound of its own", as here.
	n.want(exitOK, nil, "kadmin", "-q", "modprinc -maxlife 0 carol")
	n.want(exitOK, []string{"\nMaximum ticket life: 0 days 10:00:00\n"}, "kadmin", "getprinc", "carol")
}

// The verbs of our own say "unlimited" for the realm's bound alone; zero means what it says.
func TestPrincipalLives(t *testing.T) {
	n := newFakeNode(t)
	n.want(exitOK, nil, "principal", "add", "alice", "--random", "--max-renewable-life", "0")
	n.want(exitOK, []string{"max life           the realm's  renewable no\n", "DISALLOW_RENEWABLE"}, "principal", "show", "alice")
	n.want(exitOK, nil, "principal", "set", "alice", "--max-renewable-life", "2d", "--max-life", "1h")
	n.want(exitOK, []string{"max life           1 h  renewable 2 d\n", "attributes         REQUIRES_PRE_AUTH\n"}, "principal", "show", "alice")
	n.want(exitOK, nil, "principal", "set", "alice", "--max-renewable-life", "unlimited", "--max-life", "unlimited")
	n.want(exitOK, []string{"max life           the realm's  renewable the realm's\n", "attributes         REQUIRES_PRE_AUTH\n"}, "principal", "show", "alice")
	n.want(exitUsage, []string{"unlimited"}, "principal", "set", "alice", "--max-life", "0")
}

func TestKadminInteractive(t *testing.T) {
	n := newFakeNode(t)
	n.stdin = "addprinc -randkey alice\n\nbogus\nlistprincs\nq\nlistprincs\n"
	out, errOut, code := n.run("kadmin")
	if code != exitOK || out != "Principal \"alice@EXAMPLE.COM\" created.\nalice@EXAMPLE.COM\n" || !strings.Contains(errOut, "Command not found bogus") {
		t.Errorf("exit %d\n%s%s", code, out, errOut)
	}
	n.stdin = ""
	n.want(exitOK, []string{"add_principal, addprinc, ank\n                         Add principal\n", "change_password, cpw     Change password\n"}, "kadmin", "-q", "?")
}

func TestMITFormats(t *testing.T) {
	for seconds, want := range map[int64]string{0: "0 days 00:00:00", 86400: "1 day 00:00:00", 36000: "0 days 10:00:00", 2*86400 + 61: "2 days 00:01:01"} {
		if got := mitDuration(seconds); got != want {
			t.Errorf("%d: %q", seconds, got)
		}
	}
}

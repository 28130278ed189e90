package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/charon-kdc/charon/kdc/krb5/keytab"
	adminv1 "github.com/charon-kdc/charon/proto/charon/admin/v1"
)

func TestPrincipalVerbs(t *testing.T) {
	n := newFakeNode(t)
	n.stdin = "s3cret\n"
	n.want(exitOK, []string{"alice@EXAMPLE.COM created  kvno 1  aes256-sha2,aes128-sha1\n"}, "principal", "add", "alice", "--password-stdin", "--string", "a=b")
	n.stdin = ""
	n.want(exitConflict, []string{"charon: alice@EXAMPLE.COM exists (kvno 1, created ", "to change the password: charon principal password alice"}, "principal", "add", "alice", "--random")
	n.want(exitUsage, []string{"no terminal", "--password-stdin"}, "principal", "add", "bob")
	n.want(exitOK, []string{"no keys"}, "principal", "add", "empty", "--nokey")
	n.want(exitOK, []string{"alice changed", "revision"}[1:], "principal", "set", "alice", "--attr", "-allow_forwardable,+ok_as_delegate", "--expires", "2030-01-01", "--max-life", "1h")
	n.want(exitOK, []string{"principal          alice@EXAMPLE.COM\n", "attributes         DISALLOW_FORWARDABLE REQUIRES_PRE_AUTH OK_AS_DELEGATE\n", "max life           1 h  renewable the realm's\n",
		"expires            2030-01-01 ", "string             a=b\n", "key                kvno 1  aes256-cts-hmac-sha384-192\n"}, "principal", "show", "alice")
	n.want(exitOK, []string{"PRINCIPAL", "ENCTYPES", "alice@EXAMPLE.COM"}, "principal", "list", "a*", "-o", "wide")
	n.want(exitOK, []string{"kvno 2, in force on every node"}, "principal", "password", "alice", "--random")
	n.want(exitOK, []string{"locked"}, "principal", "lock", "alice")
	n.want(exitOK, []string{"state              locked by an administrator"}, "principal", "show", "alice")
	n.want(exitOK, []string{"unlocked"}, "principal", "unlock", "alice")
	n.want(exitOK, []string{"aliases al@EXAMPLE.COM"}, "principal", "alias", "alice", "al")
	n.want(exitOK, []string{"alice is now alicia@EXAMPLE.COM"}, "principal", "rename", "alice", "alicia")
	n.want(exitConflict, nil, "principal", "set", "alicia", "--expected-revision", "1", "--max-life", "2h")
	n.want(exitUsage, []string{"--force"}, "principal", "delete", "alicia")
	n.want(exitOK, []string{"alicia deleted"}, "principal", "delete", "alicia", "--force")
	n.want(exitNotFound, []string{"charon: alicia@EXAMPLE.COM does not exist (node n1)\n"}, "principal", "show", "alicia")
}

func TestOutputFormats(t *testing.T) {
	n := newFakeNode(t)
	n.want(exitOK, nil, "principal", "add", "alice", "--random", "--expires", "2030-01-01T00:00:00Z")
	var p struct {
		Name       string
		Keys       []struct{ Etype, State string }
		Attributes []string
		Expiration string
		Created    any `json:"created_at"`
		LastLogin  any `json:"last_success"`
		Revision   uint64
	}
	if err := json.Unmarshal([]byte(n.want(exitOK, nil, "principal", "show", "alice", "-o", "json")), &p); err != nil {
		t.Fatal(err)
	}
	if p.Name != "alice@EXAMPLE.COM" || len(p.Keys) != 2 || p.Keys[0].State != "active" || p.Attributes[0] != "REQUIRES_PRE_AUTH" || p.Expiration != "2030-01-01T00:00:00Z" || p.LastLogin != nil || p.Revision == 0 {
		t.Errorf("%+v", p)
	}
	n.want(exitOK, []string{"name: alice@EXAMPLE.COM\n", "    etype: aes256-cts-hmac-sha384-192\n", "last_success: null\n"}, "principal", "show", "alice", "-o", "yaml")
	if got := n.want(exitOK, nil, "policy", "list", "-o", "json"); strings.TrimSpace(got) != "[]" {
		t.Errorf("an empty list is %q", got)
	}
	n.want(exitUsage, []string{"table, wide, json or yaml"}, "principal", "show", "alice", "-o", "xml")
}

func TestUsageErrors(t *testing.T) {
	n := newFakeNode(t)
	for _, args := range [][]string{
		{"frob"}, {"principal", "frob"}, {"principal", "add"}, {"principal", "add", "x", "--frob"}, {"principal", "add", "x", "--random", "--nokey"},
		{"principal", "add", "x", "--random", "--attr", "+frob"}, {"principal", "add", "x", "--random", "--max-life", "frob"}, {"keytab", "ensure", "HTTP/x"},
		{"principal", "add", "x", "--random", "--request-id", "frob"}, {"token", "revoke", "frob"}, {"keytab", "show"}, {"token", "create", "n", "--ttl", "frob"}, {"token", "create"},
	} {
		if text := n.want(exitUsage, []string{"charon: ", "--help"}, args...); strings.Count(text, "\n") != 1 {
			t.Errorf("%v: not one line: %q", args, text)
		}
	}
}

func TestKeytabVerbs(t *testing.T) {
	n := newFakeNode(t)
	dir := t.TempDir()
	path := filepath.Join(dir, "http.keytab")
	n.want(exitOK, []string{"created principal, wrote kvno 1 (2 enctypes).\n"}, "keytab", "ensure", "HTTP/web", "--out", path)
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", st.Mode(), err)
	}
	if got := n.want(exitOK, nil, "keytab", "ensure", "HTTP/web", "--out", path); got != "unchanged\n" {
		t.Errorf("again: %q", got)
	}
	n.want(exitOK, []string{"wrote kvno 1 (2 enctypes)."}, "keytab", "ensure", "HTTP/web", "--out", filepath.Join(dir, "other"))
	n.want(exitOK, []string{"kvno 2 staged (no ticket uses it yet). Deliver the keytab, then: charon keytab activate HTTP/web\n"}, "keytab", "rotate", "HTTP/web", "--stage", "--out", path)
	n.want(exitOK, []string{"2     aes256-cts-hmac-sha384-192  staged"}, "keytab", "show", "HTTP/web")
	n.want(exitOK, []string{"kvno 2 active on 1/1 nodes. kvno 1 still opens tickets until 20", ", then it is removed.\n"}, "keytab", "activate", "HTTP/web", "--retire-after", "12h")
	n.want(exitConflict, []string{"no staged keys"}, "keytab", "activate", "HTTP/web")
	kt, err := keytab.Read(path)
	if err != nil || len(kt.Entries) != 4 || kt.Entries[3].KVNO != 2 {
		t.Errorf("%v %v", kt, err)
	}
	n.want(exitOK, []string{"KVNO  ENCTYPE", "HTTP/web@EXAMPLE.COM"}, "keytab", "show", "--file", path)
	n.want(exitOK, []string{"wrote 2 keys of HTTP/web@EXAMPLE.COM."}, "keytab", "get", "HTTP/web", "--out", filepath.Join(dir, "third"))
	n.want(exitNotFound, nil, "keytab", "get", "nobody", "--out", path)
}

func TestOtherNouns(t *testing.T) {
	n := newFakeNode(t)
	n.want(exitOK, []string{"policy p created"}, "policy", "add", "p", "--min-length", "8", "--max-life", "90d", "--max-failures", "5", "--lockout", "15m", "--keysalts", "aes256-sha2:normal")
	n.want(exitOK, []string{"at least 8 characters", "- to 90 d", "after 5 failures, for 15 min; failures always add up"}, "policy", "show", "p")
	n.want(exitOK, []string{"revision"}, "policy", "set", "p", "--min-length", "9", "--keysalts", "-")
	n.want(exitOK, []string{"POLICY  LENGTH", "p       9"}, "policy", "list")
	n.want(exitOK, nil, "policy", "delete", "p", "-f")
	n.want(exitOK, []string{"cert:web may add extract over HTTP/*  (role web)"}, "role", "grant", "cert:web", "add", "extract", "--over", "HTTP/*", "--id", "web")
	n.want(exitOK, []string{"web  cert:web  add extract  HTTP/*"}, "role", "list")
	n.want(exitOK, nil, "role", "revoke", "web")
	n.want(exitOK, []string{"max life           10 h  renewable 7 d\n", "enctypes           aes256-sha2 aes128-sha1\n"}, "realm", "show")
	n.want(exitOK, []string{"max life           8 h"}, "realm", "set", "--max-life", "8h", "--etypes", "aes256-sha2,aes128-sha2")
	n.want(exitOK, []string{"n1    leader  n1.example.com:88"}, "node", "list")
	n.want(exitOK, []string{"leader is n1"}, "node", "transfer")
	token := strings.TrimSpace(n.want(exitOK, []string{"CH1."}, "token", "create", "kdc2", "--ttl", "30m"))
	list := n.want(exitOK, []string{"kdc2"}, "token", "list")
	if strings.Contains(list, token[strings.LastIndexByte(token, '.')+1:]) {
		t.Error("token list shows a secret")
	}
	id := regexp.MustCompile(`(?m)^[0-9a-f]{16}`).FindString(list)
	n.want(exitOK, []string{"revoked"}, "token", "revoke", id)
}

func TestStatusLayout(t *testing.T) {
	n := newFakeNode(t)
	n.want(exitOK, []string{
		"Realm EXAMPLE.COM   1/1 nodes   quorum ok (tolerates 0)   version 1.0.0   feature level 2\n",
		"NODE  ROLE    HEALTH  LAG  AS/s  TGS/s  P99     UP  CLOCK  CERT\nn1    leader  ok      -    212   0      4.9 ms  -   +0 ms  -\n",
		"Principals 0   locked 0   expiring in 30 d 0   RC4 allowed 0   no backup is known\n",
	}, "status")
}

// Quorum in the realm group alone is no good news: the nodes refuse service tickets.
func TestStatusNamesALostReplayQuorum(t *testing.T) {
	st := &adminv1.GetStatusResponse{Realm: "EXAMPLE.COM", Quorum: true, Nodes: []*adminv1.NodeStatus{
		{Node: &adminv1.Node{Name: "n1"}, Health: "cut-off"}, {Node: &adminv1.Node{Name: "n2"}, Health: "down"}, {Node: &adminv1.Node{Name: "n3"}, Health: "cut-off"},
	}}
	var b strings.Builder
	if err := printStatus(&b, st, time.Now()); err != nil {
		t.Fatal(err)
	}
	if got := b.String(); !strings.Contains(got, "0/3 nodes   REPLAY CACHE WITHOUT QUORUM: service tickets are refused") {
		t.Errorf("status:\n%s", got)
	}
}

// What a node answers alone, and what was accepted twice, is in the status.
func TestStatusNamesServiceWithoutQuorum(t *testing.T) {
	st := &adminv1.GetStatusResponse{
		Realm: "EXAMPLE.COM", Meta: &adminv1.Meta{Node: "n1"}, ServiceReason: "no quorum: serving from this node's own state, last contact 12s ago",
		DoubleAccepts: 2, LastDoubleAccept: time.Date(2026, 11, 24, 3, 14, 7, 0, time.UTC).UnixMilli(),
		Nodes: []*adminv1.NodeStatus{
			{Node: &adminv1.Node{Name: "n1"}, Health: "degraded", Journal: 17}, {Node: &adminv1.Node{Name: "n2"}, Health: "down"}, {Node: &adminv1.Node{Name: "n3"}, Health: "down"},
		}}
	var b strings.Builder
	if err := printStatus(&b, st, time.Now()); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"1/3 nodes   NO QUORUM: changes are refused, tickets are served degraded", "n1: no quorum: serving from this node's own state, last contact 12s ago\n",
		"n1 has 17 records of what it accepted alone to hand in\n", "DOUBLE ACCEPTS 2: ", "last found out 2026-11-24 03:14:07Z", "degraded",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, b.String())
		}
	}
}

// A change whose outcome is unknown is repeated under its id; past the deadline the id is printed and leads to the outcome.
func TestUnknownOutcome(t *testing.T) {
	n := newFakeNode(t)
	n.store.Lose(true)
	n.want(exitOK, []string{"alice@EXAMPLE.COM created"}, "principal", "add", "alice", "--random")
	if got := n.store.Proposals(); got != 1 {
		t.Errorf("%d proposals", got)
	}
	n.store.Lose(true)
	text := n.want(exitUnknown, []string{"it is unknown whether this was done; run the same line again with --request-id "}, "principal", "add", "bob", "--random", "--timeout", "200ms")
	id := regexp.MustCompile(`[0-9a-f-]{36}`).FindString(text)
	n.want(exitOK, []string{"bob@EXAMPLE.COM created"}, "principal", "add", "bob", "--random", "--request-id", id)
	if got := n.store.Proposals(); got != 2 {
		t.Errorf("%d proposals", got)
	}
}

func TestNothingDone(t *testing.T) {
	n := newFakeNode(t)
	n.store.Depose()
	n.want(exitNotDone, []string{"no leader with a quorum: nothing was done"}, "principal", "add", "alice", "--random", "--timeout", "3s")
	n.want(exitOK, nil, "policy", "list", "--local")
	t.Setenv("CHARON_ADDR", "unix:///nowhere/admin.sock")
	n.want(exitNotDone, []string{"no node answers at unix:///nowhere/admin.sock: nothing was done"}, "principal", "add", "alice", "--random")
	t.Setenv("CHARON_IDENTITY", t.TempDir())
	t.Setenv("CHARON_ADDR", "kdc1.example.com")
	n.want(exitError, []string{"admin identity"}, "status")
}

// The first address that answers is taken.
func TestSeveralAddresses(t *testing.T) {
	n := newFakeNode(t)
	t.Setenv("CHARON_ADDR", "unix:///nowhere/admin.sock,"+os.Getenv("CHARON_ADDR"))
	n.want(exitOK, []string{"alice@EXAMPLE.COM created"}, "principal", "add", "alice", "--random")
}

func TestClientConfigAndDNS(t *testing.T) {
	n := newFakeNode(t)
	n.want(exitOK, []string{"\tdefault_realm = EXAMPLE.COM\n", "\t\tkdc = n1.example.com\n", "\t\tkpasswd_server = n1.example.com\n", "\t.example.com = EXAMPLE.COM\n"}, "client-config")
	n.want(exitOK, []string{"_kerberos.example.com. 3600 IN TXT \"EXAMPLE.COM\"\n", "_kerberos._udp.example.com. 3600 IN SRV 0 0 88 n1.example.com.\n",
		"_kerberos.example.com. 3600 IN URI 10 1 \"krb5srv::tcp:n1.example.com:88\"\n", "_kpasswd._tcp.example.com. 3600 IN SRV 0 0 464 n1.example.com.\n"}, "dns-records")
	var b strings.Builder
	writeDNSRecords(&b, &adminv1.GetRealmResponse{Realm: &adminv1.Realm{Name: "R.TEST"}, Nodes: []*adminv1.Node{{Name: "n1", KdcAddress: "10.0.0.1:88"}, {Name: "n2", KdcAddress: "[2001:db8::2]:88"}, {Name: "n3", KdcAddress: "0.0.0.0:88"}}})
	for _, want := range []string{"n1.r.test. 3600 IN A 10.0.0.1\n", "n2.r.test. 3600 IN AAAA 2001:db8::2\n", "SRV 0 0 88 n2.r.test.\n", `"krb5srv::udp:[2001:db8::2]:88"`} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, b.String())
		}
	}
	if strings.Contains(b.String(), "0.0.0.0") || strings.Contains(b.String(), "n3") {
		t.Errorf("a wildcard address is nowhere:\n%s", b.String())
	}
}

// Every verb that reads can read one node's own state, without a leader, and says how old its contact with one is.
func TestLocalReads(t *testing.T) {
	n := newFakeNode(t)
	n.want(exitOK, nil, "principal", "add", "alice", "--random")
	n.want(exitOK, nil, "policy", "add", "p")
	n.store.Depose()
	n.store.Contact = 7 * time.Second
	out := filepath.Join(t.TempDir(), "alice.keytab")
	for _, args := range [][]string{
		{"principal", "show", "alice"}, {"principal", "list"}, {"policy", "show", "p"}, {"policy", "list"}, {"keytab", "show", "alice"},
		{"keytab", "get", "alice", "--out", out}, {"realm", "show"}, {"node", "list"}, {"role", "list"}, {"token", "list"}, {"client-config"}, {"dns-records"},
		{"kadmin", "getprinc alice"}, {"kadmin", "listprincs"}, {"kadmin", "getpol p"}, {"kadmin", "listpols"}, {"kadmin", "getstrs alice"}, {"kadmin", "getprivs"},
	} {
		if args[0] == "kadmin" {
			args = []string{"kadmin", "--local", "-q", args[1]}
		} else {
			args = append(args, "--local")
		}
		_, errOut, code := n.run(args...)
		if code != exitOK || !strings.HasPrefix(errOut, "n1's own state, index ") || !strings.HasSuffix(errOut, "; it last heard from the leader 7s ago\n") {
			t.Errorf("%v: exit %d, %q", args, code, errOut)
		}
	}
	n.want(exitNotDone, nil, "kadmin", "-q", "getprinc alice")
}

// What a shell and a packager ask for.
func TestCompletionAndVersion(t *testing.T) {
	n := newFakeNode(t)
	for shell, part := range map[string]string{"bash": "complete -o default", "zsh": "#compdef charon", "fish": "complete -c charon"} {
		n.want(exitOK, []string{part}, "completion", shell)
	}
	n.want(exitOK, []string{"completion ", "version "}, "--help")
	n.want(exitOK, []string{"charon version " + version + "\n"}, "version")
	n.want(exitOK, []string{"charon version " + version + "\n"}, "--version")
	n.want(exitOK, []string{"keytab\tkeys of services"}, "__complete", "keyt")
	for _, args := range [][]string{{"completion", "frob"}, {"version", "frob"}, {"completion", "bash", "frob"}, {"help", "frob"}} {
		n.want(exitUsage, []string{"charon: ", "--help"}, args...)
	}
}

// The prompt for a password names the principal in full.
func TestFullName(t *testing.T) {
	newFakeNode(t)
	c, err := connect(root())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for text, want := range map[string]string{"alice": "alice@EXAMPLE.COM", "HTTP/web": "HTTP/web@EXAMPLE.COM", "a@OTHER": "a@OTHER"} {
		if got, err := fullName(t.Context(), c, text); err != nil || got != want {
			t.Errorf("%s: %s %v", text, got, err)
		}
	}
	t.Setenv("CHARON_ADDR", "unix:///nowhere/admin.sock")
	if c, err = connect(root()); err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := fullName(t.Context(), c, "alice"); exitOf(err) != exitNotDone {
		t.Errorf("nobody there: %v", err)
	}
}

package main

import (
	"crypto/rand"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/charon-kdc/charon/adminapi/jointoken"
	"github.com/charon-kdc/charon/node"
)

func TestInitPrintsWhatAnOperatorNeeds(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "d")
	out, code := charon(t, "init", "--realm", "EXAMPLE.COM", "--name", "kdc1", "--dir", dir, "--address", "127.0.0.1")
	if code != exitOK {
		t.Fatal("charon init")
	}
	want := regexp.MustCompile(`(?m)^Realm EXAMPLE\.COM created on node kdc1 \(127\.0\.0\.1\)\.

  cluster id +[0-9a-f]{4}-[0-9a-f]{4} +CA fingerprint +sha256:[0-9a-f]{4}\.\.\.[0-9a-f]{4}
  KDC +0\.0\.0\.0:88 udp\+tcp
  admin +127\.0\.0\.1:7749 +health +127\.0\.0\.1:7780
  etypes +aes256-sha2 aes128-sha2 aes256-sha1 aes128-sha1
  master key +\S+/master\.key
  admin client +\S+/admin

  Recovery kit \(shown once: print it, lock it away\):
    CHARON-RECOVERY-1-\S+

  Start it        charon server --config \S+/charon\.toml
  Talk to it      export CHARON_ADDR=unix://\S+/admin\.sock
  Client config   charon client-config > /etc/krb5\.conf
  DNS records     charon dns-records
  Add a node      charon token create NAME
$`)
	if !want.MatchString(out) {
		t.Errorf("got\n%s", out)
	}
	c, err := node.LoadConfig(filepath.Join(dir, "charon.toml"))
	if err != nil {
		t.Fatal(err)
	}
	if c.Dir != dir || c.Peer.Address != "127.0.0.1:7750" {
		t.Errorf("%+v", c)
	}
	for _, kit := range []string{".", "admin"} {
		entries, err := os.ReadDir(filepath.Join(dir, kit))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if b, err := os.ReadFile(filepath.Join(dir, kit, e.Name())); err == nil && strings.Contains(string(b), "CHARON-RECOVERY") {
				t.Errorf("the recovery kit lies in %s", e.Name())
			}
		}
	}
	if _, code := charon(t, "init", "--realm", "EXAMPLE.COM", "--dir", dir); code == exitOK {
		t.Error("a second init went well")
	}
}

func TestInitRefuses(t *testing.T) {
	for _, args := range [][]string{
		{}, {"--realm", ""}, {"--realm", "A/B"}, {"--realm", "EXAMPLE.COM", "--name", "Not A Name"},
		{"--realm", "EXAMPLE.COM", "--address", "nowhere"}, {"--realm", "EXAMPLE.COM", "--admin-address", "10.0.0.1"},
	} {
		if _, code := charon(t, append([]string{"init", "--dir", filepath.Join(t.TempDir(), "d")}, args...)...); code == exitOK {
			t.Errorf("%v went well", args)
		}
	}
}

func TestTokenIsReadFromFileAndInput(t *testing.T) {
	tok, err := jointoken.New(rand.Reader, [32]byte{1}, "kdc1:7750", "kdc2")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(path, []byte(tok.Encode()+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for in, file := range map[string]string{tok.Encode(): "", tok.Encode() + "\n": "", "ignored": path} {
		c := &cobra.Command{}
		c.SetIn(strings.NewReader(in))
		got, err := readToken(c, file)
		if err != nil || *got != *tok {
			t.Errorf("%v, %v", got, err)
		}
	}
	c := &cobra.Command{}
	c.SetIn(strings.NewReader("\n"))
	if _, err := readToken(c, ""); err == nil {
		t.Error("an empty line was taken for a token")
	}
}

func TestQuorumWords(t *testing.T) {
	for n, want := range map[int]string{
		2: "Quorum 2 of 2: add one more node to survive a failure.",
		3: "Quorum 2 of 3: the realm now survives the loss of any one node.",
		4: "Quorum 3 of 4: the realm survives the loss of any one node, as with three; add one more node to survive two.",
		5: "Quorum 3 of 5: the realm now survives the loss of any two nodes.",
	} {
		if got := quorumWords(n); got != want {
			t.Errorf("%d: %s", n, got)
		}
	}
}

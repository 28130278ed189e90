package node

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

var rewrite = flag.Bool("rewrite", false, "write generated files anew")

func TestConfigDefaults(t *testing.T) {
	c, err := ParseConfig("x", nil)
	if err != nil {
		t.Fatal(err)
	}
	if c.Dir != "/var/lib/charon" || c.KDC.Addresses[0] != "0.0.0.0:88" || c.KDC.ClockSkew != (Duration{5 * time.Minute}) ||
		c.Audit.Target != "file" || c.Raft.Performance != 1 {
		t.Errorf("defaults: %+v", c)
	}
	if c.SocketPath() != "/var/lib/charon/admin.sock" || c.AuditPath() != "/var/lib/charon/audit.log" {
		t.Errorf("paths: %s %s", c.SocketPath(), c.AuditPath())
	}
}

func TestConfigEveryFieldIsDocumented(t *testing.T) {
	c, err := ParseConfig("x", nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range fields(c) {
		if f.tag.Get("doc") == "" || f.key == "" || strings.HasSuffix(f.key, ".") {
			t.Errorf("%q has no name or no doc", f.key)
		}
		if k := f.value.Kind(); (k == reflect.Int || k == reflect.Struct && !f.table) && (f.tag.Get("min") == "" || f.tag.Get("max") == "" || f.tag.Get("default") == "") {
			t.Errorf("%s needs default, min and max", f.key)
		}
	}
}

func TestConfigRefuses(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"unknown key", "dir = \"/x\"\n[kdc]\nadresses = []\n", "c.toml:3: kdc.adresses: unknown key; allowed here: addresses, clock_skew, udp_reply_max,"},
		{"unknown table", "\n[kerberos]\nx = 1\n", "c.toml:2: kerberos: unknown key; allowed here: dir, kdc, admin, peer,"},
		{"unknown top key", "realm = \"X\"\n", "c.toml:1: realm: unknown key; allowed here: dir,"},
		{"wrong type int", "[kdc]\nudp_reply_max = \"big\"\n", "c.toml:2: kdc.udp_reply_max: must be 512 to 65507 bytes"},
		{"wrong type string", "dir = 7\n", "c.toml:1: dir: must be a string"},
		{"wrong type list", "[kdc]\naddresses = \"0.0.0.0:88\"\n", "c.toml:2: kdc.addresses: must be a list of strings"},
		{"wrong type duration", "[kdc]\n\nclock_skew = 5\n", "c.toml:3: kdc.clock_skew: must be a duration, 1s to 1h"},
		{"bad duration", "[kdc]\nclock_skew = \"five\"\n", "c.toml:2: kdc.clock_skew: must be a duration, 1s to 1h"},
		{"out of range", "[kdc]\n# a comment\nclock_skew = \"2h\"\n", "c.toml:3: kdc.clock_skew: 2h is out of range; must be a duration, 1s to 1h"},
		{"out of range, inline table", "kdc = {udp_reply_max = 1}\n", "c.toml:1: kdc.udp_reply_max: 1 is out of range; must be 512 to 65507 bytes"},
		{"out of range, dotted", "\nkdc.udp_reply_max = 1\n", "c.toml:2: kdc.udp_reply_max: 1 is out of range"},
		{"without_quorum", "[kdc]\nwithout_quorum = \"maybe\"\n", "c.toml:2: kdc.without_quorum: \"maybe\" is not allowed; must be one of serve, refuse"},
		{"replay", "[kdc]\nreplay = true\n", "c.toml:2: kdc.replay: must be one of strict, async"},
		{"stale_limit", "[kdc]\nstale_limit = \"10s\"\n", "c.toml:2: kdc.stale_limit: 10s is out of range; must be a duration, 1m to 720h"},
		{"not one of", "[log]\nlevel = \"loud\"\n", "c.toml:2: log.level: \"loud\" is not allowed; must be one of debug, info, warn, error"},
		{"address without port", "[admin]\naddress = \"10.0.0.1\"\n", "c.toml:2: admin.address: \"10.0.0.1\": must be an IP address and a port"},
		{"no address", "[kdc]\naddresses = []\n", "c.toml:2: kdc.addresses: must have at least one address"},
		{"prefix", "[kdc]\ntrusted_prefixes = [\"10.0.0.0/8\", \"10.0.0.0/99\"]\n", "c.toml:2: kdc.trusted_prefixes: \"10.0.0.0/99\": must be prefixes"},
		{"advertise wildcard", "[peer]\nadvertise = \"0.0.0.0:7750\"\n", "c.toml:2: peer.advertise: \"0.0.0.0:7750\": must name this host"},
		{"backup directory", "[backup]\ndirectory = \"backups\"\n", "c.toml:2: backup.directory: \"backups\": must be an absolute path"},
		{"backup recipient", "[backup]\nrecipients = [\"me\"]\n", "c.toml:2: backup.recipients: \"me\": must be age public keys"},
		{"not TOML", "[kdc\n", "c.toml:1: "},
		{"twice", "dir = \"a\"\ndir = \"b\"\n", "c.toml:2"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := ParseConfig("c.toml", []byte(c.text))
			if err == nil {
				t.Fatal("accepted")
			}
			if _, ok := errors.AsType[*ConfigError](err); !ok || !strings.HasPrefix(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("got  %s\nwant %s...", err, c.want)
			}
		})
	}
}

func TestConfigTextIsReadBack(t *testing.T) {
	c, err := ParseConfig("x", []byte("dir = \"/srv\"\n[kdc]\naddresses = [\"127.0.0.1:8801\", \"[::1]:8801\"]\nclock_skew = \"1h\"\n[raft]\npromote_after = \"50ms\"\n"))
	if err != nil {
		t.Fatal(err)
	}
	again, err := ParseConfig("y", c.Text())
	if err != nil {
		t.Fatalf("%v in\n%s", err, c.Text())
	}
	if !reflect.DeepEqual(c, again) {
		t.Errorf("changed:\n%+v\n%+v", c, again)
	}
	if s := string(c.Text()); strings.Contains(s, "[log]") {
		t.Errorf("defaults are written, too:\n%s", s)
	}
}

func TestReferenceFile(t *testing.T) {
	path := filepath.Join("..", "deploy", "charon.toml")
	if *rewrite {
		if err := os.WriteFile(path, Reference(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != string(Reference()) {
		t.Errorf("%s is not what the struct says; run this test with -rewrite", path)
	}
	def, err := ParseConfig("x", nil)
	if err != nil {
		t.Fatal(err)
	}
	// With every comment sign of a setting taken away it must mean the same.
	var live []string
	for line := range strings.Lines(string(got)) {
		if len(line) > 1 && line[0] == '#' && line[1] != ' ' {
			line = line[1:]
		}
		live = append(live, line)
	}
	c, err := ParseConfig(path, []byte(strings.Join(live, "")))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []*Config{def, c} { // absent and empty are one
		c.KDC.TrustedPrefixes, c.Backup.Recipients = nil, nil
	}
	if !reflect.DeepEqual(c, def) {
		t.Errorf("the example does not show the defaults:\n%+v\n%+v", c, def)
	}
}

func FuzzParseConfig(f *testing.F) {
	f.Add(Reference())
	f.Add([]byte("kdc = {udp_reply_max = 1}\n[[kdc]]\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := ParseConfig("f", text)
		if err != nil {
			return
		}
		if _, err := ParseConfig("g", c.Text()); err != nil {
			t.Errorf("own text is refused: %v\n%s", err, c.Text())
		}
	})
}

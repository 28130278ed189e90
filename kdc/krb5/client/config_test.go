package client_test

import (
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/charon-kdc/charon/kdc/krb5/client"
	"github.com/charon-kdc/charon/kdc/krb5/kcrypto"
)

const sample = `# a comment
[logging]
 default = FILE:/var/log/krb5libs.log

[libdefaults]
	default_realm = EXAMPLE.COM
	dns_lookup_kdc = false
	ticket_lifetime = 10h
	renew_lifetime = 7d
	clockskew = 120
	forwardable = yes
	proxiable = 0
	permitted_enctypes = aes256-sha2 aes128-cts-hmac-sha1-96, des3-cbc-sha1 -aes256-sha2 aes256-cts
	default_tkt_enctypes = DEFAULT -aes128-sha1
	default_ccache_name = "FILE:/tmp/krb5cc \"x\""
	udp_preference_limit = 1
	default_realm = SECOND.IS.IGNORED
; another comment
[realms]
	EXAMPLE.COM = {
		kdc = kdc1.example.com
		kdc = kdc2.example.com:8800 [2001:db8::1]:88
		admin_server = kdc1.example.com
		auth_to_local_names = {
			fred = freddy
		}
		kpasswd_server = kdc1.example.com:464
	}
	EMPTY = {
	}
[domain_realm]
	.example.com = EXAMPLE.COM
	Host.other.org = OTHER
[realms]
	EXAMPLE.COM = {
		kdc = kdc3.example.com
	}
`

func TestConfig(t *testing.T) {
	c, err := client.ParseConfig([]byte(sample))
	if err != nil {
		t.Fatal(err)
	}
	kdcs, err := c.KDCs("EXAMPLE.COM")
	if want := []string{"kdc1.example.com", "kdc2.example.com:8800", "[2001:db8::1]:88", "kdc3.example.com"}; err != nil || !slices.Equal(kdcs, want) {
		t.Errorf("KDCs %q, %v; want %q", kdcs, err, want)
	}
	for _, f := range []struct {
		name      string
		got, want any
	}{
		{"default_realm", c.DefaultRealm, "EXAMPLE.COM"},
		{"ticket_lifetime", c.TicketLifetime, 10 * time.Hour},
		{"renew_lifetime", c.RenewLifetime, 7 * 24 * time.Hour},
		{"clockskew", c.ClockSkew, 2 * time.Minute},
		{"forwardable", c.Forwardable, true},
		{"proxiable", c.Proxiable, false},
		{"noaddresses", c.NoAddresses, true},
		{"permitted_enctypes", c.PermittedETypes, []kcrypto.EType{kcrypto.AES128SHA1, kcrypto.AES256SHA1}},
		{"default_tkt_enctypes", c.TktETypes, []kcrypto.EType{kcrypto.AES256SHA2, kcrypto.AES128SHA2, kcrypto.AES256SHA1}},
		{"default_tgs_enctypes", c.TGSETypes, []kcrypto.EType(nil)},
		{"default_ccache_name", c.DefaultCCache, `FILE:/tmp/krb5cc "x"`},
		{"udp_preference_limit", c.UDPPreferenceLimit, 1},
		{"kpasswd_server", c.Realms["EXAMPLE.COM"].KPasswdServer, []string{"kdc1.example.com:464"}},
		{"admin_server", c.Realms["EXAMPLE.COM"].AdminServer, []string{"kdc1.example.com"}},
	} {
		if !reflect.DeepEqual(f.got, f.want) {
			t.Errorf("%s is %v, want %v", f.name, f.got, f.want)
		}
	}
	for host, want := range map[string]string{
		"www.example.com": "EXAMPLE.COM", "a.b.EXAMPLE.com.": "EXAMPLE.COM", "example.com": "", "host.other.org": "OTHER", "x.host.other.org": "OTHER", "x.org": "", "": "",
	} {
		if got := c.RealmOf(host); got != want {
			t.Errorf("realm of %q is %q, want %q", host, got, want)
		}
	}
	for _, realm := range []string{"EMPTY", "NOWHERE"} {
		if _, err := c.KDCs(realm); err == nil || !strings.Contains(err.Error(), "[realms] "+realm) {
			t.Errorf("KDCs of %s: %v", realm, err)
		}
	}
}

func TestBadConfigNamesTheLine(t *testing.T) {
	for text, want := range map[string]string{
		"a = b":                              "krb5.conf:1: a relation before the first section",
		"[libdefaults":                       "krb5.conf:1: a section without ]",
		"[a]\nx":                             "krb5.conf:2: neither",
		"[a]\n= y":                           "krb5.conf:2: neither",
		"[a]\n}":                             "krb5.conf:2: a } without {",
		"[a]\nx = {\n[b]":                    "krb5.conf:3: a section begins inside braces",
		"[a]\nx = {\n":                       "ends inside braces",
		"[a]\n" + strings.Repeat("x={\n", 9): "krb5.conf:10: braces too deep",
		"include /etc/passwd":                "krb5.conf:1: this file may not include others",
		"[libdefaults]\nclockskew = soon":    "clockskew = soon",
		"[libdefaults]\nforwardable = maybe": "forwardable = maybe",
		strings.Repeat("\n", 1<<20+1):        "longer than",
	} {
		if _, err := client.ParseConfig([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40q: %v, want %q", text, err, want)
		}
	}
}

func TestLoadConfig(t *testing.T) {
	dir := t.TempDir()
	put := func(name, text string) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	put("conf.d/b.conf", "[realms]\nB = {\n kdc = b\n}\n")
	put("conf.d/a_1", "[libdefaults]\ndefault_realm = FROM.A\n")
	put("conf.d/skipped~", "not a config file")
	put("conf.d/.hidden.conf", "nor this")
	put("one", "[realms]\nONE = {\n kdc = one\n}\n")
	main := put("main", "module /usr/lib/x.so:y\nincludedir "+dir+"/conf.d\ninclude "+dir+"/one\n[libdefaults]\ndefault_realm = LATER\n")
	second := put("second", "[libdefaults]\ndefault_realm = SECOND\nticket_lifetime = 1h\n")
	t.Setenv("KRB5_CONFIG", filepath.Join(dir, "missing")+":"+main+":"+second)
	c, err := client.LoadConfig()
	if err != nil {
		t.Fatal(err)
	}
	if c.DefaultRealm != "FROM.A" || c.TicketLifetime != time.Hour || c.Realms["B"] == nil || c.Realms["ONE"] == nil {
		t.Errorf("got %+v", c)
	}

	t.Setenv("KRB5_CONFIG", filepath.Join(dir, "missing"))
	if c, err = client.LoadConfig(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.KDCs("X"); err == nil || !strings.Contains(err.Error(), "missing") {
		t.Errorf("got %v", err)
	}

	loop := put("loop", "include "+dir+"/loop\n")
	t.Setenv("KRB5_CONFIG", loop)
	if _, err = client.LoadConfig(); err == nil || !strings.Contains(err.Error(), "too many") {
		t.Errorf("a file that includes itself: %v", err)
	}
	t.Setenv("KRB5_CONFIG", put("gone", "[libdefaults]\n\ninclude "+dir+"/missing\n"))
	if c, err := client.LoadConfig(); err == nil || !strings.Contains(err.Error(), "gone:3") {
		t.Errorf("an include that is missing: %+v, %v", c, err)
	}
}

func TestParseDuration(t *testing.T) {
	for s, want := range map[string]time.Duration{
		"36000": 10 * time.Hour, "10h": 10 * time.Hour, "7d": 168 * time.Hour, "1d12h30m15s": 36*time.Hour + 30*time.Minute + 15*time.Second,
		"10:30": 10*time.Hour + 30*time.Minute, "1:02:03": time.Hour + 2*time.Minute + 3*time.Second, " 5m ": 5 * time.Minute, "1d 2h": 26 * time.Hour, "0": 0, "0s": 0,
	} {
		if got, err := client.ParseDuration(s); err != nil || got != want {
			t.Errorf("%q is %v, %v; want %v", s, got, err, want)
		}
	}
	for _, s := range []string{"", " ", "h", "1x", "-1", "1h2d", "1h1h", "1:60", "1:2:3:4", "1.5h", "99999999999", "2000000000d"} {
		if got, err := client.ParseDuration(s); err == nil {
			t.Errorf("%q is taken for %v", s, got)
		}
	}
}

func FuzzParseConfig(f *testing.F) {
	f.Add([]byte(sample))
	f.Add([]byte("[a]\nx = {\ny* = \"\\\n}*\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := client.ParseConfig(text)
		if err != nil {
			return
		}
		c.RealmOf("www.example.com")
		for realm := range c.Realms {
			c.KDCs(realm)
		}
	})
}

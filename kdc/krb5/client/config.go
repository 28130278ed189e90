package client

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/charon-kdc/charon/kdc/krb5/kcrypto"
)

// Config is what a client takes from krb5.conf. The zero value of a relation means that the file does not say.
type Config struct {
	DefaultRealm string
	// Realms by name.
	Realms map[string]*RealmConfig
	// DomainRealm maps a host ("www.example.com") or a domain (".example.com"), in lower case, to its realm.
	DomainRealm map[string]string

	TicketLifetime, RenewLifetime, ClockSkew time.Duration
	Forwardable, Proxiable                   bool
	// NoAddresses is noaddresses, which is true when the file does not say.
	NoAddresses bool
	// PermittedETypes, and those for the AS and the TGS exchange; nil when the file does not say. What is not implemented is left out, as with MIT.
	PermittedETypes, TktETypes, TGSETypes []kcrypto.EType
	DefaultKeytab, DefaultCCache          string
	UDPPreferenceLimit                    int

	// from names the files that were read, for errors.
	from string
}

// RealmConfig is one realm's section, hosts in the file's order as "host" or "host:port".
type RealmConfig struct {
	KDC, AdminServer, KPasswdServer []string
}

const confDefault = "/etc/krb5.conf"

// LoadConfig reads the files of KRB5_CONFIG (separated by colons), or /etc/krb5.conf; what comes first counts. Files that are missing
// are passed over. When all are missing the Config is empty, and KDCs then says so.
func LoadConfig() (*Config, error) {
	paths := os.Getenv("KRB5_CONFIG")
	if paths == "" {
		paths = confDefault
	}
	var r profileReader
	for _, path := range strings.Split(paths, ":") {
		if path == "" {
			continue
		}
		if err := r.file(path, 0); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	return r.config(paths)
}

// ParseConfig reads one krb5.conf, which may not include others. Errors name the line.
func ParseConfig(text []byte) (*Config, error) {
	var r profileReader
	if err := r.text("krb5.conf", text, -1); err != nil {
		return nil, err
	}
	return r.config("krb5.conf")
}

// readUpTo fills b as far as f goes.
func readUpTo(f io.Reader, b []byte) (int, error) {
	n, err := io.ReadFull(f, b)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = nil
	}
	return n, err
}

// config takes what a client needs out of the tree.
func (r *profileReader) config(from string) (*Config, error) {
	lib := r.root.subs("libdefaults")
	c := &Config{from: from, NoAddresses: true, Realms: make(map[string]*RealmConfig), DomainRealm: make(map[string]string)}
	c.DefaultRealm, _ = lib.get("default_realm")
	c.DefaultKeytab, _ = lib.get("default_keytab_name")
	c.DefaultCCache, _ = lib.get("default_ccache_name")
	var errs []error
	value := func(name string, read func(string) error) {
		if v, ok := lib.get(name); ok {
			if err := read(v); err != nil {
				errs = append(errs, fmt.Errorf("%s: %s = %s: %w", from, name, v, err))
			}
		}
	}
	for name, to := range map[string]*time.Duration{"ticket_lifetime": &c.TicketLifetime, "renew_lifetime": &c.RenewLifetime, "clockskew": &c.ClockSkew} {
		value(name, func(v string) (err error) { *to, err = ParseDuration(v); return err })
	}
	for name, to := range map[string]*bool{"forwardable": &c.Forwardable, "proxiable": &c.Proxiable, "noaddresses": &c.NoAddresses} {
		value(name, func(v string) (err error) { *to, err = parseBool(v); return err })
	}
	for name, to := range map[string]*[]kcrypto.EType{"permitted_enctypes": &c.PermittedETypes, "default_tkt_enctypes": &c.TktETypes, "default_tgs_enctypes": &c.TGSETypes} {
		value(name, func(v string) error { *to = parseETypes(v); return nil })
	}
	value("udp_preference_limit", func(v string) (err error) { c.UDPPreferenceLimit, err = strconv.Atoi(v); return err })
	if realms := r.root.subs("realms"); realms != nil {
		for _, i := range realms.items {
			if s := realms.subs(i.name); s != nil && c.Realms[i.name] == nil {
				c.Realms[i.name] = &RealmConfig{KDC: hosts(s, "kdc"), AdminServer: hosts(s, "admin_server"), KPasswdServer: hosts(s, "kpasswd_server")}
			}
		}
	}
	if domains := r.root.subs("domain_realm"); domains != nil {
		for _, i := range domains.items {
			if name := strings.ToLower(i.name); i.sub == nil && c.DomainRealm[name] == "" {
				c.DomainRealm[name] = i.value
			}
		}
	}
	slices.SortFunc(errs, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return c, errors.Join(errs...)
}

// hosts is a relation that may come several times, each with several hosts.
func hosts(s *section, name string) (out []string) {
	for _, v := range s.all(name) {
		out = append(out, strings.Fields(v)...)
	}
	return out
}

// KDCs are the KDCs of realm in the file's order, or an error that says what to write where. DNS is not asked.
func (c *Config) KDCs(realm string) ([]string, error) {
	if r := c.Realms[realm]; r != nil && len(r.KDC) > 0 {
		return r.KDC, nil
	}
	return nil, fmt.Errorf("no KDC is known for realm %q: write [realms] %s = { kdc = HOST } into %s (KRB5_CONFIG)", realm, realm, c.from)
}

// RealmOf is the realm of a host by [domain_realm]: the host itself, then its domains, the longest first; "" when nothing says.
func (c *Config) RealmOf(host string) string {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if r := c.DomainRealm[host]; r != "" {
		return r
	}
	for rest := host; ; {
		_, after, ok := strings.Cut(rest, ".")
		if !ok {
			return ""
		}
		if r := c.DomainRealm["."+after]; r != "" {
			return r
		}
		if r := c.DomainRealm[after]; r != "" {
			return r
		}
		rest = after
	}
}

// ParseDuration reads MIT's ways to write one: "36000" (seconds), "10h", "7d", "1d12h30m15s", "10:30", "10:30:15".
func ParseDuration(s string) (time.Duration, error) {
	s = strings.TrimSpace(s)
	bad := fmt.Errorf("%q is no duration: write 10h, 7d, 1d12h30m, 10:30 or seconds", s)
	if n, err := strconv.ParseUint(s, 10, 31); err == nil {
		return time.Duration(n) * time.Second, nil
	}
	if parts := strings.Split(s, ":"); len(parts) == 2 || len(parts) == 3 {
		total := time.Duration(0)
		for i, p := range parts {
			n, err := strconv.ParseUint(p, 10, 31)
			if err != nil || i > 0 && n > 59 {
				return 0, bad
			}
			total += time.Duration(n) * []time.Duration{time.Hour, time.Minute, time.Second}[i]
		}
		return total, nil
	}
	units, left := "dhms", s
	total := time.Duration(0)
	for left != "" {
		left = strings.TrimLeft(left, " ")
		end := strings.IndexFunc(left, func(r rune) bool { return r < '0' || r > '9' })
		if end <= 0 {
			return 0, bad
		}
		at := strings.IndexByte(units, left[end])
		n, err := strconv.ParseUint(left[:end], 10, 31)
		if at < 0 || err != nil {
			return 0, bad
		}
		size := map[byte]time.Duration{'d': 24 * time.Hour, 'h': time.Hour, 'm': time.Minute, 's': time.Second}[left[end]]
		if time.Duration(n) > (1<<62-total)/size {
			return 0, bad
		}
		total += time.Duration(n) * size
		units, left = units[at+1:], left[end+1:]
	}
	if total == 0 && s != "0s" {
		return 0, bad
	}
	return total, nil
}

func parseBool(s string) (bool, error) {
	switch strings.ToLower(s) {
	case "y", "yes", "true", "t", "1", "on":
		return true, nil
	case "n", "no", "false", "nil", "0", "off":
		return false, nil
	}
	return false, errors.New("want true or false")
}

// families are MIT's names for several enctypes.
var families = map[string][]kcrypto.EType{
	"default": DefaultETypes,
	"aes":     {kcrypto.AES256SHA1, kcrypto.AES128SHA1, kcrypto.AES256SHA2, kcrypto.AES128SHA2},
	"rc4":     {kcrypto.RC4HMAC},
}

// parseETypes reads names separated by blanks or commas; "-name" takes out, "+name" adds. Unknown names are passed over.
func parseETypes(s string) []kcrypto.EType {
	out := []kcrypto.EType{}
	for _, word := range strings.FieldsFunc(s, func(r rune) bool { return r == ' ' || r == ',' || r == '\t' }) {
		remove := strings.HasPrefix(word, "-")
		word = strings.TrimLeft(word, "+-")
		list, ok := families[strings.ToLower(word)]
		if !ok {
			e, err := kcrypto.ParseEType(word)
			if err != nil {
				continue
			}
			list = []kcrypto.EType{e}
		}
		for _, e := range list {
			at := slices.Index(out, e)
			switch {
			case remove && at >= 0:
				out = slices.Delete(out, at, at+1)
			case !remove && at < 0:
				out = append(out, e)
			}
		}
	}
	return out
}

// Package ccache reads and writes the FILE credential cache that MIT krb5, Heimdal and Java share: format 4, and formats 1 to 3 for
// reading.
//
// It owns the format, its locks, configuration entries and which cache is the default one. It must not know how tickets are got.
// There is no RFC; the format is described in MIT's doc/formats/ccache_file_format.rst.
package ccache

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/charon-kdc/charon/kdc/krb5"
	"github.com/charon-kdc/charon/kdc/krb5/internal/lockfile"
	"github.com/charon-kdc/charon/kdc/krb5/kcrypto"
)

var (
	// ErrFormat is octets that are not a credential cache.
	ErrFormat = errors.New("not a credential cache")
	// ErrType is a cache name of a type other than FILE.
	ErrType = errors.New("only FILE credential caches are supported")
)

// Principal is a name in a realm.
type Principal struct {
	Realm string
	Name  krb5.PrincipalName
}

// String is the principal in MIT krb5's spelling, escaped.
func (p Principal) String() string { return krb5.FormatPrincipal(p.Name, p.Realm) }

// Equal compares realm and components; name types do not count.
func (p Principal) Equal(o Principal) bool { return p.Realm == o.Realm && p.Name.Equal(o.Name) }

// CCache is the content of a cache. Credentials that were removed from a file are not in it.
type CCache struct {
	Default Principal
	// Offset is how far the KDC's clock was ahead of this host's, when HasOffset is set. MIT krb5 always writes one.
	Offset    time.Duration
	HasOffset bool
	Creds     []Cred
	Config    []Config

	unknown []byte // header fields of other tags than the offset's
}

// Cred is one credential: a ticket and what its owner must know of it. Times are in seconds from 1970 to 2106; zero is absent.
type Cred struct {
	Client, Server Principal
	Key            *kcrypto.Key // nil if kcrypto does not implement the enctype
	AuthTime       time.Time
	StartTime      time.Time
	EndTime        time.Time
	RenewTill      time.Time
	IsSKey         bool // the ticket is encrypted in a session key (user-to-user)
	Flags          krb5.TicketFlags
	Addresses      []krb5.HostAddress
	AuthData       krb5.AuthorizationData
	Ticket         []byte // DER
	SecondTicket   []byte // DER; empty if there is none

	etype  kcrypto.EType // of a key that is not implemented
	rawKey []byte
	order  int // position in the file from 1; 0 is behind all that has one
}

// EType is the enctype of the session key, which is known even if Key is nil.
func (c *Cred) EType() kcrypto.EType {
	if c.Key != nil {
		return c.Key.EType()
	}
	return c.etype
}

// Config is one setting that a cache carries, such as "fast_avail" or "pa_type". Principal is empty for a setting of the whole cache.
type Config struct {
	Key       string
	Principal string // in MIT krb5's spelling
	Value     []byte

	order int
}

// Find is the credential for server that lasts longest; nil if there is none.
func (c *CCache) Find(server Principal) *Cred {
	var best *Cred
	for i := range c.Creds {
		if x := &c.Creds[i]; x.Server.Equal(server) && (best == nil || x.EndTime.After(best.EndTime)) {
			best = x
		}
	}
	return best
}

// Setting is the value of a configuration entry; the first one wins, as in MIT krb5.
func (c *CCache) Setting(key, principal string) ([]byte, bool) {
	for i := range c.Config {
		if c.Config[i].Key == key && c.Config[i].Principal == principal {
			return c.Config[i].Value, true
		}
	}
	return nil, false
}

// Read parses the file at path under a shared lock.
func Read(path string) (*CCache, error) {
	f, err := lockfile.Open(path, os.O_RDONLY)
	if err != nil {
		return nil, fmt.Errorf("reading credential cache: %w", err)
	}
	defer f.Close()
	b, err := lockfile.ReadAll(f)
	if err != nil {
		return nil, fmt.Errorf("reading credential cache: %w", err)
	}
	c, err := Parse(b)
	if err != nil {
		return nil, fmt.Errorf("reading credential cache %s: %w", path, err)
	}
	return c, nil
}

// WriteFile replaces the file at path by c in one step, under an exclusive lock on the old one. The new file has mode 0600.
func (c *CCache) WriteFile(path string) error {
	if err := lockfile.Replace(path, c.Bytes()); err != nil {
		return fmt.Errorf("writing credential cache %s: %w", path, err)
	}
	return nil
}

// Append adds credentials to the cache at path, which must exist in format 4, under an exclusive lock.
func Append(path string, creds ...Cred) error {
	f, err := lockfile.Open(path, os.O_RDWR)
	if err != nil {
		return fmt.Errorf("adding to credential cache: %w", err)
	}
	defer f.Close()
	if err := add(f, creds); err != nil {
		return fmt.Errorf("adding to credential cache %s: %w", path, err)
	}
	return nil
}

func add(f *os.File, creds []Cred) error {
	b, err := lockfile.ReadAll(f)
	if err != nil {
		return err
	}
	if _, err := Parse(b); err != nil {
		return err
	}
	if b[1] != 4 {
		return fmt.Errorf("%w: format %d can be read but not written", ErrFormat, b[1])
	}
	var out []byte
	for i := range creds {
		out = creds[i].append(out)
	}
	if _, err = f.WriteAt(out, int64(len(b))); err != nil {
		f.Truncate(int64(len(b))) // nothing frames a record: half of one would spoil the file
	}
	return err
}

// DefaultName is the path of the cache to use: KRB5CCNAME, or else /tmp/krb5cc_ and the user's id. A type other than FILE is ErrType.
func DefaultName() (string, error) {
	if name := os.Getenv("KRB5CCNAME"); name != "" {
		return ParseName(name)
	}
	return "/tmp/krb5cc_" + strconv.Itoa(os.Getuid()), nil
}

// ParseName is the path that a cache name stands for: "FILE:/run/x" or just "/run/x". A type other than FILE is ErrType, with its name.
func ParseName(name string) (string, error) {
	typ, path, typed := strings.Cut(name, ":")
	switch {
	case !typed, strings.HasPrefix(name, "/"):
		path = name
	case typ != "FILE":
		return "", fmt.Errorf("%w, not %s: %q", ErrType, typ, name)
	}
	if path == "" {
		return "", fmt.Errorf("%w, and %q names no file", ErrType, name)
	}
	return path, nil
}

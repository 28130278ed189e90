package client

import "time"

// Config is what a client takes from krb5.conf. The zero value of a relation means that the file does not say.
type Config struct {
	DefaultRealm string
	// Realms by name.
	Realms map[string]*RealmConfig
	// DomainRealm maps a host ("www.example.com") or a domain (".example.com") to its realm.
	DomainRealm map[string]string

	TicketLifetime, RenewLifetime, ClockSkew            time.Duration
	Forwardable, Proxiable, NoAddresses                 bool
	PermittedETypes, DefaultTktETypes, DefaultTGSETypes []string
	DefaultKeytab, DefaultCCache                        string
	UDPPreferenceLimit                                  int
}

// RealmConfig is one realm's section.
type RealmConfig struct {
	KDC, AdminServer, KPasswdServer []string
}

// LoadConfig reads the files of KRB5_CONFIG (separated by colons), or /etc/krb5.conf. The files that are missing count as empty when another is there.
func LoadConfig() (*Config, error) { return nil, nil }

// ParseConfig reads one krb5.conf. Errors name the line.
func ParseConfig(text []byte) (*Config, error) { return nil, nil }

// KDCs are the KDCs of realm in the file's order, or an error that says what to write where.
func (c *Config) KDCs(realm string) ([]string, error) { return nil, nil }

// RealmOf is the realm of a host by [domain_realm]: the host itself, then its domains; "" when nothing says.
func (c *Config) RealmOf(host string) string { return "" }

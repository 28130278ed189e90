package node

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/charon-kdc/charon/node/backup"
	"github.com/charon-kdc/charon/raftstore/realm"
)

// Config is a node's whole configuration: one TOML file, every part of it optional. The tags are the reference: default,
// what is allowed, and what it means; deploy/charon.toml is generated from them.
type Config struct {
	Dir   string      `toml:"dir" default:"/var/lib/charon" doc:"Data directory: state, logs, keys and the admin socket. One process at a time may use it."`
	KDC   KDCConfig   `toml:"kdc" doc:"Port 88: AS and TGS exchanges, UDP and TCP."`
	Admin AdminConfig `toml:"admin" doc:"The admin API: gRPC over TLS for client certificates, and a unix socket for root on this host."`
	Peer  PeerConfig  `toml:"peer" doc:"Node to node: Raft, forwarding and join, mutual TLS on one port."`
	HTTP  HTTPConfig  `toml:"http" doc:"/livez, /readyz and /metrics, in clear text. It says nothing about principals."`
	Audit AuditConfig `toml:"audit" doc:"One JSON line for every request that the KDC answers or drops, and for every admin call."`
	Log   LogConfig   `toml:"log" doc:"What the process says about itself, on standard error."`
	Raft  RaftConfig  `toml:"raft" doc:"Replication."`
	Drain DrainConfig `toml:"drain" doc:"What happens between SIGTERM and the end; 10 s at most in all."`
	Ready ReadyConfig `toml:"ready" doc:"When /readyz says 503."`

	Limits LimitsConfig `toml:"limits" doc:"Overload of port 88 (docs/overload.md). Requests of one address prefix take turns with those of others; trusted_prefixes are exempt from every limit here."`
	Backup BackupConfig `toml:"backup" doc:"Backups that the node leading the realm writes by itself. Set it on every node: any may come to lead."`
}

// KDCConfig is [kdc].
type KDCConfig struct {
	Addresses        []string `toml:"addresses" default:"0.0.0.0:88" kind:"addresses" doc:"Addresses to serve, UDP and TCP on each. Add \"[::]:88\" for IPv6."`
	ClockSkew        Duration `toml:"clock_skew" default:"5m" min:"1s" max:"1h" doc:"How far a client's clock may be off, either way (RFC 4120 section 3.1.3)."`
	UDPReplyMax      int      `toml:"udp_reply_max" default:"4096" min:"512" max:"65507" unit:"bytes" doc:"A longer UDP reply becomes KRB_ERR_RESPONSE_TOO_BIG and the client comes back over TCP."`
	TCPMax           int      `toml:"tcp_max" default:"4096" min:"1" max:"65536" unit:"connections" doc:"TCP connections at a time; beyond it the one idle for longest is closed."`
	TCPPerAddressMax int      `toml:"tcp_per_address_max" default:"64" min:"1" max:"65536" unit:"connections" doc:"TCP connections at a time from one address."`
	TCPIdle          Duration `toml:"tcp_idle" default:"10s" min:"1s" max:"10m" doc:"A TCP connection that sends nothing for so long is closed."`
	WithoutQuorum    string   `toml:"without_quorum" default:"serve" values:"serve refuse" doc:"What a node does that has been cut off from the majority for 3 s. serve: it answers from its own state up to stale_limit, and checks authenticators against its own memory only. refuse: KDC_ERR_SVC_UNAVAILABLE. This node's own setting; docs/quorum.md."`
	StaleLimit       Duration `toml:"stale_limit" default:"24h" min:"1m" max:"720h" doc:"A node that has not heard of a leader for longer answers nothing, restarts included."`
	Replay           string   `toml:"replay" default:"strict" values:"strict async" doc:"strict: a service ticket leaves when the majority has recorded its authenticator. async: when this node has not seen it before, and it is recorded behind the answer; what was accepted twice is found out and audited. kpasswd and the admin API always wait. This node's own setting."`
	TrustedPrefixes  []string `toml:"trusted_prefixes" kind:"prefixes" doc:"Balancers, NAT and proxies: prefixes that tcp_per_address_max and [limits] do not count for."`
}

// LimitsConfig is [limits].
type LimitsConfig struct {
	PrefixV4             int      `toml:"prefix_v4" default:"24" min:"8" max:"32" unit:"bits" doc:"IPv4 addresses that count as one sender."`
	PrefixV6             int      `toml:"prefix_v6" default:"56" min:"32" max:"128" unit:"bits" doc:"IPv6 addresses that count as one sender."`
	PerPrefix            int      `toml:"per_prefix" default:"0" min:"0" max:"10000000" unit:"requests a second" doc:"Requests of one sender, with ten seconds' worth at once. 0: no limit; in an overload senders take turns in any case."`
	PerPrincipal         int      `toml:"per_principal" default:"500" min:"0" max:"10000000" unit:"requests a second" doc:"AS requests of one sender for one client, with ten seconds' worth at once. 0: no limit."`
	FailuresPerPrincipal int      `toml:"failures_per_principal" default:"20" min:"0" max:"10000000" unit:"failures a second" doc:"Failed passwords of one sender for one client, with ten seconds' worth at once. 0: no limit but what the client's policy locks out."`
	UnknownPerPrefix     int      `toml:"unknown_per_prefix" default:"100" min:"0" max:"10000000" unit:"answers a second" doc:"Answers to one sender that a principal is unknown, with ten seconds' worth at once; then silence. 0: no limit."`
	QueueMax             int      `toml:"queue_max" default:"4096" min:"16" max:"1000000" unit:"requests" doc:"Requests that may wait for the processor, of senders known and of others each. Beyond it those of whoever has most are dropped."`
	QueueWait            Duration `toml:"queue_wait" default:"2s" min:"100ms" max:"30s" doc:"A request that has waited for longer is dropped: its client has sent it again."`
}

// AdminConfig is [admin].
type AdminConfig struct {
	Address string `toml:"address" default:"0.0.0.0:7749" kind:"address" doc:"Where the admin API listens over TLS."`
	Socket  string `toml:"socket" doc:"Path of the unix socket. Empty: admin.sock in the data directory."`
}

// PeerConfig is [peer].
type PeerConfig struct {
	Address         string   `toml:"address" default:"0.0.0.0:7750" kind:"address" doc:"Where the other nodes reach this one."`
	CertificateLife Duration `toml:"certificate_life" default:"2160h" min:"1m" max:"8760h" doc:"How long a node's certificate lives that this node issues, as leader. A node renews its own when a third of it is over."`
	Advertise       string   `toml:"advertise" kind:"advertise" doc:"host:port that the other nodes dial. Empty: address, which then must name a host."`
}

// HTTPConfig is [http].
type HTTPConfig struct {
	Address string `toml:"address" default:"0.0.0.0:7780" kind:"address" doc:"Where health and metrics are served."`
}

// AuditConfig is [audit].
type AuditConfig struct {
	Target string `toml:"target" default:"file" values:"file stderr none" doc:"Where audit lines go. stderr is the journal under systemd. SIGHUP opens the file again, for log rotation."`
	File   string `toml:"file" doc:"Path of the audit file. Empty: audit.log in the data directory."`
	Queue  int    `toml:"queue" default:"65536" min:"16" max:"16777216" unit:"lines" doc:"Lines that may wait for a slow disk. Beyond it lines are lost and counted (charon_audit_dropped_total), and requests go on."`
}

// LogConfig is [log].
type LogConfig struct {
	Level  string `toml:"level" default:"info" values:"debug info warn error" doc:"The least level that is written."`
	Format string `toml:"format" default:"text" values:"text json" doc:"Shape of the lines."`
}

// RaftConfig is [raft].
type RaftConfig struct {
	Performance   int      `toml:"performance" default:"1" min:"1" max:"10" doc:"Multiplies heartbeat (500 ms), election (500 ms) and lease (250 ms) together. 1 for a LAN; 4 to 6 for 20 to 80 ms between nodes."`
	PromoteAfter  Duration `toml:"promote_after" default:"10s" min:"10ms" max:"1h" doc:"How long a joined node must have kept up before it may vote."`
	ScrubInterval Duration `toml:"scrub_interval" default:"24h" min:"1m" max:"8760h" doc:"How often state and logs are read whole to find bits that flipped on the disk (docs/integrity.md)."`
	ScrubRate     int      `toml:"scrub_rate" default:"32" min:"1" max:"10000" unit:"MiB/s" doc:"How fast that reads."`
}

// DrainConfig is [drain].
type DrainConfig struct {
	Notice Duration `toml:"notice" default:"3s" min:"0s" max:"5s" doc:"How long to go on serving with /readyz at 503, so that balancers look elsewhere first."`
}

// ReadyConfig is [ready].
type ReadyConfig struct {
	Failures  int `toml:"failures" default:"3" min:"1" max:"60" unit:"probes" doc:"So many failed probes in a row, one a second, make a node not ready."`
	Successes int `toml:"successes" default:"2" min:"1" max:"60" unit:"probes" doc:"So many good probes in a row make it ready again."`
	LagMax    int `toml:"lag_max" default:"1000" min:"1" max:"1000000" unit:"log entries" doc:"A node further behind the leader's log than this is not ready."`
}

// BackupConfig is [backup].
type BackupConfig struct {
	Directory  string   `toml:"directory" kind:"absolute" doc:"Where backups are written, as charon-INDEX.cbk; best a file system that all nodes share. It must be there, and the service must be allowed to write to it (ReadWritePaths= under systemd). Empty: none are written."`
	Every      Duration `toml:"every" default:"1h" min:"1m" max:"720h" doc:"How often. While nothing has changed since the newest, that one is read again instead."`
	Keep       int      `toml:"keep" default:"48" min:"1" max:"10000" unit:"files" doc:"How many of this cluster's backups to keep in the directory; older ones are removed."`
	Recipients []string `toml:"recipients" kind:"recipients" doc:"Whom every backup is encrypted to besides the recovery kit: age public keys."`
}

// Duration is a time.Duration written as in Go: "300ms", "5m", "1h30m".
// A struct, so that a bare number of nothing in particular is refused.
type Duration struct{ time.Duration }

// UnmarshalText is encoding.TextUnmarshaler.
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	if err != nil {
		return errors.New(`must be a duration such as "300ms", "5m" or "1h30m"`)
	}
	d.Duration = v
	return nil
}

// MarshalText is encoding.TextMarshaler.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// String is the shortest form that UnmarshalText reads: "5m", not "5m0s".
func (d Duration) String() string {
	s := d.Duration.String()
	if strings.HasSuffix(s, "m0s") {
		s = s[:len(s)-2]
	}
	if strings.HasSuffix(s, "h0m") {
		s = s[:len(s)-2]
	}
	return s
}

// The feature levels of a cluster that this release can be a node of.
const (
	FeatureLevelMin = realm.FeatureLevelMin
	FeatureLevelMax = realm.FeatureLevelMax
)

// ConfigPaths are the files that are looked for when none is named, in order.
var ConfigPaths = []string{"/etc/charon/charon.toml", "/var/lib/charon/charon.toml"}

// FindConfig is the first of ConfigPaths that exists, or "" for none: defaults only.
func FindConfig() string {
	for _, p := range ConfigPaths {
		if _, err := os.Stat(p); err == nil {
			return p
		}
	}
	return ""
}

// LoadConfig reads a file strictly: an unknown key, a wrong type or a value out of range is refused with file, line and
// what is allowed. The empty path gives the defaults.
func LoadConfig(path string) (*Config, error) {
	if path == "" {
		return ParseConfig("defaults", nil)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading the configuration: %w", err)
	}
	return ParseConfig(path, b)
}

// SocketPath is where the admin API's unix socket is.
func (c *Config) SocketPath() string { return c.or(c.Admin.Socket, "admin.sock") }

// AuditPath is the audit file.
func (c *Config) AuditPath() string { return c.or(c.Audit.File, "audit.log") }

// MasterKeyPath is the master key's file: a systemd credential named master.key if there is one, else in the data directory.
func (c *Config) MasterKeyPath() string {
	if d := os.Getenv("CREDENTIALS_DIRECTORY"); d != "" {
		p := filepath.Join(d, masterKeyFile)
		if _, err := os.Stat(p); err == nil {
			return p
		}
	}
	return filepath.Join(c.Dir, masterKeyFile)
}

// masterKeyFixed is why the master key's file can't be changed by the node; empty: it can.
func (c *Config) masterKeyFixed() string {
	if c.MasterKeyPath() == filepath.Join(c.Dir, masterKeyFile) {
		return ""
	}
	return "it is a systemd credential, which a node can't write: see docs/rotation.md"
}

func (c *Config) or(path, inDir string) string {
	if path != "" {
		return path
	}
	return filepath.Join(c.Dir, inDir)
}

// checkKind holds a string or each of a list against what its field's kind tag says.
func checkKind(kind, s string) error {
	switch kind {
	case "address", "addresses":
		if _, err := netip.ParseAddrPort(s); err != nil {
			return errors.New(`must be an IP address and a port, such as "0.0.0.0:88" or "[::]:88"`)
		}
	case "advertise":
		if s == "" {
			return nil
		}
		host, port, err := net.SplitHostPort(s)
		if err != nil || host == "" || port == "" {
			return errors.New("must be host:port")
		}
		if a, err := netip.ParseAddr(host); err == nil && a.IsUnspecified() {
			return errors.New("must name this host, not every address")
		}
	case "absolute":
		if s != "" && !filepath.IsAbs(s) {
			return errors.New("must be an absolute path")
		}
	case "recipients":
		if _, err := backup.ParseRecipients([]string{s}); err != nil {
			return errors.New(`must be age public keys such as "age1..."`)
		}
	case "prefixes":
		if _, err := netip.ParsePrefix(s); err != nil {
			return errors.New(`must be prefixes such as "10.0.0.0/8"`)
		}
	}
	return nil
}

package node

import (
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/charon-kdc/charon/adminapi/jointoken"
	"github.com/charon-kdc/charon/kdc/krb5/kcrypto"
	"github.com/charon-kdc/charon/node/pki"
	"github.com/charon-kdc/charon/node/wallclock"
	statev1 "github.com/charon-kdc/charon/proto/charon/state/v1"
	"github.com/charon-kdc/charon/raftstore"
	"github.com/charon-kdc/charon/raftstore/peer"
)

// partialFile marks a data directory in which charon init has not come to its end. Nothing in it was ever acknowledged, so
// the next init begins anew.
const partialFile = "init.partial"

// ErrExists says that a data directory already holds a node.
var ErrExists = errors.New("there is a node already")

// InitOptions say what realm to make, and as what its first node.
type InitOptions struct {
	Realm   string
	Name    string // of the node
	Config  *Config
	Version string
	// Lax makes the default policy take any password and never lock. For throw-away realms.
	Lax    bool
	Logger *slog.Logger
	// FeatureLevel makes the cluster at a lower feature level than the newest. For tests of mixed clusters. 0: the newest.
	FeatureLevel uint32
}

// InitResult is what charon init prints.
type InitResult struct {
	Realm      string
	Name       string
	ClusterID  [16]byte
	CAPin      string // sha256 of the node authority, hex
	ETypes     []kcrypto.EType
	MasterKey  string // path
	AdminDir   string // the first admin client's certificate
	Recovery   string // shown once
	SelfRecord *statev1.Node
}

type issued struct {
	key  *ecdsa.PrivateKey
	cert []byte
}

// Init makes a cluster of one node in the data directory: keys, authorities, realm, and what an operator needs to start it.
// It leaves nothing running. ErrExists, *LockedError, or what failed; after a failure or a crash it may be called again.
func Init(ctx context.Context, o InitOptions) (*InitResult, error) {
	if err := CheckRealmName(o.Realm); err != nil {
		return nil, err
	}
	if err := jointoken.CheckNodeName(o.Name); err != nil {
		return nil, err
	}
	c := o.Config
	lock, err := lockDir(c.Dir)
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	if err := beginInit(c.Dir); err != nil {
		return nil, err
	}
	self, err := c.selfRecord(o.Name, o.Version)
	if err != nil {
		return nil, err
	}
	g, err := newGenesis(o.Realm, wallclock.Now(), rand.Reader, o.Lax, o.FeatureLevel)
	if err != nil {
		return nil, fmt.Errorf("making realm %s: %w", o.Realm, err)
	}
	keyPath := filepath.Join(c.Dir, masterKeyFile)
	if err := g.ring.WriteFile(keyPath); err != nil {
		return nil, err
	}
	id, _, err := raftstore.Prepare(c.raftPath())
	if err != nil {
		return nil, err
	}
	mine, err := g.issueNode(pki.NodeIdentity{Cluster: g.cluster, Node: id, Name: o.Name}, c.hosts(o.Name))
	if err != nil {
		return nil, err
	}
	// One entry: the realm is there whole, or not at all.
	first := &raftstore.Bootstrap{Commands: []*statev1.Command{{Op: &statev1.Command_Batch{Batch: &statev1.Batch{Commands: g.commands}}}}}
	if err := g.bootstrap(ctx, c, self, mine, first, o.Logger); err != nil {
		return nil, fmt.Errorf("making realm %s: %w", o.Realm, err)
	}
	admin, err := g.issueAdmin()
	if err != nil {
		return nil, err
	}
	if err := writeAdmin(c.Dir, admin, g.nodes.Cert.Raw); err != nil {
		return nil, err
	}
	if err := writeCredentials(c.Dir, mine.key, mine.cert, g.nodes.Cert.Raw); err != nil {
		return nil, err
	}
	if err := os.Remove(filepath.Join(c.Dir, partialFile)); err != nil {
		return nil, err
	}
	pin := g.nodes.Pin()
	return &InitResult{
		Realm: o.Realm, Name: o.Name, ClusterID: g.cluster, CAPin: hex.EncodeToString(pin[:]), ETypes: DefaultETypes,
		MasterKey: keyPath, AdminDir: filepath.Join(c.Dir, adminDir), Recovery: g.kit, SelfRecord: self,
	}, syncDir(c.Dir)
}

// beginInit leaves the directory empty but for the mark, the lock and the configuration, or refuses.
func beginInit(dir string) error {
	mark := filepath.Join(dir, partialFile)
	_, markErr := os.Stat(mark)
	for _, f := range []string{nodeCertFile, raftDir, masterKeyFile} {
		_, err := os.Stat(filepath.Join(dir, f))
		switch {
		case errors.Is(err, os.ErrNotExist):
		case err != nil:
			return fmt.Errorf("looking into the data directory: %w", err)
		case markErr != nil || f == nodeCertFile:
			return fmt.Errorf("%w in %s (%s); a directory is never made into a realm twice: name another with --dir, or move this one away", ErrExists, dir, f)
		default:
			if err := os.RemoveAll(filepath.Join(dir, f)); err != nil {
				return fmt.Errorf("clearing away an interrupted init: %w", err)
			}
		}
	}
	return writeFile(mark, nil, 0o600)
}

// bootstrap runs the store once, alone and unreachable, so that the first entries are in its log and applied.
func (g *genesis) bootstrap(ctx context.Context, c *Config, self *statev1.Node, mine *issued, first *raftstore.Bootstrap, log *slog.Logger) error {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	roots.AddCert(g.nodes.Cert)
	cert := &tls.Certificate{Certificate: [][]byte{mine.cert, g.nodes.Cert.Raw}, PrivateKey: mine.key}
	store, err := raftstore.Open(raftstore.Config{
		Dir: c.raftPath(), Self: self, Listener: ln, Ring: g.ring, Logger: log,
		Identity: peer.Identity{
			ClusterID:   g.cluster,
			Certificate: func() (*tls.Certificate, error) { return cert, nil },
			Roots:       func() *x509.CertPool { return roots },
		},
		Bootstrap: first,
	})
	if err != nil {
		return errors.Join(err, ln.Close())
	}
	startErr := store.Start(ctx)
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownBudget)
	defer cancel()
	return errors.Join(startErr, store.Shutdown(stop))
}

// writeAdmin writes what an admin client needs: its certificate and key, and the authority that servers are held against.
func writeAdmin(dir string, a *issued, nodeAuthority []byte) error {
	key, err := pemKey(a.key)
	if err != nil {
		return err
	}
	dir = filepath.Join(dir, adminDir)
	return errors.Join(
		writeFile(filepath.Join(dir, AdminName+".key"), key, 0o600),
		writeFile(filepath.Join(dir, AdminName+".crt"), pemCertificates(a.cert), 0o644),
		writeFile(filepath.Join(dir, caFile), pemCertificates(nodeAuthority), 0o644),
	)
}

func (c *Config) raftPath() string { return filepath.Join(c.Dir, raftDir) }

// advertised is host:port that other nodes dial.
func (c *Config) advertised() (string, error) {
	if c.Peer.Advertise != "" {
		return c.Peer.Advertise, nil
	}
	if err := checkKind("advertise", c.Peer.Address); err != nil {
		return "", &ConfigError{File: "configuration", Key: "peer.advertise", Why: "must be set, since peer.address " + c.Peer.Address + " is every address of this host"}
	}
	return c.Peer.Address, nil
}

// selfRecord is this node as the realm state knows it; ids are the store's.
func (c *Config) selfRecord(name, version string) (*statev1.Node, error) {
	adv, err := c.advertised()
	if err != nil {
		return nil, err
	}
	host, _, err := net.SplitHostPort(adv)
	if err != nil {
		return nil, fmt.Errorf("peer.advertise %q: %w", adv, err)
	}
	return &statev1.Node{
		Name:         name,
		PeerAddress:  adv,
		AdminAddress: reachable(c.Admin.Address, host),
		KdcAddress:   reachable(c.KDC.Addresses[0], host),
		HttpAddress:  reachable(c.HTTP.Address, host),
		Version:      version,
	}, nil
}

// reachable is addr with host in place of "every address".
func reachable(addr, host string) string {
	a, err := netip.ParseAddrPort(addr)
	if err != nil || !a.Addr().IsUnspecified() {
		return addr
	}
	return net.JoinHostPort(host, fmt.Sprint(a.Port()))
}

// hosts are the names and addresses that the node's certificate is good for towards admin clients.
func (c *Config) hosts(name string) []string {
	seen := map[string]bool{}
	var out []string
	add := func(h string) {
		h = strings.TrimSuffix(strings.ToLower(h), ".")
		if ip, err := netip.ParseAddr(h); err == nil && ip.IsUnspecified() {
			return
		}
		if h != "" && !seen[h] && len(h) <= 253 {
			seen[h] = true
			out = append(out, h)
		}
	}
	for _, addr := range append([]string{c.Peer.Advertise, c.Peer.Address, c.Admin.Address}, c.KDC.Addresses...) {
		if host, _, err := net.SplitHostPort(addr); err == nil {
			add(host)
		}
	}
	add(name)
	if h, err := os.Hostname(); err == nil {
		add(h)
	}
	add("localhost")
	add("127.0.0.1")
	add("::1")
	return out
}

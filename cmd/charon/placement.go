package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/charon-kdc/charon/node"
)

// addressFlags are the places of a node, shared by init and join.
type addressFlags struct {
	config, dir                   string
	address, advertise            string
	kdc                           []string
	adminAddr, peerAddr, httpAddr string
}

func (f *addressFlags) add(c *cobra.Command) {
	fl := c.Flags()
	fl.StringVar(&f.config, "config", "", "configuration file; used if it is there, else written (default: DIR/charon.toml)")
	fl.StringVar(&f.dir, "dir", "", "data directory (default: /var/lib/charon)")
	fl.StringVar(&f.address, "address", "", "this host's IP address for admins, nodes and health (default: its first global one)")
	fl.StringVar(&f.advertise, "advertise", "", "host:port at which the other nodes reach this one, where it is not the peer address")
	fl.StringSliceVar(&f.kdc, "kdc-address", nil, "IP:port of the KDC; may be given more than once (default: 0.0.0.0:88)")
	fl.StringVar(&f.adminAddr, "admin-address", "", "IP:port of the admin API (default: ADDRESS:7749)")
	fl.StringVar(&f.peerAddr, "peer-address", "", "IP:port for the other nodes (default: ADDRESS:7750)")
	fl.StringVar(&f.httpAddr, "http-address", "", "IP:port of health and metrics (default: ADDRESS:7780)")
}

// errFlagsUnused says that a file that is there decides, and not the flags.
var errFlagsUnused = errors.New("addresses come from it; leave the address flags out, or the file")

// configure is the node's configuration: the file's if there is one, else made from the flags. path is where it belongs,
// fresh tells that it is not there yet.
func (f *addressFlags) configure() (c *node.Config, path string, fresh bool, err error) {
	path = f.config
	if path == "" && f.dir == "" {
		path = node.FindConfig()
	}
	if path == "" {
		dir := f.dir
		if dir == "" {
			dir = "/var/lib/charon"
		}
		path = filepath.Join(dir, "charon.toml")
	}
	if _, err := os.Stat(path); err == nil {
		if f.dir != "" || f.address != "" || f.advertise != "" || f.kdc != nil || f.adminAddr != "" || f.peerAddr != "" || f.httpAddr != "" {
			if c, err := node.LoadConfig(path); err != nil || f.only(c) {
				return c, path, false, err
			}
			return nil, path, false, fmt.Errorf("%s is there: %w", path, errFlagsUnused)
		}
		c, err = node.LoadConfig(path)
		return c, path, false, err
	} else if !errors.Is(err, os.ErrNotExist) {
		return nil, path, false, err
	}
	c, err = f.make(path)
	return c, path, true, err
}

// only tells that no flag but --dir was given, and that the file says the same directory.
func (f *addressFlags) only(c *node.Config) bool {
	return f.dir == c.Dir && f.address == "" && f.advertise == "" && f.kdc == nil && f.adminAddr == "" && f.peerAddr == "" && f.httpAddr == ""
}

func (f *addressFlags) make(path string) (*node.Config, error) {
	c, err := node.LoadConfig("")
	if err != nil {
		return nil, err
	}
	host := f.address
	if host == "" {
		host = firstAddress()
	}
	if _, err := netip.ParseAddr(host); err != nil {
		return nil, fmt.Errorf("--address %q: must be an IP address", host)
	}
	if f.dir != "" {
		if c.Dir, err = filepath.Abs(f.dir); err != nil {
			return nil, err
		}
	}
	or := func(v, port string) string {
		if v != "" {
			return v
		}
		return net.JoinHostPort(host, port)
	}
	if f.kdc != nil {
		c.KDC.Addresses = f.kdc
	}
	c.Admin.Address, c.Peer.Address, c.HTTP.Address = or(f.adminAddr, "7749"), or(f.peerAddr, "7750"), or(f.httpAddr, "7780")
	c.Peer.Advertise = f.advertise
	// What was typed is held against the same rules as a file.
	return node.ParseConfig(path, c.Text())
}

// firstAddress is this host's first global address, IPv4 before IPv6; 127.0.0.1 on a host without any.
func firstAddress() string {
	best := "127.0.0.1"
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return best
	}
	for _, a := range addrs {
		p, err := netip.ParsePrefix(a.String())
		if err != nil || !p.Addr().IsGlobalUnicast() {
			continue
		}
		if p.Addr().Is4() {
			return p.Addr().String()
		}
		if best == "127.0.0.1" {
			best = p.Addr().String()
		}
	}
	return best
}

// defaultNodeName is the host's name as a node's: its first label, lower case.
func defaultNodeName() string {
	h, err := os.Hostname()
	if err != nil {
		return "kdc1"
	}
	label, _, _ := strings.Cut(strings.ToLower(h), ".")
	label = strings.Trim(strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		return '-'
	}, label), "-")
	if label == "" {
		return "kdc1"
	}
	return label[:min(len(label), 63)]
}

package main

import (
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/charon-kdc/charon/node"
	"github.com/charon-kdc/charon/node/pki"
)

func newInitCommand() *cobra.Command {
	var realm, name string
	var place addressFlags
	c := &cobra.Command{
		Use:   "init --realm REALM",
		Short: "make a realm on this host, its first node",
		Long: `Makes a realm: keys, certificate authorities, replicated state and this host's configuration. It asks nothing, and leaves
nothing running. The recovery kit that it prints is what backups are encrypted to; it is shown this once.`,
		Example: "  sudo charon init --realm EXAMPLE.COM",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, path, fresh, err := place.configure()
			if err != nil {
				return err
			}
			level, err := heldLevel(cmd)
			if err != nil {
				return err
			}
			r, err := node.Init(cmd.Context(), node.InitOptions{
				Realm: realm, Name: name, Config: cfg, Version: version, Logger: quietLogger(cmd.ErrOrStderr()), FeatureLevel: level,
			})
			if err != nil {
				return err
			}
			if err := finishPlacement(cfg, path, fresh); err != nil {
				return err
			}
			printInit(cmd.OutOrStdout(), r, cfg, path)
			return nil
		},
	}
	c.Flags().StringVar(&realm, "realm", "", "name of the realm, by custom the domain in capitals")
	c.Flags().StringVar(&name, "name", defaultNodeName(), "name of this node")
	addHoldFlag(c)
	place.add(c)
	if err := c.MarkFlagRequired("realm"); err != nil {
		panic(err)
	}
	return c
}

// quietLogger tells what goes wrong, and not what goes on, while a command talks to a person.
func quietLogger(w io.Writer) *slog.Logger {
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: slog.LevelError + 1}))
}

// finishPlacement writes the configuration, and hands what root has made to the user that the service runs as, if there is one.
func finishPlacement(cfg *node.Config, path string, fresh bool) error {
	if fresh {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return fmt.Errorf("writing the configuration: %w", err)
		}
		if err := os.WriteFile(path, cfg.Text(), 0o644); err != nil {
			return fmt.Errorf("writing the configuration: %w", err)
		}
	}
	if os.Geteuid() != 0 || cfg.Dir != "/var/lib/charon" {
		return nil
	}
	u, err := user.Lookup("charon")
	if err != nil {
		return nil // the service runs as root
	}
	uid, err := strconv.Atoi(u.Uid)
	if err != nil {
		return err
	}
	gid, err := strconv.Atoi(u.Gid)
	if err != nil {
		return err
	}
	return filepath.WalkDir(cfg.Dir, func(p string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(p, uid, gid)
	})
}

// printInit is the first thing that an operator sees of a realm.
func printInit(w io.Writer, r *node.InitResult, cfg *node.Config, path string) {
	host, _, err := net.SplitHostPort(r.SelfRecord.GetPeerAddress())
	if err != nil {
		host = r.SelfRecord.GetPeerAddress()
	}
	etypes := make([]string, len(r.ETypes))
	for i, e := range r.ETypes {
		etypes[i] = e.Short()
	}
	flag := ""
	if path != "" && path != node.FindConfig() {
		flag = " --config " + path
	}
	fmt.Fprintf(w, "Realm %s created on node %s (%s).\n\n", r.Realm, r.Name, host)
	fmt.Fprintf(w, "  %-15s %-20s %-15s sha256:%s...%s\n", "cluster id", pki.ClusterText(r.ClusterID), "CA fingerprint", r.CAPin[:4], r.CAPin[len(r.CAPin)-4:])
	fmt.Fprintf(w, "  %-15s %s udp+tcp\n", "KDC", strings.Join(cfg.KDC.Addresses, ", "))
	fmt.Fprintf(w, "  %-15s %-20s %-15s %s\n", "admin", cfg.Admin.Address, "health", cfg.HTTP.Address)
	fmt.Fprintf(w, "  %-15s %s\n", "etypes", strings.Join(etypes, " "))
	fmt.Fprintf(w, "  %-15s %s\n", "master key", r.MasterKey)
	fmt.Fprintf(w, "  %-15s %s\n\n", "admin client", r.AdminDir)
	fmt.Fprintf(w, "  Recovery kit (shown once: print it, lock it away):\n    %s\n\n", r.Recovery)
	fmt.Fprintf(w, "  Start it        charon server%s", flag)
	if flag == "" {
		fmt.Fprint(w, "            (or: systemctl enable --now charon)")
	}
	if socket := "unix://" + cfg.SocketPath(); socket != "unix://"+socketDefault {
		fmt.Fprintf(w, "\n  Talk to it      export CHARON_ADDR=%s", socket)
	}
	fmt.Fprintf(w, "\n  Client config   charon client-config > /etc/krb5.conf\n  DNS records     charon dns-records\n  Add a node      charon token create NAME\n")
}

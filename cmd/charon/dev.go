package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/charon-kdc/charon/node"
)

// devRealm is what charon dev --json prints, and what DIR/dev.json keeps.
type devRealm struct {
	Dir      string    `json:"dir"`
	Realm    string    `json:"realm"`
	KRB5Conf string    `json:"krb5_conf"`
	Admin    string    `json:"admin"` // for CHARON_ADDR
	Nodes    []devNode `json:"nodes"`
}

// devNode is one node. Kpasswd is the address given by --kpasswd-ports: reserved, nothing listens there yet.
type devNode struct {
	Name    string `json:"name"`
	PID     int    `json:"pid"`
	Dir     string `json:"dir"`
	KDC     string `json:"kdc"`
	Kpasswd string `json:"kpasswd"`
	Admin   string `json:"admin"`
	Peer    string `json:"peer"`
	HTTP    string `json:"http"`
}

const (
	devFile     = "dev.json"
	devNodesMax = 7
)

// devOptions are charon dev's flags.
type devOptions struct {
	nodes        int
	realm, dir   string
	principals   []string
	services     []string
	kdcPorts     []int
	kpasswdPorts []int
	detach, json bool
	level        uint32 // the cluster's, and all that its nodes support; 0: the newest
}

func newDevCommand() *cobra.Command {
	o := &devOptions{}
	c := &cobra.Command{
		Use:   "dev",
		Short: "a throw-away realm on this machine, for CI and laptops",
		Long: `Makes a realm of one or more nodes on loopback and free ports, each a process of its own (charon server --config
DIR/n1/charon.toml), with a krb5.conf for it, and prints the shell lines to use it. In the foreground it ends with ^C, and so do its
nodes; its directory goes too unless --dir named it.`,
		Example: "  charon dev --nodes 3 --realm EXAMPLE.COM --principal alice=secret --service HTTP/web.example.com\n" +
			"  eval \"$(charon dev --detach --dir /tmp/realm --principal alice=secret)\"; kinit alice; charon dev stop /tmp/realm",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if o.level, err = heldLevel(cmd); err != nil {
				return err
			}
			return o.run(cmd)
		},
	}
	f := c.Flags()
	f.IntVar(&o.nodes, "nodes", 1, "how many nodes, 1 to "+strconv.Itoa(devNodesMax))
	f.StringVar(&o.realm, "realm", "EXAMPLE.COM", "name of the realm")
	f.StringVar(&o.dir, "dir", "", "directory for it all (default: a temporary one)")
	f.StringArrayVar(&o.principals, "principal", nil, "NAME=PASSWORD of a user; may be given more than once")
	f.StringArrayVar(&o.services, "service", nil, "name of a service, whose keys go to DIR/krb5.keytab and DIR/SERVICE.keytab ('/' as '_'); may be given more than once")
	f.IntSliceVar(&o.kdcPorts, "kdc-ports", nil, "ports of the KDCs, one a node (default: free ones)")
	f.IntSliceVar(&o.kpasswdPorts, "kpasswd-ports", nil, "ports kept for password changes, one a node; nothing listens there in this release")
	f.BoolVar(&o.detach, "detach", false, "return when the realm is ready")
	f.BoolVar(&o.json, "json", false, "print one JSON object in place of shell lines")
	addHoldFlag(c)
	c.AddCommand(newDevStopCommand(), newDevStartCommand(), newDemoCommand())
	return c
}

func newDevStopCommand() *cobra.Command {
	var remove bool
	c := &cobra.Command{
		Use:   "stop DIR",
		Short: "end every node of a realm that charon dev made",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			d, err := loadDev(args[0])
			if err != nil {
				return err
			}
			if err := d.stop(cmd.Context()); err != nil || !remove {
				return err
			}
			return os.RemoveAll(d.Dir)
		},
	}
	c.Flags().BoolVar(&remove, "rm", false, "remove the directory, too")
	return c
}

func newDevStartCommand() *cobra.Command {
	var detach, asJSON bool
	c := &cobra.Command{
		Use:   "start DIR",
		Short: "bring a stopped realm of charon dev back",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			d, err := loadDev(args[0])
			if err != nil {
				return err
			}
			nodes := newProcesses(detach)
			if err := d.start(cmd.Context(), nodes); err != nil {
				return errors.Join(err, d.stop(context.WithoutCancel(cmd.Context())))
			}
			return d.stay(cmd, nodes, detach, asJSON, false)
		},
	}
	c.Flags().BoolVar(&detach, "detach", false, "return when the realm is ready")
	c.Flags().BoolVar(&asJSON, "json", false, "print one JSON object in place of shell lines")
	return c
}

func (o *devOptions) check(cmd *cobra.Command) error {
	switch {
	case o.nodes < 1 || o.nodes > devNodesMax:
		return usage(cmd, "--nodes is 1 to %d", devNodesMax)
	case o.kdcPorts != nil && len(o.kdcPorts) != o.nodes:
		return usage(cmd, "--kdc-ports has %d ports for %d nodes", len(o.kdcPorts), o.nodes)
	case o.kpasswdPorts != nil && len(o.kpasswdPorts) != o.nodes:
		return usage(cmd, "--kpasswd-ports has %d ports for %d nodes", len(o.kpasswdPorts), o.nodes)
	}
	for _, p := range append(append([]int{}, o.kdcPorts...), o.kpasswdPorts...) {
		if p < 1 || p > 65535 {
			return usage(cmd, "port %d is not 1 to 65535", p)
		}
	}
	for _, p := range o.principals {
		if name, password, ok := strings.Cut(p, "="); !ok || name == "" || password == "" {
			return usage(cmd, "--principal wants NAME=PASSWORD")
		}
	}
	return node.CheckRealmName(o.realm)
}

func (o *devOptions) run(cmd *cobra.Command) error {
	if err := o.check(cmd); err != nil {
		return err
	}
	temporary := o.dir == ""
	if temporary {
		dir, err := os.MkdirTemp("", "charon-dev-")
		if err != nil {
			return err
		}
		o.dir = dir
	}
	dir, err := filepath.Abs(o.dir)
	if err != nil {
		return err
	}
	if entries, err := os.ReadDir(dir); err == nil && len(entries) > 0 {
		return coded(exitConflict, "%s is not empty; to bring a stopped realm back: charon dev start %s", dir, dir)
	}
	nodes := newProcesses(o.detach)
	nodes.level = o.level
	d, err := o.make(cmd.Context(), dir, nodes)
	if err != nil {
		err = errors.Join(err, nodes.stopAll(), d.keepLogs(cmd.ErrOrStderr()))
		if temporary {
			err = errors.Join(err, os.RemoveAll(dir))
		}
		return err
	}
	return d.stay(cmd, nodes, o.detach, o.json, temporary)
}

// stay prints how to use the realm and, in the foreground, waits for ^C and cleans up.
func (d *devRealm) stay(cmd *cobra.Command, nodes *processes, detach, asJSON, temporary bool) error {
	if err := d.print(cmd.OutOrStdout(), asJSON); err != nil {
		return err
	}
	if detach {
		return nil
	}
	<-cmd.Context().Done()
	err := d.stop(context.WithoutCancel(cmd.Context()))
	nodes.wait()
	if temporary {
		err = errors.Join(err, os.RemoveAll(d.Dir))
	}
	return err
}

func (d *devRealm) print(w io.Writer, asJSON bool) error {
	if asJSON {
		return json.NewEncoder(w).Encode(d)
	}
	_, err := fmt.Fprintf(w, "export KRB5_CONFIG=%s\nexport CHARON_ADDR=%s\n", d.KRB5Conf, d.Admin)
	return err
}

func (d *devRealm) save() error {
	b, err := json.MarshalIndent(d, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(d.Dir, devFile), append(b, '\n'), 0o600)
}

func loadDev(dir string) (*devRealm, error) {
	b, err := os.ReadFile(filepath.Join(dir, devFile))
	if errors.Is(err, os.ErrNotExist) {
		return nil, coded(exitNotFound, "%s holds no realm of charon dev", dir)
	}
	if err != nil {
		return nil, err
	}
	d := new(devRealm)
	if err := json.Unmarshal(b, d); err != nil {
		return nil, fmt.Errorf("reading %s: %w", filepath.Join(dir, devFile), err)
	}
	return d, nil
}

// stop ends every node that runs, also one that a test has started again under another process id, and returns when their processes are
// gone: a node lets go of its directory a little before its end, and takes it a little after its start.
func (d *devRealm) stop(ctx context.Context) error {
	var running []process
	var errs []error
	for i := range d.Nodes {
		found, err := d.Nodes[i].processes()
		running, errs = append(running, found...), append(errs, err)
	}
	return errors.Join(errors.Join(errs...), endAll(ctx, running, endLimit))
}

// keepLogs shows the last lines of the nodes' logs when a realm does not come up.
func (d *devRealm) keepLogs(w io.Writer) error {
	if d == nil {
		return nil
	}
	for _, n := range d.Nodes {
		b, err := os.ReadFile(filepath.Join(n.Dir, "charon.log"))
		if err != nil {
			continue
		}
		lines := strings.Split(strings.TrimSpace(string(b)), "\n")
		for _, l := range lines[max(0, len(lines)-5):] {
			fmt.Fprintf(w, "%s: %s\n", n.Name, l)
		}
	}
	return nil
}

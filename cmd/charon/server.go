package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/charon-kdc/charon/node"
)

func newServerCommand() *cobra.Command {
	var config, recoverFrom string
	var waive, compact, rebuild, check bool
	var rebuildFrom []string
	c := &cobra.Command{
		Use:   "server",
		Short: "run this host's node",
		Long: `Runs the node of the data directory: KDC, admin API, replication, health and metrics, until SIGTERM or ^C.
Before that, one charon init makes a realm, or charon join makes this host a node of one.

SIGTERM drains: readiness goes, leadership is handed over, requests in work are finished. SIGHUP opens the audit file again.

With --recover, --compact-log or --check it works on the data directory of a stopped node, and ends. --recover makes a realm of the nodes that are left after a
majority was lost for good: charon node survivors makes the list, every survivor is given the same one, and none may run meanwhile
(docs/cluster.md).

A node whose state is damaged, or differs from the other nodes', says so and does not serve. With --rebuild it fetches the state from another node
first; it stays who it is, with its log and its votes (docs/integrity.md).`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := loadConfig(config)
			if err != nil {
				return err
			}
			switch {
			case recoverFrom != "":
				return recoverNode(cmd, cfg, recoverFrom, waive)
			case waive:
				return usage(cmd, "--waive-replay-epoch goes with --recover")
			case compact:
				return compactLogs(cmd, cfg)
			case check:
				return examineNode(cmd, cfg)
			}
			level, err := heldLevel(cmd)
			if err != nil {
				return err
			}
			if len(rebuildFrom) > 0 && !rebuild {
				return usage(cmd, "--rebuild-from goes with --rebuild")
			}
			return runServer(cmd.Context(), node.RunOptions{Config: cfg, FeatureLevelMax: level, Rebuild: rebuild, RebuildFrom: rebuildFrom}, cmd.ErrOrStderr())
		},
	}
	c.Flags().StringVar(&config, "config", "", "configuration file (default: the first of "+fmt.Sprint(node.ConfigPaths)+" that is there)")
	c.Flags().StringVar(&recoverFrom, "recover", "", "file: recover this stopped node by that list of survivors, and end")
	c.Flags().BoolVar(&waive, "waive-replay-epoch", false, "with --recover: give service tickets at once, though what a lost node accepted can then be replayed")
	c.Flags().BoolVar(&compact, "compact-log", false, "make this stopped node's log files smaller, and end")
	c.Flags().BoolVar(&rebuild, "rebuild", false, "fetch the realm's and the replay cache's state from another node in the place of this one's, then run")
	c.Flags().StringSliceVar(&rebuildFrom, "rebuild-from", nil, "with --rebuild: peer address (host:port) of the node to fetch from, where this one does not know any more; may be repeated")
	c.Flags().BoolVar(&check, "check", false, "read all files of this stopped node, as a start does, say whether they are whole, and end")
	c.MarkFlagsMutuallyExclusive("recover", "compact-log", "rebuild", "check")
	addHoldFlag(c)
	return c
}

func recoverNode(cmd *cobra.Command, cfg *node.Config, file string, waive bool) error {
	list, err := node.ReadSurvivors(file)
	if err != nil {
		return err
	}
	r, err := node.Recover(cfg, list, waive)
	if err != nil {
		return err
	}
	out := cmd.OutOrStdout()
	fmt.Fprintf(out, "Recovered. The realm goes on from the log of %s.\n", r.Base)
	if len(r.Lost) > 0 {
		fmt.Fprintf(out, "No longer nodes: %s. Wipe their disks before they are started again: together they could go on as the old realm.\n", strings.Join(r.Lost, ", "))
	}
	if r.TicketsFrom.IsZero() {
		fmt.Fprintln(out, "The replay cache's new epoch is waived: service tickets are given at once.")
	} else {
		fmt.Fprintf(out, "Service tickets are given again from %s on (RFC 4120 section 3.2.3); logins at once.\n", r.TicketsFrom.UTC().Format(time.RFC3339))
	}
	_, err = fmt.Fprintln(out, "When every survivor is recovered by the same list, start them.")
	return err
}

func examineNode(cmd *cobra.Command, cfg *node.Config) error {
	found, err := node.CheckFiles(cfg)
	if node.IsDamage(err) {
		return coded(exitDamaged, "%v", err)
	}
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "Whole: %d principals, state at index %d with hash %v.\n", found.Principals, found.State.Index, found.State.Hash)
	return err
}

func compactLogs(cmd *cobra.Command, cfg *node.Config) error {
	done, err := node.CompactLogs(cfg)
	for _, d := range done {
		fmt.Fprintf(cmd.OutOrStdout(), "%s: %d MiB, was %d MiB\n", d.Path, d.After>>20, d.Before>>20)
	}
	return err
}

// holdFlag makes this release a node of an older one, as far as formats go. It is for tests of mixed clusters, and is not shown.
const holdFlag = "hold-feature-level"

func addHoldFlag(c *cobra.Command) {
	c.Flags().Uint32(holdFlag, 0, "for tests: support feature levels up to this one only")
	if err := c.Flags().MarkHidden(holdFlag); err != nil {
		panic(err)
	}
}

// heldLevel is 0 without the flag.
func heldLevel(c *cobra.Command) (uint32, error) {
	level, err := c.Flags().GetUint32(holdFlag)
	if c.Flags().Changed(holdFlag) && (level < node.FeatureLevelMin || level > node.FeatureLevelMax) {
		err = usage(c, "--%s is %d to %d", holdFlag, node.FeatureLevelMin, node.FeatureLevelMax)
	}
	return level, err
}

// loadConfig reads the file named, or the one that is found, or takes the defaults.
func loadConfig(path string) (*node.Config, error) {
	if path == "" {
		path = node.FindConfig()
	}
	return node.LoadConfig(path)
}

// runServer runs the node until a signal. A second one ends the process at once.
func runServer(ctx context.Context, o node.RunOptions, stderr io.Writer) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGTERM, os.Interrupt, syscall.SIGHUP)
	defer signal.Stop(signals)
	reopen := make(chan struct{})
	go func() {
		for stops := 0; ; {
			if <-signals != syscall.SIGHUP {
				cancel()
				if stops++; stops == 2 {
					os.Exit(exitError)
				}
				continue
			}
			select {
			case reopen <- struct{}{}:
			case <-ctx.Done():
			}
		}
	}()
	o.Version, o.Logger, o.Reopen = version, newLogger(o.Config, stderr), reopen
	err := node.Run(ctx, o)
	if node.IsDamage(err) {
		return coded(exitDamaged, "%v", err)
	}
	return err
}

func newLogger(cfg *node.Config, w io.Writer) *slog.Logger {
	var level slog.Level
	if err := level.UnmarshalText([]byte(cfg.Log.Level)); err != nil {
		level = slog.LevelInfo // the configuration allows only levels that parse
	}
	o := &slog.HandlerOptions{Level: level}
	if cfg.Log.Format == "json" {
		return slog.New(slog.NewJSONHandler(w, o))
	}
	return slog.New(slog.NewTextHandler(w, o))
}

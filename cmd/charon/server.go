package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/charon-kdc/charon/node"
)

func newServerCommand() *cobra.Command {
	var config string
	c := &cobra.Command{
		Use:   "server",
		Short: "run this host's node",
		Long: `Runs the node of the data directory: KDC, admin API, replication, health and metrics, until SIGTERM or ^C.
Before that, one charon init makes a realm, or charon join makes this host a node of one.

SIGTERM drains: readiness goes, leadership is handed over, requests in work are finished. SIGHUP opens the audit file again.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := loadConfig(config)
			if err != nil {
				return err
			}
			level, err := heldLevel(cmd)
			if err != nil {
				return err
			}
			return runServer(cmd.Context(), cfg, level, cmd.ErrOrStderr())
		},
	}
	c.Flags().StringVar(&config, "config", "", "configuration file (default: the first of "+fmt.Sprint(node.ConfigPaths)+" that is there)")
	addHoldFlag(c)
	return c
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
func runServer(ctx context.Context, cfg *node.Config, level uint32, stderr io.Writer) error {
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
	return node.Run(ctx, node.RunOptions{Config: cfg, Version: version, Logger: newLogger(cfg, stderr), Reopen: reopen, FeatureLevelMax: level})
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

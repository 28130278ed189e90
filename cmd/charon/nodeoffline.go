package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/charon-kdc/charon/node"
)

// nodeSurvivors is the first step of a recovery from a lost quorum.
func nodeSurvivors() *cobra.Command {
	var config string
	c := &cobra.Command{
		Use:   "survivors [LIST]",
		Short: "print the list of survivors of a lost quorum, with this stopped node",
		Long: `Reads the data directory of this host's stopped node and prints the list that charon server --recover goes by: this node, and those of the
file LIST, which came from another survivor. Run it on one survivor after the other, each time with the list so far, and give the last one to all.`,
		Example: "  charon node survivors > peers.json             # on the first\n  charon node survivors peers.json > all.json    # on the second",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, err := loadConfig(config)
			if err != nil {
				return err
			}
			var list *node.Survivors
			if len(args) == 1 {
				if list, err = node.ReadSurvivors(args[0]); err != nil {
					return err
				}
			}
			if list, err = node.AddSurvivor(cfg, list); err != nil {
				return err
			}
			text, err := node.SurvivorsText(list)
			if err != nil {
				return err
			}
			_, err = cmd.OutOrStdout().Write(text)
			return err
		},
	}
	c.Flags().StringVar(&config, "config", "", "configuration file of the node")
	return c
}

// nodeMoved is for the case that no node finds another by itself.
func nodeMoved() *cobra.Command {
	var config string
	c := &cobra.Command{
		Use:   "moved NAME=HOST:PORT ...",
		Short: "tell this stopped node where others are now",
		Long: `A node that starts at another address (peer.address or peer.advertise in its configuration) tells the others by itself. Only when all of them
have moved while none ran, one has to be told: stop it, give it the peer addresses of the others, and start it.`,
		Example: "  charon node moved kdc2=192.0.2.12:7750 kdc3=192.0.2.13:7750",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			to := map[string]string{}
			for _, a := range args {
				name, addr, ok := strings.Cut(a, "=")
				if !ok || name == "" {
					return usage(cmd, "%q is not NAME=HOST:PORT", a)
				}
				to[name] = addr
			}
			cfg, err := loadConfig(config)
			if err != nil {
				return err
			}
			if err := node.NoteMoves(cfg, to); err != nil {
				return err
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), "Noted, until the realm has the new addresses. Start the nodes.")
			return err
		},
	}
	c.Flags().StringVar(&config, "config", "", "configuration file of the node")
	return c
}

// nodeRecertify gives a stopped node a certificate again.
func nodeRecertify() *cobra.Command {
	var config, tokenFile string
	var timeout time.Duration
	c := &cobra.Command{
		Use:   "recertify",
		Short: "give this stopped node a new key and certificate",
		Long: `For a node that was off for so long that its certificate has ended, or whose key others have seen. On a running node: charon token create NAME
--recertify. The token is read as by charon join. The node stays the member that it is, and its former key opens no door any more.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := loadConfig(config)
			if err != nil {
				return err
			}
			tok, err := readToken(cmd, tokenFile)
			if err != nil {
				return err
			}
			r, err := node.Recertify(cmd.Context(), node.JoinOptions{
				Token: tok, Config: cfg, Version: version, Timeout: timeout,
				Progress: func(s string) { fmt.Fprintf(cmd.ErrOrStderr(), "waiting: %s\n", s) },
			})
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s is certified anew (%d d). Start it.\n", r.Name, int(r.CertLife.Hours()/24))
			return err
		},
	}
	c.Flags().StringVar(&config, "config", "", "configuration file of the node")
	c.Flags().StringVar(&tokenFile, "token-file", "", "file that holds the token")
	c.Flags().DurationVar(&timeout, "timeout", 2*time.Minute, "how long to try")
	return c
}

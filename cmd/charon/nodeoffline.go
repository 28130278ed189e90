package main

import (
	"fmt"
	"strings"

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

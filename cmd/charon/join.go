package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/charon-kdc/charon/adminapi/jointoken"
	"github.com/charon-kdc/charon/node"
	adminv1 "github.com/charon-kdc/charon/proto/charon/admin/v1"
)

func newJoinCommand() *cobra.Command {
	var name, tokenFile string
	var noStart bool
	var timeout time.Duration
	var place addressFlags
	c := &cobra.Command{
		Use:   "join",
		Short: "make this host a node of a realm",
		Long: `Joins the realm that a token (charon token create, on a node of it) is for. The token is asked for on a terminal, and
read from --token-file or standard input elsewhere; it never stands on the command line.

After a crash or a timeout the same line goes on where it was. Then the node is started: by systemd where charon.service is
installed, else in the foreground.`,
		Example: "  sudo charon join\n  sudo charon join --token-file /run/charon.token --no-start",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, path, fresh, err := place.configure()
			if err != nil {
				return err
			}
			tok, err := readToken(cmd, tokenFile)
			if err != nil {
				return err
			}
			if name == "" && tok.NodeName == "" {
				name = defaultNodeName()
			}
			level, err := heldLevel(cmd)
			if err != nil {
				return err
			}
			out := cmd.OutOrStdout()
			r, err := node.Join(cmd.Context(), node.JoinOptions{
				Token: tok, Name: name, Config: cfg, Version: version, Timeout: timeout, FeatureLevelMax: level,
				Progress: func(s string) { fmt.Fprintf(cmd.ErrOrStderr(), "waiting: %s\n", s) },
			})
			if err != nil {
				return err
			}
			fmt.Fprintf(out, "CA pin ok. Identity %s issued (%d d) in realm %s.\n", r.Name, int(r.CertLife.Hours()/24), r.Realm)
			if err := finishPlacement(cfg, path, fresh); err != nil {
				return err
			}
			if noStart {
				fmt.Fprintf(out, "Start it: charon server --config %s\n", path)
				return nil
			}
			return startJoined(cmd, cfg, path, r.Name)
		},
	}
	c.Flags().StringVar(&name, "name", "", "name of this node (default: the token's)")
	c.Flags().StringVar(&tokenFile, "token-file", "", "file that holds the token")
	c.Flags().BoolVar(&noStart, "no-start", false, "do not start the node")
	c.Flags().DurationVar(&timeout, "timeout", 2*time.Minute, "how long to try")
	addHoldFlag(c)
	place.add(c)
	return c
}

// readToken gets the token from a file, the terminal without echo, or standard input.
func readToken(cmd *cobra.Command, file string) (*jointoken.Token, error) {
	const tokenMax = 4096
	var text []byte
	var err error
	switch f, ok := cmd.InOrStdin().(*os.File); {
	case file != "":
		text, err = os.ReadFile(file)
	case ok && term.IsTerminal(int(f.Fd())):
		fmt.Fprint(cmd.ErrOrStderr(), "Token: ")
		text, err = term.ReadPassword(int(f.Fd()))
		fmt.Fprintln(cmd.ErrOrStderr())
	default:
		text, err = bufio.NewReader(io.LimitReader(cmd.InOrStdin(), tokenMax)).ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			err = nil
		}
	}
	if err != nil {
		return nil, fmt.Errorf("reading the token: %w", err)
	}
	if len(strings.TrimSpace(string(text))) == 0 {
		return nil, errors.New("no token was given; make one on a node of the realm: charon token create")
	}
	return jointoken.Parse(string(text))
}

// startJoined starts the node and tells how it comes up to a vote.
func startJoined(cmd *cobra.Command, cfg *node.Config, path, name string) error {
	ctx, out := cmd.Context(), cmd.OutOrStdout()
	if hasUnit(ctx) && path == node.FindConfig() {
		if b, err := exec.CommandContext(ctx, "systemctl", "enable", "--now", "charon").CombinedOutput(); err != nil {
			return fmt.Errorf("systemctl enable --now charon: %w: %s", err, strings.TrimSpace(string(b)))
		}
		return watchPromotion(ctx, out, cfg, name)
	}
	watch, cancel := context.WithCancel(ctx)
	defer cancel()
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		if err := watchPromotion(watch, out, cfg, name); err == nil {
			fmt.Fprintf(out, "Running here in the foreground until ^C; later: charon server --config %s\n", path)
		}
	}()
	level, err := heldLevel(cmd)
	if err == nil {
		err = runServer(ctx, node.RunOptions{Config: cfg, FeatureLevelMax: level}, cmd.ErrOrStderr())
	}
	cancel()
	<-watched
	return err
}

func hasUnit(ctx context.Context) bool {
	return exec.CommandContext(ctx, "systemctl", "cat", "charon.service").Run() == nil
}

// watchPromotion reports the new node's way: caught up, non-voter, voter.
func watchPromotion(ctx context.Context, out io.Writer, cfg *node.Config, name string) error {
	cc, err := dialSocket(cfg.SocketPath())
	if err != nil {
		return err
	}
	defer cc.Close()
	begun := time.Now()
	told := ""
	for {
		st, err := adminv1.NewClusterClient(cc).GetStatus(ctx, &adminv1.GetStatusRequest{})
		if err == nil {
			for _, n := range st.GetNodes() {
				if n.GetNode().GetName() != name {
					continue
				}
				voter := n.GetRole() == "follower" || n.GetRole() == "leader"
				if told == "" && n.GetApplied() > 0 {
					told = "caught up"
					fmt.Fprintf(out, "Caught up with the realm in %.1f s.\n", time.Since(begun).Seconds())
				}
				if told == "caught up" && !voter {
					told = "non-voter"
					fmt.Fprintf(out, "%s is a non-voter; promoting after %v of health ... ", name, cfg.Raft.PromoteAfter)
				}
				if voter {
					fmt.Fprintln(out, "voter. "+quorumWords(int(st.GetVoters())))
					return nil
				}
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// quorumWords says what so many voters survive.
func quorumWords(voters int) string {
	quorum := voters/2 + 1
	s := fmt.Sprintf("Quorum %d of %d: ", quorum, voters)
	switch spare := voters - quorum; {
	case spare == 0:
		return s + "add one more node to survive a failure."
	case voters == 4:
		return s + "the realm survives the loss of any one node, as with three; add one more node to survive two."
	case spare == 1:
		return s + "the realm now survives the loss of any one node."
	case spare == 2:
		return s + "the realm now survives the loss of any two nodes."
	default:
		return s + fmt.Sprintf("the realm now survives the loss of any %d nodes.", spare)
	}
}

func dialSocket(path string) (*grpc.ClientConn, error) {
	return grpc.NewClient("unix://"+path, grpc.WithTransportCredentials(insecure.NewCredentials()))
}

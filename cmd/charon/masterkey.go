package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	adminv1 "github.com/charon-kdc/charon/proto/charon/admin/v1"
)

func newMasterKeyCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "master-key", Short: "the key that seals all others in the state"}
	cmd.AddCommand(masterKeyRotate(), masterKeyShow(), masterKeyRetire())
	return cmd
}

func masterKeyRotate() *cobra.Command {
	var detach bool
	cmd := &cobra.Command{
		Use: "rotate", Short: "make a new version, have every node store it, and seal everything anew", Args: cobra.NoArgs,
		Long: "Make a new version of the master key, have every node store it on its disk, and seal everything in the state anew.\n" +
			"It goes on by itself, whoever leads; this command only shows how far it is, and may be ended. Earlier versions stay on the\n" +
			"nodes' disks, since copies of data directories made before need them, until charon master-key retire.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := connect(cmd)
			if err != nil {
				return err
			}
			defer c.Close()
			ctx, cancel := timeLimit(cmd)
			defer cancel()
			r, err := mutate(ctx, cmd, func(ctx context.Context, id []byte) (*adminv1.RotateMasterKeyResponse, error) {
				return c.rotation().RotateMasterKey(ctx, &adminv1.RotateMasterKeyRequest{RequestId: id})
			})
			if err != nil {
				return err
			}
			if detach {
				return show(cmd, r, func(w io.Writer, _ bool) error {
					_, err := fmt.Fprintf(w, "version %d -> %d begun; see: charon master-key show --watch\n", r.GetPreviousVersion(), r.GetVersion())
					return err
				})
			}
			return watchMasterKey(cmd, c)
		},
	}
	cmd.Flags().BoolVar(&detach, "detach", false, "do not wait for its end")
	return cmd
}

func masterKeyShow() *cobra.Command {
	var local, watch bool
	cmd := &cobra.Command{
		Use: "show", Short: "show the versions, who holds them, and how far a rotation is", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if watch {
				c, err := connect(cmd)
				if err != nil {
					return err
				}
				defer c.Close()
				return watchMasterKey(cmd, c)
			}
			return withConnection(cmd, func(ctx context.Context, c *connection) error {
				r, err := c.rotation().GetMasterKey(ctx, &adminv1.GetMasterKeyRequest{Consistency: consistency(local)})
				if err != nil {
					return err
				}
				return show(cmd, r, func(w io.Writer, _ bool) error { return printMasterKey(w, r) })
			})
		},
	}
	localFlag(cmd, &local)
	cmd.Flags().BoolVarP(&watch, "watch", "w", false, "follow a rotation to its end")
	return cmd
}

func masterKeyRetire() *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use: "retire", Short: "have every node drop all versions but the active one", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := confirm(cmd, force, "Drop earlier versions of the master key? Copies of data directories made before can't be opened without them."); err != nil {
				return err
			}
			return withConnection(cmd, func(ctx context.Context, c *connection) error {
				r, err := mutate(ctx, cmd, func(ctx context.Context, id []byte) (*adminv1.RetireMasterKeysResponse, error) {
					return c.rotation().RetireMasterKeys(ctx, &adminv1.RetireMasterKeysRequest{RequestId: id})
				})
				if err != nil {
					return err
				}
				return show(cmd, r, func(w io.Writer, _ bool) error {
					_, err := fmt.Fprintf(w, "version %d stays; every node drops the earlier ones, one that is down when it is back.\n", r.GetVersion())
					return err
				})
			})
		},
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "do not ask")
	return cmd
}

func printMasterKey(w io.Writer, r *adminv1.GetMasterKeyResponse) error {
	fmt.Fprintf(w, "%-18s %d\n", "active version", r.GetVersion())
	fmt.Fprintf(w, "%-18s %s\n", "rotated", when(r.GetRotatedAt()))
	if p := r.GetRotation(); p != nil {
		fmt.Fprintf(w, "%-18s to version %d, by %s since %s: %s\n", "rotation", p.GetVersion(), p.GetStartedBy(), when(p.GetStartedAt()), progressLine(p))
	}
	var rows [][]string
	for _, n := range r.GetNodes() {
		state := "ok"
		switch {
		case !n.GetReachable():
			state = "does not answer"
		case !slices.Contains(n.GetVersions(), r.GetVersion()):
			state = "LACKS THE ACTIVE VERSION"
		case n.GetFixed() != "":
			state = "takes no other: " + n.GetFixed()
		}
		rows = append(rows, []string{n.GetName(), strings.Trim(fmt.Sprint(n.GetVersions()), "[]"), state})
	}
	return table(w, "NODE VERSIONS STATE", rows)
}

// progressLine is where a rotation stands: "re-sealing 262150 principals [######----] 61%  51k/s".
func progressLine(p *adminv1.MasterKeyProgress) string {
	waiting := ""
	if len(p.GetWaiting()) > 0 {
		waiting = "; waiting for " + strings.Join(p.GetWaiting(), ", ")
	}
	if p.GetPhase() != adminv1.MasterKeyProgress_PHASE_RESEALING {
		return fmt.Sprintf("handing version %d to every node%s", p.GetVersion(), waiting)
	}
	percent := uint64(0)
	if p.GetTotal() > 0 {
		percent = min(100, 100*p.GetDone()/p.GetTotal())
	}
	const width = 10
	full := int(percent) * width / 100
	return fmt.Sprintf("re-sealing %d principals [%s%s] %d%%  %s/s%s",
		p.GetTotal(), strings.Repeat("#", full), strings.Repeat("-", width-full), percent, thousands(p.GetPerSecond()), waiting)
}

func thousands(n uint64) string {
	if n < 10_000 {
		return fmt.Sprint(n)
	}
	return fmt.Sprintf("%dk", n/1000)
}

const (
	pollEvery = 250 * time.Millisecond
	// watchPatience is how long nobody may answer before a watch gives up; the rotation goes on.
	watchPatience = 30 * time.Second
)

// watchMasterKey shows a rotation until its end. It asks again and again, any node that answers, so that neither a lost connection nor a new leader
// ends it. On a terminal one line is written over; else each change of it is a line.
func watchMasterKey(cmd *cobra.Command, c *connection) error {
	f, err := outputFormat(cmd)
	if err != nil {
		return err
	}
	line := progressTo(cmd.ErrOrStderr())
	heard := time.Now()
	for {
		ctx, cancel := context.WithTimeout(cmd.Context(), 5*time.Second)
		r, err := c.rotation().GetMasterKey(ctx, &adminv1.GetMasterKeyRequest{})
		cancel()
		switch {
		case err == nil && r.GetRotation() == nil:
			line("")
			if f != formatTable && f != formatWide {
				return show(cmd, r, nil)
			}
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "master key version %d is active, and nothing is sealed under another. Earlier versions stay on the nodes, for copies of data directories made before; to drop them: charon master-key retire\n", r.GetVersion())
			return err
		case err == nil:
			heard = time.Now()
			line(progressLine(r.GetRotation()))
		case cmd.Context().Err() != nil:
			line("")
			return coded(exitError, "the rotation goes on; to follow it: charon master-key show --watch")
		case !comesBack(err) || time.Since(heard) > watchPatience:
			line("")
			return err
		}
		select {
		case <-cmd.Context().Done():
		case <-time.After(pollEvery):
		}
	}
}

// comesBack tells an answer that another try may change: an election, a lost connection.
func comesBack(err error) bool {
	if _, ok := errors.AsType[*unreachableError](err); ok {
		return true
	}
	switch status.Code(err) {
	case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled:
		return true
	}
	return false
}

// progressTo shows one line at a time. Where w is no terminal, a line is written when it differs from the one before, twice a second at most; an
// empty one ends it.
func progressTo(w io.Writer) func(string) {
	file, ok := w.(*os.File)
	terminal := ok && term.IsTerminal(int(file.Fd()))
	last, at := "", time.Time{}
	return func(s string) {
		switch {
		case s == last:
			return
		case terminal && s == "":
			fmt.Fprint(w, "\r\x1b[K")
		case terminal:
			fmt.Fprint(w, "\r\x1b[K"+s)
		case s == "" || time.Since(at) < 2*pollEvery:
			return
		default:
			fmt.Fprintln(w, s)
		}
		last, at = s, time.Now()
	}
}

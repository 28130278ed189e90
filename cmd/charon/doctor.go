package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/charon-kdc/charon/node"
	"github.com/charon-kdc/charon/node/doctor"
	adminv1 "github.com/charon-kdc/charon/proto/charon/admin/v1"
)

// doctorWait is how long a node may take to say what is wrong; one that takes longer hangs.
const doctorWait = 15 * time.Second

func newDoctorCommand() *cobra.Command {
	var config string
	cmd := &cobra.Command{
		Use: "doctor", Short: "what is wrong with the cluster, and what to do",
		Long: `Asks one node, which asks all the others, and prints a line for everything that is wrong or soon will be, with its remedy. It changes
nothing, and works without a quorum. Where this host's own node does not answer at all, its data directory is looked at instead.

-o wide also shows what is well, -o json gives everything to a script. The exit code is 1 if anything failed, 0 with warnings only.
docs/doctor.md explains each check.`,
		Example: "  charon doctor\n  charon doctor -o json | jq '.findings[] | select(.severity != \"ok\")'",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return runDoctor(cmd, config) },
	}
	cmd.Flags().StringVar(&config, "config", "", "this node's configuration, where it does not answer (default: as charon server)")
	return cmd
}

func runDoctor(cmd *cobra.Command, config string) error {
	c, err := connect(cmd)
	if err != nil {
		return err
	}
	defer c.Close()
	ctx, cancel := timeLimit(cmd)
	defer cancel()
	ctx, cancel = context.WithTimeout(ctx, doctorWait)
	defer cancel()
	r, err := adminv1.NewDiagnosisClient(c).Diagnose(ctx, &adminv1.DiagnoseRequest{})
	if err == nil {
		return showFindings(cmd, fromWire(r.GetFindings()))
	}
	local, ok := localConfig(c, config, err)
	if !ok {
		return err
	}
	all := node.Examine(local, !isUnreachable(err) && status.Code(err) != codes.DeadlineExceeded)
	fmt.Fprintf(cmd.ErrOrStderr(), "charon: %s; this is what its data directory %s says\n", describe(err), local.Dir)
	return showFindings(cmd, all)
}

func isUnreachable(err error) bool {
	_, ok := errors.AsType[*unreachableError](err)
	return ok
}

// localConfig is the configuration of this host's node, if err says that it does not answer: the one named, that beside the socket that was asked,
// or the server's default.
func localConfig(c *connection, path string, err error) (*node.Config, bool) {
	if !isUnreachable(err) && status.Code(err) != codes.DeadlineExceeded && (status.Code(err) != codes.Unavailable || details(err) != nil) {
		return nil, false
	}
	socket := ""
	for _, a := range c.addrs {
		if s, ok := strings.CutPrefix(a, "unix:"); ok && socket == "" {
			socket = "/" + strings.TrimLeft(s, "/")
		}
	}
	if socket == "" && path == "" {
		return nil, false
	}
	if path == "" {
		beside := filepath.Join(filepath.Dir(socket), "charon.toml")
		if _, err := os.Stat(beside); err == nil {
			path = beside
		}
	}
	local, loadErr := loadConfig(path)
	if loadErr != nil {
		return nil, false
	}
	if socket != "" && path == "" && socket != "/"+strings.TrimLeft(local.SocketPath(), "/") {
		local.Dir = filepath.Dir(socket)
	}
	return local, true
}

func fromWire(in []*adminv1.Finding) []doctor.Finding {
	out := make([]doctor.Finding, len(in))
	for i, f := range in {
		out[i] = doctor.Finding{Severity: doctor.Severity(f.GetSeverity()), Check: f.GetCheck(), Node: f.GetNode(), Text: f.GetText(), Fix: f.GetFix()}
	}
	return out
}

// showFindings prints them, worst first, and makes the exit code.
func showFindings(cmd *cobra.Command, all []doctor.Finding) error {
	doctor.Sort(all)
	m := &adminv1.DiagnoseResponse{}
	for _, f := range all {
		m.Findings = append(m.Findings, &adminv1.Finding{Severity: adminv1.Severity(f.Severity), Check: f.Check, Node: f.Node, Text: f.Text, Fix: f.Fix})
	}
	if err := show(cmd, m, func(w io.Writer, wide bool) error { return printFindings(w, all, wide) }); err != nil {
		return err
	}
	if _, _, failed := doctor.Count(all); failed > 0 {
		return coded(exitError, "")
	}
	return nil
}

func printFindings(w io.Writer, all []doctor.Finding, wide bool) error {
	ok, warned, failed := doctor.Count(all)
	if _, err := fmt.Fprintf(w, "ok %d  warn %d  fail %d\n", ok, warned, failed); err != nil {
		return err
	}
	var checks, texts int
	for _, f := range all {
		if f.Severity != doctor.OK || wide {
			checks, texts = max(checks, len(f.Check)), max(texts, min(len(f.Text), 80))
		}
	}
	for _, f := range all {
		if f.Severity == doctor.OK && !wide {
			continue
		}
		line := fmt.Sprintf("%-4s %-*s  %s", f.Severity, checks, f.Check, f.Text)
		if f.Fix != "" {
			line = fmt.Sprintf("%-4s %-*s  %-*s  fix: %s", f.Severity, checks, f.Check, texts, f.Text, f.Fix)
		}
		if _, err := fmt.Fprintln(w, line); err != nil {
			return err
		}
	}
	return nil
}

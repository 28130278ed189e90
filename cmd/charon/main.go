// Command charon is the daemon and the command line of a Charon realm: "charon server" runs a node, every other verb is a
// client of the admin API or of port 88.
//
// It owns what the user types and sees: flags, prompts, tables, exit codes. It must not know how anything is stored or
// replicated; what it needs of that it asks of a node. One file a noun.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
)

// version is set by the build.
var version = "1.0.0-dev"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run is one invocation; it returns the exit code.
func run(ctx context.Context, args []string, in io.Reader, out, errOut io.Writer) int {
	cmd := root()
	cmd.SetArgs(args)
	cmd.SetIn(in)
	cmd.SetOut(out)
	cmd.SetErr(errOut)
	addCompletion(cmd)
	ran, err := cmd.ExecuteContextC(ctx)
	if err == nil {
		return exitOK
	}
	if _, ok := errors.AsType[*ranError](err); !ok {
		// The command did not run: cobra found flags missing, or such as exclude each other.
		if _, ok := errors.AsType[*codedError](err); !ok {
			err = usage(ran, "%v", err)
		}
	}
	if text := describe(err); text != "" {
		fmt.Fprintln(errOut, "charon: "+text)
	}
	return exitCode(err)
}

// ranError marks what a command's own code returned.
type ranError struct{ err error }

func (e *ranError) Error() string { return e.err.Error() }
func (e *ranError) Unwrap() error { return e.err }

// root is the whole command tree, nouns in the order of the help page.
func root() *cobra.Command {
	cmd := &cobra.Command{
		Use:           "charon",
		Short:         "a Kerberos realm without a master",
		Version:       version,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	addConnectionFlags(cmd)
	cmd.SetFlagErrorFunc(func(c *cobra.Command, err error) error { return usage(c, "%v", err) })
	cmd.AddCommand(
		newInitCommand(),
		newServerCommand(),
		newJoinCommand(),
		newDevCommand(),
		newStatusCommand(),
		newDoctorCommand(),
		newUpgradeCommand(),
		newPrincipalCommand(),
		newPolicyCommand(),
		newKeytabCommand(),
		newKrbtgtCommand(),
		newMasterKeyCommand(),
		newRealmCommand(),
		newRoleCommand(),
		newNodeCommand(),
		newTokenCommand(),
		newAdminCertCommand(),
		newBackupCommand(),
		newClientConfigCommand(),
		newDNSRecordsCommand(),
		newKadminCommand(),
		newKinitCommand(),
		newKlistCommand(),
		newKvnoCommand(),
		newKdestroyCommand(),
		newVersionCommand(),
	)
	cmd.SetHelpCommand(newHelpCommand())
	cmd.InitDefaultHelpCmd()
	strict(cmd)
	return cmd
}

// addCompletion adds cobra's "completion", which keeps the writer that cmd has by then, under the same rules as the rest.
func addCompletion(cmd *cobra.Command) {
	cmd.InitDefaultCompletionCmd()
	for _, c := range cmd.Commands() {
		if c.Name() == "completion" {
			strict(c)
		}
	}
}

// newHelpCommand is cobra's, but that a wrong topic is a usage error.
func newHelpCommand() *cobra.Command {
	return &cobra.Command{
		Use: "help [COMMAND]", Short: "help about any command",
		RunE: func(cmd *cobra.Command, args []string) error {
			topic, rest, err := cmd.Root().Find(args)
			if err != nil || topic == nil || topic == cmd.Root() && len(rest) > 0 {
				return usage(cmd.Root(), "no help on %q", strings.Join(args, " "))
			}
			topic.InitDefaultHelpFlag()
			return topic.Help()
		},
	}
}

func newVersionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "print this program's version", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintln(cmd.OutOrStdout(), "charon version "+version)
			return err
		},
	}
}

// strict makes a noun without a verb show its help, and a wrong verb or number of arguments a usage error.
func strict(cmd *cobra.Command) {
	for _, c := range cmd.Commands() {
		strict(c)
	}
	if cmd.HasSubCommands() && cmd.RunE == nil && cmd.Run == nil {
		cmd.RunE = func(c *cobra.Command, args []string) error {
			if len(args) == 0 {
				return c.Help()
			}
			return usage(c, "unknown command %q", args[0])
		}
		cmd.Args = cobra.ArbitraryArgs
		return
	}
	if run := cmd.RunE; run != nil {
		cmd.RunE = func(c *cobra.Command, args []string) error {
			if err := run(c, args); err != nil {
				return &ranError{err}
			}
			return nil
		}
	}
	check := cmd.Args
	cmd.Args = func(c *cobra.Command, args []string) error {
		if check == nil {
			return nil
		}
		if err := check(c, args); err != nil {
			return usage(c, "%v", err)
		}
		return nil
	}
}

// The exit codes of every command.
const (
	exitOK       = 0
	exitError    = 1
	exitUsage    = 2
	exitNotFound = 3
	exitConflict = 4 // something else is there, or it changed meanwhile
	exitNotDone  = 5 // no quorum or no node to talk to: nothing was done
	exitUnknown  = 6 // it may have been done: the same line with the request id it prints tells
	exitDamaged  = 7 // charon server: the data directory is damaged; to start it again as it is helps nobody
)

// codedError is an error that knows its exit code. An empty text prints nothing.
type codedError struct {
	code int
	text string
}

func (e *codedError) Error() string { return e.text }

// usage is what the user typed wrong.
func usage(c *cobra.Command, format string, args ...any) error {
	return &codedError{exitUsage, fmt.Sprintf(format, args...) + "; see: " + strings.TrimSpace(c.CommandPath()) + " --help"}
}

func coded(code int, format string, args ...any) error {
	return &codedError{code, fmt.Sprintf(format, args...)}
}

func exitCode(err error) int {
	if e, ok := errors.AsType[*codedError](err); ok {
		return e.code
	}
	if code, ok := apiExitCode(err); ok {
		return code
	}
	return exitError
}

// describe is an error in one line.
func describe(err error) string {
	text := err.Error()
	if api, ok := apiText(err); ok {
		text = api
	}
	return strings.ReplaceAll(strings.TrimSpace(text), "\n", "; ")
}

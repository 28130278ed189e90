package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// passwordMax bounds what is read as a password, in bytes.
const passwordMax = 1024

// terminal is the terminal that the command reads from, if it does.
func terminal(in io.Reader) (*os.File, bool) {
	f, ok := in.(*os.File)
	return f, ok && term.IsTerminal(int(f.Fd()))
}

// readLine reads one line without its end. At the end of input without a line it returns io.EOF.
func readLine(in io.Reader, limit int) (string, error) {
	r, ok := in.(*bufio.Reader)
	if !ok {
		r = bufio.NewReaderSize(in, 4096)
	}
	var b strings.Builder
	for {
		c, err := r.ReadByte()
		if errors.Is(err, io.EOF) && b.Len() > 0 || c == '\n' && err == nil {
			return strings.TrimSuffix(b.String(), "\r"), nil
		}
		if err != nil {
			return "", err
		}
		if b.Len() == limit {
			return "", fmt.Errorf("a line of more than %d bytes", limit)
		}
		b.WriteByte(c)
	}
}

// passwordFromStdin reads the first line of standard input.
func passwordFromStdin(cmd *cobra.Command) (string, error) {
	p, err := readLine(cmd.InOrStdin(), passwordMax)
	if errors.Is(err, io.EOF) {
		return "", errors.New("no password on standard input")
	}
	return p, err
}

// askPassword asks on the terminal. Without one it fails and says what else there is.
func askPassword(cmd *cobra.Command, prompt, instead string) (string, error) {
	f, ok := terminal(cmd.InOrStdin())
	if !ok {
		return "", usage(cmd, "standard input is no terminal to ask for a password at; give %s", instead)
	}
	fmt.Fprint(cmd.ErrOrStderr(), prompt)
	b, err := term.ReadPassword(int(f.Fd()))
	fmt.Fprintln(cmd.ErrOrStderr())
	if err != nil {
		return "", fmt.Errorf("reading the password: %w", err)
	}
	return string(b), nil
}

// askNewPassword asks twice.
func askNewPassword(cmd *cobra.Command, prompt, again, instead string) (string, error) {
	p, err := askPassword(cmd, prompt, instead)
	if err != nil {
		return "", err
	}
	q, err := askPassword(cmd, again, instead)
	if err != nil {
		return "", err
	}
	if p != q {
		return "", errors.New("the two passwords differ; nothing was done")
	}
	return p, nil
}

// confirm asks for yes on a terminal; elsewhere it takes force for the answer.
func confirm(cmd *cobra.Command, force bool, question string) error {
	if force {
		return nil
	}
	if _, ok := terminal(cmd.InOrStdin()); !ok {
		return usage(cmd, "this asks for confirmation, and standard input is no terminal; give --force")
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "%s (yes/no): ", question)
	a, err := readLine(cmd.InOrStdin(), 16)
	if err != nil {
		return err
	}
	if a != "yes" {
		return coded(exitError, "not confirmed; nothing was done")
	}
	return nil
}

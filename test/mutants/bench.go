package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"

	"github.com/charon-kdc/charon/internal/mutant"
)

const module = "github.com/charon-kdc/charon/"

// bench has the test binaries, each built once.
type bench struct {
	dir string
	// sound by finder: nil when it found nothing where there was nothing.
	sound map[string]error
}

// hunt tries the finders of a name in order and returns the one that found it, with its time; and what the others did.
func (b *bench) hunt(n mutant.Name) (found string, notes []string) {
	match := regexp.MustCompile(*by)
	for _, f := range table[n] {
		if !match.MatchString(f.by) {
			continue
		}
		if err := b.trust(f); err != nil {
			notes = append(notes, fmt.Sprintf("not asked: %v: %v", f, err))
			continue
		}
		begun := time.Now()
		what, err := b.run(f, n)
		took := time.Since(begun).Round(time.Second)
		switch {
		case err != nil:
			notes = append(notes, fmt.Sprintf("%v: %v", f, err))
		case what == "":
			notes = append(notes, fmt.Sprintf("not by %v (%v)", f, took))
		default:
			return fmt.Sprintf("%v (%v)", f, took), append(notes, what)
		}
	}
	return "", notes
}

// trust builds a finder's binary and, with -control, runs it without a bug: one that fails then proves nothing.
func (b *bench) trust(f finder) error {
	key := f.String()
	if err, known := b.sound[key]; known {
		return err
	}
	err := b.build(f)
	if err == nil && *control {
		var what string
		if what, err = b.run(f, ""); err == nil && what != "" {
			err = fmt.Errorf("it fails without a bug: %s", what)
		}
	}
	b.sound[key] = err
	return err
}

func (b *bench) build(f finder) error {
	out := filepath.Join(b.dir, f.binary())
	if _, err := os.Stat(out); err == nil {
		return nil
	}
	argv := []string{"test", "-c", "-o", out}
	if !f.apart {
		argv = append(argv, "-tags", "charon_mutants")
	}
	if text, err := exec.Command("go", append(argv, module+f.pkg)...).CombinedOutput(); err != nil {
		return fmt.Errorf("building: %w: %s", err, bytes.TrimSpace(text))
	}
	return nil
}

// run runs a finder with a bug planted, none for "", and returns the first line in which it says what is wrong; empty: nothing. An error says
// that the run itself failed, which proves nothing.
func (b *bench) run(f finder, n mutant.Name) (string, error) {
	pkg, err := exec.Command("go", "list", "-f", "{{.Dir}}", module+f.pkg).Output()
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(context.Background(), f.limit)
	defer cancel()
	argv := append([]string{"-test.v"}, f.args...)
	switch f.by {
	case "sim":
		argv = append(argv, "-seed", fmt.Sprint(*seed))
	case "chaos":
		argv = append(argv, "-chaos.seed", fmt.Sprint(*seed), "-chaos.tags", "charon_mutants")
	}
	cmd := exec.CommandContext(ctx, filepath.Join(b.dir, f.binary()), argv...)
	cmd.Dir = strings.TrimSpace(string(pkg))
	cmd.Env = append(os.Environ(), "CHARON_MUTANT="+n.Short())
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGQUIT) } // with stacks
	cmd.WaitDelay = 10 * time.Second
	text, err := cmd.CombinedOutput()
	b.save(f, n, text)
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return "", fmt.Errorf("not done within %v", f.limit)
	case err == nil && bytes.Contains(text, []byte("no tests to run")):
		return "", errors.New("there is no such test")
	case err == nil:
		return "", nil
	case !errors.As(err, &exit):
		return "", err
	}
	return complaint(string(text)), nil
}

func (b *bench) save(f finder, n mutant.Name, text []byte) {
	if *keep == "" {
		return
	}
	name := n.Short()
	if n == "" {
		name = "control"
	}
	if err := os.MkdirAll(*keep, 0o755); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	if err := os.WriteFile(filepath.Join(*keep, name+"-"+f.binary()+".txt"), text, 0o644); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
}

var (
	// errorLine is what the testing package makes of any output of a test, or a panic.
	errorLine = regexp.MustCompile(`^(\s+\w+_test\.go:\d+: |panic: |fatal error: )`)
	// progress are the lines of it that only tell how the run goes.
	progress = regexp.MustCompile(`: (seed |to run again|map\[|\s*\d+  |\d+ faults|admin calls|mended to|---|\d\d:\d\d:|n\d: \d+ files|\d+ authenticators|(exchange|kinit and kvno) under)`)
)

// complaint is the first line that says what a failed run found.
func complaint(text string) string {
	for line := range strings.Lines(text) {
		if errorLine.MatchString(line) && !progress.MatchString(line) || strings.Contains(line, "VIOLATION") {
			return clip(line)
		}
	}
	return "it failed"
}

func clip(line string) string {
	line = strings.TrimSpace(line)
	return line[:min(len(line), 200)]
}

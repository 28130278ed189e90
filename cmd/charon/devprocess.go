package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/charon-kdc/charon/node"
)

// endLimit is a little more than a node's own budget for its end; after it the node is killed.
const endLimit = 13 * time.Second

// processes are the nodes that this process started.
type processes struct {
	detach   bool
	level    uint32 // that the nodes are held back to; 0: none
	children []*exec.Cmd
	done     []chan struct{}
}

// newProcesses prepares to start nodes: on their own, or so that they end with this process however it ends.
func newProcesses(detach bool) *processes {
	if !detach {
		// The kernel signals children when the thread that started them ends: keep to one.
		runtime.LockOSThread()
	}
	return &processes{detach: detach}
}

// start runs charon server for one node, its log in the node's directory.
func (p *processes) start(n *devNode) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	log, err := os.OpenFile(filepath.Join(n.Dir, "charon.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	args := []string{"server", "--config", filepath.Join(n.Dir, "charon.toml")}
	if p.level != 0 {
		args = append(args, "--"+holdFlag, fmt.Sprint(p.level))
	}
	c := exec.Command(self, args...)
	c.Stdout, c.Stderr = log, log
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if p.detach {
		c.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	} else {
		c.SysProcAttr.Pdeathsig = syscall.SIGKILL
	}
	if err := c.Start(); err != nil {
		return fmt.Errorf("starting %s: %w", n.Name, err)
	}
	n.PID = c.Process.Pid
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = c.Wait() // how a node ended is in its log
	}()
	p.children, p.done = append(p.children, c), append(p.done, done)
	return nil
}

// stopAll ends the nodes of a realm that did not come up.
func (p *processes) stopAll() error {
	for _, c := range p.children {
		if err := c.Process.Signal(syscall.SIGKILL); err != nil && !errors.Is(err, os.ErrProcessDone) {
			return err
		}
	}
	p.wait()
	return nil
}

func (p *processes) wait() {
	for _, d := range p.done {
		<-d
	}
}

// process is one that runs a node. Its start tells it from another that has its id later.
type process struct {
	node  string
	pid   int
	start string
}

// processes are those that run the node: the one that works on its directory, and any that were started with its configuration, which may not
// have come to the directory yet or have let go of it.
func (n *devNode) processes() ([]process, error) {
	pids := map[int]bool{}
	if pid, running := node.RunningPID(n.Dir); running {
		pids[pid] = true
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("looking for %s: %w", n.Name, err)
	}
	config := filepath.Join(n.Dir, "charon.toml")
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err == nil && serves(pid, config) {
			pids[pid] = true
		}
	}
	var out []process
	for pid := range pids {
		if start, ok := started(pid); ok {
			out = append(out, process{n.Name, pid, start})
		}
	}
	return out, nil
}

// serves tells whether a process is a charon server with that configuration.
func serves(pid int, config string) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return false
	}
	args := strings.Split(strings.TrimSuffix(string(b), "\x00"), "\x00")
	return len(args) > 2 && args[1] == "server" && (slices.Contains(args[2:], config) || slices.Contains(args[2:], "--config="+config))
}

// endAll ends processes: asked first, killed after limit. It returns when all are gone.
func endAll(ctx context.Context, running []process, limit time.Duration) error {
	var errs []error
	signal := func(s syscall.Signal) {
		for _, p := range running {
			if err := p.signal(s); err != nil {
				errs = append(errs, err)
			}
		}
	}
	signal(syscall.SIGTERM)
	if allGone(ctx, running, limit) {
		return errors.Join(errs...)
	}
	if ctx.Err() != nil {
		return errors.Join(append(errs, ctx.Err())...)
	}
	signal(syscall.SIGKILL)
	if !allGone(ctx, running, limit) {
		for _, p := range running {
			if p.alive() {
				errs = append(errs, fmt.Errorf("node %s (process %d) does not end", p.node, p.pid))
			}
		}
	}
	return errors.Join(errs...)
}

// allGone waits until none is alive, at most for limit.
func allGone(ctx context.Context, running []process, limit time.Duration) bool {
	for deadline := time.Now().Add(limit); slices.ContainsFunc(running, process.alive); {
		if time.Now().After(deadline) {
			return false
		}
		select {
		case <-ctx.Done():
			return false
		case <-time.After(10 * time.Millisecond):
		}
	}
	return true
}

func (p process) signal(s syscall.Signal) error {
	if !p.alive() {
		return nil
	}
	if err := syscall.Kill(p.pid, s); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("ending node %s: %w", p.node, err)
	}
	return nil
}

func (p process) alive() bool {
	start, ok := started(p.pid)
	return ok && start == p.start
}

// started is when a process began, in ticks since the machine did. False: it has ended; one whose parent has not asked for its end yet
// counts as ended.
func started(pid int) (ticks string, running bool) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", false
	}
	// After the name in brackets, which may hold anything: state is field 3, the start field 22 (proc_pid_stat(5)).
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(f) < 20 || f[0] == "Z" || f[0] == "X" {
		return "", false
	}
	return f[19], true
}

// alive tells whether a process is there and no zombie.
func alive(pid int) bool {
	_, ok := started(pid)
	return ok
}

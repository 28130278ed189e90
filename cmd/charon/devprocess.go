package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"github.com/charon-kdc/charon/node"
)

// endLimit is a little more than a node's own budget for its end; after it the node is killed.
const endLimit = 13 * time.Second

// processes are the nodes that this process started.
type processes struct {
	detach   bool
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
	c := exec.Command(self, "server", "--config", filepath.Join(n.Dir, "charon.toml"))
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

// awaitEnd waits until a node has ended, and kills it when it takes too long.
func awaitEnd(ctx context.Context, n *devNode) error {
	deadline := time.Now().Add(endLimit)
	killed := false
	for {
		pid, running := node.RunningPID(n.Dir)
		if !running {
			return nil
		}
		if time.Now().After(deadline) {
			if killed {
				return fmt.Errorf("node %s (process %d) does not end", n.Name, pid)
			}
			killed, deadline = true, time.Now().Add(endLimit)
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
				return fmt.Errorf("ending node %s: %w", n.Name, err)
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// alive tells whether a process is there and no zombie of ours.
func alive(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	for i := len(b) - 1; i >= 0; i-- {
		if b[i] == ')' {
			return i+2 < len(b) && b[i+2] != 'Z'
		}
	}
	return false
}

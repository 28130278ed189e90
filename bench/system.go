package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Names of what can be measured.
const (
	charonOne   = "charon-1"
	charonThree = "charon-3"
	mitDebian   = "krb5kdc"
	mitNoPAC    = "krb5kdc-nopac"
)

var systemNames = []string{charonOne, charonThree, mitDebian, mitNoPAC}

const (
	realm   = "BENCH.TEST"
	service = "HTTP/bench.test"
	// patience is how long a system may take to be ready.
	patience = 90 * time.Second
)

// system is a realm that can be started again and again with the same principals.
type system interface {
	name() string
	start(ctx context.Context) error
	stop() error
	// kdcs, pids and metrics (addresses of Prometheus pages, none for others' KDCs) are those of the running system.
	kdcs() []string
	pids() []int
	metrics() []string
	// keytab holds the keys of all users.
	keytab() string
}

// bench is one run.
type bench struct {
	o        *options
	dir      string
	progress io.Writer
	pin      pinning
	systems  []system
}

func (b *bench) make(ctx context.Context, name string) (system, error) {
	dir := filepath.Join(b.dir, name)
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, err
	}
	switch name {
	case charonOne:
		return makeCharon(ctx, b.o, b.pin, name, dir, 1)
	case charonThree:
		return makeCharon(ctx, b.o, b.pin, name, dir, 3)
	}
	return makeMIT(ctx, b.o, b.pin, name, dir, name == mitNoPAC)
}

// pinning keeps servers and load apart: krb5kdc is one thread, so what it shares its processor with would count against it.
type pinning struct {
	server, load []string // command prefixes; empty: not pinned
	Server, Load string   // processors, for the report
}

// newPinning gives the load the last processor that this process may use, and the servers the others.
func newPinning(progress io.Writer) pinning {
	var set unix.CPUSet
	tool, err := exec.LookPath("taskset")
	if err == nil {
		err = unix.SchedGetaffinity(0, &set)
	}
	var cpus []string
	for i := 0; i < 8*len(set)*8 && len(cpus) < set.Count(); i++ {
		if set.IsSet(i) {
			cpus = append(cpus, strconv.Itoa(i))
		}
	}
	if err != nil || len(cpus) < 2 {
		fmt.Fprintln(progress, "servers and load share their processors: there are not two, or no taskset")
		return pinning{Server: "all", Load: "all"}
	}
	p := pinning{Server: strings.Join(cpus[:len(cpus)-1], ","), Load: cpus[len(cpus)-1]}
	p.server, p.load = []string{tool, "-c", p.Server}, []string{tool, "-c", p.Load}
	return p
}

// process is a server that this program started.
type process struct {
	cmd    *exec.Cmd
	exited chan struct{}
	err    error // after exited
	log    string
}

// spawn starts argv with its output appended to a file.
func spawn(log string, env []string, argv ...string) (*process, error) {
	f, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	p := &process{cmd: exec.Command(argv[0], argv[1:]...), exited: make(chan struct{}), log: log}
	p.cmd.Stdout, p.cmd.Stderr = f, f
	p.cmd.Env = append(os.Environ(), env...)
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.exited)
	}()
	return p, nil
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// end asks the process to stop, and kills it after 20 s.
func (p *process) end() error {
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may be gone
	select {
	case <-p.exited:
		return nil
	case <-time.After(20 * time.Second):
		p.kill()
		return fmt.Errorf("process %d (log %s) did not stop within 20 s", p.pid(), p.log)
	}
}

// kill is kill -9, and waits until the process is gone.
func (p *process) kill() {
	_ = p.cmd.Process.Kill() // it may be gone
	<-p.exited
}

// tail is the end of the process's log.
func (p *process) tail() string {
	text, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-2000):])
}

// waitFor polls ok until it is true; it gives up when a process ends, or after patience.
func waitFor(ctx context.Context, what string, ps []*process, ok func() bool) error {
	for end := time.Now().Add(patience); ; {
		if ok() {
			return nil
		}
		for _, p := range ps {
			select {
			case <-p.exited:
				return fmt.Errorf("process %d ended (%v) before %s:\n%s", p.pid(), p.err, what, p.tail())
			default:
			}
		}
		if time.Now().After(end) {
			return fmt.Errorf("waited %v for %s", patience, what)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// output runs a command to its end.
func output(ctx context.Context, env []string, argv ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.Output()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return out, fmt.Errorf("%s: %w\n%s", strings.Join(argv, " "), err, exit.Stderr)
	}
	return out, err
}

// freePort is a loopback port that was free for UDP and TCP a moment ago.
func freePort() (int, error) {
	for range 100 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return 0, err
		}
		port := l.Addr().(*net.TCPAddr).Port
		u, err := net.ListenPacket("udp", l.Addr().String())
		l.Close()
		if err == nil {
			u.Close()
			return port, nil
		}
	}
	return 0, errors.New("no port is free for UDP and TCP")
}

package main

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// pretend is a node that does not hold its directory, as one does when it has only just begun or is about to end. It ends a while
// after it is asked to, or never.
func pretend(ends bool) {
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, syscall.SIGTERM)
	fmt.Println("up")
	<-asked
	if ends {
		time.Sleep(300 * time.Millisecond)
		os.Exit(0)
	}
	select {}
}

// pretended starts such a node. It is no child that anybody waits for until the test ends: as a zombie it counts as gone.
func pretended(t *testing.T, kind string, args ...string) int {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := exec.Command(self, append([]string{"server"}, args...)...)
	c.Env = append(os.Environ(), "CHARON_TEST_MAIN="+kind)
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = c.Process.Kill()
		_ = c.Wait()
	})
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatalf("%q, %v", line, err)
	}
	return c.Process.Pid
}

func TestDevStopReturnsWhenTheProcessesAreGone(t *testing.T) {
	d := &devRealm{Dir: t.TempDir()}
	for i := range 2 {
		n := devNode{Name: fmt.Sprintf("n%d", i+1), Dir: filepath.Join(d.Dir, fmt.Sprintf("n%d", i+1))}
		if err := os.Mkdir(n.Dir, 0o700); err != nil {
			t.Fatal(err)
		}
		d.Nodes = append(d.Nodes, n)
	}
	config := func(i int) string { return filepath.Join(d.Nodes[i].Dir, "charon.toml") }
	one := pretended(t, "slow", "--config", config(0))
	two := pretended(t, "slow", "--config="+config(1))
	other := pretended(t, "slow", "--config", filepath.Join(t.TempDir(), "charon.toml"))
	if err := d.stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, pid := range []int{one, two} {
		if alive(pid) {
			t.Errorf("process %d is there after the stop", pid)
		}
	}
	if !alive(other) {
		t.Error("another realm's node was ended, too")
	}
	if err := d.stop(t.Context()); err != nil {
		t.Errorf("stop of a stopped realm: %v", err)
	}
}

func TestDevStopKillsWhatDoesNotEnd(t *testing.T) {
	n := &devNode{Name: "n1", Dir: t.TempDir()}
	pid := pretended(t, "stubborn", "--config", filepath.Join(n.Dir, "charon.toml"))
	running, err := n.processes()
	if err != nil || len(running) != 1 || running[0].pid != pid {
		t.Fatalf("%v, %v", running, err)
	}
	if err := endAll(t.Context(), running, 200*time.Millisecond); err != nil {
		t.Error(err)
	}
	if alive(pid) {
		t.Error("it lives on")
	}
	// The same id at another time is another process: it is neither waited for nor signalled.
	self := process{node: "n1", pid: os.Getpid(), start: "0"}
	if self.alive() || self.signal(syscall.SIGKILL) != nil {
		t.Error("a later process was taken for the node")
	}
}

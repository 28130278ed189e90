// Package disk is one machine's disk in a simulation: the logs of a node's groups in memory, and its files in a directory, of which
// only what was flushed outlives a power cut.
//
// It owns what a disk may do: lose what was not flushed, tear what was being written, stall, fail, and be put back as it was long ago. It must
// not know what is written, but for the form of a vote. All decisions come from a seeded source and from faults that are armed.
package disk

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// Op is a kind of stable write.
type Op int

// The stable writes of a node.
const (
	Any      Op = iota
	Append      // entries to a log
	Vote        // term, or term and candidate
	Truncate    // of a log, head or suffix
	Commit      // a transaction of the realm state
	Flush       // of a small file, a directory or an installed state
)

func (o Op) String() string {
	return [...]string{"any", "append", "vote", "truncate", "commit", "flush"}[o]
}

// Phase is when in a write the machine stops.
type Phase int

// The phases of a write.
const (
	Before Phase = iota
	During
	After
)

func (p Phase) String() string { return [...]string{"before", "during", "after"}[p] }

// Fault happens to the nth write of its kind from now.
type Fault struct {
	Op    Op
	N     int
	Phase Phase
	// Power: what was not flushed is lost; else only the process ends.
	Power bool
	// Err, when not nil, is what the write says instead, and nothing is written.
	Err error
}

// Disk is a machine's disk under one process. It is safe for concurrent use; mu is never held across a wait.
type Disk struct {
	root string // holds a directory for each process that ran
	n    int

	mu      sync.Mutex
	rand    *rand.Rand
	logs    map[string]*Log
	files   files
	armed   *Fault
	slow    func() time.Duration
	dead    bool
	next    *Disk
	fired   func(Fault)
	stopped func(power bool)
	gone    chan struct{} // closed when dead
	counts  map[Op]int
	problem error
}

// New is a machine with an empty disk.
func New(root string, seed uint64) (*Disk, error) {
	d := &Disk{root: root, rand: rand.New(rand.NewPCG(seed, 2)), logs: map[string]*Log{}, files: newFiles(), gone: make(chan struct{})}
	return d, os.MkdirAll(d.Dir(), 0o700)
}

// Dir is where the process finds its files.
func (d *Disk) Dir() string { return filepath.Join(d.root, fmt.Sprintf("g%d", d.n)) }

// Start takes what is in Dir for durable. fired is called, in a goroutine of its own, when an armed fault has happened; stopped in the moment in
// which the process ends, so that nothing it does later gets out.
func (d *Disk) Start(fired func(Fault), stopped func(power bool)) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fired, d.stopped, d.counts = fired, stopped, map[Op]int{}
	return d.files.settle(d.Dir())
}

// Arm replaces the armed fault.
func (d *Disk) Arm(f Fault) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.armed = &f
}

// Slow has every write but a Flush take as long as f says, which is called by one goroutine at a time; nil: no time.
func (d *Disk) Slow(f func() time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.slow = f
}

// Counts of the stable writes since Start.
func (d *Disk) Counts() map[Op]int {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := map[Op]int{}
	for k, v := range d.counts {
		out[k] = v
	}
	return out
}

// Dead tells whether the process has ended. What it still writes changes nothing.
func (d *Disk) Dead() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.dead
}

// Stop ends the process; power: and cuts the power. Once it has ended, another call does nothing.
func (d *Disk) Stop(power bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.stop(power)
}

func (d *Disk) stop(power bool) {
	if d.dead {
		return
	}
	d.dead = true
	close(d.gone)
	if d.stopped != nil {
		d.stopped(power)
	}
	d.next, d.problem = d.image(power, d.n+1)
}

// Next is the disk as the next process finds it, once this one has ended.
func (d *Disk) Next() (*Disk, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.dead {
		return nil, errors.New("the process still runs")
	}
	return d.next, d.problem
}

// Copy is the disk as an operator copies it, from a machine that has been stopped or from one that runs: what the process sees now.
func (d *Disk) Copy(root string) (*Disk, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.dead && d.next != nil {
		next := d.next
		next.mu.Lock()
		defer next.mu.Unlock()
		return next.copyTo(root)
	}
	return d.copyTo(root)
}

func (d *Disk) copyTo(root string) (*Disk, error) {
	c := &Disk{root: root, rand: d.rand, logs: map[string]*Log{}, files: newFiles(), gone: make(chan struct{})}
	for k, l := range d.logs {
		c.logs[k] = l.clone(c, false)
	}
	return c, copyTree(d.Dir(), c.Dir())
}

// image is the disk after the end of this process.
func (d *Disk) image(power bool, n int) (*Disk, error) {
	out := &Disk{root: d.root, n: n, rand: d.rand, logs: map[string]*Log{}, files: newFiles(), gone: make(chan struct{})}
	for k, l := range d.logs {
		out.logs[k] = l.clone(out, power)
	}
	if !power {
		return out, copyTree(d.Dir(), out.Dir())
	}
	return out, d.files.compose(d.Dir(), out.Dir(), d.rand)
}

// Drop removes the files of the processes that ran before this one.
func (d *Disk) Drop() {
	for i := range d.n {
		_ = os.RemoveAll(filepath.Join(d.root, fmt.Sprintf("g%d", i)))
	}
}

// wait makes a write slow.
func (d *Disk) wait() {
	d.mu.Lock()
	var t time.Duration
	if d.slow != nil && !d.dead {
		t = d.slow()
	}
	d.mu.Unlock()
	if t <= 0 {
		return
	}
	timer := time.NewTimer(t)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-d.gone:
	}
}

// write runs one stable write with the faults that are armed. do changes what the process sees; half, which may be nil, is the power cut in
// the middle of it. mu is held while they run.
func (d *Disk) write(op Op, do func() error, half func() error) error {
	if op != Flush { // which the product does under locks: time would stand still for who waits for one
		d.wait()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.dead {
		return do()
	}
	d.counts[op]++
	f := d.due(op)
	switch {
	case f == nil:
		return do()
	case f.Err != nil:
		go d.fired(*f)
		return f.Err
	}
	go d.fired(*f)
	switch {
	case f.Phase == Before, f.Phase == During && half == nil && d.rand.IntN(2) == 0:
		d.stop(f.Power)
		return do()
	case f.Phase == During && half != nil && f.Power:
		return half()
	default:
		err := do()
		d.stop(f.Power)
		return err
	}
}

// due is the armed fault if this write is the one.
func (d *Disk) due(op Op) *Fault {
	f := d.armed
	if f == nil || f.Op != Any && f.Op != op {
		return nil
	}
	if f.N--; f.N > 0 {
		return nil
	}
	d.armed = nil
	return f
}

// What a disk says.
var (
	EIO    error = syscall.EIO
	ENOSPC error = syscall.ENOSPC
)

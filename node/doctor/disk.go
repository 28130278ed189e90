package doctor

import (
	"fmt"
	"time"
)

// Disk is one file system that a node writes to.
type Disk struct {
	What        string // "data", "audit"
	Path        string
	Free, Total uint64 // bytes
	Inodes      uint64 // free; 0 of 0 where the file system has none
	InodesTotal uint64
	ReadOnly    bool
}

// Log is one group's log.
type Log struct {
	Group string
	// P99 of the durable writes of the last minutes, and the longest; zero: there were none.
	P99, Longest time.Duration
	// Reach is the age of the oldest entry; zero: unknown.
	Reach time.Duration
	// Install is what the last snapshot took that was sent to this node since its start; zero: none was.
	Install time.Duration
}

const (
	diskFailBytes = 256 << 20 // a state file's page or a log's entry needs some of it
	diskWarnBytes = 2 << 30
	diskWarnPart  = 10 // a tenth
	inodesLeast   = 1000
	// A follower's disk is in the way of every verdict only when a majority's is; a leader that needs a second hands over.
	latencyWarn = 50 * time.Millisecond
	latencyFail = time.Second
)

func diskSpace(f *NodeFacts) (out []Finding) {
	for _, d := range f.Disks {
		free := size(d.Free)
		switch {
		case d.ReadOnly:
			out = append(out, fail("find out why (dmesg), mend it, mount it read-write and start the node", "%s: the file system of %s is read-only", nameOf(f), d.Path)...)
		case d.Total > 0 && d.Free < diskFailBytes, d.InodesTotal > 0 && d.Inodes < inodesLeast/10:
			out = append(out, fail("make room on it now: a node that can't write stops", "%s: %s (%d inodes) left for %s", nameOf(f), free, d.Inodes, d.Path)...)
		case d.Total > 0 && d.Free < diskWarnBytes && d.Free < d.Total/diskWarnPart, d.InodesTotal > 0 && d.Inodes < inodesLeast:
			out = append(out, warn("make room on it, or rotate the audit log more often", "%s: %s (%d inodes) left for %s", nameOf(f), free, d.Inodes, d.Path)...)
		default:
			out = append(out, good("%s: %s left for %s", nameOf(f), free, d.Path)...)
		}
	}
	return out
}

func diskLatency(f *NodeFacts) (out []Finding) {
	for _, l := range f.Logs {
		const fix = "a disk whose flushes are quick and honest, and nothing else on it; docs/doctor.md, disk.latency"
		switch {
		case l.P99 == 0:
		case l.P99 >= latencyFail || l.Longest >= 5*latencyFail:
			out = append(out, fail(fix, "%s: writes to the %s log take %s (p99), up to %s", nameOf(f), l.Group, span(l.P99), span(l.Longest))...)
		case l.P99 >= latencyWarn || l.Longest >= latencyFail:
			out = append(out, warn(fix, "%s: writes to the %s log take %s (p99), up to %s", nameOf(f), l.Group, span(l.P99), span(l.Longest))...)
		default:
			out = append(out, good("%s: writes to the %s log take %s (p99)", nameOf(f), l.Group, span(l.P99))...)
		}
	}
	return out
}

// logReach warns before a follower loops: one that takes longer to install a snapshot than the log reaches back needs the next one at once.
func logReach(f *NodeFacts) (out []Finding) {
	for _, l := range f.Logs {
		switch {
		case l.Reach == 0 || l.Install == 0:
		case 2*l.Install > l.Reach:
			out = append(out, warn("a faster way between the nodes, or a longer log: docs/doctor.md, log.reach",
				"%s: the last snapshot of the %s group took %s, and the log reaches back %s only", nameOf(f), l.Group, span(l.Install), span(l.Reach))...)
		default:
			out = append(out, good("%s: the %s log reaches back %s; the last snapshot took %s", nameOf(f), l.Group, span(l.Reach), span(l.Install))...)
		}
	}
	return out
}

func size(n uint64) string {
	switch {
	case n >= 1<<40:
		return fmt.Sprintf("%.1f TB", float64(n)/(1<<40))
	case n >= 1<<30:
		return fmt.Sprintf("%.1f GB", float64(n)/(1<<30))
	}
	return fmt.Sprintf("%d MB", n>>20)
}

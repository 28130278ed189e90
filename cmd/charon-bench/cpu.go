package main

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"syscall"
	"time"
)

// clockTick is Linux's USER_HZ: /proc counts in hundredths of a second on every architecture that Go runs on.
const clockTick = 10 * time.Millisecond

// cpuTime is processor time spent, user and system.
type cpuTime struct {
	server time.Duration // of the KDC's processes
	load   time.Duration // of this one
}

func (c cpuTime) sub(o cpuTime) cpuTime { return cpuTime{c.server - o.server, c.load - o.load} }

func readCPU(pids []int) (c cpuTime, err error) {
	for _, pid := range pids {
		d, err := processCPU(pid)
		if err != nil {
			return c, fmt.Errorf("reading the CPU time of process %d: %w", pid, err)
		}
		c.server += d
	}
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		return c, fmt.Errorf("reading this process's CPU time: %w", err)
	}
	c.load = time.Duration(r.Utime.Nano() + r.Stime.Nano())
	return c, nil
}

// processCPU is utime and stime of /proc/PID/stat: fields 14 and 15, counted from behind the name, which may hold anything.
func processCPU(pid int) (time.Duration, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	fields := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	if len(fields) < 13 {
		return 0, fmt.Errorf("%d fields behind the name", len(fields))
	}
	var total time.Duration
	for _, f := range fields[11:13] {
		n, err := strconv.ParseInt(string(f), 10, 64)
		if err != nil {
			return 0, err
		}
		total += time.Duration(n) * clockTick
	}
	return total, nil
}

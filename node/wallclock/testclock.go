//go:build charon_testclock

// Package wallclock is the one place where a server asks for the time of day. In this build, for tests, the time is put off by
// what a file says.
package wallclock

import (
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// FileVariable names the environment variable that holds the file's path. The file has one duration in Go's notation, "-8760h"; it may be
// replaced at any time, and counts rereadEvery later at the latest. No variable, no file, and what can't be read: the last offset that
// could, at first none. %p in the path stands for the process's id, so that processes with one environment have a clock each.
const FileVariable = "CHARON_TESTCLOCK"

const rereadEvery = 20 * time.Millisecond

var (
	path   = strings.ReplaceAll(os.Getenv(FileVariable), "%p", strconv.Itoa(os.Getpid()))
	begun  = time.Now()
	offset atomic.Int64 // ns
	readAt atomic.Int64 // ns since begun; 0: never
)

// Now is the time of day, put off. It has no monotonic reading: what takes it for a stopwatch is to be found out.
func Now() time.Time {
	now := time.Now()
	if path == "" {
		return now.Round(0)
	}
	since, last := int64(now.Sub(begun))+1, readAt.Load()
	if (last == 0 || since-last >= int64(rereadEvery)) && readAt.CompareAndSwap(last, since) {
		reread()
	}
	return now.Round(0).Add(time.Duration(offset.Load()))
}

func reread() {
	b, err := os.ReadFile(path)
	if err != nil {
		return
	}
	if d, err := time.ParseDuration(strings.TrimSpace(string(b))); err == nil {
		offset.Store(int64(d))
	}
}

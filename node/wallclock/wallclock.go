//go:build !charon_testclock

// Package wallclock is the one place where a server asks for the time of day.
//
// It owns the choice of the clock: the machine's, or, in a binary built with the tag charon_testclock, the machine's put off by what
// a file says, so that tests with real processes can set one node's clock without touching the machine's. Everything below node is
// handed Now. It must not know what the time is used for. What measures how long something takes asks time.Now instead, whose
// monotonic reading no step of the clock moves; node's layout test tells the two apart.
package wallclock

import "time"

// Now is the time of day.
func Now() time.Time { return time.Now() }

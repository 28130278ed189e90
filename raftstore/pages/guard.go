package pages

import (
	"context"
	"fmt"
	"runtime"
	"runtime/debug"
	"time"
)

// Guard runs f and makes an error that wraps ErrDamaged of what reading a damaged or truncated map does: a memory fault (SIGSEGV, SIGBUS),
// an index out of range, a failed assertion of bbolt. Use it around what reads a file through bbolt and nothing else.
func Guard(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		r := recover()
		if r == nil {
			return
		}
		where := "?"
		if _, file, line, ok := runtime.Caller(3); ok {
			where = fmt.Sprintf("%s:%d", file, line)
		}
		err = fmt.Errorf("%w: %v (%s)", ErrDamaged, r, where)
	}()
	return f()
}

// Paced is an Options.Pace that lets bytesPerSecond pass, until ctx ends. For one walk.
func Paced(ctx context.Context, bytesPerSecond int) func(int) error {
	begun, read := time.Now(), int64(0)
	return func(n int) error {
		read += int64(n)
		due := time.Duration(float64(read) / float64(bytesPerSecond) * float64(time.Second))
		if early := due - time.Since(begun); early > 10*time.Millisecond {
			t := time.NewTimer(early)
			defer t.Stop()
			select {
			case <-ctx.Done():
			case <-t.C:
			}
		}
		return ctx.Err()
	}
}

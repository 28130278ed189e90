package pages

import (
	"fmt"
	"runtime"
	"runtime/debug"
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

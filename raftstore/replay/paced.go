package replay

import (
	"io"
	"time"
)

// PaceDefault is the pace of a snapshot in bytes a second: slow enough not to delay the fsyncs of the log.
const PaceDefault = 32 << 20

// syncBytes is how much may be written before it is synced, for the same reason.
const syncBytes = 8 << 20

// Paced writes to w no faster than bytesPerSecond (0: PaceDefault) and calls sync, if not nil, after each 8 MiB. The clock
// and the sleep are the caller's.
func Paced(w io.Writer, bytesPerSecond int, now func() time.Time, sleep func(time.Duration), sync func() error) io.Writer {
	if bytesPerSecond <= 0 {
		bytesPerSecond = PaceDefault
	}
	return &paced{w: w, rate: int64(bytesPerSecond), now: now, sleep: sleep, sync: sync}
}

type paced struct {
	w        io.Writer
	rate     int64
	now      func() time.Time
	sleep    func(time.Duration)
	sync     func() error
	start    time.Time
	n        int64
	unsynced int
}

func (p *paced) Write(b []byte) (int, error) {
	if p.start.IsZero() {
		p.start = p.now()
	}
	n, err := p.w.Write(b)
	if p.n, p.unsynced = p.n+int64(n), p.unsynced+n; err != nil {
		return n, err
	}
	if p.sync != nil && p.unsynced >= syncBytes {
		p.unsynced = 0
		if err := p.sync(); err != nil {
			return n, err
		}
	}
	due := time.Duration(float64(p.n) / float64(p.rate) * float64(time.Second))
	if wait := due - p.now().Sub(p.start); wait > 0 {
		p.sleep(wait)
	}
	return n, nil
}

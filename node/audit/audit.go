// Package audit writes one JSON line for every request that the KDC answered or dropped and every admin call.
//
// It owns the lines' shape, the queue between the hot path and the disk, and the count of what was lost when that queue
// was full or the disk failed: requests never wait for it. It must not know where events come from, nor keep secrets: what
// it is given holds none.
package audit

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/charon-kdc/charon/adminapi"
	"github.com/charon-kdc/charon/kdc"
	"github.com/charon-kdc/charon/kdc/krb5"
	"github.com/charon-kdc/charon/node/wallclock"
)

// Config of a Writer. One of Path and Out is required.
type Config struct {
	// Path is the file that is appended to, mode 0640, made if absent.
	Path string
	// Out is written to instead of a file.
	Out io.Writer
	// Queue is how many lines may wait, at least 1.
	Queue int
	// Node stands in every line.
	Node string
	// Logger is told when writing fails and when it works again. Nil: nobody is.
	Logger *slog.Logger
}

// Writer takes events and writes them, in order, from one goroutine.
type Writer struct {
	cfg    Config
	queue  chan any // *kdc.Event, adminapi.AuditEvent or NodeEvent
	reopen chan chan error
	stop   chan struct{}
	done   chan struct{}
	once   sync.Once
	lost   atomic.Uint64
	// thinned are left out under pressure; passed counts those that might have been.
	thinned, passed atomic.Uint64

	// Owned by the goroutine.
	file    *os.File
	out     io.Writer
	buf     []byte
	pending uint64 // lines in buf
	telling uint64 // losses that a line in buf tells of
	told    uint64 // losses that a written line has told of
	toldOut uint64 // lines left out that a line has told of
	failing bool
}

// bufBytes is how much is gathered before it is written, at most.
const bufBytes = 64 << 10

// New opens the target and starts writing.
func New(c Config) (*Writer, error) {
	if c.Queue < 1 {
		return nil, errors.New("audit: the queue must hold at least one line")
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	w := &Writer{
		cfg: c, queue: make(chan any, c.Queue), reopen: make(chan chan error),
		stop: make(chan struct{}), done: make(chan struct{}),
	}
	if err := w.open(); err != nil {
		return nil, err
	}
	go w.run()
	return w, nil
}

func (w *Writer) open() error {
	if w.cfg.Out != nil {
		w.out = w.cfg.Out
		return nil
	}
	f, err := os.OpenFile(w.cfg.Path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o640)
	if err != nil {
		return fmt.Errorf("opening the audit file: %w", err)
	}
	if w.file != nil {
		w.file.Close()
	}
	w.file, w.out = f, f
	return nil
}

// Request notes a request. It does not block; e must not be changed after.
//
// From half a queue on, of refusals of which floods are made only one in thinnedTo is kept, and the others are counted; from three quarters on none; and the last part of the
// queue is for admin calls and the node's own events. So a flood can fill neither the disk nor the place of what matters.
func (w *Writer) Request(e *kdc.Event) {
	waiting := len(w.queue)
	switch {
	case waiting >= cap(w.queue)-cap(w.queue)/reservedPart:
		w.lost.Add(1)
	case waiting >= cap(w.queue)/2 && ordinary(e) && (waiting >= cap(w.queue)*3/4 || w.passed.Add(1)%thinnedTo != 0):
		w.thinned.Add(1)
	default:
		w.put(e)
	}
}

const (
	// thinnedTo is the part of ordinary refusals that is kept under pressure; reservedPart of the queue is no request's.
	thinnedTo    = 64
	reservedPart = 16
)

// ordinary tells whether an event is of the kind that anybody can cause, as often as he likes, without having proved anything, and that says no more the hundredth time.
func ordinary(e *kdc.Event) bool {
	switch {
	case e.Replay == "repeat" || e.Replay == "local" || e.PreAuth != "":
		return false
	case e.Dropped:
		return true
	}
	switch e.Code {
	case krb5.ErrPreauthRequired, krb5.ErrCPrincipalUnknown, krb5.ErrSPrincipalUnknown, krb5.ErrEtypeNoSupp, krb5.ErrResponseTooBig, krb5.ErrSvcUnavailable:
		return true
	}
	return false
}

// Thinned is how many lines of ordinary refusals were left out under pressure so far.
func (w *Writer) Thinned() uint64 { return w.thinned.Load() }

// Admin notes an admin call. It does not block.
func (w *Writer) Admin(e adminapi.AuditEvent) { w.put(e) }

// NodeEvent is something that happened to the node itself.
type NodeEvent struct {
	Time time.Time
	// Status is its word: DEGRADED, REFUSING or HEALED for how it serves, DOUBLE_ACCEPT, JOURNAL_LOST; STATE_DIVERGED, STATE_DISPUTED or STATE_ALIKE for its state; CLOCK_OK, CLOCK_WARN, CLOCK_ALARM, CLOCK_OUT for its clock.
	Status string
	// Reason is why, in one line; for DOUBLE_ACCEPT the setting that allowed it.
	Reason string
	// Authenticator is what DOUBLE_ACCEPT is about, as in the lines of the requests that brought it; AuthenticatorTime is the time inside it.
	Authenticator     string
	AuthenticatorTime time.Time
	// Count is how many records JOURNAL_LOST is about.
	Count int
}

// Node notes an event of the node. It does not block.
func (w *Writer) Node(e NodeEvent) { w.put(e) }

func (w *Writer) put(v any) {
	select {
	case w.queue <- v:
	default:
		w.lost.Add(1)
	}
}

// Lost is how many lines were lost so far: the queue was full, or the target failed.
func (w *Writer) Lost() uint64 { return w.lost.Load() }

// Reopen opens the file again under its name, for log rotation. Nothing is lost by it. On an error the old file stays in use.
func (w *Writer) Reopen() error {
	answer := make(chan error, 1)
	select {
	case w.reopen <- answer:
		return <-answer
	case <-w.done:
		return errors.New("audit: closed")
	}
}

// Close writes what is queued, at most for the time given, and closes the target. Events that come later are lost, and counted.
func (w *Writer) Close(wait time.Duration) error {
	w.once.Do(func() { close(w.stop) })
	select {
	case <-w.done:
		return nil
	case <-time.After(wait):
		return fmt.Errorf("audit: %d lines not written in %v", len(w.queue), wait)
	}
}

func (w *Writer) run() {
	defer close(w.done)
	for {
		select {
		case v := <-w.queue:
			w.write(v)
			w.drain()
		case answer := <-w.reopen:
			w.drain()
			answer <- w.open()
		case <-w.stop:
			w.drain()
			if w.file != nil {
				w.file.Close()
			}
			return
		}
	}
}

// drain writes what is queued now: a busy server makes few large writes, an idle one writes each line at once.
func (w *Writer) drain() {
	for {
		select {
		case v := <-w.queue:
			w.write(v)
			continue
		default:
		}
		break
	}
	if n := w.lost.Load(); n > w.told {
		w.buf = appendLost(w.buf, w.cfg.Node, wallclock.Now(), n-w.told, n)
		w.telling = n
	}
	if n := w.thinned.Load(); n > w.toldOut {
		w.buf = appendThinned(w.buf, w.cfg.Node, wallclock.Now(), n-w.toldOut, n)
		w.toldOut = n
	}
	w.flush()
}

func (w *Writer) write(v any) {
	switch e := v.(type) {
	case *kdc.Event:
		w.buf = appendRequest(w.buf, w.cfg.Node, e)
	case adminapi.AuditEvent:
		w.buf = appendAdmin(w.buf, w.cfg.Node, e)
	case NodeEvent:
		w.buf = appendNode(w.buf, w.cfg.Node, e)
	}
	w.pending++
	if len(w.buf) >= bufBytes {
		w.flush()
	}
}

// flush hands the buffer to the system. What can't be written is lost and counted: a full disk must not stop logins.
func (w *Writer) flush() {
	if len(w.buf) == 0 {
		return
	}
	n, err := w.out.Write(w.buf)
	switch {
	case err != nil:
		w.lost.Add(w.pending)
		w.telling = w.told
		if !w.failing {
			w.cfg.Logger.Error("audit lines are being lost", "error", err, "lost", w.lost.Load())
		}
	case w.failing:
		w.cfg.Logger.Info("audit lines are written again", "lost", w.lost.Load())
	}
	w.failing = err != nil
	w.told, w.pending, w.buf = w.telling, 0, w.buf[:0]
	if err != nil && n > 0 {
		w.buf = append(w.buf, '\n') // the file ends in half a line
	}
}

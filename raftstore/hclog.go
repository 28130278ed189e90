package raftstore

import (
	"context"
	"fmt"
	"io"
	"log"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/charon-kdc/charon/raftstore/peer"
)

// hclogger hands the library's log lines to slog, from WARN up. A line that repeats, by its text and the node it is about, comes once a minute.
type hclogger struct {
	log   *slog.Logger
	name  string
	args  []any
	told  *peer.Repeats
	quiet *atomic.Bool // on the way out, broken connections are no news
}

func newHCLogger(l *slog.Logger, name string, quiet *atomic.Bool) hclog.Logger {
	return &hclogger{log: l.With("group", name), name: name, told: new(peer.Repeats), quiet: quiet}
}

func (h *hclogger) emit(l slog.Level, msg string, args []any) {
	if l < slog.LevelWarn || h.quiet.Load() || !h.log.Enabled(context.Background(), l) {
		return
	}
	out := make([]any, 0, len(h.args)+len(args))
	for _, a := range append(h.args[:len(h.args):len(h.args)], args...) {
		if f, ok := a.(hclog.Format); ok && len(f) > 0 {
			if s, ok := f[0].(string); ok {
				a = fmt.Sprintf(s, f[1:]...)
			}
		}
		if err, ok := a.(error); ok && strings.Contains(err.Error(), "connection refused") {
			l = slog.LevelWarn // a node that is down is no error of this one
		}
		out = append(out, a)
	}
	news, left := h.told.News(msg+about(out), time.Now())
	if !news {
		return
	}
	if left > 0 {
		out = append(out, "left_out", left)
	}
	h.log.Log(context.Background(), l, "raft: "+msg, out...)
}

// about is which node a line's key and value pairs name, or "".
func about(pairs []any) string {
	for i := 0; i+1 < len(pairs); i += 2 {
		switch pairs[i] {
		case "peer", "server-id", "from", "candidate":
			return fmt.Sprintf(" %v", pairs[i+1])
		}
	}
	return ""
}

func (h *hclogger) Log(level hclog.Level, msg string, args ...any) {
	switch level {
	case hclog.Warn:
		h.Warn(msg, args...)
	case hclog.Error:
		h.Error(msg, args...)
	}
}
func (h *hclogger) Trace(string, ...any)          {}
func (h *hclogger) Debug(string, ...any)          {}
func (h *hclogger) Info(string, ...any)           {}
func (h *hclogger) Warn(msg string, args ...any)  { h.emit(slog.LevelWarn, msg, args) }
func (h *hclogger) Error(msg string, args ...any) { h.emit(slog.LevelError, msg, args) }
func (h *hclogger) IsTrace() bool                 { return false }
func (h *hclogger) IsDebug() bool                 { return false }
func (h *hclogger) IsInfo() bool                  { return false }
func (h *hclogger) IsWarn() bool                  { return true }
func (h *hclogger) IsError() bool                 { return true }
func (h *hclogger) ImpliedArgs() []any            { return h.args }
func (h *hclogger) With(args ...any) hclog.Logger {
	c := *h
	c.args = append(h.args[:len(h.args):len(h.args)], args...)
	return &c
}
func (h *hclogger) Name() string { return h.name }
func (h *hclogger) Named(n string) hclog.Logger {
	c := *h
	c.name = n
	return &c
}
func (h *hclogger) ResetNamed(n string) hclog.Logger { return h.Named(n) }
func (h *hclogger) SetLevel(hclog.Level)             {}
func (h *hclogger) GetLevel() hclog.Level            { return hclog.Warn }
func (h *hclogger) StandardLogger(*hclog.StandardLoggerOptions) *log.Logger {
	return log.New(io.Discard, "", 0)
}
func (h *hclogger) StandardWriter(*hclog.StandardLoggerOptions) io.Writer { return io.Discard }

package raftstore

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
)

// A node that is down makes one line, at WARN, and not one a try.
func TestRaftLogRepeats(t *testing.T) {
	var out bytes.Buffer
	h := newHCLogger(slog.New(slog.NewTextHandler(&out, nil)), realmGroup, new(atomic.Bool)).With("x", 1)
	down := errors.New("dial tcp 127.0.0.1:7750: connect: connection refused")
	for i := range 100 {
		h.Error("failed to heartbeat to", "backoff time", i, "peer", "n2", "error", down)
		h.Error("failed to heartbeat to", "backoff time", i, "peer", "n3", "error", errors.New("other"))
		h.Warn("failed to contact", "server-id", "n2", "time", i)
	}
	text := out.String()
	if n := strings.Count(text, "\n"); n != 3 {
		t.Errorf("%d lines:\n%s", n, text)
	}
	for line := range strings.Lines(text) {
		if strings.Contains(line, "level=ERROR") != strings.Contains(line, "error=other") {
			t.Errorf("level of %s", line)
		}
	}
}

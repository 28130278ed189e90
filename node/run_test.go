package node

import (
	"context"
	"errors"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestReopenWithoutAudit(t *testing.T) {
	reopen := make(chan struct{})
	s := &server{log: testLogger(t), o: RunOptions{Reopen: reopen}}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.wait(ctx) }()
	for range 2 { // the second is taken after the first was dealt with
		select {
		case reopen <- struct{}{}:
		case err := <-done:
			t.Fatalf("the node stops: %v", err)
		case <-time.After(10 * time.Second):
			t.Fatal("the signal is not taken")
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestInTime(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	failed := errors.New("failed")
	if err := inTime(ctx, "it", func() error { return failed }); !errors.Is(err, failed) {
		t.Errorf("an error within the time: %v", err)
	}
	hang := make(chan struct{})
	defer close(hang)
	cancel()
	if err := inTime(ctx, "it", func() error { <-hang; return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("what does not end: %v", err)
	}
}

func TestShutdownParts(t *testing.T) {
	f, _ := reflect.TypeFor[DrainConfig]().FieldByName("Notice")
	notice, err := time.ParseDuration(f.Tag.Get("max"))
	if err != nil {
		t.Fatal(err)
	}
	if sum := notice + transferBudget + inWorkBudget; sum >= shutdownBudget {
		t.Errorf("notice, handing over and requests in work take up to %v, which leaves nothing of %v", sum, shutdownBudget)
	}
}

func TestReplayStateFromTheStart(t *testing.T) {
	w := httptest.NewRecorder()
	newMetrics("test").handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	for _, want := range []string{`charon_replay_state{state="holding"} 1`, `charon_replay_state{state="ready"} 0`, `charon_replay_state{state="cut-off"} 0`} {
		if !strings.Contains(w.Body.String(), want) {
			t.Errorf("no %s", want)
		}
	}
}

// A directory that holds no node, or a removed one's, is refused before anything is written there.
func TestRefusedDirectories(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "none")
	o := RunOptions{Config: &Config{Dir: dir}, Logger: testLogger(t)}
	if err := Run(t.Context(), o); !errors.Is(err, ErrNoNode) {
		t.Errorf("no node: %v", err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the directory was made: %v", err)
	}
	for _, name := range []string{nodeCertFile, removedFile} {
		if err := writeFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := Run(t.Context(), o); !errors.Is(err, errRemoved) {
		t.Errorf("a removed node: %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, lockFile)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a lock file was made: %v", err)
	}
}

package raftstore

import (
	"context"
	"sync"
	"sync/atomic"
)

// watermark is an index that only rises, and who waits for it.
type watermark struct {
	index atomic.Uint64

	mu      sync.Mutex
	waiters map[chan struct{}]uint64
}

func newWatermark(index uint64) *watermark {
	w := &watermark{waiters: map[chan struct{}]uint64{}}
	w.index.Store(index)
	return w
}

func (w *watermark) get() uint64 { return w.index.Load() }

func (w *watermark) advance(index uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if index <= w.index.Load() {
		return
	}
	w.index.Store(index)
	for ch, want := range w.waiters {
		if want <= index {
			close(ch)
			delete(w.waiters, ch)
		}
	}
}

// wait returns nil once the index is reached, or ctx's error.
func (w *watermark) wait(ctx context.Context, index uint64) error {
	if w.get() >= index {
		return nil
	}
	ch := make(chan struct{})
	w.mu.Lock()
	if w.get() >= index {
		w.mu.Unlock()
		return nil
	}
	w.waiters[ch] = index
	w.mu.Unlock()
	select {
	case <-ch:
		return nil
	case <-ctx.Done():
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.waiters, ch)
		if w.get() >= index {
			return nil
		}
		return ctx.Err()
	}
}

package raftstore

import (
	"context"
	"errors"
	"testing"
)

// While verdicts do not come, a flood of AS exchanges leaves half of the queue to TGS exchanges.
func TestInitialProofsLeaveRoom(t *testing.T) {
	dropped := 0
	p := newProofs(&Store{cfg: Config{Observe: Observer{ReplayDropped: func() { dropped++ }}}})
	refusals := func(n int, initial bool) (no int) {
		for range n {
			if r, ok := p.enqueue(&pending{initial: initial}).(decided); ok {
				no++
				if _, err := r.Wait(t.Context()); !errors.Is(err, context.DeadlineExceeded) {
					t.Fatalf("refused with %v", err)
				}
			}
		}
		return no
	}
	if no := refusals(queueMax, true); no != queueMax-initialMax {
		t.Errorf("%d of a flood were refused, want %d", no, queueMax-initialMax)
	}
	if no := refusals(queueMax-initialMax+5, false); no != 5 {
		t.Errorf("%d TGS exchanges found no room, want the 5 beyond the queue", no)
	}
	if dropped != queueMax-initialMax+5 {
		t.Errorf("%d drops told", dropped)
	}
	for _, w := range p.take() {
		close(w.done)
	}
	if no := refusals(initialMax, true); no != 0 {
		t.Errorf("after the queue was emptied %d are refused", no)
	}
}

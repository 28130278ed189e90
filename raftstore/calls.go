package raftstore

import (
	"context"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// drainLimit is how long stopping waits for the calls in work.
const drainLimit = 250 * time.Millisecond

// calls counts what waits for a group. A future that is still in one of raft's queues when raft shuts down is never
// resolved, so the door is closed first and raft gets a moment to empty its queues.
type calls struct {
	mu     sync.Mutex
	n      int
	closed bool
}

func (c *calls) enter() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return false
	}
	c.n++
	return true
}

func (c *calls) leave() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n--
}

// close lets nobody in and waits, at most limit: what waits for a quorum is resolved by the shutdown itself.
func (c *calls) close(limit time.Duration) {
	for end := time.Now().Add(limit); ; time.Sleep(time.Millisecond) {
		c.mu.Lock()
		c.closed = true
		n := c.n
		c.mu.Unlock()
		if n == 0 || time.Now().After(end) {
			return
		}
	}
}

// await is the error of the future that submit makes, or ctx's if that ends first: a future may not resolve while there is
// no quorum.
func (g *group) await(ctx context.Context, submit func() raft.Future) error {
	if !g.calls.enter() {
		return raft.ErrRaftShutdown
	}
	f := submit()
	done := make(chan error, 1)
	go func() {
		err := f.Error()
		g.calls.leave()
		done <- err
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// apply appends data and waits until it is applied here. The future's response is there when the error is nil.
func (g *group) apply(ctx context.Context, data []byte) (raft.ApplyFuture, error) {
	var f raft.ApplyFuture
	err := g.await(ctx, func() raft.Future {
		f = g.raft.Apply(data, g.s.cfg.Timing.RPC)
		return f
	})
	return f, err
}

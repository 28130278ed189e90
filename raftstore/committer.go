package raftstore

import (
	"bufio"
	"context"
	"errors"
	"net"
	"sync"
	"time"

	"github.com/charon-kdc/charon/kdc/kdb"
	"github.com/charon-kdc/charon/raftstore/peer"
	"github.com/charon-kdc/charon/raftstore/replay"
)

const (
	// loadFull is the rate of items a second at which the gap between entries is widest; gapGrowth how much wider than at rest.
	loadFull  = 10_000
	gapGrowth = 1.5
	// framesMax bounds a connection's unanswered frames; a node that follows the protocol has four.
	framesMax = 16
)

// committer is the leader's side of the replay pipeline (DESIGN.md, "The pipeline"): frames queue; whatever is queued becomes one log
// entry as soon as none is in flight and the last one was submitted a little while ago.
type committer struct {
	s *Store

	mu     sync.Mutex
	active bool // leading
	queue  []*job
	wake   chan struct{}
	skew   uint32                    // seconds: the largest clock skew that a node wants
	heard  map[peer.NodeID]time.Time // when each member's last frame came

	hold hold // of the goroutine that leads

	wg sync.WaitGroup // connections
}

// job is a frame and who wants its answer. answer must not block.
type job struct {
	f      *frame
	answer func(a *frameAnswer)
}

func (j *job) refuse() { j.answer(&frameAnswer{id: j.f.id}) }

func newCommitter(s *Store) *committer {
	return &committer{s: s, wake: make(chan struct{}, 1), heard: map[peer.NodeID]time.Time{}}
}

// submit queues a frame; it is answered at once when this node does not lead.
func (c *committer) submit(j *job) {
	c.mu.Lock()
	active := c.active
	c.skew = max(c.skew, j.f.skew)
	if active && (len(j.f.items) > 0 || j.f.commit) {
		c.queue = append(c.queue, j)
		c.mu.Unlock()
		select {
		case c.wake <- struct{}{}:
		default:
		}
		return
	}
	c.mu.Unlock()
	j.answer(&frameAnswer{id: j.f.id, ok: active})
}

// lead commits until ctx ends, then sends away what is left.
func (c *committer) lead(ctx context.Context) {
	c.mu.Lock()
	c.active = true
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		left := c.queue
		c.queue, c.active = nil, false
		c.mu.Unlock()
		for _, j := range left {
			j.refuse()
		}
	}()
	c.hold = hold{since: time.Now()}
	base := c.s.cfg.Timing.CommitGap
	gap, last := base, time.Time{}
	idle := time.NewTimer(c.s.cfg.Timing.IdleBatch)
	defer idle.Stop()
	for ctx.Err() == nil {
		idleNow := false
		select {
		case <-ctx.Done():
			return
		case <-c.wake:
		case <-idle.C:
			idleNow = true
		}
		if wait := gap - time.Since(last); wait > 0 {
			pause(ctx, wait)
		}
		c.raiseSkew(ctx)
		c.holdOrRelease(ctx)
		jobs, more := c.take()
		if len(jobs) == 0 && !idleNow {
			continue
		}
		begun := time.Now()
		n := c.commit(ctx, jobs)
		rate := float64(n) / max(begun.Sub(last).Seconds(), 1e-3)
		gap = base + time.Duration(gapGrowth*min(rate/loadFull, 1)*float64(base))
		last = begun
		idle.Reset(c.s.cfg.Timing.IdleBatch)
		if more {
			select {
			case c.wake <- struct{}{}:
			default:
			}
		}
	}
}

// take removes as many frames as fit into one entry, and tells whether some stay.
func (c *committer) take() (jobs []*job, more bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n, i := 0, 0
	for ; i < len(c.queue); i++ {
		if n += len(c.queue[i].f.items); n > replay.ItemsMax {
			break
		}
	}
	jobs = c.queue[:i:i]
	c.queue = c.queue[i:]
	if len(c.queue) == 0 {
		c.queue = nil
	}
	return jobs, c.queue != nil
}

// commit replicates the items of jobs as one entry and answers each job. It returns the number of items.
func (c *committer) commit(ctx context.Context, jobs []*job) int {
	var proofs, journal []replay.Proof
	var attempts []replay.Attempt
	for _, j := range jobs {
		for i := range j.f.items {
			switch it := &j.f.items[i]; {
			case it.attempt:
				attempts = append(attempts, it.Attempt)
			case it.merge:
				journal = append(journal, it.Proof)
			default:
				proofs = append(proofs, it.Proof)
			}
		}
	}
	verdicts, index, err := c.replicate(ctx, proofs, attempts, journal)
	if err == nil && len(verdicts) != len(proofs)+len(attempts)+len(journal) {
		err = errors.New("verdicts do not match the entry")
	}
	if err != nil {
		for _, j := range jobs {
			j.refuse()
		}
		pause(ctx, 5*time.Millisecond)
		return 0
	}
	atProof, atAttempt, atJournal := 0, len(proofs), len(proofs)+len(attempts)
	for _, j := range jobs {
		out := make([]kdb.Verdict, len(j.f.items))
		for i := range j.f.items {
			at := &atProof
			switch {
			case j.f.items[i].attempt:
				at = &atAttempt
			case j.f.items[i].merge:
				at = &atJournal
			}
			out[i] = kdb.Verdict(verdicts[*at])
			*at++
		}
		j.answer(&frameAnswer{id: j.f.id, ok: true, index: index, verdicts: out})
	}
	return len(verdicts)
}

// raiseSkew commits the largest clock skew that a node wants, if the log has a smaller one: only then may the node allow it.
// After an error the next round tries again.
func (c *committer) raiseSkew(ctx context.Context) {
	c.mu.Lock()
	want := time.Duration(c.skew) * time.Second
	c.mu.Unlock()
	if want <= c.s.state.Skew() {
		return
	}
	data, err := replay.EncodeSkew(c.s.replayStamp(), want)
	if err == nil {
		_, _, err = c.apply(ctx, data)
	}
	if err != nil && ctx.Err() == nil {
		c.s.cfg.Logger.Warn("raising the clock skew", "to", want, "err", err)
	}
}

func (c *committer) replicate(ctx context.Context, proofs []replay.Proof, attempts []replay.Attempt, journal []replay.Proof) ([]replay.Verdict, uint64, error) {
	at := c.s.replayStamp()
	data, err := replay.EncodeBatch(at, proofs, attempts)
	if err == nil && len(journal) > 0 {
		c.hold.journal = time.Now()
		var part []byte
		part, err = replay.EncodeJournal(at, journal)
		data = append(data, part...)
	}
	if err != nil {
		return nil, 0, err
	}
	return c.apply(ctx, data)
}

// apply also returns the entry's index.
func (c *committer) apply(ctx context.Context, data []byte) ([]replay.Verdict, uint64, error) {
	if err := replay.CheckLevel(data, c.s.level()); err != nil {
		return nil, 0, err
	}
	begun := time.Now()
	f, err := c.s.replay.apply(ctx, data)
	if err != nil {
		return nil, 0, err
	}
	if observe := c.s.cfg.Observe.Commit; observe != nil {
		observe(replayGroup, time.Since(begun))
	}
	switch v := f.Response().(type) {
	case []replay.Verdict:
		return v, f.Index(), nil
	case error:
		return nil, 0, v
	default:
		return nil, 0, errors.New("replay state gave no verdicts")
	}
}

// serve takes the streams of the other nodes until ctx ends.
func (c *committer) serve(ctx context.Context) {
	ln := c.s.mux.Listener(peer.ALPNBatch)
	stop := context.AfterFunc(ctx, func() { ln.Close() })
	defer stop()
	for {
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		c.wg.Add(1)
		go func() {
			defer c.wg.Done()
			c.stream(ctx, conn)
		}()
	}
}

// wait for the streams, whose connections are closed.
func (c *committer) wait() { c.wg.Wait() }

// stream serves one node: a reader here, a writer beside it, so that a slow node never holds the committer up.
func (c *committer) stream(ctx context.Context, conn net.Conn) {
	defer conn.Close()
	from, ok := conn.(*peer.Conn)
	if !ok {
		return
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	answers := make(chan *frameAnswer, framesMax)
	slots := make(chan struct{}, framesMax)
	gone := make(chan struct{})
	defer close(gone)
	c.wg.Add(1)
	go func() {
		defer c.wg.Done()
		defer conn.Close()
		c.writeAnswers(conn, answers, slots, gone)
	}()
	r := bufio.NewReaderSize(conn, 64<<10)
	for {
		b, err := readBlock(r, frameMax)
		if err != nil {
			return
		}
		f, err := decodeFrame(b)
		if err != nil {
			c.s.cfg.Logger.Warn("replay stream", "node", from.Peer.String(), "err", err)
			return
		}
		c.s.clocks.framed(from.Peer, f.clock, time.Now())
		c.note(from.Peer)
		select {
		case slots <- struct{}{}:
		default:
			c.s.cfg.Logger.Warn("replay stream: too many frames unanswered", "node", from.Peer.String())
			return
		}
		// A slot is free again only once its answer is written, so this send never blocks.
		c.submit(&job{f, func(a *frameAnswer) { answers <- a }})
	}
}

func (c *committer) writeAnswers(conn net.Conn, answers <-chan *frameAnswer, slots <-chan struct{}, gone <-chan struct{}) {
	var buf []byte
	for {
		select {
		case <-gone:
			return
		case a := <-answers:
			buf = appendAnswer(buf[:0], a)
			if err := conn.SetWriteDeadline(time.Now().Add(c.s.cfg.Timing.RPC)); err != nil {
				return
			}
			if _, err := conn.Write(buf); err != nil {
				return
			}
			<-slots
		}
	}
}

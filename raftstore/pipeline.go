package raftstore

import (
	"bufio"
	"context"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/charon-kdc/charon/internal/mutant"
	"github.com/charon-kdc/charon/kdc/kdb"
	"github.com/charon-kdc/charon/raftstore/peer"
	"github.com/charon-kdc/charon/raftstore/replay"
)

const (
	// answerLimit is how long a frame may be unanswered before the stream is thought dead and made anew.
	answerLimit = time.Second
	// probeEvery: while not ready, an otherwise idle node has an empty entry committed so often to learn that it works again.
	probeEvery = 200 * time.Millisecond
	// reportEvery: an idle node reports its clock so often.
	reportEvery = 2 * time.Second
)

// link is a stream to the replay leader, or the leader's own committer.
type link interface {
	// send must not block for long. The answer comes through proofs.answered.
	send(f *frame) error
	close()
}

// run keeps a link to whoever leads the replay group, until ctx ends.
func (p *proofs) run(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Add(1)
	go func() {
		defer wg.Done()
		p.watch(ctx)
	}()
	for ctx.Err() == nil {
		changed := p.s.replay.changes()
		if leader := p.s.replay.leader(); leader != "" {
			p.session(ctx, leader)
		}
		t := time.NewTimer(20 * time.Millisecond)
		select {
		case <-ctx.Done():
		case <-changed:
		case <-t.C:
		}
		t.Stop()
	}
	for _, w := range p.take() {
		w.err = kdb.ErrUnavailable
		close(w.done)
	}
}

// relink makes the link anew; frames that are unanswered are sent again.
func (p *proofs) relink() {
	p.mu.Lock()
	again := p.again
	p.mu.Unlock()
	if again != nil {
		again()
	}
}

// session works with one leader until the link breaks or another leads.
func (p *proofs) session(ctx context.Context, leader raft.ServerID) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	p.mu.Lock()
	p.again = cancel
	p.mu.Unlock()
	l, err := p.connect(ctx, leader, cancel)
	if err != nil {
		return
	}
	defer l.close()
	p.mu.Lock()
	p.up, p.spokeAt = true, time.Time{}
	again := make([]*frame, len(p.flight))
	for i, f := range p.flight {
		again[i] = p.frame(f)
	}
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		p.up, p.upAt = false, time.Now()
		if p.state == stateReady {
			p.setState(stateHolding)
		}
		p.mu.Unlock()
	}()
	for _, f := range again {
		if mutant.On(mutant.LostAtFailover) {
			break
		}
		if l.send(f) != nil {
			return
		}
	}
	p.pump(ctx, l, leader)
}

// pump sends what is queued whenever fewer than four frames are unanswered.
func (p *proofs) pump(ctx context.Context, l link, leader raft.ServerID) {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	changed := p.s.replay.changes()
	for {
		for f := p.next(); f != nil; f = p.next() {
			if l.send(f) != nil {
				return
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-p.wake:
		case <-changed:
			changed = p.s.replay.changes()
		case <-tick.C:
		}
		if p.s.replay.leader() != leader || p.dead() {
			return
		}
	}
}

// next is the next frame to send: everything queued, or a probe or report when one is due; nil when there is nothing to send now.
func (p *proofs) next() *frame {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.flight) >= framesInFlight {
		return nil
	}
	n := min(len(p.queue), frameItems)
	f := &sent{}
	if n == 0 {
		every := reportEvery
		if p.state != stateReady {
			every = probeEvery
			f.probe = true
		}
		if len(p.flight) > 0 || time.Since(p.spokeAt) < every {
			return nil
		}
	}
	p.spokeAt = time.Now()
	f.pending = p.queue[:n:n]
	p.queue = p.queue[n:]
	if len(p.queue) == 0 {
		p.queue = nil
	}
	p.nextID++
	f.id = p.nextID
	p.flight = append(p.flight, f)
	return p.frame(f)
}

// frame is f as it goes out now; mu is held.
func (p *proofs) frame(f *sent) *frame {
	f.at = time.Now()
	out := &frame{id: f.id, clock: p.s.cfg.Now().UnixMilli(), skew: wholeSeconds(p.s.cfg.ClockSkew), commit: f.probe, items: make([]item, len(f.pending))}
	for i, w := range f.pending {
		out.items[i] = w.item
		w.sent = true
	}
	return out
}

// dead tells whether the leader owes an answer for too long.
func (p *proofs) dead() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.flight) > 0 && time.Since(p.flight[0].at) > answerLimit
}

// answered takes one answer; false ends the session.
func (p *proofs) answered(a *frameAnswer) bool {
	p.mu.Lock()
	i := 0
	for i < len(p.flight) && p.flight[i].id != a.id {
		i++
	}
	if i == len(p.flight) {
		p.mu.Unlock()
		return true // given up in the meantime
	}
	f := p.flight[i]
	if !a.ok || len(a.verdicts) != len(f.pending) {
		p.mu.Unlock()
		return false
	}
	p.flight = append(p.flight[:i:i], p.flight[i+1:]...)
	p.count(-1, f.pending...)
	if f.probe || len(f.pending) > 0 {
		p.setState(stateReady)
		if p.joinedAt == 0 {
			p.joinedAt = a.index
		}
	}
	p.resubmit(f, a.index)
	p.mu.Unlock()
	observe := p.s.cfg.Observe.ReplayWait
	for i, w := range f.pending {
		w.v, w.index = a.verdicts[i], a.index
		switch {
		case w.journal || w.answered:
			p.late(w)
		case w.relaxable && (w.v == kdb.Fresh || w.v == kdb.Same):
			p.seen.check(w.item.Proof) // for the time when nobody else can be asked
		}
		if observe != nil && !w.journal {
			observe(time.Since(w.at))
		}
		close(w.done)
	}
	p.signal()
	return true
}

// resubmit has the journal of a node that was cut off decided, a batch at a time; f was just answered. mu is held.
func (p *proofs) resubmit(f *sent, index uint64) {
	if n := f.journalled(); n > 0 {
		p.s.heard.decided(n, index)
	}
	if p.state != stateReady {
		return
	}
	batch, err := p.s.heard.resubmit(frameItems, p.s.Now().UnixMilli())
	if err != nil {
		p.s.cfg.Logger.Error("reading the journal of what was accepted without a quorum", "err", err)
	}
	merge := p.s.level() >= replay.MergeLevel
	for _, j := range batch {
		j.merge = merge && !j.attempt
		p.queue = append(p.queue, &pending{item: j.item, at: time.Now(), done: make(chan struct{}), journal: true, sent: j.sent})
		p.waiting++
	}
}

func (f *sent) journalled() (n int) {
	for _, w := range f.pending {
		if w.journal {
			n++
		}
	}
	return n
}

// watch declares the node cut off when it has had no leader, or no verdict, for too long.
func (p *proofs) watch(ctx context.Context) {
	limit := p.s.cfg.Timing.CutOff
	t := time.NewTicker(max(limit/60, 5*time.Millisecond))
	defer t.Stop()
	ran := running{pause: limit / 3, last: time.Now()}
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		ran.tick(time.Now())
		p.s.lease.lost.Store(ran.since(p.s.lease.contact.Load().at) >= limit)
		p.mu.Lock()
		lost := !p.up && ran.since(p.upAt) >= limit
		if oldest := p.oldest(); oldest != nil && ran.since(oldest.at) >= limit {
			lost = true
		}
		was := p.state
		p.mu.Unlock()
		if lost {
			if was != stateCutOff || !p.alone.Load() {
				p.goAlone()
			}
			p.mu.Lock()
			p.setState(stateCutOff)
			p.mu.Unlock()
			p.giveUp()
		}
		p.s.noteService()
		if err := p.s.heard.settle(lost, p.s.Now().UnixMilli()); err != nil {
			p.s.cfg.Logger.Error("removing the journal of what was accepted without a quorum", "err", err)
		}
	}
}

// running tells for how long this process has run. Time in which it did not says nothing of the others: one that was stopped must not wake up and decide alone.
type running struct {
	pause       time.Duration // ticks that lie further apart than this have a pause between them
	last, awake time.Time     // the last tick, and the first one after the last pause
}

func (r *running) tick(now time.Time) {
	if r.awake.IsZero() || now.Sub(r.last) > r.pause {
		r.awake = now
	}
	r.last = now
}

// since is how long ago at was, or the last pause if that is later, as of the last tick.
func (r *running) since(at time.Time) time.Duration {
	if at.Before(r.awake) {
		at = r.awake
	}
	return r.last.Sub(at)
}

// oldest pending; mu is held.
func (p *proofs) oldest() *pending {
	for _, f := range p.flight {
		if len(f.pending) > 0 {
			return f.pending[0]
		}
	}
	if len(p.queue) > 0 {
		return p.queue[0]
	}
	return nil
}

// giveUp answers everything that waits, by what this node knows alone.
func (p *proofs) giveUp() {
	again, sent := 0, false
	for _, w := range p.take() {
		if w.journal {
			again, sent = again+1, sent || w.sent
			w.err = kdb.ErrUnavailable
		} else {
			w.v, w.err = p.decideAlone(w)
		}
		close(w.done)
	}
	if again > 0 {
		p.s.heard.again(again, sent)
	}
}

// take removes everything that waits. A late verdict finds nobody, and the proof is spent.
func (p *proofs) take() []*pending {
	p.mu.Lock()
	defer p.mu.Unlock()
	var all []*pending
	kept := p.flight[:0:0]
	for _, f := range p.flight {
		if f.probe {
			kept = append(kept, f)
			continue
		}
		all = append(all, f.pending...)
	}
	all = append(all, p.queue...)
	p.flight, p.queue, p.waiting, p.initial = kept, nil, 0, 0
	return all
}

func (p *proofs) connect(ctx context.Context, leader raft.ServerID, broken func()) (link, error) {
	if leader == p.s.replay.id {
		return &localLink{p: p, broken: broken}, nil
	}
	node, addr, ok := p.s.locate(p.s.replay, leader)
	if !ok {
		return nil, ErrNotMember
	}
	dctx, cancel := context.WithTimeout(ctx, answerLimit)
	defer cancel()
	c, err := peer.Dial(dctx, peer.ALPNBatch, addr, p.s.identity, node)
	if err != nil {
		return nil, err
	}
	l := &remoteLink{conn: c, limit: p.s.cfg.Timing.CutOff}
	l.wg.Add(1)
	go func() {
		defer l.wg.Done()
		defer broken()
		l.read(p)
	}()
	return l, nil
}

// localLink is the leader talking to itself.
type localLink struct {
	p      *proofs
	broken func()
}

func (l *localLink) send(f *frame) error {
	l.p.s.commit.submit(&job{f, func(a *frameAnswer) {
		if !l.p.answered(a) {
			l.broken()
		}
	}})
	return nil
}

func (l *localLink) close() {}

type remoteLink struct {
	conn  net.Conn
	limit time.Duration
	buf   []byte
	wg    sync.WaitGroup
}

func (l *remoteLink) send(f *frame) error {
	l.buf = appendFrame(l.buf[:0], f)
	if err := l.conn.SetWriteDeadline(time.Now().Add(l.limit)); err != nil {
		return err
	}
	_, err := l.conn.Write(l.buf)
	return err
}

func (l *remoteLink) read(p *proofs) {
	r := bufio.NewReaderSize(l.conn, 16<<10)
	for {
		b, err := readBlock(r, answerMax)
		if err != nil {
			return
		}
		a, err := decodeAnswer(b)
		if err != nil || !p.answered(a) {
			return
		}
	}
}

func (l *remoteLink) close() {
	l.conn.Close()
	l.wg.Wait()
}

package transport

import (
	"net"
	"runtime"
	"sync"

	"golang.org/x/net/ipv4"
)

const (
	// sendBatch is how many replies one system call takes at most (sendmmsg).
	sendBatch = 64
	// sendQueueMax bounds the replies that wait for a socket.
	sendQueueMax = 4096
)

// sendQueue collects the replies of one socket, so that those which are ready together leave together.
type sendQueue struct {
	mu sync.Mutex
	// wait is filled by workers; spare is the slice that was sent last. Both keep their Buffers for the next round.
	wait, spare []ipv4.Message
	// sending: a worker is sending, and takes what is added meanwhile along.
	sending bool
}

// send queues reply for addr. The worker that finds nobody sending sends for all: there is no goroutine to wake.
func (u *udpSocket) send(reply []byte, addr net.Addr, oob []byte) {
	q := &u.out
	q.mu.Lock()
	if len(q.wait) >= sendQueueMax {
		q.mu.Unlock()
		u.s.cfg.Dropped(DropSend)
		return
	}
	q.add(reply, addr, oob)
	if q.sending {
		q.mu.Unlock()
		return
	}
	q.sending = true
	q.mu.Unlock()
	runtime.Gosched() // workers that are about to answer get into this batch
	for {
		q.mu.Lock()
		batch := q.wait
		if len(batch) == 0 {
			q.sending = false
			q.mu.Unlock()
			return
		}
		q.wait, q.spare = q.spare[:0], nil
		q.mu.Unlock()
		u.write(batch)
		for i := range batch {
			m := &batch[i]
			m.Buffers[0], m.Addr, m.OOB = nil, nil, nil
		}
		q.mu.Lock()
		q.spare = batch[:0]
		q.mu.Unlock()
	}
}

// add appends one message, with the Buffers slice that its slot had before when it had one.
func (q *sendQueue) add(reply []byte, addr net.Addr, oob []byte) {
	n := len(q.wait)
	if n < cap(q.wait) {
		q.wait = q.wait[:n+1]
	} else {
		q.wait = append(q.wait, ipv4.Message{})
	}
	m := &q.wait[n]
	if m.Buffers == nil {
		m.Buffers = make([][]byte, 1)
	}
	m.Buffers[0], m.Addr, m.OOB = reply, addr, oob
}

// write sends ms. What the system refuses (no route, a firewall) is dropped, and the rest goes on.
func (u *udpSocket) write(ms []ipv4.Message) {
	for len(ms) > 0 {
		n, err := u.batch.WriteBatch(ms[:min(len(ms), sendBatch)], 0)
		n = max(n, 0)
		if err != nil {
			u.s.cfg.Dropped(DropSend)
			u.s.cfg.Logger.Debug("sending a UDP reply", "peer", ms[n].Addr, "err", err)
			n++
		}
		ms = ms[n:]
	}
}

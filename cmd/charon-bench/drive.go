package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/charon-kdc/charon/kdc/krb5"
)

const (
	triesMax = 3
	replyMax = 64 << 10
)

// driver keeps so many exchanges in flight: each lane has one, over a socket of its own, so that a reply belongs to its request.
type driver struct {
	o     *options
	lanes []*lane
}

// lane is one request in flight.
type lane struct {
	o    *options
	kdc  int // index of the KDC asked
	conn net.Conn
	buf  []byte
}

// turn is what came of one batch of jobs.
type turn struct {
	took      time.Duration
	done      uint64 // exchanges that gave a ticket
	latency   histogram
	errors    map[string]uint64
	resent    uint64
	samples   []sample
	lastError error
}

// sample is a reply kept for checking.
type sample struct {
	job   *job
	reply []byte
}

// failed is the last error; nil when every exchange gave a ticket.
func (t *turn) failed() error { return t.lastError }

func newDriver(o *options) *driver {
	d := &driver{o: o}
	for i := range o.concurrency {
		d.lanes = append(d.lanes, &lane{o: o, kdc: i % len(o.kdcs), buf: make([]byte, replyMax)})
	}
	return d
}

func (d *driver) close() {
	for _, l := range d.lanes {
		l.hangUp()
	}
}

// run sends the jobs until there are no more, or limit has passed.
func (d *driver) run(ctx context.Context, jobs []job, limit time.Duration) *turn {
	var next atomic.Int64
	turns := make([]turn, len(d.lanes))
	began := time.Now()
	var wg sync.WaitGroup
	for i, l := range d.lanes {
		wg.Go(func() {
			t := &turns[i]
			t.errors = make(map[string]uint64)
			for ctx.Err() == nil && time.Since(began) < limit {
				k := int(next.Add(1)) - 1
				if k >= len(jobs) {
					return
				}
				l.exchange(&jobs[k], t, k%d.o.sample == 0)
			}
		})
	}
	wg.Wait()
	all := &turn{took: time.Since(began), errors: make(map[string]uint64)}
	for i := range turns {
		all.merge(&turns[i])
	}
	return all
}

func (t *turn) merge(o *turn) {
	t.done += o.done
	t.latency.merge(&o.latency)
	t.resent += o.resent
	t.samples = append(t.samples, o.samples...)
	for what, n := range o.errors {
		t.errors[what] += n
	}
	if o.lastError != nil {
		t.lastError = o.lastError
	}
}

// exchange does one job. Its latency is that of all its messages, retries included.
func (l *lane) exchange(j *job, t *turn, keep bool) {
	began := time.Now()
	for i, m := range j.messages {
		reply, err := l.ask(m, t)
		if err != nil {
			t.fail("no answer", err)
			return
		}
		code := errorCode(reply)
		if i < len(j.messages)-1 {
			if code != krb5.ErrPreauthRequired {
				t.fail(code.String(), fmt.Errorf("the first AS-REQ of a kinit got %v, not KDC_ERR_PREAUTH_REQUIRED", code))
				return
			}
			continue
		}
		if code != krb5.ErrNone {
			t.fail(code.String(), fmt.Errorf("a KDC answered %v", code))
			return
		}
		t.latency.add(time.Since(began))
		t.done++
		if keep {
			t.samples = append(t.samples, sample{j, append([]byte(nil), reply...)})
		}
	}
}

func (t *turn) fail(what string, err error) {
	t.errors[what]++
	t.lastError = err
}

// errorCode is the code of a KRB-ERROR, ErrNone of a ticket.
func errorCode(reply []byte) krb5.ErrorCode {
	if len(reply) == 0 || reply[0] != 0x60|byte(krb5.MsgError) {
		return krb5.ErrNone
	}
	e, err := krb5.DecodeKRBError(reply)
	if err != nil {
		return krb5.ErrGeneric
	}
	return e.ErrorCode
}

// ask sends one message until it is answered, as a client does: again after the timeout, to the next KDC, three times in all. The reply
// is good until the next ask.
func (l *lane) ask(m []byte, t *turn) ([]byte, error) {
	var last error
	for try := range triesMax {
		if try > 0 {
			t.resent++
		}
		reply, err := l.once(m)
		if err == nil {
			return reply, nil
		}
		last = err
		l.hangUp() // a late reply must not be taken for the next one's
		l.kdc = (l.kdc + 1) % len(l.o.kdcs)
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			time.Sleep(min(l.o.timeout, 100*time.Millisecond)) // a dead KDC refuses at once
		}
	}
	return nil, last
}

func (l *lane) once(m []byte) ([]byte, error) {
	if l.conn == nil {
		network := "udp"
		if l.o.tcp {
			network = "tcp"
		}
		c, err := net.DialTimeout(network, l.o.kdcs[l.kdc], l.o.timeout)
		if err != nil {
			return nil, err
		}
		l.conn = c
	}
	if err := l.conn.SetDeadline(time.Now().Add(l.o.timeout)); err != nil {
		return nil, err
	}
	if l.o.tcp {
		defer l.hangUp()
		return l.stream(m)
	}
	if _, err := l.conn.Write(m); err != nil {
		return nil, err
	}
	n, err := l.conn.Read(l.buf)
	return l.buf[:n], err
}

// stream does one exchange over TCP (RFC 4120 section 7.2.2).
func (l *lane) stream(m []byte) ([]byte, error) {
	if _, err := l.conn.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(m))), m...)); err != nil {
		return nil, err
	}
	if _, err := io.ReadFull(l.conn, l.buf[:4]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(l.buf)
	if n == 0 || n > replyMax {
		return nil, fmt.Errorf("a reply of %d octets", n)
	}
	_, err := io.ReadFull(l.conn, l.buf[:n])
	return l.buf[:n], err
}

func (l *lane) hangUp() {
	if l.conn != nil {
		l.conn.Close()
		l.conn = nil
	}
}

package kdc

import (
	"context"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/charon-kdc/charon/kdc/kdb"
	"github.com/charon-kdc/charon/kdc/krb5"
)

// request is one message on its way through an exchange.
type request struct {
	Request
	now time.Time // the KDC's time, once for the whole exchange; UTC
	// stateNow is Config.StateNow's, once as well.
	stateNow time.Time
	msg      *krb5.KDCReq
	realm    *kdb.Realm // that of the server asked for
	names    names      // for a KRB-ERROR
	// proven: the sender has shown that it knows a key, so the bound on replies to strangers does not hold.
	proven bool
	ev     *Event
}

// waits tells the transport that this request does not compute from here on.
func (q *request) waits() {
	if q.Waiting != nil {
		q.Waiting()
	}
}

// Answer gives the reply to r, DER, or nil for none: to what is no AS-REQ or TGS-REQ (a KRB-ERROR above all), to source ports 88 and 464
// (CVE-2002-2443), to a request whose verdict did not come before ctx ended, and to a packet that is sent again, from the same
// address, while the first is being worked on.
// The caller must not change the slice: the lookaside cache gives it out again.
func (s *Server) Answer(ctx context.Context, r Request) []byte {
	now := s.cfg.Now().UTC()
	if r.Received.IsZero() {
		r.Received = s.cfg.Elapsed()
	}
	q := request{Request: r, now: now, stateNow: s.cfg.StateNow(), ev: &Event{Time: now, Type: "OTHER", Peer: r.Peer, Transport: "udp"}}
	if r.TCP {
		q.ev.Transport = "tcp"
	}
	reply := s.answer(ctx, &q)
	if s.cfg.Observe != nil {
		q.ev.Dropped = reply == nil
		q.ev.Duration = s.cfg.Elapsed().Sub(r.Received)
		s.cfg.Observe(q.ev)
	}
	return reply
}

func (s *Server) answer(ctx context.Context, q *request) []byte {
	msgType, ok := exchangeOf(q.Data)
	switch {
	case q.Peer.Port() == portKerberos || q.Peer.Port() == portKpasswd:
		q.ev.Status = "FROM_KDC_PORT"
		return nil
	case !ok:
		q.ev.Status = "NOT_A_REQUEST"
		return nil
	case len(q.Data) > requestBytesMax:
		q.ev.Status = "FIELD_TOOLONG"
		return nil
	}
	q.ev.Type = "AS"
	if msgType == krb5.MsgTGSReq {
		q.ev.Type = "TGS"
	}
	var reply []byte
	entry, wait := s.lookaside.claim(q.Data, q.Peer, q.TCP, q.Received)
	switch {
	case entry != nil:
		reply = s.work(ctx, q, msgType, entry)
	case wait == nil:
		q.ev.Lookaside, q.ev.Status = true, "IN_WORK"
		return nil
	default:
		reply = s.resent(ctx, q, wait)
	}
	return s.fit(q, reply)
}

// resent is the reply to a packet that was seen a moment ago, for which it may have to wait. What the first one proved holds for it, too.
func (s *Server) resent(ctx context.Context, q *request, e *lookasideEntry) []byte {
	q.ev.Lookaside, q.ev.Status = true, "ISSUE"
	o, done := s.lookaside.resultOf(e)
	if done != nil {
		q.ev.Status = "JOINED"
		q.waits()
		select {
		case <-done:
			o, _ = s.lookaside.resultOf(e)
		case <-ctx.Done():
			q.ev.Status = "HELD_TOO_LONG"
		}
	}
	q.proven = o.proven
	q.ev.Client, q.ev.Server, q.ev.TicketID, q.ev.FromTicketID = o.client, o.server, o.ticketID, o.fromTicketID
	return o.reply
}

// exchangeOf tells by the application tag whether b is an AS-REQ or a TGS-REQ.
func exchangeOf(b []byte) (krb5.MsgType, bool) {
	if len(b) < 2 {
		return 0, false
	}
	switch b[0] {
	case 0x60 | byte(krb5.MsgASReq):
		return krb5.MsgASReq, true
	case 0x60 | byte(krb5.MsgTGSReq):
		return krb5.MsgTGSReq, true
	}
	return 0, false
}

// work serves a request that is not being served already. A panic is this request's alone.
func (s *Server) work(ctx context.Context, q *request, t krb5.MsgType, entry *lookasideEntry) (reply []byte) {
	issued := false
	defer func() {
		if p := recover(); p != nil {
			s.cfg.Logger.Error("panic in a request", "type", q.ev.Type, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			q.ev.Status, q.ev.Code = "PANIC", krb5.ErrGeneric
			reply, issued = s.refusal(&krb5.Error{Code: krb5.ErrGeneric}, q.names, q.now), false
		}
		ev := q.ev
		s.lookaside.finish(entry, result{reply, q.proven, issued, ev.Client, ev.Server, ev.TicketID, ev.FromTicketID}, q.Received)
	}()
	reply, err := s.exchange(ctx, q, t)
	q.ev.Degraded = s.cfg.Store.Degraded()
	if err == nil {
		q.ev.Status, issued = "ISSUE", true
		return reply
	}
	e, status := classify(err)
	q.ev.Status = status
	q.ev.unissued()
	if status == "INTERNAL" {
		s.cfg.Logger.Error("serving a request", "type", q.ev.Type, "error", err)
	}
	if e == nil {
		return nil
	}
	q.ev.Code = e.Code
	return s.refusal(e, q.names, q.now)
}

func (s *Server) exchange(ctx context.Context, q *request, t krb5.MsgType) ([]byte, error) {
	msg, err := krb5.DecodeKDCReq(q.Data)
	if err != nil {
		return nil, silence{"MALFORMED"}
	}
	q.msg = msg
	b := &msg.ReqBody
	q.names = names{realm: b.Realm, sname: b.SName}
	q.ev.ETypes = append(q.ev.ETypes, b.EType[:min(len(b.EType), requestedETypesMax)]...)
	b.EType = distinctETypes(b.EType) // RawBody stays as it came
	if b.SName != nil {
		q.ev.Server = s.text(*b.SName, b.Realm)
	}
	if t == krb5.MsgASReq {
		return s.as(ctx, q)
	}
	return s.tgs(ctx, q)
}

// text is a principal for an Event, which nobody reads unless there is an observer.
func (s *Server) text(n krb5.PrincipalName, realm string) string {
	if s.cfg.Observe == nil {
		return ""
	}
	return krb5.FormatPrincipal(n, realm)
}

// fit holds a reply against what its path takes (RFC 4120 section 7.2.1), and against the bound on replies to strangers over UDP.
func (s *Server) fit(q *request, reply []byte) []byte {
	limit := q.ReplyMax
	if !q.TCP && !q.proven {
		bound := max(unprovenReplyBytes, unprovenReplyFactor*len(q.Data))
		if limit == 0 || bound < limit {
			limit = bound
		}
	}
	if limit == 0 || len(reply) <= limit {
		return reply
	}
	q.ev.Status, q.ev.Code = "RESPONSE_TOO_BIG", krb5.ErrResponseTooBig
	n := names{realm: q.names.realm, sname: q.names.sname}
	if q.msg == nil { // out of the lookaside cache
		if m, err := krb5.DecodeKDCReq(q.Data); err == nil {
			n = names{realm: m.ReqBody.Realm, sname: m.ReqBody.SName}
		}
	}
	return s.refusal(refused(krb5.ErrResponseTooBig, ""), n, q.now)
}

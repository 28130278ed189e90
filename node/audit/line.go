package audit

import (
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/charon-kdc/charon/adminapi"
	"github.com/charon-kdc/charon/kdc"
	"github.com/charon-kdc/charon/kdc/krb5/kcrypto"
)

// object appends one JSON object, one line. Empty values are left out.
type object struct {
	b     []byte
	first bool
}

func begin(dst []byte) object { return object{b: append(dst, '{'), first: true} }

func (o *object) end() []byte { return append(o.b, '}', '\n') }

func (o *object) key(k string) {
	if !o.first {
		o.b = append(o.b, ',')
	}
	o.first = false
	o.b = append(o.b, '"')
	o.b = append(o.b, k...)
	o.b = append(o.b, '"', ':')
}

func (o *object) str(k, v string) {
	if v != "" {
		o.key(k)
		o.b = appendString(o.b, v)
	}
}

func (o *object) num(k string, v int64) {
	if v != 0 {
		o.key(k)
		o.b = strconv.AppendInt(o.b, v, 10)
	}
}

func (o *object) flag(k string, v bool) {
	if v {
		o.key(k)
		o.b = append(o.b, "true"...)
	}
}

func (o *object) time(k string, t time.Time) {
	if !t.IsZero() {
		o.key(k)
		o.b = append(o.b, '"')
		o.b = t.UTC().AppendFormat(o.b, "2006-01-02T15:04:05.000Z")
		o.b = append(o.b, '"')
	}
}

func (o *object) etypes(k string, v []kcrypto.EType) {
	if len(v) == 0 {
		return
	}
	o.key(k)
	o.b = append(o.b, '[')
	for i, e := range v {
		if i > 0 {
			o.b = append(o.b, ',')
		}
		o.b = strconv.AppendInt(o.b, int64(e), 10)
	}
	o.b = append(o.b, ']')
}

// appendRequest is the line of one KDC request. Durations are microseconds, enctypes their numbers.
func appendRequest(dst []byte, node string, e *kdc.Event) []byte {
	o := begin(dst)
	o.time("time", e.Time)
	o.str("node", node)
	o.str("type", e.Type)
	o.str("status", e.Status)
	o.num("code", int64(e.Code))
	o.str("client", e.Client)
	o.str("server", e.Server)
	if e.Peer.IsValid() {
		o.key("peer")
		o.b = append(o.b, '"')
		o.b = e.Peer.AppendTo(o.b)
		o.b = append(o.b, '"')
	}
	o.str("transport", e.Transport)
	o.etypes("etypes", e.ETypes)
	o.num("session_etype", int64(e.SessionEType))
	o.num("ticket_etype", int64(e.TicketEType))
	o.num("reply_etype", int64(e.ReplyEType))
	o.str("preauth", e.PreAuth)
	o.num("failures", int64(e.Failures))
	o.num("failures_max", int64(e.FailuresMax))
	o.str("ticket", e.TicketID)
	o.str("from_ticket", e.FromTicketID)
	o.time("auth_time", e.AuthTime)
	o.time("end_time", e.EndTime)
	if e.Flags != 0 {
		o.str("flags", e.Flags.String())
	}
	o.str("replay", e.Replay)
	o.str("authenticator", e.Authenticator)
	o.flag("degraded", e.Degraded)
	o.num("replay_wait_us", e.ReplayWait.Microseconds())
	o.num("duration_us", e.Duration.Microseconds())
	o.flag("lookaside", e.Lookaside)
	o.flag("dropped", e.Dropped)
	return o.end()
}

// appendAdmin is the line of one admin call.
func appendAdmin(dst []byte, node string, e adminapi.AuditEvent) []byte {
	o := begin(dst)
	o.time("time", e.Time)
	o.str("node", node)
	o.str("type", "ADMIN")
	o.str("status", e.Code)
	o.str("method", e.Method)
	o.str("caller", e.Caller)
	o.str("target", e.Target)
	o.str("reason", e.Reason)
	o.num("duration_us", e.Duration.Microseconds())
	o.flag("forwarded", e.Forwarded)
	return o.end()
}

// appendNode is the line of an event of the node itself.
func appendNode(dst []byte, node string, e NodeEvent) []byte {
	o := begin(dst)
	o.time("time", e.Time)
	o.str("node", node)
	o.str("type", "NODE")
	o.str("status", e.Status)
	o.str("reason", e.Reason)
	o.str("authenticator", e.Authenticator)
	o.time("authenticator_time", e.AuthenticatorTime)
	o.num("count", int64(e.Count))
	return o.end()
}

// appendLost tells that lines are missing before it.
func appendLost(dst []byte, node string, now time.Time, lost, total uint64) []byte {
	o := begin(dst)
	o.time("time", now)
	o.str("node", node)
	o.str("type", "AUDIT")
	o.str("status", "LOST")
	o.num("lost", int64(lost))
	o.num("lost_total", int64(total))
	return o.end()
}

// appendThinned tells that lines of ordinary refusals were left out before it.
func appendThinned(dst []byte, node string, now time.Time, thinned, total uint64) []byte {
	o := begin(dst)
	o.time("time", now)
	o.str("node", node)
	o.str("type", "AUDIT")
	o.str("status", "THINNED")
	o.num("thinned", int64(thinned))
	o.num("thinned_total", int64(total))
	return o.end()
}

const hexDigits = "0123456789abcdef"

// appendString quotes s as JSON. Octets that are not UTF-8 become U+FFFD: names come from the network.
func appendString(b []byte, s string) []byte {
	b = append(b, '"')
	for i := 0; i < len(s); {
		c := s[i]
		switch {
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
			i++
		case c < 0x20 || c == 0x7f:
			b = append(b, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
			i++
		case c < utf8.RuneSelf:
			b = append(b, c)
			i++
		default:
			r, n := utf8.DecodeRuneInString(s[i:])
			switch {
			case r == utf8.RuneError && n == 1:
				b = append(b, `\ufffd`...)
			case r == '\u2028' || r == '\u2029':
				b = append(b, `\u202`...)
				b = append(b, hexDigits[r&15])
			default:
				b = append(b, s[i:i+n]...)
			}
			i += n
		}
	}
	return append(b, '"')
}

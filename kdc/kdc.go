// Package kdc is the Key Distribution Center of RFC 4120: the AS exchange (section 3.1) and the TGS exchange (section 3.3).
//
// It owns what may be issued to whom, in which words a request is refused, and what an audit line says. It is pure: request
// bytes, a kdb.Store, a kdb.Proofs, a clock and a random source in, reply bytes out. It must not know sockets, Raft, files
// or how principals are stored. RFC.md beside this file says which sections are implemented, and where we differ.
package kdc

import (
	"io"
	"log/slog"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/charon-kdc/charon/kdc/kdb"
	"github.com/charon-kdc/charon/kdc/krb5"
	"github.com/charon-kdc/charon/kdc/krb5/kcrypto"
)

const (
	clockSkewDefault = 5 * time.Minute
	clockSkewMax     = time.Hour
	requestBytesMax  = 64 << 10
	portKerberos     = 88
	portKpasswd      = 464
	// A UDP reply to who has proved nothing is at most this long, or this many times its request, whichever is more.
	unprovenReplyBytes  = 512
	unprovenReplyFactor = 3
	// requestedETypesMax bounds what an Event keeps of a request's enctypes.
	requestedETypesMax = 32
)

// Config is what a Server is made of.
type Config struct {
	// Store is the principal database. Required.
	Store kdb.Store
	// Proofs is the realm's shared replay cache and its attempt counters. Required.
	Proofs kdb.Proofs
	// Now is the clock. Required.
	Now func() time.Time
	// StateNow is the time by which deadlines in the state are held: lockouts and the end of retiring keys. It is the log's time, so that no step of this
	// node's clock ends a lockout early. Nil: Now.
	StateNow func() time.Time
	// Elapsed is a clock that never steps, for how long something took; only differences of it count. Nil: Now.
	Elapsed func() time.Time
	// Rand gives keys, confounders and nonces; it must be safe for concurrent use. Required.
	Rand io.Reader
	// ClockSkew is how far a client's clock may be off, either way (RFC 4120 section 3.1.3). At most 1h; zero means 5m.
	ClockSkew time.Duration
	// SkewNow, when not nil, is what the replay cache covers now: a smaller one than ClockSkew counts in its place.
	SkewNow func() time.Duration
	// Logger gets our own faults and panics, never a request's ordinary refusal. Nil: silence.
	Logger *slog.Logger
	// Observe gets one Event for each request, once, after the reply was decided. It must not block, and may keep the Event. Nil: none.
	Observe func(*Event)
	// AcceptIDLess accepts a ticket of a local client that carries no principal id, by name: for as long as TGTs from before an import
	// are alive. The zero value refuses it (KDC_ERR_TGT_REVOKED, status PRINCIPAL_ID_MISSING).
	AcceptIDLess bool
	// Limits bound the rates of AS requests.
	Limits Limits
	// Nodes is how many nodes the cluster has. It bounds how many failed proofs of one client may be under way on each of them while none is
	// counted. It must not block. Nil: 3.
	Nodes func() int
}

// Request is one message as a transport took it in.
type Request struct {
	// Data is the message without the TCP length prefix. Answer does not keep it, nor change it.
	Data        []byte
	Peer, Local netip.AddrPort
	TCP         bool
	// ReplyMax is the greatest reply in bytes; one which is over it becomes KRB_ERR_RESPONSE_TOO_BIG. 0: no bound.
	ReplyMax int
	// Received is when the message came in by Config.Elapsed, for Event.Duration. Zero: when Answer was called.
	Received time.Time
	// Waiting, when not nil, is called before the exchange waits for others: a verdict, a turn, freshness. Until then, and a little after the wait, it computes.
	Waiting func()
}

// Event is what happened to one request: the audit line and the metrics are made of it. Fields which were not learnt before
// a refusal are zero.
type Event struct {
	Time time.Time
	Type string // "AS", "TGS" or "OTHER"
	// Status is ISSUE, or the word for the refusal: MIT's where MIT has one.
	Status string
	// Code is what the KRB-ERROR said; 0 with a ticket, and with no reply at all.
	Code krb5.ErrorCode
	// Client and Server are principals in MIT's escaped text, realm included; empty when not learnt.
	Client, Server string
	Peer           netip.AddrPort
	Transport      string          // "udp" or "tcp"
	ETypes         []kcrypto.EType // as requested, at most 32; it aliases nothing
	SessionEType   kcrypto.EType   // of the session key issued
	TicketEType    kcrypto.EType   // of the ticket issued
	ReplyEType     kcrypto.EType   // of the reply's enc-part
	PreAuth        string          // the mechanism that proved the client: "enc-ts"; empty without
	// TicketID names the ticket issued, FromTicketID the one that was presented: 16 hex digits, the last 8 octets of
	// the ciphertext, which are the end of its HMAC (RFC 3962, RFC 8009) or under it (RFC 4757).
	TicketID, FromTicketID string
	AuthTime, EndTime      time.Time
	Flags                  krb5.TicketFlags // of the ticket issued
	// Replay is the shared cache's verdict: "fresh", "same", "repeat", "stale", "unavailable", or "local" for a proof this node had seen itself, or
	// "unconfirmed" for one that it had not and for which it did not wait for the others. Empty: not asked.
	Replay string
	// Authenticator names the authenticator presented, where the replay cache has a name for it: 16 hex digits.
	Authenticator string
	// Degraded: the node was cut off from the others and answered from what it has.
	Degraded bool
	// ReplayWait is how long the reply waited for the verdict after it was ready.
	ReplayWait time.Duration
	Duration   time.Duration
	// Lookaside: the reply is that of the same bytes a moment ago.
	Lookaside bool
	// Failures is the client's count of failed proofs as this node knows it, for an AS request that failed its proof; FailuresMax how many
	// its policy allows, 0 for any number.
	Failures, FailuresMax uint32
	// Dropped: no reply was sent; Status says why.
	Dropped bool
}

// unissued takes back what was noted of a ticket that does not leave after all.
func (e *Event) unissued() {
	e.TicketID, e.AuthTime, e.EndTime, e.Flags = "", time.Time{}, time.Time{}, 0
	e.SessionEType, e.TicketEType, e.ReplyEType = 0, 0, 0
}

// Server answers requests. It is safe for concurrent use and shares nothing between requests but the lookaside cache, what it
// knows of the node's freshness and, for clients that can be locked out, the tries that are not counted yet.
type Server struct {
	cfg       Config
	lookaside *lookaside
	guesses   *guesses
	limits    *limits
	// staleSince is when the node was first seen to be no longer fresh, by Config.Elapsed; nil while it is.
	staleSince atomic.Pointer[time.Time]
	// catchingUp holds one for each request that waits for keys which this node has yet to hear of.
	catchingUp chan struct{}
}

// skew is how far a client's clock may be off now.
func (s *Server) skew() time.Duration {
	if s.cfg.SkewNow == nil {
		return s.cfg.ClockSkew
	}
	return min(s.cfg.ClockSkew, s.cfg.SkewNow())
}

// New makes a Server. It panics when a required field of c is missing, or ClockSkew is out of range: those are the caller's errors, found at start.
func New(c Config) *Server {
	if c.Store == nil || c.Proofs == nil || c.Now == nil || c.Rand == nil {
		panic("kdc: Config needs Store, Proofs, Now and Rand")
	}
	if c.ClockSkew < 0 || c.ClockSkew > clockSkewMax {
		panic("kdc: Config.ClockSkew is out of range")
	}
	if c.ClockSkew == 0 {
		c.ClockSkew = clockSkewDefault
	}
	if c.StateNow == nil {
		c.StateNow = c.Now
	}
	if c.Elapsed == nil {
		c.Elapsed = c.Now
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return &Server{cfg: c, lookaside: newLookaside(), guesses: newGuesses(c.Nodes, c.Elapsed), limits: newLimits(c.Limits), catchingUp: make(chan struct{}, catchUpsMax)}
}

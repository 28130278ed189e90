package kdc

import (
	"hash/maphash"
	"net/netip"
	"slices"
	"time"

	"github.com/charon-kdc/charon/kdc/krb5"
	"github.com/charon-kdc/charon/kdc/limit"
)

// Limits bound what one sender, an address prefix, may have of AS exchanges that an attacker has most use for. Every one is tied to the prefix, so that nobody
// keeps others away from a name by asking for it. Who is over a limit gets no reply. The zero value bounds nothing.
type Limits struct {
	Prefixes limit.Prefixes
	// Exempt are balancers, NAT and proxies, behind which everybody has one address.
	Exempt []netip.Prefix
	// Principal is AS requests that name one client.
	Principal limit.Rate
	// Failures is failed proofs of one client. Over it, further proofs are not even looked at.
	Failures limit.Rate
	// Unknown is answers that there is no such principal.
	Unknown limit.Rate
}

// The words for the limits in Event.Status. None of them is MIT's, which has no limits.
const (
	statusPrincipalRate = "RATE_PRINCIPAL"
	statusFailureRate   = "RATE_FAILURES"
	statusUnknownRate   = "RATE_UNKNOWN"
)

// limitKeysMax is how many keys each limit remembers.
const limitKeysMax = 64 << 10

// limits is Limits at work.
type limits struct {
	cfg                          Limits
	seed                         maphash.Seed
	principal, failures, unknown *limit.Table
}

func newLimits(c Limits) *limits {
	return &limits{
		cfg: c, seed: maphash.MakeSeed(),
		principal: limit.NewTable(c.Principal, limitKeysMax),
		failures:  limit.NewTable(c.Failures, limitKeysMax),
		unknown:   limit.NewTable(c.Unknown, limitKeysMax),
	}
}

func (l *limits) exempt(q *request) bool {
	a := host(q.Peer)
	return slices.ContainsFunc(l.cfg.Exempt, func(p netip.Prefix) bool { return p.Contains(a) })
}

// client is the key of a client's name as one sender gives it. An alias is a name of its own: what counts is not known before the look-up.
func (l *limits) client(q *request, name *krb5.PrincipalName) uint64 {
	var h maphash.Hash
	h.SetSeed(l.seed)
	maphash.WriteComparable(&h, l.cfg.Prefixes.Of(q.Peer.Addr()))
	maphash.WriteComparable(&h, q.msg.ReqBody.Realm)
	for _, c := range name.NameString {
		maphash.WriteComparable(&h, c)
	}
	return h.Sum64()
}

func (l *limits) sender(q *request) uint64 {
	return maphash.Comparable(l.seed, l.cfg.Prefixes.Of(q.Peer.Addr()))
}

// admits a request for its client's name, before anything is looked up.
func (l *limits) admits(q *request, name *krb5.PrincipalName, now time.Time) error {
	if l.principal == nil || l.exempt(q) || l.principal.Allow(l.client(q, name), now) {
		return nil
	}
	return silence{statusPrincipalRate}
}

// mayTry tells, before any cryptography, whether a proof is worth a look.
func (l *limits) mayTry(q *request, now time.Time) error {
	if l.failures == nil || l.exempt(q) || l.failures.Has(l.client(q, q.msg.ReqBody.CName), now) {
		return nil
	}
	return silence{statusFailureRate}
}

// failed notes a failed proof.
func (l *limits) failed(q *request, now time.Time) {
	if l.failures != nil && !l.exempt(q) {
		l.failures.Allow(l.client(q, q.msg.ReqBody.CName), now)
	}
}

// tells lets the refusal err out that says that a name is unknown, or gives silence in its place.
func (l *limits) tells(q *request, err error, now time.Time) error {
	if l.unknown == nil || l.exempt(q) || l.unknown.Allow(l.sender(q), now) {
		return err
	}
	return silence{statusUnknownRate}
}

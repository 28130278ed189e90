package kdc

import (
	"time"

	"github.com/charon-kdc/charon/kdc/kdb"
	"github.com/charon-kdc/charon/kdc/krb5"
)

// endOfTime is "as long as you like": what the zero KerberosTime in till and rtime asks for (RFC 4120 section 5.4.1).
var endOfTime = time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)

// lifetimes of a ticket to be issued, in whole seconds. A zero renewTill is absent.
type lifetimes struct {
	start, end, renewTill time.Time
	// postdated: start is in the future, so the ticket is POSTDATED and INVALID.
	postdated bool
}

// bounds are the least of what client, server and realm allow. A principal's zero leaves it to the others.
type bounds struct{ life, renewable time.Duration }

func boundsOf(realm *kdb.Realm, ps ...*kdb.Principal) bounds {
	b := bounds{realm.MaxLife, realm.MaxRenewableLife}
	for _, p := range ps {
		if p == nil {
			continue
		}
		if p.MaxLife > 0 && p.MaxLife < b.life {
			b.life = p.MaxLife
		}
		if p.MaxRenewableLife > 0 && p.MaxRenewableLife < b.renewable {
			b.renewable = p.MaxRenewableLife
		}
	}
	return b
}

// startTime is RFC 4120 sections 3.1.3 and 3.3.3: now, unless POSTDATED asks for a time to come. A ticket may be postdated by
// the realm's renewable life at most: beyond that, keys will have changed.
func startTime(b *krb5.KDCReqBody, now time.Time, skew, postdateMax time.Duration) (start time.Time, postdated bool, err error) {
	switch {
	case b.From.IsZero() || !b.From.After(now):
		return now, false, nil
	case b.KDCOptions.Has(krb5.KDCOptPostdated):
		if b.From.Sub(now) > postdateMax {
			return start, false, refused(krb5.ErrCannotPostdate, "POSTDATE TOO FAR")
		}
		return b.From, true, nil
	case b.From.Sub(now) <= skew:
		return now, false, nil
	}
	return start, false, refused(krb5.ErrCannotPostdate, "POSTDATED NOT REQUESTED")
}

// requestedEnd is till or rtime with its zero read as the end of time.
func requestedEnd(t time.Time) time.Time {
	if t.IsZero() || t.Unix() == 0 {
		return endOfTime
	}
	return t
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// renewTill is the renew-till of a ticket that ends at end, or the zero time: the RENEWABLE option gives the request's rtime, and
// RENEWABLE-OK the requested till if that could not be met (RFC 4120 section 3.1.3). latest is what the header ticket allows. One that is not after
// end is none: the first renewal would shorten the ticket.
func renewTill(b *krb5.KDCReqBody, start, end, latest time.Time, renewable time.Duration, allowed bool) time.Time {
	var want time.Time
	switch {
	case !allowed || renewable <= 0:
		return time.Time{}
	case b.KDCOptions.Has(krb5.KDCOptRenewable):
		want = requestedEnd(b.RTime)
	case b.KDCOptions.Has(krb5.KDCOptRenewableOK) && b.Till.After(end): // not so for the zero till, which every end meets
		want = b.Till
	default:
		return time.Time{}
	}
	till := earlier(earlier(want, latest), start.Add(renewable))
	if !till.After(end) {
		return time.Time{}
	}
	return till
}

// asTimes is RFC 4120 section 3.1.3.
func asTimes(f *asFacts) (lifetimes, error) {
	now := f.now.Truncate(time.Second)
	bound := boundsOf(f.realm, f.client, f.server)
	start, postdated, err := startTime(f.body, now, f.skew, f.realm.MaxRenewableLife)
	if err != nil {
		return lifetimes{}, err
	}
	end := earlier(requestedEnd(f.body.Till), start.Add(bound.life))
	if !end.After(start) {
		return lifetimes{}, refused(krb5.ErrNeverValid, "NEVER_VALID")
	}
	allowed := !(f.client.Attributes | f.server.Attributes).Has(kdb.DisallowRenewable)
	return lifetimes{start, end, renewTill(f.body, start, end, endOfTime, bound.renewable, allowed), postdated}, nil
}

// tgsTimes is RFC 4120 section 3.3.3 for a request that neither renews nor validates.
//
// The life that service and realm allow counts from the new ticket's start, not from the TGT's as the RFC writes: by the letter a service
// with a shorter life than the TGT's age could not be reached at all. No other KDC does that.
func tgsTimes(f *tgsFacts) (lifetimes, error) {
	now := f.now.Truncate(time.Second)
	tgt := f.header
	bound := boundsOf(f.realm, f.client, f.server)
	start, postdated, err := startTime(f.body, now, f.skew, f.realm.MaxRenewableLife)
	if err != nil {
		return lifetimes{}, err
	}
	last := tgt.EndTime
	if postdated {
		last = postdatedEnd(f.body, tgt, now, start)
	}
	end := earlier(earlier(requestedEnd(f.body.Till), last), start.Add(bound.life))
	if !end.After(start) {
		if !now.Before(tgt.EndTime) {
			return lifetimes{}, refused(krb5.ErrTktExpired, "TKT_EXPIRED") // within the skew of its end, but no good for anything new
		}
		return lifetimes{}, refused(krb5.ErrNeverValid, "NEVER_VALID")
	}
	allowed := tgt.Flags.Has(krb5.FlagRenewable) && !attributesOf(f.client, f.server).Has(kdb.DisallowRenewable)
	renew := renewTill(f.body, start, end, tgt.RenewTill, bound.renewable, allowed)
	return lifetimes{start, end, renew, postdated}, nil
}

// postdatedEnd is how long a postdated ticket from tgt may live: what is left of tgt, or all of its life when RENEWABLE is asked for too
// (RFC 4120 section 2.4), and never beyond tgt's renew-till (section 3.3.3).
func postdatedEnd(b *krb5.KDCReqBody, tgt *krb5.EncTicketPart, now, start time.Time) time.Time {
	if !tgt.Flags.Has(krb5.FlagRenewable) || tgt.RenewTill.IsZero() {
		return tgt.EndTime
	}
	life := tgt.EndTime.Sub(now)
	if b.KDCOptions.Has(krb5.KDCOptRenewable) {
		life = tgt.EndTime.Sub(ticketStart(tgt))
	}
	return earlier(start.Add(life), tgt.RenewTill)
}

// renewTimes are those of a renewed ticket: the old life again, from now (RFC 4120 section 3.3.3), and not beyond what the
// principals are allowed today; but never an earlier end than it had.
func renewTimes(f *tgsFacts) (lifetimes, error) {
	now := f.now.Truncate(time.Second)
	old := f.header
	life := min(old.EndTime.Sub(ticketStart(old)), boundsOf(f.realm, f.client, f.server).life)
	end := earlier(old.RenewTill, now.Add(life))
	if end.Before(old.EndTime) {
		end = old.EndTime
	}
	if !end.After(now) {
		return lifetimes{}, refused(krb5.ErrTktExpired, "TKT_EXPIRED")
	}
	return lifetimes{start: now, end: end, renewTill: old.RenewTill}, nil
}

// ticketStart is starttime, or authtime where that is absent (RFC 4120 section 5.3).
func ticketStart(t *krb5.EncTicketPart) time.Time {
	if t.StartTime.IsZero() {
		return t.AuthTime
	}
	return t.StartTime
}

func attributesOf(ps ...*kdb.Principal) kdb.Attributes {
	var a kdb.Attributes
	for _, p := range ps {
		if p != nil {
			a |= p.Attributes
		}
	}
	return a
}

package krb5

import "time"

// Time is the client's time with its microseconds; microseconds outside 0 to 999999 count as none.
func (a *Authenticator) Time() time.Time { return withMicros(a.CTime, a.CUSec) }

// Time is the client's time with its microseconds; microseconds outside 0 to 999999 count as none.
func (p *PAEncTSEnc) Time() time.Time { return withMicros(p.PATimestamp, p.PAUSec) }

// withMicros keeps a hostile usec from moving a time that was checked in seconds elsewhere.
func withMicros(t time.Time, us int32) time.Time {
	if us < 0 || us > 999999 {
		return t
	}
	return t.Add(time.Duration(us) * time.Microsecond)
}

// SplitTime is t as a KerberosTime and Microseconds: whole seconds in UTC, and what is left of them (RFC 4120 sections 5.2.3 and 5.2.4).
func SplitTime(t time.Time) (time.Time, int32) {
	return time.Unix(t.Unix(), 0).UTC(), int32(t.Nanosecond() / 1000)
}

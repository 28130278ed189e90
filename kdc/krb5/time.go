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

// The calendar of KerberosTime, RFC 4120 section 5.2.3: package time does the same, several times slower.

// The years that a KerberosTime may have here. The zero time.Time, which means absent, lies before them; the epoch of Windows is the first.
const (
	yearMin = 1601
	yearMax = 9999
)

// parseTime reads YYYYMMDDHHMMSSZ.
func parseTime(b []byte) (time.Time, bool) {
	if len(b) != 15 || b[14] != 'Z' {
		return time.Time{}, false
	}
	for _, c := range b[:14] {
		if c < '0' || c > '9' {
			return time.Time{}, false
		}
	}
	two := func(i int) int { return int(b[i]-'0')*10 + int(b[i+1]-'0') }
	year, month, day, hour, minute, sec := two(0)*100+two(2), two(4), two(6), two(8), two(10), two(12)
	if year < yearMin || month < 1 || month > 12 || day < 1 || day > daysIn(year, month) || hour > 23 || minute > 59 || sec > 59 {
		return time.Time{}, false
	}
	secs := daysFromCivil(year, month, day)*86400 + int64(hour*3600+minute*60+sec)
	return time.Unix(secs, 0).UTC(), true
}

func daysIn(year, month int) int {
	switch month {
	case 4, 6, 9, 11:
		return 30
	case 2:
		if year%4 == 0 && (year%100 != 0 || year%400 == 0) {
			return 29
		}
		return 28
	}
	return 31
}

// daysFromCivil counts days from 1970-01-01 in the Gregorian calendar, for years from 1 on. Years begin in March, so that the leap day is last.
func daysFromCivil(year, month, day int) int64 {
	if month <= 2 {
		year--
		month += 12
	}
	era := year / 400
	yoe := year - era*400
	doy := (153*(month-3)+2)/5 + day - 1
	doe := yoe*365 + yoe/4 - yoe/100 + doy
	return int64(era)*146097 + int64(doe) - 719468
}

// civilFromDays is daysFromCivil backwards. A day outside the years 1 to about 30,000 gives year 0.
func civilFromDays(days int64) (year, month, day int) {
	days += 719468
	if days < 0 || days > 1<<24 {
		return 0, 1, 1
	}
	era := int(days / 146097)
	doe := int(days) - era*146097
	yoe := (doe - doe/1460 + doe/36524 - doe/146096) / 365
	doy := doe - (365*yoe + yoe/4 - yoe/100)
	mp := (5*doy + 2) / 153
	day = doy - (153*mp+2)/5 + 1
	month, year = mp+3, yoe+era*400
	if month > 12 {
		month, year = month-12, year+1
	}
	return year, month, day
}

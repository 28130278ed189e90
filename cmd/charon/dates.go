package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// unitSeconds are MIT getdate's fixed units; months and years go by the calendar.
var unitSeconds = map[string]int64{
	"second": 1, "sec": 1, "minute": 60, "min": 60, "hour": 3600, "day": 86400, "week": 7 * 86400, "fortnight": 14 * 86400,
}

var weekdays = map[string]time.Weekday{
	"sunday": 0, "sun": 0, "monday": 1, "mon": 1, "tuesday": 2, "tue": 2, "tues": 2, "wednesday": 3, "wed": 3, "wednes": 3,
	"thursday": 4, "thu": 4, "thur": 4, "thurs": 4, "friday": 5, "fri": 5, "saturday": 6, "sat": 6,
}

var months = map[string]time.Month{
	"january": 1, "jan": 1, "february": 2, "feb": 2, "march": 3, "mar": 3, "april": 4, "apr": 4, "may": 5, "june": 6, "jun": 6,
	"july": 7, "jul": 7, "august": 8, "aug": 8, "september": 9, "sep": 9, "sept": 9, "october": 10, "oct": 10,
	"november": 11, "nov": 11, "december": 12, "dec": 12,
}

// zones of getdate that have one meaning in North America, where it was written, and UTC's names. Hours east.
var zones = map[string]int{
	"gmt": 0, "utc": 0, "ut": 0, "z": 0, "est": -5, "edt": -4, "cst": -6, "cdt": -5, "mst": -7, "mdt": -6, "pst": -8, "pdt": -7, "cet": 1, "cest": 2, "met": 1, "eet": 2,
}

var ordinals = map[string]int{
	"last": -1, "this": 0, "next": 1, "first": 1, "third": 3, "fourth": 4, "fifth": 5, "sixth": 6, "seventh": 7, "eighth": 8, "ninth": 9, "tenth": 10, "eleventh": 11, "twelfth": 12,
}

// parseDate reads a point in time as MIT kadmin's getdate does: "now", "never" (the zero time), "tomorrow", "+7 days", "2 hours ago", "next month",
// "2030-01-31 10:00:00", "1/31/2030 10:05pm", "31 Jan 2030", "January 31, 2030 22:00 UTC", "20300131T100000Z" (RFC 3339 too), parts in
// any order. What has no zone is in now's zone. A date without time is at midnight.
func parseDate(text string, now time.Time) (time.Time, error) {
	bad := fmt.Errorf("%q is not a date; write for example \"2030-01-31 10:00:00\", \"+30 days\" or \"never\"", text)
	s := strings.ToLower(strings.TrimSpace(text))
	if s == "never" || s == "0" {
		return time.Time{}, nil
	}
	if s == "" || len(s) > 128 {
		return time.Time{}, bad
	}
	for _, layout := range []string{time.RFC3339, "20060102T150405Z07:00", "20060102150405Z07:00", "20060102T150405", "20060102150405", "20060102T1504"} {
		if t, err := time.ParseInLocation(layout, strings.ToUpper(s), now.Location()); err == nil {
			return t, nil
		}
	}
	d := dateParser{tokens: dateTokens(s), now: now, loc: now.Location()}
	t, ok := d.parse()
	if !ok {
		return time.Time{}, bad
	}
	return t, nil
}

// dateTokens cuts at blanks, commas and between digits and letters, and keeps "10:05:07", "1/31/2030" and "2030-01-31" whole.
func dateTokens(s string) []string {
	var out []string
	kind := func(c byte) int {
		switch {
		case c >= '0' && c <= '9' || c == ':' || c == '/':
			return 1
		case c >= 'a' && c <= 'z' || c == '.':
			return 2
		}
		return 0
	}
	start, current := 0, 0
	for i := 0; i <= len(s); i++ {
		k := 0
		if i < len(s) {
			k = kind(s[i])
			if current == 1 && s[i] == '-' && i+1 < len(s) && s[i+1] >= '0' && s[i+1] <= '9' && !strings.Contains(s[start:i], ":") {
				k = 1 // a date of dashes
			}
		}
		if k != current {
			if current != 0 {
				out = append(out, s[start:i])
			}
			start, current = i, k
		}
		if i < len(s) && k == 0 && (s[i] == '+' || s[i] == '-') {
			out = append(out, string(s[i]))
		}
	}
	return out
}

// dateParser collects what a text says of a date, a time, a zone and an offset.
type dateParser struct {
	tokens []string
	now    time.Time
	loc    *time.Location

	year, month, day   int
	hour, min, sec     int
	hasDate, hasTime   bool
	weekday            *time.Weekday
	weekdayNth         int
	relYears, relMonth int
	relSeconds         int64
	hasRelative        bool
	// lastYears and so on are what the last relative part added, for "ago".
	partYears, partMonths int
	partSeconds           int64
}

func (d *dateParser) parse() (time.Time, bool) {
	if len(d.tokens) == 0 {
		return time.Time{}, false
	}
	for len(d.tokens) > 0 {
		if !d.step() {
			return time.Time{}, false
		}
	}
	base := d.now.In(d.loc)
	y, m, day := base.Date()
	hour, mins, sec := base.Clock()
	nanos := base.Nanosecond()
	if d.hasDate {
		y, m, day = d.year, time.Month(d.month), d.day
	}
	switch {
	case d.hasTime:
		hour, mins, sec, nanos = d.hour, d.min, d.sec, 0
	case d.hasDate || d.weekday != nil:
		hour, mins, sec, nanos = 0, 0, 0, 0
	}
	t := time.Date(y, m, day, hour, mins, sec, nanos, d.loc)
	if d.hasDate && t.Day() != day {
		return time.Time{}, false // the 31st of a shorter month
	}
	if d.weekday != nil {
		ahead := (int(*d.weekday) - int(t.Weekday()) + 7) % 7
		if d.weekdayNth > 1 {
			ahead += 7 * (d.weekdayNth - 1)
		} else if d.weekdayNth < 0 {
			ahead -= 7
		}
		t = t.AddDate(0, 0, ahead)
	}
	return t.AddDate(d.relYears, d.relMonth, 0).Add(time.Duration(d.relSeconds) * time.Second), true
}

func (d *dateParser) peek(i int) string {
	if i < len(d.tokens) {
		return d.tokens[i]
	}
	return ""
}

func (d *dateParser) take(n int) { d.tokens = d.tokens[n:] }

// step reads one part.
func (d *dateParser) step() bool {
	t := d.peek(0)
	switch {
	case strings.Contains(t, ":"):
		return d.clock()
	case strings.Contains(t, "/"):
		return d.slashes()
	case strings.Contains(t, "-") && len(t) > 1:
		return d.dashes()
	case t == "+" || t == "-" || isNumber(t):
		return d.number()
	}
	return d.word()
}

func isNumber(s string) bool {
	_, err := strconv.ParseUint(s, 10, 31)
	return err == nil
}

func numbers(parts []string) ([]int, bool) {
	out := make([]int, len(parts))
	for i, p := range parts {
		n, err := strconv.ParseUint(p, 10, 31)
		if err != nil {
			return nil, false
		}
		out[i] = int(n)
	}
	return out, true
}

// clock is 10:05, 10:05:07, either with am or pm.
func (d *dateParser) clock() bool {
	n, ok := numbers(strings.Split(d.peek(0), ":"))
	if !ok || len(n) < 2 || len(n) > 3 || d.hasTime {
		return false
	}
	d.take(1)
	n = append(n, 0)
	return d.setTime(n[0], n[1], n[2])
}

func (d *dateParser) setTime(h, m, s int) bool {
	switch strings.ReplaceAll(d.peek(0), ".", "") {
	case "am":
		d.take(1)
		if h < 1 || h > 12 {
			return false
		}
		h %= 12
	case "pm":
		d.take(1)
		if h < 1 || h > 12 {
			return false
		}
		h = h%12 + 12
	}
	if h > 23 || m > 59 || s > 59 {
		return false
	}
	d.hour, d.min, d.sec, d.hasTime = h, m, s, true
	return true
}

func (d *dateParser) setDate(y, m, day int) bool {
	if y < 70 {
		y += 2000
	} else if y < 100 {
		y += 1900
	}
	if d.hasDate || y < 1970 || y > 9999 || m < 1 || m > 12 || day < 1 || day > 31 {
		return false
	}
	d.year, d.month, d.day, d.hasDate = y, m, day, true
	return true
}

// slashes is month/day or month/day/year.
func (d *dateParser) slashes() bool {
	n, ok := numbers(strings.Split(d.peek(0), "/"))
	if !ok || len(n) < 2 || len(n) > 3 {
		return false
	}
	d.take(1)
	if len(n) == 2 {
		n = append(n, d.now.Year())
	}
	if n[0] > 31 { // year/month/day
		n[0], n[1], n[2] = n[1], n[2], n[0]
	}
	return d.setDate(n[2], n[0], n[1])
}

// dashes is year-month-day.
func (d *dateParser) dashes() bool {
	n, ok := numbers(strings.Split(d.peek(0), "-"))
	if !ok || len(n) != 3 {
		return false
	}
	d.take(1)
	return d.setDate(n[0], n[1], n[2])
}

// number begins "+7 days", "7 days", "31 jan 2030", "10pm", or is a year behind a day and month.
func (d *dateParser) number() bool {
	sign := int64(1)
	if t := d.peek(0); t == "+" || t == "-" {
		if t == "-" {
			sign = -1
		}
		d.take(1)
	}
	n, err := strconv.ParseInt(d.peek(0), 10, 32)
	if err != nil {
		return false
	}
	next := strings.TrimSuffix(strings.ReplaceAll(d.peek(1), ".", ""), ",")
	switch {
	case d.relative(sign*n, next):
		d.take(2)
		return true
	case next == "am" || next == "pm":
		d.take(1)
		return !d.hasTime && d.setTime(int(n), 0, 0)
	case months[next] != 0:
		d.take(2)
		return d.setDate(d.yearBehind(), int(months[next]), int(n))
	}
	return false
}

// yearBehind takes a year if one stands there, else it is this year.
func (d *dateParser) yearBehind() int {
	if t := d.peek(0); len(t) == 4 && isNumber(t) {
		d.take(1)
		y, _ := strconv.Atoi(t)
		return y
	}
	return d.now.Year()
}

// relative adds n units, if unit is one.
func (d *dateParser) relative(n int64, unit string) bool {
	unit = strings.TrimSuffix(unit, "s")
	d.partYears, d.partMonths, d.partSeconds = 0, 0, 0
	switch {
	case unitSeconds[unit] != 0:
		d.partSeconds = n * unitSeconds[unit]
	case unit == "month":
		d.partMonths = int(n)
	case unit == "year":
		d.partYears = int(n)
	default:
		return false
	}
	d.hasRelative = true
	d.relYears, d.relMonth, d.relSeconds = d.relYears+d.partYears, d.relMonth+d.partMonths, d.relSeconds+d.partSeconds
	return true
}

// word is a month, a weekday, a zone, or one of getdate's words for a time.
func (d *dateParser) word() bool {
	w := strings.TrimSuffix(d.peek(0), ".")
	nth, isOrdinal := ordinals[w]
	zone, isZone := zones[w]
	weekday, isWeekday := weekdays[w]
	switch {
	case w == "now" || w == "today":
		d.take(1)
	case w == "tomorrow":
		d.relative(1, "day")
		d.take(1)
	case w == "yesterday":
		d.relative(-1, "day")
		d.take(1)
	case w == "ago" && d.hasRelative:
		d.relYears, d.relMonth, d.relSeconds = d.relYears-2*d.partYears, d.relMonth-2*d.partMonths, d.relSeconds-2*d.partSeconds
		d.hasRelative = false
		d.take(1)
	case isOrdinal && d.relative(int64(nth), d.peek(1)):
		d.take(2)
	case isOrdinal:
		next, ok := weekdays[d.peek(1)]
		if !ok || d.weekday != nil {
			return false
		}
		d.weekday, d.weekdayNth = &next, nth
		d.take(2)
	case months[w] != 0:
		d.take(1)
		n, err := strconv.Atoi(d.peek(0))
		if err != nil {
			return false
		}
		d.take(1)
		return d.setDate(d.yearBehind(), int(months[w]), n)
	case isWeekday && d.weekday == nil:
		d.weekday = &weekday
		d.take(1)
	case isZone:
		d.loc = time.FixedZone(strings.ToUpper(w), zone*3600)
		d.take(1)
	case d.relative(1, w):
		d.take(1)
	default:
		return false
	}
	return true
}

// parseLife reads a length of time in seconds: MIT's delta forms ("10h", "1d12h30m", "10:00", "10:00:00", "36000"), or getdate's ("10 hours",
// "7 days"). "unlimited" and "never" are 0, which means no bound.
func parseLife(text string, now time.Time) (int64, error) {
	bad := fmt.Errorf("%q is not a length of time; write for example 10h, 7d or \"90 days\"", text)
	s := strings.ToLower(strings.TrimSpace(text))
	if unbounded(s) {
		return 0, nil
	}
	if n, ok := deltaSeconds(s); ok {
		return n, nil
	}
	t, err := parseDate(s, now)
	if err != nil || t.IsZero() || t.Before(now) {
		return 0, bad
	}
	return int64(t.Sub(now).Round(time.Second) / time.Second), nil
}

// unbounded tells that a length of time is given as none at all, and not as zero.
func unbounded(text string) bool {
	s := strings.ToLower(strings.TrimSpace(text))
	return s == "unlimited" || s == "never"
}

// secondsMax is a hundred years.
const secondsMax = 100 * 366 * 86400

// deltaSeconds is krb5_string_to_deltat's: NdNhNmNs, hh:mm, hh:mm:ss, d-hh:mm:ss, or seconds.
func deltaSeconds(s string) (int64, bool) {
	if s == "" || len(s) > 40 {
		return 0, false
	}
	if n, err := strconv.ParseUint(s, 10, 33); err == nil {
		return int64(n), n <= secondsMax
	}
	days := int64(0)
	if d, rest, ok := strings.Cut(s, "-"); ok {
		n, err := strconv.ParseUint(d, 10, 16)
		if err != nil || !strings.Contains(rest, ":") {
			return 0, false
		}
		days, s = int64(n), rest
	}
	if strings.Contains(s, ":") {
		n, ok := numbers(strings.Split(s, ":"))
		if !ok || len(n) < 2 || len(n) > 3 || n[0] > 1e6 || n[1] > 59 {
			return 0, false
		}
		n = append(n, 0)
		total := days*86400 + int64(n[0])*3600 + int64(n[1])*60 + int64(n[2])
		return total, n[2] <= 59 && total <= secondsMax
	}
	total, digits, last := int64(0), "", int64(secondsMax)
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c >= '0' && c <= '9' {
			digits += string(c)
			continue
		}
		unit := map[byte]int64{'d': 86400, 'h': 3600, 'm': 60, 's': 1}[c]
		if c == ' ' && digits == "" {
			continue
		}
		n, err := strconv.ParseUint(digits, 10, 32)
		if err != nil || unit == 0 || unit >= last {
			return 0, false
		}
		total, digits, last = total+int64(n)*unit, "", unit
		if total > secondsMax {
			return 0, false
		}
	}
	return total, digits == ""
}

// dateMillis is parseDate for the API: 0 for never.
func dateMillis(text string, now time.Time) (int64, error) {
	t, err := parseDate(text, now)
	if err != nil || t.IsZero() {
		return 0, err
	}
	return t.UnixMilli(), nil
}

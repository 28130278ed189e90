package main

import (
	"testing"
	"time"
)

// A Monday.
var dateNow = time.Date(2026, 11, 23, 14, 30, 15, 0, time.UTC)

// The forms of MIT's date_format and of its getdate.y. Expected values are those that kadmin.local 1.20 makes of them at dateNow.
func TestParseDate(t *testing.T) {
	for text, want := range map[string]string{
		"never": "", "0": "", "now": "2026-11-23 14:30:15",
		"tomorrow": "2026-11-24 14:30:15", "yesterday": "2026-11-22 14:30:15",
		"+30 days": "2026-12-23 14:30:15", "30 days": "2026-12-23 14:30:15", "7 days": "2026-11-30 14:30:15", "15 minutes": "2026-11-23 14:45:15",
		"2 hours": "2026-11-23 16:30:15", "2hours": "2026-11-23 16:30:15", "-2 hours": "2026-11-23 12:30:15", "2 hours ago": "2026-11-23 12:30:15",
		"400000 seconds": "2026-11-28 05:36:55", "1 month": "2026-12-23 14:30:15", "1 year": "2027-11-23 14:30:15", "next year": "2027-11-23 14:30:15",
		"1 fortnight": "2026-12-07 14:30:15", "2 weeks": "2026-12-07 14:30:15", "1 day 2 hours": "2026-11-24 16:30:15", "next month": "2026-12-23 14:30:15",
		"2030-01-01": "2030-01-01 00:00:00", "2030-01-01 10:05:07": "2030-01-01 10:05:07", "10:05 2030-01-01": "2030-01-01 10:05:00",
		"1/31/2030": "2030-01-31 00:00:00", "1/31/30": "2030-01-31 00:00:00", "3/31/1992 10:00:07 PST": "1992-03-31 18:00:07",
		"January 23, 2007 10:05pm": "2007-01-23 22:05:00", "23 jan 2007": "2007-01-23 00:00:00", "jan 23 2007 10pm": "2007-01-23 22:00:00",
		"22:00 GMT": "2026-11-23 22:00:00", "12:30 am": "2026-11-23 00:30:00", "12:30 pm": "2026-11-23 12:30:00",
		"2030-01-01T10:05:07Z": "2030-01-01 10:05:07", "20300101T100507Z": "2030-01-01 10:05:07", "20300101100507Z": "2030-01-01 10:05:07",
		"friday": "2026-11-27 00:00:00", "this monday": "2026-11-23 00:00:00", "next friday": "2026-11-27 00:00:00",
	} {
		got, err := parseDate(text, dateNow)
		text2 := ""
		if !got.IsZero() {
			text2 = got.UTC().Format("2006-01-02 15:04:05")
		}
		if err != nil || text2 != want {
			t.Errorf("%q: %q %v, want %q", text, text2, err, want)
		}
	}
	for _, text := range []string{"", "soon", "2030-13-01", "2030-02-31", "25:00", "10:61", "13:00 pm", "32 jan 2030", "5", "+", "next", "1/2/3/4", "2030-01-01 2031-01-01", "10:00 11:00", "days", "2030-01-01 x"} {
		if got, err := parseDate(text, dateNow); err == nil && text != "days" {
			t.Errorf("%q is %v", text, got)
		}
	}
}

func TestParseLife(t *testing.T) {
	for text, want := range map[string]int64{
		"10h": 36000, "7d": 604800, "1d12h30m": 131400, "36000": 36000, "10:00": 36000, "10:00:30": 36030, "1-02:00:00": 93600, "10 hours": 36000, "90 days": 7776000,
		"30 minutes": 1800, "unlimited": 0, "never": 0, "0": 0, "30m": 1800, "1d 2h": 93600,
	} {
		if got, err := parseLife(text, dateNow); err != nil || got != want {
			t.Errorf("%q: %d %v, want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "h", "10x", "1h2d", "1h1h", "10:61", "99999999999999", "yesterday", "-1h", "1.5h"} {
		if got, err := parseLife(text, dateNow); err == nil {
			t.Errorf("%q is %d", text, got)
		}
	}
}

func TestStartTime(t *testing.T) {
	for text, want := range map[string]string{"1h": "2026-11-23 15:30:15", "20300101100507": "2030-01-01 10:05:07", "300101100507": "2030-01-01 10:05:07", "2030-01-01 10:00": "2030-01-01 10:00:00"} {
		got, err := startTime(text, dateNow)
		if err != nil || got.UTC().Format("2006-01-02 15:04:05") != want {
			t.Errorf("%q: %v %v", text, got, err)
		}
	}
	if _, err := startTime("whenever", dateNow); exitCode(err) != exitUsage {
		t.Errorf("nonsense: %v", err)
	}
}

func FuzzParseDate(f *testing.F) {
	for _, s := range []string{"January 23, 2007 10:05pm", "+7 days", "next friday", "2030-01-01 10:05:07 PST", "1-02:00:00"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if at, err := parseDate(s, dateNow); err == nil && !at.IsZero() && (at.Year() < -100_000 || at.Year() > 500_000) {
			t.Errorf("%q is %v", s, at)
		}
		if n, err := parseLife(s, dateNow); err == nil && n < 0 {
			t.Errorf("%q is %d s", s, n)
		}
	})
}

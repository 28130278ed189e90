// Package client is the asking side of Kerberos: the AS and TGS exchanges of RFC 4120 section 3 over UDP and TCP, and
// as much of krb5.conf as that needs.
//
// It owns what a client must check in a reply (nonce, names, times, keys) and how it goes from one KDC to the next. It
// must not know how a KDC decides, nor where credentials are stored.
package client

import (
	"crypto/rand"
	"io"
	"time"
)

// Via says how to reach a realm's KDCs, and by which clock and random source. The zero value of all but KDCs works.
type Via struct {
	// KDCs are "host" or "host:port" (port 88), asked in order; "tcp/host:port" is asked over TCP only.
	KDCs     []string
	Exchange ExchangeOptions
	Now      func() time.Time // nil: time.Now
	Rand     io.Reader        // nil: crypto/rand.Reader
	// Skew is how far the KDC's clock may be off, either way; zero means 5 m.
	Skew time.Duration
}

func (v *Via) now() time.Time {
	if v.Now != nil {
		return v.Now()
	}
	return time.Now()
}

func (v *Via) rand() io.Reader {
	if v.Rand != nil {
		return v.Rand
	}
	return rand.Reader
}

func (v *Via) skew() time.Duration {
	if v.Skew != 0 {
		return v.Skew
	}
	return 5 * time.Minute
}

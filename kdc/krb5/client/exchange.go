package client

import (
	"context"
	"time"
)

// ExchangeOptions say how Exchange carries a message. The zero value is MIT's behaviour.
type ExchangeOptions struct {
	// TCP asks over TCP only.
	TCP bool
	// UDPMax is the longest message in octets that goes over UDP first; zero means 1,465 (MIT's udp_preference_limit), negative none.
	UDPMax int
	// Passes is how often the list of KDCs is gone through over UDP; zero means 3.
	Passes int
	// Wait is how long the first pass waits for each KDC; it doubles with each pass. Zero means 1 s.
	Wait time.Duration
	// TCPTimeout bounds one KDC's connection, request and reply; zero means 10 s.
	TCPTimeout time.Duration
}

// Exchange sends msg, one KDC-REQ, to the KDCs in turn and returns the first reply and the address that gave it.
// KRB_ERR_RESPONSE_TOO_BIG repeats the same bytes over TCP (RFC 4120 section 7.2.1), KDC_ERR_SVC_UNAVAILABLE asks the
// next KDC; any other KRB-ERROR is a reply. The error is an *UnreachableError when nobody answered, or ctx's.
func Exchange(ctx context.Context, kdcs []string, msg []byte, o ExchangeOptions) (reply []byte, addr string, err error) {
	return nil, "", &UnreachableError{}
}

// UnreachableError says that no KDC answered, and what became of each.
type UnreachableError struct {
	Tried []TriedKDC
}

// TriedKDC is one KDC that did not answer.
type TriedKDC struct {
	Addr string // with "udp/" or "tcp/" before it
	Err  error
}

func (e *UnreachableError) Error() string { return "no KDC answered" }

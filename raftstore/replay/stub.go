// Package replay is the replicated replay cache and the counters of failed attempts, in memory (RAFT.md sections 2, 3 and 5).
package replay

import (
	"errors"
	"io"
	"time"
)

var errStub = errors.New("not written yet")

type Verdict uint8

// Equal to kdb.Verdict's values.
const (
	Fresh Verdict = iota + 1
	Same
	Repeat
	Stale
)

// Proof is one authenticator: K and R are keyed hashes (RAFT.md section 2), CTime seconds since the epoch.
type Proof struct {
	K     [16]byte
	R     [8]byte
	CTime int64
}

// Attempt is a proof of a client's password.
type Attempt struct {
	Proof
	Principal [16]byte
	Failed    bool
	// Window in seconds: a failure more than this after the last one starts the count anew; 0 never.
	Window uint32
	// UnlockedAt in ms: failures counted before it are void.
	UnlockedAt int64
}

// Activity of one principal; times in ms since the epoch, 0 for never.
type Activity struct {
	Failures                 uint32
	LastFailure, LastSuccess int64
}

const ItemsMax = 16384

// EncodeBatch is one log entry; verdicts come first for proofs, then for attempts.
func EncodeBatch(leaderTime int64, proofs []Proof, attempts []Attempt) ([]byte, error) {
	return nil, errStub
}
func EncodeSkew(leaderTime int64, skew time.Duration) ([]byte, error)            { return nil, errStub }
func EncodeEpoch(leaderTime int64, id [16]byte, notBefore int64) ([]byte, error) { return nil, errStub }

type State struct{}

func New() *State { return nil }

// Apply applies one entry; one verdict an item.
func (s *State) Apply(entry []byte) ([]Verdict, error) { return nil, errStub }
func (s *State) Activity(principal [16]byte) Activity  { return Activity{} }
func (s *State) Contains(p Proof) Verdict              { return 0 }
func (s *State) Now() int64                            { return 0 }
func (s *State) Skew() time.Duration                   { return 0 }
func (s *State) Epoch() (id [16]byte, notBefore int64) { return }
func (s *State) Restore(r io.Reader) error             { return errStub }

// Stats for metrics.
type Stats struct {
	Items, Buckets, Counters int
	OldestCTime              int64
}

func (s *State) Stats() Stats        { return Stats{} }
func (s *State) Snapshot() *Snapshot { return nil }

type Snapshot struct{}

func (s *Snapshot) Size() int64                        { return 0 }
func (s *Snapshot) WriteTo(w io.Writer) (int64, error) { return 0, errStub }

// Paced limits w to so many bytes a second and calls sync after each 8 MiB.
func Paced(w io.Writer, bytesPerSecond int, now func() time.Time, sleep func(time.Duration), sync func() error) io.Writer {
	return w
}

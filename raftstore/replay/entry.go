package replay

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"time"
)

// A log entry is one or more parts, one behind the other, little endian:
//
//	u8 version, u8 kind, i64 leader time in ms since the epoch, u32 n, n items
//
// An item's time is an i32 of seconds relative to the part's leader time (rounded down to a second).
//
//	kind 1, proofs    16 B K, 8 B R, i32 time
//	kind 2, attempts  16 B K, 8 B R, i32 time, 16 B principal id, u8 flags (1: failed), u32 window, i64 unlocked at
//	kind 3, skew      u32 seconds; n is 1
//	kind 4, epoch     16 B id, i64 not before; n is 1
//	kind 5, journal   as proofs; feature level 2
//	kind 6, hold      u8 (1: on, 0: off); n is 1; feature level 2
const (
	entryVersion = 1
	partHeader   = 1 + 1 + 8 + 4

	kindProofs   = 1
	kindAttempts = 2
	kindSkew     = 3
	kindEpoch    = 4
	kindJournal  = 5
	kindHold     = 6

	flagFailed = 1

	// ItemsMax bounds the items of an entry, of all its parts together.
	ItemsMax = 16384
	partsMax = 16
)

// kindLevel is the feature level that a kind needs (raftstore/realm has the levels). What is added here is of the newest level.
var kindLevel = [...]uint32{kindProofs: 1, kindAttempts: 1, kindSkew: 1, kindEpoch: 1, kindJournal: MergeLevel, kindHold: MergeLevel}

// CheckLevel refuses an entry that holds a kind above a feature level: the cluster's before it is proposed, the node's before it is applied.
// Bytes that are no entry pass; Apply refuses them.
func CheckLevel(b []byte, level uint32) error {
	for len(b) >= partHeader {
		kind, n := int(b[1]), uint64(binary.LittleEndian.Uint32(b[10:]))
		if kind >= len(kindLevel) {
			return nil
		}
		if kindLevel[kind] > level {
			return fmt.Errorf("%w: entry of kind %d, which needs feature level %d, not %d", ErrTooNew, kind, kindLevel[kind], level)
		}
		size := partHeader + n*uint64(itemSize[kind])
		if size > uint64(len(b)) {
			return nil
		}
		b = b[size:]
	}
	return nil
}

// MergeLevel is the feature level from which on EncodeJournal's and EncodeHold's entries may be proposed.
const MergeLevel = 2

var itemSize = [...]int{kindProofs: 28, kindAttempts: 57, kindSkew: 4, kindEpoch: 24, kindJournal: 28, kindHold: 1}

// ErrTooMany says that an entry would hold more than ItemsMax items.
var ErrTooMany = errors.New("too many items for one replay entry")

// EncodeBatch is one log entry of proofs and attempts, stamped with the leader's time in ms. Apply's verdicts come for
// proofs first, then for attempts. Both may be empty: time moves all the same. Error: ErrTooMany.
func EncodeBatch(leaderTime int64, proofs []Proof, attempts []Attempt) ([]byte, error) {
	if n := len(proofs) + len(attempts); n > ItemsMax {
		return nil, fmt.Errorf("%w: %d, at most %d", ErrTooMany, n, ItemsMax)
	}
	b := make([]byte, 0, 2*partHeader+len(proofs)*itemSize[kindProofs]+len(attempts)*itemSize[kindAttempts])
	if len(proofs) > 0 || len(attempts) == 0 {
		b = appendPart(b, kindProofs, leaderTime, len(proofs))
		for i := range proofs {
			b = appendProof(b, leaderTime, &proofs[i])
		}
	}
	if len(attempts) > 0 {
		b = appendPart(b, kindAttempts, leaderTime, len(attempts))
		for i := range attempts {
			b = appendAttempt(b, leaderTime, &attempts[i])
		}
	}
	return b, nil
}

// EncodeSkew is the entry that sets the largest clock skew that a node may allow: 1 s to SkewMax, whole seconds. To raise
// it, nodes act on it only once it is applied.
func EncodeSkew(leaderTime int64, skew time.Duration) ([]byte, error) {
	if skew < time.Second || skew > SkewMax || skew%time.Second != 0 {
		return nil, fmt.Errorf("clock skew %v: 1s to %v in whole seconds", skew, SkewMax)
	}
	b := appendPart(nil, kindSkew, leaderTime, 1)
	return binary.LittleEndian.AppendUint32(b, uint32(skew/time.Second)), nil
}

// EncodeEpoch is the entry that begins a new epoch; notBefore is in ms, and skew + Slack after the recovery it follows.
func EncodeEpoch(leaderTime int64, e Epoch) ([]byte, error) {
	if e.NotBefore <= 0 {
		return nil, fmt.Errorf("replay epoch not before %d ms: must be positive", e.NotBefore)
	}
	b := appendPart(nil, kindEpoch, leaderTime, 1)
	b = append(b, e.ID[:]...)
	return binary.LittleEndian.AppendUint64(b, uint64(e.NotBefore)), nil
}

// EncodeJournal is the part of an entry that tells what a node accepted while it was cut off, to be appended to a batch or to stand
// alone. Verdicts: Fresh or Same, nobody accepted it in another request; Repeat, somebody did (and it is counted in Stats.Doubles); Stale,
// nobody can tell any more, but it is kept for the next journal. No time is too old. Error: ErrTooMany.
func EncodeJournal(leaderTime int64, proofs []Proof) ([]byte, error) {
	if len(proofs) > ItemsMax {
		return nil, fmt.Errorf("%w: %d, at most %d", ErrTooMany, len(proofs), ItemsMax)
	}
	b := appendPart(make([]byte, 0, partHeader+len(proofs)*itemSize[kindJournal]), kindJournal, leaderTime, len(proofs))
	for i := range proofs {
		b = appendProof(b, leaderTime, &proofs[i])
	}
	return b, nil
}

// EncodeHold is the entry that has the state keep what it would forget, as long as a member is away that may bring a journal: at most
// HeldMax items, of which the oldest go first. Off forgets them.
func EncodeHold(leaderTime int64, on bool) []byte {
	b := appendPart(nil, kindHold, leaderTime, 1)
	if on {
		return append(b, 1)
	}
	return append(b, 0)
}

func appendPart(b []byte, kind byte, leaderTime int64, n int) []byte {
	b = append(b, entryVersion, kind)
	b = binary.LittleEndian.AppendUint64(b, uint64(leaderTime))
	return binary.LittleEndian.AppendUint32(b, uint32(n))
}

func appendProof(b []byte, leaderTime int64, p *Proof) []byte {
	b = append(append(b, p.K[:]...), p.R[:]...)
	// A difference that does not fit is Stale either way.
	d := min(max(p.CTime-floorDiv(leaderTime, 1000), math.MinInt32), math.MaxInt32)
	return binary.LittleEndian.AppendUint32(b, uint32(int32(d)))
}

func appendAttempt(b []byte, leaderTime int64, a *Attempt) []byte {
	b = append(appendProof(b, leaderTime, &a.Proof), a.Principal[:]...)
	var flags byte
	if a.Failed {
		flags = flagFailed
	}
	b = binary.LittleEndian.AppendUint32(append(b, flags), a.Window)
	return binary.LittleEndian.AppendUint64(b, uint64(a.UnlockedAt))
}

// part is one part of an entry, its bytes checked.
type part struct {
	kind  byte
	time  int64
	n     int
	items []byte
}

// decodeEntry checks a whole entry, so that Apply can't stop half-way, and counts the items that get a verdict.
func decodeEntry(b []byte) (parts []part, verdicts int, err error) {
	if len(b) == 0 {
		return nil, 0, fmt.Errorf("%w: empty entry", ErrCorrupt)
	}
	for len(b) > 0 {
		p, rest, err := decodePart(b)
		if err != nil {
			return nil, 0, err
		}
		if p.kind == kindProofs || p.kind == kindAttempts || p.kind == kindJournal {
			verdicts += p.n
		}
		if parts, b = append(parts, p), rest; verdicts > ItemsMax || len(parts) > partsMax {
			return nil, 0, fmt.Errorf("%w: entry of %d parts and %d items", ErrCorrupt, len(parts), verdicts)
		}
	}
	return parts, verdicts, nil
}

func decodePart(b []byte) (p part, rest []byte, err error) {
	if b[0] != entryVersion {
		return p, nil, fmt.Errorf("%w: entry of version %d", ErrTooNew, b[0])
	}
	if len(b) < partHeader {
		return p, nil, fmt.Errorf("%w: entry ends early", ErrCorrupt)
	}
	p = part{kind: b[1], time: int64(binary.LittleEndian.Uint64(b[2:]))}
	if p.kind < kindProofs || p.kind > kindHold {
		return p, nil, fmt.Errorf("%w: entry of kind %d", ErrTooNew, p.kind)
	}
	n := binary.LittleEndian.Uint32(b[10:])
	b = b[partHeader:]
	if n > ItemsMax || int(n)*itemSize[p.kind] > len(b) {
		return p, nil, fmt.Errorf("%w: %d items of kind %d in %d bytes", ErrCorrupt, n, p.kind, len(b))
	}
	if p.time < 0 || p.time > timeMax {
		return p, nil, fmt.Errorf("%w: entry of time %d", ErrCorrupt, p.time)
	}
	p.n = int(n)
	p.items, rest = b[:p.n*itemSize[p.kind]], b[p.n*itemSize[p.kind]:]
	return p, rest, p.check()
}

// timeMax, in ms, is the year 10889: sums of times do not overflow.
const timeMax = 1 << 48

func (p *part) check() error {
	switch p.kind {
	case kindAttempts:
		for i := range p.n {
			if f := p.item(i)[44]; f&^flagFailed != 0 {
				return fmt.Errorf("%w: attempt with flags %#x", ErrTooNew, f)
			}
		}
	case kindSkew:
		if p.n != 1 || p.skew() < 1 || p.skew() > int64(SkewMax/time.Second) {
			return fmt.Errorf("%w: skew entry", ErrCorrupt)
		}
	case kindEpoch:
		if p.n != 1 || p.epoch().NotBefore <= 0 || p.epoch().NotBefore > timeMax {
			return fmt.Errorf("%w: epoch entry", ErrCorrupt)
		}
	case kindHold:
		if p.n != 1 || p.items[0] > 1 {
			return fmt.Errorf("%w: hold entry", ErrCorrupt)
		}
	}
	return nil
}

func (p *part) item(i int) []byte { return p.items[i*itemSize[p.kind]:] }

func (p *part) proof(i int) (out Proof) {
	b := p.item(i)
	copy(out.K[:], b)
	copy(out.R[:], b[16:])
	out.CTime = floorDiv(p.time, 1000) + int64(int32(binary.LittleEndian.Uint32(b[24:])))
	return out
}

func (p *part) attempt(i int) Attempt {
	b := p.item(i)
	return Attempt{
		Proof: p.proof(i), Principal: [16]byte(b[28:44]), Failed: b[44] == flagFailed,
		Window: binary.LittleEndian.Uint32(b[45:]), UnlockedAt: int64(binary.LittleEndian.Uint64(b[49:])),
	}
}

func (p *part) skew() int64 {
	if len(p.items) < 4 {
		return 0
	}
	return int64(binary.LittleEndian.Uint32(p.items))
}

func (p *part) epoch() (e Epoch) {
	if len(p.items) >= 24 {
		e.ID, e.NotBefore = [16]byte(p.items), int64(binary.LittleEndian.Uint64(p.items[16:]))
	}
	return e
}

package raftstore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"time"

	"github.com/charon-kdc/charon/kdc/kdb"
	"github.com/charon-kdc/charon/raftstore/replay"
)

// The stream between a node and the replay leader, little endian. Node to leader, one frame:
//
//	u32 length of what follows
//	u64 frame id, i64 node's wall clock in ms, u32 clock skew in s that the node is to allow, u8 flags (1: commit even if empty), u32 n
//	n items: u8 kind; 16 B K, 8 B R, i64 time in s; an attempt (kind 2) adds 16 B principal, u8 failed, u32 window, i64 unlocked at;
//	kind 3 is a proof that the node accepted while it was cut off (feature level 2)
//
// Leader to node, one answer a frame, in any order:
//
//	u32 length of what follows
//	u64 frame id, u8 status (0: verdicts follow; 1: not the leader), u64 index of the entry (0: none was needed), u32 n, n verdict bytes
const (
	frameHeader  = 8 + 8 + 4 + 1 + 4
	answerHeader = 8 + 1 + 8 + 4
	proofSize    = 1 + 16 + 8 + 8
	attemptSize  = proofSize + 16 + 1 + 4 + 8
	// frameItems bounds a frame: four of the largest fill an entry.
	frameItems = replay.ItemsMax / 4
	frameMax   = frameHeader + frameItems*attemptSize
	answerMax  = answerHeader + frameItems

	flagCommit = 1

	skewSecondsMax = uint32(replay.SkewMax / time.Second)

	statusOK        = 0
	statusNotLeader = 1

	kindProof   = 1
	kindAttempt = 2
	kindJournal = 3
)

var errFrame = errors.New("malformed replay frame")

// item is one proof on its way to the log.
type item struct {
	replay.Attempt // the part beyond Proof counts for attempts only
	attempt        bool
	// merge: a proof that is not asked about but told, since it was accepted without the log (replay.EncodeJournal).
	merge bool
}

type frame struct {
	id     uint64
	clock  int64
	skew   uint32
	commit bool
	items  []item
}

func appendFrame(b []byte, f *frame) []byte {
	start := len(b)
	b = append(b, 0, 0, 0, 0)
	b = binary.LittleEndian.AppendUint64(b, f.id)
	b = binary.LittleEndian.AppendUint64(b, uint64(f.clock))
	b = binary.LittleEndian.AppendUint32(b, f.skew)
	var flags byte
	if f.commit {
		flags = flagCommit
	}
	b = append(b, flags)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(f.items)))
	for i := range f.items {
		b = appendItem(b, &f.items[i])
	}
	binary.LittleEndian.PutUint32(b[start:], uint32(len(b)-start-4))
	return b
}

func appendItem(b []byte, it *item) []byte {
	kind := byte(kindProof)
	switch {
	case it.attempt:
		kind = kindAttempt
	case it.merge:
		kind = kindJournal
	}
	b = append(b, kind)
	b = append(b, it.K[:]...)
	b = append(b, it.R[:]...)
	b = binary.LittleEndian.AppendUint64(b, uint64(it.CTime))
	if !it.attempt {
		return b
	}
	b = append(b, it.Principal[:]...)
	var failed byte
	if it.Failed {
		failed = 1
	}
	b = binary.LittleEndian.AppendUint32(append(b, failed), it.Window)
	return binary.LittleEndian.AppendUint64(b, uint64(it.UnlockedAt))
}

// readBlock reads a length and that many bytes, at most max.
func readBlock(r io.Reader, max int) ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	n := binary.LittleEndian.Uint32(head[:])
	if int64(n) > int64(max) {
		return nil, fmt.Errorf("%w: %d bytes, at most %d", errFrame, n, max)
	}
	b := make([]byte, n)
	_, err := io.ReadFull(r, b)
	return b, err
}

func decodeFrame(b []byte) (*frame, error) {
	if len(b) < frameHeader {
		return nil, errFrame
	}
	f := &frame{
		id:     binary.LittleEndian.Uint64(b),
		clock:  int64(binary.LittleEndian.Uint64(b[8:])),
		skew:   binary.LittleEndian.Uint32(b[16:]),
		commit: b[20] == flagCommit,
	}
	n := binary.LittleEndian.Uint32(b[21:])
	if b[20] > flagCommit || n > frameItems || f.skew > skewSecondsMax {
		return nil, errFrame
	}
	b = b[frameHeader:]
	if uint64(len(b)) < uint64(n)*proofSize {
		return nil, errFrame
	}
	f.items = make([]item, n)
	for i := range f.items {
		var ok bool
		if b, ok = decodeItem(b, &f.items[i]); !ok {
			return nil, errFrame
		}
	}
	if len(b) > 0 {
		return nil, errFrame
	}
	return f, nil
}

func decodeItem(b []byte, it *item) (rest []byte, ok bool) {
	if len(b) < proofSize {
		return nil, false
	}
	kind := b[0]
	copy(it.K[:], b[1:])
	copy(it.R[:], b[17:])
	it.CTime = int64(binary.LittleEndian.Uint64(b[25:]))
	b = b[proofSize:]
	switch kind {
	case kindProof, kindJournal:
		it.merge = kind == kindJournal
		return b, true
	case kindAttempt:
		if len(b) < attemptSize-proofSize || b[16] > 1 {
			return nil, false
		}
		it.attempt = true
		copy(it.Principal[:], b)
		it.Failed = b[16] == 1
		it.Window = binary.LittleEndian.Uint32(b[17:])
		it.UnlockedAt = int64(binary.LittleEndian.Uint64(b[21:]))
		return b[attemptSize-proofSize:], true
	default:
		return nil, false
	}
}

type frameAnswer struct {
	id       uint64
	ok       bool
	index    uint64
	verdicts []kdb.Verdict
}

func appendAnswer(b []byte, a *frameAnswer) []byte {
	b = binary.LittleEndian.AppendUint32(b, uint32(answerHeader+len(a.verdicts)))
	b = binary.LittleEndian.AppendUint64(b, a.id)
	if a.ok {
		b = append(b, statusOK)
	} else {
		b = append(b, statusNotLeader)
	}
	b = binary.LittleEndian.AppendUint64(b, a.index)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(a.verdicts)))
	for _, v := range a.verdicts {
		b = append(b, byte(v))
	}
	return b
}

func decodeAnswer(b []byte) (*frameAnswer, error) {
	if len(b) < answerHeader {
		return nil, errFrame
	}
	a := &frameAnswer{id: binary.LittleEndian.Uint64(b), ok: b[8] == statusOK, index: binary.LittleEndian.Uint64(b[9:])}
	n := binary.LittleEndian.Uint32(b[17:])
	b = b[answerHeader:]
	if n > math.MaxInt32 || len(b) != int(n) {
		return nil, errFrame
	}
	a.verdicts = make([]kdb.Verdict, n)
	for i, v := range b {
		if v < byte(kdb.Fresh) || v > byte(kdb.Stale) {
			return nil, errFrame
		}
		a.verdicts[i] = kdb.Verdict(v)
	}
	return a, nil
}

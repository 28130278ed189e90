package raftstore

import (
	"bytes"
	"reflect"
	"testing"

	"github.com/charon-kdc/charon/kdc/kdb"
	"github.com/charon-kdc/charon/raftstore/replay"
)

func sampleFrame() *frame {
	proof := replay.Proof{K: [16]byte{1, 2}, R: [8]byte{3}, CTime: -5}
	return &frame{id: 7, clock: 1_700_000_000_123, skew: 3600, commit: true, items: []item{
		{Attempt: replay.Attempt{Proof: proof}},
		{Attempt: replay.Attempt{Proof: proof, Principal: [16]byte{9}, Failed: true, Window: 60, UnlockedAt: 1 << 40}, attempt: true},
		{Attempt: replay.Attempt{Proof: proof, Principal: [16]byte{8}}, attempt: true},
		{Attempt: replay.Attempt{Proof: proof}, merge: true},
	}}
}

func TestFrames(t *testing.T) {
	for _, f := range []*frame{sampleFrame(), {id: 1, items: []item{}}} {
		b := appendFrame(nil, f)
		body, err := readBlock(bytes.NewReader(b), frameMax)
		if err != nil {
			t.Fatal(err)
		}
		got, err := decodeFrame(body)
		if err != nil || !reflect.DeepEqual(got, f) {
			t.Fatalf("%+v, %v; want %+v", got, err, f)
		}
		for n := range body {
			if _, err := decodeFrame(body[:n]); err == nil {
				t.Fatalf("decoded %d of %d bytes", n, len(body))
			}
		}
		if _, err := decodeFrame(append(body, 0)); err == nil {
			t.Error("decoded with a byte too many")
		}
	}
	if _, err := decodeFrame(appendFrame(nil, &frame{skew: 3601})[4:]); err == nil {
		t.Error("a clock skew of more than an hour was taken")
	}
	if _, err := readBlock(bytes.NewReader([]byte{0xff, 0xff, 0xff, 0xff}), frameMax); err == nil {
		t.Error("a length of 4 GiB was believed")
	}
}

func TestAnswers(t *testing.T) {
	for _, a := range []*frameAnswer{
		{id: 3, ok: true, index: 1 << 40, verdicts: []kdb.Verdict{kdb.Fresh, kdb.Stale, kdb.Same, kdb.Repeat}},
		{id: 4, verdicts: []kdb.Verdict{}},
	} {
		body, err := readBlock(bytes.NewReader(appendAnswer(nil, a)), answerMax)
		if err != nil {
			t.Fatal(err)
		}
		got, err := decodeAnswer(body)
		if err != nil || !reflect.DeepEqual(got, a) {
			t.Fatalf("%+v, %v; want %+v", got, err, a)
		}
	}
	bad := appendAnswer(nil, &frameAnswer{ok: true, verdicts: []kdb.Verdict{0}})[4:]
	if _, err := decodeAnswer(bad); err == nil {
		t.Error("a verdict of 0 was taken")
	}
}

func FuzzDecodeFrame(f *testing.F) {
	f.Add(appendFrame(nil, sampleFrame())[4:])
	f.Fuzz(func(t *testing.T, b []byte) {
		fr, err := decodeFrame(b)
		if err != nil {
			return
		}
		if again := appendFrame(nil, fr)[4:]; !bytes.Equal(again, b) {
			t.Fatalf("%x decodes and encodes to %x", b, again)
		}
	})
}

func FuzzDecodeAnswer(f *testing.F) {
	f.Add(appendAnswer(nil, &frameAnswer{id: 1, ok: true, verdicts: []kdb.Verdict{kdb.Same}})[4:])
	f.Fuzz(func(t *testing.T, b []byte) {
		if a, err := decodeAnswer(b); err == nil && len(a.verdicts) > len(b) {
			t.Fatal("more verdicts than bytes")
		}
	})
}

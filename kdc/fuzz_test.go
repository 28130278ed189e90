package kdc

import (
	"encoding/hex"
	"path/filepath"
	"testing"
	"time"

	"github.com/charon-kdc/charon/kdc/krb5"
)

// FuzzAnswer: whatever octets come, the answer is silence, a KRB-ERROR or a ticket, and nothing panics. The realm is that of the captures, whose
// requests are the seeds, with the clock of the recording.
func FuzzAnswer(f *testing.F) {
	w := labWorld(f)
	w.clock = time.Unix(1795318425, 0).UTC()
	files, err := filepath.Glob(filepath.Join(captureDir, "*.json"))
	if err != nil || len(files) == 0 {
		f.Fatal("no seeds", err)
	}
	for _, file := range files {
		if filepath.Base(file) == "keys.json" {
			continue
		}
		var c capture
		readCapture(f, file, &c)
		for _, m := range c.Messages {
			if b, err := hex.DecodeString(m.Request.Hex); err == nil {
				f.Add(b)
			}
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		w.events = w.events[:0]
		reply := w.kdc.Answer(t.Context(), Request{Data: b, Peer: testPeer, TCP: true})
		if len(w.events) != 1 {
			t.Fatalf("%d events", len(w.events))
		}
		ev := w.events[0]
		if ev.Status == "" || ev.Status == "PANIC" || ev.Status == "INTERNAL" || ev.Dropped != (reply == nil) {
			t.Fatalf("event %+v", ev)
		}
		if reply == nil {
			return
		}
		if _, err := krb5.DecodeKRBError(reply); err == nil {
			return
		}
		if _, err := krb5.DecodeKDCRep(reply); err != nil {
			t.Fatalf("%s", describe(reply))
		}
	})
}

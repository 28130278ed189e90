package kdb

import (
	"bytes"
	"testing"
	"time"

	"github.com/charon-kdc/charon/kdc/krb5/kcrypto"
)

// TestCurrentKey: only active keys of the current kvno issue.
func TestCurrentKey(t *testing.T) {
	now := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	made := byte(0)
	mk := func(kvno uint32, e kcrypto.EType, s KeyState, until time.Time) Key {
		made++
		k, err := kcrypto.NewKey(e, bytes.Repeat([]byte{made}, e.KeySize()))
		if err != nil {
			t.Fatal(err)
		}
		return Key{KVNO: kvno, EType: e, State: s, RetireAt: until, Key: k}
	}
	p := &Principal{KVNO: 2, Keys: []Key{
		mk(3, 20, KeyStaged, time.Time{}),
		mk(2, 20, KeyActive, time.Time{}),
		mk(2, 18, KeyActive, time.Time{}),
		mk(2, 17, KeyRetiring, time.Time{}),
		mk(1, 20, KeyRetiring, now.Add(time.Hour)),
		mk(1, 18, KeyRetiring, time.Time{}),
	}}
	for _, c := range []struct {
		e    kcrypto.EType
		want int // index in Keys, -1 for none
	}{{20, 1}, {18, 2}, {17, -1}, {19, -1}, {23, -1}} {
		k, ok := p.CurrentKey(c.e)
		if ok != (c.want >= 0) || ok && k != p.Keys[c.want].Key {
			t.Errorf("current key of %v: %v", c.e, ok)
		}
	}
}

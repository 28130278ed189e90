package kdb

import (
	"bytes"
	"testing"
	"time"

	"github.com/charon-kdc/charon/kdc/krb5/kcrypto"
)

// TestKeysByState: who issues, who opens. Staged keys do neither, retiring ones open until their end.
func TestKeysByState(t *testing.T) {
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
	if got := p.CurrentKeys(); len(got) != 2 || got[0].Key != p.Keys[1].Key || got[1].Key != p.Keys[2].Key {
		t.Errorf("current keys %+v", got)
	}
	for _, c := range []struct {
		e    kcrypto.EType
		want int // index in Keys, -1 for none
	}{{20, 1}, {18, 2}, {17, -1}, {19, -1}, {23, -1}} {
		k, ok := p.CurrentKey(c.e)
		if ok != (c.want >= 0) || ok && k != p.Keys[c.want].Key {
			t.Errorf("current key of %v: %v", c.e, ok)
		}
	}
	for _, c := range []struct {
		kvno uint32
		e    kcrypto.EType
		at   time.Duration
		want int
	}{
		{2, 20, 0, 1}, {2, 17, 0, 3}, {3, 20, 0, -1}, {4, 20, 0, -1}, {0, 20, 0, -1},
		{1, 20, 0, 4}, {1, 20, time.Hour - 1, 4}, {1, 20, time.Hour, -1}, {1, 18, 10000 * time.Hour, 5},
	} {
		k, ok := p.OpeningKey(c.kvno, c.e, now.Add(c.at))
		if ok != (c.want >= 0) || ok && k != p.Keys[c.want].Key {
			t.Errorf("kvno %d, %v, after %v: %v", c.kvno, c.e, c.at, ok)
		}
	}
	if none := (&Principal{}).CurrentKeys(); none != nil {
		t.Errorf("%v", none)
	}
}

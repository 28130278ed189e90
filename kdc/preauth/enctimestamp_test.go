package preauth

import (
	"bytes"
	"crypto/rand"
	"errors"
	"testing"
	"time"

	"github.com/charon-kdc/charon/kdc/kdb"
	"github.com/charon-kdc/charon/kdc/krb5"
	"github.com/charon-kdc/charon/kdc/krb5/kcrypto"
)

var now = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

func key(t *testing.T, e kcrypto.EType) *kcrypto.Key {
	t.Helper()
	k, err := kcrypto.GenerateKey(rand.Reader, e)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// timestamp seals at under k and usage u.
func timestamp(t *testing.T, k *kcrypto.Key, u kcrypto.Usage, at time.Time) krb5.PAData {
	t.Helper()
	ts := krb5.PAEncTSEnc{HasPAUSec: true}
	ts.PATimestamp, ts.PAUSec = krb5.SplitTime(at)
	plain, err := krb5.EncodePAEncTSEnc(&ts)
	if err != nil {
		t.Fatal(err)
	}
	return sealed(t, k, u, plain)
}

func sealed(t *testing.T, k *kcrypto.Key, u kcrypto.Usage, plain []byte) krb5.PAData {
	t.Helper()
	ed, err := krb5.Seal(k, 0, rand.Reader, u, plain)
	if err != nil {
		t.Fatal(err)
	}
	v, err := krb5.EncodeEncryptedData(&ed)
	if err != nil {
		t.Fatal(err)
	}
	return krb5.PAData{PADataType: krb5.PAEncTimestamp, PADataValue: v}
}

// TestEncTimestamp tries every kind of key and time. A guess that was wrong shows its ciphertext, to be counted; what was no guess does not.
func TestEncTimestamp(t *testing.T) {
	const usage, skew = kcrypto.UsagePAEncTimestamp, 5 * time.Minute
	good, old, staged, retiring, stranger := key(t, 18), key(t, 18), key(t, 20), key(t, 19), key(t, 18)
	client := &kdb.Principal{KVNO: 2, Keys: []kdb.Key{
		{KVNO: 3, EType: 20, Key: staged, State: kdb.KeyStaged},
		{KVNO: 2, EType: 18, Key: good},
		{KVNO: 2, EType: 19, Key: retiring, State: kdb.KeyRetiring},
		{KVNO: 1, EType: 18, Key: old},
	}}
	for _, c := range []struct {
		name  string
		pa    krb5.PAData
		code  krb5.ErrorCode
		guess bool
	}{
		{"right", timestamp(t, good, usage, now), 0, true},
		{"at the edge behind", timestamp(t, good, usage, now.Add(-skew)), 0, true},
		{"at the edge ahead", timestamp(t, good, usage, now.Add(skew)), 0, true},
		{"a microsecond behind the edge", timestamp(t, good, usage, now.Add(-skew-time.Microsecond)), krb5.ErrSkew, false},
		{"a microsecond ahead of the edge", timestamp(t, good, usage, now.Add(skew+time.Microsecond)), krb5.ErrSkew, false},
		{"in the year 9999", timestamp(t, good, usage, time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)), krb5.ErrSkew, false},
		{"in 1970", timestamp(t, good, usage, time.Unix(0, 0)), krb5.ErrSkew, false},
		{"another key", timestamp(t, stranger, usage, now), krb5.ErrPreauthFailed, true},
		{"the old password", timestamp(t, old, usage, now), krb5.ErrPreauthFailed, true},
		{"another usage", timestamp(t, good, kcrypto.UsageASRepEncPart, now), krb5.ErrPreauthFailed, true},
		{"something else in it", sealed(t, good, usage, []byte{0x30, 0}), krb5.ErrPreauthFailed, true},
		{"nothing in it", sealed(t, good, usage, nil), krb5.ErrPreauthFailed, true},
		{"a staged key", timestamp(t, staged, usage, now), krb5.ErrEtypeNoSupp, false},
		{"a retiring key", timestamp(t, retiring, usage, now), krb5.ErrEtypeNoSupp, false},
		{"an enctype without a key", timestamp(t, key(t, 17), usage, now), krb5.ErrEtypeNoSupp, false},
		{"no EncryptedData", krb5.PAData{PADataType: krb5.PAEncTimestamp, PADataValue: []byte("x")}, krb5.ErrPreauthFailed, false},
		{"empty", krb5.PAData{PADataType: krb5.PAEncTimestamp}, krb5.ErrPreauthFailed, false},
	} {
		p, err := EncTimestamp{}.Verify(&Exchange{Client: client, Now: now, Skew: skew}, c.pa)
		if (p.Seen != nil) != c.guess {
			t.Errorf("%s: Seen %x", c.name, p.Seen)
		}
		if c.code == 0 {
			if err != nil || p.Key != good || p.Time.IsZero() || p.Hardware || !bytes.Contains(c.pa.PADataValue, p.Seen) {
				t.Errorf("%s: %+v, %v", c.name, p, err)
			}
			continue
		}
		if e, ok := errors.AsType[*krb5.Error](err); !ok || e.Code != c.code || e.Status == "" || p.Key != nil {
			t.Errorf("%s: %+v, %v, want %v", c.name, p, err, c.code)
		}
	}
}

// TestOffer: the hint goes to whoever has an active key of the current version.
func TestOffer(t *testing.T) {
	k := key(t, 18)
	for _, c := range []struct {
		key  kdb.Key
		want bool
	}{
		{kdb.Key{KVNO: 1, Key: k}, true},
		{kdb.Key{KVNO: 2, Key: k}, false},
		{kdb.Key{KVNO: 1, Key: k, State: kdb.KeyStaged}, false},
		{kdb.Key{KVNO: 1, Key: k, State: kdb.KeyRetiring}, false},
	} {
		v, ok := EncTimestamp{}.Offer(&kdb.Principal{KVNO: 1, Keys: []kdb.Key{c.key}})
		if ok != c.want || v != nil {
			t.Errorf("%+v: %v %v", c.key, v, ok)
		}
	}
	if _, ok := (EncTimestamp{}).Offer(&kdb.Principal{}); ok {
		t.Error("offered to who has no key")
	}
}

// FuzzEncTimestamp: any octets are a proof, or a *krb5.Error.
func FuzzEncTimestamp(f *testing.F) {
	k, err := kcrypto.NewKey(18, bytes.Repeat([]byte{7}, 32))
	if err != nil {
		f.Fatal(err)
	}
	ed, err := krb5.Seal(k, 0, bytes.NewReader(make([]byte, 64)), kcrypto.UsagePAEncTimestamp, []byte("\x30\x11\xa0\x0f\x18\x0d"))
	if err != nil {
		f.Fatal(err)
	}
	seed, err := krb5.EncodeEncryptedData(&ed)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed)
	f.Add([]byte(nil))
	client := &kdb.Principal{Keys: []kdb.Key{{EType: 18, Key: k}}}
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := EncTimestamp{}.Verify(&Exchange{Client: client, Now: now, Skew: time.Minute}, krb5.PAData{PADataValue: b})
		if _, ok := errors.AsType[*krb5.Error](err); err != nil && !ok || err == nil && p.Seen == nil {
			t.Fatalf("%+v %v", p, err)
		}
	})
}

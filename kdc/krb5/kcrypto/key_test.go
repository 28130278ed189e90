package kcrypto

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
)

func TestNewKeyRefuses(t *testing.T) {
	for _, c := range []struct {
		e EType
		n int
	}{{AES256SHA1, 31}, {AES256SHA1, 33}, {AES128SHA2, 32}, {RC4HMAC, 0}, {16, 24}, {1, 8}, {0, 0}, {-135, 16}, {25, 16}} {
		if _, err := NewKey(c.e, make([]byte, c.n)); !errors.Is(err, ErrEType) {
			t.Errorf("NewKey(%v, %d octets): %v, want ErrEType", c.e, c.n, err)
		}
	}
	if _, err := GenerateKey(counter(), 16); !errors.Is(err, ErrEType) {
		t.Errorf("GenerateKey(16): %v, want ErrEType", err)
	}
	if _, err := StringToKey(3, "p", "s", nil); !errors.Is(err, ErrEType) {
		t.Errorf("StringToKey(3): %v, want ErrEType", err)
	}
}

func TestKeyCopiesAndCompares(t *testing.T) {
	b := bytes.Repeat([]byte{7}, 32)
	k, err := NewKey(AES256SHA1, b)
	if err != nil {
		t.Fatal(err)
	}
	b[0] = 8
	k.Bytes()[1] = 9
	if !bytes.Equal(k.AppendTo([]byte("x")), append([]byte("x"), bytes.Repeat([]byte{7}, 32)...)) {
		t.Error("the key changed with the caller's slices")
	}
	same, _ := NewKey(AES256SHA1, bytes.Repeat([]byte{7}, 32))
	other, _ := NewKey(AES256SHA2, bytes.Repeat([]byte{7}, 32))
	if _, err := same.Encrypt(counter(), 1, nil); err != nil {
		t.Fatal(err)
	}
	if !k.Equal(same) || k.Equal(other) || k.Equal(nil) || !(*Key)(nil).Equal(nil) || (*Key)(nil).Equal(k) {
		t.Error("Equal must look at enctype and octets, and at nothing else")
	}
}

func TestKeyNeverPrintsItsOctets(t *testing.T) {
	k := testKey(t, AES256SHA1)
	holder := struct{ K *Key }{k}
	var log bytes.Buffer
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "key", k, "holder", holder)
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "key", k, "holder", holder)
	js, err := json.Marshal(holder)
	if err != nil || string(js) != `{"K":"[key etype=18]"}` {
		t.Errorf("JSON: %s, %v", js, err)
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d"} {
		if got := fmt.Sprintf(verb, k); got != "[key etype=18]" {
			t.Errorf("%s: %s", verb, got)
		}
		fmt.Fprintf(&log, verb, []*Key{k})
	}
	all := strings.ToLower(log.String() + string(js))
	for _, secret := range []string{hex.EncodeToString(k.Bytes()[:4]), "1 2 3 4", "1,2,3,4", "0x1, 0x2"} {
		if strings.Contains(all, secret) {
			t.Errorf("found %q in:\n%s", secret, all)
		}
	}
	if got := fmt.Sprint((*Key)(nil)); got != "[key nil]" {
		t.Errorf("nil key: %s", got)
	}
}

func TestRoundTripEveryLength(t *testing.T) {
	for _, e := range etypes {
		k := testKey(t, e)
		for n := range 100 {
			plain := bytes.Repeat([]byte{0xa5}, n)
			c, err := k.AppendEncrypt([]byte("head"), counter(), UsageTicket, plain)
			if err != nil || len(c) != 4+k.CipherLen(n) || string(c[:4]) != "head" {
				t.Fatalf("%v, %d octets: %d octets, %v", e, n, len(c), err)
			}
			got, err := k.Decrypt(UsageTicket, c[4:])
			if err != nil || !bytes.Equal(got, plain) {
				t.Fatalf("%v, %d octets: %x, %v", e, n, got, err)
			}
		}
	}
}

// The plaintext may already stand where the ciphertext goes: a caller that encodes into the reply buffer saves a copy.
func TestEncryptInPlace(t *testing.T) {
	for _, e := range etypes {
		k := testKey(t, e)
		plain := []byte("a ticket, encoded where it will be sealed")
		want, err := k.Encrypt(counter(), UsageTicket, plain)
		if err != nil {
			t.Fatal(err)
		}
		at := k.p.confSize
		if e == RC4HMAC {
			at += k.p.macSize
		}
		buf := make([]byte, k.CipherLen(len(plain)))
		copy(buf[at:], plain)
		got, err := k.AppendEncrypt(buf[:0], counter(), UsageTicket, buf[at:at+len(plain)])
		if err != nil || !bytes.Equal(got, want) || &got[0] != &buf[0] {
			t.Errorf("%v: %x (%v), want %x in the same place", e, got, err, want)
		}
	}
}

func TestTamperedCiphertext(t *testing.T) {
	for _, e := range etypes {
		k, other := testKey(t, e), passwordKey(t, e, "other")
		c, err := k.Encrypt(counter(), UsageTicket, []byte("twenty-one octets yes"))
		if err != nil {
			t.Fatal(err)
		}
		refused := func(what string, err error) {
			t.Helper()
			if err != ErrIntegrity { // not wrapped: nothing may say which part failed
				t.Errorf("%v: %s: %v, want ErrIntegrity", e, what, err)
			}
		}
		for i := range c {
			bad := bytes.Clone(c)
			bad[i] ^= 0x40
			_, err := k.Decrypt(UsageTicket, bad)
			refused(fmt.Sprintf("octet %d changed", i), err)
			_, err = k.Decrypt(UsageTicket, c[:i])
			refused(fmt.Sprintf("cut to %d octets", i), err)
		}
		_, err = k.Decrypt(UsageTicket, append(bytes.Clone(c), 0))
		refused("one octet more", err)
		_, err = k.Decrypt(UsagePAEncTimestamp, c)
		refused("another usage", err)
		_, err = other.Decrypt(UsageTicket, c)
		refused("another key", err)
	}
}

func TestVerifyChecksumRefuses(t *testing.T) {
	for _, e := range etypes {
		k := testKey(t, e)
		sum, err := k.Checksum(UsageTGSReqChecksum, []byte("body"))
		if err != nil {
			t.Fatal(err)
		}
		own := e.ChecksumType()
		if err := k.VerifyChecksum(own, UsageTGSReqChecksum, []byte("body"), sum); err != nil {
			t.Errorf("%v: %v", e, err)
		}
		for _, ct := range []ChecksumType{MD5, SHA1, 0, 1, -137, HMACSHA196AES128, HMACSHA196AES256, HMACSHA256128AES128, HMACSHA384192AES256, HMACMD5} {
			if ct == own {
				continue
			}
			if err := k.VerifyChecksum(ct, UsageTGSReqChecksum, []byte("body"), sum); !errors.Is(err, ErrChecksumType) {
				t.Errorf("%v: checksum type %d: %v, want ErrChecksumType", e, ct, err)
			}
		}
		flipped := bytes.Clone(sum)
		flipped[len(flipped)-1] ^= 1
		for what, err := range map[string]error{
			"cut":           k.VerifyChecksum(own, UsageTGSReqChecksum, []byte("body"), sum[:len(sum)-1]),
			"empty":         k.VerifyChecksum(own, UsageTGSReqChecksum, []byte("body"), nil),
			"long":          k.VerifyChecksum(own, UsageTGSReqChecksum, []byte("body"), append(bytes.Clone(sum), 0)),
			"flipped":       k.VerifyChecksum(own, UsageTGSReqChecksum, []byte("body"), flipped),
			"other data":    k.VerifyChecksum(own, UsageTGSReqChecksum, []byte("bodY"), sum),
			"another usage": k.VerifyChecksum(own, UsageKRBSafe, []byte("body"), sum),
		} {
			if err != ErrIntegrity {
				t.Errorf("%v: %s: %v, want ErrIntegrity", e, what, err)
			}
		}
	}
}

func TestRandomSourceFails(t *testing.T) {
	broken := iotest.ErrReader(errors.New("no entropy"))
	if _, err := GenerateKey(broken, AES256SHA1); err == nil {
		t.Error("a key without random octets")
	}
	dst := []byte("kept")
	got, err := testKey(t, AES256SHA1).AppendEncrypt(dst, broken, 1, []byte("x"))
	if err == nil || string(got) != "kept" {
		t.Errorf("a confounder without random octets: %q, %v", got, err)
	}
}

func TestIterationBounds(t *testing.T) {
	for _, e := range etypes[:4] {
		least := DefaultS2KParams(e)
		for _, p := range [][]byte{{}, least} {
			if k, err := StringToKey(e, "p", "s", p); err != nil || !k.Equal(mustStringToKey(t, e, "p", "s")) {
				t.Errorf("%v with params %x: %v, %v", e, p, k, err)
			}
		}
		below := bytes.Clone(least)
		below[2]--
		for _, p := range [][]byte{below, {0, 0, 0, 0}, {0, 0x10, 0, 1}, {0xff, 0xff, 0xff, 0xff}, least[:3], append(bytes.Clone(least), 0)} {
			if _, err := StringToKey(e, "p", "s", p); !errors.Is(err, ErrParams) {
				t.Errorf("%v with params %x: %v, want ErrParams", e, p, err)
			}
		}
	}
}

func mustStringToKey(t testing.TB, e EType, password, salt string) *Key {
	t.Helper()
	k, err := StringToKey(e, password, salt, nil)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// One key serves all goroutines of a KDC; each must get what a key of its own would give. Run with -race.
func TestConcurrentUse(t *testing.T) {
	for _, e := range etypes {
		shared := testKey(t, e)
		var wg sync.WaitGroup
		for g := range 8 {
			wg.Go(func() {
				own := testKey(t, e)
				for i := range 60 {
					u := Usage(i % 7)
					plain := []byte(fmt.Sprintf("goroutine %d message %d", g, i))
					c, err := shared.Encrypt(counter(), u, plain)
					if err != nil {
						t.Error(err)
						return
					}
					if p, err := own.Decrypt(u, c); err != nil || !bytes.Equal(p, plain) {
						t.Errorf("%v: %q, %v", e, p, err)
					}
					sum, _ := shared.Checksum(u, plain)
					if err := own.VerifyChecksum(e.ChecksumType(), u, plain, sum); err != nil {
						t.Errorf("%v: %v", e, err)
					}
				}
			})
		}
		wg.Wait()
	}
}

// Usages come from code, but a key must not grow without bound whatever it is asked for; and past the bound it still works.
func TestDerivedKeysAreBounded(t *testing.T) {
	for _, e := range etypes {
		k := testKey(t, e)
		for u := range Usage(5 * derivedMax) {
			c, err := k.Encrypt(counter(), u, []byte("x"))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := k.Decrypt(u, c); err != nil {
				t.Fatalf("%v usage %d: %v", e, u, err)
			}
		}
		n := 0
		for d := k.derived.Load(); d != nil; d = d.next {
			n++
		}
		if n != derivedMax {
			t.Errorf("%v: %d derived keys kept, want %d", e, n, derivedMax)
		}
	}
}

func FuzzDecrypt(f *testing.F) {
	for _, e := range etypes {
		c, err := testKey(f, e).Encrypt(counter(), 2, []byte("plaintext of a ticket"))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(int32(e), uint32(2), c)
		f.Add(int32(e), uint32(3), c[:len(c)-1])
	}
	f.Fuzz(func(t *testing.T, e int32, u uint32, b []byte) {
		if !EType(e).Supported() {
			return
		}
		k := testKey(t, EType(e))
		plain, err := k.Decrypt(Usage(u), b)
		if err != nil && (err != ErrIntegrity || plain != nil) {
			t.Fatalf("%x, %v", plain, err)
		}
		if err == nil && len(b) != k.CipherLen(len(plain)) {
			t.Fatalf("%d octets decrypted to %d", len(b), len(plain))
		}
		if k.VerifyChecksum(EType(e).ChecksumType(), Usage(u), b, b) == nil {
			t.Fatal("octets that are their own checksum")
		}
	})
}

// A usage has three keys; what a Key remembers of one must never serve as another.
func TestDerivedKeysAreNotMixedUp(t *testing.T) {
	for _, e := range etypes {
		fresh, used := testKey(t, e), testKey(t, e)
		if _, err := used.Encrypt(counter(), 0, []byte("x")); err != nil {
			t.Fatal(err)
		}
		want, _ := fresh.Checksum(0, []byte("data"))
		if got, err := used.Checksum(0, []byte("data")); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%v: a checksum after an encryption is %x (%v), on its own %x", e, got, err, want)
		}
		wantPRF, _ := testKey(t, e).PRF([]byte("data"))
		if got, err := used.PRF([]byte("data")); err != nil || !bytes.Equal(got, wantPRF) {
			t.Errorf("%v: the PRF after an encryption is %x (%v), on its own %x", e, got, err, wantPRF)
		}
	}
}

package jointoken

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

func testToken(t *testing.T, addr, name string) *Token {
	t.Helper()
	tok, err := New(rand.Reader, sha256.Sum256([]byte("ca")), addr, name)
	if err != nil {
		t.Fatal(err)
	}
	return tok
}

func TestTextRoundTrip(t *testing.T) {
	for _, addr := range []string{"kdc1.example.com:7750", "10.0.0.11:7750", "[2001:db8::1]:7750", "kdc1:1"} {
		for _, name := range []string{"", "kdc2", "a"} {
			tok := testToken(t, addr, name)
			got, err := Parse("  " + tok.Encode() + "\n")
			if err != nil {
				t.Fatalf("%s %q: %v", addr, name, err)
			}
			if *got != *tok {
				t.Errorf("%s %q: changed on the way", addr, name)
			}
		}
	}
}

func TestParseRefuses(t *testing.T) {
	good := testToken(t, "kdc1.example.com:7750", "kdc2").Encode()
	p := strings.Split(good, ".")
	for what, text := range map[string]string{
		"empty":          "",
		"other version":  "CH2" + good[3:],
		"no parts":       "CH1.",
		"two parts":      p[0] + "." + p[1],
		"no secret":      good[:strings.LastIndexByte(good, '.')+1],
		"short secret":   good[:len(good)-1],
		"long secret":    good + "A",
		"short pin":      strings.Replace(good, p[1], p[1][2:], 1),
		"upper pin":      strings.Replace(good, p[1], strings.ToUpper(p[1][:63])+"F", 1),
		"no port":        strings.Replace(good, ":7750", "", 1),
		"port 0":         strings.Replace(good, ":7750", ":0", 1),
		"port too large": strings.Replace(good, ":7750", ":77500", 1),
		"bad name":       strings.Replace(good, ".kdc2.", ".KDC_2.", 1),
		"far too long":   good + strings.Repeat("A", 1000),
	} {
		if _, err := Parse(text); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v, want ErrMalformed", what, err)
		}
	}
}

func TestNothingShowsTheSecret(t *testing.T) {
	tok := testToken(t, "kdc1:7750", "")
	text := tok.Encode()
	secret := text[strings.LastIndexByte(text, '.')+1:]
	for _, f := range []string{"%s", "%v", "%+v", "%#v"} {
		if s := fmt.Sprintf(f, tok); strings.Contains(s, secret) || strings.Contains(s, string(tok.secret[:])) || !strings.HasPrefix(s, "[join token ") {
			t.Errorf("%s prints %q", f, s)
		}
	}
	rec := tok.Record(time.Now(), time.Now(), "root")
	if bytes.Contains(rec.GetSecretHash(), tok.secret[:]) {
		t.Error("the record holds the secret")
	}
}

func TestProofIsBoundToConnectionKeyAndToken(t *testing.T) {
	tok, other := testToken(t, "kdc1:7750", ""), testToken(t, "kdc1:7750", "")
	rec := tok.Record(time.UnixMilli(1), time.UnixMilli(2), "root")
	p := tok.Prove([]byte("exporter"), []byte("spki"))
	if err := Verify(rec, p, []byte("exporter"), []byte("spki")); err != nil {
		t.Fatalf("own proof: %v", err)
	}
	otherRec := other.Record(time.UnixMilli(1), time.UnixMilli(2), "root")
	for what, err := range map[string]error{
		"other connection": Verify(rec, p, []byte("exporter2"), []byte("spki")),
		"other key":        Verify(rec, p, []byte("exporter"), []byte("spki2")),
		"other token":      Verify(otherRec, p, []byte("exporter"), []byte("spki")),
		"other secret":     Verify(rec, other.Prove([]byte("exporter"), []byte("spki")), []byte("exporter"), []byte("spki")),
		"no signature":     Verify(rec, Proof{Public: p.Public}, []byte("exporter"), []byte("spki")),
		"nothing":          Verify(rec, Proof{}, []byte("exporter"), []byte("spki")),
	} {
		if !errors.Is(err, ErrRefused) {
			t.Errorf("%s: %v, want ErrRefused", what, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	tok, err := New(bytes.NewReader(bytes.Repeat([]byte{7}, 64)), sha256.Sum256(nil), "kdc1.example.com:7750", "kdc2")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(tok.Encode())
	f.Add("CH1....")
	f.Fuzz(func(t *testing.T, s string) {
		tok, err := Parse(s)
		if err != nil {
			return
		}
		if again := tok.Encode(); again != strings.TrimSpace(s) {
			t.Errorf("%q is written as %q", s, again)
		}
	})
}

package kcrypto

import (
	"errors"
	"testing"
)

// IANA registry names, with MIT krb5's spelling of 23.
func TestETypeNames(t *testing.T) {
	for _, c := range []struct {
		e           EType
		name, short string
		size        int
		cksum       ChecksumType
		others      []string
	}{
		{17, "aes128-cts-hmac-sha1-96", "aes128-sha1", 16, 15, []string{"aes128-cts", "AES128-CTS-HMAC-SHA1-96", "17"}},
		{18, "aes256-cts-hmac-sha1-96", "aes256-sha1", 32, 16, []string{"aes256-cts", " 18 "}},
		{19, "aes128-cts-hmac-sha256-128", "aes128-sha2", 16, 19, []string{"19"}},
		{20, "aes256-cts-hmac-sha384-192", "aes256-sha2", 32, 20, []string{"20"}},
		{23, "arcfour-hmac", "rc4", 16, -138, []string{"rc4-hmac", "arcfour-hmac-md5", "23"}},
	} {
		if c.e.String() != c.name || c.e.Short() != c.short || c.e.KeySize() != c.size || c.e.ChecksumType() != c.cksum || !c.e.Supported() {
			t.Errorf("%d: %v %s, key size %d, checksum %d", c.e, c.e, c.e.Short(), c.e.KeySize(), c.e.ChecksumType())
		}
		for _, s := range append(c.others, c.name, c.short) {
			if e, err := ParseEType(s); err != nil || e != c.e {
				t.Errorf("ParseEType(%q) = %v, %v", s, e, err)
			}
		}
	}
	for _, e := range []EType{0, 1, 3, 16, 24, 25, 26, -128, -1 << 31, 1<<31 - 1} {
		if e.Supported() || e.KeySize() != 0 || e.ChecksumType() != 0 || DefaultS2KParams(e) != nil {
			t.Errorf("%v claims to be supported", e)
		}
	}
	if got := EType(3).String() + "," + EType(-128).Short(); got != "etype 3,etype -128" {
		t.Errorf("unknown enctypes print as %q", got)
	}
	for _, s := range []string{"", "3", "des-cbc-crc", "aes", "018", "+18", "aes256-sha3", "etype 18"} {
		if e, err := ParseEType(s); !errors.Is(err, ErrEType) {
			t.Errorf("ParseEType(%q) = %v, %v, want ErrEType", s, e, err)
		}
	}
}

// Tables that are told apart by index must not slip.
func TestProfilesAreWhereTheySay(t *testing.T) {
	for i := range profiles {
		if p := profileOf(profiles[i].etype); p != &profiles[i] {
			t.Errorf("profileOf(%d) is another profile", profiles[i].etype)
		}
	}
}

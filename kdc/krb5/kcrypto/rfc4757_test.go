package kcrypto

import (
	"errors"
	"testing"
)

// RFC 4757 section 2, string-to-key: enctype, password, salt, params, key.
var rfc4757Passwords = []passwordVector{
	{23, "666f6f", "",
		"", "ac8e657f83df82beea5d43bdaf7800cc"},
}

func TestRFC4757StringToKey(t *testing.T) {
	checkPasswords(t, rfc4757Passwords)
	if _, err := StringToKey(RC4HMAC, "foo", "", []byte{0, 0, 16, 0}); !errors.Is(err, ErrParams) {
		t.Errorf("an iteration count for RC4: %v, want ErrParams", err)
	}
	if _, err := StringToKey(RC4HMAC, "\xff", "", nil); err == nil {
		t.Error("a password that is not UTF-8 has no UTF-16 and must be refused")
	}
}

// Encryption with integrity, MIT krb5's test data: enctype, usage, key, confounder (none published), plaintext, ciphertext.
var rfc4757Ciphers = []cipherVector{
	{23, 0, "f81fec39255f5784e850c4377c88bd85", "",
		"", "02c1eb15586144122ec717763dd348bf00434ddc6585954c"},
	{23, 1, "67d1300d281223867f9647ff48721273", "",
		"31", "6156e0cc04e0a0874f9fda008f498a7adbbc80b70b14dddbc0"},
	{23, 2, "3e40ab6093695281b3ac1a9304224d98", "",
		"392062797465737373", "0f9ad121d99d4a09448e4f1f718c4f5cbe6096262c66f29df232a87c9f98755d55"},
	{23, 3, "4ba2fbf0379faed87a254d3b353d5a7e", "",
		"31332062797465732062797465", "612c57568b17a70352bae8cf26fb9459a6f3353cd35fd439db3107cbec765d326dfc04c1dd"},
	{23, 4, "68f263db3fce15d031c9eab02d67107a", "",
		"333020627974657320627974657320627974657320627974657320627974", "95f9047c3ad75891c2e9b04b16566dc8b6eb9ce4231afb2542ef87a7b5a0f260a99f0460508de0cecc632d07c354124e46c5d2234eb8"},
}

func TestRFC4757Encryption(t *testing.T) { checkCiphers(t, rfc4757Ciphers) }

// KERB_CHECKSUM_HMAC_MD5, MIT krb5's test data: checksum type, enctype, usage, key, input, checksum.
var rfc4757Checksums = []checksumVector{
	{-138, 23, 6, "f7d3a155af5e238a0b7a871a96ba2ab2",
		"736576656e7465656e20656967687465656e206e696e657465656e207477656e7479", "eb38cc97e2230f59da4117dc5859d7ec"},
}

func TestRFC4757Checksums(t *testing.T) { checkChecksums(t, rfc4757Checksums) }

// Microsoft's numbers for what a key is used for are not RFC 4120's: usage 3 encrypts as 8.
func TestRFC4757Usage(t *testing.T) {
	k := testKey(t, RC4HMAC)
	c, err := k.Encrypt(counter(), UsageASRepEncPart, []byte("same"))
	if err != nil {
		t.Fatal(err)
	}
	if p, err := k.Decrypt(UsageTGSRepSession, c); err != nil || string(p) != "same" {
		t.Errorf("usage 3 read as 8: %q, %v", p, err)
	}
	// RFC 4757 would have 9 be 8, too; MIT krb5 refuses that.
	if _, err := k.Decrypt(UsageTGSRepSubKey, c); !errors.Is(err, ErrIntegrity) {
		t.Errorf("usage 3 read as 9: %v, want ErrIntegrity", err)
	}
}

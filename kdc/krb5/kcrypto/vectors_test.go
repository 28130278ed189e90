package kcrypto

import (
	"bytes"
	"encoding/hex"
	"io"
	"testing"
)

// What the tables of the rfc*_test.go files have in common. Octets are in hex.

type passwordVector struct {
	etype                       EType
	password, salt, params, key string
}

type deriveVector struct {
	etype EType
	key   string
	usage Usage
	kind  kind
	want  string
}

type cipherVector struct {
	etype                          EType
	usage                          Usage
	key, confounder, plain, cipher string
}

type checksumVector struct {
	cksum          ChecksumType
	etype          EType
	usage          Usage
	key, data, sum string
}

type prfVector struct {
	etype        EType
	key, in, out string
}

func checkPasswords(t *testing.T, vectors []passwordVector) {
	for _, v := range vectors {
		iterations := 0
		for _, b := range unhex(t, v.params) {
			iterations = iterations<<8 | int(b)
		}
		password, salt := string(unhex(t, v.password)), string(unhex(t, v.salt))
		k, err := stringToKey(v.etype, password, salt, iterations)
		if err != nil || k.EType() != v.etype || hex.EncodeToString(k.Bytes()) != v.key {
			t.Errorf("%v %q %q: got %x (%v), want %s", v.etype, password, salt, k.Bytes(), err, v.key)
		}
	}
}

// checkDerived asks the functions under usageKey, since a usageKey shows no octets.
func checkDerived(t *testing.T, vectors []deriveVector) {
	for _, v := range vectors {
		k := mustKey(t, v.etype, v.key)
		s := k.p.sum.get()
		k.makeBase(s)
		var got []byte
		switch {
		case k.base.block != nil:
			got = dk(k.base.block, s, foldedConstant(v.usage, v.kind), k.p.keySize)
		case v.kind == kindEncrypt:
			got = usageKDF(&k.base.mac, s, v.usage, v.kind, k.p.keySize)
		default:
			got = usageKDF(&k.base.mac, s, v.usage, v.kind, k.p.macSize)
		}
		if hex.EncodeToString(got) != v.want {
			t.Errorf("%v usage %d kind %#x: got %x, want %s", v.etype, v.usage, byte(v.kind), got, v.want)
		}
	}
}

// checkCiphers decrypts, and then encrypts with the confounder that came out: the same octets again.
func checkCiphers(t *testing.T, vectors []cipherVector) {
	for i, v := range vectors {
		k := mustKey(t, v.etype, v.key)
		cipher, plain := unhex(t, v.cipher), unhex(t, v.plain)
		both, err := k.decrypt(v.usage, cipher)
		if err != nil {
			t.Errorf("%d: %v usage %d: %v", i, v.etype, v.usage, err)
			continue
		}
		confounder := both[:k.p.confSize]
		if v.confounder != "" && hex.EncodeToString(confounder) != v.confounder {
			t.Errorf("%d: %v: confounder %x, want %s", i, v.etype, confounder, v.confounder)
		}
		if got, err := k.Decrypt(v.usage, cipher); err != nil || !bytes.Equal(got, plain) {
			t.Errorf("%d: %v usage %d: got %x (%v), want %s", i, v.etype, v.usage, got, err, v.plain)
		}
		if got, err := k.Encrypt(bytes.NewReader(confounder), v.usage, plain); err != nil || !bytes.Equal(got, cipher) {
			t.Errorf("%d: %v usage %d: got %x (%v), want %s", i, v.etype, v.usage, got, err, v.cipher)
		}
		if len(cipher) != k.CipherLen(len(plain)) {
			t.Errorf("%d: %v: CipherLen(%d) = %d, want %d", i, v.etype, len(plain), k.CipherLen(len(plain)), len(cipher))
		}
	}
}

func checkChecksums(t *testing.T, vectors []checksumVector) {
	for _, v := range vectors {
		k := mustKey(t, v.etype, v.key)
		data := unhex(t, v.data)
		if k.EType().ChecksumType() != v.cksum {
			t.Errorf("%v: checksum type %d, want %d", v.etype, k.EType().ChecksumType(), v.cksum)
		}
		sum, err := k.Checksum(v.usage, data)
		if err != nil || hex.EncodeToString(sum) != v.sum {
			t.Errorf("%v usage %d: got %x (%v), want %s", v.etype, v.usage, sum, err, v.sum)
		}
		if err := k.VerifyChecksum(v.cksum, v.usage, data, unhex(t, v.sum)); err != nil {
			t.Errorf("%v usage %d: %v", v.etype, v.usage, err)
		}
	}
}

func checkPRF(t *testing.T, vectors []prfVector) {
	for _, v := range vectors {
		k := mustKey(t, v.etype, v.key)
		got, err := k.PRF(unhex(t, v.in))
		if err != nil || hex.EncodeToString(got) != v.out {
			t.Errorf("%v PRF(%s) = %x (%v), want %s", v.etype, v.in, got, err, v.out)
		}
	}
}

var etypes = []EType{AES256SHA2, AES128SHA2, AES256SHA1, AES128SHA1, RC4HMAC}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func mustKey(t testing.TB, e EType, s string) *Key {
	t.Helper()
	k, err := NewKey(e, unhex(t, s))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// testKey is a key of counted octets.
func testKey(t testing.TB, e EType) *Key {
	t.Helper()
	k, err := GenerateKey(counter(), e)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// passwordKey is string-to-key with the password as salt.
func passwordKey(t testing.TB, e EType, s string) *Key {
	t.Helper()
	k, err := StringToKey(e, s, s, nil)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// counter reads 1, 2, 3 and so on.
func counter() io.Reader { return new(countReader) }

type countReader byte

func (c *countReader) Read(p []byte) (int, error) {
	for i := range p {
		*c++
		p[i] = byte(*c)
	}
	return len(p), nil
}

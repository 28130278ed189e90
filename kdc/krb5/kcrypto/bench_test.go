package kcrypto

import (
	"crypto/rand"
	"testing"
)

// A ticket's enc-part is about 200 octets, a TGS-REP's 250, a request body 150.
const benchOctets = 200

func eachEType(b *testing.B, f func(b *testing.B, k *Key)) {
	for _, e := range etypes {
		b.Run(e.Short(), func(b *testing.B) {
			k := testKey(b, e)
			b.ReportAllocs()
			f(b, k)
		})
	}
}

func BenchmarkEncrypt(b *testing.B) {
	eachEType(b, func(b *testing.B, k *Key) {
		plain, buf, r := make([]byte, benchOctets), make([]byte, 0, 512), counter()
		for b.Loop() {
			if _, err := k.AppendEncrypt(buf, r, UsageTicket, plain); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkDecrypt(b *testing.B) {
	eachEType(b, func(b *testing.B, k *Key) {
		c, _ := k.Encrypt(counter(), UsageTicket, make([]byte, benchOctets))
		for b.Loop() {
			if _, err := k.Decrypt(UsageTicket, c); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkVerifyChecksum(b *testing.B) {
	eachEType(b, func(b *testing.B, k *Key) {
		data := make([]byte, benchOctets)
		sum, _ := k.Checksum(UsageTGSReqChecksum, data)
		for b.Loop() {
			if err := k.VerifyChecksum(k.EType().ChecksumType(), UsageTGSReqChecksum, data, sum); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkDerive is what a session key costs before its first decryption.
func BenchmarkDerive(b *testing.B) {
	eachEType(b, func(b *testing.B, k *Key) {
		raw := k.Bytes()
		for b.Loop() {
			fresh, _ := NewKey(k.EType(), raw)
			fresh.usageKey(UsageTGSReqAuthenticator, kindEncrypt)
		}
	})
}

// BenchmarkSessionKey is a session key's whole life in a TGS exchange: authenticator, checksum, reply.
func BenchmarkSessionKey(b *testing.B) {
	eachEType(b, func(b *testing.B, k *Key) {
		raw, data, buf, r := k.Bytes(), make([]byte, benchOctets), make([]byte, 0, 512), counter()
		c, _ := k.Encrypt(counter(), UsageTGSReqAuthenticator, data)
		sum, _ := k.Checksum(UsageTGSReqChecksum, data)
		for b.Loop() {
			fresh, _ := NewKey(k.EType(), raw)
			if _, err := fresh.Decrypt(UsageTGSReqAuthenticator, c); err != nil {
				b.Fatal(err)
			}
			if err := fresh.VerifyChecksum(k.EType().ChecksumType(), UsageTGSReqChecksum, data, sum); err != nil {
				b.Fatal(err)
			}
			if _, err := fresh.AppendEncrypt(buf, r, UsageTGSRepSession, data); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkEncryptParallel(b *testing.B) {
	eachEType(b, func(b *testing.B, k *Key) {
		plain := make([]byte, benchOctets)
		b.RunParallel(func(pb *testing.PB) {
			buf := make([]byte, 0, 512)
			for pb.Next() {
				if _, err := k.AppendEncrypt(buf, rand.Reader, UsageTicket, plain); err != nil {
					b.Error(err)
				}
			}
		})
	})
}

func BenchmarkStringToKey(b *testing.B) {
	eachEType(b, func(b *testing.B, k *Key) {
		for b.Loop() {
			if _, err := StringToKey(k.EType(), "password", "EXAMPLE.COMalice", nil); err != nil {
				b.Fatal(err)
			}
		}
	})
}

package kcrypto

import (
	"bytes"
	"encoding/hex"
	"testing"
)

// RFC 6113 appendix A for 17, 18 and 23, MIT krb5's test data for 19 and 20: enctype, the two keys (string-to-key of "key1" and
// "key2", each its own salt), CF2 of them with peppers "a" and "b", and the first 64 octets of PRF+(key1, "a").
var cf2Vectors = []struct {
	etype                    EType
	key1, key2, cf2, prfPlus string
}{
	{17, "ae272e7cdec86ac5138cdb196d8e297d", "67ab1cfef35e4c27ffdeac60385a3e9c",
		"97df97e4b798b29eb31ed7280287a92a",
		"77b39a37a868920f2a51f9dd150c5717914cb0fbfb825e5c90262d958775d374d31e668d6abb49ae5948f6c0d684026f1c38140a058b9da249ea35892e1aa24c"},
	{18, "c01f157211f7b77eaaf457c3e156690127ee127d810ba6392e97baa243eb0616", "9d520d2d980aa7cb6b693682b62da258b333867951642ce647ae62b1e5e0b5e9",
		"4d6ca4e629785c1f01baf55e2e548566b9617ae3a96868c337cb93b5e72b1c7b",
		"b2628c788e2e9c4a9bb4644678c29f2fb406373350cee8a6126f4a9b65a0cd2145d773a27138d709c245947dcbff0053cc262b1b9863dc09990d38cc731c1d47"},
	{23, "624d808c5b78ce675750060d46bec126", "6fc56e4767bdcb48aecd1e1425b508f7",
		"24d7f6b6bae4e5c00d2082c5ebab3672",
		"c882f5310c3b65e4b99c19709d986dedc154f234704a4562c4e1b064321384669649d9192b201fa6a4c76eb86c6a55284835e087550d98f8baf9afe1de79b92d"},
	{19, "e18593528e4452b4befd81ebefea681c", "3be855ac3c7dcc145828248550620894",
		"edd02a39d2dbde31611c16e610be062c",
		"ef9baf76ea695798ab911e4e080cf36a8dab17385401a744b4e332260b6e682107e866ff5a8c360a356c6a55fbdac13cde097d965dd87272a71e8a1b5fe3947f"},
	{20, "4ad116668f05b17d7b7ca10297bf1934f41b58eeafba0bd00f65459f24491fb7", "213add1239de66e2d689fbda2e5cbab5dd34b9c3f7dabd1a82a4417fb10cdfde",
		"67f6ea530aea85a37dcbb23349ea52dcc61ca8493ff557252327fd8304341584",
		"4a6e0bbd195e9b13ae92081a107986ff3c9d0090eb8fc8cb33cf426f398145be73fe25293ef17ad941d8518f9ef62d1769fe4e85716dbc42d737829bd13e1e3e"},
}

func TestRFC6113CF2(t *testing.T) {
	for _, v := range cf2Vectors {
		k1, k2 := passwordKey(t, v.etype, "key1"), passwordKey(t, v.etype, "key2")
		if hex.EncodeToString(k1.Bytes()) != v.key1 || hex.EncodeToString(k2.Bytes()) != v.key2 {
			t.Errorf("%v: string-to-key gave %x and %x, want %s and %s", v.etype, k1.Bytes(), k2.Bytes(), v.key1, v.key2)
		}
		k, err := CF2(k1, k2, "a", "b")
		if err != nil || k.EType() != v.etype || hex.EncodeToString(k.Bytes()) != v.cf2 {
			t.Errorf("%v: CF2 = %x (%v), want %s", v.etype, k.Bytes(), err, v.cf2)
		}
		if p, err := PRFPlus(k1, []byte("a"), 64); err != nil || hex.EncodeToString(p) != v.prfPlus {
			t.Errorf("%v: PRF+ = %x (%v), want %s", v.etype, p, err, v.prfPlus)
		}
	}
}

// A client's key and an armor key need not be of one enctype; the result has the first one's (RFC 6113 section 5.1).
func TestRFC6113CF2Mixed(t *testing.T) {
	for _, a := range etypes {
		for _, b := range etypes {
			k, err := CF2(testKey(t, a), testKey(t, b), "x", "y")
			if err != nil || k.EType() != a {
				t.Errorf("CF2 of %v and %v: %v, %v", a, b, k, err)
			}
		}
	}
}

func TestRFC6113PRFPlusBounds(t *testing.T) {
	for _, e := range etypes {
		k := testKey(t, e)
		most := 255 * k.p.prfSize
		long, err := PRFPlus(k, []byte("in"), most)
		if err != nil || len(long) != most {
			t.Errorf("%v: %d octets: got %d, %v", e, most, len(long), err)
		}
		if _, err := PRFPlus(k, []byte("in"), most+1); err == nil {
			t.Errorf("%v: %d octets need a 256th block and must be refused", e, most+1)
		}
		if short, err := PRFPlus(k, []byte("in"), 5); err != nil || !bytes.Equal(short, long[:5]) {
			t.Errorf("%v: five octets are %x (%v), not the first of %x", e, short, err, long[:8])
		}
	}
}

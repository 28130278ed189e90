package krb5

import (
	"bytes"
	"encoding/hex"
	"errors"
	"reflect"
	"testing"
)

// codec is one message's pair of functions and its reference, with types erased, so that every test runs over every message.
type codec struct {
	name      string
	decode    func([]byte) (any, error)
	encode    func(any) ([]byte, error)
	refDecode func([]byte) (any, error)
	refEncode func(any) ([]byte, error)
	zero      func() any
}

func pair[T any](name string, dec func([]byte) (*T, error), enc func(*T) ([]byte, error), refDec func([]byte) (*T, error), refEnc func(*T) ([]byte, error)) codec {
	erase := func(f func([]byte) (*T, error)) func([]byte) (any, error) {
		return func(b []byte) (any, error) {
			m, err := f(b)
			if err != nil {
				return nil, err
			}
			return m, nil
		}
	}
	eraseEnc := func(f func(*T) ([]byte, error)) func(any) ([]byte, error) {
		return func(m any) ([]byte, error) { return f(m.(*T)) }
	}
	return codec{name, erase(dec), eraseEnc(enc), erase(refDec), eraseEnc(refEnc), func() any { return new(T) }}
}

// listPair is pair for the lists, which are handed about as slices and not as pointers.
func listPair[L any](name string, dec func([]byte) (L, error), enc func(L) ([]byte, error), refDec func([]byte) (*L, error), refEnc func(*L) ([]byte, error)) codec {
	return pair(name,
		func(b []byte) (*L, error) { l, err := dec(b); return &l, err },
		func(l *L) ([]byte, error) { return enc(*l) }, refDec, refEnc)
}

var codecs = []codec{
	pair("KDCReq", DecodeKDCReq, EncodeKDCReq, refDecodeKDCReq, refEncodeKDCReq),
	pair("KDCReqBody", DecodeKDCReqBody, EncodeKDCReqBody, refDecodeKDCReqBody, refEncodeKDCReqBody),
	pair("KDCRep", DecodeKDCRep, EncodeKDCRep, refDecodeKDCRep, refEncodeKDCRep),
	pair("EncASRepPart", DecodeEncKDCRepPart, func(m *EncKDCRepPart) ([]byte, error) { return EncodeEncKDCRepPart(MsgASRep, m) },
		refDecodeEncKDCRepPart, func(m *EncKDCRepPart) ([]byte, error) { return refEncodeEncKDCRepPart(MsgASRep, m) }),
	pair("EncTGSRepPart", DecodeEncKDCRepPart, func(m *EncKDCRepPart) ([]byte, error) { return EncodeEncKDCRepPart(MsgTGSRep, m) },
		refDecodeEncKDCRepPart, func(m *EncKDCRepPart) ([]byte, error) { return refEncodeEncKDCRepPart(MsgTGSRep, m) }),
	pair("Ticket", DecodeTicket, EncodeTicket, refDecodeTicket, refEncodeTicket),
	pair("EncTicketPart", DecodeEncTicketPart, EncodeEncTicketPart, refDecodeEncTicketPart, refEncodeEncTicketPart),
	pair("APReq", DecodeAPReq, EncodeAPReq, refDecodeAPReq, refEncodeAPReq),
	pair("Authenticator", DecodeAuthenticator, EncodeAuthenticator, refDecodeAuthenticator, refEncodeAuthenticator),
	pair("APRep", DecodeAPRep, EncodeAPRep, refDecodeAPRep, refEncodeAPRep),
	pair("EncAPRepPart", DecodeEncAPRepPart, EncodeEncAPRepPart, refDecodeEncAPRepPart, refEncodeEncAPRepPart),
	pair("KRBSafe", DecodeKRBSafe, EncodeKRBSafe, refDecodeKRBSafe, refEncodeKRBSafe),
	pair("KRBSafeBody", DecodeKRBSafeBody, EncodeKRBSafeBody, refDecodeKRBSafeBody, refEncodeKRBSafeBody),
	pair("KRBPriv", DecodeKRBPriv, EncodeKRBPriv, refDecodeKRBPriv, refEncodeKRBPriv),
	pair("EncKRBPrivPart", DecodeEncKRBPrivPart, EncodeEncKRBPrivPart, refDecodeEncKRBPrivPart, refEncodeEncKRBPrivPart),
	pair("KRBCred", DecodeKRBCred, EncodeKRBCred, refDecodeKRBCred, refEncodeKRBCred),
	pair("EncKRBCredPart", DecodeEncKRBCredPart, EncodeEncKRBCredPart, refDecodeEncKRBCredPart, refEncodeEncKRBCredPart),
	pair("KRBError", DecodeKRBError, EncodeKRBError, refDecodeKRBError, refEncodeKRBError),
	pair("PAEncTSEnc", DecodePAEncTSEnc, EncodePAEncTSEnc, refDecodePAEncTSEnc, refEncodePAEncTSEnc),
	pair("EncryptedData", DecodeEncryptedData, EncodeEncryptedData, refDecodeEncryptedData, refEncodeEncryptedData),
	pair("Checksum", DecodeChecksum, EncodeChecksum, refDecodeChecksum, refEncodeChecksum),
	listPair("MethodData", DecodeMethodData, EncodeMethodData, refDecodeMethodData, refEncodeMethodData),
	listPair("ETypeInfo", DecodeETypeInfo, EncodeETypeInfo, refDecodeETypeInfo, refEncodeETypeInfo),
	listPair("ETypeInfo2", DecodeETypeInfo2, EncodeETypeInfo2, refDecodeETypeInfo2, refEncodeETypeInfo2),
	listPair("AuthorizationData", DecodeAuthorizationData, EncodeAuthorizationData, refDecodeAuthorizationData, refEncodeAuthorizationData),
}

func codecNamed(t testing.TB, name string) codec {
	t.Helper()
	for _, c := range codecs {
		if c.name == name {
			return c
		}
	}
	t.Fatalf("no codec %s", name)
	return codec{}
}

// same holds both codecs against each other on one input: they accept it or refuse it both, read the same, and write the same. It gives what was read, or nil.
func (c codec) same(t testing.TB, b []byte) any {
	t.Helper()
	input := bytes.Clone(b)
	got, err := c.decode(b)
	want, refErr := c.refDecode(bytes.Clone(b))
	if (err == nil) != (refErr == nil) {
		t.Fatalf("%s of %x:\n  error %v\n  reference %v", c.name, b, err, refErr)
	}
	if !bytes.Equal(b, input) {
		t.Fatalf("%s changed its input %x", c.name, input)
	}
	if err != nil {
		if !errors.Is(err, ErrDecode) {
			t.Fatalf("%s of %x: error is not ErrDecode: %v", c.name, b, err)
		}
		return nil
	}
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("%s of %x:\n  read %+v\n  reference %+v", c.name, b, got, want)
	}
	out := c.sameEncoding(t, got)
	again, err := c.decode(out)
	if err != nil {
		t.Fatalf("%s reads not what it wrote, %x: %v", c.name, out, err)
	}
	if raw := c.sameEncoding(t, again); !bytes.Equal(raw, out) {
		t.Fatalf("%s writes %x, then %x", c.name, out, raw)
	}
	return got
}

// sameEncoding holds both encoders against each other and gives what they write.
func (c codec) sameEncoding(t testing.TB, m any) []byte {
	t.Helper()
	out, err := c.encode(m)
	ref, refErr := c.refEncode(m)
	if (err == nil) != (refErr == nil) {
		t.Fatalf("%s of %+v:\n  error %v\n  reference %v", c.name, m, err, refErr)
	}
	if err != nil {
		if !errors.Is(err, ErrEncode) {
			t.Fatalf("%s of %+v: error is not ErrEncode: %v", c.name, m, err)
		}
		return nil
	}
	if !bytes.Equal(out, ref) {
		t.Fatalf("%s of %+v:\n  wrote %x\n  reference %x", c.name, m, out, ref)
	}
	return out
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

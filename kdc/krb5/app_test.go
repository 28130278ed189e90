package krb5

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"github.com/charon-kdc/charon/kdc/krb5/kcrypto"
)

func TestKRBSafe(t *testing.T) {
	k, other := mustKey(17, "0123456789abcdef"), mustKey(17, "0123456789abcdeF")
	body := KRBSafeBody{UserData: []byte("hello"), Timestamp: vTime, USec: 5, HasUSec: true, SeqNumber: 9, HasSeqNumber: true, SAddress: vAddr}
	raw, err := NewKRBSafe(k, &body)
	if err != nil {
		t.Fatal(err)
	}
	got, err := OpenKRBSafe(k, raw)
	if err != nil || string(got.UserData) != "hello" || got.SeqNumber != 9 {
		t.Fatalf("%+v, %v", got, err)
	}
	_, err = OpenKRBSafe(other, raw)
	wantCode(t, err, ErrModified)
	changed := bytes.Replace(raw, []byte("hello"), []byte("jello"), 1)
	_, err = OpenKRBSafe(k, changed)
	wantCode(t, err, ErrModified)

	// MIT's form: the checksum runs over the whole message with an empty checksum of type 0 in it.
	blank, err := EncodeKRBSafe(&KRBSafe{SafeBody: body})
	if err != nil {
		t.Fatal(err)
	}
	sum, err := NewChecksum(k, kcrypto.UsageKRBSafe, blank)
	if err != nil {
		t.Fatal(err)
	}
	mit, err := EncodeKRBSafe(&KRBSafe{SafeBody: body, Cksum: *sum})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := OpenKRBSafe(k, mit); err != nil {
		t.Errorf("MIT's form: %v", err)
	}
	_, err = OpenKRBSafe(k, bytes.Replace(mit, []byte("hello"), []byte("jello"), 1))
	wantCode(t, err, ErrModified)

	unkeyed, err := EncodeKRBSafe(&KRBSafe{SafeBody: body, Cksum: Checksum{CksumType: kcrypto.MD5, Checksum: make([]byte, 16)}})
	if err != nil {
		t.Fatal(err)
	}
	_, err = OpenKRBSafe(k, unkeyed)
	wantCode(t, err, ErrInappCksum)
}

func TestKRBPriv(t *testing.T) {
	k, other := mustKey(18, "0123456789abcdef0123456789abcdef"), mustKey(18, "0123456789abcdef0123456789abcdeF")
	part := EncKRBPrivPart{UserData: []byte("secret"), SeqNumber: 1, HasSeqNumber: true, SAddress: vAddr}
	raw, err := NewKRBPriv(&testRand{}, k, &part)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(raw, []byte("secret")) {
		t.Error("the user data is in clear text")
	}
	got, err := OpenKRBPriv(k, raw)
	if err != nil || string(got.UserData) != "secret" {
		t.Fatalf("%+v, %v", got, err)
	}
	_, err = OpenKRBPriv(other, raw)
	wantCode(t, err, ErrBadIntegrity)
	raw[len(raw)-1] ^= 1
	_, err = OpenKRBPriv(k, raw)
	wantCode(t, err, ErrBadIntegrity)
	_, err = OpenKRBPriv(k, nil)
	wantCode(t, err, ErrGeneric)
}

func TestFreshness(t *testing.T) {
	one, two := uint32(1), uint32(2)
	other := HostAddress{AddrIPv4, []byte{1, 2, 3, 4}}
	p := EncKRBPrivPart{Timestamp: vTime, USec: 0, HasUSec: true, SeqNumber: 1, HasSeqNumber: true, SAddress: vAddr, RAddress: &vAddr}
	for _, v := range []struct {
		what string
		f    Freshness
		want ErrorCode
	}{
		{"nothing expected", Freshness{}, 0},
		{"all right", Freshness{Now: vTime.Add(time.Minute), Skew: time.Minute, SeqNumber: &one, Sender: &vAddr, Receiver: &vAddr}, 0},
		{"late", Freshness{Now: vTime.Add(time.Minute + time.Second), Skew: time.Minute}, ErrSkew},
		{"early", Freshness{Now: vTime.Add(-time.Minute - time.Second), Skew: time.Minute}, ErrSkew},
		{"out of order", Freshness{SeqNumber: &two}, ErrBadOrder},
		{"another sender", Freshness{Sender: &other}, ErrBadAddr},
		{"another receiver", Freshness{Receiver: &other}, ErrBadAddr},
	} {
		if err := p.Check(v.f); v.want == 0 && err != nil || v.want != 0 && codeOf(err) != v.want {
			t.Errorf("%s: %v", v.what, err)
		}
	}
	bare := KRBSafeBody{SAddress: vAddr}
	wantCode(t, bare.Check(Freshness{Now: vTime, Skew: time.Hour}), ErrSkew)
	wantCode(t, bare.Check(Freshness{SeqNumber: new(uint32)}), ErrBadOrder)
}

func TestKRBCred(t *testing.T) {
	k, session := mustKey(17, "0123456789abcdef"), mustKey(17, "fedcba9876543210")
	part := EncKRBCredPart{TicketInfo: []KRBCredInfo{vCredInfo}, Timestamp: vTime}
	raw, err := NewKRBCred(&testRand{}, k, []Ticket{vTicket}, &part)
	if err != nil {
		t.Fatal(err)
	}
	tickets, got, err := OpenKRBCred(raw, nil, session, k)
	if err != nil || len(tickets) != 1 || !got.TicketInfo[0].Key.Equal(vKey) {
		t.Fatalf("%+v, %+v, %v", tickets, got, err)
	}
	for _, keys := range [][]*kcrypto.Key{nil, {session}, {nil}} {
		_, _, err = OpenKRBCred(raw, keys...)
		wantCode(t, err, ErrBadIntegrity)
	}
	if _, err := NewKRBCred(&testRand{}, k, nil, &part); !errors.Is(err, errCount) {
		t.Errorf("no ticket for one description: %v", err)
	}
	// A peer's message whose two halves differ in number.
	m, err := DecodeKRBCred(raw)
	if err != nil {
		t.Fatal(err)
	}
	m.Tickets = append(m.Tickets, vTicket)
	twice, err := EncodeKRBCred(m)
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = OpenKRBCred(twice, k)
	wantCode(t, err, ErrModified)
	// Not sealed at all: etype 0 with the plaintext in it.
	plain, err := EncodeEncKRBCredPart(&part)
	if err != nil {
		t.Fatal(err)
	}
	bare, err := EncodeKRBCred(&KRBCred{Tickets: []Ticket{vTicket}, EncPart: EncryptedData{Cipher: plain}})
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = OpenKRBCred(bare, k)
	wantCode(t, err, ErrBadIntegrity)
}

package krb5

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"time"

	"github.com/jcmturner/gofork/encoding/asn1"

	"github.com/charon-kdc/charon/kdc/krb5/kcrypto"
)

// refUnmarshal reads all of b into the struct or slice that v points to, and is strict where gofork is not: no rest, and the same octets when
// written again, which rules out fields that the type does not have, tags that hold more than one value, and encodings other than DER.
func refUnmarshal(b []byte, v any) error {
	if len(b) > inputMax {
		return errors.New("too long")
	}
	rest, err := asn1.Unmarshal(b, v)
	if err != nil {
		return err
	}
	if len(rest) != 0 {
		return errors.New("trailing octets")
	}
	again, err := asn1.Marshal(reflect.ValueOf(v).Elem().Interface())
	if err != nil {
		return err
	}
	if !bytes.Equal(again, b) {
		return errors.New("not canonical")
	}
	return nil
}

// refWrapped gives what the constructed element b of that class and tag holds.
func refWrapped(b []byte, class, tag int) ([]byte, error) {
	var rv asn1.RawValue
	if err := refUnmarshal(b, &rv); err != nil {
		return nil, err
	}
	if rv.Class != class || rv.Tag != tag || !rv.IsCompound {
		return nil, fmt.Errorf("class %d tag %d", rv.Class, rv.Tag)
	}
	return rv.Bytes, nil
}

func refWrap(b []byte, class, tag int) []byte {
	out, err := asn1.Marshal(asn1.RawValue{Class: class, Tag: tag, IsCompound: true, Bytes: b})
	if err != nil {
		panic(err)
	}
	return out
}

func refUnmarshalApp(b []byte, tag int, v any) error {
	inner, err := refWrapped(b, asn1.ClassApplication, tag)
	if err != nil {
		return err
	}
	return refUnmarshal(inner, v)
}

func refMarshal(v any) ([]byte, error) {
	b, err := asn1.Marshal(v)
	if err == nil && len(b) > inputMax {
		err = errors.New("too long")
	}
	return b, err
}

func refMarshalApp(v any, tag int) ([]byte, error) {
	b, err := refMarshal(v)
	if err != nil {
		return nil, err
	}
	if b = refWrap(b, asn1.ClassApplication, tag); len(b) > inputMax {
		return nil, errors.New("too long")
	}
	return b, nil
}

// refConv turns reference types into public ones and back; its first error sticks.
type refConv struct{ err error }

func (c *refConv) check(ok bool, what string) {
	if !ok && c.err == nil {
		c.err = errors.New(what)
	}
}

func (c *refConv) u32(v int64) uint32 {
	c.check(v >= -1<<31 && v < 1<<32, "integer over 32 bits")
	return uint32(v)
}

func (c *refConv) i32(v int64) int32 { return int32(c.u32(v)) }

func (c *refConv) optU32(v int64) (uint32, bool) {
	if v == refAbsent {
		return 0, false
	}
	return c.u32(v), true
}

func (c *refConv) optI32(v int64) (int32, bool) {
	u, ok := c.optU32(v)
	return int32(u), ok
}

func refOptU32(v uint32, has bool) int64 {
	if has {
		return int64(v)
	}
	return refAbsent
}

func refOptI32(v int32, has bool) int64 {
	if has {
		return int64(v)
	}
	return refAbsent
}

func (c *refConv) version(v int64) { c.check(v == 5, "version") }

func (c *refConv) time(t time.Time) time.Time {
	_, off := t.Zone()
	c.check(off == 0 && t.Year() >= 1601, "time")
	return t
}

func (c *refConv) optTime(t time.Time) time.Time {
	if !t.IsZero() {
		c.time(t)
	}
	return t
}

func (c *refConv) putTime(t time.Time) time.Time {
	c.check(!t.IsZero(), "time is missing")
	return c.putOptTime(t)
}

func (c *refConv) putOptTime(t time.Time) time.Time {
	if t.IsZero() {
		return time.Time{}
	}
	t = t.UTC().Truncate(0)
	t = time.Date(t.Year(), t.Month(), t.Day(), t.Hour(), t.Minute(), t.Second(), 0, time.UTC)
	c.check(t.Year() >= 1601 && t.Year() <= 9999, "time")
	return t
}

func (c *refConv) realm(s string) string {
	c.check(len(s) <= 256, "realm")
	return s
}

func (c *refConv) components(list []string) []string {
	total := 0
	for _, s := range list {
		c.check(len(s) <= 256, "component")
		total += len(s)
	}
	c.check(len(list) > 0 && len(list) <= 10 && total <= 1024, "name")
	return list
}

func (c *refConv) name(n refName) PrincipalName {
	return PrincipalName{NameType: NameType(c.i32(n.NameType)), NameString: c.components(n.NameString)}
}

func (c *refConv) optName(n refName) *PrincipalName {
	if n.NameString == nil {
		return nil
	}
	out := c.name(n)
	return &out
}

func (c *refConv) putName(n PrincipalName) refName {
	return refName{int64(n.NameType), c.components(n.NameString)}
}

func (c *refConv) putOptName(n *PrincipalName) refName {
	if n == nil {
		return refName{}
	}
	return c.putName(*n)
}

func (c *refConv) flags(b asn1.BitString) uint32 {
	var v uint32
	for i := range 32 {
		v = v<<1 | uint32(b.At(i))
	}
	return v
}

func refFlags(v uint32) asn1.BitString {
	return asn1.BitString{Bytes: []byte{byte(v >> 24), byte(v >> 16), byte(v >> 8), byte(v)}, BitLength: 32}
}

// text: a refText with anything but one GeneralString in it is refused.
func (c *refConv) text(t refText) (string, bool) {
	if t.Raw == nil {
		return "", false
	}
	inner, err := asn1.Marshal(struct {
		S string `asn1:"generalstring"`
	}{t.S})
	c.check(err == nil, "text")
	var got asn1.RawValue
	_, err = asn1.Unmarshal(t.Raw, &got)
	c.check(err == nil, "text")
	var want asn1.RawValue
	_, err = asn1.Unmarshal(inner, &want)
	c.check(err == nil && bytes.Equal(got.Bytes, want.Bytes), "text")
	return t.S, true
}

func refPutText(tag int, s string, has bool) refText {
	if !has {
		return refText{}
	}
	inner, err := asn1.Marshal(asn1.RawValue{Tag: 27, Bytes: []byte(s)})
	if err != nil {
		panic(err)
	}
	return refText{Raw: refWrap(inner, asn1.ClassContextSpecific, tag), S: s}
}

func refOctets(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}

func (c *refConv) key(t refTyped) *kcrypto.Key {
	k, err := kcrypto.NewKey(kcrypto.EType(c.i32(t.Type)), t.Value)
	if err != nil && c.err == nil {
		c.err = err
	}
	return k
}

func (c *refConv) optKey(t refTyped) *kcrypto.Key {
	if t.Value == nil {
		return nil
	}
	return c.key(t)
}

func (c *refConv) putKey(k *kcrypto.Key) refTyped {
	c.check(k != nil, "key is missing")
	return c.putOptKey(k)
}

func (c *refConv) putOptKey(k *kcrypto.Key) refTyped {
	if k == nil {
		return refTyped{}
	}
	return refTyped{int64(k.EType()), k.Bytes()}
}

func (c *refConv) address(t refTyped) HostAddress { return HostAddress{c.i32(t.Type), t.Value} }

func (c *refConv) optAddress(t refTyped) *HostAddress {
	if t.Value == nil {
		return nil
	}
	a := c.address(t)
	return &a
}

func refAddress(a HostAddress) refTyped { return refTyped{int64(a.AddrType), refOctets(a.Address)} }

func refOptAddress(a *HostAddress) refTyped {
	if a == nil {
		return refTyped{}
	}
	return refAddress(*a)
}

func (c *refConv) checksum(t refTyped) Checksum {
	return Checksum{kcrypto.ChecksumType(c.i32(t.Type)), t.Value}
}

func refChecksum(s Checksum) refTyped { return refTyped{int64(s.CksumType), refOctets(s.Checksum)} }

func (c *refConv) encrypted(e refEncryptedData) EncryptedData {
	out := EncryptedData{EType: kcrypto.EType(c.i32(e.EType)), Cipher: e.Cipher}
	out.KVNO, out.HasKVNO = c.optU32(e.KVNO)
	return out
}

func refEncrypted(e EncryptedData) refEncryptedData {
	return refEncryptedData{int64(e.EType), refOptU32(e.KVNO, e.HasKVNO), refOctets(e.Cipher)}
}

// refMap converts a list; nil stays nil.
func refMap[A, B any](in []A, f func(A) B) []B {
	if in == nil {
		return nil
	}
	out := make([]B, len(in))
	for i, e := range in {
		out[i] = f(e)
	}
	return out
}

func (c *refConv) addresses(l []refTyped) []HostAddress { return refMap(l, c.address) }
func (c *refConv) authData(l []refTyped) AuthorizationData {
	return refMap(l, func(t refTyped) AuthorizationDataElement {
		return AuthorizationDataElement{c.i32(t.Type), t.Value}
	})
}
func (c *refConv) padata(l []refPAData) []PAData {
	return refMap(l, func(p refPAData) PAData { return PAData{PADataType(c.i32(p.Type)), p.Value} })
}

func refAuthData(l AuthorizationData) []refTyped {
	return refMap(l, func(e AuthorizationDataElement) refTyped { return refTyped{int64(e.ADType), refOctets(e.ADData)} })
}
func refPADataList(l []PAData) []refPAData {
	return refMap(l, func(p PAData) refPAData { return refPAData{int64(p.PADataType), refOctets(p.PADataValue)} })
}

func (c *refConv) ticket(b []byte) Ticket {
	var t refTicket
	if err := refUnmarshalApp(b, 1, &t); err != nil {
		c.check(false, err.Error())
		return Ticket{}
	}
	c.version(t.VNO)
	return Ticket{c.realm(t.Realm), c.name(t.SName), c.encrypted(t.EncPart)}
}

func (c *refConv) putTicket(t Ticket) []byte {
	b, err := refMarshalApp(refTicket{5, c.realm(t.Realm), c.putName(t.SName), refEncrypted(t.EncPart)}, 1)
	c.check(err == nil, "ticket")
	return b
}

// ticketField is a Ticket in [n].
func (c *refConv) ticketField(rv asn1.RawValue, n int) Ticket {
	c.check(rv.Class == asn1.ClassContextSpecific && rv.Tag == n && rv.IsCompound, "ticket")
	return c.ticket(rv.Bytes)
}

func (c *refConv) putTicketField(t Ticket, n int) asn1.RawValue {
	return asn1.RawValue{FullBytes: refWrap(c.putTicket(t), asn1.ClassContextSpecific, n)}
}

// ticketList is a SEQUENCE OF Ticket in [n].
func (c *refConv) ticketList(rv asn1.RawValue, n int) []Ticket {
	c.check(rv.Class == asn1.ClassContextSpecific && rv.Tag == n && rv.IsCompound, "tickets")
	rest, err := refWrapped(rv.Bytes, asn1.ClassUniversal, 16)
	if err != nil {
		c.check(false, "tickets")
		return nil
	}
	out := []Ticket{}
	for len(rest) > 0 && c.err == nil {
		var e asn1.RawValue
		if rest, err = asn1.Unmarshal(rest, &e); err != nil {
			c.check(false, "tickets")
			return nil
		}
		out = append(out, c.ticket(e.FullBytes))
	}
	return out
}

func (c *refConv) putTicketList(l []Ticket, n int) asn1.RawValue {
	var all []byte
	for _, t := range l {
		all = append(all, c.putTicket(t)...)
	}
	return asn1.RawValue{FullBytes: refWrap(refWrap(all, asn1.ClassUniversal, 16), asn1.ClassContextSpecific, n)}
}

package krb5

import (
	"reflect"
	"sync"
	"time"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/charon-kdc/charon/kdc/krb5/kcrypto"
)

// inputMax bounds what any decoder reads and any encoder writes, in octets.
const inputMax = 1 << 20

const (
	tagInteger         = asn1.INTEGER
	tagBitString       = asn1.BIT_STRING
	tagOctetString     = asn1.OCTET_STRING
	tagSequence        = asn1.SEQUENCE
	tagGeneralizedTime = asn1.GeneralizedTime
	tagGeneralString   = asn1.Tag(27)
)

// decodeError is what a decoder refuses with. It is ErrDecode, and its cause when there is one.
type decodeError struct {
	what  string // type and field, a constant
	cause error
}

func (e *decodeError) Error() string {
	if e.cause != nil {
		return ErrDecode.Error() + ": " + e.what + ": " + e.cause.Error()
	}
	return ErrDecode.Error() + ": " + e.what
}

func (e *decodeError) Is(target error) bool { return target == ErrDecode }
func (e *decodeError) Unwrap() error        { return e.cause }

// reader decodes one message. It stands in one SEQUENCE at a time; within moves it into another and back. Its first error sticks; after it
// every read gives zero values, so that callers check once.
type reader struct {
	err error
	s   cryptobyte.String // the fields still to be read of the SEQUENCE that the reader is in

	// What saves allocations, kept from one message to the next: the last realm, the octets of the last name, and room for components.
	realm string
	text  string
	names []string
}

var readers = sync.Pool{New: func() any { return new(reader) }}

// done gives the reader back and its verdict. Nothing of the message stays in it but strings, which are copies.
func (r *reader) done() error {
	err := r.err
	r.err, r.s = nil, nil
	readers.Put(r)
	return err
}

func (r *reader) fail(what string, cause error) {
	if r.err == nil {
		r.err = &decodeError{what, cause}
	}
}

// whole reads all of b as one element of that tag and gives its contents.
func (r *reader) whole(b []byte, tag asn1.Tag, what string) cryptobyte.String {
	out, rest, ok := element(b, tag)
	if !ok || len(rest) != 0 || len(b) > inputMax {
		r.fail(what, nil)
		return nil
	}
	return out
}

// element reads one element of that tag: its contents and what follows. Most are shorter than 128 octets, and nearly all the time of a decoder
// goes here, so those are read without cryptobyte, whose results go through memory.
func element(s cryptobyte.String, tag asn1.Tag) (contents, rest cryptobyte.String, ok bool) {
	if len(s) < 2 || s[0] != byte(tag) {
		return nil, nil, false
	}
	if n := int(s[1]); n < 0x80 {
		if n > len(s)-2 {
			return nil, nil, false
		}
		return s[2 : 2+n], s[2+n:], true
	}
	return longElement(s, tag)
}

func longElement(s cryptobyte.String, tag asn1.Tag) (contents, rest cryptobyte.String, ok bool) {
	ok = s.ReadASN1(&contents, tag)
	return contents, s, ok
}

// application reads all of b as [APPLICATION n] SEQUENCE and gives the fields.
func (r *reader) application(b []byte, n uint8, what string) cryptobyte.String {
	tag := appTag(n)
	if len(b) > 0 && b[0] != byte(tag) {
		r.fail(what, ErrDecodeType)
		return nil
	}
	return r.whole(r.whole(b, tag, what), tagSequence, what)
}

func appTag(n uint8) asn1.Tag { return asn1.Tag(n | 0x60) }

// within reads the fields of a SEQUENCE with body, which must leave none: no duplicates, none out of order, none that the type does not have.
func within[T any](r *reader, fields cryptobyte.String, what string, out *T, body func(r *reader, out *T)) {
	if r.err != nil {
		return
	}
	outer := r.s
	r.s = fields
	body(r, out)
	r.end(what, outer)
}

// end refuses what is left of a SEQUENCE and goes back to the one around it.
func (r *reader) end(what string, outer cryptobyte.String) {
	if len(r.s) != 0 {
		r.fail(what, nil)
	}
	r.s = outer
}

// field reads the mandatory field [n] and gives the contents of its explicit tag.
func (r *reader) field(n uint8, what string) cryptobyte.String {
	out, rest, ok := element(r.s, asn1.Tag(0xa0|n))
	if !ok {
		r.fail(what, nil)
	}
	r.s = rest
	return out
}

// optional reads the field [n] if it comes next.
func (r *reader) optional(n uint8, what string) (cryptobyte.String, bool) {
	if len(r.s) == 0 || r.s[0] != 0xa0|n {
		return nil, false
	}
	return r.field(n, what), r.err == nil
}

// integer reads all of s as one INTEGER of 32 bits, signed or unsigned: RFC 4120 section 5.2.4 has both kinds, and peers
// send the one for the other (nonces of 2^32-1 or below zero, kvno of read-only domain controllers).
func (r *reader) integer(s cryptobyte.String, what string) uint32 {
	return r.integerOctets(r.whole(s, tagInteger, what), what)
}

// integerOctets reads the contents of an INTEGER.
func (r *reader) integerOctets(b cryptobyte.String, what string) uint32 {
	if r.err != nil {
		return 0
	}
	if len(b) == 0 || len(b) > 5 || len(b) == 5 && b[0] != 0 ||
		len(b) > 1 && (b[0] == 0 && b[1] < 0x80 || b[0] == 0xff && b[1] >= 0x80) {
		r.fail(what, nil)
		return 0
	}
	v := uint32(int32(int8(b[0])))
	for _, c := range b[1:] {
		v = v<<8 | uint32(c)
	}
	return v
}

func (r *reader) int32(s cryptobyte.String, what string) int32 { return int32(r.integer(s, what)) }

// version reads pvno, tkt-vno or authenticator-vno [n], always 5.
func (r *reader) version(n uint8, what string) {
	if v := r.integer(r.field(n, what), what); r.err == nil && v != pvno {
		r.fail(what, ErrDecodeVersion)
	}
}

// msgType reads the msg-type [n], which must be that of the application tag.
func (r *reader) msgType(n uint8, want MsgType, what string) {
	if v := r.int32(r.field(n, what), what); r.err == nil && MsgType(v) != want {
		r.fail(what, ErrDecodeType)
	}
}

// octets reads all of s as one OCTET STRING. It shares the input's memory; appending to it copies.
func (r *reader) octets(s cryptobyte.String, what string) []byte {
	b := r.whole(s, tagOctetString, what)
	return b[:len(b):len(b)]
}

// flags reads all of s as one BIT STRING: the first 32 bits, zeros where there are fewer (RFC 4120 section 5.2.8).
func (r *reader) flags(s cryptobyte.String, what string) uint32 {
	b := r.whole(s, tagBitString, what)
	if r.err != nil {
		return 0
	}
	if len(b) == 0 || b[0] > 7 || len(b) == 1 && b[0] != 0 || b[len(b)-1]&(1<<b[0]-1) != 0 && len(b) > 1 {
		r.fail(what, nil)
		return 0
	}
	var v uint32
	for i, c := range b[1:] {
		if i == 4 {
			break
		}
		v |= uint32(c) << (24 - 8*i)
	}
	return v
}

// generalString reads all of s as one KerberosString of any octets (RFC 4120 section 5.2.1; peers send UTF-8 and Latin-1).
func (r *reader) generalString(s cryptobyte.String, what string) string {
	return string(r.whole(s, tagGeneralString, what))
}

// realmName reads all of s as one Realm.
func (r *reader) realmName(s cryptobyte.String, what string) string {
	b := r.whole(s, tagGeneralString, what)
	if len(b) > nameComponentMax {
		r.fail(what, nil)
		return ""
	}
	if string(b) != r.realm {
		r.realm = string(b)
	}
	return r.realm
}

// name reads all of s as one PrincipalName.
func (r *reader) name(s cryptobyte.String, what string) PrincipalName {
	outer := r.s
	r.s = r.whole(s, tagSequence, what)
	t := r.int32(r.field(0, what), what)
	list := r.whole(r.field(1, what), tagSequence, what)
	if r.end(what, outer); r.err != nil {
		return PrincipalName{}
	}
	// The bounds come first: what is read below is at most 10 components and a little over 1 KiB.
	var parts [nameComponentsMax]int // lengths
	n, total := 0, 0
	for rest := list; len(rest) > 0; n++ {
		part, tail, ok := element(rest, tagGeneralString)
		if n == len(parts) || !ok || len(part) > nameComponentMax {
			r.fail(what, nil)
			return PrincipalName{}
		}
		parts[n], rest = len(part), tail
		total += len(part)
	}
	if n == 0 || total > nameMax {
		r.fail(what, nil)
		return PrincipalName{}
	}
	return PrincipalName{NameType: NameType(t), NameString: r.components(parts[:n], list)}
}

// components makes strings of those lengths out of list, with one allocation for the octets of all of them.
func (r *reader) components(lengths []int, list cryptobyte.String) []string {
	n := len(lengths)
	if len(r.names) < n {
		r.names = make([]string, max(n, 8))
	}
	out := r.names[:n:n]
	r.names = r.names[n:]
	if string(list) != r.text {
		r.text = string(list)
	}
	all := r.text
	at := 0
	for i, size := range lengths {
		at += headerLen(size)
		out[i] = all[at : at+size]
		at += size
	}
	return out
}

// headerLen is the length of the header of an element with n octets of contents.
func headerLen(n int) int {
	switch {
	case n < 0x80:
		return 2
	case n < 0x100:
		return 3
	case n < 0x10000:
		return 4
	case n < 0x1000000:
		return 5
	}
	return 6
}

// time reads all of s as one KerberosTime, YYYYMMDDHHMMSSZ (RFC 4120 section 5.2.3).
func (r *reader) time(s cryptobyte.String, what string) time.Time {
	b := r.whole(s, tagGeneralizedTime, what)
	if r.err != nil {
		return time.Time{}
	}
	t, ok := parseTime(b)
	if !ok {
		r.fail(what, nil)
	}
	return t
}

// key reads all of s as one EncryptionKey. One of an enctype that kcrypto does not have is refused, with kcrypto.ErrEType as the cause.
func (r *reader) key(s cryptobyte.String, what string) *kcrypto.Key {
	outer := r.s
	r.s = r.whole(s, tagSequence, what)
	t := r.int32(r.field(0, what), what)
	b := r.octets(r.field(1, what), what)
	if r.end(what, outer); r.err != nil {
		return nil
	}
	k, err := kcrypto.NewKey(kcrypto.EType(t), b)
	if err != nil {
		r.fail(what, err)
		return nil
	}
	return k
}

// elements reads all of s as one SEQUENCE OF and counts its elements. What they hold is not looked at: callers allocate by room.
func (r *reader) elements(s cryptobyte.String, tag asn1.Tag, what string) (cryptobyte.String, int) {
	list := r.whole(s, tagSequence, what)
	n := 0
	for rest := list; len(rest) > 0; n++ {
		_, tail, ok := element(rest, tag)
		if !ok {
			r.fail(what, nil)
			return nil, 0
		}
		rest = tail
	}
	return list, n
}

// list reads all of s as one SEQUENCE OF SEQUENCE; each reads the fields of one element and must leave none. The slice is never nil without an error.
func list[T any](r *reader, s cryptobyte.String, what string, each func(r *reader, out *T)) []T {
	rest, n := r.elements(s, tagSequence, what)
	if r.err != nil {
		return nil
	}
	out := room[T](n, len(rest))
	for range n {
		var e cryptobyte.String
		e, rest, _ = element(rest, tagSequence)
		out = append(out, *new(T))
		if within(r, e, what, &out[len(out)-1], each); r.err != nil {
			return nil
		}
	}
	return out
}

// roomFactor bounds what is allocated ahead for a list, in octets for each octet of it. Every type's shortest element fits in; one of two octets, which
// is none of any type, does not, and the first of them ends the decoding.
const roomFactor = 16

// room is an empty slice with room for n elements, or for as many as that many octets of DER may take.
func room[T any](n, octets int) []T {
	size := int(reflect.TypeFor[T]().Size())
	return make([]T, 0, min(n, roomFactor*octets/size))
}

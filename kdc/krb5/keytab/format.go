package keytab

import (
	"encoding/binary"
	"fmt"
	"math"
	"time"

	"github.com/charon-kdc/charon/kdc/krb5"
	"github.com/charon-kdc/charon/kdc/krb5/kcrypto"
)

// The format: 0x05, a format number, and records of a signed 32-bit length and that many octets. A negative length is a hole to skip,
// zero ends the file early. An entry may be shorter than its record.

// Parse reads a keytab. It copies what it keeps. Octets that are no keytab are ErrFormat.
func Parse(b []byte) (*Keytab, error) {
	if len(b) < 2 || b[0] != 5 || b[1] != 1 && b[1] != 2 {
		return nil, fmt.Errorf("%w: it does not begin with 05 02", ErrFormat)
	}
	var order binary.ByteOrder = binary.BigEndian
	if b[1] == 1 {
		order = binary.NativeEndian // format 1 was never portable
	}
	kt := &Keytab{}
	for at := 2; at < len(b); {
		if len(b)-at < 4 {
			return nil, fmt.Errorf("%w: %d octets behind the last record", ErrFormat, len(b)-at)
		}
		n := int64(int32(order.Uint32(b[at:])))
		if n == 0 {
			break
		}
		size := max(n, -n)
		if size > int64(len(b)-at-4) {
			return nil, fmt.Errorf("%w: the record at octet %d has %d octets of %d", ErrFormat, at, len(b)-at-4, size)
		}
		end := at + 4 + int(size)
		if err := kt.parseRecord(b[at:end], n > 0, b[1] == 1, order); err != nil {
			return nil, fmt.Errorf("record at octet %d: %w", at, err)
		}
		at = end
	}
	return kt, nil
}

// parseRecord takes a record with its length.
func (kt *Keytab) parseRecord(rec []byte, live, old bool, order binary.ByteOrder) error {
	r := reader{b: rec[4:], order: order}
	if !live {
		if !old {
			kt.kept = append(kt.kept, kept{len(kt.Entries), append([]byte(nil), rec...)})
		}
		return nil
	}
	var e Entry
	n := int(r.uint16())
	if old {
		n-- // format 1 counts the realm
	}
	e.Realm = r.string()
	if n < 0 || n > len(r.b)/2 {
		return fmt.Errorf("%w: %d name components", ErrFormat, n)
	}
	e.Name.NameString = make([]string, n)
	for i := range e.Name.NameString {
		e.Name.NameString[i] = r.string()
	}
	if !old {
		e.Name.NameType = krb5.NameType(int32(r.uint32()))
	}
	if s := r.uint32(); s != 0 {
		e.Timestamp = time.Unix(int64(s), 0).UTC()
	}
	e.KVNO = uint32(r.uint8())
	etype := kcrypto.EType(int16(r.uint16()))
	key := r.bytes(int(r.uint16()))
	if r.short {
		return fmt.Errorf("%w: the entry is longer than its record", ErrFormat)
	}
	e.short = true
	if len(r.b) >= 4 {
		if v := order.Uint32(r.b); v != 0 {
			e.KVNO, e.short, r.b = v, false, r.b[4:]
		}
	}
	var err error
	if e.Key, err = kcrypto.NewKey(etype, key); err != nil {
		if !old {
			kt.kept = append(kt.kept, kept{len(kt.Entries), append([]byte(nil), rec...)})
		}
		return nil
	}
	if !old && len(r.b) > 0 {
		e.slack = append([]byte(nil), r.b...)
	}
	kt.Entries = append(kt.Entries, e)
	return nil
}

// Bytes is the keytab in format 2, holes and unknown entries included. An entry that the format has no room for (a realm or component of
// 64 KiB and more, 65,536 components, no key) is left out; WriteFile and Append refuse it instead.
func (kt *Keytab) Bytes() []byte {
	ok := Keytab{kept: kt.kept}
	for i := range kt.Entries {
		if kt.Entries[i].check() == nil {
			ok.Entries = append(ok.Entries, kt.Entries[i])
		}
	}
	b, _ := ok.encode()
	return b
}

func (kt *Keytab) encode() ([]byte, error) {
	out := []byte{5, 2}
	held := kt.kept
	for i := range kt.Entries {
		for len(held) > 0 && held[0].before <= i {
			out, held = append(out, held[0].record...), held[1:]
		}
		e := &kt.Entries[i]
		if err := e.check(); err != nil {
			return nil, err
		}
		start := len(out)
		out = append(e.append(append(out, 0, 0, 0, 0)), e.slack...)
		binary.BigEndian.PutUint32(out[start:], uint32(len(out)-start-4))
	}
	for _, k := range held {
		out = append(out, k.record...)
	}
	return out, nil
}

// check says whether the format has room for e.
func (e *Entry) check() error {
	fits := e.Key != nil && len(e.Realm) <= math.MaxUint16 && len(e.Name.NameString) <= math.MaxUint16
	for _, c := range e.Name.NameString {
		fits = fits && len(c) <= math.MaxUint16
	}
	if !fits {
		return fmt.Errorf("%w: no room for the entry of %d components, or it has no key", ErrFormat, len(e.Name.NameString))
	}
	return nil
}

// append is the entry without its record's length.
func (e *Entry) append(b []byte) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(len(e.Name.NameString)))
	b = appendString(b, e.Realm)
	for _, c := range e.Name.NameString {
		b = appendString(b, c)
	}
	b = binary.BigEndian.AppendUint32(b, uint32(e.Name.NameType))
	b = binary.BigEndian.AppendUint32(b, seconds(e.Timestamp))
	b = append(b, byte(e.KVNO))
	b = binary.BigEndian.AppendUint16(b, uint16(e.Key.EType()))
	b = binary.BigEndian.AppendUint16(b, uint16(e.Key.EType().KeySize()))
	b = e.Key.AppendTo(b)
	if e.short && e.KVNO < 256 {
		return b
	}
	return binary.BigEndian.AppendUint32(b, e.KVNO)
}

func appendString(b []byte, s string) []byte {
	return append(binary.BigEndian.AppendUint16(b, uint16(len(s))), s...)
}

// seconds holds a time to what 32 bits can say.
func seconds(t time.Time) uint32 {
	if t.IsZero() {
		return 0
	}
	return uint32(min(max(t.Unix(), 0), math.MaxUint32))
}

// reader takes fields off b; once b was too short everything is zero and short is set.
type reader struct {
	b     []byte
	order binary.ByteOrder
	short bool
}

func (r *reader) bytes(n int) []byte {
	if n > len(r.b) {
		r.short, r.b = true, nil
		return nil
	}
	b := r.b[:n]
	r.b = r.b[n:]
	return b
}

func (r *reader) uint8() byte {
	if b := r.bytes(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *reader) uint16() uint16 {
	if b := r.bytes(2); b != nil {
		return r.order.Uint16(b)
	}
	return 0
}

func (r *reader) uint32() uint32 {
	if b := r.bytes(4); b != nil {
		return r.order.Uint32(b)
	}
	return 0
}

func (r *reader) string() string { return string(r.bytes(int(r.uint16()))) }

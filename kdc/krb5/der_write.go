package krb5

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/charon-kdc/charon/kdc/krb5/kcrypto"
)

// writer builds DER from its end to its beginning: contents come before their header, so every length is known when it is
// written and nothing is moved. Fields are therefore written last to first. The first error sticks.
type writer struct {
	buf []byte
	at  int // buf[at:] is written
	err error
}

var writers = sync.Pool{New: func() any { return &writer{buf: make([]byte, 2048)} }}

// pooledMax keeps a rare huge message from staying in the pool, in octets.
const pooledMax = 64 << 10

// encode appends to dst what build writes. The working buffer goes back to the pool wiped, because session keys pass through it.
func encode[T any](dst []byte, m *T, build func(w *writer, m *T)) ([]byte, error) {
	w := writers.Get().(*writer)
	w.at, w.err = len(w.buf), nil
	if m == nil {
		w.fail("message", errors.New("nil"))
	} else {
		build(w, m)
	}
	out := w.buf[w.at:]
	err := w.err
	switch {
	case err != nil:
	case len(out) > inputMax:
		err = fmt.Errorf("%w: %d octets, more than %d", ErrEncode, len(out), inputMax)
	case dst == nil:
		dst = make([]byte, len(out))
		copy(dst, out)
	default:
		dst = append(dst, out...)
	}
	clear(out)
	if len(w.buf) <= pooledMax {
		writers.Put(w)
	}
	if err != nil {
		return nil, err
	}
	return dst, nil
}

func (w *writer) fail(what string, cause error) {
	if w.err == nil {
		w.err = fmt.Errorf("%w: %s: %w", ErrEncode, what, cause)
	}
}

var (
	errMissing = errors.New("mandatory field is missing")
	errRange   = errors.New("out of range")
)

// len is how much is written; marks are taken from it because it does not change when the buffer grows.
func (w *writer) len() int { return len(w.buf) - w.at }

// room makes place for n octets in front and gives them.
func (w *writer) room(n int) []byte {
	if w.at < n {
		w.grow(n)
	}
	w.at -= n
	return w.buf[w.at : w.at+n]
}

func (w *writer) grow(n int) {
	used := w.buf[w.at:]
	buf := make([]byte, 2*len(w.buf)+n)
	at := len(buf) - len(used)
	copy(buf[at:], used)
	clear(used)
	w.buf, w.at = buf, at
}

// head writes tag and length in front of what was written since mark.
func (w *writer) head(tag asn1.Tag, mark int) {
	n := w.len() - mark
	if n < 0x80 {
		b := w.room(2)
		b[0], b[1] = byte(tag), byte(n)
		return
	}
	b := w.room(headerLen(n))
	b[0], b[1] = byte(tag), byte(0x80+len(b)-2)
	for i := len(b) - 1; i > 1; i-- {
		b[i] = byte(n)
		n >>= 8
	}
}

// field writes the explicit tag [n] in front of what was written since mark.
func (w *writer) field(n uint8, mark int) { w.head(asn1.Tag(n)|0xa0, mark) }

// application writes [APPLICATION n] SEQUENCE in front of all that was written since mark.
func (w *writer) application(n uint8, mark int) {
	w.head(tagSequence, mark)
	w.head(appTag(n), mark)
}

func (w *writer) integer(n uint8, v int64) {
	mark := w.len()
	w.bareInteger(v)
	w.field(n, mark)
}

func (w *writer) bareInteger(v int64) {
	mark := w.len()
	size := 1
	for x := v; x > 127 || x < -128; x >>= 8 {
		size++
	}
	b := w.room(size)
	for i := size - 1; i >= 0; i-- {
		b[i] = byte(v)
		v >>= 8
	}
	w.head(tagInteger, mark)
}

func (w *writer) octets(n uint8, v []byte) {
	mark := w.len()
	copy(w.room(len(v)), v)
	w.head(tagOctetString, mark)
	w.field(n, mark)
}

func (w *writer) flags(n uint8, v uint32) {
	b := w.room(9)
	b[0], b[1], b[2], b[3], b[4] = 0xa0|n, 7, byte(tagBitString), 5, 0
	b[5], b[6], b[7], b[8] = byte(v>>24), byte(v>>16), byte(v>>8), byte(v)
}

func (w *writer) text(n uint8, v string) {
	mark := w.len()
	w.generalString(v)
	w.field(n, mark)
}

func (w *writer) generalString(v string) {
	mark := w.len()
	copy(w.room(len(v)), v)
	w.head(tagGeneralString, mark)
}

func (w *writer) realmName(n uint8, v, what string) {
	if len(v) > nameComponentMax {
		w.fail(what, errRange)
		return
	}
	w.text(n, v)
}

func (w *writer) name(n uint8, v *PrincipalName, what string) {
	if !v.bounded() {
		w.fail(what, errRange)
		return
	}
	mark := w.len()
	for i := len(v.NameString) - 1; i >= 0; i-- {
		w.generalString(v.NameString[i])
	}
	w.head(tagSequence, mark)
	w.field(1, mark)
	w.integer(0, int64(v.NameType))
	w.head(tagSequence, mark)
	w.field(n, mark)
}

// time writes a mandatory KerberosTime; fractions of a second are cut off.
func (w *writer) time(n uint8, t time.Time, what string) {
	if t.IsZero() {
		w.fail(what, errMissing)
		return
	}
	secs := t.Unix()
	days, rest := secs/86400, secs%86400
	if rest < 0 {
		days, rest = days-1, rest+86400
	}
	year, month, day := civilFromDays(days)
	if year < yearMin || year > yearMax {
		w.fail(what, errRange)
		return
	}
	b := w.room(19)
	b[0], b[1], b[2], b[3], b[18] = 0xa0|n, 17, byte(tagGeneralizedTime), 15, 'Z'
	put2 := func(i int, v int) { b[i], b[i+1] = byte('0'+v/10), byte('0'+v%10) }
	put2(4, year/100)
	put2(6, year%100)
	put2(8, month)
	put2(10, day)
	put2(12, int(rest/3600))
	put2(14, int(rest/60%60))
	put2(16, int(rest%60))
}

// optionalTime writes t unless it is zero.
func (w *writer) optionalTime(n uint8, t time.Time, what string) {
	if !t.IsZero() {
		w.time(n, t, what)
	}
}

func (w *writer) key(n uint8, k *kcrypto.Key, what string) {
	if k == nil {
		w.fail(what, errMissing)
		return
	}
	mark := w.len()
	size := k.EType().KeySize()
	b := w.room(size)
	k.AppendTo(b[:0])
	w.head(tagOctetString, mark)
	w.field(1, mark)
	w.integer(0, int64(k.EType()))
	w.head(tagSequence, mark)
	w.field(n, mark)
}

// writeList writes a SEQUENCE OF SEQUENCE; each writes the fields of one element.
func writeList[T any](w *writer, v []T, each func(w *writer, e *T)) {
	end := w.len()
	for i := len(v) - 1; i >= 0; i-- {
		mark := w.len()
		each(w, &v[i])
		w.head(tagSequence, mark)
	}
	w.head(tagSequence, end)
}

// listField writes the list as field [n], or nothing when it is nil.
func listField[T any](w *writer, n uint8, v []T, each func(w *writer, e *T)) {
	if v == nil {
		return
	}
	mark := w.len()
	writeList(w, v, each)
	w.field(n, mark)
}

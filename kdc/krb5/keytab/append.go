package keytab

import (
	"encoding/binary"
	"fmt"
	"os"

	"github.com/charon-kdc/charon/kdc/krb5/internal/lockfile"
)

// Append adds entries to the file at path, as ktutil and ktadd do: in place, under an exclusive lock, each in the first hole that is large
// enough, else at the end. A file that does not exist is made with mode 0600; one that does keeps its owner and mode. It is durable when
// Append returns. A crash leaves whole entries only.
func Append(path string, entries ...Entry) error {
	f, err := lockfile.Open(path, os.O_RDWR|os.O_CREATE)
	if err != nil {
		return fmt.Errorf("adding to keytab: %w", err)
	}
	defer f.Close()
	if err := add(f, entries); err != nil {
		return fmt.Errorf("adding to keytab %s: %w", path, err)
	}
	return nil
}

func add(f *os.File, entries []Entry) error {
	b, err := lockfile.ReadAll(f)
	if err != nil {
		return err
	}
	if len(b) == 0 {
		b = []byte{5, 2}
		if _, err := f.WriteAt(b, 0); err != nil {
			return err
		}
	}
	if _, err := Parse(b); err != nil {
		return err
	}
	if b[1] != 2 {
		return fmt.Errorf("%w: format %d can be read but not written", ErrFormat, b[1])
	}
	for i := range entries {
		if err := entries[i].check(); err != nil {
			return err
		}
	}
	for i := range entries {
		if b, err = addOne(f, b, entries[i].append(nil)); err != nil {
			return err
		}
	}
	return f.Sync()
}

// addOne writes one entry to f, whose content is b, and gives the new content. The record's length goes last, when the octets are on the
// disk: until then readers see a hole or the end of the file, never half a key.
func addOne(f *os.File, b, entry []byte) ([]byte, error) {
	at, size := place(b, len(entry))
	if size == 0 {
		// Behind a record of length zero readers find nothing: what stands there goes.
		if err := f.Truncate(int64(at)); err != nil {
			return nil, err
		}
		b, size = append(b[:at], make([]byte, 4+len(entry))...), len(entry)
	}
	record := b[at : at+4+size]
	clear(record[4+copy(record[4:], entry):])
	if _, err := f.WriteAt(record[4:], int64(at+4)); err != nil {
		return nil, err
	}
	if err := f.Sync(); err != nil {
		return nil, err
	}
	binary.BigEndian.PutUint32(record, uint32(size))
	_, err := f.WriteAt(record[:4], int64(at))
	return b, err
}

// place is the offset of the first hole of at least n octets and its size, or the end of the records and 0. b has been parsed.
func place(b []byte, n int) (at, size int) {
	at = 2
	for at+4 <= len(b) {
		l := int64(int32(binary.BigEndian.Uint32(b[at:])))
		if l == 0 {
			return at, 0
		}
		if l < 0 && -l >= int64(n) {
			return at, int(-l)
		}
		at += 4 + int(max(l, -l))
	}
	return at, 0
}

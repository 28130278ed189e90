// Package keytab reads and writes the FILE keytab that MIT krb5, Heimdal and Java share: format 2, and format 1 for reading.
//
// It owns the format, its locks and the rules by which a key is found. It must not know where keys come from or who may have them.
// There is no RFC; the format is described in MIT's doc/formats/keytab_file_format.rst.
package keytab

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/charon-kdc/charon/kdc/krb5"
	"github.com/charon-kdc/charon/kdc/krb5/internal/lockfile"
	"github.com/charon-kdc/charon/kdc/krb5/kcrypto"
)

// ErrFormat is octets that are not a keytab.
var ErrFormat = errors.New("not a keytab")

// Keytab is the content of a keytab file. Entries whose enctype kcrypto does not implement are not among Entries; they and the holes of
// the file are kept as they are and written again by Bytes.
type Keytab struct {
	Entries []Entry

	kept []kept
}

// Entry is one key of one principal.
type Entry struct {
	Realm     string
	Name      krb5.PrincipalName
	Timestamp time.Time // when it was written, in seconds from 1970 to 2106; zero is written as 0
	KVNO      uint32
	Key       *kcrypto.Key

	short bool   // the record had no 32-bit kvno
	slack []byte // octets of the record behind the entry
}

// kept is a record that is passed on untouched: a hole, or a key that is of no use here.
type kept struct {
	before int    // it stands before Entries[before]
	record []byte // with its length
}

// Read parses the file at path under a shared lock.
func Read(path string) (*Keytab, error) {
	f, err := lockfile.Open(path, os.O_RDONLY)
	if err != nil {
		return nil, fmt.Errorf("reading keytab: %w", err)
	}
	defer f.Close()
	b, err := lockfile.ReadAll(f)
	if err != nil {
		return nil, fmt.Errorf("reading keytab: %w", err)
	}
	kt, err := Parse(b)
	if err != nil {
		return nil, fmt.Errorf("reading keytab %s: %w", path, err)
	}
	return kt, nil
}

// WriteFile replaces the file at path by kt in one step, under an exclusive lock on the old one. The new file has mode 0600.
func (kt *Keytab) WriteFile(path string) error {
	b, err := kt.encode()
	if err != nil {
		return fmt.Errorf("writing keytab %s: %w", path, err)
	}
	if err := lockfile.Replace(path, b); err != nil {
		return fmt.Errorf("writing keytab %s: %w", path, err)
	}
	return nil
}

// Find is the key of a principal, with its kvno; name types do not count. kvno 0 takes the newest key; any other kvno takes the key of
// that number, or else the first key with a kvno below 256 that agrees with it in the low eight bits, since old files keep no more.
// etype 0 takes any enctype.
func (kt *Keytab) Find(realm string, name krb5.PrincipalName, kvno uint32, etype kcrypto.EType) (*kcrypto.Key, uint32, bool) {
	var best *Entry
	for i := range kt.Entries {
		e := &kt.Entries[i]
		switch {
		case e.Realm != realm || !e.Name.Equal(name) || etype != 0 && e.Key.EType() != etype:
		case kvno == 0:
			if best == nil || e.newer(best) {
				best = e
			}
		case e.KVNO == kvno:
			return e.Key, e.KVNO, true
		case best == nil && e.KVNO == kvno&0xff:
			best = e
		}
	}
	if best == nil {
		return nil, 0, false
	}
	return best.Key, best.KVNO, true
}

// newer says whether e is more recent than o: the higher kvno, but a kvno below 128 with a timestamp that is not older counts as newer
// than one above 240: files, protocols and databases have cut kvnos to 8 and 16 bits, and so they wrap. As in MIT krb5.
func (e *Entry) newer(o *Entry) bool {
	switch {
	case e.KVNO < 128 && o.KVNO > 240 && !e.Timestamp.Before(o.Timestamp):
		return true
	case o.KVNO < 128 && e.KVNO > 240 && !o.Timestamp.Before(e.Timestamp):
		return false
	}
	return e.KVNO > o.KVNO
}

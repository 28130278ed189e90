package backup

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"filippo.io/age"

	backupv1 "github.com/charon-kdc/charon/proto/charon/backup/v1"
)

const (
	namePrefix = "charon-"
	nameSuffix = ".cbk"
	tempPrefix = ".charon-backup-"
)

// FileName is what a backup is called in a directory.
func FileName(index uint64) string { return namePrefix + strconv.FormatUint(index, 10) + nameSuffix }

// indexOf is the index that a file's name tells, if it is a backup's.
func indexOf(name string) (uint64, bool) {
	text, ok := strings.CutPrefix(name, namePrefix)
	if !ok {
		return 0, false
	}
	if text, ok = strings.CutSuffix(text, nameSuffix); !ok {
		return 0, false
	}
	n, err := strconv.ParseUint(text, 10, 64)
	return n, err == nil && FileName(n) == name
}

// WriteFile writes what save writes to path, or, where path is a directory, to a file in it called FileName: mode 0600, durably and
// atomically, and only after what is on the disk was read back and has the summary's SHA-256. A file that is there is replaced if it is
// a backup of the same cluster, else fs.ErrExist. It returns the file's path. After an error nothing is left behind.
func WriteFile(path string, save func(io.Writer) (*Summary, error)) (string, *Summary, error) {
	dir, named := filepath.Dir(path), true
	if st, err := os.Stat(path); err == nil && st.IsDir() {
		dir, named = path, false
	} else if strings.HasSuffix(path, string(filepath.Separator)) {
		return "", nil, fmt.Errorf("writing a backup: %s is no directory", path)
	}
	f, err := os.CreateTemp(dir, tempPrefix+"*") // 0600
	if err != nil {
		return "", nil, fmt.Errorf("writing a backup: %w", err)
	}
	defer os.Remove(f.Name())
	s, err := save(f)
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = readBack(f, s)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return "", nil, err
	}
	if !named {
		path = filepath.Join(dir, FileName(s.Header.GetIndex()))
	}
	if err := mayReplace(path, s.Header.GetClusterId()); err != nil {
		return "", nil, err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return "", nil, fmt.Errorf("writing a backup: %w", err)
	}
	return path, s, syncDir(dir)
}

// readBack holds what the file system gives back against what was written.
func readBack(f *os.File, s *Summary) error {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("reading the backup back: %w", err)
	}
	sum := sha256.New()
	n, err := io.Copy(sum, f)
	if err != nil {
		return fmt.Errorf("reading the backup back: %w", err)
	}
	if uint64(n) != s.Bytes || !bytes.Equal(sum.Sum(nil), s.SHA256[:]) {
		return fmt.Errorf("reading the backup back from %s: %d bytes that are not the %d that were written", filepath.Dir(f.Name()), n, s.Bytes)
	}
	return nil
}

// mayReplace refuses to write over anything but a backup of that cluster.
func mayReplace(path string, cluster []byte) error {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("writing a backup: %w", err)
	}
	defer f.Close()
	if h, _, err := ReadHeader(f); err != nil || !bytes.Equal(h.GetClusterId(), cluster) {
		return fmt.Errorf("writing a backup: %s is something else, or of another cluster: %w", path, fs.ErrExist)
	}
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// File is a backup in a directory, by what it says of itself in clear.
type File struct {
	Path   string
	Header *backupv1.Header
}

// before tells whether a backup is of an earlier place in the log.
func (f *File) before(term, index uint64) bool {
	return cmp.Or(cmp.Compare(f.Header.GetTerm(), term), cmp.Compare(f.Header.GetIndex(), index)) < 0
}

// List are the backups of a cluster in a directory, by their place in the log. What is no file, or can't be read as a backup, is left out.
func List(dir string, cluster []byte) ([]File, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("listing backups: %w", err)
	}
	var out []File
	for _, e := range entries {
		index, ok := indexOf(e.Name())
		if !ok || !e.Type().IsRegular() {
			continue
		}
		path := filepath.Join(dir, e.Name())
		h, err := readHeaderOf(path)
		if err == nil && h.GetIndex() == index && bytes.Equal(h.GetClusterId(), cluster) {
			out = append(out, File{path, h})
		}
	}
	slices.SortFunc(out, func(a, b File) int {
		return cmp.Or(cmp.Compare(a.Header.GetTerm(), b.Header.GetTerm()), cmp.Compare(a.Header.GetIndex(), b.Header.GetIndex()))
	})
	return out, nil
}

func readHeaderOf(path string) (*backupv1.Header, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	h, _, err := ReadHeader(f)
	return h, err
}

// upTo are the files of a list that are of a place in the log up to that one.
func upTo(list []File, place func() (term, index uint64)) []File {
	term, index := place()
	at := File{Header: &backupv1.Header{Term: term, Index: index}}
	return slices.DeleteFunc(list, func(f File) bool { return at.before(f.Header.GetTerm(), f.Header.GetIndex()) })
}

// Prune removes the oldest backups of newest's cluster from a directory until keep are left, newest among them: those that claim to be later
// do not count. It touches no other file, but for what a writer that died has left, after a day.
func Prune(dir string, newest *backupv1.Header, keep int) (removed int, err error) {
	if err := sweep(dir); err != nil {
		return 0, err
	}
	list, err := List(dir, newest.GetClusterId())
	if err != nil {
		return 0, err
	}
	list = upTo(list, func() (term, index uint64) { return newest.GetTerm(), newest.GetIndex() })
	for _, f := range list[:max(0, len(list)-keep)] {
		if err := os.Remove(f.Path); err != nil {
			return removed, fmt.Errorf("removing an old backup: %w", err)
		}
		removed++
	}
	return removed, nil
}

// sweepAfter is how old an unfinished file is before nobody can be writing it.
const sweepAfter = 24 * time.Hour

// sweep removes unfinished files that nobody has written to for long.
func sweep(dir string) error {
	left, err := filepath.Glob(filepath.Join(dir, tempPrefix+"*"))
	if err != nil {
		return fmt.Errorf("looking for unfinished backups: %w", err)
	}
	for _, path := range left {
		st, err := os.Lstat(path)
		if err != nil || !st.Mode().IsRegular() || time.Since(st.ModTime()) < sweepAfter {
			continue
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("removing an unfinished backup: %w", err)
		}
	}
	return nil
}

// VerifyFile is Verify of a file.
func VerifyFile(path string, identities ...age.Identity) (*Report, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return Verify(f, identities...)
}

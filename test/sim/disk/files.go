package disk

import (
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

const (
	pageSize   = 4096
	sectorSize = 512
	metaPages  = 2 // the first pages of a bbolt file, written after all others are flushed
)

// files is what is known of which files and names would outlive a power cut now. A file is known by its inode.
type files struct {
	// content that is flushed; live: all that is in the file.
	content map[uint64][]byte
	live    map[uint64]bool
	// names by directory as last flushed.
	names map[string]map[string]uint64
}

func newFiles() files {
	return files{content: map[uint64][]byte{}, live: map[uint64]bool{}, names: map[string]map[string]uint64{}}
}

func inode(fi fs.FileInfo) uint64 { return fi.Sys().(*syscall.Stat_t).Ino }

// settle takes everything for flushed.
func (s *files) settle(dir string) error {
	return filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case e.IsDir():
			return s.flushDir(path)
		}
		return s.flushFile(path)
	})
}

func (s *files) flushFile(path string) error {
	fi, err := os.Stat(path)
	if err != nil {
		return err
	}
	b, err := os.ReadFile(path)
	s.content[inode(fi)] = b
	delete(s.live, inode(fi))
	return err
}

func (s *files) flushDir(path string) error {
	list, err := os.ReadDir(path)
	if err != nil {
		return err
	}
	now := map[string]uint64{}
	for _, e := range list {
		if fi, err := e.Info(); err == nil {
			now[e.Name()] = inode(fi)
		}
	}
	s.names[path] = now
	return nil
}

// Sync is raftstore's Disk.Sync.
func (d *Disk) Sync(f *os.File) error {
	return d.write(Flush, func() error {
		if d.dead {
			return nil
		}
		fi, err := f.Stat()
		if err != nil {
			return err
		}
		if fi.IsDir() {
			return d.files.flushDir(f.Name())
		}
		return d.files.flushFile(f.Name())
	}, nil)
}

// Transaction is raftstore's Disk.Commit: one transaction of a bbolt file, whose own flushes are off.
func (d *Disk) Transaction(path string, noSync bool, commit func() error) error {
	return d.write(Commit, func() error {
		if d.dead {
			return commit()
		}
		return d.files.commit(path, noSync, commit)
	}, func() error {
		if noSync {
			err := d.files.commit(path, true, commit)
			d.stop(true)
			return err
		}
		return d.tear(path, commit)
	})
}

// commit runs one transaction and notes what of it is flushed.
func (s *files) commit(path string, noSync bool, commit func() error) error {
	fi, err := os.Stat(path)
	if err != nil {
		return err
	}
	if !noSync {
		s.live[inode(fi)] = true
		delete(s.content, inode(fi))
		return commit()
	}
	if s.live[inode(fi)] {
		if err := s.flushFile(path); err != nil {
			return err
		}
	}
	return commit()
}

// tear cuts the power within a transaction. bbolt writes data pages, flushes, writes a meta page, flushes; so either some of the data pages are
// there, whole or in part, or all of them and perhaps the meta page.
func (d *Disk) tear(path string, commit func() error) error {
	before, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := commit(); err != nil {
		return err
	}
	after, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	fi, err := os.Stat(path)
	if err != nil {
		return err
	}
	first := d.rand.IntN(2) == 0 // before the first flush
	torn := append([]byte(nil), after...)
	for at := 0; at < len(after); at += pageSize {
		page := torn[at:min(at+pageSize, len(torn))]
		var old []byte
		if at < len(before) {
			old = before[at:min(at+pageSize, len(before))]
		}
		meta := at < metaPages*pageSize
		switch {
		case meta && (first || d.rand.IntN(2) == 0):
			copy(page, old)
		case !meta && first:
			spoil(page, old, d.rand)
		}
	}
	d.files.content[inode(fi)] = torn
	delete(d.files.live, inode(fi))
	d.stop(true)
	return nil
}

// spoil makes of a page its old self, its new one, or a mixture of their sectors.
func spoil(page, old []byte, r *rand.Rand) {
	what := r.IntN(3)
	for at := 0; at < len(page); at += sectorSize {
		sector := page[at:min(at+sectorSize, len(page))]
		if what == 0 || what == 1 && r.IntN(2) == 0 {
			clear(sector)
			if at < len(old) {
				copy(sector, old[at:])
			}
		}
	}
}

// compose makes the directory as it is after a power cut: names as last flushed or as they are now, contents as last flushed, or any beginning of what was never flushed.
func (s *files) compose(from, to string, r *rand.Rand) error {
	if err := os.MkdirAll(to, 0o700); err != nil {
		return err
	}
	now := map[string]uint64{}
	list, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	for _, e := range list {
		fi, err := e.Info()
		if err != nil {
			continue
		}
		if e.IsDir() {
			if err := s.composeDir(from, to, e.Name(), r); err != nil {
				return err
			}
			continue
		}
		now[e.Name()] = inode(fi)
	}
	names := now
	if r.IntN(2) == 0 {
		names = s.names[from]
	}
	for name, ino := range names {
		var b []byte
		flushed, ok := s.content[ino]
		_, isDir := os.Stat(filepath.Join(to, name))
		switch {
		case isDir == nil:
			continue
		case ok:
			b = flushed
		case now[name] != ino:
			continue
		default:
			if b, err = os.ReadFile(filepath.Join(from, name)); err != nil {
				return err
			}
			if !s.live[ino] && len(b) > 0 {
				b = b[:r.IntN(len(b)+1)]
			}
		}
		if err := os.WriteFile(filepath.Join(to, name), b, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// composeDir: the library flushes its snapshots by itself before it gives them their names.
func (s *files) composeDir(from, to, name string, r *rand.Rand) error {
	a, b := filepath.Join(from, name), filepath.Join(to, name)
	switch {
	case filepath.Base(from) == "snapshots" && strings.HasSuffix(name, ".tmp"):
		if r.IntN(2) == 0 {
			return nil
		}
		return s.compose(a, b, r)
	case filepath.Base(from) == "snapshots":
		return copyTree(a, b)
	}
	return s.compose(a, b, r)
}

func copyTree(from, to string) error {
	return filepath.WalkDir(from, func(path string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // it went while we looked
		}
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		if e.IsDir() {
			return os.MkdirAll(filepath.Join(to, rel), 0o700)
		}
		b, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, rel), b, 0o600)
	})
}

package masterkey

import (
	"bytes"
	"fmt"
	"maps"
	"sync"
)

// File is a ring that lives in a file and changes there first: what the ring has, a restart has too.
type File struct {
	path  string
	fixed string
	ring  *Ring

	mu sync.Mutex // one change at a time
}

// NewFile is the ring that was loaded from path. fixed says why the file can't be changed; empty: it can.
func NewFile(path string, ring *Ring, fixed string) *File {
	return &File{path: path, ring: ring, fixed: fixed}
}

// Ring is what the file holds.
func (f *File) Ring() *Ring { return f.ring }

// Path is where the file is.
func (f *File) Path() string { return f.path }

// Fixed says why the file can't be changed; empty: it can.
func (f *File) Fixed() string { return f.fixed }

// Put adds a version (key: 32 bytes) and returns when it is on disk. The same again is fine. A version above the one in use may be put over
// another of that number, which was never activated; any other version is refused.
func (f *File) Put(version uint32, key []byte) error {
	if version == 0 || len(key) != keySize {
		return fmt.Errorf("master key version %d of %d bytes: a version is above 0, and a key has %d bytes", version, len(key), keySize)
	}
	return f.change(func(keys map[uint32]*entry, current uint32) (bool, error) {
		old := keys[version]
		switch {
		case old != nil && bytes.Equal(old.raw[:], key):
			return false, nil
		case old != nil && version <= current:
			return false, fmt.Errorf("%s has another master key of version %d, which is or was in use", f.path, version)
		case old == nil && len(keys) == versionsMax:
			return false, fmt.Errorf("%s holds %d versions of the master key, and no more fit: charon master-key retire", f.path, len(keys))
		}
		e, err := newEntry([keySize]byte(key))
		keys[version] = e
		return true, err
	})
}

// Drop removes the versions below one that the ring has, and returns when they are gone from the file.
func (f *File) Drop(below uint32) error {
	return f.change(func(keys map[uint32]*entry, current uint32) (bool, error) {
		if keys[below] == nil || below > current {
			return false, fmt.Errorf("dropping master key versions below %d, and %d is in use: %w", below, current, ErrNoVersion)
		}
		before := len(keys)
		maps.DeleteFunc(keys, func(v uint32, _ *entry) bool { return v < below })
		return len(keys) < before, nil
	})
}

// change has edit work on a copy of the keys, which takes their place once it is on disk.
func (f *File) change(edit func(keys map[uint32]*entry, current uint32) (changed bool, err error)) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ring.mu.RLock()
	keys, current := maps.Clone(f.ring.keys), f.ring.current
	f.ring.mu.RUnlock()
	changed, err := edit(keys, current)
	if err != nil || !changed {
		return err
	}
	if f.fixed != "" {
		return fmt.Errorf("%s can't be changed: %s", f.path, f.fixed)
	}
	if err := writeFile(f.path, text(keys)); err != nil {
		return err
	}
	f.ring.mu.Lock()
	defer f.ring.mu.Unlock()
	f.ring.keys = keys
	return nil
}

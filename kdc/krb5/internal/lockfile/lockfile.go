// Package lockfile opens and replaces the small files that Kerberos programs share (keytabs, credential caches) under the locks that
// MIT krb5 and Heimdal take. It owns locking, bounded reading and atomic replacement; it must not know what is in the files.
package lockfile

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// sizeMax bounds a file that is read whole, in octets. A keytab of 100,000 entries is smaller.
const sizeMax = 16 << 20

// lockWait is how long a lock is waited for; the holders need it for microseconds.
const lockWait = 10 * time.Second

// ErrLocked is a lock that somebody else held for longer than ten seconds.
var ErrLocked = errors.New("locked by another process")

// Open opens path with flag and, when it creates it, mode 0600, and locks the whole file: exclusively if flag allows writing, else
// shared. Closing the file gives the lock up. A file that was replaced while the lock was waited for is opened again.
func Open(path string, flag int) (*os.File, error) {
	deadline := time.Now().Add(lockWait)
	for {
		f, err := os.OpenFile(path, flag, 0o600)
		if err != nil {
			return nil, err
		}
		err = lock(f, flag&(os.O_WRONLY|os.O_RDWR) != 0, deadline)
		if err != nil {
			f.Close()
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		if current(f, path) {
			return f, nil
		}
		f.Close()
		if time.Now().After(deadline) {
			return nil, fmt.Errorf("%s: %w", path, ErrLocked)
		}
	}
}

// lock takes an open-file-description lock, which excludes other goroutines and MIT's POSIX locks alike.
func lock(f *os.File, exclusive bool, deadline time.Time) error {
	l := unix.Flock_t{Type: unix.F_RDLCK}
	if exclusive {
		l.Type = unix.F_WRLCK
	}
	for {
		err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &l)
		switch {
		case err == nil:
			return nil
		case errors.Is(err, unix.EINTR):
		case !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EACCES):
			return err
		case time.Now().After(deadline):
			return ErrLocked
		default:
			time.Sleep(2 * time.Millisecond) // not F_OFD_SETLKW: a lock held for ever must not hold a thread for ever
		}
	}
}

// current says whether path still names f.
func current(f *os.File, path string) bool {
	a, err := f.Stat()
	if err != nil {
		return false
	}
	b, err := os.Stat(path)
	return err == nil && os.SameFile(a, b)
}

// ReadAll reads a whole file, at most 16 MiB.
func ReadAll(f *os.File) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(f, sizeMax+1))
	if err != nil {
		return nil, err
	}
	if len(b) > sizeMax {
		return nil, fmt.Errorf("%s: more than %d octets", f.Name(), sizeMax)
	}
	return b, nil
}

// Replace puts b at path in one step, with mode 0600, and makes it durable. The old file, if there is one, is locked meanwhile, so that
// nobody who is writing to it loses what was written. The new file never follows a symbolic link at path: it takes its place.
func Replace(path string, b []byte) (err error) {
	if old, err := Open(path, os.O_RDWR); err == nil {
		defer old.Close()
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+".*") // CreateTemp's mode is 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return err
	}
	return syncDir(dir)
}

// syncDir makes a rename durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

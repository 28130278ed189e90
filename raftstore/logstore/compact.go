package logstore

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"go.etcd.io/bbolt"
)

// compactTx bounds one transaction of a compaction, in bytes.
const compactTx = 4 << 20

// Compact rewrites the log at path, which no process may have open, without the pages that it does not use: the file never shrinks by itself.
// It returns its size in bytes before and after. A crash leaves the old file or the new one.
func Compact(path string) (before, after int64, err error) {
	fi, err := os.Stat(path)
	if err != nil {
		return 0, 0, fmt.Errorf("compacting a raft log: %w", err)
	}
	tmp := path + ".compact"
	if err := os.Remove(tmp); err != nil && !errors.Is(err, os.ErrNotExist) {
		return 0, 0, fmt.Errorf("compacting raft log %s: %w", path, err)
	}
	if err := copyTo(tmp, path); err != nil {
		return 0, 0, fmt.Errorf("compacting raft log %s: %w", path, errors.Join(err, os.Remove(tmp)))
	}
	small, err := os.Stat(tmp)
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err == nil {
		err = syncDir(filepath.Dir(path))
	}
	if err != nil {
		return 0, 0, fmt.Errorf("compacting raft log %s: %w", path, err)
	}
	return fi.Size(), small.Size(), nil
}

// copyTo makes dst and flushes it before src is let go of.
func copyTo(dst, src string) error {
	from, err := bbolt.Open(src, 0o600, &bbolt.Options{Timeout: time.Second, NoFreelistSync: true, FreelistType: bbolt.FreelistMapType})
	if err != nil {
		return err
	}
	to, err := bbolt.Open(dst, 0o600, &bbolt.Options{NoSync: true, NoFreelistSync: true, FreelistType: bbolt.FreelistMapType})
	if err != nil {
		return errors.Join(err, from.Close())
	}
	if err = bbolt.Compact(to, from, compactTx); err == nil {
		err = to.Sync()
	}
	return errors.Join(err, to.Close(), from.Close())
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

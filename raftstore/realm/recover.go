package realm

import (
	"bytes"
	"fmt"

	"go.etcd.io/bbolt"
)

// Recover makes (index, term) the last applied entry and config the raft configuration, beside the log, when a lost quorum is recovered by
// hand: the log that led here is dropped, as after an installed snapshot. index must not be below the applied one.
func (db *DB) Recover(index, term uint64, config []byte) error {
	if len(config) == 0 || len(config) > configMax {
		return fmt.Errorf("recovering with a raft configuration of %d bytes, at most %d", len(config), configMax)
	}
	db.write.Lock()
	defer db.write.Unlock()
	f, err := db.acquire()
	if err != nil {
		return err
	}
	defer f.release()
	st := db.applied.Load().clone()
	if index < st.index {
		return fmt.Errorf("recovering at index %d, below the applied %d", index, st.index)
	}
	st.index, st.term, st.installed = index, term, index
	st.configIndex, st.config = index, bytes.Clone(config)
	if err := f.bolt.Update(func(tx *bbolt.Tx) error { return st.write(tx) }); err != nil {
		return fmt.Errorf("recovering: %w", err)
	}
	db.applied.Store(st)
	db.hashes.Reset(st.hash())
	return nil
}

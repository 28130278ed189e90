package realm

import (
	"errors"
	"fmt"
	"io"
	"os"

	"go.etcd.io/bbolt"

	"github.com/charon-kdc/charon/raftstore/setsum"
)

// Rebuild makes the state file path, which must not be there, from a snapshot stream, as the first state of another cluster: config becomes
// its raft configuration as of the snapshot's index, and edit may change each record, or leave it out by keep = false. Where Kind is 0 edit is
// not asked and the record stays. Keys and revisions do not change; edit must leave alone what a record's key is made of. The file is
// durable on return. Errors: ErrCorrupt, ErrTooNew, r's, edit's, or the file system's; the file is then gone.
func Rebuild(path string, opts Options, r io.Reader, config []byte, edit func(Record) (keep bool, err error)) (SnapshotInfo, error) {
	if _, err := os.Stat(path); err == nil {
		return SnapshotInfo{}, fmt.Errorf("rebuilding realm state: %s is there already", path)
	} else if !errors.Is(err, os.ErrNotExist) {
		return SnapshotInfo{}, fmt.Errorf("rebuilding realm state: %w", err)
	}
	tmp := installPath(path)
	if err := removeIfThere(tmp); err != nil {
		return SnapshotInfo{}, fmt.Errorf("rebuilding realm state: %w", err)
	}
	b, err := openBolt(tmp, opts, true)
	if err != nil {
		return SnapshotInfo{}, err
	}
	st, err := rebuild(b, r, config, edit)
	if err == nil {
		err = (&DB{path: path, opts: opts}).moveIn(b, tmp)
	}
	if err = errors.Join(err, b.Close()); err != nil {
		return SnapshotInfo{}, fmt.Errorf("rebuilding realm state: %w", errors.Join(err, removeIfThere(tmp)))
	}
	return st.info(), nil
}

func rebuild(b *bbolt.DB, r io.Reader, config []byte, edit func(Record) (bool, error)) (*state, error) {
	in := &stream{r: r}
	st, records, err := in.header()
	if err != nil {
		return nil, err
	}
	read := &loaded{}
	out := &editor{edit: edit}
	if err := b.Update(createBuckets); err != nil {
		return nil, err
	}
	for done := false; !done; {
		err := b.Update(func(tx *bbolt.Tx) (err error) {
			done, err = out.some(tx, in, read)
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	if err := read.finish(in, st, records); err != nil {
		return nil, err
	}
	st.config, st.configIndex = config, st.index
	st.counts, st.size, st.sum, st.installed = out.counts, out.size, out.sum, st.index
	return st, b.Update(st.write)
}

// editor counts what it has let through.
type editor struct {
	edit   func(Record) (bool, error)
	counts [bucketCount]uint64
	size   uint64
	sum    setsum.Sum
}

// some stores records until a transaction is large enough or the payload ends.
func (e *editor) some(tx *bbolt.Tx, in *stream, read *loaded) (done bool, err error) {
	for id := range bucketCount {
		tx.Bucket(bucketNames[id]).FillPercent = 0.9 // keys come in order
	}
	for n, size := 0, 0; n < installRecordsMax && size < installBytesMax; n++ {
		id, k, v, err := in.record()
		if err == io.EOF {
			return true, nil
		}
		if err != nil {
			return false, err
		}
		payload, err := read.take(id, k, v)
		if err != nil {
			return false, err
		}
		v, keep, err := e.change(id, k, v, payload)
		if err != nil {
			return false, err
		}
		if !keep {
			continue
		}
		if err := tx.Bucket(bucketNames[id]).Put(k, v); err != nil {
			return false, err
		}
		e.counts[id]++
		e.size += recordSize(k, v)
		e.sum.Put(byte(id), k, v)
		size += len(k) + len(v)
	}
	return false, nil
}

// change is one record's value after edit.
func (e *editor) change(id bucketID, k, v, payload []byte) ([]byte, bool, error) {
	r, err := decodePayload(id, k, payload)
	if err != nil {
		return nil, false, err
	}
	if r.Message == nil {
		return v, true, nil
	}
	keep, err := e.edit(r)
	if err != nil || !keep {
		return nil, false, err
	}
	changed, err := deterministic.MarshalAppend([]byte{}, r.Message)
	if err != nil {
		return nil, false, err
	}
	if len(changed) > recordMax {
		return nil, false, fmt.Errorf("%s %q of %d bytes, at most %d", bucketNames[id], k, len(changed), recordMax)
	}
	return sealRecord(id, k, changed), true, nil
}

package realm

import (
	"fmt"
	"slices"

	"go.etcd.io/bbolt"
	"google.golang.org/protobuf/proto"

	"github.com/charon-kdc/charon/internal/mutant"
)

// overlay holds one command's writes until it is known to succeed, since bbolt can't take back a part of a transaction.
// Reads see the writes.
type overlay struct {
	tx           *bbolt.Tx
	st           *state
	revision     uint64
	featureLevel uint32
	pending      [bucketCount]map[string][]byte // payload; nil removes
	counts       [bucketCount]uint64
	changes      []Change
}

func newOverlay(tx *bbolt.Tx, st *state) *overlay {
	return &overlay{tx: tx, st: st, revision: st.revision, featureLevel: st.featureLevel, counts: st.counts}
}

// get returns the payload of a record, nil when there is none. It is valid until the transaction writes.
func (o *overlay) get(id bucketID, key string) ([]byte, error) {
	if v, ok := o.pending[id][key]; ok {
		return v, nil
	}
	k := []byte(key)
	v := o.tx.Bucket(bucketNames[id]).Get(k)
	if v == nil {
		return nil, nil
	}
	return openRecord(id, k, v)
}

// load decodes a record into m and tells whether there is one.
func (o *overlay) load(id bucketID, key string, m proto.Message) (bool, error) {
	b, err := o.get(id, key)
	if err != nil || b == nil {
		return false, err
	}
	if err := proto.Unmarshal(b, m); err != nil {
		return false, fmt.Errorf("%w: %s %q: %w", ErrCorrupt, bucketNames[id], key, err)
	}
	return true, nil
}

// put stores a payload, which must not be nil. It copies nothing.
func (o *overlay) put(id bucketID, key string, payload []byte) error {
	old, err := o.get(id, key)
	if err != nil {
		return err
	}
	if old == nil {
		o.counts[id]++
	}
	o.set(id, key, payload)
	return nil
}

func (o *overlay) remove(id bucketID, key string) error {
	old, err := o.get(id, key)
	if err != nil || old == nil {
		return err
	}
	o.counts[id]--
	o.set(id, key, nil)
	return nil
}

func (o *overlay) set(id bucketID, key string, payload []byte) {
	if o.pending[id] == nil {
		o.pending[id] = make(map[string][]byte)
	}
	o.pending[id][key] = payload
}

// save marshals m and puts it.
func (o *overlay) save(id bucketID, key string, m proto.Message) error {
	b, err := deterministic.MarshalAppend([]byte{}, m)
	if err != nil {
		return err
	}
	return o.put(id, key, b)
}

// each calls f with every record of a small bucket, in the order of keys, until f returns false.
func (o *overlay) each(id bucketID, f func(key string, payload []byte) (bool, error)) error {
	keys := make([]string, 0, o.counts[id])
	c := o.tx.Bucket(bucketNames[id]).Cursor()
	for k, _ := c.First(); k != nil; k, _ = c.Next() {
		if _, ok := o.pending[id][string(k)]; !ok {
			keys = append(keys, string(k))
		}
	}
	for k, v := range o.pending[id] {
		if v != nil {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	for _, k := range keys {
		b, err := o.get(id, k)
		if err != nil {
			return err
		}
		if more, err := f(k, b); err != nil || !more {
			return err
		}
	}
	return nil
}

func (o *overlay) changed(kind Kind, key string) {
	o.changes = append(o.changes, Change{Kind: kind, Key: key})
}

// nextRevision is a number that no record has had before.
func (o *overlay) nextRevision() uint64 {
	o.revision++
	if mutant.On(mutant.ApplyReadsOwnState) && o.st.installed > 0 {
		o.revision++
	}
	return o.revision
}

// flush writes what is pending to the transaction and brings the state's counters up to date.
func (o *overlay) flush() error {
	for id := range bucketCount {
		bucket := o.tx.Bucket(bucketNames[id])
		keys := make([]string, 0, len(o.pending[id]))
		for k := range o.pending[id] {
			keys = append(keys, k)
		}
		slices.Sort(keys)
		for _, k := range keys {
			if err := o.flushOne(bucket, id, []byte(k), o.pending[id][k]); err != nil {
				return err
			}
		}
	}
	o.st.counts, o.st.revision, o.st.featureLevel = o.counts, o.revision, o.featureLevel
	return nil
}

func (o *overlay) flushOne(bucket *bbolt.Bucket, id bucketID, key, payload []byte) error {
	if old := bucket.Get(key); old != nil {
		o.st.size -= recordSize(key, old)
		o.st.sum.Delete(byte(id), key, old)
	}
	if payload == nil {
		return bucket.Delete(key)
	}
	v := sealRecord(id, key, payload)
	o.st.size += recordSize(key, v)
	o.st.sum.Put(byte(id), key, v)
	return bucket.Put(key, v)
}

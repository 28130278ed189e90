package realm

import (
	"encoding/binary"
	"fmt"

	"go.etcd.io/bbolt"

	"github.com/charon-kdc/charon/internal/mutant"
	statev1 "github.com/charon-kdc/charon/proto/charon/state/v1"
	"github.com/charon-kdc/charon/raftstore/pages"
	"github.com/charon-kdc/charon/raftstore/setsum"
)

// Entry is one log entry, of a command or of a raft configuration.
type Entry struct {
	Index, Term uint64
	// Data is a command in its envelope. Ignored when Config is not nil.
	Data []byte
	// Config is an encoded raft configuration, opaque here.
	Config []byte
}

// ApplyBatch applies entries, whose indexes rise, in one transaction together with the applied index, term and raft
// configuration. It returns one result an entry and what changed, after the subscribers have seen it. An entry
// at or below the applied index is skipped with CODE_ALREADY_APPLIED. A refusal is a result, never an error.
//
// After an error nothing of the batch is in the state and the caller must stop the process: the file can't be written, a
// record is corrupt, or an entry can't be decoded by this release (ErrTooNew, ErrCorrupt).
func (db *DB) ApplyBatch(entries []Entry) ([]*statev1.Result, []Change, error) {
	db.write.Lock()
	defer db.write.Unlock()
	f, err := db.acquire()
	if err != nil {
		return nil, nil, err
	}
	defer f.release()

	st := db.applied.Load().clone()
	results := make([]*statev1.Result, len(entries))
	var changes []Change
	points := make([]setsum.Point, 0, len(entries))
	change := func(tx *bbolt.Tx) error {
		for i, e := range entries {
			r, cs, err := db.apply(tx, st, e)
			if err != nil {
				return fmt.Errorf("applying log entry %d: %w", e.Index, err)
			}
			results[i] = r
			changes = append(changes, cs...)
			if e.Index == st.index {
				points = append(points, st.hash())
			}
		}
		return st.write(tx)
	}
	err = pages.Guard(func() error { return db.opts.update(f.bolt, db.path, false, change) })
	if err != nil {
		return nil, nil, err
	}
	db.applied.Store(st)
	db.hashes.Add(points...)
	db.publish(changes)
	return results, changes, nil
}

// apply brings st and the transaction forward by one entry.
func (db *DB) apply(tx *bbolt.Tx, st *state, e Entry) (*statev1.Result, []Change, error) {
	if e.Index <= st.index && !mutant.On(mutant.AppliedTwice) {
		return &statev1.Result{Code: statev1.Code_CODE_ALREADY_APPLIED, Index: e.Index, Message: "already applied"}, nil, nil
	}
	forget := mutant.On(mutant.RequestIDForgotten) && e.Term != st.term
	st.index, st.term = e.Index, e.Term
	if e.Config != nil {
		if len(e.Config) > configMax {
			return nil, nil, fmt.Errorf("%w: raft configuration of %d bytes", ErrCorrupt, len(e.Config))
		}
		st.configIndex, st.config = e.Index, append([]byte(nil), e.Config...)
		return &statev1.Result{Index: e.Index}, nil, nil
	}
	cmd, leaderTime, err := decodeEnvelope(e.Data, db.levelMax)
	if err != nil {
		return nil, nil, err
	}
	st.now = max(st.now, leaderTime)
	if err := expireOutcomes(tx, st, forget); err != nil {
		return nil, nil, err
	}
	return db.applyCommand(tx, st, e.Index, cmd)
}

// applyCommand answers a request id that is known, else executes the command and remembers its outcome.
func (db *DB) applyCommand(tx *bbolt.Tx, st *state, index uint64, cmd *statev1.Command) (*statev1.Result, []Change, error) {
	o := newOverlay(tx, st)
	if len(cmd.GetRequestId()) > 0 {
		r, err := db.recall(o, cmd)
		if err != nil || r != nil {
			return r, nil, err
		}
	}
	r, err := execute(o, cmd)
	if err != nil {
		return nil, nil, err
	}
	r.Index = index
	if r.Code == statev1.Code_CODE_OK {
		r.Response = cmd.GetResponse()
	} else if !mutant.On(mutant.RefusalLeavesParts) {
		o = newOverlay(tx, st) // nothing of it but the outcome
	}
	if len(cmd.GetRequestId()) > 0 {
		if err := remember(o, cmd, r); err != nil {
			return nil, nil, err
		}
	}
	return r, o.changes, o.flush()
}

// execute runs one command, or a batch until its first refusal. On a refusal the overlay is to be thrown away.
func execute(o *overlay, cmd *statev1.Command) (*statev1.Result, error) {
	if len(cmd.GetResponse()) > responseMax {
		return refuse(statev1.Code_CODE_INVALID, "response of %d bytes, at most %d", len(cmd.GetResponse()), responseMax), nil
	}
	op, batch := cmd.GetOp().(*statev1.Command_Batch)
	if !batch {
		return executeOne(o, cmd)
	}
	parts := op.Batch.GetCommands()
	if len(parts) == 0 || len(parts) > batchMax {
		return refuse(statev1.Code_CODE_INVALID, "batch of %d commands; 1 to %d", len(parts), batchMax), nil
	}
	var last *statev1.Result
	for i, c := range parts {
		if _, nested := c.GetOp().(*statev1.Command_Batch); nested || len(c.GetRequestId()) > 0 || len(c.GetResponse()) > 0 {
			return refuse(statev1.Code_CODE_INVALID, "command %d of a batch is a batch itself or has a request id or response of its own", i+1), nil
		}
		r, err := executeOne(o, c)
		if err != nil || r.Code != statev1.Code_CODE_OK {
			return r, err
		}
		last = r
	}
	return last, nil
}

const (
	batchMax    = 1000
	responseMax = 64 << 10
)

func refuse(code statev1.Code, format string, args ...any) *statev1.Result {
	return &statev1.Result{Code: code, Message: fmt.Sprintf(format, args...)}
}

func ok(revision uint64) *statev1.Result { return &statev1.Result{Revision: revision} }

func recordSize(key, value []byte) uint64 { return uint64(recordHeader + len(key) + len(value)) }

func be64(v int64) []byte { return binary.BigEndian.AppendUint64(nil, uint64(v)) }

package realm

import (
	"bytes"
	"encoding/binary"

	"go.etcd.io/bbolt"

	"github.com/charon-kdc/charon/internal/mutant"
	statev1 "github.com/charon-kdc/charon/proto/charon/state/v1"
)

// Request ids make a retry after an unclear outcome act once. An outcome is kept for outcomeWindow
// after the later of the leader's time and the time inside the id. An id whose own time lies further back than the window
// is refused. So at every moment an id is either remembered or refused, whatever the clock that made it.
const (
	outcomeWindow = 60 * 60 * 1000 // ms
	outcomesMax   = 1_000_000
	// An id from further ahead than this is refused: its outcome would have to be kept for long.
	idAheadMax = 60 * 60 * 1000 // ms
	// expireMax bounds what one entry removes, so that the first entry after a long silence does not stall the log. It is more
	// than one entry adds, so nothing piles up.
	expireMax = 1000
)

// recall returns the result of a request id that must not act (again), or nil.
func (db *DB) recall(o *overlay, cmd *statev1.Command) (*statev1.Result, error) {
	id, now := cmd.GetRequestId(), o.st.now
	made, valid := requestTime(id)
	if !valid || len(cmd.GetRequestHash()) != 32 {
		return refuse(statev1.Code_CODE_INVALID, "request id must be a UUIDv7 of 16 bytes, with a hash of 32"), nil
	}
	var seen statev1.Outcome
	found, err := o.load(outcomes, string(id), &seen)
	found = found && !mutant.On(mutant.RequestIDIgnored)
	switch {
	case err != nil:
		return nil, err
	case found && bytes.Equal(seen.GetRequestHash(), cmd.GetRequestHash()):
		r := seen.GetResult()
		r.Replayed = true
		return r, nil
	case found:
		return refuse(statev1.Code_CODE_REQUEST_ID_REUSED, "request id was used for another request"), nil
	case made+outcomeWindow < now:
		return refuse(statev1.Code_CODE_REQUEST_ID_EXPIRED, "request id is more than %d minutes old", outcomeWindow/60_000), nil
	case made > now+idAheadMax:
		return refuse(statev1.Code_CODE_INVALID, "request id is more than %d minutes ahead of the cluster's time", idAheadMax/60_000), nil
	case o.counts[outcomes] >= db.outcomesMax:
		return refuse(statev1.Code_CODE_REQUEST_IDS_FULL, "%d request ids are remembered; try again later", o.counts[outcomes]), nil
	}
	return nil, nil
}

// requestTime is the time inside a UUIDv7, in ms since the epoch (RFC 9562 section 5.7).
func requestTime(id []byte) (ms int64, valid bool) {
	if len(id) != 16 || id[6]>>4 != 7 || id[8]>>6 != 2 {
		return 0, false
	}
	return int64(binary.BigEndian.Uint64(id) >> 16), true
}

func remember(o *overlay, cmd *statev1.Command, r *statev1.Result) error {
	id := string(cmd.GetRequestId())
	made, _ := requestTime(cmd.GetRequestId())
	if mutant.On(mutant.OutcomeNotStored) {
		r = &statev1.Result{Index: r.GetIndex()}
	}
	out := &statev1.Outcome{RequestHash: cmd.GetRequestHash(), Result: r, Time: o.st.now}
	if err := o.save(outcomes, id, out); err != nil {
		return err
	}
	expiry := max(made, o.st.now) + outcomeWindow
	return o.put(expiries, string(be64(expiry))+id, []byte{})
}

// expireOutcomes forgets outcomes whose time has come, or all, oldest first, at most expireMax.
func expireOutcomes(tx *bbolt.Tx, st *state, all bool) error {
	o := newOverlay(tx, st)
	c := tx.Bucket(bucketNames[expiries]).Cursor()
	n := 0
	for k, _ := c.First(); k != nil && n < expireMax; k, _ = c.Next() {
		if len(k) != 24 || int64(binary.BigEndian.Uint64(k)) >= st.now && !all {
			break
		}
		n++
		if err := o.remove(expiries, string(k)); err != nil {
			return err
		}
		if err := o.remove(outcomes, string(k[8:])); err != nil {
			return err
		}
	}
	if n == 0 {
		return nil
	}
	return o.flush()
}

package raftstore

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"os"
	"path/filepath"

	"github.com/hashicorp/raft"

	"github.com/charon-kdc/charon/raftstore/logstore"
	"github.com/charon-kdc/charon/raftstore/replay"
	"github.com/charon-kdc/charon/raftstore/setsum"
)

// Examined is what Examine has found in order.
type Examined struct {
	// State is the realm state's index and hash, as other nodes have it at that index.
	State setsum.Point
	// Principals in it.
	Principals uint64
	// Sum is over everything that was read: equal for two directories that mean the same.
	Sum [sha256.Size]byte
}

// Examine reads all of the data directory of a stopped node as a start does, and changes nothing. Errors: ErrBroken, ErrStateDamaged, or what
// can't be read.
func Examine(dir string) (out Examined, err error) {
	d, err := openDisk(dir)
	if err != nil {
		return out, err
	}
	h := sha256.New()
	err = d.examine(h)
	if err == nil {
		out.State, out.Principals = d.db.Hashes().Last(), d.db.Counts().Principals
		out.Sum = [sha256.Size]byte(h.Sum(nil))
	}
	return out, errors.Join(err, d.close())
}

func (d *disk) examine(h hash.Hash) error {
	if err := checkRecovering(d.dir); err != nil {
		return err
	}
	h.Write(d.id[:])
	h.Write(d.replayID[:])
	var sent uint64
	for _, path := range []string{filepath.Join(d.dir, bootFile), filepath.Join(d.dir, replayGroup, installFile)} {
		n, err := readCount(path)
		if err != nil {
			return err
		}
		number(h, n)
		sent = n
	}
	for _, path := range []string{
		filepath.Join(d.dir, realmGroup, joinFile), filepath.Join(d.dir, peersFile), filepath.Join(d.dir, movedFile), filepath.Join(d.dir, recoveredFile),
		filepath.Join(d.dir, divergedFile),
	} {
		b, err := readSealed(path)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		number(h, uint64(len(b)))
		h.Write(b)
	}
	if err := d.examineRealm(h); err != nil {
		return err
	}
	return d.examineReplay(h, sent)
}

func number(h hash.Hash, v uint64) { h.Write(binary.LittleEndian.AppendUint64(nil, v)) }

func (d *disk) examineRealm(h hash.Hash) error {
	index, term := d.db.Applied()
	if err := reaches(d.realm, filepath.Join(d.dir, realmGroup), d.db.Path(), index, d.db.Installed()); err != nil {
		return err
	}
	number(h, index)
	number(h, term)
	number(h, d.db.Installed())
	sum, err := d.db.Hash()
	if err != nil {
		return damage(d.db.Path(), err)
	}
	h.Write(sum[:])
	return examineLog(h, d.realm, filepath.Join(d.dir, realmGroup, logFile))
}

func (d *disk) examineReplay(h hash.Hash, sent uint64) error {
	list, err := d.snaps.List()
	if err != nil {
		return err
	}
	var index uint64
	state := replay.New()
	if len(list) > 0 {
		index = list[0].Index
		number(h, list[0].Term)
		if err := restoreFrom(d.snaps, list[0].ID, state); err != nil {
			return stateDamage(filepath.Join(d.dir, replayGroup, "snapshots"), err)
		}
	}
	number(h, index)
	sum := state.Hash()
	h.Write(sum[:])
	if err := reaches(d.replay, filepath.Join(d.dir, replayGroup), filepath.Join(d.dir, replayGroup, "snapshots"), index, sent); err != nil {
		return err
	}
	return examineLog(h, d.replay, filepath.Join(d.dir, replayGroup, logFile))
}

// examineLog reads every entry, the term and the vote.
func examineLog(h hash.Hash, log *logstore.Store, path string) error {
	first, err := log.FirstIndex()
	if err != nil {
		return damage(path, err)
	}
	last, err := log.LastIndex()
	if err != nil {
		return damage(path, err)
	}
	for i := first; i != 0 && i <= last; i++ {
		var l raft.Log
		if err := log.GetLog(i, &l); err != nil {
			return damage(path, err)
		}
		number(h, l.Index)
		number(h, l.Term)
		number(h, uint64(l.Type))
		number(h, uint64(len(l.Data)))
		h.Write(l.Data)
	}
	for _, key := range []string{"CurrentTerm", "LastVoteTerm"} {
		v, err := log.GetUint64([]byte(key))
		if err != nil && err.Error() != "not found" {
			return damage(path, err)
		}
		number(h, v)
	}
	v, err := log.Get([]byte("LastVoteCand"))
	if err != nil && err.Error() != "not found" {
		return damage(path, err)
	}
	number(h, uint64(len(v)))
	h.Write(v)
	return nil
}

// reaches refuses a log that is older than the state, since someone has taken it away, and a state, at path, that is older than the log reaches
// back. applied is where the state is, installed the last snapshot that a leader sent.
func reaches(log *logstore.Store, dir, path string, applied, installed uint64) error {
	first, err := log.FirstIndex()
	if err != nil {
		return err
	}
	if first > applied+1 {
		return stateDamage(path, fmt.Errorf("it ends at index %d, or is gone, and the log begins at %d", applied, first))
	}
	if applied == 0 {
		return nil
	}
	fresh, err := log.Fresh()
	if err != nil {
		return err
	}
	last, err := log.LastIndex()
	if err != nil {
		return err
	}
	if fresh || (last < applied && applied > installed) {
		return fmt.Errorf("%w: %s: the state is at index %d but the log ends at %d: %s", ErrBroken, dir, applied, last, replaceRemedy)
	}
	return nil
}

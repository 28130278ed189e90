package raftstore

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"

	"github.com/hashicorp/raft"

	"github.com/charon-kdc/charon/raftstore/logstore"
	"github.com/charon-kdc/charon/raftstore/peer"
	"github.com/charon-kdc/charon/raftstore/realm"
)

// keyCurrentTerm is the library's, in its stable store.
var keyCurrentTerm = []byte("CurrentTerm")

// Seed prepares dir, which Prepare has just made, so that a new cluster of this one node goes on from a realm snapshot: the state as edit leaves it
// (realm.Rebuild), this node as its only voter at peerAddress. Indexes, terms and revisions go on from the snapshot's, so that none of them ever
// means two things; the log is empty and begins behind it. The replay group stays empty. To be followed by Open with Bootstrap.Restored.
// mapSize as Config.MapSize.
func Seed(dir string, id peer.NodeID, peerAddress string, mapSize int, snapshot io.Reader, edit func(realm.Record) (keep bool, err error)) (realm.SnapshotInfo, error) {
	config := raft.EncodeConfiguration(raft.Configuration{Servers: []raft.Server{
		{Suffrage: raft.Voter, ID: serverID(id), Address: raft.ServerAddress(peerAddress)},
	}})
	group := filepath.Join(dir, realmGroup)
	info, err := realm.Rebuild(filepath.Join(group, stateFile), realm.Options{MmapSize: mapSize}, snapshot, config, edit)
	if err != nil {
		return info, err
	}
	if info.Index == 0 || info.Term == 0 {
		return info, fmt.Errorf("%w: a snapshot of index %d and term %d is of no cluster", realm.ErrCorrupt, info.Index, info.Term)
	}
	return info, seedLog(filepath.Join(group, logFile), info.Term)
}

// seedLog has an empty log begin behind a snapshot of that term.
func seedLog(path string, term uint64) error {
	log, err := logstore.Open(path, logstore.Options{})
	if err != nil {
		return err
	}
	fresh, err := log.Fresh()
	if err == nil && !fresh {
		err = fmt.Errorf("seeding %s: the log is in use", path)
	}
	if err == nil {
		err = log.SetUint64(keyCurrentTerm, term)
	}
	return errors.Join(err, log.Close())
}

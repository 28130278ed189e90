package raftstore

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/charon-kdc/charon/raftstore/logstore"
	"github.com/charon-kdc/charon/raftstore/peer"
)

// The groups' directories in Config.Dir, and the files in them.
const (
	realmGroup  = "realm"
	replayGroup = "replay"
	idFile      = "id"
	logFile     = "log.db"
	stateFile   = "state.db"
	bootFile    = "boot"
	joinFile    = "join-peers.json"
)

// ErrBroken says that a data directory does not hold together: parts of it are missing or older than others. It must not
// be used; the node joins again as a new one.
var ErrBroken = errors.New("data directory is broken")

// JoinPeer is a member that a joining node knows before its own log tells it.
type JoinPeer struct {
	ID          string `json:"id"` // hex
	PeerAddress string `json:"peer_address"`
}

// Prepare makes a new identity in an empty dir, or returns the one that is there: the ids of both groups. The first one
// is the node's.
func Prepare(dir string) (id, replayID peer.NodeID, err error) {
	if id, err = prepareGroup(filepath.Join(dir, realmGroup)); err != nil {
		return id, replayID, err
	}
	replayID, err = prepareGroup(filepath.Join(dir, replayGroup))
	return id, replayID, err
}

// prepareGroup makes id and empty log together: a directory is renamed into place that has both.
func prepareGroup(dir string) (peer.NodeID, error) {
	if _, err := os.Stat(dir); err == nil {
		return readGroupID(dir)
	} else if !errors.Is(err, os.ErrNotExist) {
		return peer.NodeID{}, fmt.Errorf("reading identity: %w", err)
	}
	fresh := dir + ".new"
	if err := os.RemoveAll(fresh); err != nil {
		return peer.NodeID{}, fmt.Errorf("making an identity: %w", err)
	}
	if err := os.MkdirAll(fresh, 0o700); err != nil {
		return peer.NodeID{}, fmt.Errorf("making an identity: %w", err)
	}
	var id peer.NodeID
	if _, err := rand.Read(id[:]); err != nil {
		return id, err
	}
	if err := writeFile(filepath.Join(fresh, idFile), sealText([]byte(id.String()+"\n"))); err != nil {
		return id, fmt.Errorf("making an identity: %w", err)
	}
	log, err := logstore.Open(filepath.Join(fresh, logFile), logstore.Options{})
	if err != nil {
		return id, err
	}
	if err := log.Close(); err != nil {
		return id, fmt.Errorf("making an identity: %w", err)
	}
	if err := errors.Join(syncDir(fresh), os.Rename(fresh, dir)); err != nil {
		return id, fmt.Errorf("making an identity: %w", err)
	}
	return id, syncDir(filepath.Dir(dir))
}

// readGroupID refuses an id without its log and a log without its id: the two live and die together.
func readGroupID(dir string) (peer.NodeID, error) {
	text, idErr := readSealed(filepath.Join(dir, idFile))
	_, logErr := os.Stat(filepath.Join(dir, logFile))
	switch {
	case errors.Is(idErr, os.ErrNotExist) && errors.Is(logErr, os.ErrNotExist):
		return peer.NodeID{}, fmt.Errorf("%w: %s has neither id nor log: remove the data directory and join again", ErrBroken, dir)
	case errors.Is(idErr, os.ErrNotExist):
		return peer.NodeID{}, fmt.Errorf("%w: %s has a log without an id: remove the data directory and join again", ErrBroken, dir)
	case errors.Is(logErr, os.ErrNotExist):
		return peer.NodeID{}, fmt.Errorf("%w: %s has an id without its log: remove the data directory and join again", ErrBroken, dir)
	}
	if err := errors.Join(idErr, logErr); err != nil {
		return peer.NodeID{}, fmt.Errorf("reading identity: %w", err)
	}
	id, err := peer.ParseNodeID(strings.TrimSpace(string(text)))
	if err != nil || id.IsZero() {
		return id, fmt.Errorf("%w: %s: id file: %v", ErrBroken, dir, err)
	}
	return id, nil
}

// Whole tells without changing anything whether dir holds both groups, each with its id and its log. Error: ErrBroken, or what can't be read.
func Whole(dir string) error {
	for _, g := range []string{realmGroup, replayGroup} {
		if _, err := readGroupID(filepath.Join(dir, g)); err != nil {
			return err
		}
	}
	return nil
}

// SaveJoinPeers notes whom a joining node believes until it has a configuration of its own. To be called after Prepare.
func SaveJoinPeers(dir string, peers []JoinPeer) error {
	b, err := json.Marshal(peers)
	if err != nil {
		return err
	}
	return writeFile(filepath.Join(dir, realmGroup, joinFile), sealText(append(b, '\n')))
}

func loadJoinPeers(dir string) (map[peer.NodeID]string, error) {
	return loadPeerList(filepath.Join(dir, realmGroup, joinFile))
}

func loadPeerList(path string) (map[peer.NodeID]string, error) {
	b, err := readSealed(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the list of members: %w", err)
	}
	var list []JoinPeer
	if err := json.Unmarshal(b, &list); err != nil {
		return nil, fmt.Errorf("reading the list of members: %w", err)
	}
	out := map[peer.NodeID]string{}
	for _, p := range list {
		id, err := peer.ParseNodeID(p.ID)
		if err != nil {
			return nil, fmt.Errorf("reading the list of members: %w", err)
		}
		out[id] = p.PeerAddress
	}
	return out, nil
}

func writeFile(path string, b []byte) error { return Disk{}.writeFile(path, b) }

// writeFile is durable and atomic, mode 0600.
func (d Disk) writeFile(path string, b []byte) error {
	tmp := path + ".tmp"
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err = errors.Join(err, d.sync(f), f.Close()); err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	if err := os.Rename(tmp, path); err != nil {
		return err
	}
	return d.syncDir(filepath.Dir(path))
}

func syncDir(path string) error { return Disk{}.syncDir(path) }

func (d Disk) syncDir(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.sync(f), f.Close())
}

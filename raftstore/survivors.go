package raftstore

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"

	"github.com/hashicorp/raft"

	"github.com/charon-kdc/charon/raftstore/logstore"
	"github.com/charon-kdc/charon/raftstore/peer"
	"github.com/charon-kdc/charon/raftstore/realm"
)

// survivorsMax bounds the nodes of a Survivors file.
const survivorsMax = 64

// Survivors is the file that a recovery of a lost quorum goes by: the nodes that are left, and how far the logs of each reach. Every survivor
// is given the same.
type Survivors struct {
	Cluster   string     `json:"cluster"` // hex
	Survivors []Survivor `json:"survivors"`
}

// Survivor is one node that is left.
type Survivor struct {
	Name        string `json:"name"`
	ID          string `json:"id"`        // hex, as node list -o wide prints it
	ReplayID    string `json:"replay_id"` // hex
	PeerAddress string `json:"peer_address"`
	Realm       LogEnd `json:"realm"`
	Replay      LogEnd `json:"replay"`
}

// LogEnd is the last entry that a node's disk has of a group. Of two, the later term, then the higher index has all that was acknowledged and
// that either of them has.
type LogEnd struct {
	Term  uint64 `json:"term"`
	Index uint64 `json:"index"`
}

func (e LogEnd) compare(o LogEnd) int {
	return cmp.Or(cmp.Compare(e.Term, o.Term), cmp.Compare(e.Index, o.Index))
}

// ParseSurvivors reads a Survivors file, strictly.
func ParseSurvivors(b []byte) (*Survivors, error) {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	f := new(Survivors)
	if err := d.Decode(f); err != nil {
		return nil, fmt.Errorf("reading the list of survivors: %w", err)
	}
	return f, f.check()
}

func (f *Survivors) check() error {
	if n := len(f.Survivors); n == 0 || n > survivorsMax {
		return fmt.Errorf("the list of survivors has %d nodes; 1 to %d", n, survivorsMax)
	}
	seen := map[string]bool{}
	for _, v := range f.Survivors {
		_, idErr := peer.ParseNodeID(v.ID)
		_, replayErr := peer.ParseNodeID(v.ReplayID)
		_, _, addrErr := net.SplitHostPort(v.PeerAddress)
		if err := cmp.Or(idErr, replayErr, addrErr); err != nil || v.Name == "" {
			return fmt.Errorf("the list of survivors, node %q: %w", v.Name, cmp.Or(err, errors.New("it needs a name")))
		}
		for _, k := range []string{v.Name, v.ID, v.ReplayID, v.PeerAddress} {
			if seen[k] {
				return fmt.Errorf("the list of survivors has %s twice", k)
			}
			seen[k] = true
		}
	}
	return nil
}

// best is the survivor whose log of a group reaches furthest; of equals the one called prefer, then the first.
func (f *Survivors) best(end func(Survivor) LogEnd, prefer string) Survivor {
	b := f.Survivors[0]
	for _, v := range f.Survivors[1:] {
		if c := end(v).compare(end(b)); c > 0 || c == 0 && v.ID == prefer {
			b = v
		}
	}
	return b
}

// ReadSurvivor tells of the stopped node of a data directory all but its address, and which cluster it is of. It changes nothing there. Errors:
// ErrBroken, or the directory is in use.
func ReadSurvivor(dir string) (cluster string, v Survivor, err error) {
	d, err := openDisk(dir)
	if err != nil {
		return "", v, err
	}
	v, err = d.survivor()
	if err == nil {
		cluster, err = d.cluster()
	}
	return cluster, v, errors.Join(err, d.close())
}

// disk is a data directory that no node runs on.
type disk struct {
	dir          string
	id, replayID peer.NodeID
	db           *realm.DB
	realm        *logstore.Store
	replay       *logstore.Store
	snaps        raft.SnapshotStore // of the replay group
}

func openDisk(dir string) (d *disk, err error) {
	d = &disk{dir: dir}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.close())
		}
	}()
	for _, g := range []string{realmGroup, replayGroup} {
		if _, err := os.Stat(filepath.Join(dir, g)); err != nil {
			return d, fmt.Errorf("reading the data directory: %w", err)
		}
	}
	if d.id, d.replayID, err = Prepare(dir); err != nil {
		return d, err
	}
	path := filepath.Join(dir, realmGroup, stateFile)
	if d.db, err = realm.Open(path, realm.Options{}); err != nil {
		return d, damage(path, err)
	}
	for group, log := range map[string]**logstore.Store{realmGroup: &d.realm, replayGroup: &d.replay} {
		path := filepath.Join(dir, group, logFile)
		if *log, err = logstore.Open(path, logstore.Options{}); err != nil {
			return d, damage(path, err)
		}
	}
	snaps, err := newFramedSnapshots(filepath.Join(dir, replayGroup), 1, newHCLogger(slog.New(slog.DiscardHandler), replayGroup, new(atomic.Bool)))
	if err != nil {
		return d, err
	}
	d.snaps = snaps
	return d, damage(snaps.dir, snaps.verify())
}

func (d *disk) close() error {
	var errs []error
	for _, l := range []*logstore.Store{d.realm, d.replay} {
		if l != nil {
			errs = append(errs, l.Close())
		}
	}
	if d.db != nil {
		errs = append(errs, d.db.Close())
	}
	return errors.Join(errs...)
}

func (d *disk) cluster() (string, error) {
	cl, err := d.db.Cluster()
	if err != nil {
		return "", fmt.Errorf("%s has not received the realm: %w", d.dir, err)
	}
	return fmt.Sprintf("%x", cl.GetId()), nil
}

func (d *disk) survivor() (Survivor, error) {
	v := Survivor{ID: d.id.String(), ReplayID: d.replayID.String()}
	switch why, err := readDiverged(d.dir); {
	case err != nil:
		return v, err
	case why != "":
		return v, fmt.Errorf("%w: %s: this node's %s: leave it out of the list of survivors, wipe it, and join it again once the realm is recovered", ErrBroken, d.dir, why)
	}
	n, err := d.db.Node(d.id[:])
	if err != nil {
		return v, fmt.Errorf("%s is no member's: %w", d.dir, err)
	}
	v.Name = n.GetName()
	index, term := d.db.Applied()
	if v.Realm, err = logEnd(d.realm, LogEnd{term, index}); err != nil {
		return v, err
	}
	list, err := d.snaps.List()
	if err != nil {
		return v, err
	}
	var snap LogEnd
	if len(list) > 0 {
		snap = LogEnd{list[0].Term, list[0].Index}
	}
	v.Replay, err = logEnd(d.replay, snap)
	return v, err
}

// logEnd is the last entry of a log, or of the state if that is later.
func logEnd(log *logstore.Store, state LogEnd) (LogEnd, error) {
	last, err := log.LastIndex()
	if err != nil || last <= state.Index {
		return state, err
	}
	var l raft.Log
	if err := log.GetLog(last, &l); err != nil {
		return state, fmt.Errorf("reading the last entry of a log: %w", err)
	}
	return LogEnd{l.Term, l.Index}, nil
}

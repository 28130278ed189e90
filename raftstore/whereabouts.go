package raftstore

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	statev1 "github.com/charon-kdc/charon/proto/charon/state/v1"
	"github.com/charon-kdc/charon/raftstore/peer"
)

// movedFile has what an operator says of where other nodes are, for a node that can't hear it from them.
const movedFile = "moved.json"

// whereabouts is where members are beyond what the realm's records say, and when each was last heard of. A node that starts at a new address tells
// everybody it asks, since the leader, which dials the old one, could not tell it that it leads; and those tell others. It counts until the
// record is as new. What an operator wrote down counts until the record changes.
type whereabouts struct {
	mu    sync.Mutex
	told  map[peer.NodeID]sighting
	notes map[peer.NodeID]move
	heard map[peer.NodeID]time.Time
}

type sighting struct {
	address string
	boot    uint64 // the start at which it was said
}

// move is one entry of movedFile.
type move struct {
	ID      string `json:"id"`      // hex
	Address string `json:"address"` // host:port
	Was     string `json:"was"`     // the record's address when it was noted
}

func newWhereabouts(dir string) (*whereabouts, error) {
	w := &whereabouts{told: map[peer.NodeID]sighting{}, notes: map[peer.NodeID]move{}, heard: map[peer.NodeID]time.Time{}}
	list, err := readMoves(dir)
	if err != nil {
		return nil, err
	}
	for _, m := range list {
		id, err := peer.ParseNodeID(m.ID)
		if err != nil {
			return nil, fmt.Errorf("reading %s: %w", movedFile, err)
		}
		w.notes[id] = m
	}
	return w, nil
}

func readMoves(dir string) ([]move, error) {
	b, err := readSealed(filepath.Join(dir, movedFile))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	var list []move
	if err == nil {
		err = json.Unmarshal(b, &list)
	}
	if err != nil {
		return nil, fmt.Errorf("reading where nodes have moved to: %w", err)
	}
	return list, nil
}

// addressMax bounds a host and port, in bytes.
const addressMax = 300

// report takes what is said of a member: address is where it is since that start of it. Only members get here, so the map is bounded.
func (w *whereabouts) report(id peer.NodeID, address string, boot uint64) {
	if _, _, err := net.SplitHostPort(address); err != nil || len(address) > addressMax || boot == 0 {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if boot > w.told[id].boot {
		w.told[id] = sighting{address, boot}
	}
}

// of is where a node is, if that is known better than by its record, which may be nil. boot is 0 unless the node said so.
func (w *whereabouts) of(id peer.NodeID, rec *statev1.Node) (address string, boot uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if r, ok := w.told[id]; ok && r.boot > rec.GetBootCounter() {
		return r.address, r.boot
	}
	if m, ok := w.notes[id]; ok && m.Was == rec.GetPeerAddress() {
		return m.Address, 0
	}
	return "", 0
}

// sign notes a sign of life.
func (w *whereabouts) sign(id peer.NodeID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.heard[id] = time.Now()
}

// silence is how long a member has not been heard of; of one that never was, since it was first asked for here.
func (w *whereabouts) silence(id peer.NodeID) time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	at, ok := w.heard[id]
	if !ok {
		at = time.Now()
		w.heard[id] = at
	}
	return time.Since(at)
}

// forget drops what is known of a node that has left.
func (w *whereabouts) forget(id peer.NodeID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.told, id)
	delete(w.heard, id)
}

// NoteMoves tells the stopped node of a data directory where other nodes, by name, are now: for the case that so many have moved at once that none
// of them finds another. The others' own word counts more, once it is heard.
func NoteMoves(dir string, to map[string]string) error {
	d, err := openDisk(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.moveTo(to), d.close())
}

func (d *disk) moveTo(to map[string]string) error {
	nodes, err := d.db.Nodes()
	if err != nil {
		return err
	}
	for name := range to {
		if !slices.ContainsFunc(nodes, func(n *statev1.Node) bool { return n.GetName() == name }) {
			return fmt.Errorf("%s: %w", name, ErrNotMember)
		}
	}
	list, err := readMoves(d.dir)
	if err != nil {
		return err
	}
	for _, n := range nodes {
		address, ok := to[n.GetName()]
		if !ok {
			continue
		}
		id := toNodeID(n.GetId()).String()
		list = slices.DeleteFunc(list, func(m move) bool { return m.ID == id })
		if address != n.GetPeerAddress() {
			list = append(list, move{ID: id, Address: address, Was: n.GetPeerAddress()})
		}
	}
	b, err := json.Marshal(list)
	if err != nil {
		return err
	}
	return writeFile(filepath.Join(d.dir, movedFile), sealText(b))
}

// noteMoves does so for survivors whose address in the list is another than their record's.
func (d *disk) noteMoves(f *Survivors) error {
	to := map[string]string{}
	for _, v := range f.Survivors {
		id, err := peer.ParseNodeID(v.ID)
		if err != nil {
			return err
		}
		// The list may have a node that the base has not heard of yet: it has no record to differ from.
		if n, err := d.db.Node(id[:]); err == nil && n.GetPeerAddress() != v.PeerAddress {
			to[n.GetName()] = v.PeerAddress
		}
	}
	if len(to) == 0 {
		return nil
	}
	return d.moveTo(to)
}

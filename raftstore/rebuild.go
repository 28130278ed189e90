package raftstore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/hashicorp/raft"

	peerv1 "github.com/charon-kdc/charon/proto/charon/peer/v1"
	"github.com/charon-kdc/charon/raftstore/forward"
	"github.com/charon-kdc/charon/raftstore/logstore"
	"github.com/charon-kdc/charon/raftstore/peer"
	"github.com/charon-kdc/charon/raftstore/realm"
)

// Rebuild is what a rebuild of a node's states needs.
type Rebuild struct {
	Dir string
	// Identity is the node's, as Config has it.
	Identity peer.Identity
	// From are the peer addresses to ask, host:port. Empty: those that this node has known last.
	From    []string
	MapSize int
	Logger  *slog.Logger
}

// Run fetches the states of both groups from another member and puts them in the place of this node's, which may be damaged or gone. The node, which
// must not run, keeps its ids, its log and its votes; entries of its log beyond the states are kept and applied like any others. After a crash
// it is run again. Errors: ErrBroken, where the log is damaged too; or why no member could help, and nothing has changed.
func (r *Rebuild) Run(ctx context.Context) (from string, err error) {
	if err := Whole(r.Dir); err != nil {
		return "", err
	}
	addrs := r.From
	if len(addrs) == 0 {
		if addrs, err = r.known(); err != nil {
			return "", err
		}
	}
	if len(addrs) == 0 {
		return "", errors.New("no other member's address is known here: give one, host:port of its peer port, with --rebuild-from")
	}
	var errs []error
	for _, addr := range addrs {
		if err = r.from(ctx, addr); err == nil {
			return addr, nil
		}
		r.Logger.Warn("a member could not help", "address", addr, "err", err)
		errs = append(errs, fmt.Errorf("%s: %w", addr, err))
		if ctx.Err() != nil || errors.Is(err, ErrBroken) {
			break
		}
	}
	return "", fmt.Errorf("no member gave its state: %w", errors.Join(errs...))
}

// known are the addresses in the files that may have some.
func (r *Rebuild) known() ([]string, error) {
	self, err := readGroupID(filepath.Join(r.Dir, realmGroup))
	if err != nil {
		return nil, err
	}
	known := map[string]bool{}
	for _, list := range []func(string) (map[peer.NodeID]string, error){loadPeers, loadJoinPeers} {
		m, err := list(r.Dir)
		if err != nil {
			r.Logger.Warn("a list of members can't be read", "err", err)
		}
		for id, addr := range m {
			if id != self {
				known[addr] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(known)), nil
}

func (r *Rebuild) from(ctx context.Context, addr string) error {
	id := r.Identity
	id.Allowed = func(peer.NodeID) bool { return true } // the authority vouches; who is a member our state can't tell
	cc, err := forward.Dial(&id, addr)
	if err != nil {
		return err
	}
	defer cc.Close()
	client := peerv1.NewPeerClient(cc)
	if err := r.realm(ctx, client); err != nil {
		return fmt.Errorf("the realm's state: %w", err)
	}
	if err := r.replay(ctx, client); err != nil {
		return fmt.Errorf("the replay state: %w", err)
	}
	if err := os.Remove(filepath.Join(r.Dir, divergedFile)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return syncDir(r.Dir)
}

// begin asks for a state and holds its place in the log against a group's own log, which is not to have a gap behind it.
func (r *Rebuild) begin(ctx context.Context, client peerv1.PeerClient, group string) (*peerv1.FetchStateResponse, io.Reader, error) {
	in, err := client.FetchState(ctx, &peerv1.FetchStateRequest{Replay: group == replayGroup})
	if err != nil {
		return nil, nil, err
	}
	head, err := in.Recv()
	if err != nil {
		return nil, nil, err
	}
	path := filepath.Join(r.Dir, group, logFile)
	log, err := logstore.Open(path, logstore.Options{})
	if err != nil {
		return nil, nil, damage(path, err)
	}
	first, err := log.FirstIndex()
	if err = errors.Join(err, log.Close()); err != nil {
		return nil, nil, err
	}
	if first > head.GetIndex()+1 {
		return nil, nil, fmt.Errorf("it ends at index %d, and this node's log begins at %d", head.GetIndex(), first)
	}
	return head, &fetched{in: in}, nil
}

func (r *Rebuild) realm(ctx context.Context, client peerv1.PeerClient) error {
	head, data, err := r.begin(ctx, client, realmGroup)
	if err != nil {
		return err
	}
	if head.GetIndex() == 0 {
		return errors.New("it has none itself")
	}
	info, err := realm.Replace(filepath.Join(r.Dir, realmGroup, stateFile), realm.Options{MmapSize: r.MapSize}, data)
	if err == nil {
		r.Logger.Info("the realm's state is rebuilt", "index", info.Index, "bytes", info.Size)
	}
	return err
}

// replay puts one fresh snapshot in the place of those that are there. A crash between leaves none, or the new one.
func (r *Rebuild) replay(ctx context.Context, client peerv1.PeerClient) error {
	head, data, err := r.begin(ctx, client, replayGroup)
	if err != nil {
		return err
	}
	dir := filepath.Join(r.Dir, replayGroup)
	if err := (Disk{}).writeCount(filepath.Join(dir, installFile), head.GetIndex()); err != nil {
		return err
	}
	if err := os.RemoveAll(filepath.Join(dir, "snapshots")); err != nil {
		return err
	}
	if head.GetIndex() == 0 {
		return nil
	}
	snaps, err := newFramedSnapshots(dir, 1, newHCLogger(r.Logger, replayGroup, new(atomic.Bool)))
	if err != nil {
		return err
	}
	_, trans := raft.NewInmemTransport("")
	sink, err := snaps.Create(raft.SnapshotVersionMax, head.GetIndex(), head.GetTerm(), raft.DecodeConfiguration(head.GetConfiguration()), head.GetConfigurationIndex(), trans)
	if err != nil {
		return err
	}
	n, err := io.Copy(sink, data)
	if err != nil {
		return errors.Join(err, sink.Cancel())
	}
	if err := sink.Close(); err != nil {
		return err
	}
	if err := snaps.readable(); err != nil {
		return err
	}
	r.Logger.Info("the replay state is rebuilt", "index", head.GetIndex(), "bytes", n)
	return nil
}

// peersFile, in Config.Dir, has where the members are, for a rebuild of a node whose state can't tell.
const peersFile = "peers.json"

// savePeers writes the members down where they have changed.
func (s *Store) savePeers() {
	var list []JoinPeer
	for _, id := range s.members.others() {
		if addr, ok := s.peerAddress(id); ok {
			list = append(list, JoinPeer{ID: id.String(), PeerAddress: addr})
		}
	}
	slices.SortFunc(list, func(a, b JoinPeer) int { return strings.Compare(a.ID, b.ID) })
	b, err := json.Marshal(list)
	if err != nil || len(list) == 0 || s.applied.get() == 0 {
		return
	}
	b = append(b, '\n')
	path := filepath.Join(s.cfg.Dir, peersFile)
	if old, err := readSealed(path); err == nil && string(old) == string(b) {
		return
	}
	if err := s.cfg.Disk.writeFile(path, sealText(b)); err != nil {
		s.cfg.Logger.Warn("writing down where the members are", "err", err)
	}
}

func loadPeers(dir string) (map[peer.NodeID]string, error) {
	return loadPeerList(filepath.Join(dir, peersFile))
}

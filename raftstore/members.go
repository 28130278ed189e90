package raftstore

import (
	"bytes"
	"maps"
	"sync"

	"github.com/hashicorp/raft"

	statev1 "github.com/charon-kdc/charon/proto/charon/state/v1"
	"github.com/charon-kdc/charon/raftstore/peer"
)

// members is who belongs to the cluster, as far as this node can tell.
type members struct {
	s *Store
	// joinPeers count while this node has no configuration of its own.
	joinPeers map[peer.NodeID]string

	mu sync.Mutex
	// learned from another member whose configuration is newer than ours: without it, a node that was away while the
	// others were replaced would refuse the very leader that could tell it.
	learned      map[peer.NodeID]string
	learnedIndex uint64
	known        map[peer.NodeID]struct{} // as of the last refresh
}

// configured is the latest realm configuration, from raft, or from the state before raft runs; and the index of the one that is applied,
// since the library does not tell the latest one's.
func (s *Store) configured() ([]raft.Server, uint64) {
	index, conf := s.db.Configuration()
	if s.started.Load() {
		servers, _ := s.realm.servers()
		return servers, index
	}
	if len(conf) == 0 {
		return nil, 0
	}
	return raft.DecodeConfiguration(conf).Servers, index
}

// allowed is the membership check of every handshake.
func (m *members) allowed(id peer.NodeID) bool {
	servers, index := m.s.configured()
	for _, s := range servers {
		if nodeID(s.ID) == id {
			return true
		}
	}
	if len(servers) == 0 {
		if _, ok := m.joinPeers[id]; ok {
			return true
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	_, ok := m.learned[id]
	return ok && m.learnedIndex > index
}

// learn takes a configuration that a member reported.
func (m *members) learn(index uint64, list map[peer.NodeID]string) {
	_, own := m.s.configured()
	m.mu.Lock()
	defer m.mu.Unlock()
	if index > own && index > m.learnedIndex {
		m.learned, m.learnedIndex = maps.Clone(list), index
	}
}

// all is every member known, with its address in the configuration.
func (m *members) all() map[peer.NodeID]string {
	out := map[peer.NodeID]string{}
	servers, index := m.s.configured()
	for _, s := range servers {
		out[nodeID(s.ID)] = dialable(s.Address)
	}
	if len(servers) == 0 {
		maps.Copy(out, m.joinPeers)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.learnedIndex > index {
		maps.Copy(out, m.learned)
	}
	return out
}

// others is all without this node.
func (m *members) others() []peer.NodeID {
	var out []peer.NodeID
	for id := range m.all() {
		if id != m.s.id {
			out = append(out, id)
		}
	}
	return out
}

// refresh closes the connections of nodes that are no members, and forgets how to reach those that have left since the last call.
func (m *members) refresh() {
	now := map[peer.NodeID]struct{}{}
	for id := range m.all() {
		now[id] = struct{}{}
	}
	m.mu.Lock()
	var gone []peer.NodeID
	for id := range m.known {
		if _, ok := now[id]; !ok {
			gone = append(gone, id)
		}
	}
	m.known = now
	m.mu.Unlock()
	m.s.mux.Recheck()
	for _, id := range gone {
		m.s.fwd.Drop(id)
		m.s.where.forget(id)
	}
}

// isMember tells whether this node is in its own configuration. A node without one is not judged.
func (s *Store) isMember() bool {
	servers, _ := s.configured()
	for _, v := range servers {
		if nodeID(v.ID) == s.id {
			return true
		}
	}
	return len(servers) == 0
}

// locate finds a server of either group: its node and where that is.
func (s *Store) locate(g *group, id raft.ServerID) (peer.NodeID, string, bool) {
	if g.name == realmGroup {
		n := nodeID(id)
		addr, ok := s.peerAddress(n)
		return n, addr, ok
	}
	n, ok := s.nodeOfReplay(nodeID(id))
	if !ok {
		return n, "", false
	}
	addr, ok := s.peerAddress(n)
	return n, addr, ok
}

// nodeOfReplay maps a replay server id to its node.
func (s *Store) nodeOfReplay(id peer.NodeID) (peer.NodeID, bool) {
	if id == s.replayID {
		return s.id, true
	}
	nodes, err := s.db.Nodes()
	if err != nil {
		return peer.NodeID{}, false
	}
	for _, n := range nodes {
		if bytes.Equal(n.GetReplayId(), id[:]) {
			return toNodeID(n.GetId()), true
		}
	}
	return peer.NodeID{}, false
}

// peerAddress is where a node's peer port is: from the realm, else from the configuration.
func (s *Store) peerAddress(id peer.NodeID) (string, bool) {
	if id == s.id {
		return s.cfg.Self.GetPeerAddress(), true
	}
	n, err := s.db.Node(id[:])
	if addr, _ := s.where.of(id, n); addr != "" {
		return addr, true
	}
	if err == nil && n.GetPeerAddress() != "" {
		return n.GetPeerAddress(), true
	}
	addr, ok := s.members.all()[id]
	return addr, ok
}

func toNodeID(b []byte) peer.NodeID {
	var id peer.NodeID
	if len(b) == len(id) {
		copy(id[:], b)
	}
	return id
}

// ref names a node as well as this node can.
func (s *Store) ref(id peer.NodeID) NodeRef {
	if id.IsZero() {
		return NodeRef{}
	}
	r := NodeRef{ID: id}
	var n *statev1.Node
	if id == s.id {
		n = s.cfg.Self
	} else if got, err := s.db.Node(id[:]); err == nil {
		n = got
	}
	r.Name, r.PeerAddress, r.AdminAddress = n.GetName(), n.GetPeerAddress(), n.GetAdminAddress()
	if r.PeerAddress == "" {
		r.PeerAddress, _ = s.peerAddress(id)
	}
	return r
}

// directory is what forwarding needs to know.
type directory struct{ s *Store }

func (d directory) LeaderID() (peer.NodeID, bool) {
	id := nodeID(d.s.realm.leader())
	return id, !id.IsZero()
}
func (d directory) PeerAddress(id peer.NodeID) (string, bool) { return d.s.peerAddress(id) }
func (d directory) Self() peer.NodeID                         { return d.s.id }

package raftstore

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/hashicorp/raft"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/charon-kdc/charon/kdc/kdb/masterkey"
	peerv1 "github.com/charon-kdc/charon/proto/charon/peer/v1"
	statev1 "github.com/charon-kdc/charon/proto/charon/state/v1"
	"github.com/charon-kdc/charon/raftstore/forward"
	"github.com/charon-kdc/charon/raftstore/peer"
	"github.com/charon-kdc/charon/raftstore/realm"
)

// The master key's versions on this node. The realm's state says which one is in use, so the ring follows what is applied. A version that
// is staged goes from disk to disk over mutual TLS and never through the log; the state has a check of it, so that nobody stores another.

// keysEvery is how often a node looks after what went wrong with its master key.
const keysEvery = 2 * time.Second

// ErrNoMasterKey says that the state is sealed under a version of the master key that this node does not have.
var ErrNoMasterKey = errors.New("the master key is missing")

// checkMasterKey refuses a start that could open nothing. A node whose ring is ahead of its state has yet to hear of a rotation.
func (s *Store) checkMasterKey() error {
	c, err := s.db.Cluster()
	if errors.Is(err, realm.ErrNotFound) || s.cfg.Ring == nil {
		return nil
	}
	if err != nil {
		return err
	}
	v := c.GetMasterKeyVersion()
	if have := s.cfg.Ring.Versions(); v > 0 && slices.Max(have) < v {
		return fmt.Errorf("%w: the realm is sealed under version %d, and %s holds %v: put the file of another node in its place (mode 0600), or take this node out (charon node remove %s) and join it again",
			ErrNoMasterKey, v, s.keyPath(), have, s.cfg.Self.GetName())
	}
	s.useMasterKey()
	if err := s.wrongKey(c); err != nil {
		return fmt.Errorf("%w: %w: put the file of another node in its place (mode 0600)", ErrNoMasterKey, err)
	}
	return nil
}

// wrongKey holds the key of the active version, if this node has one, against what the state has of it. Its number proves little: every cluster begins with
// version 1, and a copy of a key file may hold a key that was given up for another of the same number. A leader would seal under it what nobody can open.
func (s *Store) wrongKey(c *statev1.Cluster) error {
	v := c.GetMasterKeyVersion()
	if !slices.Contains(s.cfg.Ring.Versions(), v) {
		return nil
	}
	proved := true
	sec, err := s.db.Secret(ReplayKeyName)
	switch rot := c.GetMasterKeyRotation(); {
	case rot.GetVersion() == v && len(rot.GetCheck()) > 0:
		proved = s.HasMasterKey(v, rot.GetCheck())
	case err == nil && sec.GetKey().GetMasterKeyVersion() == v:
		plain, err := s.cfg.Ring.Open(masterkey.SecretAAD(s.cfg.Identity.ClusterID[:], ReplayKeyName), sec.GetKey())
		clear(plain)
		proved = err == nil
	}
	if proved {
		return nil
	}
	return fmt.Errorf("master key version %d in %s is not the one that the realm is sealed under, but another cluster's, or one that was given up", v, s.keyPath())
}

func (s *Store) keyPath() string {
	if s.cfg.Keys == nil {
		return "the master key file"
	}
	return s.cfg.Keys.Path()
}

// useMasterKey has the ring follow the applied state. It is called while that is published, so it waits for nothing.
func (s *Store) useMasterKey() {
	if s.cfg.Ring == nil {
		return
	}
	c, err := s.db.Cluster()
	if err != nil || c.GetMasterKeyVersion() == 0 {
		return
	}
	why := ""
	if err := s.wrongKey(c); err != nil {
		s.cfg.Ring.UseNone()
		why = err.Error()
	} else if err := s.cfg.Ring.Use(c.GetMasterKeyVersion()); err != nil {
		why = fmt.Sprintf("master key version %d, which the realm is sealed under, is not in %s", c.GetMasterKeyVersion(), s.keyPath())
	}
	if was := s.keyless.Swap(&why); (was == nil || *was != why) && why != "" {
		s.cfg.Logger.Error("out of service", "reason", why, "remedy", "put another node's master key file in place (mode 0600) and start this node again")
	}
	select {
	case s.keysChanged <- struct{}{}:
	default:
	}
}

// noMasterKey is why this node can't open what the realm seals; empty: it can.
func (s *Store) noMasterKey() string {
	if s.cfg.Ring == nil {
		return "no master key"
	}
	if why := s.keyless.Load(); why != nil {
		return *why
	}
	return ""
}

// tendKeys drops the versions that were retired, and hands leadership over where this node could seal nothing.
func (s *Store) tendKeys(ctx context.Context) {
	t := time.NewTicker(keysEvery)
	defer t.Stop()
	for {
		s.dropRetiredKeys()
		if s.noMasterKey() != "" && s.realm.ready.Load() && len(s.realm.voters()) > 1 {
			if err := s.realm.await(ctx, func() raft.Future { return s.realm.raft.LeadershipTransfer() }); err != nil {
				s.cfg.Logger.Warn("handing leadership over for want of the master key", "err", err)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-s.keysChanged:
		case <-t.C:
		}
	}
}

func (s *Store) dropRetiredKeys() {
	c, err := s.db.Cluster()
	if err != nil || s.cfg.Keys == nil || c.GetMasterKeyFloor() == 0 || s.noMasterKey() != "" {
		return
	}
	floor, have := c.GetMasterKeyFloor(), s.cfg.Ring.Versions()
	if have[0] >= floor {
		return
	}
	if err := s.cfg.Keys.Drop(floor); err != nil {
		s.cfg.Logger.Warn("dropping retired master keys", "below", floor, "err", err)
		return
	}
	s.cfg.Logger.Info("dropped retired master keys", "below", floor)
}

// staged is the version that is being rotated to, as applied here; nil: none, or its key was given up.
func (s *Store) staged() *statev1.MasterKeyRotation {
	c, err := s.db.Cluster()
	if err != nil || len(c.GetMasterKeyRotation().GetCheck()) == 0 {
		return nil
	}
	return c.GetMasterKeyRotation()
}

// MakeMasterKey makes a key of that version, on this node's disk only, and returns its check. A key that was made before and that the realm
// does not know is lost by it.
func (s *Store) MakeMasterKey(version uint32) (check []byte, err error) {
	key := make([]byte, 32)
	if _, err := io.ReadFull(s.cfg.Rand, key); err != nil {
		return nil, fmt.Errorf("making a master key: %w", err)
	}
	defer clear(key)
	if err := s.putMasterKey(version, key); err != nil {
		return nil, err
	}
	return s.cfg.Ring.Check(s.identity.ClusterID[:], version)
}

func (s *Store) putMasterKey(version uint32, key []byte) error {
	if why := s.keysFixed(); why != "" {
		return errors.New(why)
	}
	return s.cfg.Keys.Put(version, key)
}

// keysFixed is why this node can take no other version; empty: it can.
func (s *Store) keysFixed() string {
	if s.cfg.Keys == nil {
		return "this node has no master key file"
	}
	return s.cfg.Keys.Fixed()
}

func (s *Store) masterKeys() []uint32 {
	if s.cfg.Ring == nil {
		return nil
	}
	return s.cfg.Ring.Versions()
}

// HasMasterKey tells whether this node has the version with that check on its disk.
func (s *Store) HasMasterKey(version uint32, check []byte) bool {
	if s.cfg.Ring == nil {
		return false
	}
	have, err := s.cfg.Ring.Check(s.cfg.Identity.ClusterID[:], version)
	return err == nil && subtle.ConstantTimeCompare(have, check) == 1
}

// HandMasterKey has another node store the staged version, which this node has. It returns nil when that is on the other's disk.
func (s *Store) HandMasterKey(ctx context.Context, to peer.NodeID, version uint32) error {
	key, err := s.cfg.Ring.Key(version)
	if err != nil || to == s.id {
		return err
	}
	defer clear(key)
	cc, err := s.fwd.Conn(to)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Timing.RPC)
	defer cancel()
	_, err = peerv1.NewPeerClient(cc).TakeMasterKey(ctx, &peerv1.TakeMasterKeyRequest{Version: version, Key: key})
	return plain(err)
}

// FetchMasterKey asks another node for the staged version and stores it. False without an error: that node does not have it.
func (s *Store) FetchMasterKey(ctx context.Context, from peer.NodeID, version uint32) (bool, error) {
	cc, err := s.fwd.Conn(from)
	if err != nil {
		return false, err
	}
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Timing.RPC)
	defer cancel()
	resp, err := peerv1.NewPeerClient(cc).GiveMasterKey(ctx, &peerv1.GiveMasterKeyRequest{Version: version})
	if status.Code(err) == codes.NotFound {
		return false, nil
	}
	if err != nil {
		return false, plain(err)
	}
	if err := s.takeMasterKey(version, resp.GetKey()); err != nil {
		return false, err
	}
	return true, nil
}

// takeMasterKey stores the staged version if it is that.
func (s *Store) takeMasterKey(version uint32, key []byte) error {
	rot := s.staged()
	if rot.GetVersion() != version || subtle.ConstantTimeCompare(masterkey.Check(s.identity.ClusterID[:], version, key), rot.GetCheck()) != 1 {
		return fmt.Errorf("master key version %d is not staged here, or not with this key", version)
	}
	if err := s.putMasterKey(version, key); err != nil {
		return err
	}
	s.useMasterKey()
	return nil
}

// plain is what the other node said, without gRPC's words around it.
func plain(err error) error {
	if err == nil {
		return nil
	}
	switch status.Code(err) {
	case codes.Unavailable, codes.DeadlineExceeded:
		return errors.New("does not answer")
	}
	return errors.New(status.Convert(err).Message())
}

// calledByRecorded tells whether a call comes from a node that has a record. One that is being removed has none, and is a server of the group until a
// later entry. Whoever has applied a version that was staged after the removal has applied the removal.
func (s *Store) calledByRecorded(ctx context.Context) bool {
	id, ok := forward.Caller(ctx)
	if !ok {
		return false
	}
	_, err := s.db.Node(id[:])
	return err == nil
}

func (v *service) TakeMasterKey(ctx context.Context, req *peerv1.TakeMasterKeyRequest) (*peerv1.TakeMasterKeyResponse, error) {
	defer clear(req.Key)
	if !v.s.calledByRecorded(ctx) {
		return nil, status.Error(codes.PermissionDenied, "not a member")
	}
	if err := v.s.takeMasterKey(req.GetVersion(), req.GetKey()); err != nil {
		return nil, status.Error(codes.FailedPrecondition, err.Error())
	}
	return &peerv1.TakeMasterKeyResponse{}, nil
}

func (v *service) GiveMasterKey(ctx context.Context, req *peerv1.GiveMasterKeyRequest) (*peerv1.GiveMasterKeyResponse, error) {
	if !v.s.calledByRecorded(ctx) {
		return nil, status.Error(codes.PermissionDenied, "not a member")
	}
	rot := v.s.staged()
	if rot.GetVersion() != req.GetVersion() || !v.s.HasMasterKey(rot.GetVersion(), rot.GetCheck()) {
		return nil, status.Error(codes.NotFound, "not here")
	}
	key, err := v.s.cfg.Ring.Key(req.GetVersion())
	if err != nil {
		return nil, status.Error(codes.NotFound, "not here")
	}
	return &peerv1.GiveMasterKeyResponse{Key: key}, nil
}

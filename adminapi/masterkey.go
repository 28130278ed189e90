package adminapi

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/charon-kdc/charon/kdc/kdb/masterkey"
	adminv1 "github.com/charon-kdc/charon/proto/charon/admin/v1"
	statev1 "github.com/charon-kdc/charon/proto/charon/state/v1"
	"github.com/charon-kdc/charon/raftstore/peer"
)

const (
	// resealRecords and resealBytes bound one command, so that others get between.
	resealRecords = 250
	resealBytes   = 200 << 10
)

// masterKeyProgress is how far this node, leading, has come; for people to look at.
type masterKeyProgress struct {
	version     uint32
	waiting     []string
	done, total uint64
	begun       time.Time
}

func (t *tender) setProgress(p masterKeyProgress) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.progress = p
}

func (s *Service) masterKeyView(cl *statev1.Cluster) *adminv1.MasterKeyProgress {
	rot := cl.GetMasterKeyRotation()
	if rot == nil {
		return nil
	}
	s.tender.mu.Lock()
	p := s.tender.progress
	s.tender.mu.Unlock()
	v := &adminv1.MasterKeyProgress{
		Phase: adminv1.MasterKeyProgress_PHASE_HANDING_OUT, Version: rot.GetVersion(), StartedAt: rot.GetStartedAt(), StartedBy: rot.GetStartedBy(),
	}
	if rot.GetVersion() == cl.GetMasterKeyVersion() {
		v.Phase, v.Total = adminv1.MasterKeyProgress_PHASE_RESEALING, s.Reader.Counts().Principals
	}
	if p.version == rot.GetVersion() {
		v.Waiting = p.waiting
		if p.total > 0 && v.GetPhase() == adminv1.MasterKeyProgress_PHASE_RESEALING {
			v.Done, v.Total = min(p.done, p.total), p.total
			if d := s.Now().Sub(p.begun); d > 0 {
				v.PerSecond = uint64(float64(p.done) / d.Seconds())
			}
		}
	}
	return v
}

// stageMasterKey makes the next version here and commits to it.
func (s *Service) stageMasterKey(ctx context.Context) (*change, error) {
	cl, err := s.Reader.Cluster()
	if err != nil {
		return nil, err
	}
	if rot := cl.GetMasterKeyRotation(); rot != nil {
		return nil, underWay(rot)
	}
	if err := s.allCanStore(ctx); err != nil {
		return nil, err
	}
	cmd, version, err := s.newVersion(cl, callerOf(ctx).Subject, false)
	return &change{what: "the master key", cmd: cmd, answer: &adminv1.RotateMasterKeyResponse{Version: version, PreviousVersion: cl.GetMasterKeyVersion()}}, err
}

// newVersion has the key on this node's disk before the realm commits to it: a leader that dies then has lost nothing.
func (s *Service) newVersion(cl *statev1.Cluster, by string, again bool) (*statev1.Command, uint32, error) {
	version := max(cl.GetMasterKeyLast(), cl.GetMasterKeyVersion()) + 1
	check, err := s.MasterKeys.MakeMasterKey(version)
	if err != nil {
		return nil, 0, refuse(codes.FailedPrecondition, "CAN_NOT_STORE", "%s can't store another version of the master key: %v", s.NodeName, err)
	}
	return &statev1.Command{Op: &statev1.Command_StageMasterKey{StageMasterKey: &statev1.StageMasterKey{
		Version: version, Check: check, By: by, Again: again,
	}}}, version, nil
}

// allCanStore refuses to begin what could not go on: every node must take the new version.
func (s *Service) allCanStore(ctx context.Context) error {
	for _, m := range s.Store.Status(ctx).Nodes {
		switch {
		case !m.Reachable:
			return refuse(codes.FailedPrecondition, "NODE_UNREACHABLE", "%[1]s does not answer, and every node must store the new master key: start it, or take it out: charon node remove %[1]s", m.Name)
		case m.MasterKeysFixed != "":
			return refuse(codes.FailedPrecondition, "CAN_NOT_STORE", "%s can't store another version of the master key: %s", m.Name, m.MasterKeysFixed)
		}
	}
	return nil
}

// tendMasterKey brings a rotation forward. Where it stands is all in the cluster's record and in what is sealed under which version.
func (s *Service) tendMasterKey(ctx context.Context) error {
	cl, err := s.Reader.Cluster()
	if err != nil {
		return err
	}
	rot := cl.GetMasterKeyRotation()
	switch {
	case rot == nil || s.MasterKeys == nil:
		s.tender.setProgress(masterKeyProgress{})
		return nil
	case rot.GetVersion() == cl.GetMasterKeyVersion():
		return s.resealAll(ctx, rot.GetVersion())
	}
	waiting, err := s.handOut(ctx, cl)
	s.tender.setProgress(masterKeyProgress{version: rot.GetVersion(), waiting: waiting})
	if err == nil && len(waiting) > 0 {
		err = errors.New("waiting for " + strings.Join(waiting, ", "))
	}
	if err == nil {
		s.tender.kick(dutyMasterKey)
	}
	return err
}

// handOut has every node store the staged version, and then makes it the active one. waiting names who does not have it, and why.
func (s *Service) handOut(ctx context.Context, cl *statev1.Cluster) (waiting []string, err error) {
	rot := cl.GetMasterKeyRotation()
	nodes, err := s.Reader.Nodes()
	if err != nil {
		return nil, err
	}
	self := s.Store.Status(ctx).Self.ID
	var others []*statev1.Node
	for _, n := range nodes {
		if string(n.GetId()) != string(self[:]) {
			others = append(others, n)
		}
	}
	if err := s.reached("master key staged"); err != nil {
		return nil, err
	}
	if len(rot.GetCheck()) == 0 || !s.MasterKeys.HasMasterKey(rot.GetVersion(), rot.GetCheck()) {
		if waiting, err := s.recover(ctx, cl, others); err != nil || len(waiting) > 0 {
			return waiting, err
		}
	}
	waiting = eachNode(others, func(id peer.NodeID) error { return s.MasterKeys.HandMasterKey(ctx, id, rot.GetVersion()) })
	if len(waiting) > 0 {
		return waiting, nil
	}
	if err := s.reached("master key everywhere"); err != nil {
		return nil, err
	}
	c := &statev1.ActivateMasterKey{Version: rot.GetVersion()}
	for _, n := range nodes {
		c.Nodes = append(c.Nodes, n.GetId())
	}
	res, err := s.Store.Propose(ctx, &statev1.Command{Op: &statev1.Command_ActivateMasterKey{ActivateMasterKey: c}})
	if err := applied(res, err, "activating the master key"); err != nil {
		return nil, err // a node that has joined meanwhile is asked the next time
	}
	s.Logger.Info("master key active", "version", rot.GetVersion())
	return nil, s.reached("master key active")
}

// recover gets the staged key, which this leader did not make, from a node that has it. When all have answered that they don't, nobody has it and
// nothing is sealed under it: another takes its place.
func (s *Service) recover(ctx context.Context, cl *statev1.Cluster, others []*statev1.Node) (waiting []string, err error) {
	rot := cl.GetMasterKeyRotation()
	if len(rot.GetCheck()) > 0 {
		var mu sync.Mutex
		found := false
		waiting = eachNode(others, func(id peer.NodeID) error {
			ok, err := s.MasterKeys.FetchMasterKey(ctx, id, rot.GetVersion())
			mu.Lock()
			defer mu.Unlock()
			found = found || ok
			return err
		})
		switch {
		case found:
			return nil, nil
		case len(waiting) > 0:
			return waiting, nil
		}
	}
	cmd, version, err := s.newVersion(cl, rot.GetStartedBy(), true)
	if err != nil {
		return nil, err
	}
	res, err := s.Store.Propose(ctx, cmd)
	if err := applied(res, err, "staging the master key anew"); err != nil {
		return nil, err
	}
	s.Logger.Warn("nobody has the staged master key, or a node that was removed has it: another was made", "given up", rot.GetVersion(), "version", version)
	s.tender.kick(dutyMasterKey)
	return []string{fmt.Sprintf("version %d in place of %d", version, rot.GetVersion())}, nil
}

// eachNode calls f for all nodes at once and lists who failed, by name.
func eachNode(nodes []*statev1.Node, f func(peer.NodeID) error) []string {
	var mu sync.Mutex
	var wg sync.WaitGroup
	var failed []string
	for _, n := range nodes {
		wg.Go(func() {
			if err := f(peer.NodeID(n.GetId())); err != nil {
				mu.Lock()
				defer mu.Unlock()
				failed = append(failed, n.GetName()+": "+err.Error())
			}
		})
	}
	wg.Wait()
	slices.Sort(failed)
	return failed
}

// resealAll seals anew what is under another version. It goes through the state from the beginning, whoever did a part of it before; what is
// done is passed over quickly.
func (s *Service) resealAll(ctx context.Context, version uint32) error {
	p := masterKeyProgress{version: version, total: s.Reader.Counts().Principals, begun: s.Now()}
	note := func(err error) error {
		if err != nil {
			p.waiting = []string{err.Error()}
		}
		s.tender.setProgress(p)
		return err
	}
	for from := []byte(nil); ; {
		page, err := s.Reader.StalePrincipals(version, from, resealRecords)
		if err == nil {
			err = s.resealPage(ctx, version, page.Principals)
		}
		p.done += uint64(page.Looked)
		if note(err) != nil {
			return err
		}
		if from = page.Next; from == nil {
			break
		}
	}
	if err := note(s.resealSecrets(ctx, version)); err != nil {
		return err
	}
	// A record can have been renamed from ahead of the walk to behind it. One look at all of one state tells; and nothing is sealed under
	// another version any more.
	switch n, err := s.Reader.CountStale(version); {
	case err != nil:
		return err
	case n > 0:
		s.tender.kick(dutyMasterKey)
		return nil
	}
	if err := s.reached("master key resealed"); err != nil {
		return err
	}
	res, err := s.Store.Propose(ctx, &statev1.Command{Op: &statev1.Command_FinishReseal{FinishReseal: &statev1.FinishReseal{Version: version}}})
	if err := applied(res, err, "ending the rotation of the master key"); err != nil {
		return err
	}
	s.Logger.Info("master key rotated: nothing is sealed under another version", "version", version)
	return s.reached("master key finished")
}

func (s *Service) resealPage(ctx context.Context, version uint32, page []*statev1.Principal) error {
	cl, err := s.Reader.Cluster()
	if err != nil {
		return err
	}
	c, size := &statev1.Reseal{Version: version}, 0
	for i, p := range page {
		r, err := s.resealed(cl.GetId(), p, version)
		if err != nil {
			return err
		}
		c.Principals, size = append(c.Principals, r), size+proto.Size(r)
		if i == len(page)-1 || size > resealBytes {
			if err := s.proposeReseal(ctx, c); err != nil {
				return err
			}
			c, size = &statev1.Reseal{Version: version}, 0
		}
	}
	return nil
}

func (s *Service) proposeReseal(ctx context.Context, c *statev1.Reseal) error {
	res, err := s.Store.Propose(ctx, &statev1.Command{Op: &statev1.Command_Reseal{Reseal: c}})
	if err := applied(res, err, "sealing anew"); err != nil {
		return err
	}
	return s.reached("master key resealing")
}

// resealed is p's keys under version, those that are not yet.
func (s *Service) resealed(clusterID []byte, p *statev1.Principal, version uint32) (*statev1.ResealPrincipal, error) {
	out := &statev1.ResealPrincipal{Realm: p.GetRealm(), Name: p.GetName(), Revision: p.GetRevision()}
	keys := slices.Clone(p.GetKeys())
	for _, h := range p.GetKeyHistory() {
		keys = append(keys, h.GetKeys()...)
	}
	for _, k := range keys {
		box := &statev1.Sealed{}
		if k.GetKey() != nil && k.GetKey().GetMasterKeyVersion() != version {
			var err error
			if box, err = s.anew(masterkey.KeyAAD(clusterID, p, k), k.GetKey(), version); err != nil {
				return nil, fmt.Errorf("%s kvno %d: %w", nameOf(p), k.GetKvno(), err)
			}
		}
		out.Boxes = append(out.Boxes, box)
	}
	return out, nil
}

// anew is what b holds, under version.
func (s *Service) anew(aad masterkey.AAD, b *statev1.Sealed, version uint32) (*statev1.Sealed, error) {
	plain, err := s.Sealer.Open(aad, b)
	if err != nil {
		return nil, err
	}
	defer clear(plain)
	out, err := s.Sealer.Seal(s.Rand, aad, plain)
	if err == nil && out.GetMasterKeyVersion() != version {
		err = fmt.Errorf("sealed under master key version %d, not %d", out.GetMasterKeyVersion(), version)
	}
	return out, err
}

func (s *Service) resealSecrets(ctx context.Context, version uint32) error {
	cl, err := s.Reader.Cluster()
	if err != nil {
		return err
	}
	stale, err := s.Reader.StaleSecrets(version)
	if err != nil {
		return err
	}
	for len(stale) > 0 {
		n := min(len(stale), resealSecretsMax)
		c := &statev1.Reseal{Version: version}
		for _, sec := range stale[:n] {
			box, err := s.anew(masterkey.SecretAAD(cl.GetId(), sec.GetName()), sec.GetKey(), version)
			if err != nil {
				return fmt.Errorf("secret %s: %w", sec.GetName(), err)
			}
			c.Secrets = append(c.Secrets, &statev1.ResealSecret{Name: sec.GetName(), Revision: sec.GetRevision(), Key: box})
		}
		if err := s.proposeReseal(ctx, c); err != nil {
			return err
		}
		stale = stale[n:]
	}
	return nil
}

// resealSecretsMax of up to 64 KiB each stay within one log entry.
const resealSecretsMax = 4

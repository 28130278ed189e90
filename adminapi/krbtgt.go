package adminapi

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/charon-kdc/charon/kdc/kdb"
	adminv1 "github.com/charon-kdc/charon/proto/charon/admin/v1"
	statev1 "github.com/charon-kdc/charon/proto/charon/state/v1"
	"github.com/charon-kdc/charon/raftstore/realm"
)

const (
	krbtgtEveryDefault = 90 * 24 * time.Hour
	krbtgtEveryMin     = time.Hour
	// clockSlack is how long after its end a ticket may still be presented.
	clockSlack = 5 * time.Minute
	// cutOffSlack is how long a node that did not answer may have gone on issuing under the old keys.
	cutOffSlack = 24 * time.Hour
)

// krbtgtEvery is a realm's time between two rotations; 0: none by itself.
func krbtgtEvery(r *statev1.Realm) time.Duration {
	switch n := r.GetKrbtgtRotation(); {
	case n < 0:
		return 0
	case n == 0:
		return krbtgtEveryDefault
	default:
		return time.Duration(n) * time.Second
	}
}

// krbtgt is the realm's own ticket-granting service.
func (s *Service) krbtgt(realmName string) (*statev1.Principal, error) {
	p, err := s.Reader.GetPrincipal(realmName, []string{"krbtgt", realmName})
	if errors.Is(err, realm.ErrNotFound) {
		return nil, notFound("krbtgt/" + realmName + "@" + realmName)
	}
	return p, err
}

// stageKrbtgt makes the next keys, which nothing uses yet, and notes how the rotation is to go on.
func (s *Service) stageKrbtgt(ctx context.Context, realmName string, rot *statev1.KrbtgtRotation) (*change, error) {
	r, err := s.realm(realmName)
	if err != nil {
		return nil, err
	}
	p, err := s.krbtgt(realmName)
	if err != nil {
		return nil, err
	}
	if r.GetRotating() != nil || slices.ContainsFunc(p.GetKeys(), isStaged) {
		return nil, refuse(codes.FailedPrecondition, "ALREADY_STAGED", "%s has staged keys: a rotation is under way", nameOf(p))
	}
	expectP, expectR := expectRevision(p.GetRevision()), expectRevision(r.GetRevision())
	now := s.Now()
	keysalts, err := s.chooseKeysalts(realmName, nil, nil)
	if err != nil {
		return nil, err
	}
	fresh, err := s.makeKeys(p, nextKVNO(p), nil, keysalts)
	if err != nil {
		return nil, err
	}
	answer := &adminv1.RotateKrbtgtResponse{Name: nameOf(p).String(), Kvno: fresh[0].GetKvno(), PreviousKvno: p.GetKvno()}
	for _, k := range fresh {
		k.State = statev1.KeyState_KEY_STATE_STAGED
	}
	p.Keys = append(fresh, p.Keys...)
	stamp(ctx, p, now)
	rot.Kvno, rot.StartedAt = answer.GetKvno(), now.UnixMilli()
	r.Rotating = rot
	return &change{what: answer.GetName(), answer: answer, cmd: together(putPrincipal(p, expectP), putRealm(r, expectR))}, nil
}

func expectRevision(n uint64) *statev1.Expect {
	return &statev1.Expect{Condition: &statev1.Expect_Revision{Revision: n}}
}

func putRealm(r *statev1.Realm, e *statev1.Expect) *statev1.Command {
	return &statev1.Command{Op: &statev1.Command_PutRealm{PutRealm: &statev1.PutRealm{Realm: r, Expect: e}}}
}

func together(parts ...*statev1.Command) *statev1.Command {
	return &statev1.Command{Op: &statev1.Command_Batch{Batch: &statev1.Batch{Commands: parts}}}
}

// advanceKrbtgt ends a realm's rotation that is under way, whoever began it: every node is to hold the new keys before one issues under them.
func (s *Service) advanceKrbtgt(ctx context.Context, realmName string) error {
	s.tender.krbtgt.Lock()
	defer s.tender.krbtgt.Unlock()
	for range conflictRetries {
		if err := s.Store.VerifyLeader(ctx); err != nil {
			return err
		}
		if r, err := s.realm(realmName); err != nil || r.GetRotating() == nil {
			return err
		}
		if err := s.reached("krbtgt staged"); err != nil {
			return err
		}
		index, _ := s.Reader.Applied()
		late, err := s.Store.WaitAllApplied(ctx, index)
		if err != nil {
			return err
		}
		if err := s.reached("krbtgt everywhere"); err != nil {
			return err
		}
		cmd, err := s.activateKrbtgt(ctx, realmName, len(late) > 0)
		if err != nil || cmd == nil {
			return err
		}
		res, err := s.Store.Propose(ctx, cmd)
		if err == nil && res.GetCode() == statev1.Code_CODE_CONFLICT {
			continue // the realm or its krbtgt was changed meanwhile: look again
		}
		if err := applied(res, err, "activating new keys of krbtgt/"+realmName); err != nil {
			return err
		}
		s.Logger.Info("krbtgt rotated", "realm", realmName)
		s.tender.kick(dutyRetired)
		return s.reached("krbtgt active")
	}
	return fmt.Errorf("krbtgt/%s changes all the time", realmName)
}

// activateKrbtgt is the command that makes the staged keys current and ends the rotation; nil: it has ended. late: a node may not have the
// staged keys.
func (s *Service) activateKrbtgt(ctx context.Context, realmName string, late bool) (*statev1.Command, error) {
	r, err := s.realm(realmName)
	if err != nil || r.GetRotating() == nil {
		return nil, err
	}
	p, err := s.krbtgt(realmName)
	if err != nil {
		return nil, err
	}
	rot := r.GetRotating()
	expectP, expectR := expectRevision(p.GetRevision()), expectRevision(r.GetRevision())
	r.Rotating = nil
	var fresh, rest []*statev1.Key
	for _, k := range p.GetKeys() {
		if isStaged(k) && k.GetKvno() == rot.GetKvno() {
			k.State = statev1.KeyState_KEY_STATE_ACTIVE
			fresh = append(fresh, k)
		} else {
			rest = append(rest, k)
		}
	}
	if len(fresh) == 0 { // taken away by a change of krbtgt's keys by hand
		return putRealm(r, expectR), nil
	}
	now := s.logNow()
	p.Keys = rest
	replaceKeys(p, fresh, !rot.GetRevokeOld(), now.Add(acceptsFor(r, p, rot, late)).UnixMilli())
	dropRetired(p, now.UnixMilli())
	p.LastPasswordChange = now.UnixMilli()
	stamp(ctx, p, now)
	return together(putPrincipal(p, expectP), putRealm(r, expectR)), nil
}

// logNow is the clock here, or the log's time where that is ahead: a leader whose clock is behind retires nothing early.
func (s *Service) logNow() time.Time {
	now := s.Now()
	if logged := time.UnixMilli(s.Reader.Now()); logged.After(now) {
		return logged
	}
	return now
}

// acceptsFor is how long the old keys go on opening tickets: until the last ticket under them is over. A TGT can be asked for that begins as late as the
// realm's renewable life allows (kdc's startTime) and then lives on; a renewed one is under the new keys.
func acceptsFor(r *statev1.Realm, p *statev1.Principal, rot *statev1.KrbtgtRotation, late bool) time.Duration {
	if rot.GetRetireAfter() != 0 {
		return time.Duration(rot.GetRetireAfter()) * time.Second
	}
	life := r.GetMaxLife()
	if p.GetMaxLife() != 0 && p.GetMaxLife() < life {
		life = p.GetMaxLife()
	}
	if p.GetAttributes()&uint32(kdb.DisallowPostdated) == 0 {
		life += r.GetMaxRenewableLife()
	}
	d := time.Duration(life)*time.Second + clockSlack
	if late {
		d += cutOffSlack
	}
	return d
}

// tendKrbtgts ends rotations that another leader began, and begins those that are due.
func (s *Service) tendKrbtgts(ctx context.Context) error {
	all, err := s.Reader.Realms()
	if err != nil {
		return err
	}
	var errs []error
	for _, r := range all {
		if r.GetRotating() == nil && s.krbtgtDue(r) {
			errs = append(errs, s.scheduleKrbtgt(ctx, r.GetName()))
		}
		errs = append(errs, s.advanceKrbtgt(ctx, r.GetName()))
	}
	return errors.Join(errs...)
}

// krbtgtNext is when a realm's krbtgt is to be rotated next; the zero time: never by itself.
func (s *Service) krbtgtNext(r *statev1.Realm) time.Time {
	every := krbtgtEvery(r)
	p, err := s.krbtgt(r.GetName())
	if every == 0 || err != nil {
		return time.Time{}
	}
	since := p.GetLastPasswordChange()
	if since == 0 {
		since = p.GetCreatedAt()
	}
	if since == 0 {
		return time.Time{}
	}
	return time.UnixMilli(since).Add(every)
}

func (s *Service) krbtgtDue(r *statev1.Realm) bool {
	next := s.krbtgtNext(r)
	return !next.IsZero() && !s.Now().Before(next)
}

// scheduleKrbtgt stages without a request id: the revisions see to it that two leaders do not both.
func (s *Service) scheduleKrbtgt(ctx context.Context, realmName string) error {
	ch, err := s.stageKrbtgt(ctx, realmName, &statev1.KrbtgtRotation{})
	if err != nil {
		return err
	}
	begun := s.Now()
	res, err := s.Store.Propose(ctx, ch.cmd)
	err = applied(res, err, "staging new keys of krbtgt/"+realmName)
	s.audit(adminv1.Rotation_RotateKrbtgt_FullMethodName, callerOf(ctx), &adminv1.RotateKrbtgtRequest{Realm: realmName}, toStatus(err, s.NodeName, nil), begun, s.Now().Sub(begun), false)
	return err
}

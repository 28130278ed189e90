package adminapi

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/charon-kdc/charon/raftstore"
	"github.com/charon-kdc/charon/raftstore/peer"
	"github.com/charon-kdc/charon/raftstore/realm"
)

// tendEvery is how often the leader looks whether something is due; what fails is tried again ever later, up to tendEveryMax.
const (
	tendEvery    = time.Second
	tendEveryMax = 5 * time.Second
)

// MasterKeys are this node's versions of the master key, on its disk; *raftstore.Store has them.
type MasterKeys interface {
	// MakeMasterKey makes a key of that version here, which nobody else has, and returns its check.
	MakeMasterKey(version uint32) (check []byte, err error)
	HasMasterKey(version uint32, check []byte) bool
	// HandMasterKey returns nil when the staged version is on the other node's disk.
	HandMasterKey(ctx context.Context, to peer.NodeID, version uint32) error
	// FetchMasterKey takes the staged version over from another node. False without an error: that one does not have it.
	FetchMasterKey(ctx context.Context, from peer.NodeID, version uint32) (bool, error)
}

// systemCaller is whom records and audit name where nobody called.
const systemCaller = "charon"

// tender is what the leader's duties remember between two looks. Nothing of it is needed to go on: that is all in the state.
type tender struct {
	// kicks have a duty look at once.
	kicks map[string]chan struct{}
	// krbtgt is held by who brings a rotation of krbtgt forward, so that a call and the schedule do not do it twice.
	krbtgt sync.Mutex

	mu       sync.Mutex
	progress masterKeyProgress

	retiring retirements
}

const (
	dutyKrbtgt    = "rotating krbtgt"
	dutyMasterKey = "rotating the master key"
	dutyRetired   = "removing retired keys"
)

func newTender() *tender {
	t := &tender{kicks: map[string]chan struct{}{}}
	for _, d := range []string{dutyKrbtgt, dutyMasterKey, dutyRetired} {
		t.kicks[d] = make(chan struct{}, 1)
	}
	t.retiring.all = true
	return t
}

func (t *tender) kick(duty string) {
	select {
	case t.kicks[duty] <- struct{}{}:
	default:
	}
}

// Tend does what the leader owes the realm, as long as this node leads, until ctx ends: it brings rotations forward, begins those that are due,
// and removes keys whose time is over. Each step is one command that any leader can make, so the next leader goes on where one stopped.
func (s *Service) Tend(ctx context.Context) {
	var wg sync.WaitGroup
	for name, duty := range map[string]func(context.Context) error{
		dutyKrbtgt: s.tendKrbtgts, dutyMasterKey: s.tendMasterKey, dutyRetired: s.tendRetired,
	} {
		wg.Go(func() { s.tend(ctx, name, duty) })
	}
	wg.Wait()
}

func (s *Service) tend(ctx context.Context, name string, duty func(context.Context) error) {
	failed, wait := "", tendEvery
	for {
		err := s.onDuty(ctx, duty)
		if err == nil {
			failed, wait = "", tendEvery
		} else {
			wait = min(2*wait, tendEveryMax)
		}
		if err != nil && err.Error() != failed && ctx.Err() == nil {
			failed = err.Error()
			s.Logger.Warn(name, "error", err)
		}
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-s.tender.kicks[name]:
		case <-t.C:
		}
		t.Stop()
		if ctx.Err() != nil {
			return
		}
	}
}

// onDuty runs duty if this node leads and has applied all that was acknowledged. A new feature is no duty of a cluster that has older nodes.
func (s *Service) onDuty(ctx context.Context, duty func(context.Context) error) error {
	if !s.Store.IsLeader() {
		s.tender.retiring.lookAgain()
		s.tender.setProgress(masterKeyProgress{})
		return nil
	}
	cl, err := s.Reader.Cluster()
	if errors.Is(err, realm.ErrNotFound) || cl.GetFeatureLevel() < rotationLevel {
		return nil
	}
	if err == nil {
		err = s.Store.VerifyLeader(ctx)
	}
	if _, lost := errors.AsType[*raftstore.NotAppliedError](err); lost {
		return nil // another leads, or will
	}
	if err != nil {
		return err
	}
	return duty(withCaller(ctx, Caller{Subject: systemCaller}))
}

// rotationLevel is the feature level that the commands of a rotation need.
const rotationLevel = 2

// reached is called between the steps of a rotation; an error from a test ends the work there, as the leader's death would.
func (s *Service) reached(step string) error {
	if s.at == nil {
		return nil
	}
	return s.at(step)
}

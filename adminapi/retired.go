package adminapi

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	statev1 "github.com/charon-kdc/charon/proto/charon/state/v1"
	"github.com/charon-kdc/charon/raftstore/realm"
)

const (
	// dropPage bounds the principals of one command.
	dropPage = 250
	// dropAgain is how long a principal is left alone whose keys were not over by the log's time, though they were by this clock.
	dropAgain = 30 * time.Second
	// dirtyMax bounds what is remembered as changed; beyond it everything is looked at again.
	dirtyMax = 100_000
	// scanPage and scanPause let others at the disk while a new leader looks for retiring keys.
	scanPage  = 1000
	scanPause = 5 * time.Millisecond
)

// retirements are the principals with keys that go at a set time, so that the leader need not look at all of them again and again.
type retirements struct {
	mu sync.Mutex
	// all: everything is to be looked at.
	all   bool
	dirty map[string]bool // by realm.NameKey, changed since they were looked at

	// at is when the first of a principal's keys goes, in ms. Only the duty has it.
	at map[string]int64
}

// lookAgain has everything looked at: this node has not followed, or is no leader.
func (r *retirements) lookAgain() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all, r.dirty = true, nil
}

// changed is told of every applied entry.
func (r *retirements) changed(list []realm.Change) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range list {
		switch {
		case r.all:
			return
		case c.Kind == realm.KindEverything || len(r.dirty) >= dirtyMax:
			r.all, r.dirty = true, nil
			return
		case c.Kind == realm.KindPrincipal:
			if r.dirty == nil {
				r.dirty = map[string]bool{}
			}
			r.dirty[c.Key] = true
		}
	}
}

func (r *retirements) take() (all bool, dirty map[string]bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	all, dirty = r.all, r.dirty
	r.all, r.dirty = false, nil
	return all, dirty
}

// note remembers when the first of p's keys goes, if one does.
func (r *retirements) note(p *statev1.Principal) {
	key, first := realm.NameKey(p.GetRealm(), p.GetName()), int64(0)
	for _, k := range p.GetKeys() {
		if k.GetState() == statev1.KeyState_KEY_STATE_RETIRING && k.GetRetireAt() != 0 && (first == 0 || k.GetRetireAt() < first) {
			first = k.GetRetireAt()
		}
	}
	if first == 0 {
		delete(r.at, key)
		return
	}
	r.at[key] = first
}

// tendRetired removes retiring keys whose time is over. The KDC opens nothing with them since then; this takes them out of the state, and the
// state machine decides by the log's time.
func (s *Service) tendRetired(ctx context.Context) error {
	if err := s.findRetiring(ctx); err != nil {
		s.tender.retiring.lookAgain()
		return err
	}
	r := &s.tender.retiring
	now := s.Now()
	c := &statev1.DropRetired{}
	for key, at := range r.at {
		if at > now.UnixMilli() || len(c.GetPrincipals()) == dropPage {
			continue
		}
		realmName, name, ok := splitKey(key)
		if !ok {
			delete(r.at, key)
			continue
		}
		r.at[key] = now.Add(dropAgain).UnixMilli()
		c.Principals = append(c.Principals, &statev1.PrincipalName{Realm: realmName, Name: name})
	}
	if len(c.GetPrincipals()) == 0 {
		return nil
	}
	if len(c.GetPrincipals()) == dropPage {
		s.tender.kick(dutyRetired)
	}
	res, err := s.Store.Propose(ctx, &statev1.Command{Op: &statev1.Command_DropRetired{DropRetired: c}})
	return applied(res, err, "removing retired keys")
}

// findRetiring brings the times up to date with the state.
func (s *Service) findRetiring(ctx context.Context) error {
	r := &s.tender.retiring
	all, dirty := r.take()
	if all {
		r.at = map[string]int64{}
		for from := []byte(nil); ; {
			page, err := s.Reader.RetiringPrincipals(from, scanPage)
			if err != nil {
				return err
			}
			for _, p := range page.Principals {
				r.note(p)
			}
			if from = page.Next; from == nil {
				return nil
			}
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(scanPause):
			}
		}
	}
	for key := range dirty {
		realmName, name, ok := splitKey(key)
		if !ok {
			continue
		}
		p, err := s.Reader.GetPrincipal(realmName, name)
		switch {
		case errors.Is(err, realm.ErrNotFound):
			delete(r.at, key)
		case err != nil:
			return err
		default:
			r.note(p) // an alias leads to the record it is of
		}
	}
	return nil
}

// splitKey is realm.NameKey undone.
func splitKey(key string) (realmName string, name []string, ok bool) {
	realmName, text, ok := strings.Cut(key, "\x00")
	if !ok {
		return "", nil, false
	}
	name, err := realm.ParseName(text)
	return realmName, name, err == nil
}

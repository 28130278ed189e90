package raftstore

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/charon-kdc/charon/internal/mutant"
	"github.com/charon-kdc/charon/kdc/kdb"
	"github.com/charon-kdc/charon/kdc/kdb/masterkey"
	"github.com/charon-kdc/charon/kdc/krb5"
	"github.com/charon-kdc/charon/kdc/krb5/kcrypto"
	statev1 "github.com/charon-kdc/charon/proto/charon/state/v1"
	"github.com/charon-kdc/charon/raftstore/realm"
)

// principals is the kdb.Store: decoded records with their keys opened, kept until an applied entry changes their name.
type principals struct {
	s      *Store
	cache  *cache[*kdb.Principal]
	realms *cache[*kdb.Realm]
	// How records are read: from the applied state.
	find      func(realm string, name []string) (*statev1.Principal, error)
	findRealm func(name string) (*statev1.Realm, error)
}

func newPrincipals(s *Store) *principals {
	p := &principals{
		s:      s,
		cache:  newCache[*kdb.Principal](s.cfg.CacheSize),
		realms: newCache[*kdb.Realm](1024),
		find:   s.db.GetPrincipal, findRealm: s.db.Realm,
	}
	s.db.Subscribe(p.changed)
	return p
}

// changed drops what an applied entry wrote. A principal's keys hang on nothing but its own record, its policy's limits and its
// realm's order of enctypes; policies and realms change seldom.
func (p *principals) changed(list []realm.Change) {
	for _, c := range list {
		switch c.Kind {
		case realm.KindPrincipal:
			key, ok := changeKey(c.Key)
			if !ok {
				p.cache.clear()
				continue
			}
			if mutant.On(mutant.CacheNotInvalidated) {
				continue
			}
			p.cache.drop(key)
		case realm.KindPolicy, realm.KindRealm, realm.KindCluster, realm.KindEverything:
			p.cache.clear()
			p.realms.clear()
		}
		if c.Kind == realm.KindCluster || c.Kind == realm.KindEverything {
			p.s.useMasterKey()
		}
		if c.Kind == realm.KindSecret || c.Kind == realm.KindEverything || c.Kind == realm.KindCluster {
			p.s.proofs.forgetKey()
		}
	}
}

// cacheKey is injective: every part carries its length.
func cacheKey(b []byte, realm string, name []string) []byte {
	b = binary.LittleEndian.AppendUint16(b, uint16(len(realm)))
	b = append(b, realm...)
	for _, c := range name {
		b = binary.LittleEndian.AppendUint16(b, uint16(len(c)))
		b = append(b, c...)
	}
	return b
}

func changeKey(key string) ([]byte, bool) {
	r, text, ok := strings.Cut(key, "\x00")
	if !ok {
		return nil, false
	}
	name, err := realm.ParseName(text)
	if err != nil {
		return nil, false
	}
	return cacheKey(nil, r, name), true
}

// Realm implements kdb.Store.
func (p *principals) Realm(name string) (*kdb.Realm, error) {
	var buf [128]byte
	key := append(buf[:0], name...)
	v, gen, ok := p.realms.get(key)
	if ok {
		return v, nil
	}
	fresh := p.Fresh()
	r, err := p.findRealm(name)
	if err != nil {
		return nil, missing(err, fresh)
	}
	v = decodeRealm(r)
	p.realms.put(key, gen, v)
	return v, nil
}

// The bounds of a realm record that has none.
const (
	lifeDefault      = 10 * time.Hour
	renewableDefault = 7 * 24 * time.Hour
)

func decodeRealm(r *statev1.Realm) *kdb.Realm {
	v := &kdb.Realm{
		Name:    r.GetName(),
		MaxLife: seconds(r.GetMaxLife()), MaxRenewableLife: seconds(r.GetMaxRenewableLife()),
	}
	orDefault(&v.MaxLife, lifeDefault)
	orDefault(&v.MaxRenewableLife, renewableDefault)
	for _, e := range r.GetEtypes() {
		v.ETypes = append(v.ETypes, kcrypto.EType(e))
	}
	return v
}

// missing is ErrNotFound only if this node was fresh before it read: else it may just not have known yet. Asked afterwards, a node
// that caught up meanwhile would vouch for what it had read before.
func missing(err error, fresh bool) error {
	switch {
	case !errors.Is(err, realm.ErrNotFound):
		return fmt.Errorf("%w: %w", kdb.ErrStale, err)
	case fresh:
		return kdb.ErrNotFound
	default:
		return kdb.ErrStale
	}
}

// CatchUp implements kdb.Store.
func (p *principals) CatchUp(ctx context.Context) error {
	if err := p.s.lease.catchUp(ctx); err != nil {
		return fmt.Errorf("%w: %w", kdb.ErrStale, err)
	}
	return nil
}

// Fresh implements kdb.Store.
func (p *principals) Fresh() bool { return p.s.lease.fresh() }

// Degraded implements kdb.Store.
func (p *principals) Degraded() bool { return p.s.Degraded() }

// Principal implements kdb.Store.
func (p *principals) Principal(realmName string, name krb5.PrincipalName) (*kdb.Principal, error) {
	if p.s.cfg.RefuseWithoutQuorum && p.s.cutOff() {
		return nil, kdb.ErrUnavailable
	}
	if p.s.lease.stale() > p.s.cfg.StaleLimit || p.s.applied.get() == 0 || p.s.clock.out.Load() || p.s.integrity.out.Load() {
		return nil, kdb.ErrStale
	}
	var buf [256]byte
	key := cacheKey(buf[:0], realmName, name.NameString)
	v, gen, ok := p.cache.get(key)
	if ok {
		return v, nil
	}
	fresh := p.Fresh()
	rec, err := p.find(realmName, name.NameString)
	if err != nil {
		return nil, missing(err, fresh)
	}
	v, err = p.decode(rec)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", kdb.ErrStale, err)
	}
	p.cache.put(key, gen, v)
	return v, nil
}

func (p *principals) decode(rec *statev1.Principal) (*kdb.Principal, error) {
	v := &kdb.Principal{
		Realm:              rec.GetRealm(),
		Name:               krb5.PrincipalName{NameType: krb5.NameType(rec.GetNameType()), NameString: rec.GetName()},
		Attributes:         kdb.Attributes(rec.GetAttributes()),
		MaxLife:            seconds(rec.GetMaxLife()),
		MaxRenewableLife:   seconds(rec.GetMaxRenewableLife()),
		Expiration:         millis(rec.GetExpiration()),
		PasswordExpiration: millis(rec.GetPasswordExpiration()),
		LastPasswordChange: millis(rec.GetLastPasswordChange()),
		UnlockedAt:         millis(rec.GetUnlockedAt()),
		Strings:            rec.GetStrings(),
		Revision:           rec.GetRevision(),
	}
	if len(rec.GetId()) != len(v.ID) {
		return nil, fmt.Errorf("principal with an id of %d bytes", len(rec.GetId()))
	}
	copy(v.ID[:], rec.GetId())
	if rec.GetPolicy() != "" {
		if err := p.addPolicy(v, rec.GetPolicy()); err != nil {
			return nil, err
		}
	}
	return v, p.addKeys(v, rec)
}

func (p *principals) addPolicy(v *kdb.Principal, name string) error {
	pol, err := p.s.db.Policy(name)
	if errors.Is(err, realm.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	v.Policy = &kdb.Policy{
		Name:            pol.GetName(),
		MaxFailures:     pol.GetMaxFailures(),
		FailureWindow:   seconds(pol.GetFailureWindow()),
		LockoutDuration: seconds(pol.GetLockoutDuration()),
	}
	v.MaxLife = tighter(v.MaxLife, seconds(pol.GetMaxTicketLife()))
	v.MaxRenewableLife = tighter(v.MaxRenewableLife, seconds(pol.GetMaxRenewableLife()))
	return nil
}

// tighter of two bounds of which zero is none.
func tighter(a, b time.Duration) time.Duration {
	if a == 0 || (b != 0 && b < a) {
		return b
	}
	return a
}

// addKeys opens the keys: newest first, and within one version in the realm's order of preference.
func (p *principals) addKeys(v *kdb.Principal, rec *statev1.Principal) error {
	if len(rec.GetKeys()) == 0 {
		return nil
	}
	if p.s.cfg.Ring == nil {
		return errors.New("no master key on this node")
	}
	for _, k := range rec.GetKeys() {
		if !kcrypto.EType(k.GetEtype()).Supported() {
			continue
		}
		plain, err := p.s.cfg.Ring.Open(masterkey.KeyAAD(p.s.identity.ClusterID[:], rec, k), k.GetKey())
		if err != nil {
			return err
		}
		key, err := kcrypto.NewKey(kcrypto.EType(k.GetEtype()), plain)
		clear(plain)
		if err != nil {
			return err
		}
		v.Keys = append(v.Keys, kdb.Key{
			KVNO: k.GetKvno(), EType: kcrypto.EType(k.GetEtype()),
			Salt: k.GetSalt(), SaltDefault: k.GetSaltDefault(),
			State: keyState(k.GetState()), RetireAt: millis(k.GetRetireAt()), Key: key,
		})
		if k.GetState() == statev1.KeyState_KEY_STATE_ACTIVE {
			v.KVNO = max(v.KVNO, k.GetKvno())
		}
	}
	var order []kcrypto.EType
	if r, err := p.Realm(v.Realm); err == nil {
		order = r.ETypes
	}
	rank := func(e kcrypto.EType) int {
		if i := slices.Index(order, e); i >= 0 {
			return i
		}
		return len(order)
	}
	slices.SortStableFunc(v.Keys, func(a, b kdb.Key) int {
		if a.KVNO != b.KVNO {
			return int(int64(b.KVNO) - int64(a.KVNO))
		}
		return rank(a.EType) - rank(b.EType)
	})
	return nil
}

func keyState(s statev1.KeyState) kdb.KeyState {
	switch s {
	case statev1.KeyState_KEY_STATE_ACTIVE:
		return kdb.KeyActive
	case statev1.KeyState_KEY_STATE_RETIRING:
		return kdb.KeyRetiring
	default:
		return kdb.KeyStaged
	}
}

func seconds(n int64) time.Duration { return time.Duration(n) * time.Second }

// millis is the zero time for 0.
func millis(n int64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.UnixMilli(n).UTC()
}

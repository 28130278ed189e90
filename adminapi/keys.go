package adminapi

import (
	"errors"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"

	"github.com/charon-kdc/charon/kdc/kdb/masterkey"
	"github.com/charon-kdc/charon/kdc/krb5"
	"github.com/charon-kdc/charon/kdc/krb5/kcrypto"
	adminv1 "github.com/charon-kdc/charon/proto/charon/admin/v1"
	statev1 "github.com/charon-kdc/charon/proto/charon/state/v1"
	"github.com/charon-kdc/charon/raftstore/realm"
)

const (
	passwordMax = 1024 // bytes
	keysaltsMax = 16
	// kvnoMax is what a keytab's 32-bit field and MIT's signed one both hold.
	kvnoMax = 1<<31 - 1
)

// keySalt is one key to make.
type keySalt struct {
	etype kcrypto.EType
	salt  string // normal, norealm, onlyrealm
}

// chooseKeysalts decides which keys to make: those asked for, if the policy allows them; else the policy's; else one for each
// etype of the realm.
func (s *Service) chooseKeysalts(realmName string, asked []*adminv1.KeySalt, pol *statev1.Policy) ([]keySalt, error) {
	var allowed []keySalt
	for _, text := range pol.GetAllowedKeysalts() {
		ks, err := parseKeySalt(text)
		if err != nil {
			return nil, err
		}
		allowed = append(allowed, ks)
	}
	if len(asked) > keysaltsMax {
		return nil, invalid("keysalts", "at most %d keysalts", keysaltsMax)
	}
	var out []keySalt
	for _, a := range asked {
		ks, err := checkKeySalt(kcrypto.EType(a.GetEtype()), a.GetSalt())
		if err != nil {
			return nil, err
		}
		if allowed != nil && !slices.Contains(allowed, ks) {
			return nil, invalid("keysalts", "policy %s does not allow %s:%s", pol.GetName(), ks.etype, ks.salt)
		}
		out = append(out, ks)
	}
	switch {
	case out != nil:
	case allowed != nil:
		out = allowed
	default:
		r, err := s.realm(realmName)
		if err != nil {
			return nil, err
		}
		for _, e := range r.GetEtypes() {
			out = append(out, keySalt{kcrypto.EType(e), "normal"})
		}
	}
	return oneEach(out), nil
}

// oneEach keeps the first keysalt of each enctype: a keytab and a client can tell keys of one kvno apart by enctype only.
func oneEach(in []keySalt) []keySalt {
	var out []keySalt
	for _, ks := range in {
		if !slices.ContainsFunc(out, func(o keySalt) bool { return o.etype == ks.etype }) {
			out = append(out, ks)
		}
	}
	return out
}

func parseKeySalt(text string) (keySalt, error) {
	etype, salt, _ := strings.Cut(text, ":")
	e, err := kcrypto.ParseEType(etype)
	if err != nil {
		return keySalt{}, invalid("keysalts", "%v", err)
	}
	return checkKeySalt(e, salt)
}

func checkKeySalt(e kcrypto.EType, salt string) (keySalt, error) {
	if !e.Supported() {
		return keySalt{}, invalid("keysalts", "enctype %d is not supported", e)
	}
	switch salt {
	case "":
		salt = "normal"
	case "normal", "norealm", "onlyrealm":
	default:
		return keySalt{}, invalid("keysalts", "salt type %q is not known; one of normal, norealm, onlyrealm", salt)
	}
	return keySalt{e, salt}, nil
}

func saltFor(ks keySalt, n name) (salt string, isDefault bool) {
	switch ks.salt {
	case "norealm":
		return strings.Join(n.components, ""), false
	case "onlyrealm":
		return n.realm, false
	}
	return krb5.DefaultSalt(n.realm, n.krb5()), true
}

// makeKeys makes and seals p's keys of one kvno: from the password, or at random when it is nil.
func (s *Service) makeKeys(p *statev1.Principal, kvno uint32, password *string, keysalts []keySalt) ([]*statev1.Key, error) {
	cl, err := s.Reader.Cluster()
	if err != nil {
		return nil, err
	}
	if kvno == 0 || kvno > kvnoMax {
		return nil, invalid("kvno", "a kvno is 1 to %d", kvnoMax)
	}
	var out []*statev1.Key
	for _, ks := range keysalts {
		rec := &statev1.Key{Kvno: kvno, Etype: int32(ks.etype)}
		if password == nil {
			ks.salt = "normal" // a random key has none: the type means nothing
		}
		rec.Salt, rec.SaltDefault = saltFor(ks, nameOf(p))
		var k *kcrypto.Key
		if password != nil {
			k, err = kcrypto.StringToKey(ks.etype, *password, rec.Salt, nil)
		} else {
			k, err = kcrypto.GenerateKey(s.Rand, ks.etype)
		}
		if err != nil {
			return nil, err
		}
		if rec.Key, err = s.Sealer.Seal(s.Rand, masterkey.KeyAAD(cl.GetId(), p, rec), k.Bytes()); err != nil {
			return nil, err
		}
		out = append(out, rec)
	}
	return out, nil
}

// openKey opens one of p's keys.
func (s *Service) openKey(clusterID []byte, p *statev1.Principal, rec *statev1.Key) (*kcrypto.Key, error) {
	raw, err := s.Sealer.Open(masterkey.KeyAAD(clusterID, p, rec), rec.GetKey())
	if err != nil {
		return nil, err
	}
	return kcrypto.NewKey(kcrypto.EType(rec.GetEtype()), raw)
}

// extract opens the keys of p that want chooses.
func (s *Service) extract(p *statev1.Principal, want func(*statev1.Key) bool) ([]*adminv1.ExtractedKey, error) {
	cl, err := s.Reader.Cluster()
	if err != nil {
		return nil, err
	}
	var out []*adminv1.ExtractedKey
	for _, rec := range p.GetKeys() {
		if !want(rec) {
			continue
		}
		k, err := s.openKey(cl.GetId(), p, rec)
		if err != nil {
			return nil, err
		}
		out = append(out, &adminv1.ExtractedKey{Kvno: rec.GetKvno(), Etype: rec.GetEtype(), Key: k.Bytes(), State: adminv1.KeyState(rec.GetState())})
	}
	return out, nil
}

// nextKVNO is above every kvno p has or had.
func nextKVNO(p *statev1.Principal) uint32 {
	highest := p.GetKvno()
	for _, k := range p.GetKeys() {
		highest = max(highest, k.GetKvno())
	}
	return highest + 1
}

// keysOf are p's keys of one kvno.
func keysOf(p *statev1.Principal, kvno uint32) []*statev1.Key {
	var out []*statev1.Key
	for _, k := range p.GetKeys() {
		if k.GetKvno() == kvno {
			out = append(out, k)
		}
	}
	return out
}

// replaceKeys makes fresh keys current. With keepOld the earlier ones go on opening tickets until retireAt (ms, 0: no end).
// Staged keys are dropped: what they were staged for is overtaken.
func replaceKeys(p *statev1.Principal, fresh []*statev1.Key, keepOld bool, retireAt int64) {
	keys := fresh
	if keepOld {
		keys = append(keys, retire(p.GetKeys(), retireAt)...)
	}
	p.Keys = keys
	if len(fresh) > 0 {
		p.Kvno = fresh[0].GetKvno()
	}
}

// retire lets active keys open tickets only, until at (ms, 0: no end). A key that retires earlier keeps its time; staged ones are left out.
func retire(keys []*statev1.Key, at int64) []*statev1.Key {
	var out []*statev1.Key
	for _, k := range keys {
		switch k.GetState() {
		case statev1.KeyState_KEY_STATE_STAGED:
			continue
		case statev1.KeyState_KEY_STATE_ACTIVE:
			k.State, k.RetireAt = statev1.KeyState_KEY_STATE_RETIRING, at
		case statev1.KeyState_KEY_STATE_RETIRING:
			if at != 0 && (k.GetRetireAt() == 0 || at < k.GetRetireAt()) {
				k.RetireAt = at
			}
		}
		out = append(out, k)
	}
	return out
}

// dropRetired takes keys away whose time was over at now (ms).
func dropRetired(p *statev1.Principal, now int64) {
	p.Keys = slices.DeleteFunc(p.Keys, func(k *statev1.Key) bool {
		return k.GetState() == statev1.KeyState_KEY_STATE_RETIRING && k.GetRetireAt() != 0 && k.GetRetireAt() <= now
	})
}

// realm is a realm that this cluster serves.
func (s *Service) realm(realmName string) (*statev1.Realm, error) {
	r, err := s.Reader.Realm(realmName)
	if errors.Is(err, realm.ErrNotFound) {
		return nil, refuse(codes.NotFound, "NOT_FOUND", "realm %s is not served here", realmName)
	}
	return r, err
}

// policy is the policy of that name; nil without error when there is none, which is legal for a principal to name.
func (s *Service) policy(policyName string) (*statev1.Policy, error) {
	if policyName == "" {
		return nil, nil
	}
	p, err := s.Reader.Policy(policyName)
	if errors.Is(err, realm.ErrNotFound) {
		return nil, nil
	}
	return p, err
}

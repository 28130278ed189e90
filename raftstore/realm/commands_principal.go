package realm

import (
	"bytes"
	"cmp"
	"fmt"

	statev1 "github.com/charon-kdc/charon/proto/charon/state/v1"
)

const (
	principalIDSize = 16
	aliasesMax      = 64
)

// checkPrincipal tells what is wrong with a record by itself.
func checkPrincipal(p *statev1.Principal) error {
	if err := cmp.Or(checkID("principal", p.GetId(), principalIDSize), checkRealmName(p.GetRealm()), checkName(p.GetName())); err != nil {
		return err
	}
	if n := len(p.GetAliases()); n > aliasesMax {
		return fmt.Errorf("%d aliases, at most %d", n, aliasesMax)
	}
	seen := map[string]bool{NameText(p.GetName()): true}
	for _, a := range p.GetAliases() {
		if _, err := ParseName(a); err != nil {
			return fmt.Errorf("alias: %w", err)
		}
		if seen[a] {
			return fmt.Errorf("alias %q is given twice or is the name itself", a)
		}
		seen[a] = true
	}
	return nil
}

func putPrincipal(o *overlay, c *statev1.PutPrincipal) (*statev1.Result, error) {
	p := c.GetPrincipal()
	key := NameKey(p.GetRealm(), p.GetName())
	return put(o, principals, KindPrincipal, key, checkPrincipal(p), p, c.GetExpect(),
		func(old *statev1.Principal, found bool) (*statev1.Result, error) {
			if found && !bytes.Equal(old.GetId(), p.GetId()) {
				return refuse(statev1.Code_CODE_INVALID, "principal %q has another id, and ids do not change", printable(KindPrincipal, key)), nil
			}
			if !found {
				if r, err := takenAsAlias(o, key, ""); err != nil || r != nil {
					return r, err
				}
			}
			if r, err := sealedNow(o, printable(KindPrincipal, key), boxesOf(p), boxesOf(old)); err != nil || r != nil {
				return r, err
			}
			return moveAliases(o, old, p, key)
		})
}

// takenAsAlias refuses a new name that is an alias of some principal other than the one with key self.
func takenAsAlias(o *overlay, key, self string) (*statev1.Result, error) {
	target, err := o.get(aliases, key)
	if err != nil || target == nil || string(target) == self {
		return nil, err
	}
	return refuse(statev1.Code_CODE_EXISTS, "%q is an alias of %q", printable(KindPrincipal, key), printable(KindPrincipal, string(target))), nil
}

// moveAliases replaces old's aliases by p's, whose record is (about to be) under key. A new alias must be free.
func moveAliases(o *overlay, old, p *statev1.Principal, key string) (*statev1.Result, error) {
	for _, a := range old.GetAliases() {
		k := textKey(old.GetRealm(), a)
		o.changed(KindPrincipal, k)
		if err := o.remove(aliases, k); err != nil {
			return nil, err
		}
	}
	for _, a := range p.GetAliases() {
		k := textKey(p.GetRealm(), a)
		record, err := o.get(principals, k)
		if err != nil {
			return nil, err
		}
		if record != nil {
			return refuse(statev1.Code_CODE_EXISTS, "alias %q is the name of a principal", printable(KindPrincipal, k)), nil
		}
		if r, err := takenAsAlias(o, k, ""); err != nil || r != nil {
			return r, err
		}
		o.changed(KindPrincipal, k)
		if err := o.put(aliases, k, []byte(key)); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

func deletePrincipal(o *overlay, c *statev1.DeletePrincipal) (*statev1.Result, error) {
	var old statev1.Principal
	r, err := remove(o, principals, KindPrincipal, NameKey(c.GetRealm(), c.GetName()), &old, c.GetExpect())
	if err != nil || r.GetCode() != statev1.Code_CODE_OK {
		return r, err
	}
	refusal, err := moveAliases(o, &old, nil, "")
	if refusal != nil {
		r = refusal
	}
	return r, err
}

// renamePrincipal keeps the id. The new record must pin its salts: a key salted by the old name's default would no longer
// open anything (a rename that bricks passwords was seen in other clustered KDCs).
func renamePrincipal(o *overlay, c *statev1.RenamePrincipal) (*statev1.Result, error) {
	p := c.GetPrincipal()
	if err := checkPrincipal(p); err != nil {
		return refuse(statev1.Code_CODE_INVALID, "%v", err), nil
	}
	oldKey, key := NameKey(c.GetRealm(), c.GetOldName()), NameKey(p.GetRealm(), p.GetName())
	if p.GetRealm() != c.GetRealm() || oldKey == key {
		return refuse(statev1.Code_CODE_INVALID, "a rename is to another name of the same realm"), nil
	}
	for _, k := range p.GetKeys() {
		if k.GetSaltDefault() {
			return refuse(statev1.Code_CODE_INVALID, "key of kvno %d, enctype %d has the default salt of the old name", k.GetKvno(), k.GetEtype()), nil
		}
	}
	var old statev1.Principal
	r, err := remove(o, principals, KindPrincipal, oldKey, &old, c.GetExpect())
	if err != nil || r.GetCode() != statev1.Code_CODE_OK {
		return r, err
	}
	if !bytes.Equal(old.GetId(), p.GetId()) {
		return refuse(statev1.Code_CODE_INVALID, "principal %q has another id, and ids do not change", printable(KindPrincipal, oldKey)), nil
	}
	if taken, err := o.get(principals, key); err != nil || taken != nil {
		return refuse(statev1.Code_CODE_EXISTS, "principal %q exists", printable(KindPrincipal, key)), err
	}
	if r, err := takenAsAlias(o, key, oldKey); err != nil || r != nil {
		return r, err
	}
	if r, err := sealedNow(o, printable(KindPrincipal, key), boxesOf(p), boxesOf(&old)); err != nil || r != nil {
		return r, err
	}
	if r, err := moveAliases(o, &old, p, key); err != nil || r != nil {
		return r, err
	}
	return store(o, principals, KindPrincipal, key, p)
}

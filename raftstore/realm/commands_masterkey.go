package realm

import (
	"bytes"
	"fmt"
	"iter"
	"slices"

	"google.golang.org/protobuf/proto"

	statev1 "github.com/charon-kdc/charon/proto/charon/state/v1"
)

// A rotation of the master key is a series of commands, so that whoever leads goes on where another stopped: stage, activate, reseal until nothing
// is left under another version, finish. The state machine holds no key and opens nothing. What it sees to is that a version becomes active
// only when every recorded node has it, and that what is left only becomes less: sealedNow.

const (
	checkSize = 32
	// resealMax bounds the records of one Reseal.
	resealMax = 1000
)

// keepMasterKey leaves the master key's versions to the commands of its rotation, from the first one on.
func keepMasterKey(m, old *statev1.Cluster) {
	if old.GetMasterKeyLast() > 0 {
		m.MasterKeyVersion = old.GetMasterKeyVersion()
	}
	m.MasterKeyRotation, m.MasterKeyLast = old.GetMasterKeyRotation(), old.GetMasterKeyLast()
	m.MasterKeyAt, m.MasterKeyFloor = old.GetMasterKeyAt(), old.GetMasterKeyFloor()
}

// loadCluster is the cluster's record, or a refusal where there is none.
func loadCluster(o *overlay) (*statev1.Cluster, *statev1.Result, error) {
	m := new(statev1.Cluster)
	found, err := o.load(cluster, clusterKey, m)
	if err == nil && !found {
		return nil, refuse(statev1.Code_CODE_NOT_FOUND, "there is no cluster record"), nil
	}
	return m, nil, err
}

func storeCluster(o *overlay, m *statev1.Cluster) (*statev1.Result, error) {
	return store(o, cluster, KindCluster, clusterKey, m)
}

func stageMasterKey(o *overlay, c *statev1.StageMasterKey) (*statev1.Result, error) {
	m, r, err := loadCluster(o)
	if r != nil || err != nil {
		return r, err
	}
	rot := m.GetMasterKeyRotation()
	switch next := max(m.GetMasterKeyLast(), m.GetMasterKeyVersion()) + 1; {
	case len(c.GetCheck()) != checkSize:
		return refuse(statev1.Code_CODE_INVALID, "master key check of %d bytes, not %d", len(c.GetCheck()), checkSize), nil
	case !c.GetAgain() && rot != nil:
		return refuse(statev1.Code_CODE_IN_USE, "a rotation of the master key to version %d is under way", rot.GetVersion()), nil
	case c.GetAgain() && (rot == nil || rot.GetVersion() <= m.GetMasterKeyVersion()):
		return refuse(statev1.Code_CODE_CONFLICT, "no version of the master key is staged"), nil
	case c.GetVersion() != next:
		return refuse(statev1.Code_CODE_CONFLICT, "the next version of the master key is %d, not %d", next, c.GetVersion()), nil
	}
	by, at := c.GetBy(), o.st.now
	if rot != nil {
		by, at = rot.GetStartedBy(), rot.GetStartedAt()
	}
	m.MasterKeyRotation = &statev1.MasterKeyRotation{Version: c.GetVersion(), Check: c.GetCheck(), StartedAt: at, StartedBy: by}
	m.MasterKeyLast = c.GetVersion()
	return storeCluster(o, m)
}

// giveUpStaged forgets the staged key when a node is removed that may hold it: nothing is to be sealed under a key that left the cluster.
func giveUpStaged(o *overlay) error {
	m, r, err := loadCluster(o)
	if r != nil || err != nil {
		return err
	}
	rot := m.GetMasterKeyRotation()
	if rot.GetVersion() <= m.GetMasterKeyVersion() || len(rot.GetCheck()) == 0 {
		return nil
	}
	rot.Check = nil
	_, err = storeCluster(o, m)
	return err
}

func activateMasterKey(o *overlay, c *statev1.ActivateMasterKey) (*statev1.Result, error) {
	m, r, err := loadCluster(o)
	if r != nil || err != nil {
		return r, err
	}
	rot := m.GetMasterKeyRotation()
	switch {
	case rot.GetVersion() != c.GetVersion() || len(rot.GetCheck()) == 0:
		return refuse(statev1.Code_CODE_CONFLICT, "master key version %d is not staged", c.GetVersion()), nil
	case m.GetMasterKeyVersion() == c.GetVersion():
		return ok(m.GetRevision()), nil
	}
	if r, err := allHold(o, c); r != nil || err != nil {
		return r, err
	}
	m.MasterKeyVersion = c.GetVersion()
	return storeCluster(o, m)
}

// allHold refuses while a recorded node is not among those that confirmed: it may have joined a moment ago.
func allHold(o *overlay, c *statev1.ActivateMasterKey) (refusal *statev1.Result, err error) {
	err = o.each(nodes, func(key string, payload []byte) (bool, error) {
		if slices.ContainsFunc(c.GetNodes(), func(id []byte) bool { return string(id) == key }) {
			return true, nil
		}
		var n statev1.Node
		if err := proto.Unmarshal(payload, &n); err != nil {
			return false, fmt.Errorf("%w: node %x: %w", ErrCorrupt, key, err)
		}
		refusal = refuse(statev1.Code_CODE_CONFLICT, "node %s has not confirmed master key version %d", n.GetName(), c.GetVersion())
		return false, nil
	})
	return refusal, err
}

func reseal(o *overlay, c *statev1.Reseal) (*statev1.Result, error) {
	m, r, err := loadCluster(o)
	if r != nil || err != nil {
		return r, err
	}
	if c.GetVersion() != m.GetMasterKeyVersion() {
		return refuse(statev1.Code_CODE_CONFLICT, "master key version %d is not active, %d is", c.GetVersion(), m.GetMasterKeyVersion()), nil
	}
	if n := len(c.GetPrincipals()) + len(c.GetSecrets()); n > resealMax {
		return refuse(statev1.Code_CODE_INVALID, "%d records in one reseal, at most %d", n, resealMax), nil
	}
	for _, p := range c.GetPrincipals() {
		if err := resealPrincipal(o, c.GetVersion(), p); err != nil {
			return nil, err
		}
	}
	for _, s := range c.GetSecrets() {
		if err := resealSecret(o, c.GetVersion(), s); err != nil {
			return nil, err
		}
	}
	return ok(0), nil
}

// resealPrincipal leaves a record alone that is not the one whose boxes were opened: its keys may be others.
func resealPrincipal(o *overlay, version uint32, c *statev1.ResealPrincipal) error {
	p := new(statev1.Principal)
	key := NameKey(c.GetRealm(), c.GetName())
	found, err := o.load(principals, key, p)
	if err != nil || !found || p.GetRevision() != c.GetRevision() {
		return err
	}
	var keys []*statev1.Key
	for k := range keysIn(p) {
		keys = append(keys, k)
	}
	if len(keys) != len(c.GetBoxes()) {
		return nil
	}
	changed := false
	for i, b := range c.GetBoxes() {
		if b.GetMasterKeyVersion() == version && keys[i].GetKey().GetMasterKeyVersion() != version {
			keys[i].Key, changed = b, true
		}
	}
	if !changed || proto.Size(p) > recordMax {
		return nil
	}
	return o.save(principals, key, p)
}

func resealSecret(o *overlay, version uint32, c *statev1.ResealSecret) error {
	s := new(statev1.Secret)
	found, err := o.load(secrets, c.GetName(), s)
	if err != nil || !found || s.GetRevision() != c.GetRevision() || c.GetKey().GetMasterKeyVersion() != version {
		return err
	}
	s.Key = c.GetKey()
	return o.save(secrets, c.GetName(), s)
}

// keysIn are all keys of a record, those of its history last.
func keysIn(p *statev1.Principal) iter.Seq[*statev1.Key] {
	return func(yield func(*statev1.Key) bool) {
		for _, k := range p.GetKeys() {
			if !yield(k) {
				return
			}
		}
		for _, h := range p.GetKeyHistory() {
			for _, k := range h.GetKeys() {
				if !yield(k) {
					return
				}
			}
		}
	}
}

// sealedNow refuses a record with a box that is neither under the active version nor in the record that it replaces. Without it what a slow
// writer read before a rotation would be back after its end, under a version that nobody holds any more. Clusters that never
// rotated have no such rule.
func sealedNow(o *overlay, what string, boxes, old []*statev1.Sealed) (*statev1.Result, error) {
	m := new(statev1.Cluster)
	if _, err := o.load(cluster, clusterKey, m); err != nil || m.GetMasterKeyLast() == 0 {
		return nil, err
	}
	for _, b := range boxes {
		same := func(a *statev1.Sealed) bool { return bytes.Equal(a.GetBox(), b.GetBox()) }
		if b == nil || b.GetMasterKeyVersion() == m.GetMasterKeyVersion() || slices.ContainsFunc(old, same) {
			continue
		}
		return refuse(statev1.Code_CODE_CONFLICT, "%s is sealed under master key version %d, and %d is active", what, b.GetMasterKeyVersion(), m.GetMasterKeyVersion()), nil
	}
	return nil, nil
}

func boxesOf(p *statev1.Principal) []*statev1.Sealed {
	var out []*statev1.Sealed
	for k := range keysIn(p) {
		out = append(out, k.GetKey())
	}
	return out
}

func finishReseal(o *overlay, c *statev1.FinishReseal) (*statev1.Result, error) {
	m, r, err := loadCluster(o)
	if r != nil || err != nil {
		return r, err
	}
	rot := m.GetMasterKeyRotation()
	if rot.GetVersion() != c.GetVersion() || m.GetMasterKeyVersion() != c.GetVersion() {
		return refuse(statev1.Code_CODE_CONFLICT, "no rotation to master key version %d is under way", c.GetVersion()), nil
	}
	m.MasterKeyRotation, m.MasterKeyAt = nil, max(o.st.now, 1)
	return storeCluster(o, m)
}

func retireMasterKeys(o *overlay, c *statev1.RetireMasterKeys) (*statev1.Result, error) {
	m, r, err := loadCluster(o)
	if r != nil || err != nil {
		return r, err
	}
	switch rot := m.GetMasterKeyRotation(); {
	case rot != nil:
		return refuse(statev1.Code_CODE_IN_USE, "a rotation of the master key to version %d is under way", rot.GetVersion()), nil
	case c.GetBelow() != m.GetMasterKeyVersion():
		return refuse(statev1.Code_CODE_CONFLICT, "master key version %d is not active, %d is", c.GetBelow(), m.GetMasterKeyVersion()), nil
	}
	m.MasterKeyFloor = c.GetBelow()
	return storeCluster(o, m)
}

// dropRetired removes keys whose time is over at the log's time, whatever the proposer's clock says.
func dropRetired(o *overlay, c *statev1.DropRetired) (*statev1.Result, error) {
	if n := len(c.GetPrincipals()); n > resealMax {
		return refuse(statev1.Code_CODE_INVALID, "%d principals in one command, at most %d", n, resealMax), nil
	}
	for _, n := range c.GetPrincipals() {
		p := new(statev1.Principal)
		key := NameKey(n.GetRealm(), n.GetName())
		found, err := o.load(principals, key, p)
		if err != nil {
			return nil, err
		}
		before := len(p.GetKeys())
		p.Keys = slices.DeleteFunc(p.Keys, func(k *statev1.Key) bool { return RetiredAt(k, o.st.now) })
		if !found || len(p.GetKeys()) == before {
			continue
		}
		if r, err := store(o, principals, KindPrincipal, key, p); err != nil || r.GetCode() != statev1.Code_CODE_OK {
			return r, err
		}
	}
	return ok(0), nil
}

// RetiredAt tells whether k opens nothing any more at now (ms since the epoch) and can go.
func RetiredAt(k *statev1.Key, now int64) bool {
	return k.GetState() == statev1.KeyState_KEY_STATE_RETIRING && k.GetRetireAt() != 0 && k.GetRetireAt() <= now
}

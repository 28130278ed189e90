package realm

import (
	"bytes"
	"cmp"
	"fmt"

	"google.golang.org/protobuf/proto"

	statev1 "github.com/charon-kdc/charon/proto/charon/state/v1"
)

const clusterKey = "cluster"

func checkID(what string, id []byte, size int) error {
	if len(id) != size {
		return fmt.Errorf("%s id of %d bytes, not %d", what, len(id), size)
	}
	return nil
}

// putToken stores a new token; tokens do not change but by use.
func putToken(o *overlay, c *statev1.PutToken) (*statev1.Result, error) {
	t := c.GetToken()
	key := string(t.GetId())
	invalid := cmp.Or(checkID("token", t.GetId(), 8), checkLabel("node", t.GetNodeName()))
	switch {
	case invalid != nil:
		return refuse(statev1.Code_CODE_INVALID, "%v", invalid), nil
	case len(t.GetSecretHash()) != 32:
		return refuse(statev1.Code_CODE_INVALID, "token secret hash of %d bytes, not 32", len(t.GetSecretHash())), nil
	case t.GetExpiresAt() <= 0:
		return refuse(statev1.Code_CODE_INVALID, "token without an end"), nil
	case len(t.GetNodeId()) != 0 && len(t.GetNodeId()) != 16:
		return refuse(statev1.Code_CODE_INVALID, "token for a node id of %d bytes, not 16", len(t.GetNodeId())), nil
	case t.GetUsedAt() != 0 || len(t.GetUsedBy()) > 0 || t.GetClosedAt() != 0:
		return refuse(statev1.Code_CODE_INVALID, "token is used before it is made"), nil
	}
	old, err := o.get(tokens, key)
	if err != nil {
		return nil, err
	}
	if old != nil {
		return refuse(statev1.Code_CODE_EXISTS, "token %x exists", key), nil
	}
	if o.counts[tokens] >= bucketMax[tokens] {
		return refuse(statev1.Code_CODE_LIMIT, "%d tokens, and no more are allowed; delete old ones", o.counts[tokens]), nil
	}
	o.changed(KindToken, key)
	return ok(0), o.save(tokens, key, t)
}

// useToken binds a token to one public key. The same key again resumes a join that was cut short, until the token's end or until the
// node has run.
func useToken(o *overlay, c *statev1.UseToken) (*statev1.Result, error) {
	if len(c.GetUsedBy()) != 32 {
		return refuse(statev1.Code_CODE_INVALID, "key hash of %d bytes, not 32", len(c.GetUsedBy())), nil
	}
	var t statev1.Token
	key := string(c.GetId())
	found, err := o.load(tokens, key, &t)
	switch {
	case err != nil:
		return nil, err
	case !found:
		return refuse(statev1.Code_CODE_NOT_FOUND, "token %x does not exist", key), nil
	case t.GetExpiresAt() <= o.st.now:
		return refuse(statev1.Code_CODE_TOKEN_REFUSED, "token %x has expired", key), nil
	case t.GetClosedAt() != 0 && len(t.GetNodeId()) > 0 && bytes.Equal(t.GetUsedBy(), c.GetUsedBy()):
		return ok(0), nil // a member's key that is certified: its certificate may not have arrived
	case t.GetClosedAt() != 0:
		return refuse(statev1.Code_CODE_TOKEN_REFUSED, "token %x was used, and its node runs", key), nil
	case t.GetUsedAt() == 0:
		t.UsedAt, t.UsedBy = max(o.st.now, 1), c.GetUsedBy()
		o.changed(KindToken, key)
		return ok(0), o.save(tokens, key, &t)
	case !bytes.Equal(t.GetUsedBy(), c.GetUsedBy()):
		return refuse(statev1.Code_CODE_TOKEN_REFUSED, "token %x was used by another key", key), nil
	}
	return ok(0), nil
}

// putCluster never changes the cluster's id, and leaves the feature level to setFeatureLevel once there is one, backups to noteBackup
// and the master key to its rotation.
func putCluster(o *overlay, c *statev1.PutCluster) (*statev1.Result, error) {
	m := c.GetCluster()
	return put(o, cluster, KindCluster, clusterKey, checkID("cluster", m.GetId(), 16), m, c.GetExpect(),
		func(old *statev1.Cluster, found bool) (*statev1.Result, error) {
			if found && !bytes.Equal(old.GetId(), m.GetId()) {
				return refuse(statev1.Code_CODE_INVALID, "a cluster's id does not change"), nil
			}
			if found {
				m.AutoRemoveAfter, m.AutoRemoveVoters = old.GetAutoRemoveAfter(), old.GetAutoRemoveVoters()
				m.FeatureLevel, m.FeatureLevelAt, m.LastBackup = old.GetFeatureLevel(), old.GetFeatureLevelAt(), old.GetLastBackup()
				keepMasterKey(m, old)
			}
			o.featureLevel = m.GetFeatureLevel()
			return nil, nil
		})
}

// setFeatureLevel raises the level by one, once every node that has a record supports it: only here is no join in between. The
// envelope has seen to it that this node does.
func setFeatureLevel(o *overlay, level uint32) (*statev1.Result, error) {
	var m statev1.Cluster
	found, err := o.load(cluster, clusterKey, &m)
	switch {
	case err != nil:
		return nil, err
	case !found:
		return refuse(statev1.Code_CODE_NOT_FOUND, "there is no cluster record"), nil
	case level < m.GetFeatureLevel():
		return refuse(statev1.Code_CODE_INVALID, "feature level %d is below the present %d", level, m.GetFeatureLevel()), nil
	case level > m.GetFeatureLevel()+1 && m.GetFeatureLevel() > 0:
		return refuse(statev1.Code_CODE_INVALID, "feature level %d skips one: the present level is %d", level, m.GetFeatureLevel()), nil
	}
	if level > max(1, m.GetFeatureLevel()) {
		if r, err := behind(o, level); err != nil || r != nil {
			return r, err
		}
		m.FeatureLevelAt = o.st.now
	}
	m.FeatureLevel, o.featureLevel = level, level
	return store(o, cluster, KindCluster, clusterKey, &m)
}

// behind refuses a feature level that a node does not support.
func behind(o *overlay, level uint32) (refusal *statev1.Result, err error) {
	err = o.each(nodes, func(key string, payload []byte) (bool, error) {
		var n statev1.Node
		if err := proto.Unmarshal(payload, &n); err != nil {
			return false, fmt.Errorf("%w: node %x: %w", ErrCorrupt, key, err)
		}
		if n.GetFeatureLevelMax() < level {
			refusal = refuse(statev1.Code_CODE_INVALID, "node %s supports feature level %d only", n.GetName(), n.GetFeatureLevelMax())
		}
		return refusal == nil, nil
	})
	return refusal, err
}

// newerBackup tells whether n is of a later backup than old, or of a later look at the same.
func newerBackup(old, n *statev1.BackupNote) bool {
	return n.GetAt() > old.GetAt() || n.GetAt() == old.GetAt() && bytes.Equal(n.GetSha256(), old.GetSha256()) && n.GetCheckedAt() > old.GetCheckedAt()
}

// noteBackup keeps the newest note by time. It moves no revision: who changes the cluster record at a revision need not know of backups.
func noteBackup(o *overlay, n *statev1.BackupNote) (*statev1.Result, error) {
	invalid := cmp.Or(checkLabel("node", n.GetNode()), checkSum(n.GetSha256()))
	switch {
	case invalid != nil:
		return refuse(statev1.Code_CODE_INVALID, "%v", invalid), nil
	case n.GetAt() <= 0 || n.GetIndex() == 0 || n.GetIndex() > o.st.index:
		return refuse(statev1.Code_CODE_INVALID, "backup of index %d at time %d, while the state is at index %d", n.GetIndex(), n.GetAt(), o.st.index), nil
	}
	var m statev1.Cluster
	found, err := o.load(cluster, clusterKey, &m)
	switch {
	case err != nil:
		return nil, err
	case !found:
		return refuse(statev1.Code_CODE_NOT_FOUND, "there is no cluster record"), nil
	case !newerBackup(m.GetLastBackup(), n):
		return ok(m.GetRevision()), nil
	}
	m.LastBackup = n
	o.changed(KindBackup, "")
	return ok(m.GetRevision()), o.save(cluster, clusterKey, &m)
}

func checkSum(b []byte) error {
	if len(b) != 32 {
		return fmt.Errorf("SHA-256 of %d bytes, not 32", len(b))
	}
	return nil
}

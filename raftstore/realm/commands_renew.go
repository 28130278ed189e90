package realm

import (
	"bytes"
	"fmt"

	"google.golang.org/protobuf/proto"

	statev1 "github.com/charon-kdc/charon/proto/charon/state/v1"
)

// RetiredMax bounds the retired keys that a node's record holds. Their certificates end within a certificate's life, in which a node renews a
// few times; the oldest go first. A record with so many may have lost some.
const RetiredMax = 16

// renewNode changes a node's key (the life of a certificate: DESIGN.md, "Certificates").
func renewNode(o *overlay, c *statev1.RenewNode) (*statev1.Result, error) {
	if len(c.GetKeyHash()) != 32 || len(c.GetPresent()) != 0 && len(c.GetPresent()) != 32 {
		return refuse(statev1.Code_CODE_INVALID, "key hash of %d bytes, not 32", len(c.GetKeyHash())), nil
	}
	n := new(statev1.Node)
	found, err := o.load(nodes, string(c.GetId()), n)
	if err != nil {
		return nil, err
	}
	if !found {
		return refuse(statev1.Code_CODE_NOT_FOUND, "node %x does not exist", c.GetId()), nil
	}
	if len(n.GetKeyHash()) == 0 {
		n.KeyHash = c.GetPresent() // the node that made the cluster
	}
	if r, err := keyTaken(o, n, c.GetKeyHash()); r != nil || err != nil {
		return r, err
	}
	if len(c.GetTokenId()) > 0 {
		if r, err := certifyByToken(o, n, c); r != nil || err != nil {
			return r, err
		}
		supersede(o, n, c)
	}
	switch {
	case !c.GetActivate():
		if !bytes.Equal(n.GetKeyHash(), c.GetKeyHash()) {
			supersede(o, n, c)
		}
	case bytes.Equal(n.GetKeyHash(), c.GetKeyHash()):
		return ok(n.GetRevision()), nil // done before
	case !bytes.Equal(n.GetNextKeyHash(), c.GetKeyHash()):
		return refuse(statev1.Code_CODE_CONFLICT, "node %q has not asked for that key", n.GetName()), nil
	default:
		retire(n, n.GetKeyHash(), c.GetUntil(), o.st.now)
		n.KeyHash, n.NextKeyHash = n.GetNextKeyHash(), nil
	}
	return store(o, nodes, KindNode, string(n.GetId()), n)
}

// supersede makes c's key the next. One that was the next is certified and never was in use: its node has lost it, or somebody else has had it
// certified, by a key that he had seen.
func supersede(o *overlay, n *statev1.Node, c *statev1.RenewNode) {
	if next := n.GetNextKeyHash(); len(next) > 0 && !bytes.Equal(next, c.GetKeyHash()) {
		retire(n, next, c.GetUntil(), o.st.now)
	}
	n.NextKeyHash = c.GetKeyHash()
}

// retire notes that a key is good no more. Those whose certificates have ended are forgotten.
func retire(n *statev1.Node, hash []byte, until, now int64) {
	var keep []*statev1.RetiredKey
	for _, k := range n.GetRetiredKeys() {
		if k.GetUntil() > now {
			keep = append(keep, k)
		}
	}
	if len(hash) > 0 {
		keep = append(keep, &statev1.RetiredKey{Hash: hash, Until: until})
	}
	n.RetiredKeys = keep[max(0, len(keep)-RetiredMax):]
}

// certifyByToken makes sure that the token is for this node and bound to this key, and closes it.
func certifyByToken(o *overlay, n *statev1.Node, c *statev1.RenewNode) (*statev1.Result, error) {
	var t statev1.Token
	found, err := o.load(tokens, string(c.GetTokenId()), &t)
	if err != nil {
		return nil, err
	}
	if !found || !c.GetActivate() || !bytes.Equal(t.GetNodeId(), n.GetId()) || !bytes.Equal(t.GetUsedBy(), c.GetKeyHash()) {
		return refuse(statev1.Code_CODE_TOKEN_REFUSED, "token %x does not certify a key of node %q", c.GetTokenId(), n.GetName()), nil
	}
	if t.GetClosedAt() != 0 {
		if bytes.Equal(n.GetKeyHash(), c.GetKeyHash()) {
			return nil, nil // again, after a crash
		}
		return refuse(statev1.Code_CODE_TOKEN_REFUSED, "token %x was used", c.GetTokenId()), nil
	}
	return nil, closeToken(o, c.GetTokenId())
}

// keyTaken refuses a key that this node has retired, or that another node has or had.
func keyTaken(o *overlay, n *statev1.Node, hash []byte) (refusal *statev1.Result, err error) {
	err = o.each(nodes, func(key string, payload []byte) (bool, error) {
		var other statev1.Node
		if err := proto.Unmarshal(payload, &other); err != nil {
			return false, fmt.Errorf("%w: node %x: %w", ErrCorrupt, key, err)
		}
		used := key != string(n.GetId()) && (bytes.Equal(other.GetKeyHash(), hash) || bytes.Equal(other.GetNextKeyHash(), hash))
		for _, k := range other.GetRetiredKeys() {
			used = used || bytes.Equal(k.GetHash(), hash)
		}
		if used {
			refusal = refuse(statev1.Code_CODE_EXISTS, "node %q has or had that key", other.GetName())
		}
		return !used, nil
	})
	return refusal, err
}

// autoRemoveAfterMin, in seconds, is longer than any restart.
const autoRemoveAfterMin = 60

// votersMin is how many voters automatic removal always leaves.
const votersMin = 3

func setAutoRemoval(o *overlay, c *statev1.SetAutoRemoval) (*statev1.Result, error) {
	off := c.GetAfter() == 0 && c.GetVoters() == 0
	if !off && (c.GetAfter() < autoRemoveAfterMin || c.GetVoters() < votersMin) {
		return refuse(statev1.Code_CODE_INVALID, "automatic removal after %d s down to %d voters; at least %d s and %d voters",
			c.GetAfter(), c.GetVoters(), autoRemoveAfterMin, votersMin), nil
	}
	var m statev1.Cluster
	found, err := o.load(cluster, clusterKey, &m)
	switch {
	case err != nil:
		return nil, err
	case !found:
		return refuse(statev1.Code_CODE_NOT_FOUND, "there is no cluster record"), nil
	}
	m.AutoRemoveAfter, m.AutoRemoveVoters = c.GetAfter(), c.GetVoters()
	return store(o, cluster, KindCluster, clusterKey, &m)
}

package realm

import (
	"bytes"
	"cmp"
	"fmt"

	"google.golang.org/protobuf/proto"

	statev1 "github.com/charon-kdc/charon/proto/charon/state/v1"
)

// putNode lets no record take over what is another node's: ids, name (by which the operator tells nodes apart), key and token
// belong to one node each. The proposer has looked, too, but only here is nobody in between.
func putNode(o *overlay, c *statev1.PutNode) (*statev1.Result, error) {
	n := c.GetNode()
	return put(o, nodes, KindNode, string(n.GetId()), checkNode(n), n, c.GetExpect(), func(old *statev1.Node, found bool) (*statev1.Result, error) {
		if r := starts(old, n); r != nil {
			return r, nil
		}
		if o.featureLevel > 1 && n.GetFeatureLevelMax() < o.featureLevel {
			return refuse(statev1.Code_CODE_INVALID, "node %q supports feature level %d, and the cluster is at %d: install the release that the other nodes run",
				n.GetName(), n.GetFeatureLevelMax(), o.featureLevel), nil
		}
		if r, err := taken(o, n); err != nil || r != nil {
			return r, err
		}
		if found {
			return updateNode(o, old, n)
		}
		return admitNode(o, n)
	})
}

// starts refuses a node record that counts fewer starts than the one before it: it comes from an old copy of a data directory,
// which has forgotten votes and acknowledged entries (raftstore/DESIGN.md, "Who may vote").
func starts(old, n *statev1.Node) *statev1.Result {
	if n.GetBootCounter() >= old.GetBootCounter() {
		return nil
	}
	return refuse(statev1.Code_CODE_INVALID, "node %q has started %d times, not %d: an old copy of its data directory",
		n.GetName(), old.GetBootCounter(), n.GetBootCounter())
}

func checkNode(n *statev1.Node) error {
	optional := func(what string, b []byte, size int) error {
		if len(b) == 0 || len(b) == size {
			return nil
		}
		return fmt.Errorf("%s of %d bytes, not %d", what, len(b), size)
	}
	err := cmp.Or(checkID("node", n.GetId(), 16), checkLabel("node", n.GetName()), optional("replay id", n.GetReplayId(), 16),
		optional("key hash", n.GetKeyHash(), 32), optional("token id", n.GetTokenId(), 8))
	if err == nil && len(n.GetTokenId()) > 0 && len(n.GetKeyHash()) == 0 {
		return fmt.Errorf("node %q has a token but no key", n.GetName())
	}
	return err
}

// taken refuses what another node has.
func taken(o *overlay, n *statev1.Node) (refusal *statev1.Result, err error) {
	err = o.each(nodes, func(key string, payload []byte) (bool, error) {
		var other statev1.Node
		if err := proto.Unmarshal(payload, &other); err != nil {
			return false, fmt.Errorf("%w: node %x: %w", ErrCorrupt, key, err)
		}
		if key == string(n.GetId()) {
			return true, nil
		}
		same := func(a, b []byte) bool { return len(a) > 0 && bytes.Equal(a, b) }
		switch {
		case other.GetName() == n.GetName():
			refusal = refuse(statev1.Code_CODE_EXISTS, "node %q exists with id %x", n.GetName(), key)
		case same(other.GetReplayId(), n.GetReplayId()):
			refusal = refuse(statev1.Code_CODE_EXISTS, "node %q has the replay id %x", other.GetName(), n.GetReplayId())
		case same(other.GetKeyHash(), n.GetKeyHash()):
			refusal = refuse(statev1.Code_CODE_EXISTS, "node %q has that key", other.GetName())
		case same(other.GetTokenId(), n.GetTokenId()):
			refusal = refuse(statev1.Code_CODE_EXISTS, "token %x has let in node %q", n.GetTokenId(), other.GetName())
		}
		return refusal == nil, nil
	})
	return refusal, err
}

// updateNode keeps for n what does not change in a node's life; a node that tells news of itself leaves key and token out. News with
// a boot counter come from the node itself: it has run, so its join is over.
func updateNode(o *overlay, old, n *statev1.Node) (*statev1.Result, error) {
	if len(n.GetKeyHash()) == 0 && len(n.GetTokenId()) == 0 {
		n.KeyHash, n.TokenId = old.GetKeyHash(), old.GetTokenId()
	}
	n.NextKeyHash, n.RetiredKeys = old.GetNextKeyHash(), old.GetRetiredKeys()
	if !bytes.Equal(old.GetReplayId(), n.GetReplayId()) || !bytes.Equal(old.GetKeyHash(), n.GetKeyHash()) || !bytes.Equal(old.GetTokenId(), n.GetTokenId()) {
		return refuse(statev1.Code_CODE_EXISTS, "node %q with id %x has another replay id, key or token", old.GetName(), n.GetId()), nil
	}
	if old.GetBootCounter() == 0 && n.GetBootCounter() > 0 {
		return nil, closeToken(o, n.GetTokenId())
	}
	return nil, nil
}

// closeToken ends the use of a token, if there is one.
func closeToken(o *overlay, id []byte) error {
	var t statev1.Token
	found, err := o.load(tokens, string(id), &t)
	if err != nil || !found {
		return err
	}
	t.ClosedAt = max(o.st.now, 1)
	o.changed(KindToken, string(id))
	return o.save(tokens, string(id), &t)
}

// admitNode makes sure that a node with a token is let in by it now: the token may have been revoked, or taken away with the same node's
// removal, since the join used it.
func admitNode(o *overlay, n *statev1.Node) (*statev1.Result, error) {
	n.NextKeyHash, n.RetiredKeys = nil, nil
	if len(n.GetTokenId()) == 0 {
		return nil, nil
	}
	var t statev1.Token
	found, err := o.load(tokens, string(n.GetTokenId()), &t)
	if err != nil {
		return nil, err
	}
	if !found || t.GetClosedAt() != 0 || len(t.GetNodeId()) > 0 || !bytes.Equal(t.GetUsedBy(), n.GetKeyHash()) {
		return refuse(statev1.Code_CODE_TOKEN_REFUSED, "token %x does not let in node %q", n.GetTokenId(), n.GetName()), nil
	}
	return nil, nil
}

// deleteNode takes the token that let the node in away with it: a removed node does not come back by resuming its join. A master key that
// was staged while it was there is given up.
func deleteNode(o *overlay, c *statev1.DeleteNode) (*statev1.Result, error) {
	old := new(statev1.Node)
	r, err := remove(o, nodes, KindNode, string(c.GetId()), old, c.GetExpect())
	if err != nil || r.GetCode() != statev1.Code_CODE_OK {
		return r, err
	}
	if err := giveUpStaged(o); err != nil || len(old.GetTokenId()) == 0 {
		return r, err
	}
	token := string(old.GetTokenId())
	found, err := o.get(tokens, token)
	if err != nil || found == nil {
		return r, err
	}
	o.changed(KindToken, token)
	return r, o.remove(tokens, token)
}

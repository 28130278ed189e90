package node

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"slices"
	"time"

	"github.com/charon-kdc/charon/raftstore/peer"
	"github.com/charon-kdc/charon/raftstore/realm"
)

// errRemoved is why a node that was taken out of the cluster is not ready.
var errRemoved = errors.New("this node was removed from the cluster; to join again, move its data directory away and use charon join")

const (
	membershipEvery = 2 * time.Second
	aloneFor        = 5 * time.Second
	knockLimit      = time.Second
)

// watchMembership stops serving when this node was removed. Mostly the node sees its own record go; one that was away then, or that
// is started again afterwards, asks the others, who refuse its certificate.
func (s *server) watchMembership(ctx context.Context) {
	changed := make(chan struct{}, 1)
	s.store.DB().Subscribe(func(changes []realm.Change) {
		if slices.ContainsFunc(changes, func(c realm.Change) bool { return c.Kind == realm.KindNode || c.Kind == realm.KindEverything }) {
			select {
			case changed <- struct{}{}:
			default:
			}
		}
	})
	t := time.NewTicker(membershipEvery)
	defer t.Stop()
	was := s.recorded()
	alone := time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-changed:
		case <-t.C:
		}
		is := s.recorded()
		if was && !is {
			s.leave()
			return
		}
		was = was || is
		if _, ok := s.store.Leader(); ok {
			alone = time.Now()
		} else if time.Since(alone) > aloneFor && s.refusedByOthers(ctx) {
			s.leave()
			return
		}
	}
}

// recorded tells whether the realm state has this node.
func (s *server) recorded() bool {
	_, err := s.store.DB().Node(s.creds.Node[:])
	return err == nil
}

// leave stops answering clients and administrators, to whom this node could still give keys that are none of its business; the process stays,
// with its health page and its log.
func (s *server) leave() {
	s.gone.Do(func() {
		s.log.Error("removed: no more requests are answered", "reason", errRemoved)
		close(s.removed)
		s.health.note(errRemoved)
		notify("STATUS=removed from the cluster")
		s.api.SetServing(false)
		s.stopAnswering(context.Background())
	})
}

// refusedByOthers asks every other node of the state and tells whether more than half of them refuse this node's certificate.
// One that refuses has a configuration without this node; a partition makes nobody refuse.
func (s *server) refusedByOthers(ctx context.Context) bool {
	nodes, err := s.store.DB().Nodes()
	if err != nil {
		return false
	}
	others, refused := 0, 0
	for _, n := range nodes {
		if peer.NodeID(n.GetId()) == s.store.Self().ID {
			continue
		}
		others++
		if s.refusedBy(ctx, n.GetPeerAddress(), peer.NodeID(n.GetId())) {
			refused++
		}
	}
	return 2*refused > others
}

func (s *server) refusedBy(ctx context.Context, addr string, id peer.NodeID) bool {
	ctx, cancel := context.WithTimeout(ctx, knockLimit)
	defer cancel()
	identity := identityOf(s.creds)
	c, err := peer.Dial(ctx, peer.ALPNForward, addr, &identity, id)
	if err != nil {
		return isRefusal(err)
	}
	defer c.Close()
	// In TLS 1.3 the server's verdict on the client's certificate comes after the client's own handshake has ended.
	if err := c.SetDeadline(time.Now().Add(knockLimit / 2)); err != nil {
		return false
	}
	_, err = c.Read(make([]byte, 1))
	return isRefusal(err)
}

// isRefusal tells a certificate that was refused from a connection that was lost.
func isRefusal(err error) bool {
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "remote error" {
		if alert, ok := errors.AsType[tls.AlertError](op.Err); ok {
			const badCertificate = 42 // RFC 8446 section 6
			return alert == badCertificate
		}
		return op.Err != nil && op.Err.Error() == "tls: bad certificate"
	}
	return false
}

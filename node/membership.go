package node

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/charon-kdc/charon/adminapi"
	"github.com/charon-kdc/charon/node/join"
	"github.com/charon-kdc/charon/node/wallclock"
	"github.com/charon-kdc/charon/raftstore"
	"github.com/charon-kdc/charon/raftstore/peer"
	"github.com/charon-kdc/charon/raftstore/realm"
)

// errRemoved is why a node that was taken out of the cluster is not ready.
var errRemoved = errors.New("this node was removed from the cluster; to join again, move its data directory away and use charon join")

const (
	membershipEvery = 2 * time.Second
	aloneFor        = 5 * time.Second
	knockLimit      = time.Second
	unheardFor      = 3 * time.Second // a node that hears nobody after its start serves alone then
	awaitEvery      = 20 * time.Millisecond
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
			s.remember()
			s.leave()
			return
		}
		was = was || is
		if _, ok := s.store.Leader(); ok {
			alone = time.Now()
		} else if time.Since(alone) > aloneFor && s.refusedByOthers(ctx) {
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

// remember keeps a restart from serving.
func (s *server) remember() {
	if err := writeFile(filepath.Join(s.c.Dir, removedFile), []byte(errRemoved.Error()+"\n"), 0o600); err != nil {
		s.log.Error("remembering the removal", "error", err)
	}
}

// awaitMembers returns when clients may be answered after a start: another member has vouched for this node, a leader is heard, or for
// unheardFor nobody answered at all, since a power cut must not end the service on its only survivor. While another node refuses this one's
// certificate it does not return, unless more than half do: then the node leaves.
func (s *server) awaitMembers(ctx context.Context) {
	t := time.NewTicker(awaitEvery)
	defer t.Stop()
	for unheard := time.Now(); ctx.Err() == nil; {
		if _, led := s.store.Leader(); led || s.store.Vouched() {
			return
		}
		if time.Since(unheard) > unheardFor {
			others, refused := s.knock(ctx)
			if refused == 0 || s.judgeRefusals(ctx, others, refused) {
				return
			}
			unheard = time.Now()
		}
		select {
		case <-ctx.Done():
		case <-s.removed:
			return
		case <-t.C:
		}
	}
}

// refusedByOthers has this node leave if the others refuse its certificate, and tells whether it did.
func (s *server) refusedByOthers(ctx context.Context) (left bool) {
	others, refused := s.knock(ctx)
	return refused > 0 && s.judgeRefusals(ctx, others, refused)
}

// judgeRefusals: a certificate can be refused for reasons that pass, such as a wrong clock, so a member is asked whether this node was removed. Its
// word is remembered. Where none can tell, more than half that refuse are enough not to serve for now: they have a configuration without this node,
// and a partition makes nobody refuse.
func (s *server) judgeRefusals(ctx context.Context, others, refused int) (left bool) {
	removed, sure := s.askRemoved(ctx)
	switch {
	case removed:
		s.remember()
	case sure || 2*refused <= others:
		return false
	}
	s.leave()
	return true
}

// askRemoved asks one member after the other, until one can tell.
func (s *server) askRemoved(ctx context.Context) (removed, sure bool) {
	nodes, err := s.store.DB().Nodes()
	if err != nil {
		return false, false
	}
	self := s.store.Self().ID
	for _, n := range nodes {
		if peer.NodeID(n.GetId()) == self {
			continue
		}
		qctx, cancel := context.WithTimeout(ctx, knockLimit)
		removed, err := join.Removed(qctx, n.GetPeerAddress(), s.creds.authority, self, wallclock.Now())
		cancel()
		if err == nil {
			return removed, true
		}
	}
	return false, false
}

// knock asks every other node of the state at once and counts them, and those that refuse this node's certificate.
func (s *server) knock(ctx context.Context) (others, refused int) {
	nodes, err := s.store.DB().Nodes()
	if err != nil {
		return 0, 0
	}
	var wg sync.WaitGroup
	var no atomic.Int32
	for _, n := range nodes {
		if peer.NodeID(n.GetId()) == s.store.Self().ID {
			continue
		}
		others++
		wg.Go(func() {
			if s.refusedBy(ctx, n.GetPeerAddress(), peer.NodeID(n.GetId())) {
				no.Add(1)
			}
		})
	}
	wg.Wait()
	return others, int(no.Load())
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

// nodeRemoved audits that this node, the leader, removed a dead one by itself.
func (s *server) nodeRemoved(n raftstore.NodeRef, after time.Duration, err error) {
	e := adminapi.AuditEvent{Time: wallclock.Now(), Method: "auto-remove", Caller: "charon", Target: n.Name, Code: "OK", Reason: "SILENT for " + after.String()}
	if err == nil {
		s.metrics.removals.Inc()
	} else {
		e.Code, e.Reason = "UNKNOWN", e.Reason+"; "+err.Error()
	}
	if s.audit != nil {
		s.audit.Admin(e)
	}
}

package kdc

import (
	"context"
	"time"

	"github.com/charon-kdc/charon/kdc/kdb"
	"github.com/charon-kdc/charon/kdc/krb5"
)

const (
	// catchUpMax is how long a ticket under a key that this node has yet to hear of waits for it.
	catchUpMax = time.Second
	// catchUpsMax bounds how many wait at once: anybody can write a kvno into a ticket.
	catchUpsMax = 64
)

// catchUpTo returns when this node can judge a ticket by its kvno. A TGT under a newer kvno of the TGS than this node has was issued by a
// node that has applied more: its keys are on their way. Where they do not come in time the client is better off at another KDC.
func (s *Server) catchUpTo(ctx context.Context, q *request, t *krb5.Ticket) error {
	if to, tgs := t.SName.IsTGS(); !tgs || to != t.Realm || !t.EncPart.HasKVNO {
		return nil
	}
	p, _, err := s.lookUp(t.Realm, t.SName)
	if err != nil || !isLocalTGS(p) || len(p.Keys) == 0 || t.EncPart.KVNO <= p.Keys[0].KVNO {
		return nil // what is wrong here is said where the ticket is opened
	}
	if since := s.staleSince.Load(); since != nil && s.cfg.Elapsed().Sub(*since) > freshHoldMax {
		return kdb.ErrStale
	}
	select {
	case s.catchingUp <- struct{}{}:
		defer func() { <-s.catchingUp }()
	default:
		return kdb.ErrStale
	}
	ctx, cancel := context.WithTimeout(ctx, catchUpMax)
	defer cancel()
	q.waits()
	return s.cfg.Store.CatchUp(ctx)
}

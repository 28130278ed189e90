package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc"

	adminv1 "github.com/charon-kdc/charon/proto/charon/admin/v1"
)

// failover kills the leader of three nodes with SIGKILL again and again, and measures each time how long it is from there to the next
// acknowledged admin write, asked of a node that lives. The nodes share all processors.
func (b *bench) failover(ctx context.Context) (f *failoverResult, err error) {
	var c *charon
	for _, s := range b.systems {
		if s.name() == charonThree {
			c = s.(*charon)
		}
	}
	if c == nil {
		return nil, nil // not asked for
	}
	c.pin = pinning{}
	if err := c.start(ctx); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, c.stop()) }()
	f = &failoverResult{}
	for kill := range b.o.kills {
		took, err := c.failOnce(ctx, kill)
		if err != nil {
			return nil, fmt.Errorf("kill %d: %w", kill+1, err)
		}
		f.MS = append(f.MS, float64(took.Microseconds())/1e3)
		fmt.Fprintf(b.progress, "leader killed  %2d of %d   next write acknowledged after %.0f ms\n", kill+1, b.o.kills, float64(took.Microseconds())/1e3)
	}
	f.P50, f.P99 = quantile(f.MS, 0.5), quantile(f.MS, 0.99)
	return f, nil
}

// failOnce kills the leader, writes, and brings the node back.
func (c *charon) failOnce(ctx context.Context, kill int) (time.Duration, error) {
	leader := c.leader()
	if leader == nil {
		return 0, errors.New("nobody leads")
	}
	var survivor *charonNode
	for _, n := range c.nodes {
		if n != leader {
			survivor = n
		}
	}
	var took time.Duration
	err := survivor.admin(func(conn *grpc.ClientConn) error {
		api := adminv1.NewPrincipalsClient(conn)
		if err := write(ctx, api, fmt.Sprintf("before-%d-%d", kill, time.Now().UnixNano())); err != nil { // the connection is up
			return err
		}
		leader.p.kill()
		began := time.Now()
		err := write(ctx, api, fmt.Sprintf("after-%d-%d", kill, began.UnixNano()))
		took = time.Since(began)
		return err
	})
	if err != nil {
		return 0, err
	}
	if err := c.startNode(leader); err != nil {
		return 0, err
	}
	return took, c.ready(ctx)
}

// write adds a principal, again and again under one request id, as an administrator's client does.
func write(ctx context.Context, api adminv1.PrincipalsClient, name string) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	id := newRequestID()
	for {
		try, done := context.WithTimeout(ctx, 5*time.Second)
		_, err := api.CreatePrincipal(try, &adminv1.CreatePrincipalRequest{RequestId: id, Name: name, Keys: &adminv1.NewKeys{Source: &adminv1.NewKeys_Random{Random: true}}})
		done()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("no write was acknowledged within %v: %w", patience, err)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

package raftstore

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/charon-kdc/charon/raftstore/replay"
)

// BeginEpoch commits a new replay epoch: every node refuses authenticators whose time is not after notBefore, since they may have been accepted
// before the cache lost track (RFC 4120 section 3.2.3). EpochAfter tells notBefore. It waits for this node to lead the replay group: for a cluster
// of one, or the leader. An epoch that ends before the present one changes nothing.
func (s *Store) BeginEpoch(ctx context.Context, notBefore time.Time) error {
	if err := s.waitReady(ctx, s.replay); err != nil {
		return fmt.Errorf("beginning a replay epoch: %w", err)
	}
	e := replay.Epoch{NotBefore: notBefore.UnixMilli()}
	if _, err := io.ReadFull(s.cfg.Rand, e.ID[:]); err != nil {
		return fmt.Errorf("beginning a replay epoch: %w", err)
	}
	data, err := replay.EncodeEpoch(s.replayStamp(), e)
	if err == nil {
		_, _, err = s.commit.apply(ctx, data)
	}
	if err != nil {
		return fmt.Errorf("beginning a replay epoch: %w", err)
	}
	s.cfg.Logger.Warn("a replay epoch has begun: no service tickets by older authenticators", "until", notBefore.UTC().Format(time.RFC3339))
	return nil
}

// EpochAfter is up to which time authenticators must be refused after track of them was lost at that time: no node has accepted one that was
// more than skew ahead of its clock, and Slack covers clocks that differ.
func EpochAfter(lost time.Time, skew time.Duration) time.Time { return lost.Add(skew + replay.Slack) }

// Epoch is up to when authenticators are refused here because the replay cache lost track once; zero if it never did.
func (s *Store) Epoch() time.Time {
	if e := s.state.Epoch(); e.NotBefore > 0 {
		return time.UnixMilli(e.NotBefore)
	}
	return time.Time{}
}

// ClockSkewMax is the largest clock skew that any node of the cluster may allow, as this node knows it.
func (s *Store) ClockSkewMax() time.Duration { return s.state.Skew() }

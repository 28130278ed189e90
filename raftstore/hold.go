package raftstore

import (
	"context"
	"time"

	"github.com/charon-kdc/charon/raftstore/peer"
	"github.com/charon-kdc/charon/raftstore/replay"
)

// holdLookEvery bounds how often the replay leader looks who is away.
const holdLookEvery = time.Second

// hold is the replay leader's view of who may bring a journal (DESIGN.md, "Without a quorum"): while a member is away, the log keeps what it would
// forget, for it may be serving alone. It holds Timing.Away after the member's last frame, well before anything of that time is
// forgotten, and releases Timing.Release after all were back and the last journal came.
type hold struct {
	since   time.Time // of this term
	looked  time.Time
	missing time.Time // when somebody was last away
	journal time.Time // when one last came
}

// note is called for each frame of another node.
func (c *committer) note(id peer.NodeID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.heard[id] = time.Now()
}

// away tells whether a member has sent nothing for too long. Members bound the map.
func (c *committer) away(now time.Time) bool {
	others := c.s.members.others()
	c.mu.Lock()
	defer c.mu.Unlock()
	known := make(map[peer.NodeID]time.Time, len(others))
	away := false
	for _, id := range others {
		known[id] = c.heard[id]
		last := known[id]
		if last.Before(c.hold.since) {
			last = c.hold.since
		}
		away = away || now.Sub(last) > c.s.cfg.Timing.Away
	}
	c.heard = known
	return away
}

// holdOrRelease commits what the state of the members asks for. After an error the next round tries again.
func (c *committer) holdOrRelease(ctx context.Context) {
	now := time.Now()
	if now.Sub(c.hold.looked) < min(holdLookEvery, c.s.cfg.Timing.Away/4) || c.s.level() < replay.MergeLevel {
		return
	}
	c.hold.looked = now
	away, holding := c.away(now), c.s.state.Holding()
	if away {
		c.hold.missing = now
	}
	quiet := func(t time.Time) bool { return now.Sub(t) > c.s.cfg.Timing.Release }
	switch {
	case away == holding:
		return
	case holding && !(quiet(c.hold.since) && quiet(c.hold.missing) && quiet(c.hold.journal)):
		return
	}
	if _, _, err := c.apply(ctx, replay.EncodeHold(c.s.replayStamp(), away)); err != nil {
		if ctx.Err() == nil {
			c.s.cfg.Logger.Warn("keeping what journals must meet", "on", away, "err", err)
		}
		return
	}
	if away {
		c.s.cfg.Logger.Info("a member is away: what was accepted is kept until it has handed in what it accepted alone")
	}
}

package raftstore

import (
	"context"
	"fmt"
	"slices"
	"strings"

	peerv1 "github.com/charon-kdc/charon/proto/charon/peer/v1"
	statev1 "github.com/charon-kdc/charon/proto/charon/state/v1"
	"github.com/charon-kdc/charon/raftstore/peer"
	"github.com/charon-kdc/charon/raftstore/realm"
)

// LevelError says that a command can't be proposed at the cluster's feature level, or that the level can't be raised yet. Nothing was done.
type LevelError struct {
	// Needs is what the command needs, or the level to be; Level the cluster's.
	Needs, Level uint32
	// Behind are the names of the nodes that support less than Needs; Supports what they support.
	Behind   []string
	Supports []uint32
	// Silent are the names of nodes that did not say what they support, where all must say so.
	Silent []string
}

// Error says what stands in the way, and what to do.
func (e *LevelError) Error() string {
	var why []string
	for i, name := range e.Behind {
		why = append(why, fmt.Sprintf("node %s supports only %d: upgrade charon there", name, e.Supports[i]))
	}
	for _, name := range e.Silent {
		why = append(why, fmt.Sprintf("node %s does not answer: start it, or if it is gone for good: charon node remove %s", name, name))
	}
	switch {
	case e.Needs > e.Level+1:
		why = append(why, fmt.Sprintf("the cluster is at %d, and levels are raised one by one", e.Level))
	case len(why) == 0:
		why = append(why, "all nodes support it: run charon upgrade finalize")
	}
	return fmt.Sprintf("needs feature level %d; %s", e.Needs, strings.Join(why, "; "))
}

// level is the feature level of what may be proposed: the cluster's, or this node's own while it makes one.
func (s *Store) level() uint32 {
	if l := s.db.FeatureLevel(); l != 0 {
		return l
	}
	return s.db.FeatureLevelMax()
}

// checkLevel refuses a command that not every node could apply: the log would stop those that can't. Error: *NotAppliedError of a
// *LevelError.
func (s *Store) checkLevel(ctx context.Context, cmd *statev1.Command) error {
	level := s.level()
	e := &LevelError{Needs: realm.CommandLevel(cmd), Level: level}
	if e.Needs <= level {
		return nil
	}
	if _, raise := cmd.GetOp().(*statev1.Command_SetFeatureLevel); raise && e.Needs == level+1 {
		s.askLevels(ctx, e)
		if len(e.Behind)+len(e.Silent) == 0 {
			return nil
		}
		return &NotAppliedError{Err: e}
	}
	nodes, err := s.db.Nodes()
	if err != nil {
		return &NotAppliedError{Err: fmt.Errorf("reading what the nodes support: %w", err)}
	}
	for _, n := range nodes {
		e.note(n.GetName(), n.GetFeatureLevelMax())
	}
	return &NotAppliedError{Err: e}
}

func (e *LevelError) note(name string, supports uint32) {
	if supports < e.Needs {
		e.Behind, e.Supports = append(e.Behind, name), append(e.Supports, supports)
	}
}

// askLevels asks every node that has a record or is a server of the realm group, since any of them applies the log, now or when it is back.
func (s *Store) askLevels(ctx context.Context, e *LevelError) {
	e.note(s.cfg.Self.GetName(), s.db.FeatureLevelMax())
	answers := s.askAll(ctx)
	ids := s.members.others()
	nodes, err := s.db.Nodes()
	if err != nil {
		e.Silent = append(e.Silent, s.cfg.Self.GetName())
	}
	for _, n := range nodes {
		if id := toNodeID(n.GetId()); id != s.id && !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	slices.SortFunc(ids, func(a, b peer.NodeID) int { return strings.Compare(s.ref(a).Name, s.ref(b).Name) })
	for _, id := range ids {
		if info := answers[id]; info != nil {
			e.note(s.ref(id).Name, info.GetFeatureLevelMax())
		} else {
			e.Silent = append(e.Silent, s.ref(id).Name)
		}
	}
}

// judgeLevel refuses to start a node that could not apply what the others' log holds or will hold.
func (s *Store) judgeLevel(answers map[peer.NodeID]*peerv1.InfoResponse) error {
	for id, info := range answers {
		if l := info.GetFeatureLevel(); l > s.db.FeatureLevelMax() {
			return fmt.Errorf("%w: the cluster is at feature level %d, says node %s, which runs %s; this release supports up to %d: install the one that the other nodes run",
				realm.ErrTooNew, l, s.ref(id).Name, info.GetVersion(), s.db.FeatureLevelMax())
		}
	}
	return nil
}

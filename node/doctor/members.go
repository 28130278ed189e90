package doctor

import (
	"strings"
	"time"
)

// Members are the nodes as the asked one sees them.
type Members struct {
	Asked string
	// Leader of the realm group and of the replay group; "": none is known.
	Leader, ReplayLeader string
	Quorum               bool
	// Voters in both groups; Tolerates: how many nodes may fail from now on, negative without a quorum.
	Voters, Tolerates int
	// Doubles are the authenticators known to have been accepted in two requests, the last one found out at LastDouble.
	Doubles    uint64
	LastDouble time.Time
	Nodes      []Member
}

// Member is one node.
type Member struct {
	Name string
	// Votes in both groups.
	Votes     bool
	Reachable bool
	Lag       uint64 // entries behind the leader
	JoinedAt  time.Time
	Version   string
	// Silent is for how long nobody has heard of it, where that is known.
	Silent time.Duration
	// Journal is how many records of what it accepted alone it has yet to hand in.
	Journal int
}

const (
	// lagWarn entries is what a follower that keeps up never reaches.
	lagWarn = 1000
	// promotionWait is how long after its join a node is given to catch up and vote.
	promotionWait = 5 * time.Minute
)

func quorumLost(f *ClusterFacts) []Finding {
	m := f.Members
	switch {
	case m == nil:
		return nil
	case m.Quorum:
		return good("a majority of the voters answers; the leader is %s", m.Leader)
	}
	return fail("start the nodes that are down; if they are lost for good: docs/cluster.md, \"A lost quorum\"",
		"no quorum, says %s: changes are refused, and tickets are given as without_quorum says", m.Asked)
}

// quorumTolerance says what may fail next. An even number of voters costs a node and gives nothing: 2 lose service with either, 4 bear one as 3 do.
func quorumTolerance(f *ClusterFacts) []Finding {
	m := f.Members
	switch {
	case m == nil || !m.Quorum:
		return nil
	case m.Voters == 1:
		return warn("add two nodes: charon token create", "one voter: the realm is gone while this node is, and lost with its disk")
	case m.Voters == 2:
		return warn("add a node: charon token create", "two voters: either one's loss stops the realm; three bear the loss of any one")
	case m.Tolerates <= 0:
		return warn("bring back the nodes that are down, or replace them", "%d voters, and no further one may fail", m.Voters)
	case m.Voters%2 == 0:
		return warn("add a node: charon token create; or remove one: charon node remove", "%d voters bear no more losses than %d would", m.Voters, m.Voters-1)
	}
	return good("%d voters; %d more may fail", m.Voters, m.Tolerates)
}

func replayLeader(f *ClusterFacts) []Finding {
	m := f.Members
	switch {
	case m == nil:
		return nil
	case m.ReplayLeader == "" && m.Quorum:
		return fail("look for nodes that are down or not voting: charon status; their logs say why",
			"%s knows no leader of the replay group: service tickets wait, then are given as without_quorum says", m.Asked)
	case m.ReplayLeader == "":
		return nil // quorum.lost says it
	}
	return good("the replay group is led by %s", m.ReplayLeader)
}

func nodeDown(f *ClusterFacts) (out []Finding) {
	if f.Members == nil {
		return nil
	}
	for _, n := range f.Members.Nodes {
		if n.Reachable {
			out = append(out, on(n.Name, good("%s answers", n.Name))...)
			continue
		}
		since := ""
		if n.Silent > 0 {
			since = " for " + span(n.Silent)
		}
		out = append(out, on(n.Name, fail("start it: systemctl start charon on "+n.Name+"; gone for good: charon node remove "+n.Name,
			"%s has not answered %s%s", n.Name, f.Members.Asked, since))...)
	}
	return out
}

func nodeLag(f *ClusterFacts) (out []Finding) {
	if f.Members == nil {
		return nil
	}
	for _, n := range f.Members.Nodes {
		switch {
		case !n.Reachable:
		case n.Lag > lagWarn:
			out = append(out, on(n.Name, warn("its disk and its network: charon doctor shows disk.latency of "+n.Name, "%s is %d log entries behind the leader", n.Name, n.Lag))...)
		default:
			out = append(out, on(n.Name, good("%s keeps up", n.Name))...)
		}
	}
	return out
}

// nodePromotion is about nodes that joined and do not vote.
func nodePromotion(f *ClusterFacts) []Finding {
	if f.Members == nil {
		return nil
	}
	var waiting []string
	for _, n := range f.Members.Nodes {
		if !n.Votes && n.Reachable && !n.JoinedAt.IsZero() && f.Now.Sub(n.JoinedAt) > promotionWait {
			waiting = append(waiting, n.Name)
		}
	}
	if len(waiting) > 0 {
		names := strings.Join(waiting, ", ")
		return on(waiting[0], warn("see that it reaches the leader's peer port and keeps up (charon status); its log and the leader's say why",
			"%s joined more than %s ago and does not vote", names, span(promotionWait)))
	}
	return good("no node waits for its vote")
}

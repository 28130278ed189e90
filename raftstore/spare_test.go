package raftstore

import (
	"testing"

	"github.com/hashicorp/raft"
)

// A newcomer that votes in one group only makes the other one's loss no smaller: a realm of three nodes lost its replay group with
// one node, five seconds after it was told that it survives the loss of any one.
func TestSpareIsOfTheWeakerGroup(t *testing.T) {
	group := func(voters, nonvoters int) []raft.Server {
		var out []raft.Server
		for i := range voters + nonvoters {
			s := raft.Server{ID: raft.ServerID(rune('a' + i))}
			if i >= voters {
				s.Suffrage = raft.Nonvoter
			}
			out = append(out, s)
		}
		return out
	}
	for _, c := range []struct {
		name                    string
		voters, nonvoters, dead int
		want                    int
	}{
		{"one node", 1, 0, 0, 0},
		{"two nodes", 2, 0, 0, 0},
		{"two voters and a newcomer", 2, 1, 0, 0},
		{"three nodes", 3, 0, 0, 1},
		{"three nodes, one down", 3, 0, 1, 0},
		{"two voters of which one is down, and a newcomer", 2, 1, 1, -1},
		{"five nodes", 5, 0, 0, 2},
	} {
		dead := 0
		got := spare(group(c.voters, c.nonvoters), func(raft.Server) bool { dead++; return dead > c.dead })
		if got != c.want {
			t.Errorf("%s: %d can be lost, want %d", c.name, got, c.want)
		}
	}
}

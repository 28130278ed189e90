package doctor

import (
	"fmt"
	"strings"
	"time"
)

// doublesRecent is for how long a double acceptance is worth a warning.
const doublesRecent = 7 * 24 * time.Hour

// replayDoubles is about authenticators that two nodes accepted while they could not ask each other.
func replayDoubles(f *ClusterFacts) []Finding {
	m := f.Members
	switch {
	case m == nil:
		return nil
	case m.Doubles > 0 && f.Now.Sub(m.LastDouble) < doublesRecent:
		return warn("audit lines with status DOUBLE_ACCEPT name them: docs/quorum.md", "%d authenticators were accepted in two different requests, the last one found out %s ago",
			m.Doubles, span(f.Now.Sub(m.LastDouble)))
	}
	return good("no authenticator was accepted twice in the last %s", span(doublesRecent))
}

// replayJournal is about nodes that have yet to hand in what they accepted alone.
func replayJournal(f *ClusterFacts) []Finding {
	if f.Members == nil || !f.Members.Quorum {
		return nil
	}
	var waiting []string
	for _, n := range f.Members.Nodes {
		if n.Journal > 0 {
			waiting = append(waiting, fmt.Sprintf("%s (%d)", n.Name, n.Journal))
		}
	}
	if len(waiting) > 0 {
		return warn("nothing, if it was cut off until a moment ago; else its log says why", "records of what nodes accepted alone wait to be compared: %s", strings.Join(waiting, ", "))
	}
	return good("what nodes accepted alone has been compared")
}

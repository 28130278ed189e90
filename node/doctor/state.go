package doctor

import "time"

// States are the nodes' copies of the state, held against each other.
type States struct {
	// Diverged nodes by name, and why; Dispute: they differ and no majority tells who is right.
	Diverged map[string]string
	Dispute  string
}

// Reading is when a node's files were last read whole.
type Reading struct {
	Last  time.Time
	Every time.Duration
}

// stateAlike names the nodes whose state is not what a majority has.
func stateAlike(f *ClusterFacts) []Finding {
	s := f.States
	switch {
	case s == nil:
		return nil
	case s.Dispute != "":
		return fail("docs/integrity.md, \"No majority\"", "%s", s.Dispute)
	case len(s.Diverged) == 0:
		return good("the nodes' states are alike")
	}
	var out []Finding
	for name, why := range s.Diverged {
		out = append(out, on(name, fail("on "+name+": systemctl stop charon; charon server --rebuild", "%s serves no more: %s", name, why))...)
	}
	return out
}

// filesRead warns where the reading of all files has fallen behind.
func filesRead(f *NodeFacts) []Finding {
	r := f.Reading
	switch {
	case r == nil:
		return nil
	case f.Now.Sub(r.Last) > 2*r.Every+time.Hour:
		return warn("raise raft.scrub_rate", "%s has not read its state and logs whole for %s", nameOf(f), span(f.Now.Sub(r.Last)))
	}
	return good("state and logs were read whole %s ago", span(f.Now.Sub(r.Last)))
}

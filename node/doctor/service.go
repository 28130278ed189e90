package doctor

import "time"

// Process is the charon server of a data directory, as seen without it: only where the node did not answer itself.
type Process struct {
	Running bool
	PID     int
	// Answers: its admin socket took a call.
	Answers bool
	Dir     string
}

// Service is how a node serves.
type Service struct {
	Up       time.Duration
	Ready    bool
	Reason   string // why not
	Draining bool
	// ReplayState is ready, holding or cut-off. Degraded: it gives tickets without a quorum; empty: it does not.
	ReplayState, Degraded string
	// AuditLost lines since the start.
	AuditLost uint64
	// Dropped requests by reason since the start, and all requests.
	Dropped  map[string]uint64
	Requests uint64
}

func nodeProcess(f *NodeFacts) []Finding {
	p := f.Process
	switch {
	case p == nil:
		return nil
	case !p.Running:
		return fail("systemctl start charon, or: charon server; if it ends again: journalctl -u charon", "no charon server works on %s", p.Dir)
	case !p.Answers:
		return fail("its log says what it waits for; if it hangs: systemctl restart charon", "charon server (pid %d) works on %s and its admin socket does not answer", p.PID, p.Dir)
	}
	return good("charon server runs (pid %d)", p.PID)
}

func nodeReady(f *NodeFacts) []Finding {
	s := f.Service
	switch {
	case s == nil:
		return nil
	case s.Draining:
		return warn("it is being stopped; nothing, if you do that", "%s is draining", nameOf(f))
	case s.Degraded != "":
		return warn("bring the quorum back: charon status; docs/quorum.md", "%s serves without a quorum: %s", nameOf(f), s.Degraded)
	case !s.Ready:
		return fail("what it says; /readyz says when it is over", "%s is not ready: %s", nameOf(f), s.Reason)
	}
	return good("%s serves, up %s", nameOf(f), span(s.Up))
}

func auditLosses(f *NodeFacts) []Finding {
	s := f.Service
	switch {
	case s == nil:
		return nil
	case s.AuditLost > 0:
		return warn("a faster disk for the audit file, room on it, or a larger audit.queue; a restart resets the count", "%s has lost %d audit lines since its start %s ago", nameOf(f), s.AuditLost, span(s.Up))
	}
	return good("%s has lost no audit line", nameOf(f))
}

// droppedPart: one request in so many may be dropped unnoticed, as strangers' garbage is.
const droppedPart = 1000

func requestsDropped(f *NodeFacts) []Finding {
	s := f.Service
	if s == nil {
		return nil
	}
	var most string
	var sum uint64
	for reason, n := range s.Dropped {
		sum += n
		if most == "" || n > s.Dropped[most] || n == s.Dropped[most] && reason < most {
			most = reason
		}
	}
	if sum > s.Requests/droppedPart && sum > 100 {
		return warn("docs/overload.md; charon_kdc_dropped_total has the reasons", "%s has dropped %d of %d requests since its start %s ago, most for %s", nameOf(f), sum, s.Requests+sum, span(s.Up), most)
	}
	return good("%s has dropped %d of %d requests", nameOf(f), sum, s.Requests+sum)
}

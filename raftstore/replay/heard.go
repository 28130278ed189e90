package replay

// Count notes an attempt at a time in ms, beside the log: for a State that is one node's own view of what it has heard and may not apply
// yet, never for the one that the log builds. base is what the applied state says of the principal. Only Fresh was counted.
func (s *State) Count(at int64, a Attempt, base Activity) Verdict {
	s.mu.Lock()
	defer s.mu.Unlock()
	at = min(max(at, s.now), timeMax)
	s.advance(at)
	if known := s.counters.activity(a.Principal); known.Merge(base) != known {
		s.counters.set(a.Principal, known.Merge(base))
	}
	return s.applyAttempt(at, a)
}

// View is an empty State that judges as s does now: for what one node knows beside the log.
func (s *State) View() *State {
	s.mu.RLock()
	defer s.mu.RUnlock()
	v := New()
	v.skew, v.epoch = s.skew, s.epoch
	v.advance(s.now)
	return v
}

// Accept notes an authenticator at a time in ms, beside the log, as Count does an attempt.
func (s *State) Accept(at int64, p Proof) Verdict {
	s.mu.Lock()
	defer s.mu.Unlock()
	at = min(max(at, s.now), timeMax)
	s.advance(at)
	return s.applyProof(at, p)
}

// Judge is what the State says of an authenticator, without recording it. Fresh: not seen yet, as far as this State goes.
func (s *State) Judge(p Proof) Verdict {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if bucketOf(p.CTime) < s.low || s.epoch.voids(p.CTime) {
		return Stale
	}
	return s.lookup(bucketOf(p.CTime), p)
}

// Attempted is what the State says of a failed attempt's proof, without recording it. Fresh: not counted yet.
func (s *State) Attempted(p Proof) Verdict {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.seenNear(p)
}

// Merge is what two views of one principal come to, of which either may lack what the other has: the larger count, but none of the
// failures that were before a success in the other.
func (act Activity) Merge(o Activity) Activity {
	out := Activity{LastFailure: max(act.LastFailure, o.LastFailure), LastSuccess: max(act.LastSuccess, o.LastSuccess)}
	if act.LastFailure >= o.LastSuccess {
		out.Failures = act.Failures
	}
	if o.LastFailure >= act.LastSuccess {
		out.Failures = max(out.Failures, o.Failures)
	}
	return out
}

// set makes id's activity act, as the latest change.
func (c *counters) set(id [16]byte, act Activity) {
	slot := c.take(id)
	c.slab[slot].Activity = act
	c.link(slot)
}

package sim

import "time"

// quorumChange is a moment at which the simulation gave the nodes a quorum or took it away.
type quorumChange struct {
	at    time.Time
	has   bool
	clock bool // some clock is wrong
}

// quorumChanged notes whether some node is up and sees a majority. It is called with no lock held but the node's own.
func (w *world) quorumChanged() { w.goDo(w.cutChanged) }

func (w *world) cutChanged() {
	members := w.members()
	up := map[*node]bool{}
	wrong := false
	for _, n := range members {
		up[n] = n.process() != nil
		wrong = wrong || n.offset.Load() != 0
	}
	has := false
	for _, l := range members {
		if !up[l] {
			continue
		}
		sees := 1
		for _, o := range members {
			if o != l && up[o] && w.net.Open(l.ip, o.ip) && w.net.Open(o.ip, l.ip) {
				sees++
			}
		}
		has = has || 2*sees > len(members)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if n := len(w.quorum); n > 0 && w.quorum[n-1].has == has && w.quorum[n-1].clock == wrong {
		return
	}
	w.quorum = append(w.quorum, quorumChange{at: time.Now(), has: has, clock: wrong})
	if len(w.quorum) > 2000 {
		w.quorum = append(w.quorum[:0:0], w.quorum[1000:]...)
	}
}

func (w *world) clockChanged() { w.cutChanged() }

// hadQuorum tells whether there was a quorum all the time.
func (w *world) hadQuorum(from, to time.Time) bool {
	return w.during(from, to, func(c quorumChange) bool { return c.has })
}

// clockFault tells whether a clock was wrong at any time since.
func (w *world) clockFault(from time.Time) bool {
	return !w.during(from, time.Now(), func(c quorumChange) bool { return !c.clock })
}

// during tells whether ok held from one moment to another.
func (w *world) during(from, to time.Time, ok func(quorumChange) bool) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := len(w.quorum) - 1; i >= 0; i-- {
		c := w.quorum[i]
		if c.at.After(to) {
			continue
		}
		if !ok(c) {
			return false
		}
		if c.at.Before(from) {
			return true
		}
	}
	return true
}

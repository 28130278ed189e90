package node

import (
	"fmt"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/charon-kdc/charon/node/audit"
	"github.com/charon-kdc/charon/raftstore"
)

// clockLevels are the states of the clock guard, as labels.
var clockLevels = []string{raftstore.ClockOK, raftstore.ClockWarn, raftstore.ClockAlarm, raftstore.ClockOut}

func newClockState(r *prometheus.Registry) *prometheus.GaugeVec {
	v := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "charon_clock_state", Help: "1 for what follows from this node's clock: ok, warn (500 ms off), alarm (5 s), out (30 s: it has left service)."}, []string{"state"})
	r.MustRegister(v)
	setState(v, clockLevels, raftstore.ClockOK)
	return v
}

// setState marks the one state that holds.
func setState(v *prometheus.GaugeVec, all []string, now string) {
	for _, s := range all {
		n := 0.0
		if s == now {
			n = 1
		}
		v.WithLabelValues(s).Set(n)
	}
}

// watchClock has changes of what follows from this node's clock counted and audited.
func (s *server) watchClock(o *raftstore.Observer) {
	was := raftstore.ClockOK
	o.Clock = func(level string, off time.Duration) {
		setState(s.metrics.clock, clockLevels, level)
		if level != was {
			s.auditNode(audit.NodeEvent{Status: "CLOCK_" + strings.ToUpper(level), Reason: fmt.Sprintf("%v off the cluster's time", off)})
		}
		was = level
	}
}

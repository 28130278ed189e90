package node

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/charon-kdc/charon/kdc"
	"github.com/charon-kdc/charon/kdc/krb5"
	"github.com/charon-kdc/charon/node/audit"
	"github.com/charon-kdc/charon/node/wallclock"
	"github.com/charon-kdc/charon/raftstore"
)

// The values of kdc.without_quorum and kdc.replay.
const (
	withoutQuorumServe  = "serve"
	withoutQuorumRefuse = "refuse"
	replayStrict        = "strict"
	replayAsync         = "async"
)

// quorumMetrics are what a node shows of its service without the others.
type quorumMetrics struct {
	degraded prometheus.Gauge
	answers  *prometheus.CounterVec // type
	doubles  *prometheus.CounterVec // cause
	journal  *prometheus.CounterVec // result
}

func newQuorumMetrics(r *prometheus.Registry) *quorumMetrics {
	m := &quorumMetrics{
		degraded: prometheus.NewGauge(prometheus.GaugeOpts{Name: "charon_degraded", Help: "1 while this node is cut off from the others and serves from its own state."}),
		answers: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "charon_degraded_answers_total", Help: "Requests answered while cut off, by this node's own state."}, []string{"type"}),
		doubles: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "charon_replay_double_accepts_total",
			Help: "Authenticators that this node accepted and another node accepted in another request, found out afterwards, by the setting that allowed it."}, []string{"cause"}),
		journal: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "charon_replay_journal_total",
			Help: "What became of authenticators and attempts that were accepted and counted while cut off: merged, double, uncompared (nobody can tell any more), lost (the journal took no more)."},
			[]string{"result"}),
	}
	for _, t := range []string{"AS", "TGS"} {
		m.answers.WithLabelValues(t)
	}
	for _, cause := range []string{"cut-off", "async"} {
		m.doubles.WithLabelValues(cause)
	}
	for _, result := range []string{raftstore.JournalMerged, raftstore.JournalDouble, raftstore.JournalUncompared, raftstore.JournalLost} {
		m.journal.WithLabelValues(result)
	}
	r.MustRegister(m.degraded, m.answers, m.doubles, m.journal)
	return m
}

// observe counts one request. What was refused because the node can't know is no answer.
func (m *quorumMetrics) observe(e *kdc.Event) {
	if e.Degraded && !e.Dropped && e.Code != krb5.ErrSvcUnavailable {
		m.answers.WithLabelValues(e.Type).Inc()
	}
}

// watchQuorum has changes of service and what is found out afterwards counted and audited.
func (s *server) watchQuorum(o *raftstore.Observer) {
	o.Service = func(state, reason string) {
		n := 0.0
		if state == raftstore.ServiceDegraded {
			n = 1
		}
		s.metrics.quorum.degraded.Set(n)
		s.auditNode(audit.NodeEvent{Status: serviceStatus[state], Reason: reason})
	}
	o.DoubleAccept = func(d raftstore.DoubleAccept) {
		s.metrics.quorum.doubles.WithLabelValues(d.Cause).Inc()
		s.auditNode(audit.NodeEvent{Status: "DOUBLE_ACCEPT", Reason: d.Cause, Authenticator: d.Authenticator, AuthenticatorTime: d.Time})
	}
	o.Journal = func(result string, n int) {
		s.metrics.quorum.journal.WithLabelValues(result).Add(float64(n))
		if result == raftstore.JournalLost {
			s.auditNode(audit.NodeEvent{Status: "JOURNAL_LOST", Count: n})
		}
	}
}

// serviceStatus is the audit log's word for each.
var serviceStatus = map[string]string{
	raftstore.ServiceNormal: "HEALED", raftstore.ServiceDegraded: "DEGRADED", raftstore.ServiceRefusing: "REFUSING",
}

func (s *server) auditNode(e audit.NodeEvent) {
	if s.audit == nil {
		return
	}
	e.Time = wallclock.Now()
	s.audit.Node(e)
}

// degraded is what /readyz says of a node that serves without the others; empty: it does not.
func (s *server) degraded() string {
	if state, reason := s.store.Service(); state == raftstore.ServiceDegraded {
		return reason
	}
	return ""
}

// ridesOut tells whether this node, which holds TGS requests, is between leaders: it answers them when there is one again, or by itself when it
// turns out to be cut off.
func (s *server) ridesOut() bool {
	return s.c.KDC.WithoutQuorum == withoutQuorumServe && s.health.everReady() && s.store.Holding()
}

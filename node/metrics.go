package node

import (
	"math"
	"net/http"
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/charon-kdc/charon/kdc"
	"github.com/charon-kdc/charon/kdc/transport"
	"github.com/charon-kdc/charon/node/backup"
	"github.com/charon-kdc/charon/raftstore"
)

// metrics are what /metrics shows, by the names of the operator's manual. No label holds a principal's name, and every
// label has few values.
type metrics struct {
	registry *prometheus.Registry

	requests    *prometheus.CounterVec // type, transport, result
	seconds     *prometheus.HistogramVec
	tickets     *prometheus.CounterVec // type, etype
	preauth     *prometheus.CounterVec // reason
	replays     *prometheus.CounterVec // scope
	dropped     *prometheus.CounterVec // reason
	lockouts    prometheus.Counter
	diverged    prometheus.Gauge
	disputed    prometheus.Gauge
	commit      *prometheus.HistogramVec // group
	replayWait  prometheus.Histogram
	storeLogs   *prometheus.HistogramVec // group
	logBytes    *prometheus.CounterVec   // group
	replayState *prometheus.GaugeVec     // state
	leader      *prometheus.GaugeVec     // group
	clock       *prometheus.GaugeVec     // state
	backups     *prometheus.CounterVec   // result
	silence     *prometheus.GaugeVec     // node
	removals    prometheus.Counter
	quorum      *quorumMetrics
}

// gauges are read when somebody scrapes. Each answers at once, from memory.
type gauges struct {
	index       func(kind string) uint64 // applied, commit
	lastContact func() time.Duration
	principals  func() uint64
	backupAge   func() time.Duration // negative: there was never one
	krbtgtAt    func() time.Time     // zero: unknown
	masterKey   func() (active, rotating uint32)
	certExpiry  func() time.Time
	clockOffset func() time.Duration
	auditLost   func() uint64
	auditOut    func() uint64
	tcpConns    func() int
	waiting     func() int
	now         func() time.Time
}

// dropReasons are those of an overload.
var dropReasons = []string{
	transport.DropQueueFull, transport.DropLate, transport.DropInFlight, transport.DropPrefixRate, transport.DropConnLimit,
	"RATE_PRINCIPAL", "RATE_FAILURES", "RATE_UNKNOWN", "TOO_MANY_GUESSES", "replay_queue",
}

var fastBuckets = []float64{.0001, .00025, .0005, .001, .002, .004, .008, .016, .032, .064, .125, .25, .5, 1, 2, 4}

func newMetrics(version string) *metrics {
	m := &metrics{registry: prometheus.NewRegistry()}
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		v := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
		m.registry.MustRegister(v)
		return v
	}
	histogram := func(name, help string, labels ...string) *prometheus.HistogramVec {
		v := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help, Buckets: fastBuckets}, labels)
		m.registry.MustRegister(v)
		return v
	}
	m.requests = counter("charon_kdc_requests_total", "Requests, by what they ended in: ISSUE, the RFC's error, or none without a reply.", "type", "transport", "result")
	m.seconds = histogram("charon_kdc_request_seconds", "From the request's arrival to its reply.", "type")
	m.tickets = counter("charon_kdc_tickets_total", "Tickets issued, by the enctype of the ticket.", "type", "etype")
	m.preauth = counter("charon_kdc_preauth_failures_total", "Failed pre-authentication, by status.", "reason")
	m.replays = counter("charon_kdc_replays_total", "Proofs refused: cluster (seen in another request), node (seen here), stale (too old to tell).", "scope")
	m.dropped = counter("charon_kdc_dropped_total", "Requests and connections without a reply.", "reason")
	for _, reason := range dropReasons {
		m.dropped.WithLabelValues(reason) // so that an alert finds a zero before the first
	}
	m.commit = histogram("charon_raft_commit_seconds", "From submitting an entry to applying it, on the leader.", "group")
	m.storeLogs = histogram("charon_raft_log_write_seconds", "One durable write to a log.", "group")
	m.logBytes = counter("charon_raft_log_bytes_total", "Bytes written to a log.", "group")
	m.backups = counter("charon_backup_runs_total", "Scheduled backups of this node: written, checked (nothing new since the newest, which was read again) or failed.", "result")
	for _, result := range []string{backup.Written, backup.Checked, backup.Failed} {
		m.backups.WithLabelValues(result).Add(0)
	}
	m.replayState = prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "charon_replay_state", Help: "1 for the state of this node's way to the shared replay cache."}, []string{"state"})
	m.setReplayState("holding") // until the replicas are heard
	m.clock = newClockState(m.registry)
	m.leader = prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "charon_raft_leader", Help: "1 on the node that leads the group."}, []string{"group"})
	for _, group := range []string{"realm", "replay"} {
		m.leader.WithLabelValues(group).Set(0)
	}
	m.silence = prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "charon_node_silence_seconds", Help: "Since this node last heard of that one, or since it began to ask."}, []string{"node"})
	m.removals = prometheus.NewCounter(prometheus.CounterOpts{Name: "charon_nodes_removed_total", Help: "Dead nodes that this node, as leader, removed by itself."})
	m.registry.MustRegister(m.silence, m.removals)
	m.quorum = newQuorumMetrics(m.registry)
	m.diverged = prometheus.NewGauge(prometheus.GaugeOpts{Name: "charon_state_diverged", Help: "1 while this node's state differs from what a majority has: it serves no more until it is rebuilt."})
	m.disputed = prometheus.NewGauge(prometheus.GaugeOpts{Name: "charon_state_disputed", Help: "1 while the nodes' states differ and no majority has one alike."})
	m.lockouts = prometheus.NewCounter(prometheus.CounterOpts{Name: "charon_lockouts_total", Help: "AS requests refused because the client is locked out."})
	m.replayWait = prometheus.NewHistogram(prometheus.HistogramOpts{Name: "charon_replay_wait_seconds", Help: "From handing a proof to the shared replay cache to its verdict.", Buckets: fastBuckets})
	build := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "charon_build_info", Help: "1, labelled by what runs."}, []string{"version", "goversion"})
	build.WithLabelValues(version, runtime.Version()).Set(1)
	m.registry.MustRegister(m.lockouts, m.diverged, m.disputed, m.replayWait, m.replayState, m.leader, build,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// watch registers what is read on scrape. Called once, when the parts that g asks are there.
func (m *metrics) watch(g gauges) {
	gauge := func(name, help string, labels prometheus.Labels, f func() float64) {
		m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help, ConstLabels: labels}, f))
	}
	for _, kind := range []string{"applied", "commit"} {
		gauge("charon_raft_index", "Index of the realm's log.", prometheus.Labels{"kind": kind}, func() float64 { return float64(g.index(kind)) })
	}
	gauge("charon_raft_last_contact_seconds", "Since this node last heard of the realm's leader; -1 for never.", nil, func() float64 {
		if d := g.lastContact(); d >= 0 {
			return d.Seconds()
		}
		return -1
	})
	gauge("charon_principals", "Principals in the applied state.", prometheus.Labels{"state": "stored"}, func() float64 { return float64(g.principals()) })
	gauge("charon_krbtgt_age_seconds", "Since the default realm's krbtgt got new keys; -1 where that is not known.", nil, func() float64 {
		if at := g.krbtgtAt(); !at.IsZero() {
			return g.now().Sub(at).Seconds()
		}
		return -1
	})
	gauge("charon_master_key_version", "Version of the master key: the active one, and the one that a rotation is under way to (0: none).", prometheus.Labels{"state": "active"},
		func() float64 { active, _ := g.masterKey(); return float64(active) })
	gauge("charon_master_key_version", "Version of the master key: the active one, and the one that a rotation is under way to (0: none).", prometheus.Labels{"state": "rotating"},
		func() float64 { _, next := g.masterKey(); return float64(next) })
	gauge("charon_backup_age_seconds", "Since a backup was written, or found to hold the present state; +Inf while the cluster knows of none.", nil, func() float64 {
		if d := g.backupAge(); d >= 0 {
			return d.Seconds()
		}
		return math.Inf(1)
	})
	gauge("charon_cert_expiry_seconds", "Until this node's certificate expires.", nil, func() float64 { return g.certExpiry().Sub(g.now()).Seconds() })
	gauge("charon_clock_offset_seconds", "This node's clock against the median of all that answer.", nil, func() float64 { return g.clockOffset().Seconds() })
	gauge("charon_kdc_tcp_connections", "Open TCP connections of clients.", nil, func() float64 { return float64(g.tcpConns()) })
	gauge("charon_kdc_waiting", "Requests that wait for the processor.", nil, func() float64 { return float64(g.waiting()) })
	m.registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "charon_audit_dropped_total", Help: "Audit lines lost."},
		func() float64 { return float64(g.auditLost()) }))
	m.registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "charon_audit_thinned_total", Help: "Audit lines of ordinary refusals left out in a flood."},
		func() float64 { return float64(g.auditOut()) }))
}

func (m *metrics) handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4, Timeout: 10 * time.Second})
}

// lockedOut is MIT's status word for a client whose failures lock it.
const lockedOut = "LOCKED_OUT"

// observe counts one request.
func (m *metrics) observe(e *kdc.Event) {
	m.quorum.observe(e)
	result := "none"
	switch {
	case e.Dropped:
		m.dropped.WithLabelValues(e.Status).Inc()
	case e.Code != 0:
		result = e.Code.String()
	default:
		result = "ISSUE"
		m.tickets.WithLabelValues(e.Type, e.TicketEType.Short()).Inc()
	}
	m.requests.WithLabelValues(e.Type, e.Transport, result).Inc()
	m.seconds.WithLabelValues(e.Type).Observe(e.Duration.Seconds())
	switch e.Replay {
	case "repeat":
		m.replays.WithLabelValues("cluster").Inc()
	case "local":
		m.replays.WithLabelValues("node").Inc()
	case "stale":
		m.replays.WithLabelValues("stale").Inc()
	}
	if e.Type == "AS" && e.PreAuth != "" && e.Code != 0 {
		m.preauth.WithLabelValues(e.Status).Inc()
	}
	if e.Status == lockedOut {
		m.lockouts.Inc()
	}
}

// members notes the other nodes as this one sees them. Nodes come and go, so the old ones are dropped.
func (m *metrics) members(st raftstore.Status) {
	m.silence.Reset()
	for _, n := range st.Nodes {
		if n.ID != st.Self.ID {
			m.silence.WithLabelValues(n.Name).Set(n.Silence.Seconds())
		}
	}
}

// setReplayState marks the one state that holds.
func (m *metrics) setReplayState(s string) {
	for _, v := range []string{"ready", "holding", "cut-off"} {
		n := 0.0
		if v == s {
			n = 1
		}
		m.replayState.WithLabelValues(v).Set(n)
	}
}

// counts are the requests that were dropped, by reason, and those that were not, since the start.
func (m *metrics) counts() (dropped map[string]uint64, requests uint64) {
	families, err := m.registry.Gather()
	if err != nil {
		return nil, 0
	}
	dropped = map[string]uint64{}
	for _, f := range families {
		for _, v := range f.GetMetric() {
			switch f.GetName() {
			case "charon_kdc_dropped_total":
				if l := v.GetLabel(); len(l) == 1 {
					dropped[l[0].GetValue()] += uint64(v.GetCounter().GetValue())
				}
			case "charon_kdc_requests_total":
				requests += uint64(v.GetCounter().GetValue())
			}
		}
	}
	return dropped, requests
}

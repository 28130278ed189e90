package node

import (
	"log/slog"
	"net"
	"time"

	"github.com/charon-kdc/charon/kdc/kdb/masterkey"
	"github.com/charon-kdc/charon/node/wallclock"
	statev1 "github.com/charon-kdc/charon/proto/charon/state/v1"
	"github.com/charon-kdc/charon/raftstore"
)

// The timings for a LAN, which raft.performance multiplies.
const (
	heartbeat = 500 * time.Millisecond
	lease     = 250 * time.Millisecond
)

func (c *Config) storeConfig(creds *ownCert, ring *masterkey.Ring, ln net.Listener, self *statev1.Node, log *slog.Logger, o raftstore.Observer) raftstore.Config {
	factor := time.Duration(c.Raft.Performance)
	return raftstore.Config{
		Dir: c.raftPath(), Self: self, Listener: ln, Identity: identityOf(creds), Ring: ring,
		Timing: raftstore.Timing{
			Heartbeat: factor * heartbeat, Lease: factor * lease, PromoteAfter: c.Raft.PromoteAfter.Duration,
		},
		RefuseWithoutQuorum: c.KDC.WithoutQuorum == withoutQuorumRefuse, StaleLimit: c.KDC.StaleLimit.Duration, AsyncReplay: c.KDC.Replay == replayAsync,
		ScrubInterval: c.Raft.ScrubInterval.Duration, ScrubRate: c.Raft.ScrubRate << 20, Fatal: fatal,
		ClockSkew: c.KDC.ClockSkew.Duration, Now: wallclock.Now, Logger: log, Observe: o,
	}
}

// observer puts the store's measurements into metrics.
func (m *metrics) observer() raftstore.Observer {
	return raftstore.Observer{
		StoreLogs: func(group string, d time.Duration, _, bytes int) {
			m.storeLogs.WithLabelValues(group).Observe(d.Seconds())
			m.logBytes.WithLabelValues(group).Add(float64(bytes))
		},
		Commit:        func(group string, d time.Duration) { m.commit.WithLabelValues(group).Observe(d.Seconds()) },
		ReplayWait:    func(d time.Duration) { m.replayWait.Observe(d.Seconds()) },
		ReplayDropped: func() { m.dropped.WithLabelValues("replay_queue").Inc() },
		ReplayState:   m.setReplayState,
		Leadership: func(group string, leader bool) {
			n := 0.0
			if leader {
				n = 1
			}
			m.leader.WithLabelValues(group).Set(n)
		},
	}
}

// gauges are what a scrape reads.
func (s *server) gauges() gauges {
	return gauges{
		index: func(kind string) uint64 {
			if kind == "applied" {
				index, _ := s.store.DB().Applied()
				return index
			}
			_, st, _ := s.survey.own()
			return st.CommitIndex
		},
		lastContact: func() time.Duration {
			n, _, ok := s.survey.own()
			if !ok {
				return -1
			}
			return n.LastContact
		},
		backupAge:  s.backup.age,
		principals: func() uint64 { return s.store.DB().Counts().Principals },
		krbtgtAt:   s.krbtgtAt,
		masterKey: func() (active, rotating uint32) {
			cl, err := s.store.DB().Cluster()
			if err != nil {
				return 0, 0
			}
			return cl.GetMasterKeyVersion(), cl.GetMasterKeyRotation().GetVersion()
		},
		certExpiry:  s.creds.expires,
		clockOffset: func() time.Duration { off, _ := s.store.Clock(); return off },
		auditOut: func() uint64 {
			if s.audit == nil {
				return 0
			}
			return s.audit.Thinned()
		},
		auditLost: func() uint64 {
			if s.audit == nil {
				return 0
			}
			return s.audit.Lost()
		},
		tcpConns: s.kdc.Conns,
		waiting:  s.kdc.Waiting,
		now:      wallclock.Now,
	}
}

// Package node is one Charon node: its configuration, how it is made and joins, the order in which its parts start and stop,
// and its health.
//
// It is the one package that knows all the others, and nobody but cmd/charon imports it. It must not know Kerberos rules, the
// admin API's rules or Raft: it hands parts to each other.
package node

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"github.com/charon-kdc/charon/adminapi"
	"github.com/charon-kdc/charon/kdc"
	"github.com/charon-kdc/charon/kdc/kdb/masterkey"
	"github.com/charon-kdc/charon/kdc/transport"
	"github.com/charon-kdc/charon/node/audit"
	"github.com/charon-kdc/charon/node/join"
	"github.com/charon-kdc/charon/node/wallclock"
	adminv1 "github.com/charon-kdc/charon/proto/charon/admin/v1"
	peerv1 "github.com/charon-kdc/charon/proto/charon/peer/v1"
	"github.com/charon-kdc/charon/raftstore"
	"github.com/charon-kdc/charon/raftstore/peer"
)

// The shutdown's budget, 10 s in all: notice 0 to 5 s, handing over 2 s, requests in work 1.5 s, the rest.
const (
	shutdownBudget = 10 * time.Second
	transferBudget = 2 * time.Second
	inWorkBudget   = 1500 * time.Millisecond
	auditBudget    = time.Second
)

// RunOptions are what Run needs beside the configuration.
type RunOptions struct {
	Config  *Config
	Version string
	Logger  *slog.Logger
	// FeatureLevelMax holds the node back to a lower feature level than the release's. For tests of mixed clusters. 0: no.
	FeatureLevelMax uint32
	// Rebuild: before anything else the states of both groups are fetched from another node; RebuildFrom are the peer addresses to ask, empty for
	// those that this node has known last.
	Rebuild     bool
	RebuildFrom []string
	// Reopen asks for the audit file to be opened again (SIGHUP). May be nil.
	Reopen <-chan struct{}
}

// server is a node's parts while it runs.
type server struct {
	o     RunOptions
	c     *Config
	log   *slog.Logger
	creds *ownCert
	// certifier signs the other nodes' certificates while this node leads.
	certifier *certifier
	ring      *masterkey.Ring
	metrics   *metrics
	rates     *rates
	// latencies are of the logs.
	latencies *latencies
	begun     time.Time

	store  *raftstore.Store
	audit  *audit.Writer
	kdc    *transport.Server
	api    *adminapi.Service
	doors  *adminDoors
	health *health
	http   *http.Server
	httpLn net.Listener
	survey *survey
	prober *prober
	backup *backups

	removed chan struct{} // closed when this node was taken out of the cluster
	gone    sync.Once
	wg      sync.WaitGroup
	failed  chan error
}

// Run runs the node of a data directory until ctx ends, then drains: readiness off, leadership handed over, requests in work
// finished. It returns nil after an orderly end. Errors: ErrNoNode, *LockedError, a node that was removed from
// the cluster, or what failed.
func Run(ctx context.Context, o RunOptions) error {
	if err := checkNode(o.Config.Dir); err != nil {
		return err
	}
	lock, err := lockDir(o.Config.Dir)
	if err != nil {
		return err
	}
	defer lock.Close()
	s := &server{
		o: o, c: o.Config, log: o.Logger, metrics: newMetrics(o.Version), rates: newRates(), latencies: newLatencies(), begun: time.Now(),
		removed: make(chan struct{}), failed: make(chan error, 8),
	}
	if o.Rebuild {
		if err := s.rebuild(ctx); err != nil {
			return fmt.Errorf("rebuilding this node's state: %w", err)
		}
	}
	if err := s.open(); err != nil {
		return errors.Join(err, s.abandon())
	}
	if err := s.store.Start(ctx); err != nil {
		return errors.Join(fmt.Errorf("starting the replicated store: %w", err), s.abandon())
	}
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	s.serve(run)
	s.log.Info("serving", "node", s.creds.Name, "kdc", s.kdc.Addrs(), "admin", s.c.Admin.Address, "peer", s.c.Peer.Address, "http", s.c.HTTP.Address)
	notify(daemon.SdNotifyReady)
	err = s.wait(ctx)
	notify(daemon.SdNotifyStopping)
	end, ended := context.WithTimeout(context.WithoutCancel(ctx), shutdownBudget)
	defer ended()
	s.drain(end, err != nil)
	cancel()
	err = errors.Join(err, s.close(end))
	return errors.Join(err, inTime(end, "the node's background work", func() error { s.wg.Wait(); return nil }))
}

// inTime is f's error, or one that says that f did not end before ctx; f then goes on until the process ends.
func inTime(ctx context.Context, what string, f func() error) error {
	done := make(chan error, 1)
	go func() { done <- f() }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("%s did not end in time: %w", what, ctx.Err())
	}
}

// abandon closes what was opened before a start failed, within the shutdown's budget.
func (s *server) abandon() error {
	ctx, cancel := context.WithTimeout(context.Background(), shutdownBudget)
	defer cancel()
	return s.close(ctx)
}

func notify(state string) {
	// Not under systemd is no error, and a broken notification socket is no reason to stop.
	_, _ = daemon.SdNotify(false, state)
}

// wait returns nil when it is time to stop, or what makes the node stop.
func (s *server) wait(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			s.log.Info("stopping")
			return nil
		case err := <-s.failed:
			return err
		case <-s.o.Reopen:
			if s.audit == nil {
				continue // audit.target is "none"
			}
			if err := s.audit.Reopen(); err != nil {
				s.log.Error("opening the audit file again; the old one stays in use", "error", err)
			}
		}
	}
}

// open makes every part and binds every port, so that what can fail at start fails before anything is served.
func (s *server) open() error {
	var err error
	if s.creds, err = loadCredentials(s.c.Dir, wallclock.Now()); err != nil {
		return err
	}
	mendCA(s.c.Dir, s.creds, s.log)
	if s.ring, err = masterkey.Load(s.c.MasterKeyPath()); err != nil {
		return err
	}
	if s.audit, err = s.c.openAudit(s.creds.Name, s.log); err != nil {
		return err
	}
	if err := s.openStore(); err != nil {
		return err
	}
	if err := s.openKDC(); err != nil {
		return err
	}
	if err := s.openAdmin(); err != nil {
		return err
	}
	return s.openHTTP()
}

// openAudit is nil when audit.target is "none".
func (c *Config) openAudit(node string, log *slog.Logger) (*audit.Writer, error) {
	a := audit.Config{Queue: c.Audit.Queue, Node: node, Logger: log}
	switch c.Audit.Target {
	case "stderr":
		a.Out = os.Stderr
	case "file":
		a.Path = c.AuditPath()
	default:
		return nil, nil
	}
	return audit.New(a)
}

func (s *server) openStore() error {
	self, err := s.c.selfRecord(s.creds.Name, s.o.Version)
	if err != nil {
		return err
	}
	ln, err := net.Listen("tcp", s.c.Peer.Address)
	if err != nil {
		return fmt.Errorf("opening the peer port (peer.address): %w", err)
	}
	observe := s.metrics.observer()
	measure := observe.StoreLogs
	observe.StoreLogs = func(group string, d time.Duration, entries, bytes int) {
		s.latencies.observe(group, d)
		measure(group, d, entries, bytes)
	}
	s.watchQuorum(&observe)
	s.watchClock(&observe)
	conf := s.c.storeConfig(s.creds, s.ring, ln, self, s.log, observe)
	conf.FeatureLevelMax = s.o.FeatureLevelMax
	conf.Keys = masterkey.NewFile(s.c.MasterKeyPath(), s.ring, s.c.masterKeyFixed())
	conf.Observe.NodeRemoved = s.nodeRemoved
	conf.Observe.StateDiverged, conf.Observe.StateDispute = s.strayed, s.disputed
	s.store, err = raftstore.Open(conf)
	if err != nil {
		return fmt.Errorf("opening the replicated store: %w", err)
	}
	if s.store.Diverged() != "" {
		s.metrics.diverged.Set(1)
	}
	if id := s.store.Self().ID; id != peer.NodeID(s.creds.Node) {
		return fmt.Errorf("the certificate in %s is for node %x, the state is node %v's: parts of two data directories are mixed", s.c.Dir, s.creds.Node, id)
	}
	return nil
}

func identityOf(creds *ownCert) peer.Identity {
	roots := x509.NewCertPool()
	roots.AddCert(creds.authority)
	return peer.Identity{
		ClusterID:   creds.Cluster,
		Certificate: func() (*tls.Certificate, error) { return creds.certificate(), nil },
		Roots:       func() *x509.CertPool { return roots },
	}
}

func (s *server) openKDC() error {
	addr, err := netip.ParseAddrPort(s.c.KDC.Addresses[0])
	if err != nil {
		return err
	}
	trusted, err := s.c.trusted()
	if err != nil {
		return err
	}
	answerer := kdc.New(kdc.Config{
		Store: s.store.KDB(), Proofs: s.store.Proofs(), Rand: rand.Reader,
		Now: s.store.RequestTime, StateNow: s.store.Now, Elapsed: time.Now,
		ClockSkew: s.c.KDC.ClockSkew.Duration, SkewNow: s.store.ClockSkew, Logger: s.log, Observe: s.observe, Nodes: s.store.Nodes,
		Limits: s.c.Limits.kdc(trusted),
	})
	s.prober = &prober{store: s.store.KDB(), addr: reachableHere(addr), now: wallclock.Now, realm: s.realm}
	s.kdc, err = transport.Listen(transport.Config{
		Addrs: s.c.KDC.Addresses,
		Handler: func(ctx context.Context, p transport.Packet) []byte {
			return answerer.Answer(ctx, kdc.Request{Data: p.Data, Peer: p.Peer, Local: p.Local, TCP: p.TCP, ReplyMax: p.ReplyMax, Received: p.Received, Waiting: p.Waiting})
		},
		Oversize:        answerer.Oversize,
		UDPReplyMax:     s.c.KDC.UDPReplyMax,
		Slow:            isTGS,
		ConnsMax:        s.c.KDC.TCPMax,
		ConnsPerAddrMax: s.c.KDC.TCPPerAddressMax,
		TrustedPrefixes: trusted,
		Prefixes:        s.c.Limits.prefixes(),
		PrefixRate:      perSecond(s.c.Limits.PerPrefix),
		QueueMax:        s.c.Limits.QueueMax,
		QueueWait:       s.c.Limits.QueueWait.Duration,
		IdleTimeout:     s.c.KDC.TCPIdle.Duration,
		Logger:          s.log,
		Dropped:         func(reason string) { s.metrics.dropped.WithLabelValues(reason).Inc() },
	})
	if err != nil {
		return fmt.Errorf("opening the KDC's port (kdc.addresses): %w", err)
	}
	return nil
}

// isTGS tells by its first octet whether a request may wait for the replicas: TGS-REQ is [APPLICATION 12] (RFC 4120 section 5.4.1).
func isTGS(b []byte) bool { return len(b) > 0 && b[0] == 0x6c }

func (s *server) realm() (string, error) {
	cl, err := s.store.DB().Cluster()
	if err != nil {
		return "", err
	}
	return cl.GetDefaultRealm(), nil
}

// observe is called once a request, from its goroutine.
func (s *server) observe(e *kdc.Event) {
	if s.prober.own(e.Peer) {
		return
	}
	s.metrics.observe(e)
	s.rates.observe(e)
	if provesSender(e) {
		s.kdc.Known(e.Peer.Addr())
	}
	if s.audit != nil {
		s.audit.Request(e)
	}
}

func (s *server) openAdmin() error {
	adv, err := s.c.advertised()
	if err != nil {
		return err
	}
	var auditAdmin func(adminapi.AuditEvent)
	if s.audit != nil {
		auditAdmin = s.audit.Admin
	}
	s.backup = s.newBackups()
	s.api, err = adminapi.New(adminapi.Config{
		Store: s.store, Reader: s.store.DB(), Sealer: s.ring, MasterKeys: s.store, Forwarder: s.store.Forward(), Activity: s.store.Proofs(), Backups: s.backup,
		IssueAdmin: s.issueAdmin,
		NodeName:   s.creds.Name, PeerAddress: adv, Version: s.o.Version, Stats: s.stats, Now: s.store.Now, Rand: rand.Reader,
		Logger: s.log, Audit: auditAdmin, OwnUID: uint32(os.Geteuid()), Doctor: &diagnosis{s}, Diverged: s.store.Diverged,
	})
	if err != nil {
		return err
	}
	s.api.Register(s.store.Forward().Server(), adminapi.DoorPeer)
	s.certifier = &certifier{store: s.store, ring: s.ring, life: s.c.Peer.CertificateLife.Duration, now: wallclock.Now, audit: auditAdmin}
	peerv1.RegisterCertificatesServer(s.store.Forward().Server(), s.certifier)
	s.doors, err = openAdminDoors(s.c, s.api, adminTLS(s.creds.certificate, s.creds.Cluster, s.store.DB(), wallclock.Now))
	return err
}

// stats is what charon status shows of this node.
func (s *server) stats() *adminv1.NodeStats {
	as, tgs, p99 := s.rates.read()
	return &adminv1.NodeStats{
		AsPerSecond: as, TgsPerSecond: tgs, P99Us: p99.Microseconds(), StartedAt: s.store.Now().Add(-time.Since(s.begun)).UnixMilli(),
		CertExpiresAt: s.creds.expires().UnixMilli(), Version: s.o.Version, BackupError: s.backup.problem(),
	}
}

func (s *server) openHTTP() error {
	ln, err := net.Listen("tcp", s.c.HTTP.Address)
	if err != nil {
		return fmt.Errorf("opening the health port (http.address): %w", err)
	}
	s.httpLn = evicting(ln, httpConnsMax, httpConnsPerAddress)
	s.survey = &survey{status: s.store.Status, log: s.log, seen: s.metrics.members}
	s.health = &health{
		failures: s.c.Ready.Failures, successes: s.c.Ready.Successes, probe: s.check, leader: s.store.IsLeader, voter: s.survey.voter, degraded: s.degraded, log: s.log,
		changed: func(ready bool, reason string) {
			s.api.SetServing(ready)
			if ready {
				notify("STATUS=ready")
			} else {
				notify("STATUS=not ready: " + reason)
			}
		},
	}
	s.metrics.watch(s.gauges())
	s.http = newHTTPServer(s.health.routes(s.metrics.handler()), s.log)
	return nil
}

// serve starts what runs in the background.
func (s *server) serve(ctx context.Context) {
	s.goDo("port 88", func() error {
		s.awaitMembers(ctx)
		if err := s.kdc.Serve(ctx); !errors.Is(err, transport.ErrClosed) {
			return err
		}
		return nil
	})
	for i, g := range s.doors.servers {
		s.goDo("admin API", func() error { return g.Serve(s.doors.listeners[i]) })
	}
	s.goDo("health port", func() error {
		if err := s.http.Serve(s.httpLn); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})
	j := &join.Server{Backend: &doorkeeper{store: s.store, ring: s.ring, life: s.c.Peer.CertificateLife.Duration, now: s.store.Now}, Logger: s.log}
	s.goDo("join service", func() error { return j.Serve(ctx, s.store.Mux().Listener(peer.ALPNJoin)) })
	if s.backup.schedule != nil {
		s.goDo("backups", func() error { s.backup.schedule.Run(ctx); return nil })
	}
	s.goDo("survey", func() error { s.survey.run(ctx); return nil })
	s.goDo("health", func() error { s.health.run(ctx); return nil })
	s.goDo("leader's duties", func() error { s.api.Tend(ctx); return nil })
	s.goDo("certificate", func() error { s.tendCertificate(ctx); return nil })
	s.goDo("membership", func() error { s.watchMembership(ctx); return nil })
}

// goDo runs f until it ends; an error of it ends the node.
func (s *server) goDo(what string, f func() error) {
	s.wg.Go(func() {
		if err := f(); err != nil {
			select {
			case s.failed <- fmt.Errorf("%s: %w", what, err):
			default:
			}
		}
	})
}

// check is what readiness rests on, once a second.
func (s *server) check(ctx context.Context) error {
	select {
	case <-s.removed:
		return errRemoved
	default:
	}
	as, tgs, reason := s.store.Ready()
	if !as || !tgs && !s.ridesOut() {
		return errors.New(reason)
	}
	if lag := s.survey.lag(); lag > uint64(s.c.Ready.LagMax) {
		return fmt.Errorf("%d entries behind the leader", lag)
	}
	return s.prober.probe(ctx)
}

// drain is the shutdown up to the store's own end; ctx bounds it. At once leaves out the notice to balancers.
func (s *server) drain(ctx context.Context, atOnce bool) {
	s.health.drain()
	s.api.SetServing(false)
	if !atOnce && s.c.Drain.Notice.Duration > 0 {
		time.Sleep(s.c.Drain.Notice.Duration)
	}
	transfer, cancel := context.WithTimeout(ctx, transferBudget)
	if err := s.store.HandOver(transfer); err != nil {
		s.log.Info("leadership was not handed over", "reason", err)
	}
	cancel()
	s.stopAnswering(ctx)
}

// stopAnswering ends port 88 and the admin API for good, after the requests in work or their budget.
func (s *server) stopAnswering(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, inWorkBudget)
	defer cancel()
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.kdc.Shutdown(ctx); err != nil {
			s.log.Info("requests in work were dropped", "reason", err)
		}
	})
	wg.Go(func() { s.doors.stop(ctx) })
	wg.Wait()
}

// close ends what open made, in the order that the store needs; it can be called after half of open.
// What has not ended when ctx does is left to the end of the process.
func (s *server) close(ctx context.Context) error {
	var errs []error
	if s.kdc != nil {
		now, cancel := context.WithCancel(ctx)
		cancel()
		_ = s.kdc.Shutdown(now) // drained before, or never served
	}
	if s.doors != nil {
		for i, g := range s.doors.servers {
			g.Stop()
			_ = s.doors.listeners[i].Close()
		}
	}
	if s.store != nil {
		transfer, cancel := context.WithTimeout(ctx, transferBudget)
		errs = append(errs, inTime(ctx, "the replicated store", func() error { return s.store.Shutdown(transfer) }))
		cancel()
	}
	if s.http != nil {
		errs = append(errs, s.http.Close())
	}
	if s.httpLn != nil {
		_ = s.httpLn.Close()
	}
	if s.prober != nil {
		s.prober.close()
	}
	if s.audit != nil {
		if err := s.audit.Close(auditBudget); err != nil {
			s.log.Error("closing the audit file", "error", err)
		}
	}
	return errors.Join(errs...)
}

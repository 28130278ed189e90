package node

import (
	"context"
	"crypto/x509"
	"time"

	"github.com/charon-kdc/charon/kdc/krb5/kcrypto"
	"github.com/charon-kdc/charon/node/doctor"
	"github.com/charon-kdc/charon/node/pki"
	adminv1 "github.com/charon-kdc/charon/proto/charon/admin/v1"
	statev1 "github.com/charon-kdc/charon/proto/charon/state/v1"
	"github.com/charon-kdc/charon/raftstore"
)

// diagnosis gathers what charon doctor's checks judge. It is adminapi.Doctor.
type diagnosis struct{ s *server }

// Node are the findings about this node.
func (d *diagnosis) Node(context.Context) []*adminv1.Finding {
	return findings(doctor.Node(d.s.nodeFacts(d.s.store.Now())))
}

// Cluster are those about all nodes, as this one sees them.
func (d *diagnosis) Cluster(_ context.Context, st raftstore.Status) []*adminv1.Finding {
	return findings(doctor.Cluster(d.s.clusterFacts(d.s.store.Now(), st)))
}

func findings(all []doctor.Finding) []*adminv1.Finding {
	out := make([]*adminv1.Finding, len(all))
	for i, f := range all {
		out[i] = &adminv1.Finding{Severity: adminv1.Severity(f.Severity), Check: f.Check, Node: f.Node, Text: f.Text, Fix: f.Fix}
	}
	return out
}

func (s *server) nodeFacts(now time.Time) *doctor.NodeFacts {
	f := hostFacts(s.c, now)
	f.Name = s.creds.Name
	for _, l := range s.store.Logs() {
		out := doctor.Log{Group: l.Group}
		out.P99, out.Longest = s.latencies.read(l.Group)
		if !l.Oldest.IsZero() {
			out.Reach = max(now.Sub(l.Oldest), time.Millisecond)
		}
		out.Install = l.Took
		f.Logs = append(f.Logs, out)
	}
	f.Service = s.serviceFacts()
	f.Clock = s.clockFacts()
	f.Reading = &doctor.Reading{Last: now.Add(-time.Since(s.store.Scrubbed())), Every: s.c.Raft.ScrubInterval.Duration}
	if s.backup.schedule != nil {
		f.Schedule = &doctor.Schedule{Dir: s.backup.schedule.Dir, Problem: s.backup.problem()}
	}
	return f
}

func (s *server) serviceFacts() *doctor.Service {
	h := s.health.read()
	out := &doctor.Service{Up: time.Since(s.begun), Ready: h.Ready, Reason: h.Reason, Draining: h.Draining}
	if n, _, ok := s.survey.own(); ok {
		out.ReplayState = n.ReplayState
	}
	out.Degraded = s.degraded()
	if s.audit != nil {
		out.AuditLost = s.audit.Lost()
	}
	out.Dropped, out.Requests = s.metrics.counts()
	return out
}

func (s *server) clockFacts() *doctor.Clock {
	out := &doctor.Clock{}
	var level string
	out.Offset, level = s.store.Clock()
	out.Out = level == raftstore.ClockOut
	if p := s.survey.last.Load(); p != nil {
		for _, n := range p.Nodes {
			if n.Reachable && n.ID != p.Self.ID {
				out.Others++
			}
		}
	}
	return out
}

func (s *server) clusterFacts(now time.Time, st raftstore.Status) *doctor.ClusterFacts {
	f := &doctor.ClusterFacts{Now: now, Members: memberFacts(st), States: stateFacts(st), Levels: &doctor.Levels{Cluster: st.FeatureLevel}}
	for _, n := range st.Nodes {
		f.Levels.Nodes = append(f.Levels.Nodes, doctor.NodeLevel{Name: n.Name, Version: n.Version, Supports: n.FeatureLevelMax})
	}
	db := s.store.DB()
	nodes, err := db.Nodes()
	if err == nil {
		for _, n := range nodes {
			for i := range f.Members.Nodes {
				if m := &f.Members.Nodes[i]; m.Name == n.GetName() && n.GetJoinedAt() > 0 {
					m.JoinedAt = time.UnixMilli(n.GetJoinedAt())
				}
			}
		}
	}
	cl, err := db.Cluster()
	if err != nil {
		return f
	}
	f.Realm = s.realmFacts(cl.GetDefaultRealm())
	f.Backup = backupFacts(cl, s.backup.changed.Load().index)
	f.MasterKey = masterKeyFacts(cl, st)
	return f
}

func masterKeyFacts(cl *statev1.Cluster, st raftstore.Status) *doctor.MasterKey {
	m := &doctor.MasterKey{Version: cl.GetMasterKeyVersion()}
	if rot := cl.GetMasterKeyRotation(); rot != nil {
		m.Rotating, m.Since = rot.GetVersion(), time.UnixMilli(rot.GetStartedAt())
	}
	for _, n := range st.Nodes {
		if n.Reachable && len(n.MasterKeys) > 0 { // a node of an older release does not say
			m.Holders = append(m.Holders, doctor.Holder{Name: n.Name, Versions: n.MasterKeys})
		}
	}
	return m
}

func memberFacts(st raftstore.Status) *doctor.Members {
	m := &doctor.Members{
		Asked: st.Self.Name, Leader: st.Leader.Name, ReplayLeader: st.ReplayLeader.Name, Quorum: st.Quorum, Voters: st.Voters, Tolerates: st.Tolerates,
		Doubles: st.Doubles, LastDouble: st.LastDouble,
	}
	for _, n := range st.Nodes {
		m.Nodes = append(m.Nodes, doctor.Member{
			Name: n.Name, Votes: n.Role == raftstore.RoleLeader || n.Role == raftstore.RoleFollower, Reachable: n.Reachable, Lag: n.Lag, Version: n.Version, Silent: n.Silence, Journal: n.Journal,
		})
	}
	return m
}

// principalsMax is up to how many principals a diagnosis looks at.
const principalsMax = 20_000

func (s *server) realmFacts(name string) *doctor.Realm {
	db := s.store.DB()
	r := &doctor.Realm{Name: name, Counted: db.Counts().Principals <= principalsMax}
	r.KrbtgtAt = s.krbtgtOf(name)
	if rec, err := db.Realm(name); err == nil && rec.GetKrbtgtRotation() > 0 {
		r.KrbtgtLife = time.Duration(rec.GetKrbtgtRotation()) * time.Second
	}
	for _, kind := range []pki.Kind{pki.Nodes, pki.Admins, pki.PKINIT} {
		sec, err := db.Secret(kind.SecretName())
		if err != nil {
			continue
		}
		if c, err := x509.ParseCertificate(sec.GetCertificate()); err == nil {
			r.Authorities = append(r.Authorities, doctor.Cert{Name: kind.SecretName(), From: c.NotBefore, To: c.NotAfter, Authority: true})
		}
	}
	for after := ""; r.Counted; {
		page, next, err := db.ListPrincipals(name, after, 1000)
		if err != nil {
			r.Counted = false
			break
		}
		for _, p := range page {
			if hasRC4(p) {
				r.RC4++
			}
		}
		if after = next; next == "" {
			break
		}
	}
	return r
}

// krbtgtOf is when a realm's krbtgt got its present keys; zero: unknown.
func (s *server) krbtgtOf(realm string) time.Time {
	p, err := s.store.DB().GetPrincipal(realm, []string{"krbtgt", realm})
	if err != nil || p.GetLastPasswordChange() == 0 {
		return time.Time{}
	}
	return time.UnixMilli(p.GetLastPasswordChange())
}

func (s *server) krbtgtAt() time.Time {
	name, err := s.realm()
	if err != nil {
		return time.Time{}
	}
	return s.krbtgtOf(name)
}

func hasRC4(p *statev1.Principal) bool {
	for _, k := range p.GetKeys() {
		if kcrypto.EType(k.GetEtype()) == kcrypto.RC4HMAC {
			return true
		}
	}
	return false
}

// backupFacts holds the newest backup that the cluster knows of against changed, the index of the last change to what a backup holds.
func backupFacts(cl *statev1.Cluster, changed uint64) *doctor.Backup {
	n := cl.GetLastBackup()
	b := &doctor.Backup{Made: time.UnixMilli(cl.GetCreatedAt()), Verified: n.GetVerified(), Node: n.GetNode(), Changed: changed > n.GetIndex()}
	if n.GetAt() > 0 {
		b.At = time.UnixMilli(max(n.GetAt(), n.GetCheckedAt()))
	}
	return b
}

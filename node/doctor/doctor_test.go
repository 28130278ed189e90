package doctor

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

var now = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

// worst is the one finding that a check has to make.
func worst(t *testing.T, check string, n *NodeFacts, c *ClusterFacts) Finding {
	t.Helper()
	var all []Finding
	if n != nil {
		n.Now = now
		all = Node(n)
	}
	if c != nil {
		c.Now = now
		all = append(all, Cluster(c)...)
	}
	Sort(all)
	for _, f := range all {
		if f.Check == check {
			return f
		}
	}
	return Finding{Severity: -1}
}

// Each case is one fact that differs from a sound cluster: it must be named by its check, with its node, and with a remedy.
func TestChecks(t *testing.T) {
	const none = Severity(-1)
	node := func(f func(*NodeFacts)) *NodeFacts { n := soundNode(); f(n); return n }
	cluster := func(f func(*ClusterFacts)) *ClusterFacts { c := soundCluster(); f(c); return c }
	for _, c := range []struct {
		check string
		node  *NodeFacts
		all   *ClusterFacts
		want  Severity
		text  string // part of it
	}{
		{"quorum.lost", nil, soundCluster(), OK, "kdc1"},
		{"quorum.lost", nil, cluster(func(c *ClusterFacts) { c.Members.Quorum = false }), Fail, "no quorum, says kdc1"},
		{"quorum.tolerance", nil, soundCluster(), OK, "1 more may fail"},
		{"quorum.tolerance", nil, cluster(func(c *ClusterFacts) { c.Members.Voters, c.Members.Tolerates = 1, 0 }), Warn, "one voter"},
		{"quorum.tolerance", nil, cluster(func(c *ClusterFacts) { c.Members.Voters, c.Members.Tolerates = 2, 0 }), Warn, "two voters"},
		{"quorum.tolerance", nil, cluster(func(c *ClusterFacts) { c.Members.Voters = 4 }), Warn, "than 3 would"},
		{"quorum.tolerance", nil, cluster(func(c *ClusterFacts) { c.Members.Tolerates = 0 }), Warn, "no further one"},
		{"quorum.tolerance", nil, cluster(func(c *ClusterFacts) { c.Members.Quorum = false }), none, ""},
		{"replay.leader", nil, soundCluster(), OK, "kdc2"},
		{"replay.leader", nil, cluster(func(c *ClusterFacts) { c.Members.ReplayLeader = "" }), Fail, "no leader of the replay group"},
		{"replay.doubles", nil, soundCluster(), OK, ""},
		{"replay.doubles", nil, cluster(func(c *ClusterFacts) { c.Members.Doubles, c.Members.LastDouble = 3, now.Add(-time.Hour) }), Warn, "3 authenticators"},
		{"replay.doubles", nil, cluster(func(c *ClusterFacts) { c.Members.Doubles, c.Members.LastDouble = 3, now.Add(-240*time.Hour) }), OK, ""},
		{"replay.journal", nil, soundCluster(), OK, ""},
		{"replay.journal", nil, cluster(func(c *ClusterFacts) { c.Members.Nodes[1].Journal = 12 }), Warn, "kdc2 (12)"},
		{"node.down", nil, soundCluster(), OK, "kdc1 answers"},
		{"node.down", nil, cluster(func(c *ClusterFacts) { c.Members.Nodes[1].Reachable, c.Members.Nodes[1].Silent = false, 3*time.Minute }), Fail, "kdc2 has not answered kdc1 for 3 min"},
		{"node.lag", nil, cluster(func(c *ClusterFacts) { c.Members.Nodes[2].Lag = 5000 }), Warn, "kdc3 is 5000 log entries behind"},
		{"node.promotion", nil, soundCluster(), OK, ""},
		{"node.promotion", nil, cluster(func(c *ClusterFacts) {
			c.Members.Nodes[2].Votes, c.Members.Nodes[2].JoinedAt = false, now.Add(-time.Hour)
		}), Warn, "kdc3 joined more than"},
		{"node.promotion", nil, cluster(func(c *ClusterFacts) {
			c.Members.Nodes[2].Votes, c.Members.Nodes[2].JoinedAt = false, now.Add(-time.Minute)
		}), OK, ""},
		{"level.versions", nil, soundCluster(), OK, "1.1.0"},
		{"level.versions", nil, cluster(func(c *ClusterFacts) { c.Levels.Nodes[2].Version = "1.0.0" }), Warn, "1.0.0 on kdc3; 1.1.0 on kdc1, kdc2"},
		{"level.finalize", nil, soundCluster(), OK, "feature level 2"},
		{"level.finalize", nil, cluster(func(c *ClusterFacts) { c.Levels.Cluster = 1 }), Warn, "all nodes support feature level 2, and the cluster is at 1"},
		{"level.finalize", nil, cluster(func(c *ClusterFacts) { c.Levels.Cluster, c.Levels.Nodes[0].Supports = 1, 1 }), OK, ""},

		{"node.process", soundNode(), nil, none, ""},
		{"node.process", node(func(n *NodeFacts) { n.Process = &Process{Dir: "/d"} }), nil, Fail, "no charon server works on /d"},
		{"node.process", node(func(n *NodeFacts) { n.Process = &Process{Running: true, PID: 7} }), nil, Fail, "does not answer"},
		{"node.state", soundNode(), nil, OK, ""},
		{"node.state", node(func(n *NodeFacts) { n.Files.Removed = "removed" }), nil, Fail, "kdc1 was removed"},
		{"node.state", node(func(n *NodeFacts) { n.Files.Diverged = "hash" }), nil, Fail, "kdc1 differs"},
		{"node.state", node(func(n *NodeFacts) { n.Files.Broken = "an id without its log" }), nil, Fail, "an id without its log"},
		{"node.state", node(func(n *NodeFacts) { n.Files.NoNode = true }), nil, Fail, "there is no node in /var/lib/charon"},
		{"node.state", node(func(n *NodeFacts) { n.Files.Partial = true }), nil, Fail, "not come to its end"},
		{"node.ready", soundNode(), nil, OK, ""},
		{"node.ready", node(func(n *NodeFacts) { n.Service.Ready, n.Service.Reason = false, "catching up" }), nil, Fail, "kdc1 is not ready: catching up"},
		{"node.ready", node(func(n *NodeFacts) { n.Service.Degraded = "since 12:00" }), nil, Warn, "without a quorum"},
		{"node.ready", node(func(n *NodeFacts) { n.Service.Draining = true }), nil, Warn, "draining"},
		{"clock.skew", soundNode(), nil, OK, ""},
		{"clock.skew", node(func(n *NodeFacts) { n.Clock.Offset = -210 * time.Millisecond }), nil, Warn, "kdc1 is 210 ms off the median; limit 500 ms"},
		{"clock.skew", node(func(n *NodeFacts) { n.Clock.Offset = 6 * time.Second }), nil, Fail, "6.0 s"},
		{"clock.skew", node(func(n *NodeFacts) { n.Clock.Others, n.Clock.Offset = 0, time.Hour }), nil, none, ""},
		{"cert.node", soundNode(), nil, OK, ""},
		{"cert.node", node(func(n *NodeFacts) { n.Certs.Node.To = now.Add(10 * 24 * time.Hour) }), nil, Warn, "kdc1's certificate expires in 10 d"},
		{"cert.node", node(func(n *NodeFacts) { n.Certs.Node.To = now.Add(-50 * time.Hour) }), nil, Fail, "expired 2 d ago"},
		{"cert.node", node(func(n *NodeFacts) { n.Certs.Node.From = now.Add(time.Hour) }), nil, Fail, "valid from"},
		{"cert.node", node(func(n *NodeFacts) { n.Certs.Err = "not PEM" }), nil, Fail, "not PEM"},
		{"cert.admin", node(func(n *NodeFacts) { n.Certs.Admins[0].To = now.Add(time.Hour) }), nil, Warn, "root.crt expires"},
		{"cert.authority", nil, cluster(func(c *ClusterFacts) { c.Realm.Authorities[0].To = now.Add(100 * 24 * time.Hour) }), Warn, "ca/node expires in 100 d"},
		{"disk.space", soundNode(), nil, OK, ""},
		{"disk.space", node(func(n *NodeFacts) { n.Disks[0].Free = 1 << 30 }), nil, Warn, "1.0 GB"},
		{"disk.space", node(func(n *NodeFacts) { n.Disks[0].Free = 100 << 20 }), nil, Fail, "100 MB"},
		{"disk.space", node(func(n *NodeFacts) { n.Disks[0].Inodes = 10 }), nil, Fail, "10 inodes"},
		{"disk.space", node(func(n *NodeFacts) { n.Disks[0].ReadOnly = true }), nil, Fail, "read-only"},
		{"disk.latency", soundNode(), nil, OK, ""},
		{"disk.latency", node(func(n *NodeFacts) { n.Logs[1].P99 = 70 * time.Millisecond }), nil, Warn, "replay log take 70 ms"},
		{"disk.latency", node(func(n *NodeFacts) { n.Logs[0].P99 = 2 * time.Second }), nil, Fail, "realm log take 2.0 s"},
		{"state.alike", nil, soundCluster(), OK, "alike"},
		{"state.alike", nil, cluster(func(c *ClusterFacts) { c.States.Diverged = map[string]string{"kdc3": "realm state at index 9 differs"} }), Fail, "kdc3 serves no more"},
		{"state.alike", nil, cluster(func(c *ClusterFacts) { c.States.Dispute = "the nodes' realm state at index 9 differs" }), Fail, "index 9"},
		{"files.read", soundNode(), nil, OK, "ago"},
		{"files.read", node(func(n *NodeFacts) { n.Reading.Last = now.Add(-72 * time.Hour) }), nil, Warn, "for 3 d"},
		{"log.reach", soundNode(), nil, OK, ""},
		{"log.reach", node(func(n *NodeFacts) { n.Logs[1].Reach, n.Logs[1].Install = time.Minute, 40*time.Second }), nil, Warn, "took 40 s, and the log reaches back 60 s"},
		{"files.directory", soundNode(), nil, OK, ""},
		{"files.directory", node(func(n *NodeFacts) { n.Files.Missing = true }), nil, Fail, "there is no data directory"},
		{"files.directory", node(func(n *NodeFacts) { n.Files.DirMode = 0o755 }), nil, Warn, "mode 0755"},
		{"files.directory", node(func(n *NodeFacts) { n.Files.Owner, n.Files.RunAs = 0, 990 }), nil, Fail, "belongs to uid 0"},
		{"files.master-key", soundNode(), nil, OK, ""},
		{"files.master-key", node(func(n *NodeFacts) { n.Files.KeyMode, n.Files.KeyErr = 0o640, "mode" }), nil, Fail, "mode 0640"},
		{"files.master-key", node(func(n *NodeFacts) { n.Files.KeyErr = "no such file" }), nil, Fail, "no such file"},
		{"files.socket", node(func(n *NodeFacts) { n.Files.SocketMode = 0o666 }), nil, Fail, "mode 0666"},
		{"audit.losses", soundNode(), nil, OK, ""},
		{"audit.losses", node(func(n *NodeFacts) { n.Service.AuditLost = 3 }), nil, Warn, "lost 3 audit lines"},
		{"requests.dropped", soundNode(), nil, OK, ""},
		{"requests.dropped", node(func(n *NodeFacts) { n.Service.Dropped = map[string]uint64{"replay_queue": 5000, "decode": 2} }), nil, Warn, "most for replay_queue"},
		{"keys.rc4", nil, soundCluster(), OK, ""},
		{"keys.rc4", nil, cluster(func(c *ClusterFacts) { c.Realm.RC4 = 2 }), Warn, "2 principals have RC4 keys"},
		{"keys.rc4", nil, cluster(func(c *ClusterFacts) { c.Realm.RC4, c.Realm.Counted = 2, false }), none, ""},
		{"keys.master", nil, soundCluster(), OK, "version 2"},
		{"keys.master", nil, cluster(func(c *ClusterFacts) { c.MasterKey.Holders[1].Versions = []uint32{1} }), Fail, "kdc2 lacks version 2"},
		{"keys.master", nil, cluster(func(c *ClusterFacts) { c.MasterKey.Rotating, c.MasterKey.Since = 3, now.Add(-time.Minute) }), OK, ""},
		{"keys.master", nil, cluster(func(c *ClusterFacts) {
			c.MasterKey.Rotating, c.MasterKey.Since = 3, now.Add(-26*time.Hour)
			c.MasterKey.Holders[0].Versions = []uint32{2, 3}
		}), Warn, "to version 3 is under way for 26 h; not seen to have it: kdc2"},
		{"keys.krbtgt", nil, soundCluster(), OK, ""},
		{"keys.krbtgt", nil, cluster(func(c *ClusterFacts) { c.Realm.KrbtgtAt = now.Add(-120 * 24 * time.Hour) }), Warn, "120 d old"},
		{"backup.schedule", node(func(n *NodeFacts) { n.Schedule = &Schedule{Dir: "/mnt/backup"} }), nil, OK, "kdc1 writes backups to /mnt/backup"},
		{"backup.schedule", node(func(n *NodeFacts) { n.Schedule = &Schedule{Dir: "/mnt/backup", Problem: "no space left on device"} }), nil, Fail, "kdc1 can't write its backups to /mnt/backup: no space left"},
		{"backup.schedule", soundNode(), nil, none, ""},
		{"backup.age", nil, soundCluster(), OK, ""},
		{"backup.age", nil, cluster(func(c *ClusterFacts) { c.Backup.At = time.Time{} }), Warn, "no backup"},
		{"backup.age", nil, cluster(func(c *ClusterFacts) { c.Backup.At, c.Backup.Made = time.Time{}, now.Add(-time.Hour) }), none, ""},
		{"backup.age", nil, cluster(func(c *ClusterFacts) { c.Backup.At = now.Add(-72 * time.Hour) }), Warn, "3 d old"},
		{"backup.age", nil, cluster(func(c *ClusterFacts) { c.Backup.At = now.Add(-15 * 24 * time.Hour) }), Fail, "15 d old"},
		{"backup.age", nil, cluster(func(c *ClusterFacts) { c.Backup.At, c.Backup.Changed = now.Add(-15*24*time.Hour), false }), OK, "nothing has changed"},
		{"backup.age", nil, cluster(func(c *ClusterFacts) { c.Backup.Verified = false }), Warn, "not verified"},
	} {
		f := worst(t, c.check, c.node, c.all)
		if f.Severity != c.want || !strings.Contains(f.Text, c.text) {
			t.Errorf("%s: %v %q; want %v with %q", c.check, f.Severity, f.Text, c.want, c.text)
		}
		if (f.Severity > OK) != (f.Fix != "") {
			t.Errorf("%s: %v %q has the remedy %q", c.check, f.Severity, f.Text, f.Fix)
		}
		if c.node != nil && c.want != none && f.Node != "kdc1" {
			t.Errorf("%s is about %q", c.check, f.Node)
		}
	}
}

// A node without a good certificate stays a member: it is certified anew, and need not be removed.
func TestNodeCertificateRemedy(t *testing.T) {
	expired, spoilt, nameless := soundNode(), soundNode(), soundNode()
	expired.Certs.Node.To = now.Add(-time.Hour)
	spoilt.Certs.Err = "not PEM"
	nameless.Name, nameless.Certs.Err = "", "not PEM"
	for f, name := range map[*NodeFacts]string{expired: "kdc1", spoilt: "kdc1", nameless: "NAME"} {
		got := worst(t, "cert.node", f, nil).Fix
		if !strings.Contains(got, "charon token create "+name+" --recertify") || !strings.Contains(got, "charon node recertify") || strings.Contains(got, "remove") {
			t.Errorf("the remedy: %q", got)
		}
	}
}

// What is sound gets no warning, and what is not known gets no finding at all.
func TestSoundAndUnknown(t *testing.T) {
	for _, f := range append(Node(soundNode()), Cluster(soundCluster())...) {
		if f.Severity != OK {
			t.Errorf("%+v", f)
		}
	}
	if got := append(Node(&NodeFacts{Now: now}), Cluster(&ClusterFacts{Now: now})...); len(got) > 0 {
		t.Error(got)
	}
}

func soundNode() *NodeFacts {
	year := now.Add(365 * 24 * time.Hour)
	cert := Cert{Name: "kdc1", From: now.Add(-time.Hour), To: year}
	return &NodeFacts{
		Name: "kdc1", Now: now,
		Files:   &Files{Dir: "/var/lib/charon", DirMode: 0o700, KeyMode: 0o600, KeyPath: "/var/lib/charon/master.key", Owner: 990, RunAs: 990, SocketMode: 0o600},
		Certs:   &Certs{Node: cert, Admins: []Cert{{Name: "root.crt", From: cert.From, To: year}}},
		Disks:   []Disk{{What: "data", Path: "/var/lib/charon", Free: 50 << 30, Total: 100 << 30, Inodes: 1 << 20, InodesTotal: 1 << 21}},
		Logs:    []Log{{Group: "realm", P99: 4 * time.Millisecond, Reach: time.Hour}, {Group: "replay", P99: 3 * time.Millisecond, Reach: time.Hour, Install: time.Second}},
		Service: &Service{Up: time.Hour, Ready: true, ReplayState: "ready", Requests: 1000, Dropped: map[string]uint64{"decode": 1}},
		Clock:   &Clock{Others: 2, Offset: time.Millisecond},
		Reading: &Reading{Last: now.Add(-time.Hour), Every: 24 * time.Hour},
	}
}

func soundCluster() *ClusterFacts {
	node := func(name string) Member {
		return Member{Name: name, Votes: true, Reachable: true, JoinedAt: now.Add(-240 * time.Hour)}
	}
	level := func(name string) NodeLevel { return NodeLevel{Name: name, Version: "1.1.0", Supports: 2} }
	return &ClusterFacts{
		Now: now,
		Members: &Members{Asked: "kdc1", Leader: "kdc1", ReplayLeader: "kdc2", Quorum: true, Voters: 3, Tolerates: 1,
			Nodes: []Member{node("kdc1"), node("kdc2"), node("kdc3")}},
		Levels: &Levels{Cluster: 2, Nodes: []NodeLevel{level("kdc1"), level("kdc2"), level("kdc3")}},
		Realm: &Realm{Name: "EXAMPLE.COM", Counted: true, KrbtgtAt: now.Add(-24 * time.Hour),
			Authorities: []Cert{{Name: "ca/node", From: now.Add(-time.Hour), To: now.Add(3650 * 24 * time.Hour)}}},
		States:    &States{},
		MasterKey: &MasterKey{Version: 2, Holders: []Holder{{"kdc1", []uint32{1, 2}}, {"kdc2", []uint32{2}}}},
		Backup:    &Backup{At: now.Add(-time.Hour), Verified: true, Node: "kdc1", Made: now.Add(-240 * time.Hour), Changed: true},
	}
}

// The page has a paragraph on each check, and on no other.
func TestPageIsComplete(t *testing.T) {
	page, err := os.ReadFile("../../docs/doctor.md")
	if err != nil {
		t.Fatal(err)
	}
	var have, want []string
	for _, m := range regexp.MustCompile("(?m)^### ([a-z0-9.-]+)$").FindAllStringSubmatch(string(page), -1) {
		have = append(have, m[1])
	}
	for _, c := range Checks {
		want = append(want, c.Name)
	}
	slices.Sort(have)
	slices.Sort(want)
	if !slices.Equal(have, want) {
		t.Errorf("docs/doctor.md has\n%q\nthe checks are\n%q", have, want)
	}
}

// Each check has a name of its own, and TestChecks has cases of each.
func TestTable(t *testing.T) {
	seen := map[string]bool{}
	for _, c := range Checks {
		if seen[c.Name] || !regexp.MustCompile(`^[a-z0-9]+\.[a-z0-9-]+$`).MatchString(c.Name) {
			t.Errorf("name %q", c.Name)
		}
		seen[c.Name] = true
		if c.Node != nil && c.Cluster != nil {
			t.Errorf("%s judges a node and the cluster", c.Name)
		}
	}
	all := []Finding{{Severity: OK, Check: "quorum.lost"}, {Severity: Fail, Check: "backup.age"}, {Severity: Warn, Check: "node.lag", Node: "b"}, {Severity: Warn, Check: "node.lag", Node: "a"}}
	Sort(all)
	if all[0].Severity != Fail || all[1].Node != "a" || all[2].Node != "b" || all[3].Severity != OK {
		t.Error(all)
	}
	if ok, warned, failed := Count(all); ok != 1 || warned != 2 || failed != 1 {
		t.Error(ok, warned, failed)
	}
}

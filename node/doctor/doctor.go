// Package doctor names what is wrong with a node or a cluster, and the remedy of each: charon doctor.
//
// It owns the checks: small pure functions over facts that somebody else has gathered, one file a topic. It must not know where facts come
// from: no files, clocks, connections or stores of its own.
package doctor

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// Severity of a finding.
type Severity int

const (
	OK   Severity = iota
	Warn          // it works, and won't for long, or not after the next fault
	Fail          // something that is promised does not hold now
)

// String is ok, WARN or FAIL.
func (s Severity) String() string {
	switch s {
	case OK:
		return "ok"
	case Warn:
		return "WARN"
	default:
		return "FAIL"
	}
}

// Finding is what a check says.
type Finding struct {
	Severity Severity
	Check    string // "clock.skew"; set by Node and Cluster
	Node     string // whom it is about; empty: the cluster
	Text     string // one line, which names the node where there is one
	Fix      string // what to do, a command where there is one; empty when OK
}

// NodeFacts are what one node knows of itself. A part that is nil is not known, and its checks say nothing.
type NodeFacts struct {
	Name string // "" where not even that is known
	Now  time.Time

	Files   *Files
	Certs   *Certs
	Disks   []Disk
	Logs    []Log
	Process *Process
	Service *Service
	Clock   *Clock

	Schedule *Schedule
	Reading  *Reading
}

// ClusterFacts are what the asked node knows of all.
type ClusterFacts struct {
	Now time.Time

	Members *Members
	Levels  *Levels
	Realm   *Realm
	Backup  *Backup
	// MasterKey is nil where it is not known.
	MasterKey *MasterKey
	States    *States
}

// Check is one entry of the table. It has one of the two functions, or none where the gathering itself finds it. No finding means that the check does not apply.
type Check struct {
	Name    string
	Node    func(*NodeFacts) []Finding
	Cluster func(*ClusterFacts) []Finding
}

// Checks are all there are, by topic. docs/doctor.md has a paragraph on each.
var Checks = []Check{
	{Name: "quorum.lost", Cluster: quorumLost},
	{Name: "quorum.tolerance", Cluster: quorumTolerance},
	{Name: "replay.leader", Cluster: replayLeader},
	{Name: "replay.doubles", Cluster: replayDoubles},
	{Name: "replay.journal", Cluster: replayJournal},
	{Name: "state.alike", Cluster: stateAlike},
	{Name: "node.down", Cluster: nodeDown},
	{Name: "node.lag", Cluster: nodeLag},
	{Name: "node.promotion", Cluster: nodePromotion},
	{Name: "node.process", Node: nodeProcess},
	{Name: "node.diagnosis"}, // by who gathers
	{Name: "node.state", Node: nodeState},
	{Name: "node.ready", Node: nodeReady},
	{Name: "level.versions", Cluster: levelVersions},
	{Name: "level.finalize", Cluster: levelFinalize},
	{Name: "clock.skew", Node: clockSkew},
	{Name: "cert.node", Node: certNode},
	{Name: "cert.admin", Node: certAdmin},
	{Name: "cert.authority", Cluster: certAuthority},
	{Name: "disk.space", Node: diskSpace},
	{Name: "disk.latency", Node: diskLatency},
	{Name: "log.reach", Node: logReach},
	{Name: "files.read", Node: filesRead},
	{Name: "files.directory", Node: filesDirectory},
	{Name: "files.master-key", Node: filesMasterKey},
	{Name: "files.socket", Node: filesSocket},
	{Name: "audit.losses", Node: auditLosses},
	{Name: "requests.dropped", Node: requestsDropped},
	{Name: "keys.rc4", Cluster: keysRC4},
	{Name: "keys.krbtgt", Cluster: keysKrbtgt},
	{Name: "keys.master", Cluster: keysMaster},
	{Name: "backup.age", Cluster: backupAge},
	{Name: "backup.schedule", Node: backupSchedule},
}

// Node runs the checks of one node.
func Node(f *NodeFacts) []Finding {
	var out []Finding
	for _, c := range Checks {
		if c.Node == nil {
			continue
		}
		for _, found := range c.Node(f) {
			found.Check, found.Node = c.Name, f.Name
			out = append(out, found)
		}
	}
	return out
}

// Cluster runs the checks of the cluster.
func Cluster(f *ClusterFacts) []Finding {
	var out []Finding
	for _, c := range Checks {
		if c.Cluster == nil {
			continue
		}
		for _, found := range c.Cluster(f) {
			found.Check = c.Name
			out = append(out, found)
		}
	}
	return out
}

// Sort puts the worst first, then the order of the table, then nodes by name.
func Sort(all []Finding) {
	place := map[string]int{}
	for i, c := range Checks {
		place[c.Name] = i
	}
	slices.SortStableFunc(all, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(b.Severity, a.Severity), cmp.Compare(place[a.Check], place[b.Check]), cmp.Compare(a.Node, b.Node))
	})
}

// Count is how many findings are ok, warnings and failures.
func Count(all []Finding) (ok, warn, fail int) {
	for _, f := range all {
		switch f.Severity {
		case OK:
			ok++
		case Warn:
			warn++
		default:
			fail++
		}
	}
	return ok, warn, fail
}

// The findings of a check.

func good(format string, args ...any) []Finding {
	return []Finding{{Severity: OK, Text: fmt.Sprintf(format, args...)}}
}

func warn(fix, format string, args ...any) []Finding {
	return []Finding{{Severity: Warn, Text: fmt.Sprintf(format, args...), Fix: fix}}
}

func fail(fix, format string, args ...any) []Finding {
	return []Finding{{Severity: Fail, Text: fmt.Sprintf(format, args...), Fix: fix}}
}

// on names the node that the findings are about.
func on(node string, all []Finding) []Finding {
	for i := range all {
		all[i].Node = node
	}
	return all
}

// span is a duration as people say it: its largest whole unit.
func span(d time.Duration) string {
	switch d = d.Abs(); {
	case d >= 48*time.Hour:
		return fmt.Sprintf("%d d", d/(24*time.Hour))
	case d >= 2*time.Hour:
		return fmt.Sprintf("%d h", d/time.Hour)
	case d >= 2*time.Minute:
		return fmt.Sprintf("%d min", d/time.Minute)
	case d >= 10*time.Second:
		return fmt.Sprintf("%d s", d/time.Second)
	case d >= time.Second:
		return fmt.Sprintf("%.1f s", d.Seconds())
	}
	return fmt.Sprintf("%d ms", d/time.Millisecond)
}

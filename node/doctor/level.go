package doctor

import (
	"fmt"
	"slices"
	"strings"
)

// Levels are what the nodes run and support.
type Levels struct {
	Cluster uint32 // its feature level
	Nodes   []NodeLevel
}

// NodeLevel is one node's.
type NodeLevel struct {
	Name, Version string
	Supports      uint32 // 0: unknown
}

func levelVersions(f *ClusterFacts) []Finding {
	if f.Levels == nil {
		return nil
	}
	by := map[string][]string{}
	for _, n := range f.Levels.Nodes {
		if n.Version != "" {
			by[n.Version] = append(by[n.Version], n.Name)
		}
	}
	var versions []string
	for v := range by {
		versions = append(versions, v)
	}
	slices.Sort(versions)
	if len(versions) < 2 {
		return good("all nodes run %s", strings.Join(versions, ""))
	}
	var parts []string
	for _, v := range versions {
		parts = append(parts, fmt.Sprintf("%s on %s", v, strings.Join(by[v], ", ")))
	}
	return warn("end the upgrade: charon upgrade plan", "mixed releases: %s", strings.Join(parts, "; "))
}

func levelFinalize(f *ClusterFacts) []Finding {
	l := f.Levels
	if l == nil || len(l.Nodes) == 0 {
		return nil
	}
	least := l.Nodes[0].Supports
	for _, n := range l.Nodes {
		least = min(least, n.Supports)
	}
	if least > l.Cluster {
		return warn("once you are sure not to go back: charon upgrade finalize", "all nodes support feature level %d, and the cluster is at %d: what is new is refused", least, l.Cluster)
	}
	return good("feature level %d", l.Cluster)
}

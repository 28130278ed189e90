package doctor

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// MasterKey is what the state says of the master key, and who holds which version of it.
type MasterKey struct {
	Version uint32 // active
	// Rotating is the version that a rotation is under way to, since Since; 0: none.
	Rotating uint32
	Since    time.Time
	Holders  []Holder
}

// Holder is a node that answered.
type Holder struct {
	Name     string
	Versions []uint32
}

// rotationLong is how long a rotation takes that is not waiting for a node: minutes for a million principals.
const rotationLong = time.Hour

func keysMaster(f *ClusterFacts) []Finding {
	m := f.MasterKey
	if m == nil {
		return nil
	}
	var out []Finding
	for _, h := range m.Holders {
		if !slices.Contains(h.Versions, m.Version) {
			out = append(out, on(h.Name, fail("put another node's master.key in place (mode 0600) and start "+h.Name+" again",
				"%s lacks version %d of the master key, which everything is sealed under: it serves nothing", h.Name, m.Version))...)
		}
	}
	switch {
	case len(out) > 0:
		return out
	case m.Rotating != 0 && f.Now.Sub(m.Since) > rotationLong:
		waiting := ""
		if lack := lacking(m); len(lack) > 0 {
			waiting = fmt.Sprintf("; not seen to have it: %s", strings.Join(lack, ", "))
		}
		return warn("charon master-key show names whom it waits for: start that node, or take it out with charon node remove",
			"a rotation of the master key to version %d is under way for %s%s", m.Rotating, span(f.Now.Sub(m.Since)), waiting)
	}
	return good("every node that answers has version %d of the master key", m.Version)
}

func lacking(m *MasterKey) (names []string) {
	for _, h := range m.Holders {
		if !slices.Contains(h.Versions, m.Rotating) {
			names = append(names, h.Name)
		}
	}
	return names
}

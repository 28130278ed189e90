package raftstore

import (
	"path/filepath"

	"github.com/charon-kdc/charon/raftstore/logstore"
)

// Compacted is a log file before and after, in bytes.
type Compacted struct {
	Path          string
	Before, After int64
}

// CompactLogs makes the files of both groups' logs as small as what is in them. The node of dir is stopped.
func CompactLogs(dir string) ([]Compacted, error) {
	var out []Compacted
	for _, g := range []string{realmGroup, replayGroup} {
		path := filepath.Join(dir, g, logFile)
		before, after, err := logstore.Compact(path)
		if err != nil {
			return out, err
		}
		out = append(out, Compacted{path, before, after})
	}
	return out, nil
}

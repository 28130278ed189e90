package raftstore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"

	"github.com/hashicorp/raft"

	"github.com/charon-kdc/charon/raftstore/logstore"
)

// installFile, in the replay group's directory, has the index of the last snapshot that a leader sent. Such a snapshot is ahead of the log,
// which it replaces; one that this node made itself never is. So the file tells, at the next start, a node that installed from a log that
// someone has taken away or put back.
const installFile = "installed"

// receivedSnapshots is the replay group's snapshot store, and keeps that file.
type receivedSnapshots struct {
	raft.SnapshotStore
	log  *logstore.Store
	dir  string
	disk Disk
	// begun: a leader begins to send one.
	begun func()
}

// Create notes a snapshot that the own log does not lead up to before there is anything of it.
func (r *receivedSnapshots) Create(version raft.SnapshotVersion, index, term uint64, conf raft.Configuration, confIndex uint64, trans raft.Transport) (raft.SnapshotSink, error) {
	var l raft.Log
	err := r.log.GetLog(index, &l)
	if err != nil && !errors.Is(err, raft.ErrLogNotFound) {
		return nil, err
	}
	if err != nil || l.Term != term {
		r.begun()
		if err := r.received(index); err != nil {
			return nil, err
		}
	}
	return r.SnapshotStore.Create(version, index, term, conf, confIndex, trans)
}

func (r *receivedSnapshots) received(index uint64) error {
	if err := r.disk.writeCount(filepath.Join(r.dir, installFile), index); err != nil {
		return fmt.Errorf("noting a snapshot that was sent: %w", err)
	}
	return nil
}

// readCount reads a file that writeCount wrote: 8 bytes, and their CRC-32C. 0 if there is none.
func readCount(path string) (uint64, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	if len(b) != 12 || crc32.Checksum(b[:8], castagnoli) != binary.LittleEndian.Uint32(b[8:]) {
		return 0, fmt.Errorf("%w: %s is corrupt", ErrBroken, path)
	}
	return binary.LittleEndian.Uint64(b), nil
}

func (d Disk) writeCount(path string, n uint64) error {
	b := binary.LittleEndian.AppendUint64(nil, n)
	return d.writeFile(path, binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli)))
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

package raftstore

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"github.com/charon-kdc/charon/raftstore/replay"
)

// framedSnapshots are the library's file snapshots, whose description (index, term, configuration) has no checksum of its own, and which
// are passed over without a word when it can't be read. So the state in each begins with a frame that repeats the description:
//
//	"charonSF", u32 format, u64 index, u64 term, u64 configuration index, u32 n, n bytes of configuration, u32 CRC-32C of all before it
//
// Open holds the two against each other and hands out what is behind the frame.
type framedSnapshots struct {
	*raft.FileSnapshotStore
	dir string // where the library has them
}

const (
	frameMagic   = "charonSF"
	frameFormat  = 1
	frameFixed   = 8 + 4 + 3*8 + 4
	frameConfMax = 1 << 20
)

func newFramedSnapshots(dir string, retain int, log hclog.Logger) (*framedSnapshots, error) {
	s, err := raft.NewFileSnapshotStoreWithLogger(dir, retain, log)
	if err != nil {
		return nil, err
	}
	return &framedSnapshots{s, filepath.Join(dir, "snapshots")}, nil
}

func frameOf(m *raft.SnapshotMeta) []byte {
	le := binary.LittleEndian
	conf := raft.EncodeConfiguration(m.Configuration)
	b := le.AppendUint32([]byte(frameMagic), frameFormat)
	for _, v := range []uint64{m.Index, m.Term, m.ConfigurationIndex} {
		b = le.AppendUint64(b, v)
	}
	b = append(le.AppendUint32(b, uint32(len(conf))), conf...)
	return le.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

func (f *framedSnapshots) Create(version raft.SnapshotVersion, index, term uint64, conf raft.Configuration, confIndex uint64, trans raft.Transport) (raft.SnapshotSink, error) {
	sink, err := f.FileSnapshotStore.Create(version, index, term, conf, confIndex, trans)
	if err != nil {
		return nil, err
	}
	frame := frameOf(&raft.SnapshotMeta{Index: index, Term: term, Configuration: conf, ConfigurationIndex: confIndex})
	if len(frame) > frameFixed+frameConfMax {
		return nil, errors.Join(fmt.Errorf("a configuration of %d bytes", len(frame)), sink.Cancel())
	}
	if _, err := sink.Write(frame); err != nil {
		return nil, errors.Join(err, sink.Cancel())
	}
	return sink, nil
}

func (f *framedSnapshots) Open(id string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	m, r, err := f.FileSnapshotStore.Open(id) // checks the state's own checksum
	if err != nil {
		return nil, nil, fmt.Errorf("%w: snapshot %s: %w", errSnapshotDamaged, id, err)
	}
	want := frameOf(m)
	got := make([]byte, len(want))
	if _, err := io.ReadFull(r, got); err != nil || !bytes.Equal(got, want) {
		return nil, nil, errors.Join(fmt.Errorf("%w: snapshot %s: what it says of itself is not what was written", errSnapshotDamaged, id), r.Close())
	}
	out := *m
	out.Size -= int64(len(want))
	return &out, r, nil
}

// errSnapshotDamaged says that the replay state's snapshot can't be used.
var errSnapshotDamaged = errors.New("damaged snapshot")

// readable tells whether the newest snapshot can be restored from.
func (f *framedSnapshots) readable() error {
	list, err := f.List()
	if err != nil || len(list) == 0 {
		return err
	}
	if err := restoreFrom(f, list[0].ID, replay.New()); err != nil {
		return fmt.Errorf("%w: %w", errSnapshotDamaged, err)
	}
	return nil
}

// verify reads every snapshot there is.
func (f *framedSnapshots) verify() error {
	entries, err := os.ReadDir(f.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !e.IsDir() || strings.HasSuffix(e.Name(), ".tmp") {
			continue
		}
		_, r, err := f.Open(e.Name())
		if err != nil {
			return err
		}
		if err := r.Close(); err != nil {
			return err
		}
	}
	return nil
}

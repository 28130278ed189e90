package realm

import (
	"bytes"
	"compress/gzip"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"go.etcd.io/bbolt"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	statev1 "github.com/charon-kdc/charon/proto/charon/state/v1"
)

var rewriteGolden = flag.Bool("rewrite-golden", false, "write golden files that are missing; one that is there is for ever")

// A golden directory is what a release of a feature level wrote: log.txt, one entry a line, results.txt and state.txt, what came of it,
// snapshot, the stream of that state, and state.db.gz, its file. Every later release must read them, and make the same of the log: messages
// of results stand in the state, too, so even their words are for ever. A node that differs from one of the other release leaves service.
const goldenDir = "testdata/golden"

func TestGolden(t *testing.T) {
	for level := uint32(1); level <= FeatureLevelMax; level++ {
		dir := filepath.Join(goldenDir, fmt.Sprint("level", level))
		if *rewriteGolden {
			makeGolden(t, dir, level)
		}
		t.Run(fmt.Sprint("level", level), func(t *testing.T) {
			// As a node that supports no more, and as one of this release.
			for most := level; most <= FeatureLevelMax; most++ {
				checkGolden(t, dir, most)
			}
			checkOperations(t, dir, level)
		})
	}
}

func readGolden(t *testing.T, dir, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func checkGolden(t *testing.T, dir string, most uint32) {
	opts := testOptions
	opts.FeatureLevelMax = most
	want := readGolden(t, dir, "state.txt")
	same := func(what, got string) {
		t.Helper()
		if got != want {
			t.Errorf("%s, up to level %d: %s", what, most, firstDifference(got, want))
		}
	}
	db := openAt(t, filepath.Join(t.TempDir(), "log.db"), opts)
	results, err := replayGolden(db, parseLog(t, readGolden(t, dir, "log.txt")))
	if err != nil {
		t.Fatalf("the log, up to level %d: %v", most, err)
	}
	if w := readGolden(t, dir, "results.txt"); results != w {
		t.Errorf("results: %s", firstDifference(results, w))
	}
	same("the log's state", dump(t, db))

	db = openAt(t, filepath.Join(t.TempDir(), "installed.db"), opts)
	if _, err := db.InstallSnapshot(strings.NewReader(readGolden(t, dir, "snapshot"))); err != nil {
		t.Fatalf("the snapshot, up to level %d: %v", most, err)
	}
	same("the snapshot's state", dump(t, db))

	path := filepath.Join(t.TempDir(), "state.db")
	z, err := gzip.NewReader(strings.NewReader(readGolden(t, dir, "state.db.gz")))
	if err != nil {
		t.Fatal(err)
	}
	file, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, file, 0o600); err != nil {
		t.Fatal(err)
	}
	same("the file's state", dump(t, openAt(t, path, opts)))
}

func openAt(t *testing.T, path string, opts Options) *DB {
	t.Helper()
	db, err := Open(path, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}

// checkOperations makes sure that the log has every operation that its level brought.
func checkOperations(t *testing.T, dir string, level uint32) {
	seen := map[protoreflect.FieldNumber]bool{}
	var note func(cmd *statev1.Command)
	note = func(cmd *statev1.Command) {
		m := cmd.ProtoReflect()
		seen[m.WhichOneof(m.Descriptor().Oneofs().ByName("op")).Number()] = true
		for _, c := range cmd.GetBatch().GetCommands() {
			note(c)
		}
	}
	for _, e := range parseLog(t, readGolden(t, dir, "log.txt")) {
		if e.Config != nil {
			continue
		}
		cmd, _, err := decodeEnvelope(e.Data, level)
		if err != nil {
			t.Fatal(err)
		}
		note(cmd)
	}
	ops := (&statev1.Command{}).ProtoReflect().Descriptor().Oneofs().ByName("op").Fields()
	for i := range ops.Len() {
		if op := ops.Get(i); known("Command", op.Number()) == level && !seen[op.Number()] {
			t.Errorf("%s has no %s: see goldenmake_test.go", dir, op.Name())
		}
	}
}

// replayGolden applies the entries one by one, and tells what came of each.
func replayGolden(db *DB, entries []Entry) (string, error) {
	var out strings.Builder
	for _, e := range entries {
		rs, _, err := db.ApplyBatch([]Entry{e})
		if err != nil {
			return "", err
		}
		fmt.Fprintf(&out, "%d %v revision=%d replayed=%v response=%q %s\n", e.Index, rs[0].GetCode(), rs[0].GetRevision(), rs[0].GetReplayed(), rs[0].GetResponse(), rs[0].GetMessage())
	}
	return out.String(), nil
}

// parseLog reads lines of index, term, "command" or "config", and hex.
func parseLog(t *testing.T, text string) (out []Entry) {
	t.Helper()
	for _, line := range strings.Split(strings.TrimSpace(text), "\n") {
		f := strings.Fields(line)
		if len(f) != 4 {
			t.Fatalf("log line %q", line)
		}
		index, err := strconv.ParseUint(f[0], 10, 64)
		term, err2 := strconv.ParseUint(f[1], 10, 64)
		data, err3 := hex.DecodeString(f[3])
		if err := errors.Join(err, err2, err3); err != nil {
			t.Fatal(err)
		}
		e := Entry{Index: index, Term: term, Data: data}
		if f[2] == "config" {
			e.Data, e.Config = nil, data
		}
		out = append(out, e)
	}
	return out
}

func formatLog(entries []Entry) string {
	var out strings.Builder
	for _, e := range entries {
		kind, data := "command", e.Data
		if e.Config != nil {
			kind, data = "config", e.Config
		}
		fmt.Fprintf(&out, "%d %d %s %x\n", e.Index, e.Term, kind, data)
	}
	return out.String()
}

func firstDifference(got, want string) string {
	g, w := strings.Split(got, "\n"), strings.Split(want, "\n")
	for i := range max(len(g), len(w)) {
		a, b := "(nothing)", "(nothing)"
		if i < len(g) {
			a = g[i]
		}
		if i < len(w) {
			b = w[i]
		}
		if a != b {
			return fmt.Sprintf("line %d is\n%s\nfor ever it is\n%s", i+1, a, b)
		}
	}
	return "equal"
}

// goldenRecord makes an empty record of a bucket; nil where the payload is no message.
func goldenRecord(id bucketID) proto.Message {
	switch id {
	case principals:
		return new(statev1.Principal)
	case policies:
		return new(statev1.Policy)
	case realms:
		return new(statev1.Realm)
	case nodes:
		return new(statev1.Node)
	case tokens:
		return new(statev1.Token)
	case roles:
		return new(statev1.Role)
	case secrets:
		return new(statev1.Secret)
	case cluster:
		return new(statev1.Cluster)
	case outcomes:
		return new(statev1.Outcome)
	}
	return nil
}

// dump is the state as text: what it means, and not how it is encoded.
func dump(t *testing.T, db *DB) string {
	t.Helper()
	var out strings.Builder
	st := db.applied.Load()
	fmt.Fprintf(&out, "index %d term %d configuration %d %q now %d revision %d feature level %d\n", st.index, st.term, st.configIndex, st.config, st.now, st.revision, st.featureLevel)
	f, err := db.acquire()
	if err != nil {
		t.Fatal(err)
	}
	defer f.release()
	err = f.bolt.View(func(tx *bbolt.Tx) error {
		for id := range bucketCount {
			err := tx.Bucket(bucketNames[id]).ForEach(func(k, v []byte) error {
				payload, err := openRecord(id, k, v)
				if err != nil {
					return err
				}
				text := fmt.Sprintf("%q", payload)
				if m := goldenRecord(id); m != nil {
					if err := proto.Unmarshal(payload, m); err != nil {
						return err
					}
					text = messageText(m.ProtoReflect())
				}
				_, err = fmt.Fprintf(&out, "%s %q %s\n", bucketNames[id], k, text)
				return err
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// messageText is a message with its fields by number, so that it is the same in every release of the library.
func messageText(m protoreflect.Message) string {
	var fields []protoreflect.FieldDescriptor
	m.Range(func(fd protoreflect.FieldDescriptor, _ protoreflect.Value) bool {
		fields = append(fields, fd)
		return true
	})
	slices.SortFunc(fields, func(a, b protoreflect.FieldDescriptor) int { return int(a.Number()) - int(b.Number()) })
	var parts []string
	for _, fd := range fields {
		v := m.Get(fd)
		switch {
		case fd.IsMap():
			var pairs []string
			v.Map().Range(func(k protoreflect.MapKey, v protoreflect.Value) bool {
				pairs = append(pairs, fmt.Sprintf("%q:%q", k.String(), v.String()))
				return true
			})
			slices.Sort(pairs)
			parts = append(parts, fmt.Sprintf("%s={%s}", fd.Name(), strings.Join(pairs, " ")))
		case fd.IsList():
			var items []string
			for i := range v.List().Len() {
				items = append(items, valueText(fd, v.List().Get(i)))
			}
			parts = append(parts, fmt.Sprintf("%s=[%s]", fd.Name(), strings.Join(items, " ")))
		default:
			parts = append(parts, string(fd.Name())+"="+valueText(fd, v))
		}
	}
	if u := m.GetUnknown(); len(u) > 0 {
		parts = append(parts, fmt.Sprintf("unknown=%x", []byte(u)))
	}
	return "{" + strings.Join(parts, " ") + "}"
}

func valueText(fd protoreflect.FieldDescriptor, v protoreflect.Value) string {
	switch {
	case fd.Message() != nil:
		return messageText(v.Message())
	case fd.Enum() != nil:
		return fmt.Sprint(v.Enum())
	case fd.Kind() == protoreflect.BytesKind:
		return hex.EncodeToString(v.Bytes())
	case fd.Kind() == protoreflect.StringKind:
		return strconv.Quote(v.String())
	}
	return v.String()
}

// keepGolden writes a file that is not there, and refuses to change one that is.
func keepGolden(t *testing.T, dir, name string, b []byte) {
	t.Helper()
	path := filepath.Join(dir, name)
	old, err := os.ReadFile(path)
	switch {
	case err == nil && !bytes.Equal(old, b) && !strings.HasSuffix(name, ".gz"): // a file's pages differ from run to run
		t.Errorf("%s would change: what was released is for ever. If it never was, remove the directory first", path)
	case errors.Is(err, os.ErrNotExist):
		if err := errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(path, b, 0o644)); err != nil {
			t.Fatal(err)
		}
	case err != nil:
		t.Fatal(err)
	}
}

// Package bitflip flips single bits in the files of a node of a real realm: each must be found before anything is served from it, or change nothing
// that anybody reads. Some of it is done to real nodes, which must refuse, say what to do, and be as before once that is done.
package bitflip

import (
	"crypto/sha256"
	"flag"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/charon-kdc/charon/node"
	"github.com/charon-kdc/charon/test/realm"
)

var (
	seed  = flag.Uint64("seed", 0, "seed of the flips; 0: by the time")
	flips = flag.Int("flips", 2100, "how many bits to flip")
)

const password = "correct horse"

// start makes a realm with some past: principals made and deleted, so that there are free pages, tickets given, and a snapshot of the replay
// state on the third node, which a rebuild leaves.
func start(t *testing.T) *realm.Realm {
	t.Helper()
	r := realm.Start(t, 3, "--principal", "alice="+password, "--service", "HTTP/web.example.com")
	r.Ready(t)
	for i := range 12 {
		r.Charon(t, "principal", "add", fmt.Sprintf("user%d", i), "--random")
	}
	for i := range 4 {
		r.Charon(t, "principal", "delete", fmt.Sprintf("user%d", i), "--force")
	}
	s := r.Session(t, r.KDCs())
	s.OK(password+"\n", "kinit", "alice")
	s.OK("", "kvno", "-q", "HTTP/web.example.com")
	return r
}

// config is the configuration that a node of the realm runs with.
func config(t *testing.T, dir string) *node.Config {
	t.Helper()
	c, err := node.LoadConfig(filepath.Join(dir, "charon.toml"))
	if err != nil {
		t.Fatal(err)
	}
	c.Dir = dir
	return c
}

// unread are files that no node reads anything from: who holds the lock, sockets, logs for people, and configuration, which is read strictly and is
// the operator's.
func unread(name string) bool {
	switch filepath.Ext(name) {
	case ".log", ".sock", ".toml", ".pid", ".json":
		return !strings.Contains(name, "raft")
	}
	return name == "lock"
}

// copyDir copies the files of a node and returns those to flip bits in.
func copyDir(t *testing.T, from, to string) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	err := filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		switch {
		case d.IsDir():
			return os.MkdirAll(filepath.Join(to, name), 0o700)
		case !d.Type().IsRegular():
			return nil
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if !unread(name) && len(b) > 0 {
			files[name] = b
		}
		return os.WriteFile(filepath.Join(to, name), b, 0o600)
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// draw chooses a bit: the large files more often, in them the headers of pages and the meta pages more often than what they hold.
func draw(r *rand.Rand, files map[string][]byte) (name string, bit int) {
	names := slices.Sorted(maps.Keys(files))
	var stores, others []string
	for _, n := range names {
		if strings.HasSuffix(n, ".db") {
			stores = append(stores, n)
		} else {
			others = append(others, n)
		}
	}
	if r.IntN(4) == 0 {
		name = others[r.IntN(len(others))]
		return name, r.IntN(8 * len(files[name]))
	}
	name = stores[r.IntN(len(stores))]
	size := os.Getpagesize()
	pages := len(files[name]) / size
	switch r.IntN(4) {
	case 0: // page headers and first elements
		return name, 8*(size*r.IntN(pages)+r.IntN(128)) + r.IntN(8)
	case 1: // meta pages
		return name, 8*(size*r.IntN(2)+r.IntN(96)) + r.IntN(8)
	}
	return name, r.IntN(8 * len(files[name]))
}

// kind of file, for the counts.
func kind(name string) string {
	switch {
	case strings.Contains(name, "snapshots"):
		return "replay/snapshots/" + filepath.Base(name)
	case strings.HasPrefix(name, "raft/"):
		return strings.TrimPrefix(name, "raft/")
	}
	return name
}

func TestEveryFlipIsFoundOrHarmless(t *testing.T) {
	s := *seed
	if s == 0 {
		s = uint64(time.Now().UnixNano())
	}
	t.Logf("-seed %d", s)
	rnd := rand.New(rand.NewPCG(s, 7))
	r := start(t)
	n := r.Nodes[2]
	r.Kill(t, 2)
	r.Restart(t, 2, "--rebuild")
	r.Ready(t)
	r.Kill(t, 2)

	dir := filepath.Join(realm.TempDir(t), "copy")
	files := copyDir(t, n.Dir, dir)
	conf := config(t, dir)
	want, err := node.CheckFiles(conf)
	if err != nil {
		t.Fatal(err)
	}
	found, harmless := map[string]int{}, map[string]int{}
	for range *flips {
		name, bit := draw(rnd, files)
		if flipped(t, conf, want.Sum, filepath.Join(dir, name), files[name], bit) {
			found[kind(name)]++
		} else {
			harmless[kind(name)]++
		}
	}
	var table strings.Builder
	total := [2]int{}
	all := maps.Clone(found)
	maps.Copy(all, harmless)
	for _, k := range slices.Sorted(maps.Keys(all)) {
		fmt.Fprintf(&table, "%-40s %6d found before it is served %6d change nothing\n", k, found[k], harmless[k])
		total[0], total[1] = total[0]+found[k], total[1]+harmless[k]
	}
	t.Logf("%d flips: %d found, %d change nothing\n%s", *flips, total[0], total[1], table.String())
	for _, k := range []string{"realm/state.db", "realm/log.db", "replay/log.db", "realm/id", "boot", "master.key", "node.crt", "node.key", "replay/snapshots/state.bin", "replay/snapshots/meta.json"} {
		if found[k] == 0 {
			t.Errorf("no flip in %s was found", k)
		}
	}
}

// flipped flips one bit of a file and tells whether that is found. If not, everything read must be as it was.
func flipped(t *testing.T, conf *node.Config, want [sha256.Size]byte, path string, good []byte, bit int) bool {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte{good[bit/8] ^ 1<<(bit%8)}, int64(bit/8)); err != nil {
		t.Fatal(err)
	}
	got, err := node.CheckFiles(conf)
	if err == nil && got.Sum != want {
		t.Errorf("%s, bit %d: not found, and something else is read", path, bit)
	}
	if now, rerr := os.Stat(path); rerr != nil || now.Size() != int64(len(good)) {
		t.Fatalf("%s: changed by reading: %v", path, rerr)
	}
	if _, err := f.WriteAt(good[bit/8:bit/8+1], int64(bit/8)); err != nil {
		t.Fatal(err)
	}
	return err != nil
}

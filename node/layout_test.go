package node

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/charon-kdc/charon/"

// forbidden are imports, direct or not, that the layout rules out. A path names itself and what is below it.
var forbidden = []struct {
	from, to []string
	why      string
}{
	{[]string{"kdc"}, []string{"raftstore", "adminapi", "node", "cmd"},
		"the KDC answers bytes from a kdb.Store; who replicates that is not its business"},
	{[]string{"raftstore"}, []string{"kdc/transport", "kdc/preauth", "kdc/krb5/client", "adminapi", "node", "cmd"},
		"the store and the KDC meet at kdc/kdb"},
	{[]string{"raftstore/realm", "raftstore/replay"}, []string{"raftstore/peer", "raftstore/forward", "raftstore/logstore"},
		"state machines know commands and results; no raft, no network"},
	{[]string{"node/backup"}, []string{"adminapi", "raftstore/peer", "raftstore/forward", "raftstore/logstore"}, "a backup is a state and a file: no Raft, no network"},
	{[]string{"adminapi"}, []string{"node", "cmd"}, "imports run down"},
	{[]string{"node"}, []string{"cmd"}, "imports run down"},
	{[]string{"kdc/krb5"}, []string{"kdc/kdb", "kdc/transport", "kdc/preauth", "proto"},
		"Kerberos as a library stands without the rest"},
	{[]string{"kdc/krb5/kcrypto"}, []string{"kdc/krb5/keytab", "kdc/krb5/ccache", "kdc/krb5/client"},
		"keys know no files and no messages"},
	{[]string{"kdc/transport"}, []string{"kdc/krb5", "kdc/kdb"}, "port 88's sockets know no ASN.1"},
	{[]string{"proto"}, []string{"kdc", "raftstore", "adminapi", "node", "cmd"}, "generated code knows nobody"},
	{[]string{"cmd/charon-bench"}, []string{"raftstore", "adminapi", "node"}, "the load generator is a client"},
}

// onlyHere are modules that one part of the tree imports and no other may.
var onlyHere = []struct {
	dep   string
	users []string
	why   string
}{
	{"github.com/hashicorp/raft", []string{"raftstore", "test/sim/disk"}, "raftstore is the one that speaks Raft; a simulated disk takes the place of its log"},
	{"go.etcd.io/bbolt", []string{"raftstore/realm", "raftstore/logstore", "raftstore/pages"}, "files of the store have one owner each"},
	{"github.com/jcmturner/gofork", []string{"kdc/krb5"}, "the reference codec; dormant, so it stays in one place"},
	{"github.com/spf13/cobra", []string{"cmd"}, "flags and help are the command line's"},
	{"github.com/prometheus", []string{"node"}, "others measure, node shows"},
	{"github.com/pelletier/go-toml", []string{"node"}, "there is one configuration file"},
	{"google.golang.org/grpc", []string{"proto", "raftstore", "adminapi", "node", "cmd/charon", "bench"}, "port 88 never waits for gRPC"},
	{"crypto/rand", []string{"adminapi", "cmd", "node", "raftstore", "kdc/krb5/client", "kdc/kdb/kdbtest", "bench", "test"}, "pure code is given its randomness"},
	{"net", []string{"adminapi", "cmd", "node", "raftstore", "kdc/transport", "kdc/krb5/client", "proto", "bench", "test"}, "pure code has no sockets"},
	{"unsafe", nil, "no unsafe, no cgo"},
	{"C", nil, "no unsafe, no cgo"},
}

// clockless are the packages whose code never asks a clock or rolls a die: replicas would disagree.
var clockless = []string{"raftstore/realm", "raftstore/replay"}

var clocks = regexp.MustCompile(`\btime\.(Now|Since|Until|After|Tick|NewTimer|NewTicker|Sleep)\(|"(math|crypto)/rand(/v2)?"`)

func TestStateMachinesHaveNoClock(t *testing.T) {
	for _, dir := range clockless {
		files, err := filepath.Glob(filepath.Join("..", dir, "*.go"))
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: %d files, %v", dir, len(files), err)
		}
		for _, f := range files {
			if strings.HasSuffix(f, "_test.go") {
				continue
			}
			text, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			if at := clocks.Find(text); at != nil {
				t.Errorf("%s has %s: a state machine that asks a clock or rolls a die differs from its replicas", f, at)
			}
		}
	}
}

type goPackage struct {
	ImportPath string
	Imports    []string
	Deps       []string
}

func listPackages(t *testing.T) []goPackage {
	t.Helper()
	c := exec.Command("go", "list", "-e", "-json=ImportPath,Imports,Deps", "./...")
	c.Dir = ".."
	out, err := c.Output()
	if err != nil {
		t.Fatal(err)
	}
	var all []goPackage
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p goPackage
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

// under tells whether path is one of dirs or below it.
func under(path string, dirs []string) bool {
	return slices.ContainsFunc(dirs, func(d string) bool { return path == d || strings.HasPrefix(path, d+"/") })
}

func TestLayout(t *testing.T) {
	for _, p := range listPackages(t) {
		from, ok := strings.CutPrefix(p.ImportPath, module)
		if !ok {
			continue
		}
		for _, f := range forbidden {
			if !under(from, f.from) {
				continue
			}
			for _, dep := range p.Deps {
				if to, ok := strings.CutPrefix(dep, module); ok && under(to, f.to) && !under(to, []string{from}) {
					t.Errorf("%s imports %s: %s", from, to, f.why)
				}
			}
		}
		for _, o := range onlyHere {
			if under(from, o.users) || strings.HasPrefix(from, "proto/") {
				continue
			}
			for _, dep := range p.Imports {
				if dep == o.dep || strings.HasPrefix(dep, o.dep+"/") && strings.Contains(o.dep, ".") {
					t.Errorf("%s imports %s: %s", from, dep, o.why)
				}
			}
		}
	}
}

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/charon-kdc/charon/adminapi"
	"github.com/charon-kdc/charon/adminapi/adminapitest"
	"github.com/charon-kdc/charon/node"
	"github.com/charon-kdc/charon/node/backup"
	adminv1 "github.com/charon-kdc/charon/proto/charon/admin/v1"
	statev1 "github.com/charon-kdc/charon/proto/charon/state/v1"
)

// realBackups makes real files of a test's state. spoil, if set, changes what is sent.
type realBackups struct {
	store *adminapitest.Store
	kit   string
	spoil func(w io.Writer) io.Writer
	told  int
}

func (r *realBackups) Check(list []string, _ bool) error {
	_, err := backup.ParseRecipients(list)
	return err
}

func (r *realBackups) Save(_ context.Context, w io.Writer, list []string, kit bool) (*adminv1.BackupSummary, error) {
	if kit {
		list = append(list, r.kit)
	}
	if r.spoil != nil {
		w = r.spoil(w)
	}
	s, err := backup.Save(w, backup.Source{
		DB: r.store.DB, Ring: r.store.Ring, Node: "n1", Version: "test", Now: time.Now, ClockSkew: func() time.Duration { return time.Minute },
	}, list, false)
	if err != nil {
		return nil, err
	}
	h := s.Header
	return &adminv1.BackupSummary{
		Node: "n1", ClusterId: h.GetClusterId(), Realm: h.GetRealm(), Index: h.GetIndex(), Principals: h.GetPrincipals(), Keys: s.Keys, Bytes: s.Bytes, Sha256: s.SHA256[:],
		CreatedAt: h.GetCreatedAt(), Recipients: h.GetRecipients(), WithoutLeader: true, ContactMs: 90_000,
	}, nil
}

func (r *realBackups) Confirm(context.Context, []byte) error { r.told++; return nil }

// newBackupNode is a fake node that makes backups, and the file of its recovery kit.
func newBackupNode(t *testing.T) (*fakeNode, *realBackups, string) {
	t.Helper()
	text, recipient, err := node.NewRecoveryKit()
	if err != nil {
		t.Fatal(err)
	}
	kit := filepath.Join(t.TempDir(), "kit")
	if err := os.WriteFile(kit, []byte(text+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	b := &realBackups{kit: recipient}
	n := newFakeNodeWith(t, func(c *adminapi.Config) { c.Backups = b })
	b.store = n.store
	// What the fake keeps as an authority is none.
	if _, err := n.store.Apply(&statev1.Command{Op: &statev1.Command_PutSecret{PutSecret: &statev1.PutSecret{Secret: &statev1.Secret{Name: "ca/node"}}}}); err != nil {
		t.Fatal(err)
	}
	return n, b, kit
}

func TestBackupCommands(t *testing.T) {
	n, b, kit := newBackupNode(t)
	dir := t.TempDir()
	n.want(exitOK, []string{"index 6  0 principals  ", "sha256 ", dir + "/charon-6.cbk"}, "backup", "save", dir)
	file := filepath.Join(dir, "charon-6.cbk")
	if _, errOut, _ := n.run("backup", "save", dir); !strings.Contains(errOut, "found no leader") {
		t.Errorf("a node without a leader says nothing of it: %q", errOut)
	}
	if b.told != 2 {
		t.Errorf("the cluster was told of %d backups", b.told)
	}
	n.want(exitOK, []string{"realm EXAMPLE.COM  cluster ", "ok: 0 principals"}, "backup", "verify", file, "--kit-file", kit)
	var out map[string]any
	if err := json.Unmarshal([]byte(n.want(exitOK, nil, "backup", "verify", file, "--kit-file", kit, "-o", "json")), &out); err != nil || out["realm"] != "EXAMPLE.COM" || out["index"] != 6.0 {
		t.Errorf("%v %v", out, err)
	}
	// Through a pipe, with a key of one's own.
	text, recipient, err := node.NewRecoveryKit()
	if err != nil {
		t.Fatal(err)
	}
	own, err := node.ParseRecoveryKit(text)
	if err != nil {
		t.Fatal(err)
	}
	identity := filepath.Join(dir, "own.txt")
	if err := os.WriteFile(identity, []byte("# mine\n"+own.String()+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	data, errOut, code := n.run("backup", "save", "-", "--recipient", recipient, "--only-recipients")
	if code != exitOK || !strings.Contains(errOut, "index 6") || b.told != 2 {
		t.Fatalf("exit %d, %q", code, errOut)
	}
	n.stdin = data
	n.want(exitOK, []string{"ok: "}, "backup", "verify", "-", "--identity", identity)
	n.want(exitError, []string{"another cluster's recovery kit or recipient"}, "backup", "verify", "-", "--kit-file", kit)
	n.stdin = ""

	other, _, err := node.NewRecoveryKit()
	if err != nil {
		t.Fatal(err)
	}
	otherKit := filepath.Join(dir, "other")
	if err := os.WriteFile(otherKit, []byte(other), 0o600); err != nil {
		t.Fatal(err)
	}
	n.want(exitError, []string{"is encrypted to age1", "another cluster's"}, "backup", "verify", file, "--kit-file", otherKit)
	n.want(exitError, []string{"not a Charon backup"}, "backup", "verify", otherKit, "--kit-file", kit)
	n.want(exitError, []string{"not a recovery kit"}, "backup", "verify", file, "--kit-file", file)
	n.want(exitNotFound, []string{"no such file"}, "backup", "verify", file+".none", "--kit-file", kit)
	n.want(exitNotFound, []string{"no such file"}, "backup", "verify", file, "--kit-file", kit+".none")
	n.want(exitUsage, []string{"--kit-file or --identity"}, "backup", "verify", file)
	n.want(exitUsage, []string{"--new-cluster"}, "backup", "restore", file, "--kit-file", kit)
	n.want(exitUsage, []string{"not usable as an age recipient"}, "backup", "save", dir, "--recipient", "nonsense")
	n.want(exitConflict, []string{"is something else"}, "backup", "save", otherKit)
}

// What arrives is not what the node has made: nothing is written, and nobody is told of a backup.
func TestBackupThatArrivesBroken(t *testing.T) {
	n, b, _ := newBackupNode(t)
	for what, spoil := range map[string]func(io.Writer) io.Writer{
		"changed": func(w io.Writer) io.Writer { return flipper{w} },
		"cut":     func(w io.Writer) io.Writer { return cutter{w} },
	} {
		b.spoil = spoil
		dir := t.TempDir()
		n.want(exitError, []string{"did not arrive whole"}, "backup", "save", dir)
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 || b.told > 0 {
			t.Errorf("%s: %v %v, told %d times", what, left, err, b.told)
		}
	}
}

type flipper struct{ w io.Writer }

func (f flipper) Write(p []byte) (int, error) {
	c := bytes.Clone(p)
	c[len(c)-1] ^= 1
	return f.w.Write(c)
}

type cutter struct{ w io.Writer }

func (c cutter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p[:len(p)-1])
	return n + 1, err
}

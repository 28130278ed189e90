package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/charon-kdc/charon/node"
	"github.com/charon-kdc/charon/node/doctor"
)

func TestPrintFindings(t *testing.T) {
	all := []doctor.Finding{
		{Severity: doctor.OK, Check: "node.ready", Node: "kdc1", Text: "kdc1 serves"},
		{Severity: doctor.Warn, Check: "clock.skew", Node: "kdc2", Text: "kdc2 is 210 ms off the median; limit 500 ms", Fix: "chrony on kdc2"},
		{Severity: doctor.Fail, Check: "node.down", Node: "kdc3", Text: "kdc3 has not answered kdc1", Fix: "start it"},
	}
	doctor.Sort(all)
	var short, wide bytes.Buffer
	if err := printFindings(&short, all, false); err != nil {
		t.Fatal(err)
	}
	want := "ok 1  warn 1  fail 1\n" +
		"FAIL node.down   kdc3 has not answered kdc1                   fix: start it\n" +
		"WARN clock.skew  kdc2 is 210 ms off the median; limit 500 ms  fix: chrony on kdc2\n"
	if short.String() != want {
		t.Errorf("got\n%swant\n%s", short.String(), want)
	}
	if err := printFindings(&wide, all, true); err != nil || wide.String() != want+"ok   node.ready  kdc1 serves\n" {
		t.Errorf("wide\n%s%v", wide.String(), err)
	}
}

// With no server running the data directory is looked at: what is wrong is named, and found again in JSON.
func TestDoctorOffline(t *testing.T) {
	dir := filepath.Join(shortTempDir(t), "n1")
	text := fmt.Sprintf("dir = %q\n[kdc]\naddresses = [\"127.0.0.1:18888\"]\n[peer]\naddress = \"127.0.0.1:1\"\n", dir)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "charon.toml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("CHARON_ADDR", "unix://"+filepath.Join(dir, "admin.sock"))
	see := func(want int, parts ...string) {
		t.Helper()
		var out, errOut bytes.Buffer
		code := run(context.Background(), []string{"doctor", "-o", "wide"}, strings.NewReader(""), &out, &errOut)
		if code != want {
			t.Errorf("exit %d\n%s%s", code, out.String(), errOut.String())
		}
		for _, p := range parts {
			if !strings.Contains(out.String(), p) {
				t.Errorf("no %q in\n%s", p, out.String())
			}
		}
	}
	see(exitError, "there is no node in "+dir)

	cfg, err := node.LoadConfig(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := node.Init(context.Background(), node.InitOptions{Realm: "EXAMPLE.COM", Name: "n1", Config: cfg, Version: "1.1.0", Logger: quietLogger(os.Stderr)}); err != nil {
		t.Fatal(err)
	}
	see(exitError, "fail 1\n", "no charon server works on "+dir, "ok   node.state", "n1's certificate is valid for")
	if err := os.Chmod(filepath.Join(dir, "master.key"), 0o644); err != nil {
		t.Fatal(err)
	}
	see(exitError, "fail 2\n", "FAIL files.master-key", "chmod 600")
	if err := os.Remove(filepath.Join(dir, "raft", "realm", "log.db")); err != nil {
		t.Fatal(err)
	}
	see(exitError, "fail 3\n", "has an id without its log")

	var out bytes.Buffer
	run(context.Background(), []string{"doctor", "-o", "json"}, strings.NewReader(""), &out, &out)
	var got struct {
		Findings []struct{ Severity, Check string }
	}
	if err := json.Unmarshal(out.Bytes()[bytes.IndexByte(out.Bytes(), '{'):], &got); err != nil || len(got.Findings) == 0 || got.Findings[0].Severity != "fail" {
		t.Errorf("%v %+v in\n%s", err, got, out.String())
	}
	// A remote node that does not answer is no reason to look at this host.
	t.Setenv("CHARON_ADDR", "127.0.0.1:1")
	out.Reset()
	if code := run(context.Background(), []string{"doctor", "--identity", dir + "/admin"}, strings.NewReader(""), &out, &out); code != exitNotDone {
		t.Errorf("exit %d: %s", code, out.String())
	}
}

// shortTempDir has a path that leaves room for a socket's.
func shortTempDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "charon-t")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

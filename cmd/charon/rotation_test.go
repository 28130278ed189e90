package main

import (
	"strings"
	"testing"

	adminv1 "github.com/charon-kdc/charon/proto/charon/admin/v1"
)

func TestKrbtgtVerbs(t *testing.T) {
	n := newFakeNode(t)
	n.want(exitNotFound, []string{"krbtgt/EXAMPLE.COM@EXAMPLE.COM does not exist"}, "krbtgt", "rotate")
	n.want(exitOK, nil, "principal", "add", "krbtgt/EXAMPLE.COM", "--random")
	n.want(exitOK, []string{"kvno 1 -> 2, active on 1/1 nodes. kvno 1 accepts until the last old TGT dies: 20"}, "krbtgt", "rotate")
	n.want(exitOK, []string{"kvno 2 -> 3, active on 1/1 nodes. kvno 2 accepts"}, "krbtgt", "rotate", "--retire-after", "12h", "--realm", "EXAMPLE.COM")
	n.want(exitUsage, []string{"--force"}, "krbtgt", "rotate", "--revoke-old")
	n.want(exitUsage, nil, "krbtgt", "rotate", "--revoke-old", "--retire-after", "1h")
	n.want(exitOK, []string{"kvno 3 -> 4, active on 1/1 nodes. kvno 3 and older are gone: tickets under them are refused, log in again."}, "krbtgt", "rotate", "--revoke-old", "--force")
	if text := n.want(exitOK, []string{`"kvno": 5`}, "krbtgt", "rotate", "-o", "json"); !strings.Contains(text, `"previous_kvno": 4`) {
		t.Errorf("%s", text)
	}
	n.want(exitOK, []string{"krbtgt rotation    every 90 d, next 20"}, "realm", "show")
	n.want(exitOK, []string{"krbtgt rotation    none by itself\n"}, "realm", "set", "--krbtgt-rotation", "off")
	n.want(exitOK, []string{"krbtgt rotation    every 30 d, next"}, "realm", "set", "--krbtgt-rotation", "30d")
	n.want(exitOK, []string{"every 90 d"}, "realm", "set", "--krbtgt-rotation", "default")
	for _, bad := range []string{"frob", "1m", "0"} {
		n.want(exitUsage, nil, "realm", "set", "--krbtgt-rotation", bad)
	}
}

func TestMasterKeyVerbs(t *testing.T) {
	n := newFakeNode(t)
	n.want(exitOK, []string{"active version     1\n", "rotated            never\n", "NODE  VERSIONS  STATE"}, "master-key", "show")
	n.want(exitOK, nil, "principal", "add", "alice", "--random")
	out, errOut, code := n.run("master-key", "rotate")
	if code != exitOK || !strings.Contains(out, "master key version 2 is active, and nothing is sealed under another.") || strings.Contains(errOut, "\x1b") {
		t.Errorf("%d %q %q", code, out, errOut)
	}
	if stale, err := n.store.DB.CountStale(2); stale != 0 || err != nil {
		t.Errorf("%d stale, %v", stale, err)
	}
	n.want(exitOK, []string{"active version     2\n"}, "master-key", "show")
	n.want(exitUsage, []string{"--force"}, "master-key", "retire")
	n.want(exitOK, []string{"version 2 stays"}, "master-key", "retire", "--force")
	n.want(exitOK, []string{"version 2 -> 3 begun"}, "master-key", "rotate", "--detach")
	n.want(exitOK, []string{"master key version 3 is active"}, "master-key", "show", "--watch")
	n.want(exitOK, []string{`"version": 3`}, "master-key", "show", "-o", "json")
}

func TestProgressLine(t *testing.T) {
	for want, p := range map[string]*adminv1.MasterKeyProgress{
		"re-sealing 262150 principals [######----] 61%  51k/s": {Phase: adminv1.MasterKeyProgress_PHASE_RESEALING, Done: 160_000, Total: 262_150, PerSecond: 51_234},
		"re-sealing 0 principals [----------] 0%  0/s":         {Phase: adminv1.MasterKeyProgress_PHASE_RESEALING},
		"re-sealing 3 principals [##########] 100%  9999/s":    {Phase: adminv1.MasterKeyProgress_PHASE_RESEALING, Done: 4, Total: 3, PerSecond: 9999},
		"handing version 2 to every node; waiting for kdc2: does not answer": {
			Phase: adminv1.MasterKeyProgress_PHASE_HANDING_OUT, Version: 2, Waiting: []string{"kdc2: does not answer"},
		},
	} {
		if got := progressLine(p); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	var b strings.Builder
	line := progressTo(&b)
	for range 3 {
		line("a") // no terminal: a line when it changes
	}
	line("")
	if b.String() != "a\n" {
		t.Errorf("%q", b.String())
	}
}

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"strings"
	"sync"
	"testing"
	"time"

	adminv1 "github.com/charon-kdc/charon/proto/charon/admin/v1"
)

func TestStatusEvents(t *testing.T) {
	node := func(name, health, role string, started, cert int64) *adminv1.NodeStatus {
		return &adminv1.NodeStatus{Node: &adminv1.Node{Name: name, Version: "1.0.0"}, Health: health, Role: role, Stats: &adminv1.NodeStats{StartedAt: started, CertExpiresAt: cert}}
	}
	meta := &adminv1.Meta{Node: "n2"}
	a := &adminv1.GetStatusResponse{Meta: meta, Leader: "n1", Quorum: true, FeatureLevel: 1, Nodes: []*adminv1.NodeStatus{
		node("n1", "ok", "leader", 1, 1), node("n2", "ok", "follower", 1, 1), node("n3", "ok", "follower", 1, 1), node("n5", "down", "follower", 0, 0),
		node("n6", "ok", "non-voter", 1, 1), node("n7", "ok", "follower", 1, 1),
	}}
	b := &adminv1.GetStatusResponse{Meta: meta, Leader: "n2", FeatureLevel: 2, Nodes: []*adminv1.NodeStatus{
		node("n1", "down", "follower", 0, 0), node("n2", "ok", "leader", 1, 1_800_000_000_000), node("n4", "ok", "non-voter", 1, 1), node("n5", "lagging", "follower", 1, 1),
		node("n6", "ok", "follower", 1, 1), node("n7", "clock", "follower", 1, 1),
	}}
	var got []string
	for _, e := range statusEvents(a, b, false) {
		got = append(got, e.Event+" "+e.Node+": "+e.Text)
	}
	want := `leader n2: leader n2, was n1
no-quorum : quorum lost: changes are refused, and tickets are given as without_quorum says
level : feature level 2, was 1
lost n1: n1 lost
certificate n2: n2 has a new certificate, until 2027-01-15 08:00Z
joined n4: n4 joined
back n5: n5 back, lags behind the leader
promoted n6: n6 promoted: it votes
health n7: n7 is out of service for its clock
removed n3: n3 removed`
	if text := strings.Join(got, "\n"); text != want {
		t.Errorf("got\n%s\nwant\n%s", text, want)
	}
	if first := statusEvents(nil, b, false); len(first) != 1 || first[0].Event != "watching" || !strings.Contains(first[0].Text, "through n2: 6 nodes, leader n2, no quorum") {
		t.Errorf("first %v", first)
	}
	if ev := statusEvents(b, b, false); len(ev) != 0 {
		t.Errorf("nothing changed: %v", ev)
	}
	c := &adminv1.GetStatusResponse{Meta: meta, Leader: "n2", FeatureLevel: 2, Quorum: true, Nodes: []*adminv1.NodeStatus{node("n1", "ok", "follower", 2, 1), node("n2", "ok", "leader", 7, 1_800_000_000_000)}}
	c.Nodes = append(c.Nodes, b.Nodes[2:]...)
	c.Nodes[1].Node.Version = "1.1.0"
	got = nil
	for _, e := range statusEvents(b, c, false) {
		got = append(got, e.Event)
	}
	if strings.Join(got, " ") != "healed back restarted version" {
		t.Errorf("%v", got)
	}
}

// safeBuffer is written by the watch and read by the test.
type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}
func (s *safeBuffer) String() string { s.mu.Lock(); defer s.mu.Unlock(); return s.b.String() }

// The node that is watched through dies: the watch goes on through the next address, and ends well with ^C.
func TestWatchSurvivesItsNode(t *testing.T) {
	n2, n1 := newFakeNode(t), newFakeNode(t)
	t.Setenv("CHARON_ADDR", n1.addr+","+n2.addr)
	n2.store.Nodes.Leader.Name = "n9" // what it says of it tells that it was asked
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var out, errOut safeBuffer
	code := make(chan int, 1)
	go func() {
		code <- run(ctx, []string{"status", "--watch", "-o", "json"}, strings.NewReader(""), &out, &errOut)
	}()
	lines := func() (all []event) {
		for _, l := range strings.Split(strings.TrimSpace(out.String()), "\n") {
			var e event
			if l != "" {
				if err := json.Unmarshal([]byte(l), &e); err != nil {
					t.Fatalf("%v in %q", err, l)
				}
				all = append(all, e)
			}
		}
		return all
	}
	await := func(what string, ok func(all []event) bool) {
		t.Helper()
		for end := time.Now().Add(20 * time.Second); !ok(lines()); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("waited for %s; got %s%s", what, out.String(), errOut.String())
			}
		}
	}
	has := func(kind string) func([]event) bool {
		return func(all []event) bool { return len(all) > 0 && all[len(all)-1].Event == kind }
	}
	await("the first line", has("watching"))
	n1.stop()
	await("news by way of the other node", has("leader"))
	n2.stop()
	await("silence to be told", has("silent"))
	cancel()
	select {
	case got := <-code:
		if got != exitOK {
			t.Errorf("exit %d", got)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("^C does not end it")
	}
}

package audit

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/charon-kdc/charon/adminapi"
	"github.com/charon-kdc/charon/kdc"
	"github.com/charon-kdc/charon/kdc/krb5"
	"github.com/charon-kdc/charon/kdc/krb5/kcrypto"
)

var testTime = time.Date(2026, 11, 2, 3, 14, 12, 345e6, time.UTC)

func event(client string) *kdc.Event {
	return &kdc.Event{
		Time: testTime, Type: "TGS", Status: "ISSUE", Client: client, Server: "HTTP/web1@EXAMPLE.COM",
		Peer: netip.MustParseAddrPort("10.1.2.3:51022"), Transport: "tcp", ETypes: []kcrypto.EType{20, 18},
		SessionEType: 20, TicketEType: 18, ReplyEType: 20, TicketID: "90c1000000000000", FromTicketID: "5f2a000000000000",
		Replay: "fresh", ReplayWait: 2 * time.Millisecond, Duration: 3 * time.Millisecond, Failures: 2, FailuresMax: 5,
	}
}

func lines(t *testing.T, b []byte) []map[string]any {
	t.Helper()
	var out []map[string]any
	for line := range bytes.Lines(b) {
		var m map[string]any
		if err := json.Unmarshal(line, &m); err != nil {
			t.Fatalf("%v in %q", err, line)
		}
		out = append(out, m)
	}
	return out
}

func TestLineHoldsTheRequest(t *testing.T) {
	got := lines(t, appendRequest(nil, "kdc1", event("alice@EXAMPLE.COM")))[0]
	want := map[string]any{
		"time": "2026-11-02T03:14:12.345Z", "node": "kdc1", "type": "TGS", "status": "ISSUE", "client": "alice@EXAMPLE.COM",
		"server": "HTTP/web1@EXAMPLE.COM", "peer": "10.1.2.3:51022", "transport": "tcp", "etypes": []any{20.0, 18.0},
		"session_etype": 20.0, "ticket_etype": 18.0, "reply_etype": 20.0, "ticket": "90c1000000000000", "from_ticket": "5f2a000000000000",
		"replay": "fresh", "replay_wait_us": 2000.0, "duration_us": 3000.0, "failures": 2.0, "failures_max": 5.0,
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
	adm := lines(t, appendAdmin(nil, "kdc1", adminapi.AuditEvent{Time: testTime, Method: "/x", Caller: "root", Target: "bob", Code: "OK"}))[0]
	if adm["type"] != "ADMIN" || adm["caller"] != "root" || adm["status"] != "OK" || adm["target"] != "bob" {
		t.Errorf("%v", adm)
	}
}

func TestLineOfTheNode(t *testing.T) {
	got := lines(t, appendNode(nil, "kdc1", NodeEvent{Time: testTime, Status: "DOUBLE_ACCEPT", Reason: "cut-off", Authenticator: "0011223344556677", AuthenticatorTime: testTime}))[0]
	if got["type"] != "NODE" || got["node"] != "kdc1" || got["status"] != "DOUBLE_ACCEPT" || got["reason"] != "cut-off" || got["authenticator"] != "0011223344556677" || got["authenticator_time"] == nil {
		t.Errorf("%v", got)
	}
	e := event("alice@EXAMPLE.COM")
	e.Authenticator, e.Degraded, e.Replay = "0011223344556677", true, "unconfirmed"
	if got := lines(t, appendRequest(nil, "kdc1", e))[0]; got["authenticator"] != "0011223344556677" || got["degraded"] != true || got["replay"] != "unconfirmed" {
		t.Errorf("%v", got)
	}
}

func FuzzLine(f *testing.F) {
	f.Add("alice\n\"\\\x00\x7f\u2028é\xff")
	f.Fuzz(func(t *testing.T, name string) {
		b := appendRequest(nil, "n", event(name))
		if bytes.Count(b, []byte("\n")) != 1 {
			t.Fatalf("not one line: %q", b)
		}
		var m map[string]any
		if err := json.Unmarshal(b, &m); err != nil {
			t.Fatalf("%v in %q", err, b)
		}
		if got, _ := m["client"].(string); got != strings.ToValidUTF8(name, "\ufffd") && len(strings.ToValidUTF8(name, "")) == len(name) {
			t.Errorf("%q became %q", name, got)
		}
	})
}

// gate is a target that can be held, and that can fail.
type gate struct {
	mu   sync.Mutex
	held sync.Mutex
	b    bytes.Buffer
	err  error
}

func (g *gate) Write(p []byte) (int, error) {
	g.held.Lock()
	defer g.held.Unlock()
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.err != nil {
		return 0, g.err
	}
	return g.b.Write(p)
}

func (g *gate) text() []byte { g.mu.Lock(); defer g.mu.Unlock(); return bytes.Clone(g.b.Bytes()) }
func (g *gate) fail(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.err = err
}

func TestLossIsCountedAndTold(t *testing.T) {
	g := new(gate)
	w, err := New(Config{Out: g, Queue: 8, Node: "n1"})
	if err != nil {
		t.Fatal(err)
	}
	g.held.Lock() // the disk hangs
	const sent = 1000
	start := time.Now()
	for i := range sent {
		w.Request(event(fmt.Sprintf("u%d", i)))
	}
	if d := time.Since(start); d > 5*time.Second {
		t.Errorf("a hanging disk held requests up for %v", d)
	}
	if w.Lost() == 0 {
		t.Fatal("nothing was counted as lost")
	}
	g.held.Unlock()
	w.Request(event("after"))
	if err := w.Close(10 * time.Second); err != nil {
		t.Fatal(err)
	}
	var written, told int
	for _, m := range lines(t, g.text()) {
		if m["type"] == "AUDIT" && m["status"] == "LOST" {
			told += int(m["lost"].(float64))
		} else {
			written++
		}
	}
	// The line "after" may itself find the queue full.
	if total := written + int(w.Lost()); total != sent+1 {
		t.Errorf("%d written and %d lost of %d", written, w.Lost(), sent+1)
	}
	if told != int(w.Lost()) {
		t.Errorf("lines tell of %d lost, the counter says %d", told, w.Lost())
	}
}

func TestFailingTargetIsCountedAndHeals(t *testing.T) {
	g := new(gate)
	w, err := New(Config{Out: g, Queue: 64, Node: "n1"})
	if err != nil {
		t.Fatal(err)
	}
	g.fail(errors.New("no space left on device"))
	w.Request(event("lost"))
	for deadline := time.Now().Add(10 * time.Second); w.Lost() == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("a failed write was not counted")
		}
	}
	g.fail(nil)
	w.Request(event("written"))
	if err := w.Close(10 * time.Second); err != nil {
		t.Fatal(err)
	}
	text := string(g.text())
	if !strings.Contains(text, `"client":"written"`) || !strings.Contains(text, `"status":"LOST"`) || strings.Contains(text, `"client":"lost"`) {
		t.Errorf("got %s", text)
	}
}

func TestReopenAfterRotation(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	w, err := New(Config{Path: path, Queue: 64, Node: "n1"})
	if err != nil {
		t.Fatal(err)
	}
	w.Request(event("before"))
	if err := w.Reopen(); err != nil { // drains first
		t.Fatal(err)
	}
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	if err := w.Reopen(); err != nil {
		t.Fatal(err)
	}
	w.Request(event("after"))
	if err := w.Close(10 * time.Second); err != nil {
		t.Fatal(err)
	}
	old, err := os.ReadFile(path + ".1")
	if err != nil {
		t.Fatal(err)
	}
	cur, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(old), "before") || !strings.Contains(string(cur), "after") || strings.Contains(string(cur), "before") {
		t.Errorf("old %s\nnew %s", old, cur)
	}
	if st, err := os.Stat(path); err != nil || st.Mode().Perm()&0o007 != 0 {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
}

func BenchmarkRequestLine(b *testing.B) {
	e, buf := event("alice@EXAMPLE.COM"), make([]byte, 0, 1024)
	for b.Loop() {
		buf = appendRequest(buf[:0], "kdc1", e)
	}
}

// A flood of refusals that anybody can cause leaves room for what matters, and the log says what was left out.
func TestFloodIsThinned(t *testing.T) {
	g := new(gate)
	const queue = 1600
	w, err := New(Config{Out: g, Queue: queue, Node: "n1"})
	if err != nil {
		t.Fatal(err)
	}
	g.held.Lock() // the disk is slow
	for range 40_000 {
		w.Request(&kdc.Event{Type: "AS", Status: "CLIENT_NOT_FOUND", Code: krb5.ErrCPrincipalUnknown, Time: testTime})
	}
	for range 20_000 {
		w.Request(&kdc.Event{Type: "AS", Status: "RATE_UNKNOWN", Dropped: true, Time: testTime})
	}
	for i := range 300 {
		w.Request(event(fmt.Sprintf("issued%d", i)))
	}
	for range 5000 {
		w.Request(event("too many")) // more than the queue has place for
	}
	for i := range 50 {
		w.Admin(adminapi.AuditEvent{Time: testTime, Method: "m", Caller: "root", Target: fmt.Sprintf("admin%d", i)})
	}
	w.Node(NodeEvent{Time: testTime, Status: "CLOCK_OUT"})
	g.held.Unlock()
	if err := w.Close(10 * time.Second); err != nil {
		t.Fatal(err)
	}
	text := string(g.text())
	issued, admin, floods, told := 0, 0, 0, 0
	for _, m := range lines(t, g.text()) {
		client, _ := m["client"].(string)
		switch {
		case strings.HasPrefix(client, "issued"):
			issued++
		case m["type"] == "ADMIN":
			admin++
		case m["status"] == "CLIENT_NOT_FOUND" || m["status"] == "RATE_UNKNOWN":
			floods++
		case m["status"] == "THINNED":
			told += int(m["thinned"].(float64))
		}
	}
	if issued < 250 || admin != 50 || !strings.Contains(text, "CLOCK_OUT") {
		t.Errorf("of 300 tickets %d are in the log, of 50 admin calls %d", issued, admin)
	}
	if floods > 2*queue || uint64(told) != w.Thinned() || told == 0 {
		t.Errorf("%d lines of the flood, %d left out, lines tell of %d", floods, w.Thinned(), told)
	}
}

package node

import (
	"encoding/json"
	"errors"
	"log/slog"
	"net/http/httptest"
	"testing"
)

func testHealth() *health {
	yes := func() bool { return true }
	return &health{failures: 3, successes: 2, leader: yes, voter: yes, log: slog.New(slog.DiscardHandler)}
}

func TestReadinessHasHysteresis(t *testing.T) {
	bad := errors.New("own KDC does not answer")
	var turns []bool
	h := testHealth()
	h.changed = func(ready bool, _ string) { turns = append(turns, ready) }
	for i, step := range []struct {
		err  error
		want bool
	}{
		{bad, false}, {nil, true}, // the first good probe counts at once
		{bad, true}, {bad, true}, {nil, true}, {bad, true}, {bad, true}, {bad, false}, // three in a row
		{nil, false}, {bad, false}, {nil, false}, {nil, true}, // two in a row
	} {
		h.note(step.err)
		if got := h.read().Ready; got != step.want {
			t.Errorf("step %d: ready %v, want %v", i, got, step.want)
		}
	}
	if len(turns) != 3 {
		t.Errorf("told %v", turns)
	}
}

func TestReadyz(t *testing.T) {
	get := func(h *health, path string) (int, readiness) {
		w := httptest.NewRecorder()
		h.routes(nil).ServeHTTP(w, httptest.NewRequest("GET", path, nil))
		var r readiness
		_ = json.Unmarshal(w.Body.Bytes(), &r)
		return w.Code, r
	}
	h := testHealth()
	if code, r := get(h, "/readyz"); code != 503 || r.Reason != "starting" {
		t.Errorf("before the first probe: %d %+v", code, r)
	}
	h.note(errors.New("no leader"))
	if code, r := get(h, "/readyz"); code != 503 || r.Reason != "no leader" {
		t.Errorf("never ready: %d %+v", code, r)
	}
	h.note(nil)
	for _, path := range []string{"/readyz", "/readyz?role=leader", "/readyz?role=voter", "/livez"} {
		if code, _ := get(h, path); code != 200 {
			t.Errorf("%s: %d", path, code)
		}
	}
	why := ""
	h.degraded = func() string { return why }
	if _, r := get(h, "/readyz"); r.Degraded {
		t.Errorf("with the others: %+v", r)
	}
	why = "no quorum"
	if code, r := get(h, "/readyz"); code != 200 || !r.Ready || !r.Degraded || r.Reason != why {
		t.Errorf("serving without a quorum: %d %+v", code, r)
	}
	h.leader = func() bool { return false }
	h.voter = h.leader
	for _, path := range []string{"/readyz?role=leader", "/readyz?role=voter"} {
		if code, _ := get(h, path); code != 503 {
			t.Errorf("%s of neither: %d", path, code)
		}
	}
	h.drain()
	if code, r := get(h, "/readyz"); code != 503 || r.Reason != "draining" {
		t.Errorf("draining: %d %+v", code, r)
	}
	if code, _ := get(h, "/livez"); code != 200 {
		t.Errorf("/livez while draining: %d", code)
	}
}

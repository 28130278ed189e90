package node

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"
)

// probeEvery is how often a node asks itself for a ticket; probeTimeout is how long it waits for it.
const (
	probeEvery   = time.Second
	probeTimeout = 900 * time.Millisecond
)

// health is what /livez and /readyz say. A background probe finds it out, and an answer only reads it: load on the balancer's
// side or on ours can't make readiness flap.
type health struct {
	failures, successes int // so many in a row turn it
	probe               func(context.Context) error
	leader, voter       func() bool
	degraded            func() string // how it serves without the others; empty: it does not. May be nil
	log                 *slog.Logger
	// changed is called when readiness turns, from the probe's goroutine. May be nil.
	changed func(ready bool, reason string)

	mu       sync.Mutex
	ready    bool
	ever     bool // has been ready
	draining bool
	reason   string // why not ready
	row      int    // results in a row that speak against ready
}

// readiness is the body of /readyz.
type readiness struct {
	Ready    bool `json:"ready"`
	Draining bool `json:"draining,omitempty"`
	Leader   bool `json:"leader"`
	Voter    bool `json:"voter"` // in both groups
	// Degraded: it is cut off from the others and serves from its own state, and Reason says so.
	Degraded bool   `json:"degraded,omitempty"`
	Reason   string `json:"reason,omitempty"`
}

// run probes until ctx ends.
func (h *health) run(ctx context.Context) {
	for {
		begun := time.Now()
		h.once(ctx)
		every := probeEvery
		if !h.everReady() {
			every = probeEvery / 10 // a starting node is waited for
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(every - min(time.Since(begun), every)):
		}
	}
}

func (h *health) everReady() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.ever
}

func (h *health) once(ctx context.Context) {
	pctx, cancel := context.WithTimeout(ctx, probeTimeout)
	err := h.probe(pctx)
	cancel()
	if ctx.Err() != nil {
		return
	}
	h.note(err)
}

// note counts one result. The first good one since the start counts at once; later ones need company.
func (h *health) note(err error) {
	turned, ready, reason := h.count(err)
	if !turned {
		return
	}
	if ready {
		h.log.Info("ready")
	} else {
		h.log.Warn("not ready", "reason", reason)
	}
	if h.changed != nil {
		h.changed(ready, reason)
	}
}

func (h *health) count(err error) (turned, ready bool, reason string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err != nil && !h.ready {
		h.reason = err.Error()
	}
	if (err == nil) == h.ready {
		h.row = 0
		return false, h.ready, h.reason
	}
	h.row++
	need := h.failures
	switch {
	case err == nil && !h.ever:
		need = 1
	case err == nil:
		need = h.successes
	}
	if h.row < need {
		return false, h.ready, h.reason
	}
	h.row, h.ready, h.reason = 0, err == nil, ""
	if err != nil {
		h.reason = err.Error()
	}
	h.ever = h.ever || h.ready
	return true, h.ready, h.reason
}

// drain makes /readyz say 503 from now on.
func (h *health) drain() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.draining = true
}

func (h *health) read() readiness {
	leader, voter := h.leader(), h.voter()
	degraded := ""
	if h.degraded != nil {
		degraded = h.degraded()
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	r := readiness{Ready: h.ready && !h.draining, Draining: h.draining, Leader: leader, Voter: voter, Reason: h.reason}
	switch {
	case h.draining:
		r.Reason = "draining"
	case !h.ready && r.Reason == "":
		r.Reason = "starting"
	case h.ready && degraded != "":
		r.Degraded, r.Reason = true, degraded
	}
	return r
}

// routes are the node's HTTP pages. metrics may be nil.
func (h *health) routes(metrics http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		fmt.Fprintln(w, "ok")
	})
	mux.HandleFunc("GET /readyz", h.readyz)
	if metrics != nil {
		mux.Handle("GET /metrics", metrics)
	}
	return mux
}

func (h *health) readyz(w http.ResponseWriter, r *http.Request) {
	ans := h.read()
	ok := ans.Ready
	switch role := r.URL.Query().Get("role"); role {
	case "":
	case "leader":
		if ok && !ans.Leader {
			ok, ans.Reason = false, "not the leader"
		}
	case "voter": // of use in a rolling restart: the next node may be stopped when this one votes in both groups
		if ok && !ans.Voter {
			ok, ans.Reason = false, "not yet a voter in both groups"
		}
	default:
		http.Error(w, `role must be "leader" or "voter"`, http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	if !ok {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	if err := json.NewEncoder(w).Encode(ans); err != nil {
		h.log.Debug("answering /readyz", "error", err)
	}
}

// newHTTPServer bounds what a client of the health port can hold.
func newHTTPServer(h http.Handler, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      30 * time.Second,
		IdleTimeout:       30 * time.Second,
		MaxHeaderBytes:    8 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
}

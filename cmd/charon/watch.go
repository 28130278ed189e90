package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	adminv1 "github.com/charon-kdc/charon/proto/charon/admin/v1"
)

// Watching asks for the status again and again, and tells differences. A stream from a node would see what comes and goes within a second, but ends
// with the node; this goes on with the next address, needs nothing of the nodes, and works with those of the release before.
const (
	watchEvery = time.Second
	// watchWait is how long one node may take to answer before the next is asked.
	watchWait = 3 * time.Second
)

// event is one line of --watch.
type event struct {
	Time  string `json:"time"`
	Event string `json:"event"` // lost, back, restarted, leader, no-quorum, healed, health, promoted, demoted, joined, removed, certificate, version, level, watching, silent
	Node  string `json:"node,omitempty"`
	Text  string `json:"text"`
}

// watchStatus prints what changes until the context ends.
func watchStatus(cmd *cobra.Command, c *connection) error {
	f, err := outputFormat(cmd)
	if err != nil {
		return err
	}
	if f == formatYAML {
		return usage(cmd, "--watch prints lines: -o table or -o json")
	}
	ctx, out := cmd.Context(), cmd.OutOrStdout()
	var last *adminv1.GetStatusResponse
	silent := false
	for tick := time.NewTicker(watchEvery); ; {
		st, err := look(ctx, c)
		var events []event
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil && !silent:
			silent = true
			events = []event{{Event: "silent", Text: "no answer: " + describe(err)}}
		case err == nil:
			events = statusEvents(last, st, silent)
			last, silent = st, false
		}
		if err := tell(out, f, events, time.Now()); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func tell(w io.Writer, f format, events []event, now time.Time) error {
	for _, e := range events {
		e.Time = now.UTC().Format(time.RFC3339)
		if f == formatJSON {
			line, err := json.Marshal(e)
			if err != nil {
				return err
			}
			if _, err := fmt.Fprintf(w, "%s\n", line); err != nil {
				return err
			}
			continue
		}
		if _, err := fmt.Fprintf(w, "%s  %s\n", now.UTC().Format("15:04:05Z"), e.Text); err != nil {
			return err
		}
	}
	return nil
}

// look asks the address that worked last, then the others: for one that sees a quorum, or else any that answers.
func look(ctx context.Context, c *connection) (*adminv1.GetStatusResponse, error) {
	var best *adminv1.GetStatusResponse
	var first error
	at := c.at
	for i := range c.conns {
		c.at = (at + i) % len(c.conns)
		call, cancel := context.WithTimeout(ctx, watchWait)
		st := new(adminv1.GetStatusResponse)
		err := c.conns[c.at].Invoke(call, adminv1.Cluster_GetStatus_FullMethodName, &adminv1.GetStatusRequest{Brief: true}, st)
		cancel()
		switch {
		case err == nil && st.GetQuorum():
			return st, nil
		case err == nil && best == nil:
			best = st
		case err != nil && first == nil:
			first = fmt.Errorf("%s: %w", c.addrs[c.at], err)
		}
		if ctx.Err() != nil {
			break
		}
	}
	c.at = at
	if best != nil {
		return best, nil
	}
	if neverSent(first) {
		return nil, &unreachableError{c.addrs, first}
	}
	return nil, first
}

// statusEvents are the lines for what changed; the first status gives its summary.
func statusEvents(old, st *adminv1.GetStatusResponse, wasSilent bool) []event {
	var out []event
	add := func(kind, node, format string, args ...any) {
		out = append(out, event{Event: kind, Node: node, Text: fmt.Sprintf(format, args...)})
	}
	if through := st.GetMeta().GetNode(); old == nil || wasSilent || through != old.GetMeta().GetNode() {
		add("watching", through, "watching through %s: %d nodes, leader %s, %s, feature level %d", orNone(through), len(st.GetNodes()), orNone(st.GetLeader()),
			map[bool]string{true: "quorum ok", false: "no quorum"}[st.GetQuorum()], st.GetFeatureLevel())
		if old == nil {
			return out
		}
	}
	if st.GetLeader() != old.GetLeader() {
		add("leader", st.GetLeader(), "leader %s, was %s", orNone(st.GetLeader()), orNone(old.GetLeader()))
	}
	switch {
	case st.GetQuorum() && !old.GetQuorum():
		add("healed", "", "healed: quorum is back")
	case !st.GetQuorum() && old.GetQuorum():
		add("no-quorum", "", "quorum lost: changes are refused, and tickets are given as without_quorum says")
	}
	if st.GetFeatureLevel() != old.GetFeatureLevel() {
		add("level", "", "feature level %d, was %d", st.GetFeatureLevel(), old.GetFeatureLevel())
	}
	before := map[string]*adminv1.NodeStatus{}
	for _, n := range old.GetNodes() {
		before[n.GetNode().GetName()] = n
	}
	for _, n := range st.GetNodes() {
		name := n.GetNode().GetName()
		if b, known := before[name]; known {
			out = append(out, nodeEvents(b, n)...)
		} else {
			add("joined", name, "%s joined", name)
		}
		delete(before, name)
	}
	for _, n := range old.GetNodes() {
		if name := n.GetNode().GetName(); before[name] != nil {
			add("removed", name, "%s removed", name)
		}
	}
	return out
}

// nodeEvents are what changed of one node.
func nodeEvents(b, n *adminv1.NodeStatus) []event {
	var out []event
	name := n.GetNode().GetName()
	add := func(kind, format string, args ...any) {
		out = append(out, event{Event: kind, Node: name, Text: name + " " + fmt.Sprintf(format, args...)})
	}
	was, is := b.GetStats(), n.GetStats()
	switch {
	case n.GetHealth() == b.GetHealth():
		if was.GetStartedAt() != 0 && is.GetStartedAt() != 0 && was.GetStartedAt() != is.GetStartedAt() {
			add("restarted", "restarted")
		}
	case n.GetHealth() == "down":
		add("lost", "lost")
	case b.GetHealth() == "down":
		add("back", "back%s", besides(n.GetHealth()))
	default:
		add("health", "%s", healthWords(n.GetHealth()))
	}
	voted, votes := b.GetRole() != "non-voter", n.GetRole() != "non-voter"
	switch {
	case !voted && votes:
		add("promoted", "promoted: it votes")
	case voted && !votes:
		add("demoted", "does not vote any more")
	}
	if was.GetCertExpiresAt() != 0 && is.GetCertExpiresAt() > was.GetCertExpiresAt() {
		add("certificate", "has a new certificate, until %s", when(is.GetCertExpiresAt()))
	}
	if b.GetNode().GetVersion() != n.GetNode().GetVersion() && n.GetNode().GetVersion() != "" {
		add("version", "runs %s, was %s", n.GetNode().GetVersion(), orNone(b.GetNode().GetVersion()))
	}
	return out
}

// besides is what a node that is back is like, unless it is well.
func besides(health string) string {
	if health == "ok" {
		return ""
	}
	return ", " + healthWords(health)
}

// healthWords says what a node's health means to who waits for it.
func healthWords(health string) string {
	switch health {
	case "ok":
		return "healed: ok"
	case "degraded":
		return "is serving without quorum"
	case "cut-off":
		return "is cut off: service tickets are refused"
	case "diverged":
		return "has diverged from the other nodes, and serves nothing"
	case "clock":
		return "is out of service for its clock"
	case "lagging":
		return "lags behind the leader"
	}
	return "is " + health
}

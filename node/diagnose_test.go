package node

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/charon-kdc/charon/node/doctor"
	adminv1 "github.com/charon-kdc/charon/proto/charon/admin/v1"
)

// finding waits until a diagnosis of n has that check about that node with that severity and text.
func (n *testNode) finding(check, node string, sev adminv1.Severity, text string) {
	n.t.Helper()
	within(n.t, 30*time.Second, fmt.Sprintf("%s %v of %q with %q", check, sev, node, text), func() error {
		ctx, cancel := context.WithTimeout(n.t.Context(), 10*time.Second)
		defer cancel()
		r, err := adminv1.NewDiagnosisClient(n.dial()).Diagnose(ctx, &adminv1.DiagnoseRequest{})
		if err != nil {
			return err
		}
		var seen []string
		for _, f := range r.GetFindings() {
			if f.GetCheck() == check && f.GetNode() == node {
				if f.GetSeverity() == sev && strings.Contains(f.GetText(), text) {
					return nil
				}
				seen = append(seen, fmt.Sprintf("%v %q", f.GetSeverity(), f.GetText()))
			}
		}
		return fmt.Errorf("found %v", seen)
	})
}

// Faults show up in the diagnosis of a node that is left, with a quorum and without.
func TestDiagnose(t *testing.T) {
	const ok, warned, failed = adminv1.Severity_SEVERITY_OK, adminv1.Severity_SEVERITY_WARN, adminv1.Severity_SEVERITY_FAIL
	c := testConfig(t)
	initNode(t, c, "kdc1")
	n1 := runNode(t, c)
	n1.waitReady()
	n1.finding("quorum.tolerance", "", warned, "one voter")
	n2 := joinNode(t, n1.token("kdc2"), "kdc2")
	n1.waitVoters(2)
	n1.finding("quorum.tolerance", "", warned, "two voters")
	n3 := joinNode(t, n1.token("kdc3"), "kdc3")
	n1.waitVoters(3)
	n2.waitReady()
	n3.waitReady()
	n2.finding("quorum.tolerance", "", ok, "3 voters; 1 more may fail")
	n2.finding("level.versions", "", ok, "all nodes run test")
	n2.finding("keys.krbtgt", "", ok, "krbtgt/EXAMPLE.COM is")
	for _, name := range []string{"kdc1", "kdc2", "kdc3"} {
		n2.finding("node.ready", name, ok, name+" serves")
		n2.finding("cert.node", name, ok, "valid for")
		n2.finding("files.master-key", name, ok, "")
		n2.finding("audit.losses", name, ok, "")
	}

	n3.stop()
	n1.finding("node.down", "kdc3", failed, "kdc3 has not answered kdc1")
	n1.finding("quorum.tolerance", "", warned, "no further one may fail")
	n2.stop()
	n1.finding("quorum.lost", "", failed, "no quorum, says kdc1")

	n1.stop()
	for _, f := range Examine(c, false) {
		if f.Check == "node.process" {
			if f.Severity != doctor.Fail || f.Node != "kdc1" {
				t.Errorf("%+v", f)
			}
			return
		}
	}
	t.Error("nothing is said of a node that does not run")
}

func TestLatencies(t *testing.T) {
	now := time.Duration(0)
	l := newLatencies()
	l.elapsed = func() time.Duration { return now }
	for i := range 3 * latencyKept {
		l.observe("realm", time.Duration(i%100+1)*time.Millisecond)
	}
	l.observe("nobody", time.Hour)
	if p99, longest := l.read("realm"); p99 != 99*time.Millisecond && p99 != 100*time.Millisecond || longest != 100*time.Millisecond {
		t.Error(p99, longest)
	}
	now += latencySpan
	if p99, longest := l.read("realm"); p99 != 0 || longest != 0 {
		t.Error("old writes count:", p99, longest)
	}
}

package node

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// unitSettings reads a unit file as "Section.Key" with every value.
func unitSettings(t *testing.T, path string) map[string][]string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string][]string{}
	section := ""
	for line := range strings.Lines(string(b)) {
		line = strings.TrimSpace(line)
		switch {
		case line == "" || line[0] == '#':
		case line[0] == '[':
			section = strings.Trim(line, "[]") + "."
		default:
			k, v, ok := strings.Cut(line, "=")
			if !ok {
				t.Errorf("%s: %q is no setting", path, line)
			}
			out[section+k] = append(out[section+k], v)
		}
	}
	return out
}

func TestSystemdUnit(t *testing.T) {
	path := filepath.Join("..", "deploy", "charon.service")
	u := unitSettings(t, path)
	for k, want := range map[string]string{
		"Service.Type":                  "notify", // Run says when it serves
		"Service.ExecStart":             "/usr/bin/charon server",
		"Service.ExecReload":            "/bin/kill -HUP $MAINPID", // opens the audit file again
		"Service.LoadCredential":        "master.key:/var/lib/charon/master.key",
		"Service.CapabilityBoundingSet": "CAP_NET_BIND_SERVICE", // ports 88 and 464
		"Service.NoNewPrivileges":       "yes",
		"Service.ProtectSystem":         "strict",
		"Service.StateDirectory":        "charon",
		"Service.LimitCORE":             "0",
		"Service.MemorySwapMax":         "0",
	} {
		if len(u[k]) != 1 || u[k][0] != want {
			t.Errorf("%s is %q, want %q", k, u[k], want)
		}
	}
	// A node's own budget for its end must fit into what systemd gives it.
	if got := u["Service.TimeoutStopSec"]; len(got) != 1 {
		t.Errorf("TimeoutStopSec is %v", got)
	} else if limit, err := strconv.Atoi(got[0]); err != nil || time.Duration(limit)*time.Second <= shutdownBudget+auditBudget {
		t.Errorf("TimeoutStopSec is %v, the node takes up to %v", got, shutdownBudget+auditBudget)
	}
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Log("systemd-analyze is not here; the unit was only read")
		return
	}
	// The binary is not installed here: a copy of the unit names one that is.
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	unit := filepath.Join(t.TempDir(), "charon.service")
	if err := os.WriteFile(unit, []byte(strings.Replace(string(text), "/usr/bin/charon", "/bin/true", 1)), 0o644); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(analyze, "verify", "--man=no", unit).CombinedOutput()
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, "charon.service") {
			t.Errorf("systemd-analyze verify: %s", line)
		}
	}
	if err != nil && strings.Contains(string(out), "charon.service") {
		t.Errorf("systemd-analyze verify: %v", err)
	}
}

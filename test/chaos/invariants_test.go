package chaos

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/prototext"

	"github.com/charon-kdc/charon/kdc/krb5/keytab"
	adminv1 "github.com/charon-kdc/charon/proto/charon/admin/v1"
	"github.com/charon-kdc/charon/test/realm"
)

func fmtPassword(n int) string { return fmt.Sprintf(changing, n) }

// checkDoubles is invariant E. One authenticator in two requests is accepted twice only by nodes that could not ask each other, and each such pair is
// reported when they can again.
func checkDoubles(t *testing.T, k *clients) {
	t.Helper()
	if len(k.double) == 0 {
		return
	}
	for _, names := range k.double {
		if names == "no fault" {
			t.Error("one authenticator was accepted in two requests while nothing was broken")
		}
	}
	reported := 0
	realm.Eventually(t, 30*time.Second, fmt.Sprintf("%d double acceptances to be reported in the audit files", len(k.double)), func() bool {
		seen := map[string]bool{}
		for _, h := range k.c.hosts {
			f, err := os.Open(filepath.Join(h.dir(), "audit.log"))
			if err != nil {
				continue
			}
			for sc := bufio.NewScanner(f); sc.Scan(); {
				if line := sc.Text(); strings.Contains(line, doubleEvent) {
					seen[doubleKey(line)] = true
				}
			}
			f.Close()
		}
		reported = len(seen)
		return reported >= len(k.double)
	})
	t.Logf("%d authenticators accepted twice were reported", reported)
}

// checkSame is invariant B: nothing that was acknowledged is lost, and every node's own state is the same.
func checkSame(t *testing.T, c *cluster, a *admin) {
	t.Helper()
	var first string
	for i, api := range a.conns {
		var text string
		realm.Eventually(t, 30*time.Second, c.hosts[i].name+" to have the same principals", func() bool {
			text = principals(api)
			if i == 0 {
				first = text
			}
			return text != "" && text == first
		})
	}
	if first == "" {
		t.Error("no principals were read")
	}
}

// principals are all records of a node's own state but what differs by nature: each node's knowledge of logins.
func principals(api adminv1.PrincipalsClient) string {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	var b strings.Builder
	for token := ""; ; {
		r, err := api.ListPrincipals(ctx, &adminv1.ListPrincipalsRequest{PageSize: 500, PageToken: token, Consistency: adminv1.Consistency_CONSISTENCY_LOCAL})
		if err != nil {
			return ""
		}
		for _, p := range r.GetPrincipals() {
			p.LastSuccess, p.LastFailure, p.Failures = 0, 0, 0
			// prototext is unstable between builds, not within one.
			b.WriteString(prototext.Format(p))
		}
		if token = r.GetNextPageToken(); token == "" {
			return b.String()
		}
	}
}

// checkSecrets is invariant G: no password and no key in clear text in anything that a node writes or says.
func checkSecrets(t *testing.T, c *cluster) {
	t.Helper()
	var canaries [][]byte
	add := func(secret []byte) {
		canaries = append(canaries, secret, []byte(hex.EncodeToString(secret)), []byte(base64.StdEncoding.EncodeToString(secret)[:len(secret)*4/3-2]))
	}
	add([]byte("canary-"))
	kt, err := keytab.Read(filepath.Join(c.dir, "keytab"))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range kt.Entries {
		add(e.Key.Bytes())
	}
	look := func(what string, text []byte) {
		for _, canary := range canaries {
			if bytes.Contains(text, canary) {
				t.Errorf("a secret stands in %s", what)
				return
			}
		}
	}
	for _, h := range c.hosts {
		if _, text := h.get("/metrics"); text != "" {
			look(h.name+"'s metrics", []byte(text))
		}
		text, err := os.ReadFile(h.log)
		if err != nil {
			t.Error(err)
		}
		look(h.name+"'s log", text)
		err = filepath.WalkDir(h.dir(), func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return err
			}
			text, err := os.ReadFile(path)
			look(path, text)
			return err
		})
		if err != nil {
			t.Error(err)
		}
	}
}

// usage is what a node's process holds.
type usage struct {
	files, goroutines int
	resident          int64 // bytes
}

func (c *cluster) measure() []usage {
	var out []usage
	for _, h := range c.hosts {
		var u usage
		if fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", h.pid())); err == nil {
			u.files = len(fds)
		}
		_, text := h.get("/metrics")
		for line := range strings.Lines(text) {
			name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
			f, err := strconv.ParseFloat(value, 64)
			if err != nil {
				continue
			}
			switch name {
			case "go_goroutines":
				u.goroutines = int(f)
			case "process_resident_memory_bytes":
				u.resident = int64(f)
			}
		}
		out = append(out, u)
	}
	return out
}

// checkUsage is invariant H: after the faults a node holds what it held before them, with room for its caches.
func checkUsage(t *testing.T, c *cluster, base []usage) {
	t.Helper()
	const room = 128 << 20
	for i, h := range c.hosts {
		var u usage
		within := func() bool {
			u = c.measure()[i]
			return u.files > 0 && u.files <= base[i].files+32 && u.goroutines > 0 && u.goroutines <= base[i].goroutines+64 && u.resident <= base[i].resident+room
		}
		end := time.Now().Add(30 * time.Second) // idle connections go in time
		for !within() && time.Now().Before(end) {
			time.Sleep(200 * time.Millisecond)
		}
		t.Logf("%s: %d files, %d goroutines, %d MiB resident; before %d, %d, %d", h.name, u.files, u.goroutines, u.resident>>20, base[i].files, base[i].goroutines, base[i].resident>>20)
		if !within() {
			t.Errorf("%s does not return to its base line", h.name)
		}
	}
}

// outputs is where a failed run leaves its history.
func (c *cluster) outputs() string {
	if *keep == "" {
		return c.dir
	}
	if err := os.MkdirAll(*keep, 0o755); err != nil {
		c.t.Error(err)
	}
	return *keep
}

// keepFailed saves logs of a failed run, or shows their ends.
func (c *cluster) keepFailed() {
	if !c.t.Failed() {
		return
	}
	for _, h := range c.hosts {
		text, err := os.ReadFile(h.log)
		if err != nil {
			continue
		}
		if *keep != "" {
			if err := os.WriteFile(filepath.Join(c.outputs(), h.name+".log"), text, 0o600); err != nil {
				c.t.Error(err)
			}
			if audit, err := os.ReadFile(filepath.Join(h.dir(), "audit.log")); err == nil {
				os.WriteFile(filepath.Join(c.outputs(), h.name+".audit.log"), audit, 0o600)
			}
		}
		if len(text) > 3000 {
			text = text[len(text)-3000:]
		}
		c.t.Logf("--- %s\n%s", h.name, text)
	}
}

const doubleEvent = `"DOUBLE_ACCEPT"`

// doubleKey tells one report from another: the pair that it is about, not who says so.
func doubleKey(line string) string {
	_, rest, ok := strings.Cut(line, `"authenticator":"`)
	if !ok {
		return line
	}
	key, _, _ := strings.Cut(rest, `"`)
	return key
}

// Package clock puts the clocks of real nodes off and checks what the realm makes of it.
package clock

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/charon-kdc/charon/kdc/krb5"
	"github.com/charon-kdc/charon/kdc/krb5/kcrypto"
	"github.com/charon-kdc/charon/test/realm"
)

const password = "correct horse"

// world is a realm of three nodes, each with a file that says how far its clock is off.
type world struct {
	*realm.Realm
	t   *testing.T
	dir string
}

// set puts node i's clock off.
func (w *world) set(i int, off time.Duration) { w.put(strconv.Itoa(w.Nodes[i].PID), off) }

func (w *world) put(name string, off time.Duration) {
	w.t.Helper()
	path := filepath.Join(w.dir, name)
	if err := os.WriteFile(path+".new", []byte(off.String()), 0o600); err != nil {
		w.t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		w.t.Fatal(err)
	}
}

// readyz is whether node i is ready, and why not.
func (w *world) readyz(i int) (ready bool, reason string) {
	c := http.Client{Timeout: 5 * time.Second}
	resp, err := c.Get("http://" + w.Nodes[i].HTTP + "/readyz")
	if err != nil {
		return false, err.Error()
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	var r struct {
		Ready  bool   `json:"ready"`
		Reason string `json:"reason"`
	}
	if err := json.Unmarshal(body, &r); err != nil {
		return false, string(body)
	}
	return r.Ready, r.Reason
}

// offset is what node i's metrics say of its clock.
func (w *world) offset(i int) time.Duration {
	for line := range strings.Lines(realm.Get(w.t, "http://"+w.Nodes[i].HTTP+"/metrics")) {
		if v, ok := strings.CutPrefix(line, "charon_clock_offset_seconds "); ok {
			f, err := strconv.ParseFloat(strings.TrimSpace(v), 64)
			if err != nil {
				w.t.Fatal(err)
			}
			return time.Duration(f * float64(time.Second))
		}
	}
	w.t.Fatal("no charon_clock_offset_seconds")
	return 0
}

// row is node i's line of charon status, as another node sees it.
func (w *world) row(i int) string {
	out, err := w.TryCharon(w.Nodes[(i+1)%3].Socket(), "status")
	if err != nil {
		return err.Error() + " " + out
	}
	for line := range strings.Lines(out) {
		if f := strings.Fields(line); len(f) > 0 && f[0] == w.Nodes[i].Name {
			return line
		}
	}
	return out
}

func (w *world) kinit(kdcs ...string) error {
	s := w.Session(w.t, kdcs)
	out, err := s.Run(password+"\n", "kinit", "alice@"+realm.Name)
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

// ask sends node i an AS-REQ and gives the error code of its answer.
func (w *world) ask(i int) krb5.ErrorCode {
	w.t.Helper()
	cname, sname := krb5.PrincipalName{NameType: krb5.NTPrincipal, NameString: []string{"alice"}}, krb5.TGSName(realm.Name)
	req, err := krb5.EncodeKDCReq(&krb5.KDCReq{MsgType: krb5.MsgASReq, ReqBody: krb5.KDCReqBody{
		CName: &cname, Realm: realm.Name, SName: &sname, Till: time.Now().Add(time.Hour).UTC().Truncate(time.Second),
		Nonce: uint32(time.Now().UnixNano() & 0x7fffffff), EType: []kcrypto.EType{kcrypto.AES256SHA1},
	}})
	if err != nil {
		w.t.Fatal(err)
	}
	c, err := net.Dial("udp", w.Nodes[i].KDC)
	if err != nil {
		w.t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	b := make([]byte, 4096)
	if _, err = c.Write(req); err == nil {
		var n int
		n, err = c.Read(b)
		b = b[:n]
	}
	if err != nil {
		w.t.Fatal(err)
	}
	e, err := krb5.DecodeKRBError(b)
	if err != nil {
		w.t.Fatal(err)
	}
	return e.ErrorCode
}

func near(got, want time.Duration) bool {
	return (got - want).Abs() < 500*time.Millisecond+want.Abs()/100
}

func TestClocks(t *testing.T) {
	dir := realm.TempDir(t)
	t.Setenv("CHARON_TESTCLOCK", filepath.Join(dir, "%p"))
	w := &world{t: t, dir: dir}
	w.Realm = realm.StartBinary(t, realm.Build(t, "charon_testclock"), 3, "--principal", "alice="+password)
	w.Ready(t)

	t.Run("a second is shown", func(t *testing.T) { w.shown(1, time.Second) })
	t.Run("ten seconds are shown", func(t *testing.T) { w.shown(1, 10*time.Second) })
	for _, off := range []time.Duration{5 * time.Minute, -365 * 24 * time.Hour} {
		t.Run(off.String(), func(t *testing.T) { w.out(w.Leader(t), off) })
	}
	t.Run("a start with a clock that is wrong", func(t *testing.T) {
		i := (w.Leader(t) + 1) % 3
		w.Kill(t, i)
		w.put("fixed", time.Hour)
		t.Setenv("CHARON_TESTCLOCK", filepath.Join(dir, "fixed"))
		w.Restart(w.t, i)
		w.gone(i)
		w.others(i)
		w.put("fixed", 0)
		w.Realm.Ready(t)
	})
}

// shown: a clock that is off by less than 30 s costs nothing, and is seen everywhere.
func (w *world) shown(i int, off time.Duration) {
	w.set(i, off)
	realm.Eventually(w.t, 20*time.Second, "the metric to show it", func() bool { return near(w.offset(i), off) })
	realm.Eventually(w.t, 20*time.Second, "charon status to show it", func() bool { return strings.Contains(w.row(i), " +1") /* +1003 ms, +10s */ })
	if ready, reason := w.readyz(i); !ready {
		w.t.Errorf("%v off: not ready: %s", off, reason)
	}
	if err := w.kinit(w.Nodes[i].KDC); err != nil {
		w.t.Errorf("%v off: %v", off, err)
	}
	w.set(i, 0)
	realm.Eventually(w.t, 20*time.Second, "the clock to be right again", func() bool { return near(w.offset(i), 0) })
}

// out: a node that is far off leaves service, the others go on without it, and it comes back by itself.
func (w *world) out(i int, off time.Duration) {
	w.set(i, off)
	w.gone(i)
	if got := w.offset(i); !near(got, off) {
		w.t.Errorf("the metric says %v, want %v", got, off)
	}
	w.others(i)
	w.set(i, 0)
	realm.Eventually(w.t, 60*time.Second, "the node to be back", func() bool { ready, _ := w.readyz(i); return ready })
	realm.Eventually(w.t, 20*time.Second, "a ticket of it", func() bool { return w.kinit(w.Nodes[i].KDC) == nil })
}

// gone waits until node i says that its clock keeps it out, and answers no client.
func (w *world) gone(i int) {
	realm.Eventually(w.t, 60*time.Second, w.Nodes[i].Name+" to leave service", func() bool {
		ready, reason := w.readyz(i)
		return !ready && strings.Contains(reason, "clock is off by")
	})
	realm.Eventually(w.t, 20*time.Second, "charon status to show it", func() bool {
		f := strings.Fields(w.row(i))
		return len(f) > 3 && f[2] == "clock"
	})
	if code := w.ask(i); code != krb5.ErrSvcUnavailable {
		w.t.Errorf("%s answers a client with %v, want KDC_ERR_SVC_UNAVAILABLE: nothing else sends MIT's clients on at once", w.Nodes[i].Name, code)
	}
	// A client that has the others as well gets its ticket at once: the answer sends it on.
	begun := time.Now()
	if err := w.kinit(w.Nodes[i].KDC, w.Nodes[(i+1)%3].KDC, w.Nodes[(i+2)%3].KDC); err != nil {
		w.t.Errorf("a client that asks it first: %v", err)
	}
	if took := time.Since(begun); took > 10*time.Second {
		w.t.Errorf("a client that asks it first took %v", took)
	}
}

// others: the two that are right serve clients and administrators, under a leader of theirs.
func (w *world) others(i int) {
	realm.Eventually(w.t, 30*time.Second, "another node to lead", func() bool {
		l := w.Leader(w.t)
		return l != i
	})
	for _, j := range []int{(i + 1) % 3, (i + 2) % 3} {
		if ready, reason := w.readyz(j); !ready {
			w.t.Errorf("%s is not ready: %s", w.Nodes[j].Name, reason)
		}
		if got := w.offset(j); !near(got, 0) {
			w.t.Errorf("%s thinks that it is %v off", w.Nodes[j].Name, got)
		}
		if err := w.kinit(w.Nodes[j].KDC); err != nil {
			w.t.Errorf("%s: %v", w.Nodes[j].Name, err)
		}
	}
	name := fmt.Sprintf("user%d", time.Now().UnixNano())
	if out, err := w.TryCharon(w.Nodes[(i+1)%3].Socket(), "principal", "add", name, "--random"); err != nil {
		w.t.Errorf("adding a principal: %v\n%s", err, out)
	}
	if out, err := w.TryCharon(w.Nodes[i].Socket(), "principal", "show", name); err != nil {
		w.t.Errorf("its socket forwards no more: %v\n%s", err, out)
	}
}

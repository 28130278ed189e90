// Package hostile sends a running node what no client sends, and looks at what it does to others.
package hostile

import (
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/charon-kdc/charon/test/realm"
)

var seedFlag = flag.Uint64("seed", 0, "seed of the mutations; 0 draws one")

const (
	password = "correct horse"
	// warm is how many goroutines a node may keep for the next burst: the transport's idle workers, and a few connections' own.
	warm = 128 + 30
)

// TestHostileBytes runs every attack against one node, and after each of them a login from a quiet address must
// work, and goroutines, descriptors and memory must come back to what they were.
func TestHostileBytes(t *testing.T) {
	r := realm.Start(t, 1, "--principal", "alice="+password, "--service", "HTTP/web.example.com")
	r.Ready(t)
	s := r.Session(t, nil)
	login := func(t *testing.T) {
		t.Helper()
		s.OK(password+"\n", "kinit", "alice")
		s.OK("", "kvno", "HTTP/web.example.com")
	}
	for range 20 {
		login(t)
	}
	base := usage(t, r.Nodes[0])
	for _, a := range []struct {
		name   string
		attack func(t *testing.T, r *realm.Realm, login func(*testing.T))
	}{
		{"4 GiB length prefix", lengthPrefixes},
		{"slow writers", slowWriters},
		{"idle connections", idleConnections},
		{"mutated captures", mutatedCaptures},
		{"answers to answers", answers},
	} {
		t.Run(a.name, func(t *testing.T) {
			a.attack(t, r, login)
			login(t)
			var now use
			defer func() {
				if t.Failed() {
					t.Logf("at first %+v, now %+v", base, now)
				}
			}()
			realm.Eventually(t, 90*time.Second, "goroutines, descriptors and memory to come back", func() bool {
				now = usage(t, r.Nodes[0])
				return now.goroutines <= base.goroutines+warm && now.descriptors <= base.descriptors+20 && now.resident <= base.resident+128<<20
			})
		})
	}
}

// use is what a process holds.
type use struct {
	goroutines, descriptors int
	resident                int64
}

func usage(t *testing.T, n realm.Node) use {
	t.Helper()
	metrics := realm.Get(t, "http://"+n.HTTP+"/metrics")
	m := regexp.MustCompile(`(?m)^go_goroutines (\d+)`).FindStringSubmatch(metrics)
	if m == nil {
		t.Fatal("/metrics has no go_goroutines")
	}
	var u use
	u.goroutines, _ = strconv.Atoi(m[1])
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", n.PID))
	if err != nil {
		t.Fatal(err)
	}
	u.descriptors = len(fds)
	statm, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", n.PID))
	if err != nil {
		t.Fatal(err)
	}
	pages, err := strconv.ParseInt(strings.Fields(string(statm))[1], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	u.resident = pages * int64(os.Getpagesize())
	return u
}

// dial connects from a loopback address of its own, so that the limit for one address does not hide the others.
func dial(kdc string, from int) (net.Conn, error) {
	d := net.Dialer{Timeout: 5 * time.Second, LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, byte(1+from/200), byte(1+from%200))}}
	return d.Dial("tcp", kdc)
}

// lengthPrefixes: a length that no message has is answered with KRB_ERR_FIELD_TOOLONG (RFC 5021) or a closed connection, and nothing is allocated for it.
func lengthPrefixes(t *testing.T, r *realm.Realm, login func(*testing.T)) {
	for i, length := range []uint32{0xffffffff, 0x80000000, 0x7fffffff, 64<<10 + 1, 0} {
		c, err := dial(r.Nodes[0].KDC, i)
		if err != nil {
			t.Fatal(err)
		}
		c.Write(binary.BigEndian.AppendUint32(nil, length))
		c.Write(make([]byte, 1024))
		c.SetReadDeadline(time.Now().Add(15 * time.Second))
		reply, err := io.ReadAll(c)
		c.Close()
		if ne, ok := err.(net.Error); ok && ne.Timeout() {
			t.Errorf("length %#x: the connection stays open", length)
		}
		if len(reply) > 0 && (len(reply) < 6 || reply[4] != 0x7e) { // [APPLICATION 30]
			t.Errorf("length %#x: answered %x, which is no KRB-ERROR", length, reply)
		}
		if length > 64<<10 && len(reply) > 0 && !strings.Contains(hex.EncodeToString(reply), "a60302013d") { // error-code 61
			t.Errorf("length %#x: answered %x without KRB_ERR_FIELD_TOOLONG", length, reply)
		}
	}
}

// slowWriters send one octet a second of a message that never ends; each must be cut off by the time limit for a whole message.
func slowWriters(t *testing.T, r *realm.Realm, login func(*testing.T)) {
	var wg sync.WaitGroup
	late := make(chan time.Duration, 200)
	for i := range 200 {
		wg.Go(func() {
			c, err := dial(r.Nodes[0].KDC, i)
			if err != nil {
				return
			}
			defer c.Close()
			start := time.Now()
			c.Write([]byte{0, 0, 4, 0})
			for {
				if _, err := c.Write([]byte{0x6a}); err != nil {
					return
				}
				c.SetReadDeadline(time.Now().Add(time.Second))
				if _, err := c.Read(make([]byte, 1)); err != nil {
					if ne, ok := err.(net.Error); !ok || !ne.Timeout() {
						return
					}
				}
				if d := time.Since(start); d > 60*time.Second {
					late <- d
					return
				}
			}
		})
	}
	login(t)
	wg.Wait()
	close(late)
	for d := range late {
		t.Errorf("a slow writer was still connected after %s", d)
	}
}

// idleConnections opens more than a node keeps, from many addresses, and says nothing on any.
func idleConnections(t *testing.T, r *realm.Realm, login func(*testing.T)) {
	var conns []net.Conn
	defer func() {
		for _, c := range conns {
			c.Close()
		}
	}()
	for i := range 5000 {
		c, err := dial(r.Nodes[0].KDC, i%500)
		if err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
		conns = append(conns, c)
	}
	login(t)
	s := r.Session(t, nil, "udp_preference_limit = 1")
	s.OK(password+"\n", "kinit", "alice") // over TCP, while the table is full
}

// capture is as much of a captured exchange as is sent again.
type capture struct {
	Messages []struct {
		Request struct {
			Hex string `json:"hex"`
		} `json:"request"`
	} `json:"messages"`
}

func captured(t *testing.T) [][]byte {
	t.Helper()
	paths, err := filepath.Glob("../../kdc/krb5/testdata/captures/*.json")
	if err != nil || len(paths) < 20 {
		t.Fatalf("captures: %v, %d files", err, len(paths))
	}
	var out [][]byte
	for _, p := range paths {
		var c capture
		data, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		if json.Unmarshal(data, &c) != nil {
			continue // keys.json and constants have another shape
		}
		for _, m := range c.Messages {
			if b, err := hex.DecodeString(m.Request.Hex); err == nil && len(b) > 0 {
				out = append(out, b)
			}
		}
	}
	if len(out) < 40 {
		t.Fatalf("only %d captured requests", len(out))
	}
	return out
}

// mutatedCaptures sends truncations and mutations of real requests. Whatever comes back must be a KRB-ERROR: no captured request fits this realm.
func mutatedCaptures(t *testing.T, r *realm.Realm, login func(*testing.T)) {
	seed := *seedFlag
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("-seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	requests := captured(t)
	c, err := net.Dial("udp", r.Nodes[0].KDC)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	done := make(chan int)
	go func() {
		answered, buf := 0, make([]byte, 65536)
		for {
			n, err := c.Read(buf)
			if err != nil {
				done <- answered
				return
			}
			if n < 1 || buf[0] != 0x7e {
				t.Errorf("answered with tag %#x", buf[0])
			}
			answered++
		}
	}()
	for i := range 20000 {
		b := append([]byte(nil), requests[rnd.IntN(len(requests))]...)
		if i%4 == 0 {
			b = b[:rnd.IntN(len(b)+1)]
		}
		for range rnd.IntN(6) {
			if len(b) > 0 {
				b[rnd.IntN(len(b))] = byte(rnd.Uint32())
			}
		}
		c.Write(b)
		if i%2000 == 0 {
			login(t)
		}
	}
	login(t)
	c.SetReadDeadline(time.Now().Add(time.Second))
	if answered := <-done; answered == 0 {
		t.Error("no mutation was answered: the requests did not arrive")
	}
}

// answers: a KRB-ERROR, an AS-REP and a TGS-REP are never answered (CVE-2002-2443).
func answers(t *testing.T, r *realm.Realm, login func(*testing.T)) {
	c, err := net.Dial("udp", r.Nodes[0].KDC)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var krbError []byte
	c.Write([]byte{0x6a, 0x02, 0x30, 0x00})
	c.SetReadDeadline(time.Now().Add(5 * time.Second))
	buf := make([]byte, 4096)
	if n, err := c.Read(buf); err == nil {
		krbError = append(krbError, buf[:n]...)
	} else {
		krbError, _ = hex.DecodeString("7e3a3038a003020105a10302011ea411180f32303236313132343030303030305aa50302010aa603020106a9041b02582eaa0b3009a003020100a1023000")
	}
	for _, b := range [][]byte{krbError, {0x6b, 0x02, 0x30, 0x00}, {0x6d, 0x02, 0x30, 0x00}} {
		c.Write(b)
		c.SetReadDeadline(time.Now().Add(1500 * time.Millisecond))
		if n, err := c.Read(buf); err == nil {
			t.Errorf("%x was answered with %x", b, buf[:n])
		}
	}
}

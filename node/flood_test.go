package node

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/charon-kdc/charon/kdc/krb5"
)

// asRequest is an AS-REQ without a proof for a client that need not be there.
func asRequest(t testing.TB, client string, nonce uint32) []byte {
	t.Helper()
	cname, sname := krb5.PrincipalName{NameType: krb5.NTPrincipal, NameString: []string{client}}, krb5.TGSName("EXAMPLE.COM")
	b, err := krb5.EncodeKDCReq(&krb5.KDCReq{MsgType: krb5.MsgASReq, ReqBody: krb5.KDCReqBody{
		CName: &cname, Realm: "EXAMPLE.COM", SName: &sname, Till: time.Now().Add(time.Hour).UTC().Truncate(time.Second), Nonce: nonce, EType: DefaultETypes,
	}})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func dialFrom(t testing.TB, from, to string) *net.UDPConn {
	t.Helper()
	addr, err := net.ResolveUDPAddr("udp", to)
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.DialUDP("udp", &net.UDPAddr{IP: net.ParseIP(from)}, addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// metric is one value of the node's /metrics.
func (n *testNode) metric(name string) float64 {
	n.t.Helper()
	resp, err := http.Get("http://" + n.c.HTTP.Address + "/metrics")
	if err != nil {
		n.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		n.t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, name+" "); ok {
			f, err := strconv.ParseFloat(strings.TrimSpace(v), 64)
			if err != nil {
				n.t.Fatal(err)
			}
			return f
		}
	}
	n.t.Fatalf("no %s in /metrics", name)
	return 0
}

// pace keeps a flood at what the server's readers can take: what waits in the system's own buffers waits in one line, whoever sent it. The server shares this process's
// processors with the flood and this machine's with other tests, and the race detector slows it.
func pace(t *testing.T, addr string, burst *atomic.Int64, stop <-chan struct{}) {
	for most := burst.Load(); ; {
		select {
		case <-stop:
			return
		case <-time.After(5 * time.Millisecond):
		}
		if unread(t, addr) > 128<<10 {
			burst.Store(burst.Load() / 2)
		} else if b := burst.Load(); b < most {
			burst.Store(b + 1)
		}
	}
}

// unread is how many bytes wait in the system's buffers, of all sockets at a port.
func unread(t *testing.T, addr string) (sum int64) {
	a := netip.MustParseAddrPort(addr)
	b, err := os.ReadFile("/proc/net/udp")
	if err != nil {
		t.Error(err)
		return 0
	}
	local := fmt.Sprintf(":%04X", a.Port())
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 12 && strings.HasSuffix(f[1], local) {
			_, queue, _ := strings.Cut(f[4], ":")
			n, _ := strconv.ParseInt(queue, 16, 64)
			sum += n
		}
	}
	return sum
}

// A real node under a flood from one prefix, of many times what it can do, of scans, of one hot client and of garbage: a client elsewhere is answered, the node
// stays ready, the audit log keeps its measure, counters move, and what the flood took is given back.
func TestNodeUnderFlood(t *testing.T) {
	c := testConfig(t)
	c.Limits.QueueMax, c.Audit.Queue = 256, 4096
	initNode(t, c, "n1")
	n := runNode(t, c)
	n.waitReady()
	kdc := c.KDC.Addresses[0]
	runtime.GC()
	heapBefore, goroutines := n.metric("go_memstats_heap_inuse_bytes"), runtime.NumGoroutine()

	var reqs [][]byte
	for i := range 4000 {
		switch i % 4 {
		case 0, 1:
			reqs = append(reqs, asRequest(t, fmt.Sprintf("nobody%d", i), uint32(i)))
		case 2:
			reqs = append(reqs, asRequest(t, "hot", uint32(i)))
		default:
			reqs = append(reqs, append(asRequest(t, "x", uint32(i))[:40], make([]byte, 200)...))
		}
	}
	stop := make(chan struct{})
	var flood sync.WaitGroup
	var sent, burst atomic.Int64
	burst.Store(25)
	flood.Go(func() { pace(t, kdc, &burst, stop) })
	for i := range 3 {
		conn := dialFrom(t, fmt.Sprintf("127.0.66.%d", i+1), kdc)
		flood.Go(func() {
			for k := i; ; {
				select {
				case <-stop:
					return
				case <-time.After(time.Millisecond):
				}
				for range burst.Load() {
					_, _ = conn.Write(reqs[k%len(reqs)])
					k++
					sent.Add(1)
				}
			}
		})
	}
	time.Sleep(500 * time.Millisecond) // let it fill every queue; what is asserted below does not hang on it
	good, slowest := 0, time.Duration(0)
	const asked = 60
	for i := range asked {
		conn := dialFrom(t, "127.0.1.1", kdc)
		begun := time.Now()
		for range 3 { // as clients do: again after a second
			if _, err := conn.Write(asRequest(t, "quiet", uint32(1<<20+i))); err != nil {
				t.Fatal(err)
			}
			_ = conn.SetReadDeadline(time.Now().Add(time.Second))
			b := make([]byte, 4096)
			k, err := conn.Read(b)
			if err != nil {
				continue
			}
			if e, err := krb5.DecodeKRBError(b[:k]); err == nil && e.ErrorCode == krb5.ErrCPrincipalUnknown {
				good++
			}
			break
		}
		slowest = max(slowest, time.Since(begun))
		conn.Close()
	}
	if good != asked {
		t.Errorf("%d of %d requests of a quiet client were answered", good, asked)
	}
	if code, body, err := n.get("/readyz"); err != nil || code != http.StatusOK {
		t.Errorf("under the flood /readyz says %d %s, %v", code, body, err)
	}
	close(stop)
	flood.Wait()
	t.Logf("%d sent; the quiet client's slowest answer took %v", sent.Load(), slowest)

	shed := n.metric(`charon_kdc_dropped_total{reason="queue_full"}`)
	limited := n.metric(`charon_kdc_dropped_total{reason="RATE_UNKNOWN"}`)
	if shed+limited == 0 {
		t.Errorf("nothing was shed: %v at the gate, %v by the limit on unknown names", shed, limited)
	}
	t.Logf("%v dropped at the gate, %v unknown names unanswered, %v audit lines left out, %v lost", shed, limited, n.metric("charon_audit_thinned_total"), n.metric("charon_audit_dropped_total"))
	within(t, 30*time.Second, "memory and goroutines to come back", func() error {
		runtime.GC()
		heap, now := n.metric("go_memstats_heap_inuse_bytes"), runtime.NumGoroutine()
		if heap > heapBefore+64<<20 || now > goroutines+200 || n.metric("charon_kdc_waiting") != 0 {
			return fmt.Errorf("%v bytes of heap after %v, %d goroutines after %d", heap, heapBefore, now, goroutines)
		}
		return nil
	})
}

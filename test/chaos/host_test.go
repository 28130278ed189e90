package chaos

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/charon-kdc/charon/test/realm"
)

const (
	// The hosts' addresses are of the range for tests of networks (RFC 2544): 198.18.net.0/24, never routed anywhere.
	hubHost  = 254
	diskSize = 96 << 20
)

// host is one machine of the realm: a network namespace, a disk, and the process of the node when it runs.
type host struct {
	c          *cluster
	name       string // of the node
	i          int
	ns         string
	veth       string
	addr       netip.Addr
	root       string // where the disk is mounted
	clock, log string

	mu      sync.Mutex
	process *exec.Cmd
	ended   chan struct{} // closed when process has ended
	starts  int
}

// cluster is the three machines, and the hub that clients sit at and all traffic passes.
type cluster struct {
	t     *testing.T
	bin   string
	dir   string
	hub   netip.Addr
	hosts []*host
	sky   *sky
	conf  string // krb5.conf through the relays
	kit   string // what charon init printed

	relays sync.WaitGroup
}

// run runs a program that must succeed.
func run(t testing.TB, argv ...string) string {
	t.Helper()
	out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(argv, " "), err, out)
	}
	return string(out)
}

// newCluster makes the machines and the realm on them. Everything goes when the test ends.
func newCluster(t *testing.T, bin string, n int, seed uint64) *cluster {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("the machines of this test are network namespaces and loop devices: run it as root")
	}
	netw := byte(os.Getpid()%250 + 1)
	c := &cluster{t: t, bin: bin, dir: realm.TempDir(t), hub: netip.AddrFrom4([4]byte{198, 18, netw, hubHost}), sky: newSky(seed)}
	run(t, "ip", "address", "add", c.hub.String()+"/32", "dev", "lo")
	t.Cleanup(func() { exec.Command("ip", "address", "del", c.hub.String()+"/32", "dev", "lo").Run() })
	for i := range n {
		c.hosts = append(c.hosts, c.newHost(i, netw))
	}
	c.serveRelays()
	c.makeRealm()
	return c
}

func (c *cluster) newHost(i int, netw byte) *host {
	t := c.t
	h := &host{c: c, i: i, name: fmt.Sprintf("n%d", i+1), addr: netip.AddrFrom4([4]byte{198, 18, netw, byte(i + 1)})}
	h.ns = fmt.Sprintf("charon%d-%d", os.Getpid(), i+1)
	h.veth = fmt.Sprintf("ch%dn%d", os.Getpid()%1000000, i+1)
	run(t, "ip", "netns", "add", h.ns)
	t.Cleanup(func() { run(t, "ip", "netns", "del", h.ns) })
	run(t, "ip", "link", "add", h.veth, "type", "veth", "peer", "name", "eth0", "netns", h.ns)
	t.Cleanup(func() { exec.Command("ip", "link", "del", h.veth).Run() }) // goes with the namespace, if that was quick
	run(t, "ip", "link", "set", h.veth, "up")
	run(t, "ip", "route", "add", h.addr.String()+"/32", "dev", h.veth, "src", c.hub.String())
	h.in("ip", "link", "set", "lo", "up")
	h.in("ip", "address", "add", h.addr.String()+"/32", "dev", "eth0")
	h.in("ip", "link", "set", "eth0", "up")
	h.in("ip", "route", "add", c.hub.String()+"/32", "dev", "eth0")
	h.disk()
	h.clock = filepath.Join(c.dir, h.name+".clock")
	h.log = filepath.Join(c.dir, h.name+".log")
	return h
}

// disk makes the machine's disk, an image on a loop device.
func (h *host) disk() {
	t := h.c.t
	image := filepath.Join(h.c.dir, h.name+".img")
	f, err := os.Create(image)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Truncate(diskSize), f.Close()); err != nil {
		t.Fatal(err)
	}
	run(t, "mkfs.ext4", "-q", "-m", "0", image)
	h.root = filepath.Join(h.c.dir, h.name)
	if err := os.Mkdir(h.root, 0o755); err != nil {
		t.Fatal(err)
	}
	run(t, "mount", "-o", "loop", image, h.root)
	t.Cleanup(func() { run(t, "umount", h.root) })
}

// in runs a program on the machine.
func (h *host) in(argv ...string) string {
	h.c.t.Helper()
	return run(h.c.t, append([]string{"ip", "netns", "exec", h.ns}, argv...)...)
}

func (h *host) dir() string    { return filepath.Join(h.root, "charon") }
func (h *host) config() string { return filepath.Join(h.dir(), "charon.toml") }
func (h *host) socket() string { return "unix://" + filepath.Join(h.dir(), "admin.sock") }

// The relays of a machine listen on the hub.
func (h *host) kdcRelay() string  { return netip.AddrPortFrom(h.c.hub, uint16(8801+h.i)).String() }
func (h *host) peerRelay() string { return netip.AddrPortFrom(h.c.hub, uint16(7701+h.i)).String() }

func (c *cluster) serveRelays() {
	t := c.t
	ctx, cancel := context.WithCancel(context.Background())
	var closers []io.Closer
	t.Cleanup(func() {
		cancel()
		for _, l := range closers {
			l.Close()
		}
		c.relays.Wait()
	})
	for _, h := range c.hosts {
		kdc := &relay{sky: c.sky, to: netip.AddrPortFrom(h.addr, 88), clients: true, ctx: ctx, wg: &c.relays}
		peer := &relay{sky: c.sky, to: netip.AddrPortFrom(h.addr, 7750), ctx: ctx, wg: &c.relays}
		for addr, r := range map[string]*relay{h.kdcRelay(): kdc, h.peerRelay(): peer} {
			ln, err := net.Listen("tcp", addr)
			if err != nil {
				t.Fatal(err)
			}
			closers = append(closers, ln)
			c.relays.Go(func() { r.serveTCP(ln) })
		}
		pc, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.MustParseAddrPort(h.kdcRelay())))
		if err != nil {
			t.Fatal(err)
		}
		closers = append(closers, pc)
		c.relays.Go(func() { kdc.serveUDP(pc) })
	}
}

// makeRealm makes the realm on the first machine and joins the others.
func (c *cluster) makeRealm() {
	t := c.t
	for _, h := range c.hosts {
		text := fmt.Sprintf("dir = %q\n[kdc]\naddresses = [\"%s:88\"]\n[admin]\naddress = \"%s:7749\"\n[peer]\naddress = \"%s:7750\"\nadvertise = %q\n[http]\naddress = \"%s:7780\"\n[raft]\npromote_after = \"500ms\"\n[drain]\nnotice = \"0s\"\n",
			h.dir(), h.addr, h.addr, h.addr, h.peerRelay(), h.addr)
		if err := errors.Join(os.Mkdir(h.dir(), 0o700), os.WriteFile(h.config(), []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	first := c.hosts[0]
	c.kit = first.in(c.bin, "init", "--realm", realm.Name, "--name", first.name, "--config", first.config())
	first.start()
	realm.Eventually(t, 30*time.Second, "the first node", func() bool { return first.ready() != "" })
	for _, h := range c.hosts[1:] {
		token := filepath.Join(c.dir, h.name+".token")
		out, err := c.charon(first.socket(), "token", "create", h.name)
		if err != nil {
			t.Fatalf("token create: %v\n%s", err, out)
		}
		if err := os.WriteFile(token, []byte(out), 0o600); err != nil {
			t.Fatal(err)
		}
		h.in(c.bin, "join", "--config", h.config(), "--token-file", token, "--no-start")
		h.start()
		realm.Eventually(t, 60*time.Second, h.name, func() bool { return h.ready() != "" })
	}
	c.writeConf()
}

// charon runs the command line as root through a node's socket.
func (c *cluster) charon(addr string, argv ...string) (string, error) {
	cmd := exec.Command(c.bin, argv...)
	cmd.Env = append(os.Environ(), "CHARON_ADDR="+addr)
	var out, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &stderr
	err := cmd.Run()
	if err != nil {
		return out.String() + stderr.String(), err
	}
	return out.String(), nil
}

func (c *cluster) writeConf() {
	var b strings.Builder
	fmt.Fprintf(&b, "[libdefaults]\n default_realm = %s\n dns_lookup_kdc = false\n dns_canonicalize_hostname = false\n rdns = false\n[realms]\n %s = {\n", realm.Name, realm.Name)
	for _, h := range c.hosts {
		fmt.Fprintf(&b, "  kdc = %s\n", h.kdcRelay())
	}
	b.WriteString(" }\n")
	c.conf = filepath.Join(c.dir, "krb5.conf")
	if err := os.WriteFile(c.conf, []byte(b.String()), 0o644); err != nil {
		c.t.Fatal(err)
	}
}

// start starts the node's process, if none runs.
func (h *host) start() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.process != nil {
		return
	}
	log, err := os.OpenFile(h.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		h.c.t.Error(err)
		return
	}
	defer log.Close()
	cmd := exec.Command("ip", "netns", "exec", h.ns, h.c.bin, "server", "--config", h.config()) // replaced by charon: its pid is charon's
	cmd.Env = append(os.Environ(), "CHARON_TESTCLOCK="+h.clock)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		h.c.t.Error(err)
		return
	}
	h.starts++
	ended := make(chan struct{})
	h.process, h.ended = cmd, ended
	go func() {
		cmd.Wait()
		h.mu.Lock()
		if h.process == cmd {
			h.process = nil
		}
		h.mu.Unlock()
		close(ended)
	}()
	if h.starts == 1 {
		h.c.t.Cleanup(func() { h.kill() })
	}
}

// pid of the process, 0 when none runs.
func (h *host) pid() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.process == nil {
		return 0
	}
	return h.process.Process.Pid
}

func (h *host) signal(s syscall.Signal) {
	if pid := h.pid(); pid != 0 {
		syscall.Kill(pid, s)
	}
}

// kill ends the process as a power cut of the machine's CPU would, and waits until it is gone.
func (h *host) kill() {
	h.mu.Lock()
	ended := h.ended
	h.mu.Unlock()
	h.signal(syscall.SIGKILL)
	if ended != nil {
		<-ended
	}
}

var web = &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}

func (h *host) get(path string) (int, string) {
	resp, err := web.Get("http://" + netip.AddrPortFrom(h.addr, 7780).String() + path)
	if err != nil {
		return 0, ""
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 16<<20))
	if err != nil {
		return 0, ""
	}
	return resp.StatusCode, string(body)
}

// ready is what /readyz says with 200, else "".
func (h *host) ready() string {
	code, body := h.get("/readyz")
	if code != http.StatusOK {
		return ""
	}
	if body == "" {
		return "ok"
	}
	return body
}

// leads tells whether the node leads the realm group.
func (h *host) leads() bool {
	code, _ := h.get("/readyz?role=leader")
	return code == http.StatusOK
}

// leader is the machine that leads; nil when none says so.
func (c *cluster) leader() *host {
	for _, h := range c.hosts {
		if h.leads() {
			return h
		}
	}
	return nil
}

package sim

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/charon-kdc/charon/adminapi"
	"github.com/charon-kdc/charon/kdc"
	statev1 "github.com/charon-kdc/charon/proto/charon/state/v1"
	"github.com/charon-kdc/charon/raftstore"
	"github.com/charon-kdc/charon/raftstore/logstore"
	"github.com/charon-kdc/charon/raftstore/peer"
	"github.com/charon-kdc/charon/test/sim/disk"
	"github.com/charon-kdc/charon/test/sim/vnet"
)

// node is one machine: its disk and address stay, its processes come and go.
type node struct {
	w        *world
	name, ip string
	id       peer.NodeID
	replayID peer.NodeID
	cert     tls.Certificate
	// offset of its wall clock from the true time.
	offset atomic.Int64

	mu      sync.Mutex
	disk    *disk.Disk
	proc    *process // nil while there is none
	expect  string   // why a process may end by itself now; "" is for no reason
	hold    bool     // not to be started
	old     bool     // an old copy of its disk was put back
	refused bool     // and it was refused
	gone    bool     // for good

	removed bool // from the cluster; guarded by w.mu
}

func (n *node) peerAddr() string  { return n.ip + ":7750" }
func (n *node) adminAddr() string { return n.ip + ":7749" }

func (n *node) now() time.Time { return time.Now().Add(time.Duration(n.offset.Load())) }

func (n *node) process() *process {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.proc
}

// ready tells whether the node serves everything and is fresh.
func (n *node) ready() bool {
	p := n.process()
	if p == nil || !p.isUp() || !p.serving.Load() {
		return false
	}
	_, tgs, _ := p.store.Ready()
	return tgs && p.store.KDB().Fresh()
}

// why it is not ready.
func (n *node) why() string {
	p := n.process()
	switch {
	case p == nil:
		return n.name + " is down"
	case !p.isUp():
		return n.name + " starts"
	}
	_, _, reason := p.store.Ready()
	return fmt.Sprintf("%s: %s, serving %v, fresh %v", n.name, reason, p.serving.Load(), p.store.KDB().Fresh())
}

// process is one life of a node.
type process struct {
	n     *node
	disk  *disk.Disk
	stack *vnet.Stack
	store *raftstore.Store
	kdc   *kdc.Server
	admin *grpc.Server

	up      atomic.Bool // store and kdc are there
	serving atomic.Bool // port 88 is open
	dead    atomic.Bool
	ctx     context.Context
	cancel  context.CancelFunc
	done    chan struct{} // closed when nothing of it runs any more
}

func (p *process) isUp() bool { return p.up.Load() && !p.dead.Load() }

// boot starts a process unless there is one or it is held.
func (n *node) boot(b *raftstore.Bootstrap) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.proc != nil || n.hold || n.gone || n.w.ctx.Err() != nil {
		return
	}
	p := &process{n: n, disk: n.disk, done: make(chan struct{})}
	p.ctx, p.cancel = context.WithCancel(n.w.ctx)
	n.proc, n.expect = p, ""
	p.stack = n.w.net.Boot(n.ip)
	n.w.note("%s starts", n.name)
	n.w.goDo(func() { p.run(b) })
	n.w.quorumChanged()
}

func (p *process) run(b *raftstore.Bootstrap) {
	defer close(p.done)
	n := p.n
	if torn := p.disk.TornVotes(); len(torn) > 0 {
		n.w.violation("votes", "%s: the vote on disk of %v was never given", n.name, torn)
	}
	// What is frozen when the disk stops can't be said to anybody any more.
	err := p.disk.Start(p.hit, func(power bool) {
		p.dead.Store(true)
		p.cancel()
		if power {
			p.stack.PowerOff()
		} else {
			p.stack.Kill()
		}
	})
	if err == nil {
		err = p.open(b)
	}
	if err == nil {
		err = p.store.Start(p.ctx)
	}
	if err != nil {
		p.failed(err)
	} else {
		p.up.Store(true)
		p.serve()
	}
	p.close()
}

// hit is told of an armed fault that has happened.
func (p *process) hit(f disk.Fault) {
	p.n.w.rep.fault("disk: " + faultName(f))
	p.n.w.note("%s: %s at the %s", p.n.name, faultName(f), f.Op)
	if f.Err == nil {
		p.end("power", f.Power, time.Second)
		return
	}
	// A disk that fails must end the process: nothing after a failed write can be believed.
	if !p.n.w.await(20*time.Second, p.dead.Load) {
		p.n.w.violation("failed writes", "%s goes on after %v from its disk", p.n.name, f.Err)
	}
}

func faultName(f disk.Fault) string {
	switch {
	case f.Err != nil:
		return fmt.Sprintf("%v from %s", f.Err, f.Op)
	case f.Power:
		return fmt.Sprintf("power cut %s %s", f.Phase, f.Op)
	}
	return fmt.Sprintf("killed %s %s", f.Phase, f.Op)
}

func (p *process) open(b *raftstore.Bootstrap) error {
	n := p.n
	ln, err := p.stack.Listen(n.peerAddr())
	if err != nil {
		return err
	}
	cert := n.cert
	p.store, err = raftstore.Open(raftstore.Config{
		Dir:      p.disk.Dir(),
		Self:     &statev1.Node{Name: n.name, PeerAddress: n.peerAddr(), AdminAddress: n.adminAddr(), Version: "sim"},
		Listener: ln,
		Identity: peer.Identity{
			ClusterID: n.w.cluster, Dial: p.stack.Dial,
			Certificate: func() (*tls.Certificate, error) { return &cert, nil },
			Roots:       staticRoots(n.w.nodeCA),
		},
		Ring: n.w.ring, Bootstrap: b, RefuseWithoutQuorum: true, Timing: n.w.prof.timing, Now: n.now, Logger: slog.New(logger{p: p}),
		MapSize: 1 << 20, LogMapSize: 1 << 20, Fatal: p.fatal,
		Disk: raftstore.Disk{
			Log:    func(path string, noSync bool) (logstore.Backend, error) { return p.disk.OpenLog(path, noSync) },
			Commit: p.disk.Transaction, Sync: p.disk.Sync,
		},
	})
	if err != nil {
		return err
	}
	p.kdc = kdc.New(kdc.Config{
		Store: p.store.KDB(), Proofs: p.store.Proofs(), Rand: rand.Reader, Now: n.now, StateNow: p.store.Now, Elapsed: time.Now,
		SkewNow: p.store.ClockSkew, Nodes: p.store.Nodes, Logger: slog.New(logger{p: p}),
	})
	api, err := adminapi.New(adminapi.Config{
		Store: p.store, Reader: p.store.DB(), Sealer: n.w.ring, MasterKeys: p.store, Forwarder: p.store.Forward(), Activity: p.store.Proofs(),
		NodeName: n.name, PeerAddress: n.peerAddr(), Version: "sim", Now: p.store.Now, Rand: rand.Reader, Logger: slog.New(logger{p: p}),
	})
	if err != nil {
		return err
	}
	api.Register(p.store.Forward().Server(), adminapi.DoorPeer)
	p.admin = grpc.NewServer(grpc.Creds(credentials.NewTLS(&tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert}, NextProtos: []string{"h2"},
		ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: roots(n.w.adminCA), SessionTicketsDisabled: true,
	})))
	api.Register(p.admin, adminapi.DoorTLS)
	return nil
}

// serve runs until the process is dead.
func (p *process) serve() {
	var wg sync.WaitGroup
	defer wg.Wait()
	ln, err := p.stack.Listen(p.n.adminAddr())
	if err == nil {
		wg.Go(func() { _ = p.admin.Serve(ln) })
	}
	wg.Go(p.openPort88)
	wg.Go(p.watchMembership)
	<-p.ctx.Done()
	p.serving.Store(false)
	p.admin.Stop()
}

// openPort88 is what node.awaitMembers does: clients are answered once a member has vouched for this node or a leader is heard, or after 3 s without anybody.
func (p *process) openPort88() {
	begun := time.Now()
	for p.ctx.Err() == nil {
		if _, led := p.store.Leader(); led || p.store.Vouched() || time.Since(begun) > 3*time.Second {
			p.serving.Store(!p.dead.Load())
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// watchMembership is what node.watchMembership does: a node that sees its own record go stops answering.
func (p *process) watchMembership() {
	was := false
	for p.ctx.Err() == nil {
		_, err := p.store.DB().Node(p.n.id[:])
		if err != nil && was {
			p.serving.Store(false)
			return
		}
		was = err == nil
		time.Sleep(500 * time.Millisecond)
	}
}

// close ends everything of a process, which is dead by now. Nobody hears of it.
func (p *process) close() {
	if p.store == nil {
		return
	}
	at, cancel := context.WithCancel(context.Background())
	cancel() // nothing is handed over
	_ = p.store.Shutdown(at)
}

// fatal is the product's own end. It must not return in production; here it freezes disk and network before it does.
func (p *process) fatal(err error) {
	if p.dead.Load() {
		return
	}
	p.judge(err)
	p.end("fatal: "+err.Error(), false, 0)
}

// failed is a start that came to nothing.
func (p *process) failed(err error) {
	if p.dead.Load() || p.n.w.ctx.Err() != nil {
		return
	}
	p.judge(err)
	p.end("start: "+err.Error(), false, 0)
}

// judge tells whether the process has a reason to end.
func (p *process) judge(err error) {
	n := p.n
	n.mu.Lock()
	old, expect := n.old, n.expect
	if old && errors.Is(err, raftstore.ErrBroken) {
		n.refused, n.gone = true, true
		n.mu.Unlock()
		n.w.note("%s is refused as an old copy: %v", n.name, err)
		return
	}
	n.mu.Unlock()
	if expect == "" && !errors.Is(err, disk.EIO) && !errors.Is(err, disk.ENOSPC) {
		n.w.violation("no reason to end", "%s ends: %v", n.name, err)
		return
	}
	n.w.note("%s ends: %v", n.name, err)
}

// end kills the process, or cuts its power, and has another one started later.
func (p *process) end(why string, power bool, after time.Duration) {
	n := p.n
	p.disk.Stop(power)
	n.mu.Lock()
	if n.proc != p {
		n.mu.Unlock()
		return
	}
	next, err := p.disk.Next()
	n.disk, n.proc = next, nil
	n.mu.Unlock()
	n.w.note("%s is down: %s", n.name, why)
	n.w.quorumChanged()
	if err != nil {
		n.w.violation("simulation", "the disk of %s: %v", n.name, err)
		return
	}
	n.w.goDo(func() {
		<-p.done
		next.Drop()
	})
	if after >= 0 {
		n.w.goDo(func() {
			select {
			case <-time.After(after + 100*time.Millisecond):
				n.boot(nil)
			case <-n.w.ctx.Done():
			}
		})
	}
}

// crash ends the node's process, if there is one, until somebody boots it.
func (n *node) crash(power bool) {
	if p := n.process(); p != nil {
		p.end("crash", power, -1)
	}
}

// restart is orderly: leadership is handed over first.
func (n *node) restart() {
	p := n.process()
	if p == nil {
		return
	}
	n.mu.Lock()
	n.expect = "restart"
	n.mu.Unlock()
	if p.isUp() {
		ctx, cancel := context.WithTimeout(p.ctx, 2*time.Second)
		_ = p.store.HandOver(ctx)
		cancel()
	}
	p.end("restart", false, -1)
	n.boot(nil)
}

// restrain keeps the node down; release lets it be started.
func (n *node) restrain() {
	n.mu.Lock()
	n.hold = true
	n.mu.Unlock()
}

func (n *node) release() {
	n.mu.Lock()
	n.hold = false
	n.mu.Unlock()
	n.boot(nil)
}

// expecting has the process end by itself without being blamed for it; "" takes that back.
func (n *node) expecting(why string) {
	n.mu.Lock()
	n.expect = why
	n.mu.Unlock()
}

// leave ends a node that was removed.
func (n *node) leave() {
	n.mu.Lock()
	n.gone = true
	n.mu.Unlock()
	n.crash(false)
}

// refusedBy is how a member answers the certificate of a node that it does not know; nil: it lets it in.
func (n *node) refusedBy(o *node) error {
	stack := n.w.net.Client("10.0.9.9")
	identity := peer.Identity{
		ClusterID: n.w.cluster, Dial: stack.Dial,
		Certificate: func() (*tls.Certificate, error) { return &n.cert, nil },
		Roots:       staticRoots(n.w.nodeCA),
	}
	ctx, cancel := context.WithTimeout(n.w.ctx, 2*time.Second)
	defer cancel()
	c, err := peer.Dial(ctx, peer.ALPNRealm, o.peerAddr(), &identity, o.id)
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(2 * time.Second))
	_, err = c.Read(make([]byte, 1))
	if ne := net.Error(nil); errors.As(err, &ne) && ne.Timeout() {
		return nil // it was let in, and waits to be spoken to
	}
	return err
}

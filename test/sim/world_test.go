package sim

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	mrand "math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/charon-kdc/charon/kdc/kdb"
	"github.com/charon-kdc/charon/kdc/kdb/masterkey"
	"github.com/charon-kdc/charon/kdc/krb5"
	"github.com/charon-kdc/charon/kdc/krb5/kcrypto"
	"github.com/charon-kdc/charon/node/pki"
	statev1 "github.com/charon-kdc/charon/proto/charon/state/v1"
	"github.com/charon-kdc/charon/raftstore"
	"github.com/charon-kdc/charon/raftstore/realm"
	"github.com/charon-kdc/charon/test/sim/disk"
	"github.com/charon-kdc/charon/test/sim/vnet"
)

const (
	realmName = "SIM.CHARON"
	// etype of every key: the one whose keys are made of passwords fastest.
	etype = kcrypto.AES128SHA1
	// canary begins every password: no log line may have it.
	canary = "Canary-"
)

// world is one cluster with its clients in one bubble.
type world struct {
	t    testing.TB
	seed uint64
	dir  string
	prof profile
	net  *vnet.Net
	rep  *report

	cluster [16]byte
	ring    *masterkey.Ring
	nodeCA  *pki.Authority
	adminCA *pki.Authority
	admin   tls.Certificate

	mu      sync.Mutex
	nodes   []*node // members, and those that join or were removed lately
	made    int     // nodes ever made
	events  []event
	started time.Time
	failed  bool
	quorum  []quorumChange

	keysMu sync.Mutex
	keys   map[string]*kcrypto.Key // of passwords

	wg sync.WaitGroup
	// ctx ends when the run does.
	ctx  context.Context
	stop context.CancelFunc
}

// profile is the timing of a cluster.
type profile struct {
	name   string
	nodes  int
	net    vnet.Config
	timing raftstore.Timing
	// fresh is how long after healing half of the time every node is fresh and ready.
	fresh time.Duration
	// election is how long a quorum may take to a leader, nodes that start included.
	election time.Duration
}

// lan is what charon runs with; wan is raft.performance = 5, for sites some tens of milliseconds apart.
var (
	lan = profile{
		name: "lan", nodes: 3, net: vnet.Config{Delay: 150 * time.Microsecond, Jitter: 500 * time.Microsecond},
		timing: raftstore.Timing{PromoteAfter: 2 * time.Second, SnapshotThreshold: 200, SnapshotInterval: 10 * time.Second, TrailingLogs: 100},
		fresh:  2 * time.Second, election: 3 * time.Second,
	}
	wan = profile{
		name: "wan", nodes: 3, net: vnet.Config{Delay: 15 * time.Millisecond, Jitter: 10 * time.Millisecond},
		timing: raftstore.Timing{
			Heartbeat: 2500 * time.Millisecond, Lease: 1250 * time.Millisecond, Commit: 100 * time.Millisecond, RPC: 10 * time.Second, CommitGap: 10 * time.Millisecond,
			PromoteAfter: 2 * time.Second, SnapshotThreshold: 200, SnapshotInterval: 10 * time.Second, TrailingLogs: 100,
		},
		fresh: 10 * time.Second, election: 15 * time.Second,
	}
)

// event is one line of what happened, for the report of a violation.
type event struct {
	at   time.Duration
	text string
}

// eventsMax bounds what is kept.
const eventsMax = 4000

func newWorld(t testing.TB, dir string, seed uint64, prof profile, rep *report) *world {
	w := &world{
		t: t, seed: seed, dir: dir, prof: prof, rep: rep, net: vnet.New(seed, prof.net), started: time.Now(), keys: map[string]*kcrypto.Key{},
	}
	w.ctx, w.stop = context.WithCancel(context.Background())
	must(t, w.makeAuthorities())
	return w
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (w *world) makeAuthorities() error {
	if _, err := rand.Read(w.cluster[:]); err != nil {
		return err
	}
	var err error
	if w.ring, err = masterkey.Generate(rand.Reader); err != nil {
		return err
	}
	if w.nodeCA, err = pki.NewAuthority(rand.Reader, pki.Nodes, w.cluster, time.Now()); err != nil {
		return err
	}
	if w.adminCA, err = pki.NewAuthority(rand.Reader, pki.Admins, w.cluster, time.Now()); err != nil {
		return err
	}
	key, err := pki.NewKey(rand.Reader)
	if err != nil {
		return err
	}
	der, err := w.adminCA.IssueAdmin(rand.Reader, time.Now(), key.Public(), w.cluster, "root")
	w.admin = tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
	return err
}

// note keeps one line of what happens.
func (w *world) note(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.noteLocked(format, args...)
}

func (w *world) noteLocked(format string, args ...any) {
	w.events = append(w.events, event{time.Since(w.started), fmt.Sprintf(format, args...)})
	if len(w.events) > eventsMax {
		w.events = append(w.events[:0:0], w.events[len(w.events)-eventsMax/2:]...)
	}
}

// violation ends the run: what was promised does not hold.
func (w *world) violation(kind, format string, args ...any) {
	w.mu.Lock()
	first := !w.failed
	w.failed = true
	text := fmt.Sprintf(format, args...)
	w.noteLocked("VIOLATION %s: %s", kind, text)
	var schedule strings.Builder
	for _, e := range w.events[max(0, len(w.events)-*tail):] {
		fmt.Fprintf(&schedule, "  %10.3fs %s\n", e.at.Seconds(), e.text)
	}
	w.mu.Unlock()
	if first {
		w.rep.violation(kind)
		w.t.Errorf("violation of %s, seed %d, profile %s: %s\nwhat happened before:\n%s", kind, w.seed, w.prof.name, text, schedule.String())
	}
}

// dump prints the last lines of what happened.
func (w *world) dump(lines int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var b strings.Builder
	fmt.Fprintf(&b, "seed %d, profile %s\n", w.seed, w.prof.name)
	for _, e := range w.events[max(0, len(w.events)-lines):] {
		fmt.Fprintf(&b, "  %10.3fs %s\n", e.at.Seconds(), e.text)
	}
	fmt.Print(b.String())
}

func (w *world) broken() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.failed
}

// goDo runs f and has the end of the run wait for it.
func (w *world) goDo(f func()) {
	w.wg.Add(1)
	go func() {
		defer w.wg.Done()
		f()
	}()
}

// live are the nodes with a process.
func (w *world) live() (out []*node) {
	for _, n := range w.members() {
		if n.process() != nil {
			out = append(out, n)
		}
	}
	return out
}

// members are the nodes that belong to the cluster, as the simulation means it.
func (w *world) members() (out []*node) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, n := range w.nodes {
		if !n.removed {
			out = append(out, n)
		}
	}
	return out
}

// leader of the realm group, or nil.
func (w *world) leader() *node {
	for _, n := range w.live() {
		if p := n.process(); p != nil && p.isUp() && p.store.IsLeader() {
			return n
		}
	}
	return nil
}

// await polls until ok, at most limit of simulated time.
func (w *world) await(limit time.Duration, ok func() bool) bool {
	for end := time.Now().Add(limit); ; time.Sleep(20 * time.Millisecond) {
		if ok() {
			return true
		}
		if time.Now().After(end) || w.broken() {
			return false
		}
	}
}

// found makes the cluster: one node, and the others join.
func (w *world) found() error {
	first, err := w.newNode()
	if err != nil {
		return err
	}
	commands, err := w.genesis()
	if err != nil {
		return err
	}
	first.boot(&raftstore.Bootstrap{Commands: commands})
	if !w.await(time.Minute, first.ready) {
		return fmt.Errorf("the first node does not become ready: %v", first.why())
	}
	for range w.prof.nodes - 1 {
		if _, err := w.join(); err != nil {
			return err
		}
	}
	return nil
}

// join lets a new node into the cluster, and returns when it votes in both groups.
func (w *world) join() (*node, error) {
	n, err := w.newNode()
	if err != nil {
		return nil, err
	}
	if err := w.startJoin(n); err != nil {
		return nil, err
	}
	return n, w.finishJoin(n)
}

// startJoin starts a node that knows the members.
func (w *world) startJoin(n *node) error {
	var peers []raftstore.JoinPeer
	for _, o := range w.members() {
		if o != n {
			peers = append(peers, raftstore.JoinPeer{ID: o.id.String(), PeerAddress: o.peerAddr()})
		}
	}
	if err := raftstore.SaveJoinPeers(n.disk.Dir(), peers); err != nil {
		return err
	}
	n.boot(nil)
	return nil
}

// finishJoin has the leader add it.
func (w *world) finishJoin(n *node) error {
	if !w.await(2*time.Minute, func() bool { return w.add(n) == nil }) {
		return fmt.Errorf("nobody adds %s", n.name)
	}
	if !w.await(2*time.Minute, func() bool { return w.votes(n) && n.ready() }) {
		return fmt.Errorf("%s does not get to vote: %v", n.name, n.why())
	}
	return nil
}

func (w *world) add(n *node) error {
	l := w.leader()
	if l == nil {
		return raftstore.ErrNoLeader
	}
	p := l.process()
	if p == nil {
		return raftstore.ErrNoLeader
	}
	ctx, cancel := context.WithTimeout(w.ctx, 5*time.Second)
	defer cancel()
	return p.store.AddNode(ctx, &statev1.Node{Id: n.id[:], ReplayId: n.replayID[:], Name: n.name, PeerAddress: n.peerAddr(), AdminAddress: n.adminAddr(), FeatureLevelMax: realm.FeatureLevelMax})
}

// votes tells whether n votes in both groups as the leader sees it.
func (w *world) votes(n *node) bool {
	l := w.leader()
	if l == nil {
		return false
	}
	p := l.process()
	if p == nil {
		return false
	}
	ctx, cancel := context.WithTimeout(w.ctx, time.Second)
	defer cancel()
	voting := func(role string) bool { return role == raftstore.RoleLeader || role == raftstore.RoleFollower }
	for _, s := range p.store.Status(ctx).Nodes {
		if s.Name == n.name {
			return voting(s.Role) && voting(s.ReplayRole)
		}
	}
	return false
}

func (w *world) newNode() (*node, error) {
	w.mu.Lock()
	w.made++
	i := w.made
	w.mu.Unlock()
	n := &node{w: w, name: fmt.Sprintf("n%d", i), ip: fmt.Sprintf("10.0.0.%d", i)}
	var err error
	if n.disk, err = disk.New(filepath.Join(w.dir, n.name), w.seed+uint64(i)); err != nil {
		return nil, err
	}
	if n.id, n.replayID, err = raftstore.Prepare(n.disk.Dir()); err != nil {
		return nil, err
	}
	key, err := pki.NewKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := w.nodeCA.IssueNode(rand.Reader, time.Now(), key.Public(), pki.NodeIdentity{Cluster: w.cluster, Node: n.id, Name: n.name}, []string{n.ip})
	if err != nil {
		return nil, err
	}
	n.cert = tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
	w.mu.Lock()
	w.nodes = append(w.nodes, n)
	w.mu.Unlock()
	return n, nil
}

func roots(a *pki.Authority) *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(a.Cert)
	return p
}

// Principals of the realm that never change: users, and services whose keys are made of passwords that the checks know.
const (
	users    = 4
	services = 3
)

func userName(i int) string    { return fmt.Sprintf("user%d", i) }
func serviceName(i int) string { return fmt.Sprintf("svc%d", i) }
func passwordOf(name string) string {
	return canary + name
}

// genesis is what the realm begins with.
func (w *world) genesis() ([]*statev1.Command, error) {
	var out []*statev1.Command
	add := func(c *statev1.Command) { out = append(out, c) }
	add(&statev1.Command{Op: &statev1.Command_PutCluster{PutCluster: &statev1.PutCluster{Cluster: &statev1.Cluster{
		Id: w.cluster[:], DefaultRealm: realmName, FeatureLevel: realm.FeatureLevelMax, MasterKeyVersion: w.ring.Current(),
	}}}})
	add(&statev1.Command{Op: &statev1.Command_PutRealm{PutRealm: &statev1.PutRealm{Realm: &statev1.Realm{
		Name: realmName, MaxLife: 36000, MaxRenewableLife: 604800, Etypes: []int32{int32(etype)},
	}}}})
	add(&statev1.Command{Op: &statev1.Command_PutRole{PutRole: &statev1.PutRole{Role: &statev1.Role{Id: "root", Subject: "cert:root", Verbs: []string{"*", "extract"}}}}})
	key := make([]byte, 32)
	if _, err := rand.Read(key); err != nil {
		return nil, err
	}
	sealed, err := w.ring.Seal(rand.Reader, masterkey.SecretAAD(w.cluster[:], raftstore.ReplayKeyName), key)
	if err != nil {
		return nil, err
	}
	add(&statev1.Command{Op: &statev1.Command_PutSecret{PutSecret: &statev1.PutSecret{Secret: &statev1.Secret{Name: raftstore.ReplayKeyName, Key: sealed}}}})
	for _, p := range policies {
		add(&statev1.Command{Op: &statev1.Command_PutPolicy{PutPolicy: &statev1.PutPolicy{Policy: p}}})
	}
	principals := []string{"krbtgt/" + realmName}
	for i := range users {
		principals = append(principals, userName(i))
	}
	for i := range services {
		principals = append(principals, serviceName(i))
	}
	for _, name := range principals {
		p, err := w.record(name)
		if err != nil {
			return nil, err
		}
		add(&statev1.Command{Op: &statev1.Command_PutPrincipal{PutPrincipal: &statev1.PutPrincipal{Principal: p}}})
	}
	return out, nil
}

// Policies: counting never locks, locking does after five failures, until an administrator unlocks.
var policies = []*statev1.Policy{
	{Name: "counting", MinLength: 1, MinClasses: 1, MaxFailures: 100_000},
	{Name: "locking", MinLength: 1, MinClasses: 1, MaxFailures: lockAfter},
}

const lockAfter = 5

func (w *world) record(name string) (*statev1.Principal, error) {
	pn := strings.Split(name, "/")
	p := &statev1.Principal{Id: make([]byte, 16), Realm: realmName, Name: pn, NameType: 1, Kvno: 1, Attributes: uint32(kdb.RequiresPreAuth)}
	if len(pn) == 2 {
		p.NameType, p.Attributes = 2, 0
	}
	if _, err := rand.Read(p.Id); err != nil {
		return nil, err
	}
	salt := realmName + strings.Join(pn, "")
	k := w.key(passwordOf(name), salt)
	rec := &statev1.Key{Kvno: 1, Etype: int32(etype), Salt: salt, SaltDefault: true}
	var err error
	rec.Key, err = w.ring.Seal(rand.Reader, masterkey.KeyAAD(w.cluster[:], p, rec), k.Bytes())
	p.Keys = []*statev1.Key{rec}
	return p, err
}

// key of a password, made once.
func (w *world) key(password, salt string) *kcrypto.Key {
	w.keysMu.Lock()
	defer w.keysMu.Unlock()
	id := password + "\x00" + salt
	if k := w.keys[id]; k != nil {
		return k
	}
	k, err := kcrypto.StringToKey(etype, password, salt, nil)
	if err != nil {
		panic(err)
	}
	if len(w.keys) > 500 {
		clear(w.keys)
	}
	w.keys[id] = k
	return k
}

func principal(name string) krb5.PrincipalName {
	return krb5.PrincipalName{NameType: krb5.NTPrincipal, NameString: strings.Split(name, "/")}
}

// logger has every line searched for passwords, and kept for the report of a violation.
type logger struct {
	p    *process
	with string
}

func (l logger) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelInfo }
func (l logger) WithGroup(string) slog.Handler                    { return l }
func (l logger) WithAttrs(attrs []slog.Attr) slog.Handler {
	for _, a := range attrs {
		l.with += " " + a.String()
	}
	return l
}

func (l logger) Handle(_ context.Context, r slog.Record) error {
	var b strings.Builder
	b.WriteString(r.Message + l.with)
	r.Attrs(func(a slog.Attr) bool { b.WriteString(" " + a.String()); return true })
	text := b.String()
	if strings.Contains(text, canary) {
		l.p.n.w.violation("secrets", "%s logs a password: %s", l.p.n.name, text)
	}
	if !l.p.dead.Load() && (*verbose || !strings.HasPrefix(text, "raft: ")) {
		l.p.n.w.note("%s log: %s %s", l.p.n.name, r.Level, text)
	}
	return nil
}

// pick is one of list.
func pick[T any](r *mrand.Rand, list []T) T { return list[r.IntN(len(list))] }

func shuffled[T any](r *mrand.Rand, list []T) []T {
	out := slices.Clone(list)
	r.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
	return out
}

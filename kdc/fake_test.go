package kdc

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/charon-kdc/charon/kdc/kdb"
	"github.com/charon-kdc/charon/kdc/krb5"
	"github.com/charon-kdc/charon/kdc/krb5/kcrypto"
)

const testRealm = "EXAMPLE.COM"

var (
	testNow  = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	testPeer = netip.MustParseAddrPort("192.0.2.7:40000")
)

// fakeStore is a kdb.Store in memory.
type fakeStore struct {
	mu         sync.Mutex
	realms     map[string]*kdb.Realm
	principals map[string]*kdb.Principal // by text with realm; aliases point to the same one
	stale      bool                      // Fresh is false, and what is not there may be elsewhere
	degraded   bool                      // Degraded is true; set stale as well
	made       int
	after      func(name string) // called after each look-up of a principal, when it has its answer
	catchUp    func(ctx context.Context) error
}

func (s *fakeStore) Realm(name string) (*kdb.Realm, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r, ok := s.realms[name]; ok {
		return r, nil
	}
	return nil, kdb.ErrNotFound
}

func (s *fakeStore) Principal(realm string, name krb5.PrincipalName) (*kdb.Principal, error) {
	p, after, err := s.find(realm, name)
	if after != nil {
		after(name.String())
	}
	if errors.Is(err, kdb.ErrNotFound) && !s.Fresh() {
		err = kdb.ErrStale
	}
	return p, err
}

func (s *fakeStore) find(realm string, name krb5.PrincipalName) (*kdb.Principal, func(string), error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p, ok := s.principals[krb5.FormatPrincipal(name, realm)]; ok {
		return p, s.after, nil
	}
	return nil, s.after, kdb.ErrNotFound
}

func (s *fakeStore) Fresh() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.stale
}

// CatchUp is what the test says it is; else nothing comes.
func (s *fakeStore) CatchUp(ctx context.Context) error {
	s.mu.Lock()
	f := s.catchUp
	s.mu.Unlock()
	if f == nil {
		return nil
	}
	return f(ctx)
}

func (s *fakeStore) Degraded() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.degraded
}

// cutOff makes the node one that serves without the others.
func (s *fakeStore) cutOff() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stale, s.degraded = true, true
}

func (s *fakeStore) setStale(stale bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stale = stale
}

// put makes or replaces a principal; a new one gets an id of its own.
func (s *fakeStore) put(p *kdb.Principal, as ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p.ID == (kdb.ID{}) {
		s.made++
		h := sha256.Sum256(fmt.Appendf(nil, "%d", s.made))
		copy(p.ID[:], h[:])
	}
	s.principals[krb5.FormatPrincipal(p.Name, p.Realm)] = p
	for _, alias := range as {
		s.principals[alias+"@"+p.Realm] = p
	}
}

// change replaces a principal by a changed copy, as the real store does: what a reader holds never changes.
func (s *fakeStore) change(name string, f func(p *kdb.Principal)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	old, ok := s.principals[name+"@"+testRealm]
	if !ok {
		panic("no principal " + name)
	}
	p := *old
	f(&p)
	for k, v := range s.principals {
		if v == old {
			s.principals[k] = &p
		}
	}
}

func (s *fakeStore) remove(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.principals, name+"@"+testRealm)
}

// fakeProofs is a kdb.Proofs in memory, for one node.
type fakeProofs struct {
	mu        sync.Mutex
	seen      map[string]string // ciphertext -> request
	activity  map[kdb.ID]kdb.Activity
	now       func() time.Time
	answer    func() (kdb.Verdict, error) // overrides verdicts
	hold      chan struct{}               // not nil: Wait waits for it to be closed
	later     []kdb.Attempt               // failures that count when hold is closed by release
	attempts  []kdb.Attempt
	submits   int
	relaxable bool         // the last submitted one was
	held      atomic.Int32 // who waits for hold
}

// waits tells whether anybody waits for a held verdict.
func (f *fakeProofs) waits() bool { return f.held.Load() > 0 }

type fakePending struct {
	v    kdb.Verdict
	err  error
	hold chan struct{}
	held *atomic.Int32
}

func (p fakePending) Wait(ctx context.Context) (kdb.Verdict, error) {
	if p.hold != nil {
		p.held.Add(1)
		defer p.held.Add(-1)
		select {
		case <-p.hold:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
	return p.v, p.err
}

func (f *fakeProofs) verdict(p kdb.Proof) fakePending {
	out := fakePending{hold: f.hold, held: &f.held, v: kdb.Fresh}
	if f.answer != nil {
		out.v, out.err = f.answer()
		return out
	}
	r, seen := f.seen[string(p.Ciphertext)]
	switch {
	case !seen:
		f.seen[string(p.Ciphertext)] = string(p.Request)
	case r == string(p.Request):
		out.v = kdb.Same
	default:
		out.v = kdb.Repeat
	}
	return out
}

func (f *fakeProofs) Submit(p kdb.Proof) kdb.Pending {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.submits++
	f.relaxable = p.Relaxable
	return f.verdict(p)
}

func (f *fakeProofs) Attempt(a kdb.Attempt) kdb.Pending {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.attempts = append(f.attempts, a)
	v := f.verdict(a.Proof)
	if v.v != kdb.Fresh {
		return v
	}
	if a.Failed && f.hold != nil { // it counts when its verdict is there
		f.later = append(f.later, a)
		return v
	}
	f.count(a)
	return v
}

// release gives the held verdicts, and holds none from now on.
func (f *fakeProofs) release() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, a := range f.later {
		f.count(a)
	}
	close(f.hold)
	f.hold, f.later = nil, nil
}

func (f *fakeProofs) count(a kdb.Attempt) {
	act, now := f.activity[a.Client], f.now()
	if a.Failed {
		if !act.LastFailure.After(a.UnlockedAt) || a.FailureWindow > 0 && now.Sub(act.LastFailure) > a.FailureWindow {
			act.Failures = 0
		}
		act.Failures++
		act.LastFailure = now
	} else {
		act.Failures, act.LastSuccess = 0, now
	}
	f.activity[a.Client] = act
}

func (f *fakeProofs) SeenHere(p kdb.Proof) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	r, seen := f.seen[string(p.Ciphertext)]
	return seen && r != string(p.Request)
}

func (f *fakeProofs) Activity(id kdb.ID) kdb.Activity {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.activity[id]
}

// seeded is a random source that is the same in each run. It may be used by several goroutines.
type seeded struct {
	mu sync.Mutex
	r  *rand.ChaCha8
}

func (s *seeded) Read(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.r.Read(b)
}

func newSeeded(seed byte) *seeded { return &seeded{r: rand.NewChaCha8([32]byte{seed})} }

// world is a realm in memory, a KDC over it, and a clock to move.
type world struct {
	t      testing.TB
	store  *fakeStore
	proofs *fakeProofs
	kdc    *Server
	rand   *seeded
	mu     sync.Mutex
	clock  time.Time
	events []*Event
}

func newWorld(t testing.TB, options ...func(*Config)) *world {
	w := &world{t: t, rand: newSeeded(1), clock: testNow}
	w.store = &fakeStore{realms: map[string]*kdb.Realm{}, principals: map[string]*kdb.Principal{}}
	w.proofs = &fakeProofs{seen: map[string]string{}, activity: map[kdb.ID]kdb.Activity{}, now: w.now}
	w.store.realms[testRealm] = &kdb.Realm{
		Name: testRealm, MaxLife: 10 * time.Hour, MaxRenewableLife: 7 * 24 * time.Hour,
		ETypes: []kcrypto.EType{kcrypto.AES256SHA2, kcrypto.AES128SHA2, kcrypto.AES256SHA1, kcrypto.AES128SHA1},
	}
	c := Config{Store: w.store, Proofs: w.proofs, Now: w.now, Rand: w.rand, Observe: w.observe}
	for _, o := range options {
		o(&c)
	}
	w.kdc = New(c)
	w.princ("krbtgt/" + testRealm)
	return w
}

func (w *world) now() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.clock
}

func (w *world) pass(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.clock = w.clock.Add(d)
}

func (w *world) observe(e *Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.events = append(w.events, e)
}

func (w *world) lastEvent() *Event {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.events) == 0 {
		return &Event{}
	}
	return w.events[len(w.events)-1]
}

var allAES = []kcrypto.EType{kcrypto.AES256SHA2, kcrypto.AES128SHA2, kcrypto.AES256SHA1, kcrypto.AES128SHA1}

// princ adds a principal with random AES keys.
func (w *world) princ(name string, attrs ...kdb.Attributes) *kdb.Principal {
	p := &kdb.Principal{Realm: testRealm, Name: mustName(name), KVNO: 1}
	for _, a := range attrs {
		p.Attributes |= a
	}
	w.keys(p, "", allAES...)
	w.store.put(p)
	return p
}

// user adds a principal with a password, which must prove itself.
func (w *world) user(name string) *kdb.Principal {
	p := &kdb.Principal{Realm: testRealm, Name: mustName(name), KVNO: 1, Attributes: kdb.RequiresPreAuth}
	w.keys(p, "pw-"+name, allAES...)
	w.store.put(p)
	return p
}

// keys gives p keys of its current kvno: random ones, or from a password and the default salt.
func (w *world) keys(p *kdb.Principal, password string, es ...kcrypto.EType) {
	p.Keys = nil
	for _, e := range es {
		salt := krb5.DefaultSalt(p.Realm, p.Name)
		var k *kcrypto.Key
		var err error
		if password == "" {
			k, err = kcrypto.GenerateKey(w.rand, e)
		} else {
			k, err = testStringToKey(e, password, salt)
		}
		if err != nil {
			w.t.Fatal(err)
		}
		p.Keys = append(p.Keys, kdb.Key{KVNO: p.KVNO, EType: e, Salt: salt, SaltDefault: true, Key: k})
	}
}

// testStringToKey is cheap: what makes password keys dear is tested in kcrypto.
func testStringToKey(e kcrypto.EType, password, salt string) (*kcrypto.Key, error) {
	h := sha256.Sum256([]byte(password + "\x00" + salt + e.String()))
	return kcrypto.NewKey(e, h[:e.KeySize()])
}

func mustName(s string) krb5.PrincipalName {
	n, _, err := krb5.ParsePrincipal(s, testRealm)
	if err != nil {
		panic(err)
	}
	return n
}

// send gives a message to the KDC over UDP, from the usual peer.
func (w *world) send(b []byte) []byte {
	return w.kdc.Answer(context.Background(), Request{Data: b, Peer: testPeer, TCP: true})
}

package kdc

import (
	"context"
	"crypto/rand"
	"io"
	"syscall"
	"testing"
	"time"

	"github.com/charon-kdc/charon/kdc/kdb"
	"github.com/charon-kdc/charon/kdc/krb5/kcrypto"
)

// benchProofs is as fast as a replay cache can be: it remembers nothing.
type benchProofs struct{}

func (benchProofs) Submit(kdb.Proof) kdb.Pending     { return fakePending{v: kdb.Fresh} }
func (benchProofs) Attempt(kdb.Attempt) kdb.Pending  { return fakePending{v: kdb.Fresh} }
func (benchProofs) SeenHere(kdb.Proof) bool          { return false }
func (benchProofs) Activity(kdb.ID) (a kdb.Activity) { return a }
func benchWorld(b *testing.B, rand io.Reader, observe func(*Event)) *world {
	w := newWorld(b, func(c *Config) { c.Rand, c.Proofs, c.Observe = rand, benchProofs{}, observe })
	w.user("alice")
	w.princ("HTTP/web")
	return w
}

// benchmark answers each prepared request once; the preparation is not timed.
func benchmark(b *testing.B, make func(w *world) []byte) {
	w := benchWorld(b, rand.Reader, func(*Event) {})
	reqs := [][]byte{}
	for range min(b.N, 5000) {
		reqs = append(reqs, make(w))
	}
	peer := Request{Peer: testPeer}
	b.ReportAllocs()
	b.ResetTimer()
	start := cpuTime(b)
	defer func() { b.ReportMetric(float64(cpuTime(b)-start)/float64(b.N), "cpu-ns/op") }()
	for i := range b.N {
		if i%len(reqs) == 0 {
			w.kdc.lookaside = newLookaside()
		}
		peer.Data = reqs[i%len(reqs)]
		if len(w.kdc.Answer(context.Background(), peer)) < 200 {
			b.Fatal("no ticket")
		}
	}
}

// cpuTime is the processor time of this process: what counts on a machine that others use, too.
func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func BenchmarkAS(b *testing.B) {
	benchmark(b, func(w *world) []byte { return w.asReq(asReq{client: "alice", password: "pw-alice", encPARep: true}) })
}

func BenchmarkNeededPreauth(b *testing.B) {
	benchmark(b, func(w *world) []byte { return w.asReq(asReq{client: "alice"}) })
}

func benchmarkTGS(b *testing.B, etypes []kcrypto.EType) {
	tgts := map[*world]*cred{} // each run of a benchmark has a realm of its own
	benchmark(b, func(w *world) []byte {
		if tgts[w] == nil {
			tgts[w] = w.login(asReq{client: "alice", etypes: etypes})
		}
		return w.tgsReq(tgsReq{tgt: tgts[w], server: "HTTP/web", etypes: etypes})
	})
}

func BenchmarkTGS(b *testing.B)     { benchmarkTGS(b, []kcrypto.EType{kcrypto.AES256SHA1}) }
func BenchmarkTGSSHA2(b *testing.B) { benchmarkTGS(b, []kcrypto.EType{kcrypto.AES256SHA2}) }

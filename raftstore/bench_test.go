package raftstore

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/charon-kdc/charon/kdc/kdb"
)

// BenchmarkLookup is the hot path: a principal whose keys are open.
func BenchmarkLookup(b *testing.B) {
	c := newCluster(b, 1, nil)
	n := c.nodes[0]
	n.propose(create(c.principal("alice", 1)))
	if _, err := n.lookup("alice"); err != nil {
		b.Fatal(err)
	}
	store, name := n.store.KDB(), krbName("alice")
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := store.Principal(testRealm, name); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

// BenchmarkVerdict is one authenticator through the log, with 64 requests at once on the node asked.
func BenchmarkVerdict(b *testing.B) {
	for _, nodes := range []int{1, 3} {
		b.Run(fmt.Sprintf("nodes=%d", nodes), func(b *testing.B) {
			c := newCluster(b, nodes, nil)
			c.waitReady()
			proofs := c.nodes[nodes-1].store.Proofs()
			var next atomic.Int64
			request := make([]byte, 600)
			b.SetParallelism(64)
			b.ReportAllocs()
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					p := kdb.Proof{Ciphertext: fmt.Appendf(nil, "%d", next.Add(1)), Request: request, Time: c.ctime}
					if v, err := proofs.Submit(p).Wait(context.Background()); err != nil || !accepted(v) {
						b.Error(v, err)
						return
					}
				}
			})
		})
	}
}

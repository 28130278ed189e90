package raftstore

import (
	"hash/maphash"
	"sync"
	"sync/atomic"
)

const shards = 32

// cache is a bounded map from byte keys that reads without allocating and nearly without locking. A full shard drops an entry
// that was not used since the last look at it. What a reader loads from the state is kept only if nothing was invalidated
// since before the read: else a slow reader would put back what a writer has just thrown out.
type cache[V any] struct {
	seed   maphash.Seed
	max    int // entries a shard
	shards [shards]shard[V]
}

type shard[V any] struct {
	mu  sync.RWMutex
	gen uint64
	m   map[string]*entry[V]
}

type entry[V any] struct {
	v    V
	used atomic.Bool
}

func newCache[V any](size int) *cache[V] {
	c := &cache[V]{seed: maphash.MakeSeed(), max: max(1, size/shards)}
	for i := range c.shards {
		c.shards[i].m = map[string]*entry[V]{}
	}
	return c
}

func (c *cache[V]) shard(key []byte) *shard[V] {
	return &c.shards[maphash.Bytes(c.seed, key)%shards]
}

// get also returns the generation to hand to put.
func (c *cache[V]) get(key []byte) (v V, gen uint64, ok bool) {
	s := c.shard(key)
	s.mu.RLock()
	e, ok := s.m[string(key)]
	gen = s.gen
	s.mu.RUnlock()
	if !ok {
		return v, gen, false
	}
	if !e.used.Load() {
		e.used.Store(true)
	}
	return e.v, gen, true
}

func (c *cache[V]) put(key []byte, gen uint64, v V) {
	s := c.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gen != gen {
		return
	}
	if _, ok := s.m[string(key)]; !ok && len(s.m) >= c.max {
		s.evict()
	}
	s.m[string(key)] = &entry[V]{v: v}
}

// evict looks at a few entries, which Go picks at random, and drops the first that was not used lately, or the last seen.
func (s *shard[V]) evict() {
	seen := 0
	for k, e := range s.m {
		seen++
		if !e.used.Swap(false) || seen == 16 {
			delete(s.m, k)
			return
		}
	}
	for k := range s.m { // fewer than 16, all used
		delete(s.m, k)
		return
	}
}

func (c *cache[V]) drop(key []byte) {
	s := c.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gen++
	delete(s.m, string(key))
}

func (c *cache[V]) clear() {
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.Lock()
		s.gen++
		clear(s.m)
		s.mu.Unlock()
	}
}

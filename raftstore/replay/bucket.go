package replay

import "encoding/binary"

// item is 24 bytes.
type item struct {
	k [16]byte
	r [8]byte
}

const (
	chunkItems  = 512
	bucketItems = 1<<24 - 1 // what an index slot can point to
	firstChunk  = 8
)

// bucket holds the proofs of two seconds in the order in which they came, with an open-addressing index beside it: about
// 30 bytes an item. Items only ever are appended, so a snapshot that notes chunks and n may read them while the log goes on.
type bucket struct {
	// chunks hold chunkItems items each, so that growing copies nothing; the first one grows by doubling up to that.
	chunks [][]item
	n      int
	sum    sum // of the items
	// index holds, at the place K hashes to or behind it, 1 + the item's offset in the low 24 bits and 8 bits of K above;
	// 0 is free. Its length is a power of two, at most 7/8 of it in use. K is a keyed hash: nobody can aim at a chain.
	index []uint32
}

func hashOf(k *[16]byte) (place uint64, tag uint32) {
	return binary.LittleEndian.Uint64(k[:8]), uint32(k[8])
}

func (b *bucket) at(i uint32) *item { return &b.chunks[i/chunkItems][i%chunkItems] }

// lookup returns the R stored with k.
func (b *bucket) lookup(k [16]byte) (r [8]byte, seen bool) {
	if len(b.index) == 0 {
		return r, false
	}
	place, tag := hashOf(&k)
	mask := uint64(len(b.index) - 1)
	for p := place & mask; b.index[p] != 0; p = (p + 1) & mask {
		if b.index[p]>>24 != tag {
			continue
		}
		if it := b.at(b.index[p]&bucketItems - 1); it.k == k {
			return it.r, true
		}
	}
	return r, false
}

// add stores an item that is not there. It refuses when the bucket is full, which takes eight million proofs a second.
func (b *bucket) add(it item) bool {
	if b.n >= bucketItems-1 {
		return false
	}
	if 8*(b.n+1) > 7*len(b.index) {
		b.grow()
	}
	c, within := b.n/chunkItems, b.n%chunkItems
	switch {
	case c == len(b.chunks) && c == 0:
		b.chunks = append(b.chunks, make([]item, firstChunk))
	case c == len(b.chunks):
		b.chunks = append(b.chunks, make([]item, chunkItems))
	case within == len(b.chunks[c]):
		larger := make([]item, 2*within)
		copy(larger, b.chunks[c])
		b.chunks[c] = larger
	}
	b.chunks[c][within] = it
	b.sum.add(it.sum())
	b.point(uint32(b.n))
	b.n++
	return true
}

// point enters item i into the index.
func (b *bucket) point(i uint32) {
	place, tag := hashOf(&b.at(i).k)
	mask := uint64(len(b.index) - 1)
	p := place & mask
	for b.index[p] != 0 {
		p = (p + 1) & mask
	}
	b.index[p] = tag<<24 | (i + 1)
}

func (b *bucket) grow() {
	b.index = make([]uint32, max(2*firstChunk, 2*len(b.index)))
	for i := range b.n {
		b.point(uint32(i))
	}
}

// frozen is a bucket as it was when a snapshot began.
type frozen struct {
	number int64
	chunks [][]item
	n      int
}

func (b *bucket) freeze(number int64) frozen {
	return frozen{number: number, chunks: append([][]item(nil), b.chunks...), n: b.n}
}

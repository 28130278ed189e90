package transport

import "sync"

// bufferClasses are the sizes that are pooled: nearly every request, one with a PAC or FAST, rare ones, the largest by default with its prefix.
var bufferClasses = [...]int{2 << 10, 8 << 10, 32 << 10, 64<<10 + prefixLen}

// poisonByte is what a returned buffer is filled with under Config.PoisonBuffers: no DER message begins with it.
const poisonByte = 0xdb

// buffers lends byte slices. The zero value works.
type buffers struct {
	pools  [len(bufferClasses)]sync.Pool
	poison bool
}

// buffer is a lent slice. It is given back by put, at most once.
type buffer struct {
	b     []byte
	class int // index of its pool; len(bufferClasses) for one that is too large to keep
}

// get lends a buffer of at least n octets; len(b) is its whole size.
func (p *buffers) get(n int) *buffer {
	for class, size := range bufferClasses {
		if n > size {
			continue
		}
		if b, ok := p.pools[class].Get().(*buffer); ok {
			return b
		}
		return &buffer{b: make([]byte, size), class: class}
	}
	return &buffer{b: make([]byte, n), class: len(bufferClasses)}
}

// put takes b back. The caller must not touch it again.
func (p *buffers) put(b *buffer) {
	p.spoil(b.b)
	if b.class < len(p.pools) {
		p.pools[b.class].Put(b)
	}
}

// spoil overwrites b when buffers are poisoned.
func (p *buffers) spoil(b []byte) {
	if !p.poison {
		return
	}
	for i := range b {
		b[i] = poisonByte
	}
}

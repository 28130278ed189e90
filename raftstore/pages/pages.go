// Package pages reads bbolt files without bbolt, which trusts every byte of them: a flipped bit in a page can make keys vanish,
// or bbolt panic. Verify is run over a file before bbolt may open it, and over its transactions while it is open.
//
// It owns what bbolt's format says (go.etcd.io/bbolt, internal/common: two meta pages, then a tree of branch and leaf pages, whose leaves
// hold records and buckets). It must not know what buckets and records mean; their owners give a function that does. It never writes.
//
// What it holds a file against is stricter than what bbolt reads, and is just what bbolt writes: elements are packed without gaps, a run of
// pages is as long as its content needs, no page is used twice, keys rise within pages and across them. So one flipped bit anywhere in a
// page's header or elements is found. Keys and values have checksums of their owners' own.
package pages

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"os"
	"runtime"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// ErrDamaged says that a file is not as bbolt wrote it.
var ErrDamaged = errors.New("damaged file")

const (
	magic      = 0xED0CDAED
	version    = 2
	metaSize   = 64 // up to the checksum and with it
	headerSize = 16 // of a page
	elemSize   = 16 // of a leaf or branch element
	bucketSize = 16 // root page and sequence, before an inline page
	noFreelist = ^uint64(0)

	flagBranch   = 0x01
	flagLeaf     = 0x02
	flagFreelist = 0x10
	elemBucket   = 0x01

	depthMax = 24 // a tree of two keys a page with that depth has more pages than a file can
)

var le = binary.LittleEndian

// Options of Verify.
type Options struct {
	// TxID is the transaction to read, while bbolt has it open for reading. 0: the last one, of a file that nobody writes.
	TxID uint64
	// TornMeta allows a meta page that is neither valid nor one bit away from it, as a power cut leaves it on a disk that writes less
	// than a sector at once. The file is then as it was a transaction earlier.
	TornMeta bool
	// Workers is how many goroutines read. 0: one a CPU.
	Workers int
	// Visit, if not nil, is called with every record; worker is below Workers, and calls with one worker never overlap. Key and value are
	// only valid during the call.
	Visit func(worker int, bucket string, key, value []byte) error
	// Pace, if not nil, is called with the bytes of each page before it is read, from any worker; its error ends the walk.
	Pace func(bytes int) error
}

// Result is what a walk has found.
type Result struct {
	TxID uint64
	// Torn: one of the meta pages was (Options.TornMeta), so a transaction may be missing.
	Torn bool
	// Pages reached, of PageSize bytes each.
	Pages    uint64
	PageSize int
}

// Verify walks the tree of the bbolt file at path. It uses a bit of memory a page, whatever is in the file. Errors: ErrDamaged, Visit's,
// Pace's, or the file can't be read.
func Verify(path string, o Options) (Result, error) {
	f, err := os.Open(path)
	if err != nil {
		return Result{}, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return Result{}, err
	}
	if fi.Size() == 0 || fi.Size() > 1<<46 {
		return Result{}, fmt.Errorf("%w: %d bytes", ErrDamaged, fi.Size())
	}
	m, err := unix.Mmap(int(f.Fd()), 0, int(fi.Size()), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return Result{}, fmt.Errorf("mapping %s: %w", path, err)
	}
	res, err := verify(m, o)
	return res, errors.Join(err, unix.Munmap(m))
}

func verify(m []byte, o Options) (res Result, err error) {
	if o.Workers <= 0 {
		o.Workers = runtime.GOMAXPROCS(0)
	}
	w := &walk{m: m, o: o, ids: make(chan int, o.Workers)}
	if err := Guard(func() error { return w.begin(&res) }); err != nil {
		return res, err
	}
	for id := 1; id < o.Workers; id++ {
		w.ids <- id
	}
	w.fail(Guard(func() error { return w.tree(0, "", w.meta.root, subtree{}, 0) }))
	w.wg.Wait()
	if w.err == nil {
		w.fail(Guard(w.freelist))
	}
	res.Pages = w.pages.Load()
	return res, w.err
}

// walk is one Verify.
type walk struct {
	m    []byte
	o    Options
	ids  chan int // of workers without work
	size uint64   // of a page
	meta meta
	used []uint32 // a bit a page

	pages  atomic.Uint64
	wg     sync.WaitGroup
	failed atomic.Bool
	mu     sync.Mutex
	err    error // the first
}

func (w *walk) fail(err error) {
	if err == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err == nil {
		w.err = err
		w.failed.Store(true)
	}
}

func damaged(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrDamaged, fmt.Sprintf(format, args...))
}

// begin chooses the meta page and marks the pages that are no part of the tree.
func (w *walk) begin(res *Result) error {
	m, torn, err := chooseMeta(w.m, w.o)
	if err != nil {
		return err
	}
	w.meta, w.size = m, uint64(m.pageSize)
	res.TxID, res.Torn, res.PageSize = m.txid, torn, int(m.pageSize)
	total := uint64(len(w.m)) / w.size
	if m.pages < 3 || m.pages > total {
		return damaged("%d pages are said to be used, the file has %d", m.pages, total)
	}
	if m.sequence != 0 || m.flags != 0 {
		return damaged("meta page: flags %x, sequence %d", m.flags, m.sequence)
	}
	w.used = make([]uint32, m.pages/32+1)
	w.used[0] = 3 // the meta pages
	return nil
}

// subtree are the bounds of the keys below a page: from, if set, at most the first; to, if set, beyond the last.
type subtree struct{ from, to []byte }

// page is a run of pages.
type page struct {
	id    uint64
	flags uint16
	count int
	b     []byte // whole run
}

// take reads a run and marks its pages.
func (w *walk) take(id uint64) (page, error) {
	if id < 2 || id >= w.meta.pages {
		return page{}, damaged("page %d of %d", id, w.meta.pages)
	}
	at := id * w.size
	h := w.m[at : at+headerSize]
	p := page{id: id, flags: le.Uint16(h[8:]), count: int(le.Uint16(h[10:]))}
	run := 1 + uint64(le.Uint32(h[12:]))
	if got := le.Uint64(h); got != id {
		return p, damaged("page %d says that it is page %d", id, got)
	}
	if run > w.meta.pages-id {
		return p, damaged("page %d: a run of %d pages goes beyond page %d", id, run, w.meta.pages)
	}
	if w.o.Pace != nil {
		if err := w.o.Pace(int(run * w.size)); err != nil {
			return p, err
		}
	}
	for i := id; i < id+run; i++ {
		if bit := uint32(1) << (i % 32); atomic.OrUint32(&w.used[i/32], bit)&bit != 0 {
			return p, damaged("page %d is used twice", i)
		}
	}
	w.pages.Add(run)
	p.b = w.m[at : at+run*w.size : at+run*w.size]
	return p, nil
}

// tree walks a page and what is below it. bucket is empty for the file's own tree, whose records are the buckets.
func (w *walk) tree(worker int, bucket string, id uint64, s subtree, depth int) error {
	if w.failed.Load() {
		return nil
	}
	if depth > depthMax {
		return damaged("page %d: deeper than %d", id, depthMax)
	}
	p, err := w.take(id)
	if err != nil {
		return err
	}
	var used uint64
	switch p.flags {
	case flagLeaf:
		used, err = w.leaf(worker, bucket, p, s, depth)
	case flagBranch:
		var kids []child
		if kids, used, err = branch(p, s); err == nil {
			err = w.children(worker, bucket, kids, depth+1)
		}
	default:
		return damaged("page %d: type %x", id, p.flags)
	}
	if err != nil {
		return err
	}
	if run := (used + w.size - 1) / w.size; run*w.size != uint64(len(p.b)) {
		return damaged("page %d: a run of %d bytes for %d", id, len(p.b), used)
	}
	return nil
}

type child struct {
	id uint64
	subtree
}

// children walks subtrees; a worker without work takes half of them.
func (w *walk) children(worker int, bucket string, kids []child, depth int) error {
	for len(kids) > 0 {
		if len(kids) > 1 {
			select {
			case id := <-w.ids:
				half := kids[len(kids)/2:]
				kids = kids[:len(kids)/2]
				w.wg.Go(func() {
					w.fail(Guard(func() error { return w.children(id, bucket, half, depth) }))
					w.ids <- id
				})
			default:
			}
		}
		if err := w.tree(worker, bucket, kids[0].id, kids[0].subtree, depth); err != nil {
			return err
		}
		kids = kids[1:]
	}
	return nil
}

// elements walks the n elements of a page; f is called with the element and its key and value, where vsize tells the length of the value.
// It returns the bytes of the page that are in use.
func elements(p page, s subtree, vsize func(e []byte) uint64, f func(e, key, value []byte) error) (uint64, error) {
	off := uint64(headerSize + elemSize*p.count)
	if off > uint64(len(p.b)) {
		return 0, damaged("page %d: %d elements in %d bytes", p.id, p.count, len(p.b))
	}
	var last []byte
	for i := range p.count {
		at := uint64(headerSize + elemSize*i)
		e := p.b[at : at+elemSize]
		pos, k := elementKey(p.flags, e)
		v := vsize(e)
		if at+uint64(pos) != off || k == 0 || uint64(k)+v > uint64(len(p.b))-off {
			return 0, damaged("page %d, element %d: %d bytes at %d; they belong at %d of %d", p.id, i, uint64(k)+v, at+uint64(pos), off, len(p.b))
		}
		key := p.b[off : off+uint64(k)]
		value := p.b[off+uint64(k) : off+uint64(k)+v]
		off += uint64(k) + v
		if i == 0 && bytes.Compare(key, s.from) < 0 || i > 0 && bytes.Compare(key, last) <= 0 || s.to != nil && bytes.Compare(key, s.to) >= 0 {
			return 0, damaged("page %d, element %d: key out of order", p.id, i)
		}
		if err := f(e, key, value); err != nil {
			return 0, err
		}
		last = key
	}
	return off, nil
}

// elementKey is where an element's key is, from the element on, and its length.
func elementKey(flags uint16, e []byte) (pos, size uint32) {
	if flags == flagBranch {
		return le.Uint32(e), le.Uint32(e[4:])
	}
	return le.Uint32(e[4:]), le.Uint32(e[8:])
}

func branch(p page, s subtree) ([]child, uint64, error) {
	kids := make([]child, 0, p.count)
	used, err := elements(p, s, func([]byte) uint64 { return 0 }, func(e, key, _ []byte) error {
		if n := len(kids); n > 0 {
			kids[n-1].to = key
		}
		kids = append(kids, child{le.Uint64(e[8:]), subtree{from: key, to: s.to}})
		return nil
	})
	if err == nil && len(kids) == 0 {
		err = damaged("page %d: a branch without children", p.id)
	}
	return kids, used, err
}

func (w *walk) leaf(worker int, bucket string, p page, s subtree, depth int) (uint64, error) {
	if p.count == 0 && depth > 0 {
		return 0, damaged("page %d: empty", p.id)
	}
	return elements(p, s, func(e []byte) uint64 { return uint64(le.Uint32(e[12:])) }, func(e, key, value []byte) error {
		switch flags := le.Uint32(e); {
		case bucket == "" && flags == elemBucket:
			return w.bucket(worker, string(key), value)
		case bucket != "" && flags == 0:
			if w.o.Visit == nil {
				return nil
			}
			return w.o.Visit(worker, bucket, key, value)
		default:
			return damaged("page %d: element of flags %x", p.id, flags)
		}
	})
}

// bucket walks the tree that a record of the file's own tree points to, or has in it.
func (w *walk) bucket(worker int, name string, value []byte) error {
	if len(value) < bucketSize || le.Uint64(value[8:]) != 0 {
		return damaged("bucket %q: its header", name)
	}
	root := le.Uint64(value)
	if root != 0 {
		if len(value) != bucketSize {
			return damaged("bucket %q: %d bytes", name, len(value))
		}
		return w.tree(worker, name, root, subtree{}, 0)
	}
	b := value[bucketSize:]
	if len(b) < headerSize {
		return damaged("bucket %q: %d bytes", name, len(b))
	}
	p := page{flags: le.Uint16(b[8:]), count: int(le.Uint16(b[10:])), b: b}
	if le.Uint64(b) != 0 || p.flags != flagLeaf || le.Uint32(b[12:]) != 0 {
		return damaged("bucket %q: header of its page", name)
	}
	used, err := w.leaf(worker, name, p, subtree{}, 0)
	if err == nil && used != uint64(len(b)) {
		err = damaged("bucket %q: %d bytes for %d", name, len(b), used)
	}
	return err
}

// freelist checks the list of free pages, where the file has one: a page that is in use must not be on it.
func (w *walk) freelist() error {
	if w.meta.freelist == noFreelist {
		return nil
	}
	p, err := w.take(w.meta.freelist)
	if err != nil {
		return err
	}
	if p.flags != flagFreelist {
		return damaged("page %d: type %x for the list of free pages", p.id, p.flags)
	}
	ids, n := p.b[headerSize:], uint64(p.count)
	if n == 0xffff { // the real count is the first of the ids
		n, ids = le.Uint64(ids), ids[8:]
	}
	if n > uint64(len(ids)/8) {
		return damaged("page %d: %d free pages in %d bytes", p.id, n, len(p.b))
	}
	for i := range n {
		id := le.Uint64(ids[8*i:])
		if id < 2 || id >= w.meta.pages || w.used[id/32]&(1<<(id%32)) != 0 {
			return damaged("page %d is both free and in use", id)
		}
		w.used[id/32] |= 1 << (id % 32)
	}
	return nil
}

func fnv64(b []byte) uint64 {
	h := fnv.New64a()
	h.Write(b)
	return h.Sum64()
}

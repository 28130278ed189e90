package replay

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"time"

	"github.com/charon-kdc/charon/internal/mutant"
)

// The snapshot, little endian:
//
//	header   "charonRP", u32 version, i64 now, i64 low, u32 skew, 16 B epoch id, i64 epoch not before, u32 buckets,
//	         u64 items, u32 counters without failures, u32 counters with, u32 CRC-32C of the header
//	buckets  by number, those that hold any: i64 number, u32 n, n * {16 B K, 8 B R} in order of arrival
//	counters without failures, then with, each in the order of their last change: 16 B id, u32 failures,
//	         i64 last failure, i64 last success
//	merging  in version 2 only: u8 holding, i64 from, u64 doubles, i64 last double, u32 buckets, u32 conflicts,
//	         the buckets that time left behind, as above; conflicts * {16 B K, 8 B R}
//	trailer  "end.", u32 CRC-32C of every byte before it
//
// A state that never held anything is written as version 1, which every release reads; feature level 2 comes before anything is held.
const (
	snapshotMagic   = "charonRP"
	snapshotTrailer = "end."
	snapshotVersion = 1
	snapshotMerging = 2
	mergingHeader   = 1 + 8 + 8 + 8 + 4 + 4
	headerSize      = 8 + 4 + 8 + 8 + 4 + 16 + 8 + 4 + 8 + 4 + 4 + 4
	bucketHeader    = 8 + 4
	itemBytes       = 24
	counterBytes    = 16 + 4 + 8 + 8
	trailerSize     = 4 + 4
	bucketsMax      = 2*int64((SkewMax+Slack)/time.Second)/bucketSeconds + 4
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Snapshot is a State as it was at one entry. Writing it does not hold the State up.
type Snapshot struct {
	header  []byte
	buckets []frozen
	items   int
	slab    []counter
	lists   [2]list
	// of version 2
	merging   []byte // its fixed part; nil in version 1
	past      []frozen
	held      int
	conflicts []item
}

// Snapshot notes where every bucket ends and copies the counters. It takes a few milliseconds.
func (s *State) Snapshot() *Snapshot {
	s.mu.RLock()
	defer s.mu.RUnlock()
	out := &Snapshot{items: s.items, slab: append([]counter(nil), s.counters.slab...), lists: s.counters.lists}
	for i, b := range s.buckets {
		if b != nil {
			out.buckets = append(out.buckets, b.freeze(s.low+int64(i)))
		}
	}
	version := uint32(snapshotVersion)
	if s.holding || s.doubles > 0 {
		version = snapshotMerging
		out.freezeMerging(&s.cache)
	}
	le := binary.LittleEndian
	h := le.AppendUint32([]byte(snapshotMagic), version)
	h = le.AppendUint64(h, uint64(s.now))
	h = le.AppendUint64(h, uint64(s.low))
	h = le.AppendUint32(h, uint32(s.skew))
	h = append(h, s.epoch.ID[:]...)
	h = le.AppendUint64(h, uint64(s.epoch.NotBefore))
	h = le.AppendUint32(h, uint32(len(out.buckets)))
	h = le.AppendUint64(h, uint64(s.items))
	h = le.AppendUint32(h, uint32(out.lists[clean].n))
	h = le.AppendUint32(h, uint32(out.lists[failing].n))
	out.header = le.AppendUint32(h, crc32.Checksum(h, castagnoli))
	return out
}

func (s *Snapshot) freezeMerging(c *cache) {
	for _, b := range c.past {
		s.past = append(s.past, b.freeze(b.number))
	}
	s.held, s.conflicts = c.held, append([]item(nil), c.conflicts...)
	le := binary.LittleEndian
	m := make([]byte, 1, mergingHeader)
	if c.holding {
		m[0] = 1
	}
	m = le.AppendUint64(m, uint64(c.from))
	m = le.AppendUint64(m, c.doubles)
	m = le.AppendUint64(m, uint64(c.lastDouble))
	m = le.AppendUint32(m, uint32(len(s.past)))
	s.merging = le.AppendUint32(m, uint32(len(s.conflicts)))
}

// Size is what WriteTo writes, in bytes.
func (s *Snapshot) Size() int64 {
	extra := int64(len(s.merging)) + int64(len(s.past))*bucketHeader + int64(s.held+len(s.conflicts))*itemBytes
	return int64(len(s.header)) + int64(len(s.buckets))*bucketHeader + int64(s.items)*itemBytes +
		int64(s.lists[clean].n+s.lists[failing].n)*counterBytes + extra + trailerSize
}

// WriteTo writes the snapshot in pieces of at most 64 KiB.
func (s *Snapshot) WriteTo(w io.Writer) (int64, error) {
	out := &summing{w: w}
	b := bufio.NewWriterSize(out, 64<<10)
	if err := s.write(b); err != nil {
		return out.n, fmt.Errorf("writing a replay snapshot: %w", err)
	}
	if err := b.Flush(); err != nil {
		return out.n, fmt.Errorf("writing a replay snapshot: %w", err)
	}
	if _, err := out.Write(binary.LittleEndian.AppendUint32(nil, out.sum)); err != nil {
		return out.n, fmt.Errorf("writing a replay snapshot: %w", err)
	}
	return out.n, nil
}

func (s *Snapshot) write(w *bufio.Writer) error {
	le := binary.LittleEndian
	if _, err := w.Write(s.header); err != nil {
		return err
	}
	b := make([]byte, 0, counterBytes)
	if err := writeBuckets(w, s.buckets); err != nil {
		return err
	}
	for _, l := range s.lists {
		for at := l.first; at != 0; at = s.slab[at-1].next {
			c := &s.slab[at-1]
			b = append(b[:0], c.id[:]...)
			b = le.AppendUint32(b, c.Failures)
			b = le.AppendUint64(b, uint64(c.LastFailure))
			b = le.AppendUint64(b, uint64(c.LastSuccess))
			if _, err := w.Write(b); err != nil {
				return err
			}
		}
	}
	if _, err := w.Write(s.merging); err != nil {
		return err
	}
	if err := writeBuckets(w, s.past); err != nil {
		return err
	}
	for i := range s.conflicts {
		if err := writeItem(w, &s.conflicts[i]); err != nil {
			return err
		}
	}
	_, err := w.WriteString(snapshotTrailer)
	return err
}

func writeBuckets(w *bufio.Writer, list []frozen) error {
	var b [bucketHeader]byte
	for _, f := range list {
		binary.LittleEndian.PutUint64(b[:], uint64(f.number))
		binary.LittleEndian.PutUint32(b[8:], uint32(f.n))
		if _, err := w.Write(b[:]); err != nil {
			return err
		}
		for i := range f.n {
			if err := writeItem(w, &f.chunks[i/chunkItems][i%chunkItems]); err != nil {
				return err
			}
		}
	}
	return nil
}

func writeItem(w *bufio.Writer, it *item) error {
	if _, err := w.Write(it.k[:]); err != nil {
		return err
	}
	_, err := w.Write(it.r[:])
	return err
}

// summing keeps the CRC-32C and the count of what was written.
type summing struct {
	w   io.Writer
	sum uint32
	n   int64
}

func (s *summing) Write(p []byte) (int, error) {
	n, err := s.w.Write(p)
	s.sum = crc32.Update(s.sum, castagnoli, p[:n])
	s.n += int64(n)
	return n, err
}

// Restore replaces the state by a snapshot, which r holds up to io.EOF. On an error (ErrTooNew, ErrCorrupt, or r's)
// nothing has changed.
func (s *State) Restore(r io.Reader) error {
	in := &restoring{r: bufio.NewReaderSize(r, 64<<10)}
	c, err := in.cache()
	if err != nil {
		return fmt.Errorf("restoring the replay cache: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	c.counters.max, c.maxHeld = s.counters.max, s.maxHeld
	s.cache = *c
	if mutant.On(mutant.ForgottenAtRestart) {
		s.buckets, s.items = nil, 0
	}
	return nil
}

// restoring reads a snapshot. It allocates by what has arrived, not by what a length claims.
type restoring struct {
	r   *bufio.Reader
	sum uint32
	buf [headerSize]byte
}

// take reads n bytes, at most headerSize, which are valid until the next call.
func (in *restoring) take(n int) ([]byte, error) {
	b := in.buf[:n]
	if _, err := io.ReadFull(in.r, b); err == io.EOF || err == io.ErrUnexpectedEOF {
		return nil, fmt.Errorf("%w: snapshot ends early", ErrCorrupt)
	} else if err != nil {
		return nil, err
	}
	in.sum = crc32.Update(in.sum, castagnoli, b)
	return b, nil
}

// counts are what a header promises.
type counts struct {
	version uint32
	buckets uint32
	items   uint64
	lists   [2]uint32
}

func (in *restoring) cache() (*cache, error) {
	c, n, err := in.header()
	if err != nil {
		return nil, err
	}
	for range n.buckets {
		if err := in.bucket(c); err != nil {
			return nil, err
		}
	}
	if uint64(c.items) != n.items {
		return nil, fmt.Errorf("%w: %d items, the header says %d", ErrCorrupt, c.items, n.items)
	}
	for which, count := range n.lists {
		for range count {
			if err := in.counter(c, which); err != nil {
				return nil, err
			}
		}
	}
	c.from = c.low
	if n.version == snapshotMerging {
		if err := in.merging(c); err != nil {
			return nil, err
		}
	}
	return c, in.trailer()
}

func (in *restoring) merging(c *cache) error {
	b, err := in.take(mergingHeader)
	if err != nil {
		return err
	}
	le := binary.LittleEndian
	c.holding, c.from = b[0] == 1, int64(le.Uint64(b[1:]))
	c.doubles, c.lastDouble = le.Uint64(b[9:]), int64(le.Uint64(b[17:]))
	buckets, conflicts := le.Uint32(b[25:]), le.Uint32(b[29:])
	if b[0] > 1 || c.from > c.low || conflicts > conflictsMax || buckets > HeldMax || (buckets > 0 || conflicts > 0 || c.from < c.low) && !c.holding {
		return fmt.Errorf("%w: what is held", ErrCorrupt)
	}
	for range buckets {
		number, n, err := in.bucketHeader()
		if err != nil {
			return err
		}
		if number >= c.low || len(c.past) > 0 && number <= c.past[len(c.past)-1].number || c.held+n > HeldMax {
			return fmt.Errorf("%w: held bucket %d of %d items", ErrCorrupt, number, n)
		}
		to := new(bucket)
		if err := in.items(to, number, n); err != nil {
			return err
		}
		c.past, c.held = append(c.past, passed{number, to}), c.held+n
	}
	for range conflicts {
		b, err := in.take(itemBytes)
		if err != nil {
			return err
		}
		c.conflicts = append(c.conflicts, item{k: [16]byte(b), r: [8]byte(b[16:])})
	}
	return nil
}

func (in *restoring) header() (*cache, counts, error) {
	b, err := in.take(headerSize)
	if err != nil {
		return nil, counts{}, err
	}
	le := binary.LittleEndian
	if string(b[:8]) != snapshotMagic {
		return nil, counts{}, fmt.Errorf("%w: not a replay snapshot", ErrCorrupt)
	}
	version := le.Uint32(b[8:])
	if version != snapshotVersion && version != snapshotMerging {
		return nil, counts{}, fmt.Errorf("%w: snapshot of version %d, this release reads %d", ErrTooNew, version, snapshotMerging)
	}
	if crc32.Checksum(b[:headerSize-4], castagnoli) != le.Uint32(b[headerSize-4:]) {
		return nil, counts{}, fmt.Errorf("%w: header checksum", ErrCorrupt)
	}
	c := &cache{now: int64(le.Uint64(b[12:])), low: int64(le.Uint64(b[20:])), skew: int64(le.Uint32(b[28:]))}
	c.epoch = Epoch{ID: [16]byte(b[32:48]), NotBefore: int64(le.Uint64(b[48:]))}
	n := counts{version: version, buckets: le.Uint32(b[56:]), items: le.Uint64(b[60:]), lists: [2]uint32{le.Uint32(b[68:]), le.Uint32(b[72:])}}
	plausible := c.now >= 0 && c.now <= timeMax && c.skew >= 1 && c.skew <= int64(SkewMax/time.Second) &&
		c.low >= c.lowest() && c.low <= bucketOf(c.now/1000) && c.epoch.NotBefore >= 0 && c.epoch.NotBefore <= timeMax &&
		int64(n.buckets) <= bucketsMax && n.items <= math.MaxInt32 && uint64(n.lists[0])+uint64(n.lists[1]) <= CountersMax
	if !plausible {
		return nil, counts{}, fmt.Errorf("%w: header", ErrCorrupt)
	}
	return c, n, nil
}

func (in *restoring) bucket(c *cache) error {
	number, n, err := in.bucketHeader()
	if err != nil {
		return err
	}
	// Those held already are before it, so the numbers rise.
	if number < c.low+int64(len(c.buckets)) || number-c.low >= bucketsMax {
		return fmt.Errorf("%w: bucket %d of %d items", ErrCorrupt, number, n)
	}
	if err := in.items(c.bucket(number), number, n); err != nil {
		return err
	}
	c.items += n
	return nil
}

func (in *restoring) bucketHeader() (number int64, n int, err error) {
	b, err := in.take(bucketHeader)
	if err != nil {
		return 0, 0, err
	}
	number, n = int64(binary.LittleEndian.Uint64(b)), int(binary.LittleEndian.Uint32(b[8:]))
	if n == 0 || n >= bucketItems {
		return 0, 0, fmt.Errorf("%w: bucket %d of %d items", ErrCorrupt, number, n)
	}
	return number, n, nil
}

func (in *restoring) items(to *bucket, number int64, n int) error {
	for range n {
		b, err := in.take(itemBytes)
		if err != nil {
			return err
		}
		it := item{k: [16]byte(b), r: [8]byte(b[16:])}
		if _, twice := to.lookup(it.k); twice || !to.add(it) {
			return fmt.Errorf("%w: an item twice in bucket %d", ErrCorrupt, number)
		}
	}
	return nil
}

func (in *restoring) counter(c *cache, which int) error {
	b, err := in.take(counterBytes)
	if err != nil {
		return err
	}
	le := binary.LittleEndian
	e := counter{id: [16]byte(b)}
	e.Failures, e.LastFailure, e.LastSuccess = le.Uint32(b[16:]), int64(le.Uint64(b[20:])), int64(le.Uint64(b[28:]))
	if _, twice := c.counters.slots[e.id]; twice || e.list() != which {
		return fmt.Errorf("%w: counter of %x", ErrCorrupt, e.id)
	}
	slot := c.counters.room()
	c.counters.slab[slot] = e
	c.counters.slots[e.id] = slot
	c.counters.link(slot)
	return nil
}

func (in *restoring) trailer() error {
	b, err := in.take(len(snapshotTrailer))
	if err != nil {
		return err
	}
	if string(b) != snapshotTrailer {
		return fmt.Errorf("%w: no trailer", ErrCorrupt)
	}
	want := in.sum
	if b, err = in.take(4); err != nil {
		return err
	}
	if binary.LittleEndian.Uint32(b) != want {
		return fmt.Errorf("%w: snapshot checksum", ErrCorrupt)
	}
	if _, err := in.r.ReadByte(); err == nil {
		return fmt.Errorf("%w: bytes behind the snapshot", ErrCorrupt)
	} else if err != io.EOF {
		return err
	}
	return nil
}

// Bytes is the whole snapshot. For tests and small states.
func (s *Snapshot) Bytes() []byte {
	var b bytes.Buffer
	_, _ = s.WriteTo(&b) // a Buffer takes everything
	return b.Bytes()
}

package pages

import "bytes"

// meta is a meta page's content.
type meta struct {
	pageSize, flags       uint32
	root, sequence        uint64
	freelist, pages, txid uint64
}

// parseMeta reads a meta page from behind its page header.
func parseMeta(b []byte) (m meta, ok bool) {
	if len(b) < metaSize || le.Uint32(b) != magic || le.Uint32(b[4:]) != version || fnv64(b[:metaSize-8]) != le.Uint64(b[metaSize-8:]) {
		return m, false
	}
	return meta{
		pageSize: le.Uint32(b[8:]), flags: le.Uint32(b[12:]), root: le.Uint64(b[16:]), sequence: le.Uint64(b[24:]),
		freelist: le.Uint64(b[32:]), pages: le.Uint64(b[40:]), txid: le.Uint64(b[48:]),
	}, true
}

// mendMeta tells what a meta page was whose damage is one bit.
func mendMeta(b []byte) (meta, bool) {
	if len(b) < metaSize {
		return meta{}, false
	}
	c := bytes.Clone(b[:metaSize])
	for i := range 8 * metaSize {
		c[i/8] ^= 1 << (i % 8)
		if m, ok := parseMeta(c); ok {
			return m, true
		}
		c[i/8] ^= 1 << (i % 8)
	}
	return meta{}, false
}

func metaAt(m []byte, at int) []byte {
	if at < 0 || len(m)-at < headerSize+metaSize {
		return nil
	}
	return m[at+headerSize : at+headerSize+metaSize]
}

func goodSize(n uint32) bool { return n >= 1<<9 && n <= 1<<16 && n&(n-1) == 0 }

// pageSize is that of the meta page that can be read, or nearly.
func pageSize(m []byte) (int, bool) {
	for _, parse := range []func([]byte) (meta, bool){parseMeta, mendMeta} {
		if v, ok := parse(metaAt(m, 0)); ok && goodSize(v.pageSize) {
			return int(v.pageSize), true
		}
		for at := 1 << 9; at <= 1<<16; at *= 2 {
			if v, ok := parse(metaAt(m, at)); ok && int(v.pageSize) == at {
				return at, true
			}
		}
	}
	return 0, false
}

// chooseMeta returns the meta page of a transaction. bbolt itself takes the older one where the newer is damaged, and with it goes a
// transaction that was acknowledged: a damaged page is refused unless it surely was the older one.
func chooseMeta(m []byte, o Options) (meta, bool, error) {
	size, ok := pageSize(m)
	if !ok {
		return meta{}, false, damaged("neither meta page can be read")
	}
	var good, mended []meta
	torn := false
	for at := 0; at <= size; at += size {
		b := metaAt(m, at)
		if v, ok := parseMeta(b); ok {
			good = append(good, v)
		} else if v, ok := mendMeta(b); ok {
			mended = append(mended, v)
		} else {
			torn = true
		}
	}
	if o.TxID != 0 {
		for _, v := range good {
			if v.txid == o.TxID && int(v.pageSize) == size {
				return v, false, nil
			}
		}
		return meta{}, false, damaged("no meta page of transaction %d", o.TxID)
	}
	if len(good) == 0 || torn && !o.TornMeta {
		return meta{}, false, damaged("a meta page can't be read")
	}
	best := good[0]
	if len(good) > 1 && good[1].txid > best.txid {
		best = good[1]
	}
	if len(mended) > 0 && mended[0].txid > best.txid {
		return meta{}, false, damaged("a bit of the newest meta page is flipped")
	}
	if int(best.pageSize) != size {
		return meta{}, false, damaged("pages of %d bytes and of %d", best.pageSize, size)
	}
	return best, torn, nil
}

package ccache

import (
	"encoding/binary"
	"fmt"
	"math"
	"time"

	"github.com/charon-kdc/charon/kdc/krb5"
	"github.com/charon-kdc/charon/kdc/krb5/kcrypto"
)

// The format: 0x05, a format number, from format 4 on a header of tagged fields, the default principal, and credentials to the end of
// the file, which nothing frames or counts. Configuration entries are credentials for a server in a realm of their own.
const (
	configRealm = "X-CACHECONF:"
	configName  = "krb5_ccache_conf_data"
	offsetTag   = 1
)

// Parse reads a cache of format 1 to 4. It copies what it keeps. Octets that are no cache are ErrFormat.
func Parse(b []byte) (*CCache, error) {
	if len(b) < 2 || b[0] != 5 || b[1] < 1 || b[1] > 4 {
		return nil, fmt.Errorf("%w: it does not begin with 05 04", ErrFormat)
	}
	r := &reader{b: b[2:], version: int(b[1]), order: binary.BigEndian}
	if r.version < 3 {
		r.order = binary.NativeEndian // formats 1 and 2 were never portable
	}
	c := &CCache{}
	if r.version == 4 {
		c.parseHeader(r)
	}
	c.Default = r.principal()
	if r.bad {
		return nil, fmt.Errorf("%w: header or default principal cut short", ErrFormat)
	}
	for n := 1; len(r.b) > 0; n++ {
		x := r.cred()
		if r.bad {
			return nil, fmt.Errorf("%w: credential %d cut short", ErrFormat, n)
		}
		x.order = n
		c.keep(x)
	}
	return c, nil
}

func (c *CCache) parseHeader(r *reader) {
	h := reader{b: r.bytes(int(r.uint16())), order: r.order}
	for len(h.b) > 0 {
		field := h.b
		tag, v := h.uint16(), h.bytes(int(h.uint16()))
		switch {
		case h.bad:
			r.bad = true
		case tag == offsetTag && len(v) == 8 && !c.HasOffset:
			s, us := int32(h.order.Uint32(v)), int32(h.order.Uint32(v[4:]))
			c.Offset, c.HasOffset = time.Duration(s)*time.Second+time.Duration(us)*time.Microsecond, true
		default:
			c.unknown = append(c.unknown, field[:4+len(v)]...)
		}
	}
}

// keep sorts x under credentials or configuration, and drops what was removed: the end time of a removed credential is zero, and so is
// that of a removed setting, whose realm becomes another, too.
func (c *CCache) keep(x Cred) {
	name := x.Server.Name.NameString
	switch {
	case x.Server.Realm == configRealm:
		if (len(name) == 2 || len(name) == 3) && name[0] == configName {
			s := Config{Key: name[1], Value: x.Ticket, order: x.order}
			if len(name) == 3 {
				s.Principal = name[2]
			}
			c.Config = append(c.Config, s)
		}
	case x.EndTime.IsZero():
	default:
		c.Creds = append(c.Creds, x)
	}
}

// reader takes fields off b; once b was too short everything is zero and bad is set.
type reader struct {
	b       []byte
	version int
	order   binary.ByteOrder
	bad     bool
}

func (r *reader) bytes(n int) []byte {
	if n < 0 || n > len(r.b) {
		r.bad, r.b = true, nil
		return nil
	}
	b := r.b[:n]
	r.b = r.b[n:]
	return b
}

func (r *reader) uint8() byte {
	if b := r.bytes(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *reader) uint16() uint16 {
	if b := r.bytes(2); b != nil {
		return r.order.Uint16(b)
	}
	return 0
}

func (r *reader) uint32() uint32 {
	if b := r.bytes(4); b != nil {
		return r.order.Uint32(b)
	}
	return 0
}

// data is a copy of octets behind a 32-bit length; nil if there are none.
func (r *reader) data() []byte { return append([]byte(nil), r.bytes(r.length())...) }

func (r *reader) length() int {
	if n := r.uint32(); n <= math.MaxInt32 {
		return int(n)
	}
	return -1
}

// count is a number of elements of at least size octets each; more than there is room for are none.
func (r *reader) count(size int) int {
	n := r.length()
	if n < 0 || n > len(r.b)/size {
		r.bad, r.b = true, nil
		return 0
	}
	return n
}

func (r *reader) time() time.Time {
	if s := r.uint32(); s != 0 {
		return time.Unix(int64(s), 0).UTC()
	}
	return time.Time{}
}

func (r *reader) principal() (p Principal) {
	if r.version > 1 {
		p.Name.NameType = krb5.NameType(int32(r.uint32()))
	}
	n := r.count(4)
	if r.version == 1 {
		n-- // format 1 counts the realm
	}
	p.Realm = string(r.bytes(r.length()))
	if n < 0 || n > len(r.b)/4 {
		r.bad = true
		return Principal{}
	}
	p.Name.NameString = make([]string, n)
	for i := range p.Name.NameString {
		p.Name.NameString[i] = string(r.bytes(r.length()))
	}
	return p
}

func (r *reader) cred() Cred {
	var c Cred
	c.Client, c.Server = r.principal(), r.principal()
	c.key(r)
	c.AuthTime, c.StartTime, c.EndTime, c.RenewTill = r.time(), r.time(), r.time(), r.time()
	c.IsSKey = r.uint8() != 0
	c.Flags = krb5.TicketFlags(r.uint32())
	for range r.count(6) {
		c.Addresses = append(c.Addresses, krb5.HostAddress{AddrType: int32(int16(r.uint16())), Address: r.data()})
	}
	for range r.count(6) {
		c.AuthData = append(c.AuthData, krb5.AuthorizationDataElement{ADType: int32(int16(r.uint16())), ADData: r.data()})
	}
	c.Ticket, c.SecondTicket = r.data(), r.data()
	return c
}

// key keeps a key that kcrypto does not take as octets, so that it is written as it was read.
func (c *Cred) key(r *reader) {
	c.etype = kcrypto.EType(int16(r.uint16()))
	if r.version == 3 {
		r.uint16() // the enctype again
	}
	b := r.bytes(r.length())
	k, err := kcrypto.NewKey(c.etype, b)
	if err != nil {
		c.rawKey = append([]byte(nil), b...)
		return
	}
	c.Key, c.etype = k, 0
}

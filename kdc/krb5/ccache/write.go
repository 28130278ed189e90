package ccache

import (
	"encoding/binary"
	"math"
	"sort"
	"time"

	"github.com/charon-kdc/charon/kdc/krb5"
)

// Bytes is the cache in format 4. What was parsed keeps its order; what was added stands behind it, settings before credentials.
func (c *CCache) Bytes() []byte {
	b := []byte{5, 4}
	var header []byte
	if c.HasOffset {
		header = appendOffset(c.Offset)
	}
	if len(header)+len(c.unknown) <= math.MaxUint16 { // an offset may have been added since the header was parsed
		header = append(header, c.unknown...)
	}
	b = binary.BigEndian.AppendUint16(b, uint16(len(header)))
	b = append(b, header...)
	b = appendPrincipal(b, c.Default)
	for _, x := range c.records() {
		b = x.append(b)
	}
	return b
}

// records is settings and credentials, in the order of the file.
func (c *CCache) records() []Cred {
	out := make([]Cred, 0, len(c.Config)+len(c.Creds))
	for _, s := range c.Config {
		out = append(out, s.cred(c.Default))
	}
	out = append(out, c.Creds...)
	last := func(order int) int {
		if order == 0 {
			return math.MaxInt
		}
		return order
	}
	sort.SliceStable(out, func(i, j int) bool { return last(out[i].order) < last(out[j].order) })
	return out
}

// cred is the setting dressed as a credential.
func (s *Config) cred(client Principal) Cred {
	name := []string{configName, s.Key}
	if s.Principal != "" {
		name = append(name, s.Principal)
	}
	server := Principal{configRealm, krb5.PrincipalName{NameType: krb5.NTPrincipal, NameString: name}}
	return Cred{Client: client, Server: server, Ticket: s.Value, order: s.order}
}

func (c *Cred) append(b []byte) []byte {
	b = appendPrincipal(appendPrincipal(b, c.Client), c.Server)
	key := c.rawKey
	if c.Key != nil {
		key = c.Key.Bytes()
	}
	b = binary.BigEndian.AppendUint16(b, uint16(c.EType()))
	b = appendData(b, key)
	for _, t := range []time.Time{c.AuthTime, c.StartTime, c.EndTime, c.RenewTill} {
		b = binary.BigEndian.AppendUint32(b, seconds(t))
	}
	isSKey := byte(0)
	if c.IsSKey {
		isSKey = 1
	}
	b = binary.BigEndian.AppendUint32(append(b, isSKey), uint32(c.Flags))
	b = binary.BigEndian.AppendUint32(b, uint32(len(c.Addresses)))
	for _, a := range c.Addresses {
		b = appendData(binary.BigEndian.AppendUint16(b, uint16(a.AddrType)), a.Address)
	}
	b = binary.BigEndian.AppendUint32(b, uint32(len(c.AuthData)))
	for _, a := range c.AuthData {
		b = appendData(binary.BigEndian.AppendUint16(b, uint16(a.ADType)), a.ADData)
	}
	return appendData(appendData(b, c.Ticket), c.SecondTicket)
}

func appendPrincipal(b []byte, p Principal) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(p.Name.NameType))
	b = binary.BigEndian.AppendUint32(b, uint32(len(p.Name.NameString)))
	b = appendData(b, []byte(p.Realm))
	for _, c := range p.Name.NameString {
		b = appendData(b, []byte(c))
	}
	return b
}

func appendData(b, data []byte) []byte {
	return append(binary.BigEndian.AppendUint32(b, uint32(len(data))), data...)
}

// appendOffset is the header field of the KDC's clock: both parts carry the sign.
func appendOffset(d time.Duration) []byte {
	b := []byte{0, offsetTag, 0, 8}
	b = binary.BigEndian.AppendUint32(b, uint32(int32(d/time.Second)))
	return binary.BigEndian.AppendUint32(b, uint32(int32(d%time.Second/time.Microsecond)))
}

// seconds holds a time to what 32 bits can say.
func seconds(t time.Time) uint32 {
	if t.IsZero() {
		return 0
	}
	return uint32(min(max(t.Unix(), 0), math.MaxUint32))
}

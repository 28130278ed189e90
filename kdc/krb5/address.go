package krb5

import (
	"bytes"
	"net/netip"
)

// NewAddress is a as a HostAddress (RFC 4120 section 7.5.3). An IPv4 address inside IPv6 goes as IPv4; a zone is left out.
func NewAddress(a netip.Addr) HostAddress {
	a = a.Unmap()
	t := AddrIPv6
	if a.Is4() {
		t = AddrIPv4
	}
	return HostAddress{AddrType: t, Address: a.AsSlice()}
}

// MatchAddress tells whether a is among list.
func MatchAddress(list []HostAddress, a netip.Addr) bool {
	want := NewAddress(a)
	for i := range list {
		if list[i].Equal(want) {
			return true
		}
	}
	return false
}

// Equal compares type and octets.
func (h HostAddress) Equal(o HostAddress) bool {
	return h.AddrType == o.AddrType && bytes.Equal(h.Address, o.Address)
}

// IP is the address as one of netip, when it is of IPv4 or IPv6 and of the right length.
func (h HostAddress) IP() (netip.Addr, bool) {
	if h.AddrType == AddrIPv4 && len(h.Address) == 4 || h.AddrType == AddrIPv6 && len(h.Address) == 16 {
		return netip.AddrFromSlice(h.Address)
	}
	return netip.Addr{}, false
}

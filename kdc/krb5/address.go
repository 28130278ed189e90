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

// AddressedTo tells whether a ticket with those addresses may be used from a (RFC 4120 section 3.2.3). No addresses mean from anywhere, and so do
// NetBIOS names alone, which is what Windows asks for and nobody can hold a packet against (MIT krb5_address_search).
func AddressedTo(list []HostAddress, a netip.Addr) bool {
	a = a.Unmap().WithZone("")
	anywhere := true
	for i := range list {
		if ip, ok := list[i].IP(); ok && ip.Unmap() == a {
			return true
		}
		anywhere = anywhere && list[i].AddrType == AddrNetBIOS
	}
	return anywhere
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

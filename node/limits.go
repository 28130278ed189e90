package node

import (
	"fmt"
	"net/netip"

	"github.com/charon-kdc/charon/kdc"
	"github.com/charon-kdc/charon/kdc/krb5"
	"github.com/charon-kdc/charon/kdc/limit"
)

// trusted are the prefixes that no limit counts for: the configured ones, and this node's own KDC address, from which it asks itself for a
// ticket every second.
func (c *Config) trusted() ([]netip.Prefix, error) {
	var out []netip.Prefix
	for _, p := range c.KDC.TrustedPrefixes {
		v, err := netip.ParsePrefix(p)
		if err != nil {
			return nil, fmt.Errorf("kdc.trusted_prefixes: %w", err)
		}
		out = append(out, v)
	}
	addr, err := netip.ParseAddrPort(c.KDC.Addresses[0])
	if err != nil {
		return nil, fmt.Errorf("kdc.addresses: %w", err)
	}
	own := reachableHere(addr).Addr()
	return append(out, netip.PrefixFrom(own, own.BitLen())), nil
}

func (c LimitsConfig) prefixes() limit.Prefixes {
	return limit.Prefixes{V4: c.PrefixV4, V6: c.PrefixV6}
}

func perSecond(n int) limit.Rate { return limit.Rate{PerSecond: float64(n)} }

func (c LimitsConfig) kdc(trusted []netip.Prefix) kdc.Limits {
	return kdc.Limits{
		Prefixes: c.prefixes(), Exempt: trusted,
		Principal: perSecond(c.PerPrincipal), Failures: perSecond(c.FailuresPerPrincipal), Unknown: perSecond(c.UnknownPerPrefix),
	}
}

// provesSender tells whether a request shows that somebody at its address has a key and not just a copy of a packet: an authenticator that the whole cluster had not
// seen, or a password over TCP, whose address is not forged.
func provesSender(e *kdc.Event) bool {
	switch {
	case e.Code != 0 || e.Dropped || e.Lookaside:
		return false
	case e.Type == "TGS":
		return e.Replay == "fresh"
	}
	return e.PreAuth != "" && e.Flags.Has(krb5.FlagPreAuthent) && e.Transport == "tcp"
}

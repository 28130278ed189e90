package kdc

import "github.com/charon-kdc/charon/kdc/krb5"

// checkTransited decides TRANSITED-POLICY-CHECKED (RFC 4120 section 2.7).
//
// The policy is the narrowest there is: the client's own realm, and realms that share a key with ours. Who came through a third realm is refused, and that
// is any TGT issued neither here nor by the client's realm, also when this cluster serves all three. So the
// transited field of what is issued here is always empty. A foreign client that asks not to be checked is refused as well, as MIT does with its default
// reject_bad_transit: an acceptor that trusts the KDC for this would let it in. To a client of ours the option does no harm, and costs it the flag.
func checkTransited(f *tgsFacts, g *tgsGrant) error {
	g.transited = krb5.TransitedEncoding{TRType: krb5.TRDomainX500Compress}
	direct := len(f.header.Transited.Contents) == 0 && (f.headerRealm == f.body.Realm || f.header.CRealm == f.headerRealm)
	checked := direct && !f.has(krb5.KDCOptDisableTransitedCheck)
	if !direct || f.client == nil && !checked {
		return refused(krb5.ErrPolicy, "BAD_TRANSIT")
	}
	if checked {
		g.flags |= krb5.FlagTransitedPolicyChecked
	}
	return nil
}

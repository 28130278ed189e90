package kdc

import (
	"bytes"

	"github.com/charon-kdc/charon/kdc/kdb"
	"github.com/charon-kdc/charon/kdc/krb5"
)

// Authorization data types beside the registered ones.
const (
	adSignTicket = 512 // MIT and Heimdal, S4U2Proxy
	// adPrincipalID is ours: the immutable id of the ticket's client, inside AD-IF-RELEVANT, so that every acceptor passes over it
	// (RFC 4120 section 5.2.6.1). Negative types are for local use (section 5.2.6).
	adPrincipalID = -7749
)

// principalIDPrefix is the DER of an AuthorizationData with one element of type adPrincipalID, up to the 16 octets of the id that end it:
// a version octet stands before them. Ours is the only hand that writes it, so octets are compared and nothing is parsed.
var principalIDPrefix = []byte{0x30, 0x1d, 0x30, 0x1b, 0xa0, 0x04, 0x02, 0x02, 0xe1, 0xbb, 0xa1, 0x13, 0x04, 0x11, 0x01}

// principalIDElement binds a ticket to its client's id: deleting and creating a name again makes it another client.
func principalIDElement(id kdb.ID) krb5.AuthorizationDataElement {
	v := make([]byte, 0, len(principalIDPrefix)+len(id))
	v = append(append(v, principalIDPrefix...), id[:]...)
	return krb5.AuthorizationDataElement{ADType: krb5.ADIfRelevant, ADData: v}
}

// principalIDOf is the id that a ticket carries. The first one counts: the KDC puts its own in front of whatever a client sends along.
func principalIDOf(ad krb5.AuthorizationData) (id kdb.ID, ok bool) {
	for i := range ad {
		if ad[i].ADType != krb5.ADIfRelevant {
			continue
		}
		if rest, found := bytes.CutPrefix(ad[i].ADData, principalIDPrefix); found && len(rest) == len(id) {
			copy(id[:], rest)
			return id, true
		}
	}
	return id, false
}

// carriedAuthData is what a new ticket takes over from the header ticket (RFC 4120 section 3.3.3): all of it but the words of a KDC that are
// signed for another service and that this KDC does not sign anew (a PAC in a TGT from before an import).
func carriedAuthData(ad krb5.AuthorizationData) krb5.AuthorizationData {
	for i, e := range ad {
		if !signedElsewhere(e) {
			continue
		}
		out := append(ad[:0:0], ad[:i]...)
		for _, e := range ad[i+1:] {
			if !signedElsewhere(e) {
				out = append(out, e)
			}
		}
		return out
	}
	return ad
}

func signedElsewhere(e krb5.AuthorizationDataElement) bool {
	if e.ADType != krb5.ADIfRelevant {
		return kdcSigns(e.ADType)
	}
	return !bytes.HasPrefix(e.ADData, principalIDPrefix) && wraps(e.ADData, kdcSigns)
}

// requestedAuthData is what a client may add to its ticket (RFC 4120 section 5.2.6): nothing that only a KDC may say, dropped in
// silence as MIT does; and what the KDC must understand but does not is refused.
func requestedAuthData(ad krb5.AuthorizationData) (krb5.AuthorizationData, error) {
	out := ad[:0:0]
	for _, e := range ad {
		switch {
		case e.ADType == krb5.ADMandatoryForKDC:
			return nil, refused(krb5.ErrPolicy, "MANDATORY_AUTHDATA")
		case onlyKDC(e.ADType), e.ADType == krb5.ADIfRelevant && wraps(e.ADData, onlyKDC):
		default:
			out = append(out, e)
		}
	}
	return out, nil
}

// onlyKDC are the types that no client may add.
func onlyKDC(t int32) bool {
	switch t {
	case krb5.ADInitialVerifiedCAs, krb5.ADAuthenticationStrength, krb5.ADFXFastArmor:
		return true
	}
	return kdcSigns(t)
}

// kdcSigns are the types that a KDC signs, or would have to: for whom they were not made they are worth nothing.
func kdcSigns(t int32) bool {
	switch t {
	case krb5.ADKDCIssued, krb5.ADCAMMAC, krb5.ADAuthenticationIndicator, krb5.ADWin2KPAC, adSignTicket, adPrincipalID:
		return true
	}
	return false
}

// wraps looks into AD-IF-RELEVANT, one level deep: what lies deeper no acceptor reads as the KDC's word. What can't be read is dropped, too.
func wraps(b []byte, forbidden func(int32) bool) bool {
	inner, err := krb5.DecodeAuthorizationData(b)
	if err != nil {
		return true
	}
	for _, e := range inner {
		if forbidden(e.ADType) || e.ADType == krb5.ADIfRelevant {
			return true
		}
	}
	return false
}

// carriesMandatory tells whether a ticket has restrictions that this KDC must understand to honour it, and does not (RFC 4120 section 5.2.6.4).
func carriesMandatory(ad krb5.AuthorizationData) bool {
	for i := range ad {
		if ad[i].ADType == krb5.ADMandatoryForKDC {
			return true
		}
	}
	return false
}

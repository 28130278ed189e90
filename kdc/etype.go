package kdc

import (
	"strings"

	"github.com/charon-kdc/charon/kdc/kdb"
	"github.com/charon-kdc/charon/kdc/krb5/kcrypto"
)

// sessionEnctypesAttr is MIT's string attribute: the enctypes of session keys that a service accepts, by name, apart by blanks or commas.
const sessionEnctypesAttr = "session_enctypes"

// permitted tells whether the realm issues and accepts e. RC4 never counts here: principals opt in one by one (RFC 8429).
func permitted(realm *kdb.Realm, e kcrypto.EType) bool {
	if e == kcrypto.RC4HMAC || !e.Supported() {
		return false
	}
	for _, r := range realm.ETypes {
		if r == e {
			return true
		}
	}
	return false
}

// distinctETypes are the enctypes of a request that mean something here, each where it stands first: what a request lists over and over costs
// its reading and no more. Camellia (25, 26 of RFC 6803) is among them for what it says of the client.
func distinctETypes(requested []kcrypto.EType) []kcrypto.EType {
	var out []kcrypto.EType
	var seen etypeSet
	for _, e := range requested {
		if (e.Supported() || e == 25 || e == 26) && !seen.has(e) {
			seen |= setOf(e)
			out = append(out, e)
		}
	}
	return out
}

// etypeSet has a bit for each enctype from 0 to 31; the others are in none.
type etypeSet uint32

func setOf(es ...kcrypto.EType) (s etypeSet) {
	for _, e := range es {
		if e >= 0 && e < 32 {
			s |= 1 << e
		}
	}
	return s
}

func (s etypeSet) has(e kcrypto.EType) bool { return s&setOf(e) != 0 }

// sessionEType is the first requested enctype which the server accepts (RFC 4120 section 3.1.3), whatever encrypts the ticket.
//
// A server accepts what its session_enctypes lists; without that attribute aes256-cts-hmac-sha1-96 and every enctype it has a key of, as MIT
// assumes. RC4 needs the principal's consent, by the attribute or by an RC4 key; for the realm's own TGS, which
// can do all of them, the client's consent is what counts. client is nil when nobody can consent for the TGS.
func sessionEType(realm *kdb.Realm, server, client *kdb.Principal, requested []kcrypto.EType) (kcrypto.EType, bool) {
	list := server.Strings[sessionEnctypesAttr]
	listed := parseETypes(list)
	for _, e := range requested {
		switch {
		case list != "":
			if listed.has(e) && (e == kcrypto.RC4HMAC || permitted(realm, e)) {
				return e, true
			}
		case e == kcrypto.RC4HMAC:
			if hasCurrentKey(server, e) || isLocalTGS(server) && client != nil && consentsToRC4(client) {
				return e, true
			}
		case permitted(realm, e) && (e == kcrypto.AES256SHA1 || hasCurrentKey(server, e)):
			return e, true
		}
	}
	return 0, false
}

func isLocalTGS(p *kdb.Principal) bool {
	return isTGS(p, p.Realm, p.Realm)
}

func consentsToRC4(p *kdb.Principal) bool {
	if list := p.Strings[sessionEnctypesAttr]; list != "" {
		return parseETypes(list).has(kcrypto.RC4HMAC)
	}
	return hasCurrentKey(p, kcrypto.RC4HMAC)
}

// parseETypes reads an enctype list as MIT does: names, "aes" and "rc4" for the families; a name nobody knows is passed over.
func parseETypes(list string) (s etypeSet) {
	for name := range strings.FieldsFuncSeq(list, func(r rune) bool { return r == ' ' || r == ',' || r == '\t' }) {
		switch strings.ToLower(name) {
		case "aes":
			s |= setOf(kcrypto.AES128SHA1, kcrypto.AES256SHA1, kcrypto.AES128SHA2, kcrypto.AES256SHA2)
		case "rc4":
			s |= setOf(kcrypto.RC4HMAC)
		default:
			if e, err := kcrypto.ParseEType(name); err == nil {
				s |= setOf(e)
			}
		}
	}
	return s
}

func hasCurrentKey(p *kdb.Principal, e kcrypto.EType) bool {
	_, ok := p.CurrentKey(e)
	return ok
}

// usableForReply tells whether the client's key may seal an AS-REP.
func usableForReply(realm *kdb.Realm, e kcrypto.EType) bool {
	return e == kcrypto.RC4HMAC || permitted(realm, e)
}

// replyKey is the client's key for the first strong requested enctype that it has one of (RFC 4120 section 3.1.3); RC4 only if there is none.
func replyKey(realm *kdb.Realm, client *kdb.Principal, requested []kcrypto.EType) *kdb.Key {
	var weak *kdb.Key
	for _, e := range requested {
		k := currentKey(client, e)
		switch {
		case k == nil || !usableForReply(realm, e):
		case e != kcrypto.RC4HMAC:
			return k
		case weak == nil:
			weak = k
		}
	}
	return weak
}

func currentKey(p *kdb.Principal, e kcrypto.EType) *kdb.Key {
	for i := range p.Keys {
		if k := &p.Keys[i]; k.KVNO == p.KVNO && k.State == kdb.KeyActive && k.EType == e {
			return k
		}
	}
	return nil
}

// ticketKey is the key that seals tickets for p: its first current one. The etypes of the request have no say in it (RFC 4120 section 3.1.3).
func ticketKey(p *kdb.Principal) *kdb.Key {
	for i := range p.Keys {
		if k := &p.Keys[i]; k.KVNO == p.KVNO && k.State == kdb.KeyActive {
			return k
		}
	}
	return nil
}

// hasNewer tells whether a request lists a "newer" enctype in the sense of RFC 4120 section 3.1.3: its client gets no PA-ETYPE-INFO.
// All that came with or after that RFC are newer; DES, 3DES and RC4 are not, and neither are numbers which mean nothing here.
func hasNewer(requested []kcrypto.EType) bool {
	for _, e := range requested {
		if e >= kcrypto.AES128SHA1 && e <= kcrypto.AES256SHA2 || e == 25 || e == 26 { // 25, 26: Camellia, RFC 6803
			return true
		}
	}
	return false
}

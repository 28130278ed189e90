package kdc

import (
	"github.com/charon-kdc/charon/kdc/kdb"
	"github.com/charon-kdc/charon/kdc/krb5"
	"github.com/charon-kdc/charon/kdc/krb5/kcrypto"
	"github.com/charon-kdc/charon/kdc/preauth"
)

// mechanisms is what a client can prove itself with. Order is what clients see in METHOD-DATA; strongest first.
var mechanisms = []preauth.Mechanism{preauth.EncTimestamp{}}

// findPA is the first padata of type t.
func findPA(pas []krb5.PAData, t krb5.PADataType) (krb5.PAData, bool) {
	for i := range pas {
		if pas[i].PADataType == t {
			return pas[i], true
		}
	}
	return krb5.PAData{}, false
}

// findProof is the one proof that a request is allowed, and its mechanism: the first in the order of mechanisms. Further ones, of the same type or
// another, are not tried: one request, one guess.
func findProof(pas []krb5.PAData) (preauth.Mechanism, krb5.PAData) {
	for _, m := range mechanisms {
		if pa, ok := findPA(pas, m.Type()); ok {
			return m, pa
		}
	}
	return nil, krb5.PAData{}
}

// methodData is the e-data of KDC_ERR_PREAUTH_REQUIRED and KDC_ERR_PREAUTH_FAILED (RFC 4120 section 5.9.1): what the
// client's keys are made of, then what may prove it.
func methodData(f *asFacts) ([]byte, error) {
	pas, err := keyInfo(f.body.EType, f.replyKeys())
	if err != nil {
		return nil, err
	}
	for _, m := range mechanisms {
		if v, ok := m.Offer(f.client); ok {
			pas = append(pas, krb5.PAData{PADataType: m.Type(), PADataValue: v})
		}
	}
	return krb5.EncodeMethodData(pas)
}

// replyKeys are the client's keys of the requested enctypes, in the order of the request, that which would be chosen first.
func (f *asFacts) replyKeys() []*kdb.Key {
	best := replyKey(f.realm, f.client, f.body.EType)
	if best == nil {
		return nil
	}
	out := []*kdb.Key{best}
	for _, e := range f.body.EType {
		if k := currentKey(f.client, e); k != nil && usableForReply(f.realm, e) && !containsKey(out, k) {
			out = append(out, k)
		}
	}
	return out
}

func containsKey(ks []*kdb.Key, k *kdb.Key) bool {
	for _, o := range ks {
		if o == k {
			return true
		}
	}
	return false
}

// keyInfo is PA-ETYPE-INFO2 for keys; and, for a request that lists no newer enctype, PA-ETYPE-INFO and PA-PW-SALT beside it
// (RFC 4120 sections 3.1.3 and 5.2.7.3 to 5.2.7.5).
func keyInfo(requested []kcrypto.EType, keys []*kdb.Key) ([]krb5.PAData, error) {
	if len(keys) == 0 {
		return nil, nil
	}
	v, err := eTypeInfo2(keys)
	if err != nil {
		return nil, err
	}
	pas := make([]krb5.PAData, 1, 4)
	pas[0] = krb5.PAData{PADataType: krb5.PAETypeInfo2, PADataValue: v}
	if hasNewer(requested) {
		return pas, nil
	}
	old := make([]krb5.ETypeInfoEntry, len(keys))
	for i, k := range keys {
		old[i] = krb5.ETypeInfoEntry{EType: k.EType, Salt: []byte(k.Salt)}
	}
	if v, err = krb5.EncodeETypeInfo(old); err != nil {
		return nil, err
	}
	return append(pas,
		krb5.PAData{PADataType: krb5.PAETypeInfo, PADataValue: v},
		krb5.PAData{PADataType: krb5.PAPWSalt, PADataValue: []byte(keys[0].Salt)}), nil
}

func eTypeInfo2(keys []*kdb.Key) ([]byte, error) {
	info := make([]krb5.ETypeInfo2Entry, len(keys))
	for i, k := range keys {
		info[i] = krb5.ETypeInfo2Entry{EType: k.EType, Salt: k.Salt, HasSalt: true}
	}
	return krb5.EncodeETypeInfo2(info)
}

// encPARep answers PA-REQ-ENC-PA-REP (RFC 6806 section 11): a checksum over the request as it came in, sealed with the reply, so that the client learns
// whether somebody changed it. Nil when the request does not ask.
func encPARep(q *request, replyKey *kcrypto.Key) ([]krb5.PAData, error) {
	if _, asked := findPA(q.msg.PAData, krb5.PAReqEncPARep); !asked {
		return nil, nil
	}
	sum, err := replyKey.Checksum(kcrypto.UsageASReq, q.Data)
	if err != nil {
		return nil, err
	}
	v, err := krb5.EncodeChecksum(&krb5.Checksum{CksumType: replyKey.EType().ChecksumType(), Checksum: sum})
	if err != nil {
		return nil, err
	}
	return []krb5.PAData{{PADataType: krb5.PAReqEncPARep, PADataValue: v}}, nil
}

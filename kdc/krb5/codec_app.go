package krb5

import (
	"time"
)

// DecodeKRBSafe reads DER, one KRB-SAFE (RFC 4120 section 5.6.1).
func DecodeKRBSafe(b []byte) (*KRBSafe, error) {
	return decodeApplication(b, uint8(MsgSafe), "KRB-SAFE", readKRBSafe)
}

// EncodeKRBSafe gives DER, one KRB-SAFE. The body is made from SafeBody; RawBody does not count.
func EncodeKRBSafe(m *KRBSafe) ([]byte, error) {
	return encodeApplication(nil, m, uint8(MsgSafe), writeKRBSafe)
}

func readKRBSafe(r *reader, out *KRBSafe) {
	r.version(0, "KRB-SAFE pvno")
	r.msgType(1, MsgSafe, "KRB-SAFE msg-type")
	f := r.field(2, "KRB-SAFE safe-body")
	out.RawBody = f[:len(f):len(f)]
	sequence(r, f, "KRB-SAFE safe-body", &out.SafeBody, readKRBSafeBody)
	sequence(r, r.field(3, "KRB-SAFE cksum"), "KRB-SAFE cksum", &out.Cksum, readChecksum)
}

func writeKRBSafe(w *writer, v *KRBSafe) {
	sequenceField(w, 3, &v.Cksum, writeChecksum)
	sequenceField(w, 2, &v.SafeBody, writeKRBSafeBody)
	w.integer(1, int64(MsgSafe))
	w.integer(0, pvno)
}

// DecodeKRBSafeBody reads DER, one KRB-SAFE-BODY (RFC 4120 section 5.6.1).
func DecodeKRBSafeBody(b []byte) (*KRBSafeBody, error) {
	return decodeSequence(b, "KRB-SAFE-BODY", readKRBSafeBody)
}

// EncodeKRBSafeBody gives DER, one KRB-SAFE-BODY, over which the checksum runs.
func EncodeKRBSafeBody(m *KRBSafeBody) ([]byte, error) { return encodeSequence(m, writeKRBSafeBody) }

// EncKRBPrivPart has the fields of KRBSafeBody under the same tags, so one reader and one writer serve both.

func readKRBSafeBody(r *reader, out *KRBSafeBody) {
	out.UserData = r.octets(r.field(0, "user-data"), "user-data")
	if f, ok := r.optional(1, "timestamp"); ok {
		out.Timestamp = r.time(f, "timestamp")
	}
	if f, ok := r.optional(2, "usec"); ok {
		out.USec, out.HasUSec = r.int32(f, "usec"), true
	}
	if f, ok := r.optional(3, "seq-number"); ok {
		out.SeqNumber, out.HasSeqNumber = r.integer(f, "seq-number"), true
	}
	sequence(r, r.field(4, "s-address"), "s-address", &out.SAddress, readHostAddress)
	out.RAddress = optionalAddress(r, 5, "r-address")
}

func writeKRBSafeBody(w *writer, v *KRBSafeBody) {
	if v.RAddress != nil {
		sequenceField(w, 5, v.RAddress, writeHostAddress)
	}
	sequenceField(w, 4, &v.SAddress, writeHostAddress)
	if v.HasSeqNumber {
		w.integer(3, int64(v.SeqNumber))
	}
	if v.HasUSec {
		w.integer(2, int64(v.USec))
	}
	w.optionalTime(1, v.Timestamp, "timestamp")
	w.octets(0, v.UserData)
}

func optionalAddress(r *reader, n uint8, what string) *HostAddress {
	f, ok := r.optional(n, what)
	if !ok {
		return nil
	}
	a := new(HostAddress)
	sequence(r, f, what, a, readHostAddress)
	return a
}

// DecodeKRBPriv reads DER, one KRB-PRIV (RFC 4120 section 5.7.1).
func DecodeKRBPriv(b []byte) (*KRBPriv, error) {
	return decodeApplication(b, uint8(MsgPriv), "KRB-PRIV", func(r *reader, out *KRBPriv) {
		r.version(0, "KRB-PRIV pvno")
		r.msgType(1, MsgPriv, "KRB-PRIV msg-type")
		// There is no [2]: RFC 4120 section 5.7.1.
		sequence(r, r.field(3, "KRB-PRIV enc-part"), "KRB-PRIV enc-part", &out.EncPart, readEncryptedData)
	})
}

// EncodeKRBPriv gives DER, one KRB-PRIV.
func EncodeKRBPriv(m *KRBPriv) ([]byte, error) {
	return encodeApplication(nil, m, uint8(MsgPriv), func(w *writer, v *KRBPriv) {
		sequenceField(w, 3, &v.EncPart, writeEncryptedData)
		w.integer(1, int64(MsgPriv))
		w.integer(0, pvno)
	})
}

// DecodeEncKRBPrivPart reads DER, one EncKrbPrivPart (RFC 4120 section 5.7.1).
func DecodeEncKRBPrivPart(b []byte) (*EncKRBPrivPart, error) {
	return decodeApplication(b, tagEncKRBPrivPart, "EncKrbPrivPart", func(r *reader, out *EncKRBPrivPart) {
		readKRBSafeBody(r, (*KRBSafeBody)(out))
	})
}

// EncodeEncKRBPrivPart gives DER, one EncKrbPrivPart.
func EncodeEncKRBPrivPart(m *EncKRBPrivPart) ([]byte, error) {
	return encodeApplication(nil, m, tagEncKRBPrivPart, func(w *writer, v *EncKRBPrivPart) {
		writeKRBSafeBody(w, (*KRBSafeBody)(v))
	})
}

// DecodeKRBCred reads DER, one KRB-CRED (RFC 4120 section 5.8.1).
func DecodeKRBCred(b []byte) (*KRBCred, error) {
	return decodeApplication(b, uint8(MsgCred), "KRB-CRED", func(r *reader, out *KRBCred) {
		r.version(0, "KRB-CRED pvno")
		r.msgType(1, MsgCred, "KRB-CRED msg-type")
		out.Tickets = readTickets(r, r.field(2, "KRB-CRED tickets"), "KRB-CRED tickets")
		sequence(r, r.field(3, "KRB-CRED enc-part"), "KRB-CRED enc-part", &out.EncPart, readEncryptedData)
	})
}

// EncodeKRBCred gives DER, one KRB-CRED.
func EncodeKRBCred(m *KRBCred) ([]byte, error) {
	return encodeApplication(nil, m, uint8(MsgCred), func(w *writer, v *KRBCred) {
		sequenceField(w, 3, &v.EncPart, writeEncryptedData)
		writeTickets(w, 2, v.Tickets)
		w.integer(1, int64(MsgCred))
		w.integer(0, pvno)
	})
}

// DecodeEncKRBCredPart reads DER, one EncKrbCredPart (RFC 4120 section 5.8.1). A string that is present and empty counts as absent.
func DecodeEncKRBCredPart(b []byte) (*EncKRBCredPart, error) {
	return decodeApplication(b, tagEncKRBCredPart, "EncKrbCredPart", readEncKRBCredPart)
}

// EncodeEncKRBCredPart gives DER, one EncKrbCredPart. It holds session keys: the caller clears it after use.
func EncodeEncKRBCredPart(m *EncKRBCredPart) ([]byte, error) {
	return encodeApplication(nil, m, tagEncKRBCredPart, writeEncKRBCredPart)
}

func readEncKRBCredPart(r *reader, out *EncKRBCredPart) {
	out.TicketInfo = list(r, r.field(0, "EncKrbCredPart ticket-info"), "EncKrbCredPart ticket-info", readKRBCredInfo)
	if f, ok := r.optional(1, "EncKrbCredPart nonce"); ok {
		out.Nonce, out.HasNonce = r.integer(f, "EncKrbCredPart nonce"), true
	}
	if f, ok := r.optional(2, "EncKrbCredPart timestamp"); ok {
		out.Timestamp = r.time(f, "EncKrbCredPart timestamp")
	}
	if f, ok := r.optional(3, "EncKrbCredPart usec"); ok {
		out.USec, out.HasUSec = r.int32(f, "EncKrbCredPart usec"), true
	}
	out.SAddress = optionalAddress(r, 4, "EncKrbCredPart s-address")
	out.RAddress = optionalAddress(r, 5, "EncKrbCredPart r-address")
}

func writeEncKRBCredPart(w *writer, v *EncKRBCredPart) {
	if v.RAddress != nil {
		sequenceField(w, 5, v.RAddress, writeHostAddress)
	}
	if v.SAddress != nil {
		sequenceField(w, 4, v.SAddress, writeHostAddress)
	}
	if v.HasUSec {
		w.integer(3, int64(v.USec))
	}
	w.optionalTime(2, v.Timestamp, "EncKrbCredPart timestamp")
	if v.HasNonce {
		w.integer(1, int64(v.Nonce))
	}
	mark := w.len()
	writeList(w, v.TicketInfo, writeKRBCredInfo)
	w.field(0, mark)
}

func readKRBCredInfo(r *reader, out *KRBCredInfo) {
	out.Key = r.key(r.field(0, "KrbCredInfo key"), "KrbCredInfo key")
	if f, ok := r.optional(1, "KrbCredInfo prealm"); ok {
		out.PRealm = r.realmName(f, "KrbCredInfo prealm")
	}
	out.PName = optionalName(r, 2, "KrbCredInfo pname")
	if f, ok := r.optional(3, "KrbCredInfo flags"); ok {
		out.Flags, out.HasFlags = TicketFlags(r.flags(f, "KrbCredInfo flags")), true
	}
	for i, t := range []*time.Time{&out.AuthTime, &out.StartTime, &out.EndTime, &out.RenewTill} {
		if f, ok := r.optional(uint8(4+i), "KrbCredInfo times"); ok {
			*t = r.time(f, "KrbCredInfo times")
		}
	}
	if f, ok := r.optional(8, "KrbCredInfo srealm"); ok {
		out.SRealm = r.realmName(f, "KrbCredInfo srealm")
	}
	out.SName = optionalName(r, 9, "KrbCredInfo sname")
	if f, ok := r.optional(10, "KrbCredInfo caddr"); ok {
		out.CAddr = list(r, f, "KrbCredInfo caddr", readHostAddress)
	}
}

func optionalName(r *reader, n uint8, what string) *PrincipalName {
	f, ok := r.optional(n, what)
	if !ok {
		return nil
	}
	name := r.name(f, what)
	return &name
}

func writeKRBCredInfo(w *writer, v *KRBCredInfo) {
	listField(w, 10, v.CAddr, writeHostAddress)
	if v.SName != nil {
		w.name(9, v.SName, "KrbCredInfo sname")
	}
	if v.SRealm != "" {
		w.realmName(8, v.SRealm, "KrbCredInfo srealm")
	}
	w.optionalTime(7, v.RenewTill, "KrbCredInfo renew-till")
	w.optionalTime(6, v.EndTime, "KrbCredInfo endtime")
	w.optionalTime(5, v.StartTime, "KrbCredInfo starttime")
	w.optionalTime(4, v.AuthTime, "KrbCredInfo authtime")
	if v.HasFlags {
		w.flags(3, uint32(v.Flags))
	}
	if v.PName != nil {
		w.name(2, v.PName, "KrbCredInfo pname")
	}
	if v.PRealm != "" {
		w.realmName(1, v.PRealm, "KrbCredInfo prealm")
	}
	w.key(0, v.Key, "KrbCredInfo key")
}

package krb5

import (
	"golang.org/x/crypto/cryptobyte"

	"github.com/charon-kdc/charon/kdc/krb5/kcrypto"
)

// kdcReqRoom keeps a request and what it points to in one allocation.
type kdcReqRoom struct {
	req          KDCReq
	cname, sname PrincipalName
}

// DecodeKDCReq reads DER, one AS-REQ or TGS-REQ (RFC 4120 section 5.4.1).
func DecodeKDCReq(b []byte) (*KDCReq, error) {
	var room *kdcReqRoom
	var err error
	if len(b) > 0 && b[0] == byte(appTag(uint8(MsgTGSReq))) {
		room, err = decodeApplication(b, uint8(MsgTGSReq), "KDC-REQ", func(r *reader, out *kdcReqRoom) { readKDCReq(r, MsgTGSReq, out) })
	} else {
		room, err = decodeApplication(b, uint8(MsgASReq), "KDC-REQ", func(r *reader, out *kdcReqRoom) { readKDCReq(r, MsgASReq, out) })
	}
	if err != nil {
		return nil, err
	}
	return &room.req, nil
}

func readKDCReq(r *reader, t MsgType, room *kdcReqRoom) {
	out := &room.req
	r.version(1, "KDC-REQ pvno")
	r.msgType(2, t, "KDC-REQ msg-type")
	out.MsgType = t
	if f, ok := r.optional(3, "KDC-REQ padata"); ok {
		out.PAData = list(r, f, "KDC-REQ padata", readPAData)
	}
	f := r.field(4, "KDC-REQ req-body")
	out.RawBody = f[:len(f):len(f)]
	sequence(r, f, "KDC-REQ-BODY", room, readKDCReqBody)
}

// EncodeKDCReq gives DER, one AS-REQ or TGS-REQ by MsgType. The body is made from ReqBody; RawBody does not count.
func EncodeKDCReq(m *KDCReq) ([]byte, error) {
	return encode(nil, m, func(w *writer, m *KDCReq) {
		if m.MsgType != MsgASReq && m.MsgType != MsgTGSReq {
			w.fail("KDC-REQ msg-type", errRange)
			return
		}
		sequenceField(w, 4, &m.ReqBody, writeKDCReqBody)
		listField(w, 3, m.PAData, writePAData)
		w.integer(2, int64(m.MsgType))
		w.integer(1, pvno)
		w.application(uint8(m.MsgType), 0)
	})
}

// DecodeKDCReqBody reads DER, one KDC-REQ-BODY (RFC 4120 section 5.4.1), as it stands in a KrbFastReq.
func DecodeKDCReqBody(b []byte) (*KDCReqBody, error) {
	room, err := decodeSequence(b, "KDC-REQ-BODY", readKDCReqBody)
	if err != nil {
		return nil, err
	}
	return &room.req.ReqBody, nil
}

// EncodeKDCReqBody gives DER, one KDC-REQ-BODY: exactly the octets that EncodeKDCReq puts into req-body, for the authenticator's checksum.
func EncodeKDCReqBody(m *KDCReqBody) ([]byte, error) { return encodeSequence(m, writeKDCReqBody) }

func readKDCReqBody(r *reader, room *kdcReqRoom) {
	out := &room.req.ReqBody
	out.KDCOptions = KDCOptions(r.flags(r.field(0, "KDC-REQ-BODY kdc-options"), "KDC-REQ-BODY kdc-options"))
	if f, ok := r.optional(1, "KDC-REQ-BODY cname"); ok {
		room.cname = r.name(f, "KDC-REQ-BODY cname")
		out.CName = &room.cname
	}
	out.Realm = r.realmName(r.field(2, "KDC-REQ-BODY realm"), "KDC-REQ-BODY realm")
	if f, ok := r.optional(3, "KDC-REQ-BODY sname"); ok {
		room.sname = r.name(f, "KDC-REQ-BODY sname")
		out.SName = &room.sname
	}
	if f, ok := r.optional(4, "KDC-REQ-BODY from"); ok {
		out.From = r.time(f, "KDC-REQ-BODY from")
	}
	out.Till = r.time(r.field(5, "KDC-REQ-BODY till"), "KDC-REQ-BODY till")
	if f, ok := r.optional(6, "KDC-REQ-BODY rtime"); ok {
		out.RTime = r.time(f, "KDC-REQ-BODY rtime")
	}
	out.Nonce = r.integer(r.field(7, "KDC-REQ-BODY nonce"), "KDC-REQ-BODY nonce")
	out.EType = r.etypes(r.field(8, "KDC-REQ-BODY etype"), "KDC-REQ-BODY etype")
	if f, ok := r.optional(9, "KDC-REQ-BODY addresses"); ok {
		out.Addresses = list(r, f, "KDC-REQ-BODY addresses", readHostAddress)
	}
	if f, ok := r.optional(10, "KDC-REQ-BODY enc-authorization-data"); ok {
		out.EncAuthorizationData = new(EncryptedData)
		sequence(r, f, "KDC-REQ-BODY enc-authorization-data", out.EncAuthorizationData, readEncryptedData)
	}
	if f, ok := r.optional(11, "KDC-REQ-BODY additional-tickets"); ok {
		out.AdditionalTickets = readTickets(r, f, "KDC-REQ-BODY additional-tickets")
	}
}

// etypes reads all of s as one SEQUENCE OF Int32. Numbers that nobody knows stay in it: clients send them.
func (r *reader) etypes(s cryptobyte.String, what string) []kcrypto.EType {
	rest, n := r.elements(s, tagInteger, what)
	if r.err != nil {
		return nil
	}
	out := make([]kcrypto.EType, n)
	for i := range out {
		var e cryptobyte.String
		e, rest, _ = element(rest, tagInteger)
		out[i] = kcrypto.EType(int32(r.integerOctets(e, what)))
	}
	return out
}

func writeKDCReqBody(w *writer, v *KDCReqBody) {
	if v.AdditionalTickets != nil {
		writeTickets(w, 11, v.AdditionalTickets)
	}
	if v.EncAuthorizationData != nil {
		sequenceField(w, 10, v.EncAuthorizationData, writeEncryptedData)
	}
	listField(w, 9, v.Addresses, writeHostAddress)
	mark := w.len()
	for i := len(v.EType) - 1; i >= 0; i-- {
		w.bareInteger(int64(v.EType[i]))
	}
	w.head(tagSequence, mark)
	w.field(8, mark)
	w.integer(7, int64(v.Nonce))
	w.optionalTime(6, v.RTime, "KDC-REQ-BODY rtime")
	w.time(5, v.Till, "KDC-REQ-BODY till")
	w.optionalTime(4, v.From, "KDC-REQ-BODY from")
	if v.SName != nil {
		w.name(3, v.SName, "KDC-REQ-BODY sname")
	}
	w.realmName(2, v.Realm, "KDC-REQ-BODY realm")
	if v.CName != nil {
		w.name(1, v.CName, "KDC-REQ-BODY cname")
	}
	w.flags(0, uint32(v.KDCOptions))
}

// DecodeKDCRep reads DER, one AS-REP or TGS-REP (RFC 4120 section 5.4.2).
func DecodeKDCRep(b []byte) (*KDCRep, error) {
	if len(b) > 0 && b[0] == byte(appTag(uint8(MsgTGSRep))) {
		return decodeApplication(b, uint8(MsgTGSRep), "KDC-REP", func(r *reader, out *KDCRep) { readKDCRep(r, MsgTGSRep, out) })
	}
	return decodeApplication(b, uint8(MsgASRep), "KDC-REP", func(r *reader, out *KDCRep) { readKDCRep(r, MsgASRep, out) })
}

func readKDCRep(r *reader, t MsgType, out *KDCRep) {
	r.version(0, "KDC-REP pvno")
	r.msgType(1, t, "KDC-REP msg-type")
	out.MsgType = t
	if f, ok := r.optional(2, "KDC-REP padata"); ok {
		out.PAData = list(r, f, "KDC-REP padata", readPAData)
	}
	out.CRealm = r.realmName(r.field(3, "KDC-REP crealm"), "KDC-REP crealm")
	out.CName = r.name(r.field(4, "KDC-REP cname"), "KDC-REP cname")
	readTicketField(r, r.field(5, "KDC-REP ticket"), &out.Ticket)
	sequence(r, r.field(6, "KDC-REP enc-part"), "KDC-REP enc-part", &out.EncPart, readEncryptedData)
}

// EncodeKDCRep gives DER, one AS-REP or TGS-REP by MsgType.
func EncodeKDCRep(m *KDCRep) ([]byte, error) { return AppendKDCRep(nil, m) }

// AppendKDCRep appends DER, one AS-REP or TGS-REP by MsgType, to dst.
func AppendKDCRep(dst []byte, m *KDCRep) ([]byte, error) {
	return encode(dst, m, writeKDCRep)
}

func writeKDCRep(w *writer, m *KDCRep) {
	if m.MsgType != MsgASRep && m.MsgType != MsgTGSRep {
		w.fail("KDC-REP msg-type", errRange)
		return
	}
	sequenceField(w, 6, &m.EncPart, writeEncryptedData)
	writeTicketField(w, 5, &m.Ticket)
	w.name(4, &m.CName, "KDC-REP cname")
	w.realmName(3, m.CRealm, "KDC-REP crealm")
	listField(w, 2, m.PAData, writePAData)
	w.integer(1, int64(m.MsgType))
	w.integer(0, pvno)
	w.application(uint8(m.MsgType), 0)
}

// DecodeEncKDCRepPart reads DER, one EncASRepPart or EncTGSRepPart (RFC 4120 section 5.4.2). Either is taken for either reply, because
// MIT's KDC sends EncTGSRepPart in an AS-REP.
func DecodeEncKDCRepPart(b []byte) (*EncKDCRepPart, error) {
	tag := uint8(tagEncASRepPart)
	if len(b) > 0 && b[0] == byte(appTag(tagEncTGSRepPart)) {
		tag = tagEncTGSRepPart
	}
	return decodeApplication(b, tag, "EncKDCRepPart", readEncKDCRepPart)
}

// EncodeEncKDCRepPart gives DER: EncASRepPart [APPLICATION 25] for MsgASRep, EncTGSRepPart [APPLICATION 26] for MsgTGSRep.
// It holds the session key: the caller clears it after use.
func EncodeEncKDCRepPart(t MsgType, m *EncKDCRepPart) ([]byte, error) {
	return AppendEncKDCRepPart(nil, t, m)
}

// AppendEncKDCRepPart appends to dst what EncodeEncKDCRepPart gives.
func AppendEncKDCRepPart(dst []byte, t MsgType, m *EncKDCRepPart) ([]byte, error) {
	switch t {
	case MsgASRep:
		return encodeApplication(dst, m, tagEncASRepPart, writeEncKDCRepPart)
	case MsgTGSRep:
		return encodeApplication(dst, m, tagEncTGSRepPart, writeEncKDCRepPart)
	}
	var w writer
	w.fail("EncKDCRepPart of "+t.String(), errRange)
	return nil, w.err
}

func readEncKDCRepPart(r *reader, out *EncKDCRepPart) {
	out.Key = r.key(r.field(0, "EncKDCRepPart key"), "EncKDCRepPart key")
	out.LastReq = list(r, r.field(1, "EncKDCRepPart last-req"), "EncKDCRepPart last-req", readLastReq)
	out.Nonce = r.integer(r.field(2, "EncKDCRepPart nonce"), "EncKDCRepPart nonce")
	if f, ok := r.optional(3, "EncKDCRepPart key-expiration"); ok {
		out.KeyExpiration = r.time(f, "EncKDCRepPart key-expiration")
	}
	out.Flags = TicketFlags(r.flags(r.field(4, "EncKDCRepPart flags"), "EncKDCRepPart flags"))
	out.AuthTime = r.time(r.field(5, "EncKDCRepPart authtime"), "EncKDCRepPart authtime")
	if f, ok := r.optional(6, "EncKDCRepPart starttime"); ok {
		out.StartTime = r.time(f, "EncKDCRepPart starttime")
	}
	out.EndTime = r.time(r.field(7, "EncKDCRepPart endtime"), "EncKDCRepPart endtime")
	if f, ok := r.optional(8, "EncKDCRepPart renew-till"); ok {
		out.RenewTill = r.time(f, "EncKDCRepPart renew-till")
	}
	out.SRealm = r.realmName(r.field(9, "EncKDCRepPart srealm"), "EncKDCRepPart srealm")
	out.SName = r.name(r.field(10, "EncKDCRepPart sname"), "EncKDCRepPart sname")
	if f, ok := r.optional(11, "EncKDCRepPart caddr"); ok {
		out.CAddr = list(r, f, "EncKDCRepPart caddr", readHostAddress)
	}
	if f, ok := r.optional(12, "EncKDCRepPart encrypted-pa-data"); ok {
		out.EncryptedPAData = list(r, f, "EncKDCRepPart encrypted-pa-data", readPAData)
	}
}

func writeEncKDCRepPart(w *writer, v *EncKDCRepPart) {
	listField(w, 12, v.EncryptedPAData, writePAData)
	listField(w, 11, v.CAddr, writeHostAddress)
	w.name(10, &v.SName, "EncKDCRepPart sname")
	w.realmName(9, v.SRealm, "EncKDCRepPart srealm")
	w.optionalTime(8, v.RenewTill, "EncKDCRepPart renew-till")
	w.time(7, v.EndTime, "EncKDCRepPart endtime")
	w.optionalTime(6, v.StartTime, "EncKDCRepPart starttime")
	w.time(5, v.AuthTime, "EncKDCRepPart authtime")
	w.flags(4, uint32(v.Flags))
	w.optionalTime(3, v.KeyExpiration, "EncKDCRepPart key-expiration")
	w.integer(2, int64(v.Nonce))
	mark := w.len()
	writeList(w, v.LastReq, writeLastReq)
	w.field(1, mark)
	w.key(0, v.Key, "EncKDCRepPart key")
}

// DecodeKRBError reads DER, one KRB-ERROR (RFC 4120 section 5.9.1). A string that is present and empty counts as absent.
func DecodeKRBError(b []byte) (*KRBError, error) {
	return decodeApplication(b, uint8(MsgError), "KRB-ERROR", readKRBError)
}

// EncodeKRBError gives DER, one KRB-ERROR.
func EncodeKRBError(m *KRBError) ([]byte, error) {
	return encodeApplication(nil, m, uint8(MsgError), writeKRBError)
}

func readKRBError(r *reader, out *KRBError) {
	r.version(0, "KRB-ERROR pvno")
	r.msgType(1, MsgError, "KRB-ERROR msg-type")
	if f, ok := r.optional(2, "KRB-ERROR ctime"); ok {
		out.CTime = r.time(f, "KRB-ERROR ctime")
	}
	if f, ok := r.optional(3, "KRB-ERROR cusec"); ok {
		out.CUSec, out.HasCUSec = r.int32(f, "KRB-ERROR cusec"), true
	}
	out.STime = r.time(r.field(4, "KRB-ERROR stime"), "KRB-ERROR stime")
	out.SUSec = r.int32(r.field(5, "KRB-ERROR susec"), "KRB-ERROR susec")
	out.ErrorCode = ErrorCode(r.int32(r.field(6, "KRB-ERROR error-code"), "KRB-ERROR error-code"))
	if f, ok := r.optional(7, "KRB-ERROR crealm"); ok {
		out.CRealm = r.realmName(f, "KRB-ERROR crealm")
	}
	out.CName = optionalName(r, 8, "KRB-ERROR cname")
	out.Realm = r.realmName(r.field(9, "KRB-ERROR realm"), "KRB-ERROR realm")
	out.SName = r.name(r.field(10, "KRB-ERROR sname"), "KRB-ERROR sname")
	if f, ok := r.optional(11, "KRB-ERROR e-text"); ok {
		out.EText = r.generalString(f, "KRB-ERROR e-text")
	}
	if f, ok := r.optional(12, "KRB-ERROR e-data"); ok {
		out.EData = r.octets(f, "KRB-ERROR e-data")
	}
}

func writeKRBError(w *writer, v *KRBError) {
	if v.EData != nil {
		w.octets(12, v.EData)
	}
	if v.EText != "" {
		w.text(11, v.EText)
	}
	w.name(10, &v.SName, "KRB-ERROR sname")
	w.realmName(9, v.Realm, "KRB-ERROR realm")
	if v.CName != nil {
		w.name(8, v.CName, "KRB-ERROR cname")
	}
	if v.CRealm != "" {
		w.realmName(7, v.CRealm, "KRB-ERROR crealm")
	}
	w.integer(6, int64(v.ErrorCode))
	w.integer(5, int64(v.SUSec))
	w.time(4, v.STime, "KRB-ERROR stime")
	if v.HasCUSec {
		w.integer(3, int64(v.CUSec))
	}
	w.optionalTime(2, v.CTime, "KRB-ERROR ctime")
	w.integer(1, int64(MsgError))
	w.integer(0, pvno)
}

package krb5

import ()

// DecodeAPReq reads DER, one AP-REQ (RFC 4120 section 5.5.1).
func DecodeAPReq(b []byte) (*APReq, error) {
	return decodeApplication(b, uint8(MsgAPReq), "AP-REQ", readAPReq)
}

// EncodeAPReq gives DER, one AP-REQ.
func EncodeAPReq(m *APReq) ([]byte, error) {
	return encodeApplication(nil, m, uint8(MsgAPReq), writeAPReq)
}

func readAPReq(r *reader, out *APReq) {
	r.version(0, "AP-REQ pvno")
	r.msgType(1, MsgAPReq, "AP-REQ msg-type")
	out.APOptions = APOptions(r.flags(r.field(2, "AP-REQ ap-options"), "AP-REQ ap-options"))
	readTicketField(r, r.field(3, "AP-REQ ticket"), &out.Ticket)
	sequence(r, r.field(4, "AP-REQ authenticator"), "AP-REQ authenticator", &out.Authenticator, readEncryptedData)
}

func writeAPReq(w *writer, v *APReq) {
	sequenceField(w, 4, &v.Authenticator, writeEncryptedData)
	writeTicketField(w, 3, &v.Ticket)
	w.flags(2, uint32(v.APOptions))
	w.integer(1, int64(MsgAPReq))
	w.integer(0, pvno)
}

// authenticatorRoom keeps an authenticator and its checksum in one allocation.
type authenticatorRoom struct {
	auth  Authenticator
	cksum Checksum
}

// DecodeAuthenticator reads DER, one Authenticator (RFC 4120 section 5.5.1). A subkey of an enctype that kcrypto lacks is refused with kcrypto.ErrEType.
func DecodeAuthenticator(b []byte) (*Authenticator, error) {
	room, err := decodeApplication(b, tagAuthenticator, "Authenticator", readAuthenticator)
	if err != nil {
		return nil, err
	}
	return &room.auth, nil
}

// EncodeAuthenticator gives DER, one Authenticator. It may hold a subkey: the caller clears it after use.
func EncodeAuthenticator(m *Authenticator) ([]byte, error) {
	return encodeApplication(nil, m, tagAuthenticator, writeAuthenticator)
}

func readAuthenticator(r *reader, room *authenticatorRoom) {
	out := &room.auth
	r.version(0, "Authenticator authenticator-vno")
	out.CRealm = r.realmName(r.field(1, "Authenticator crealm"), "Authenticator crealm")
	out.CName = r.name(r.field(2, "Authenticator cname"), "Authenticator cname")
	if f, ok := r.optional(3, "Authenticator cksum"); ok {
		sequence(r, f, "Authenticator cksum", &room.cksum, readChecksum)
		out.Cksum = &room.cksum
	}
	out.CUSec = r.int32(r.field(4, "Authenticator cusec"), "Authenticator cusec")
	out.CTime = r.time(r.field(5, "Authenticator ctime"), "Authenticator ctime")
	if f, ok := r.optional(6, "Authenticator subkey"); ok {
		out.SubKey = r.key(f, "Authenticator subkey")
	}
	if f, ok := r.optional(7, "Authenticator seq-number"); ok {
		out.SeqNumber, out.HasSeqNumber = r.integer(f, "Authenticator seq-number"), true
	}
	if f, ok := r.optional(8, "Authenticator authorization-data"); ok {
		out.AuthorizationData = list(r, f, "Authenticator authorization-data", readAuthorizationDataElement)
	}
}

func writeAuthenticator(w *writer, v *Authenticator) {
	listField(w, 8, v.AuthorizationData, writeAuthorizationDataElement)
	if v.HasSeqNumber {
		w.integer(7, int64(v.SeqNumber))
	}
	if v.SubKey != nil {
		w.key(6, v.SubKey, "Authenticator subkey")
	}
	w.time(5, v.CTime, "Authenticator ctime")
	w.integer(4, int64(v.CUSec))
	if v.Cksum != nil {
		sequenceField(w, 3, v.Cksum, writeChecksum)
	}
	w.name(2, &v.CName, "Authenticator cname")
	w.realmName(1, v.CRealm, "Authenticator crealm")
	w.integer(0, pvno)
}

// DecodeAPRep reads DER, one AP-REP (RFC 4120 section 5.5.2).
func DecodeAPRep(b []byte) (*APRep, error) {
	return decodeApplication(b, uint8(MsgAPRep), "AP-REP", readAPRep)
}

// EncodeAPRep gives DER, one AP-REP.
func EncodeAPRep(m *APRep) ([]byte, error) {
	return encodeApplication(nil, m, uint8(MsgAPRep), writeAPRep)
}

func readAPRep(r *reader, out *APRep) {
	r.version(0, "AP-REP pvno")
	r.msgType(1, MsgAPRep, "AP-REP msg-type")
	sequence(r, r.field(2, "AP-REP enc-part"), "AP-REP enc-part", &out.EncPart, readEncryptedData)
}

func writeAPRep(w *writer, v *APRep) {
	sequenceField(w, 2, &v.EncPart, writeEncryptedData)
	w.integer(1, int64(MsgAPRep))
	w.integer(0, pvno)
}

// DecodeEncAPRepPart reads DER, one EncAPRepPart (RFC 4120 section 5.5.2).
func DecodeEncAPRepPart(b []byte) (*EncAPRepPart, error) {
	return decodeApplication(b, tagEncAPRepPart, "EncAPRepPart", readEncAPRepPart)
}

// EncodeEncAPRepPart gives DER, one EncAPRepPart. It may hold a subkey: the caller clears it after use.
func EncodeEncAPRepPart(m *EncAPRepPart) ([]byte, error) {
	return encodeApplication(nil, m, tagEncAPRepPart, writeEncAPRepPart)
}

func readEncAPRepPart(r *reader, out *EncAPRepPart) {
	out.CTime = r.time(r.field(0, "EncAPRepPart ctime"), "EncAPRepPart ctime")
	out.CUSec = r.int32(r.field(1, "EncAPRepPart cusec"), "EncAPRepPart cusec")
	if f, ok := r.optional(2, "EncAPRepPart subkey"); ok {
		out.SubKey = r.key(f, "EncAPRepPart subkey")
	}
	if f, ok := r.optional(3, "EncAPRepPart seq-number"); ok {
		out.SeqNumber, out.HasSeqNumber = r.integer(f, "EncAPRepPart seq-number"), true
	}
}

func writeEncAPRepPart(w *writer, v *EncAPRepPart) {
	if v.HasSeqNumber {
		w.integer(3, int64(v.SeqNumber))
	}
	if v.SubKey != nil {
		w.key(2, v.SubKey, "EncAPRepPart subkey")
	}
	w.integer(1, int64(v.CUSec))
	w.time(0, v.CTime, "EncAPRepPart ctime")
}

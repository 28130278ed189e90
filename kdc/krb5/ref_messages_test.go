package krb5

import (
	"errors"

	"github.com/jcmturner/gofork/encoding/asn1"

	"github.com/charon-kdc/charon/kdc/krb5/kcrypto"
)

// refDecode reads with the structs of ref_types_test.go: tag is the application tag, or 0 for none; get converts.
func refDecode[R, T any](tag int, get func(c *refConv, r *R) T) func([]byte) (*T, error) {
	return func(b []byte) (*T, error) {
		var r R
		var err error
		if tag == 0 {
			err = refUnmarshal(b, &r)
		} else {
			err = refUnmarshalApp(b, tag, &r)
		}
		if err != nil {
			return nil, err
		}
		var c refConv
		out := get(&c, &r)
		if c.err != nil {
			return nil, c.err
		}
		return &out, nil
	}
}

func refEncode[R, T any](tag int, put func(c *refConv, m *T) R) func(*T) ([]byte, error) {
	return func(m *T) ([]byte, error) {
		var c refConv
		r := put(&c, m)
		if c.err != nil {
			return nil, c.err
		}
		if tag == 0 {
			return refMarshal(r)
		}
		return refMarshalApp(r, tag)
	}
}

func refGetKDCReqBody(c *refConv, r *refKDCReqBody) KDCReqBody {
	m := KDCReqBody{
		KDCOptions: KDCOptions(c.flags(r.Options)), CName: c.optName(r.CName), Realm: c.realm(r.Realm), SName: c.optName(r.SName),
		From: c.optTime(r.From), Till: c.time(r.Till), RTime: c.optTime(r.RTime), Nonce: c.u32(r.Nonce),
		EType:     refMap(r.EType, func(v int64) kcrypto.EType { return kcrypto.EType(c.i32(v)) }),
		Addresses: c.addresses(r.Addresses),
	}
	if r.EncAuth.Cipher != nil {
		e := c.encrypted(r.EncAuth)
		m.EncAuthorizationData = &e
	}
	if r.Tickets.FullBytes != nil {
		m.AdditionalTickets = c.ticketList(r.Tickets, 11)
	}
	return m
}

func refPutKDCReqBody(c *refConv, m *KDCReqBody) refKDCReqBody {
	r := refKDCReqBody{
		Options: refFlags(uint32(m.KDCOptions)), CName: c.putOptName(m.CName), Realm: c.realm(m.Realm), SName: c.putOptName(m.SName),
		From: c.putOptTime(m.From), Till: c.putTime(m.Till), RTime: c.putOptTime(m.RTime), Nonce: int64(m.Nonce),
		EType:     refMap(m.EType, func(v kcrypto.EType) int64 { return int64(v) }),
		Addresses: refMap(m.Addresses, refAddress),
	}
	if m.EncAuthorizationData != nil {
		r.EncAuth = refEncrypted(*m.EncAuthorizationData)
	}
	if m.AdditionalTickets != nil {
		r.Tickets = c.putTicketList(m.AdditionalTickets, 11)
	}
	return r
}

func refDecodeKDCReq(b []byte) (*KDCReq, error) {
	for _, t := range []MsgType{MsgASReq, MsgTGSReq} {
		m, err := refDecode(int(t), func(c *refConv, r *refKDCReq) KDCReq {
			c.version(r.PVNO)
			c.check(r.MsgType == int64(t), "msg-type")
			raw, err := asn1.Marshal(r.Body)
			c.check(err == nil, "req-body")
			return KDCReq{MsgType: t, PAData: c.padata(r.PAData), ReqBody: refGetKDCReqBody(c, &r.Body), RawBody: raw}
		})(b)
		if err == nil {
			return m, nil
		}
	}
	return nil, errors.New("no KDC-REQ")
}

func refEncodeKDCReq(m *KDCReq) ([]byte, error) {
	return refEncode(int(m.MsgType), func(c *refConv, m *KDCReq) refKDCReq {
		c.check(m.MsgType == MsgASReq || m.MsgType == MsgTGSReq, "msg-type")
		return refKDCReq{5, int64(m.MsgType), refPADataList(m.PAData), refPutKDCReqBody(c, &m.ReqBody)}
	})(m)
}

func refDecodeKDCRep(b []byte) (*KDCRep, error) {
	for _, t := range []MsgType{MsgASRep, MsgTGSRep} {
		m, err := refDecode(int(t), func(c *refConv, r *refKDCRep) KDCRep {
			c.version(r.PVNO)
			c.check(r.MsgType == int64(t), "msg-type")
			return KDCRep{t, c.padata(r.PAData), c.realm(r.CRealm), c.name(r.CName), c.ticketField(r.Ticket, 5), c.encrypted(r.EncPart)}
		})(b)
		if err == nil {
			return m, nil
		}
	}
	return nil, errors.New("no KDC-REP")
}

func refEncodeKDCRep(m *KDCRep) ([]byte, error) {
	return refEncode(int(m.MsgType), func(c *refConv, m *KDCRep) refKDCRep {
		c.check(m.MsgType == MsgASRep || m.MsgType == MsgTGSRep, "msg-type")
		return refKDCRep{5, int64(m.MsgType), refPADataList(m.PAData), c.realm(m.CRealm), c.putName(m.CName), c.putTicketField(m.Ticket, 5), refEncrypted(m.EncPart)}
	})(m)
}

func refDecodeEncKDCRepPart(b []byte) (*EncKDCRepPart, error) {
	get := func(c *refConv, r *refEncKDCRepPart) EncKDCRepPart {
		return EncKDCRepPart{
			Key: c.key(r.Key), Nonce: c.u32(r.Nonce), KeyExpiration: c.optTime(r.KeyExpiration), Flags: TicketFlags(c.flags(r.Flags)),
			LastReq:  refMap(r.LastReq, func(l refLastReq) LastReq { return LastReq{c.i32(l.Type), c.time(l.Value)} }),
			AuthTime: c.time(r.AuthTime), StartTime: c.optTime(r.StartTime), EndTime: c.time(r.EndTime), RenewTill: c.optTime(r.RenewTill),
			SRealm: c.realm(r.SRealm), SName: c.name(r.SName), CAddr: c.addresses(r.CAddr), EncryptedPAData: c.padata(r.EncPAData),
		}
	}
	if m, err := refDecode(25, get)(b); err == nil {
		return m, nil
	}
	return refDecode(26, get)(b)
}

func refEncodeEncKDCRepPart(t MsgType, m *EncKDCRepPart) ([]byte, error) {
	return refEncode(map[MsgType]int{MsgASRep: 25, MsgTGSRep: 26}[t], func(c *refConv, m *EncKDCRepPart) refEncKDCRepPart {
		return refEncKDCRepPart{
			Key: c.putKey(m.Key), Nonce: int64(m.Nonce), KeyExpiration: c.putOptTime(m.KeyExpiration), Flags: refFlags(uint32(m.Flags)),
			LastReq:  refMap(m.LastReq, func(l LastReq) refLastReq { return refLastReq{int64(l.LRType), c.putTime(l.LRValue)} }),
			AuthTime: c.putTime(m.AuthTime), StartTime: c.putOptTime(m.StartTime), EndTime: c.putTime(m.EndTime), RenewTill: c.putOptTime(m.RenewTill),
			SRealm: c.realm(m.SRealm), SName: c.putName(m.SName), CAddr: refMap(m.CAddr, refAddress), EncPAData: refPADataList(m.EncryptedPAData),
		}
	})(m)
}

var (
	refDecodeKDCReqBody = refDecode(0, refGetKDCReqBody)
	refEncodeKDCReqBody = refEncode(0, refPutKDCReqBody)

	refDecodeTicket = func(b []byte) (*Ticket, error) {
		var c refConv
		t := c.ticket(b)
		return &t, c.err
	}
	refEncodeTicket = func(m *Ticket) ([]byte, error) {
		var c refConv
		b := c.putTicket(*m)
		return b, c.err
	}

	refDecodeEncTicketPart = refDecode(3, func(c *refConv, r *refEncTicketPart) EncTicketPart {
		return EncTicketPart{
			Flags: TicketFlags(c.flags(r.Flags)), Key: c.key(r.Key), CRealm: c.realm(r.CRealm), CName: c.name(r.CName),
			Transited: TransitedEncoding{c.i32(r.Transited.Type), r.Transited.Value},
			AuthTime:  c.time(r.AuthTime), StartTime: c.optTime(r.StartTime), EndTime: c.time(r.EndTime), RenewTill: c.optTime(r.RenewTill),
			CAddr: c.addresses(r.CAddr), AuthorizationData: c.authData(r.AuthData),
		}
	})
	refEncodeEncTicketPart = refEncode(3, func(c *refConv, m *EncTicketPart) refEncTicketPart {
		return refEncTicketPart{
			Flags: refFlags(uint32(m.Flags)), Key: c.putKey(m.Key), CRealm: c.realm(m.CRealm), CName: c.putName(m.CName),
			Transited: refTyped{int64(m.Transited.TRType), refOctets(m.Transited.Contents)},
			AuthTime:  c.putTime(m.AuthTime), StartTime: c.putOptTime(m.StartTime), EndTime: c.putTime(m.EndTime), RenewTill: c.putOptTime(m.RenewTill),
			CAddr: refMap(m.CAddr, refAddress), AuthData: refAuthData(m.AuthorizationData),
		}
	})

	refDecodeAPReq = refDecode(14, func(c *refConv, r *refAPReq) APReq {
		c.version(r.PVNO)
		c.check(r.MsgType == 14, "msg-type")
		return APReq{APOptions(c.flags(r.Options)), c.ticketField(r.Ticket, 3), c.encrypted(r.Auth)}
	})
	refEncodeAPReq = refEncode(14, func(c *refConv, m *APReq) refAPReq {
		return refAPReq{5, 14, refFlags(uint32(m.APOptions)), c.putTicketField(m.Ticket, 3), refEncrypted(m.Authenticator)}
	})

	refDecodeAuthenticator = refDecode(2, func(c *refConv, r *refAuthenticator) Authenticator {
		c.version(r.VNO)
		m := Authenticator{CRealm: c.realm(r.CRealm), CName: c.name(r.CName), CUSec: c.i32(r.CUSec), CTime: c.time(r.CTime), SubKey: c.optKey(r.SubKey), AuthorizationData: c.authData(r.AuthData)}
		m.SeqNumber, m.HasSeqNumber = c.optU32(r.Seq)
		if r.Cksum.Value != nil {
			s := c.checksum(r.Cksum)
			m.Cksum = &s
		}
		return m
	})
	refEncodeAuthenticator = refEncode(2, func(c *refConv, m *Authenticator) refAuthenticator {
		r := refAuthenticator{5, c.realm(m.CRealm), c.putName(m.CName), refTyped{}, int64(m.CUSec), c.putTime(m.CTime), c.putOptKey(m.SubKey), refOptU32(m.SeqNumber, m.HasSeqNumber), refAuthData(m.AuthorizationData)}
		if m.Cksum != nil {
			r.Cksum = refChecksum(*m.Cksum)
		}
		return r
	})

	refDecodeAPRep = refDecode(15, func(c *refConv, r *refAPRep) APRep {
		c.version(r.PVNO)
		c.check(r.MsgType == 15, "msg-type")
		return APRep{c.encrypted(r.EncPart)}
	})
	refEncodeAPRep = refEncode(15, func(c *refConv, m *APRep) refAPRep { return refAPRep{5, 15, refEncrypted(m.EncPart)} })

	refDecodeEncAPRepPart = refDecode(27, func(c *refConv, r *refEncAPRepPart) EncAPRepPart {
		m := EncAPRepPart{CTime: c.time(r.CTime), CUSec: c.i32(r.CUSec), SubKey: c.optKey(r.SubKey)}
		m.SeqNumber, m.HasSeqNumber = c.optU32(r.Seq)
		return m
	})
	refEncodeEncAPRepPart = refEncode(27, func(c *refConv, m *EncAPRepPart) refEncAPRepPart {
		return refEncAPRepPart{c.putTime(m.CTime), int64(m.CUSec), c.putOptKey(m.SubKey), refOptU32(m.SeqNumber, m.HasSeqNumber)}
	})
)

func refGetKRBSafeBody(c *refConv, r *refKRBSafeBody) KRBSafeBody {
	m := KRBSafeBody{UserData: r.UserData, Timestamp: c.optTime(r.Timestamp), SAddress: c.address(r.SAddress), RAddress: c.optAddress(r.RAddress)}
	m.USec, m.HasUSec = c.optI32(r.USec)
	m.SeqNumber, m.HasSeqNumber = c.optU32(r.Seq)
	return m
}

func refPutKRBSafeBody(c *refConv, m *KRBSafeBody) refKRBSafeBody {
	return refKRBSafeBody{refOctets(m.UserData), c.putOptTime(m.Timestamp), refOptI32(m.USec, m.HasUSec), refOptU32(m.SeqNumber, m.HasSeqNumber), refAddress(m.SAddress), refOptAddress(m.RAddress)}
}

func refGetKRBCredInfo(c *refConv, r refKRBCredInfo) KRBCredInfo {
	m := KRBCredInfo{
		Key: c.key(r.Key), PName: c.optName(r.PName), HasFlags: r.Flags.Bytes != nil, Flags: TicketFlags(c.flags(r.Flags)),
		AuthTime: c.optTime(r.AuthTime), StartTime: c.optTime(r.StartTime), EndTime: c.optTime(r.EndTime), RenewTill: c.optTime(r.RenewTill),
		SName: c.optName(r.SName), CAddr: c.addresses(r.CAddr),
	}
	m.PRealm, _ = c.text(r.PRealm)
	m.SRealm, _ = c.text(r.SRealm)
	c.realm(m.PRealm)
	c.realm(m.SRealm)
	return m
}

func refPutKRBCredInfo(c *refConv, m KRBCredInfo) refKRBCredInfo {
	r := refKRBCredInfo{
		Key: c.putKey(m.Key), PRealm: refPutText(1, c.realm(m.PRealm), m.PRealm != ""), PName: c.putOptName(m.PName),
		AuthTime: c.putOptTime(m.AuthTime), StartTime: c.putOptTime(m.StartTime), EndTime: c.putOptTime(m.EndTime), RenewTill: c.putOptTime(m.RenewTill),
		SRealm: refPutText(8, c.realm(m.SRealm), m.SRealm != ""), SName: c.putOptName(m.SName), CAddr: refMap(m.CAddr, refAddress),
	}
	if m.HasFlags {
		r.Flags = refFlags(uint32(m.Flags))
	}
	return r
}

var (
	refDecodeKRBSafe = refDecode(20, func(c *refConv, r *refKRBSafe) KRBSafe {
		c.version(r.PVNO)
		c.check(r.MsgType == 20, "msg-type")
		raw, err := asn1.Marshal(r.Body)
		c.check(err == nil, "safe-body")
		return KRBSafe{refGetKRBSafeBody(c, &r.Body), c.checksum(r.Cksum), raw}
	})
	refEncodeKRBSafe = refEncode(20, func(c *refConv, m *KRBSafe) refKRBSafe {
		return refKRBSafe{5, 20, refPutKRBSafeBody(c, &m.SafeBody), refChecksum(m.Cksum)}
	})
	refDecodeKRBSafeBody = refDecode(0, refGetKRBSafeBody)
	refEncodeKRBSafeBody = refEncode(0, refPutKRBSafeBody)

	refDecodeKRBPriv = refDecode(21, func(c *refConv, r *refKRBPriv) KRBPriv {
		c.version(r.PVNO)
		c.check(r.MsgType == 21, "msg-type")
		return KRBPriv{c.encrypted(r.EncPart)}
	})
	refEncodeKRBPriv        = refEncode(21, func(c *refConv, m *KRBPriv) refKRBPriv { return refKRBPriv{5, 21, refEncrypted(m.EncPart)} })
	refDecodeEncKRBPrivPart = refDecode(28, func(c *refConv, r *refKRBSafeBody) EncKRBPrivPart {
		return EncKRBPrivPart(refGetKRBSafeBody(c, r))
	})
	refEncodeEncKRBPrivPart = refEncode(28, func(c *refConv, m *EncKRBPrivPart) refKRBSafeBody {
		b := KRBSafeBody(*m)
		return refPutKRBSafeBody(c, &b)
	})

	refDecodeKRBCred = refDecode(22, func(c *refConv, r *refKRBCred) KRBCred {
		c.version(r.PVNO)
		c.check(r.MsgType == 22, "msg-type")
		return KRBCred{c.ticketList(r.Tickets, 2), c.encrypted(r.EncPart)}
	})
	refEncodeKRBCred = refEncode(22, func(c *refConv, m *KRBCred) refKRBCred {
		return refKRBCred{5, 22, c.putTicketList(m.Tickets, 2), refEncrypted(m.EncPart)}
	})
	refDecodeEncKRBCredPart = refDecode(29, func(c *refConv, r *refEncKRBCredPart) EncKRBCredPart {
		m := EncKRBCredPart{
			TicketInfo: refMap(r.TicketInfo, func(i refKRBCredInfo) KRBCredInfo { return refGetKRBCredInfo(c, i) }),
			Timestamp:  c.optTime(r.Timestamp), SAddress: c.optAddress(r.SAddress), RAddress: c.optAddress(r.RAddress),
		}
		m.Nonce, m.HasNonce = c.optU32(r.Nonce)
		m.USec, m.HasUSec = c.optI32(r.USec)
		return m
	})
	refEncodeEncKRBCredPart = refEncode(29, func(c *refConv, m *EncKRBCredPart) refEncKRBCredPart {
		return refEncKRBCredPart{
			refMap(m.TicketInfo, func(i KRBCredInfo) refKRBCredInfo { return refPutKRBCredInfo(c, i) }),
			refOptU32(m.Nonce, m.HasNonce), c.putOptTime(m.Timestamp), refOptI32(m.USec, m.HasUSec), refOptAddress(m.SAddress), refOptAddress(m.RAddress),
		}
	})

	refDecodeKRBError = refDecode(30, func(c *refConv, r *refKRBError) KRBError {
		c.version(r.PVNO)
		c.check(r.MsgType == 30, "msg-type")
		m := KRBError{
			CTime: c.optTime(r.CTime), STime: c.time(r.STime), SUSec: c.i32(r.SUSec), ErrorCode: ErrorCode(c.i32(r.Code)),
			CName: c.optName(r.CName), Realm: c.realm(r.Realm), SName: c.name(r.SName), EData: r.EData,
		}
		m.CUSec, m.HasCUSec = c.optI32(r.CUSec)
		m.CRealm, _ = c.text(r.CRealm)
		c.realm(m.CRealm)
		m.EText, _ = c.text(r.EText)
		return m
	})
	refEncodeKRBError = refEncode(30, func(c *refConv, m *KRBError) refKRBError {
		return refKRBError{
			PVNO: 5, MsgType: 30, CTime: c.putOptTime(m.CTime), CUSec: refOptI32(m.CUSec, m.HasCUSec), STime: c.putTime(m.STime), SUSec: int64(m.SUSec),
			Code: int64(m.ErrorCode), CRealm: refPutText(7, c.realm(m.CRealm), m.CRealm != ""), CName: c.putOptName(m.CName), Realm: c.realm(m.Realm),
			SName: c.putName(m.SName), EText: refPutText(11, m.EText, m.EText != ""), EData: m.EData,
		}
	})

	refDecodePAEncTSEnc = refDecode(0, func(c *refConv, r *refPAEncTSEnc) PAEncTSEnc {
		m := PAEncTSEnc{PATimestamp: c.time(r.Time)}
		m.PAUSec, m.HasPAUSec = c.optI32(r.USec)
		return m
	})
	refEncodePAEncTSEnc = refEncode(0, func(c *refConv, m *PAEncTSEnc) refPAEncTSEnc {
		return refPAEncTSEnc{c.putTime(m.PATimestamp), refOptI32(m.PAUSec, m.HasPAUSec)}
	})

	refDecodeEncryptedData = refDecode(0, func(c *refConv, r *refEncryptedData) EncryptedData { return c.encrypted(*r) })
	refEncodeEncryptedData = refEncode(0, func(c *refConv, m *EncryptedData) refEncryptedData { return refEncrypted(*m) })
	refDecodeChecksum      = refDecode(0, func(c *refConv, r *refTyped) Checksum { return c.checksum(*r) })
	refEncodeChecksum      = refEncode(0, func(c *refConv, m *Checksum) refTyped { return refChecksum(*m) })

	refDecodeMethodData = refDecode(0, func(c *refConv, r *[]refPAData) []PAData { return c.padata(*r) })
	refEncodeMethodData = refEncode(0, func(c *refConv, m *[]PAData) []refPAData { return refPADataList(*m) })
	refDecodeETypeInfo  = refDecode(0, func(c *refConv, r *[]refETypeInfoEntry) []ETypeInfoEntry {
		return refMap(*r, func(e refETypeInfoEntry) ETypeInfoEntry {
			return ETypeInfoEntry{kcrypto.EType(c.i32(e.EType)), e.Salt}
		})
	})
	refEncodeETypeInfo = refEncode(0, func(c *refConv, m *[]ETypeInfoEntry) []refETypeInfoEntry {
		return refMap(*m, func(e ETypeInfoEntry) refETypeInfoEntry { return refETypeInfoEntry{int64(e.EType), e.Salt} })
	})
	refDecodeETypeInfo2 = refDecode(0, func(c *refConv, r *[]refETypeInfo2Entry) []ETypeInfo2Entry {
		return refMap(*r, func(e refETypeInfo2Entry) ETypeInfo2Entry {
			out := ETypeInfo2Entry{EType: kcrypto.EType(c.i32(e.EType)), S2KParams: e.S2KParams}
			out.Salt, out.HasSalt = c.text(e.Salt)
			return out
		})
	})
	refEncodeETypeInfo2 = refEncode(0, func(c *refConv, m *[]ETypeInfo2Entry) []refETypeInfo2Entry {
		return refMap(*m, func(e ETypeInfo2Entry) refETypeInfo2Entry {
			return refETypeInfo2Entry{int64(e.EType), refPutText(1, e.Salt, e.HasSalt), e.S2KParams}
		})
	})
	refDecodeAuthorizationData = refDecode(0, func(c *refConv, r *[]refTyped) AuthorizationData { return c.authData(*r) })
	refEncodeAuthorizationData = refEncode(0, func(c *refConv, m *AuthorizationData) []refTyped { return refAuthData(*m) })
)

package krb5

import "errors"

var errUnwritten = errors.New("krb5: not written yet")

// DecodeKDCReq reads DER, one KDCReq.
func DecodeKDCReq(b []byte) (*KDCReq, error) { return nil, errUnwritten }

// EncodeKDCReq gives DER.
func EncodeKDCReq(m *KDCReq) ([]byte, error) { return nil, errUnwritten }

// DecodeKDCReqBody reads DER, one KDCReqBody.
func DecodeKDCReqBody(b []byte) (*KDCReqBody, error) { return nil, errUnwritten }

// EncodeKDCReqBody gives DER.
func EncodeKDCReqBody(m *KDCReqBody) ([]byte, error) { return nil, errUnwritten }

// DecodeKDCRep reads DER, one KDCRep.
func DecodeKDCRep(b []byte) (*KDCRep, error) { return nil, errUnwritten }

// EncodeKDCRep gives DER.
func EncodeKDCRep(m *KDCRep) ([]byte, error) { return nil, errUnwritten }

// DecodeEncKDCRepPart reads DER, one EncKDCRepPart.
func DecodeEncKDCRepPart(b []byte) (*EncKDCRepPart, error) { return nil, errUnwritten }

// DecodeTicket reads DER, one Ticket.
func DecodeTicket(b []byte) (*Ticket, error) { return nil, errUnwritten }

// EncodeTicket gives DER.
func EncodeTicket(m *Ticket) ([]byte, error) { return nil, errUnwritten }

// DecodeEncTicketPart reads DER, one EncTicketPart.
func DecodeEncTicketPart(b []byte) (*EncTicketPart, error) { return nil, errUnwritten }

// EncodeEncTicketPart gives DER.
func EncodeEncTicketPart(m *EncTicketPart) ([]byte, error) { return nil, errUnwritten }

// DecodeAPReq reads DER, one APReq.
func DecodeAPReq(b []byte) (*APReq, error) { return nil, errUnwritten }

// EncodeAPReq gives DER.
func EncodeAPReq(m *APReq) ([]byte, error) { return nil, errUnwritten }

// DecodeAuthenticator reads DER, one Authenticator.
func DecodeAuthenticator(b []byte) (*Authenticator, error) { return nil, errUnwritten }

// EncodeAuthenticator gives DER.
func EncodeAuthenticator(m *Authenticator) ([]byte, error) { return nil, errUnwritten }

// DecodeAPRep reads DER, one APRep.
func DecodeAPRep(b []byte) (*APRep, error) { return nil, errUnwritten }

// EncodeAPRep gives DER.
func EncodeAPRep(m *APRep) ([]byte, error) { return nil, errUnwritten }

// DecodeEncAPRepPart reads DER, one EncAPRepPart.
func DecodeEncAPRepPart(b []byte) (*EncAPRepPart, error) { return nil, errUnwritten }

// EncodeEncAPRepPart gives DER.
func EncodeEncAPRepPart(m *EncAPRepPart) ([]byte, error) { return nil, errUnwritten }

// DecodeKRBSafe reads DER, one KRBSafe.
func DecodeKRBSafe(b []byte) (*KRBSafe, error) { return nil, errUnwritten }

// EncodeKRBSafe gives DER.
func EncodeKRBSafe(m *KRBSafe) ([]byte, error) { return nil, errUnwritten }

// DecodeKRBSafeBody reads DER, one KRBSafeBody.
func DecodeKRBSafeBody(b []byte) (*KRBSafeBody, error) { return nil, errUnwritten }

// EncodeKRBSafeBody gives DER.
func EncodeKRBSafeBody(m *KRBSafeBody) ([]byte, error) { return nil, errUnwritten }

// DecodeKRBPriv reads DER, one KRBPriv.
func DecodeKRBPriv(b []byte) (*KRBPriv, error) { return nil, errUnwritten }

// EncodeKRBPriv gives DER.
func EncodeKRBPriv(m *KRBPriv) ([]byte, error) { return nil, errUnwritten }

// DecodeEncKRBPrivPart reads DER, one EncKRBPrivPart.
func DecodeEncKRBPrivPart(b []byte) (*EncKRBPrivPart, error) { return nil, errUnwritten }

// EncodeEncKRBPrivPart gives DER.
func EncodeEncKRBPrivPart(m *EncKRBPrivPart) ([]byte, error) { return nil, errUnwritten }

// DecodeKRBCred reads DER, one KRBCred.
func DecodeKRBCred(b []byte) (*KRBCred, error) { return nil, errUnwritten }

// EncodeKRBCred gives DER.
func EncodeKRBCred(m *KRBCred) ([]byte, error) { return nil, errUnwritten }

// DecodeEncKRBCredPart reads DER, one EncKRBCredPart.
func DecodeEncKRBCredPart(b []byte) (*EncKRBCredPart, error) { return nil, errUnwritten }

// EncodeEncKRBCredPart gives DER.
func EncodeEncKRBCredPart(m *EncKRBCredPart) ([]byte, error) { return nil, errUnwritten }

// DecodeKRBError reads DER, one KRBError.
func DecodeKRBError(b []byte) (*KRBError, error) { return nil, errUnwritten }

// EncodeKRBError gives DER.
func EncodeKRBError(m *KRBError) ([]byte, error) { return nil, errUnwritten }

// DecodePAEncTSEnc reads DER, one PAEncTSEnc.
func DecodePAEncTSEnc(b []byte) (*PAEncTSEnc, error) { return nil, errUnwritten }

// EncodePAEncTSEnc gives DER.
func EncodePAEncTSEnc(m *PAEncTSEnc) ([]byte, error) { return nil, errUnwritten }

// DecodeEncryptedData reads DER, one EncryptedData.
func DecodeEncryptedData(b []byte) (*EncryptedData, error) { return nil, errUnwritten }

// EncodeEncryptedData gives DER.
func EncodeEncryptedData(m *EncryptedData) ([]byte, error) { return nil, errUnwritten }

// DecodeChecksum reads DER, one Checksum.
func DecodeChecksum(b []byte) (*Checksum, error) { return nil, errUnwritten }

// EncodeChecksum gives DER.
func EncodeChecksum(m *Checksum) ([]byte, error) { return nil, errUnwritten }

// EncodeEncKDCRepPart: t is MsgASRep (EncASRepPart, tag 25) or MsgTGSRep (EncTGSRepPart, tag 26).
func EncodeEncKDCRepPart(t MsgType, m *EncKDCRepPart) ([]byte, error) { return nil, errUnwritten }

// DecodeMethodData reads DER.
func DecodeMethodData(b []byte) ([]PAData, error) { return nil, errUnwritten }

// EncodeMethodData gives DER.
func EncodeMethodData(m []PAData) ([]byte, error) { return nil, errUnwritten }

// DecodeETypeInfo reads DER.
func DecodeETypeInfo(b []byte) ([]ETypeInfoEntry, error) { return nil, errUnwritten }

// EncodeETypeInfo gives DER.
func EncodeETypeInfo(m []ETypeInfoEntry) ([]byte, error) { return nil, errUnwritten }

// DecodeETypeInfo2 reads DER.
func DecodeETypeInfo2(b []byte) ([]ETypeInfo2Entry, error) { return nil, errUnwritten }

// EncodeETypeInfo2 gives DER.
func EncodeETypeInfo2(m []ETypeInfo2Entry) ([]byte, error) { return nil, errUnwritten }

// DecodeAuthorizationData reads DER.
func DecodeAuthorizationData(b []byte) (AuthorizationData, error) { return nil, errUnwritten }

// EncodeAuthorizationData gives DER.
func EncodeAuthorizationData(m AuthorizationData) ([]byte, error) { return nil, errUnwritten }

// AppendKDCRep, AppendEncTicketPart, AppendEncKDCRepPart append DER to dst.
func AppendKDCRep(dst []byte, m *KDCRep) ([]byte, error) { return nil, errUnwritten }

func AppendEncTicketPart(dst []byte, m *EncTicketPart) ([]byte, error) { return nil, errUnwritten }

func AppendEncKDCRepPart(dst []byte, t MsgType, m *EncKDCRepPart) ([]byte, error) {
	return nil, errUnwritten
}

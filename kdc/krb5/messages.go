package krb5

import (
	"time"

	"github.com/charon-kdc/charon/kdc/krb5/kcrypto"
)

// PrincipalName is RFC 4120 section 5.2.2. A name without components is never valid on the wire.
type PrincipalName struct {
	NameType   NameType
	NameString []string
}

// HostAddress is RFC 4120 section 5.2.5.
type HostAddress struct {
	AddrType int32
	Address  []byte
}

// AuthorizationDataElement is one element of AuthorizationData, RFC 4120 section 5.2.6.
type AuthorizationDataElement struct {
	ADType int32
	ADData []byte
}

// AuthorizationData is RFC 4120 section 5.2.6.
type AuthorizationData []AuthorizationDataElement

// PAData is RFC 4120 section 5.2.7.
type PAData struct {
	PADataType  PADataType
	PADataValue []byte
}

// EncryptedData is RFC 4120 section 5.2.9. KVNO counts only when HasKVNO is set.
type EncryptedData struct {
	EType   kcrypto.EType
	KVNO    uint32
	HasKVNO bool
	Cipher  []byte
}

// Checksum is RFC 4120 section 5.2.9.
type Checksum struct {
	CksumType kcrypto.ChecksumType
	Checksum  []byte
}

// Ticket is RFC 4120 section 5.3.
type Ticket struct {
	Realm   string
	SName   PrincipalName
	EncPart EncryptedData
}

// TransitedEncoding is RFC 4120 section 5.3.
type TransitedEncoding struct {
	TRType   int32
	Contents []byte
}

// EncTicketPart is RFC 4120 section 5.3. A zero StartTime or RenewTill is absent; CAddr nil is absent.
type EncTicketPart struct {
	Flags             TicketFlags
	Key               *kcrypto.Key
	CRealm            string
	CName             PrincipalName
	Transited         TransitedEncoding
	AuthTime          time.Time
	StartTime         time.Time
	EndTime           time.Time
	RenewTill         time.Time
	CAddr             []HostAddress
	AuthorizationData AuthorizationData
}

// KDCReq is AS-REQ or TGS-REQ, RFC 4120 section 5.4.1. MsgType is MsgASReq or MsgTGSReq.
// RawBody is the DER of req-body exactly as received, over which the authenticator's checksum runs; empty in a message that was built here,
// and encoders do not look at it. PAData nil is absent, and a list that is not nil is present even when it is empty.
type KDCReq struct {
	MsgType MsgType
	PAData  []PAData
	ReqBody KDCReqBody
	RawBody []byte
}

// KDCReqBody is RFC 4120 section 5.4.1. Nil pointers and zero times are absent fields.
// Till is mandatory; the zero KerberosTime 19700101000000Z is time.Unix(0, 0), which is not the zero time.Time.
type KDCReqBody struct {
	KDCOptions           KDCOptions
	CName                *PrincipalName
	Realm                string
	SName                *PrincipalName
	From                 time.Time
	Till                 time.Time
	RTime                time.Time
	Nonce                uint32
	EType                []kcrypto.EType
	Addresses            []HostAddress
	EncAuthorizationData *EncryptedData
	AdditionalTickets    []Ticket
}

// KDCRep is AS-REP or TGS-REP, RFC 4120 section 5.4.2.
type KDCRep struct {
	MsgType MsgType
	PAData  []PAData
	CRealm  string
	CName   PrincipalName
	Ticket  Ticket
	EncPart EncryptedData
}

// EncKDCRepPart is EncASRepPart or EncTGSRepPart, RFC 4120 section 5.4.2, with encrypted-pa-data of RFC 6806 section 11.
type EncKDCRepPart struct {
	Key             *kcrypto.Key
	LastReq         []LastReq
	Nonce           uint32
	KeyExpiration   time.Time
	Flags           TicketFlags
	AuthTime        time.Time
	StartTime       time.Time
	EndTime         time.Time
	RenewTill       time.Time
	SRealm          string
	SName           PrincipalName
	CAddr           []HostAddress
	EncryptedPAData []PAData
}

// LastReq is one element of LastReq, RFC 4120 section 5.4.2.
type LastReq struct {
	LRType  int32
	LRValue time.Time
}

// APReq is RFC 4120 section 5.5.1.
type APReq struct {
	APOptions     APOptions
	Ticket        Ticket
	Authenticator EncryptedData
}

// Authenticator is RFC 4120 section 5.5.1. CUSec is 0 to 999999 in what is built here; peers send any 32 bits, see Time. SeqNumber counts only when HasSeqNumber is set.
type Authenticator struct {
	CRealm            string
	CName             PrincipalName
	Cksum             *Checksum
	CUSec             int32
	CTime             time.Time
	SubKey            *kcrypto.Key
	SeqNumber         uint32
	HasSeqNumber      bool
	AuthorizationData AuthorizationData
}

// APRep is RFC 4120 section 5.5.2.
type APRep struct {
	EncPart EncryptedData
}

// EncAPRepPart is RFC 4120 section 5.5.2.
type EncAPRepPart struct {
	CTime        time.Time
	CUSec        int32
	SubKey       *kcrypto.Key
	SeqNumber    uint32
	HasSeqNumber bool
}

// KRBSafe is RFC 4120 section 5.6.1. RawBody is the DER of safe-body as received.
type KRBSafe struct {
	SafeBody KRBSafeBody
	Cksum    Checksum
	RawBody  []byte
}

// KRBSafeBody is RFC 4120 section 5.6.1.
type KRBSafeBody struct {
	UserData     []byte
	Timestamp    time.Time
	USec         int32
	HasUSec      bool
	SeqNumber    uint32
	HasSeqNumber bool
	SAddress     HostAddress
	RAddress     *HostAddress
}

// KRBPriv is RFC 4120 section 5.7.1.
type KRBPriv struct {
	EncPart EncryptedData
}

// EncKRBPrivPart is RFC 4120 section 5.7.1.
type EncKRBPrivPart struct {
	UserData     []byte
	Timestamp    time.Time
	USec         int32
	HasUSec      bool
	SeqNumber    uint32
	HasSeqNumber bool
	SAddress     HostAddress
	RAddress     *HostAddress
}

// KRBCred is RFC 4120 section 5.8.1.
type KRBCred struct {
	Tickets []Ticket
	EncPart EncryptedData
}

// EncKRBCredPart is RFC 4120 section 5.8.1.
type EncKRBCredPart struct {
	TicketInfo []KRBCredInfo
	Nonce      uint32
	HasNonce   bool
	Timestamp  time.Time
	USec       int32
	HasUSec    bool
	SAddress   *HostAddress
	RAddress   *HostAddress
}

// KRBCredInfo is RFC 4120 section 5.8.1.
type KRBCredInfo struct {
	Key       *kcrypto.Key
	PRealm    string
	PName     *PrincipalName
	Flags     TicketFlags
	HasFlags  bool
	AuthTime  time.Time
	StartTime time.Time
	EndTime   time.Time
	RenewTill time.Time
	SRealm    string
	SName     *PrincipalName
	CAddr     []HostAddress
}

// KRBError is RFC 4120 section 5.9.1. STime and SUSec are mandatory; EData is METHOD-DATA or TYPED-DATA, by the code.
type KRBError struct {
	CTime     time.Time
	CUSec     int32
	HasCUSec  bool
	STime     time.Time
	SUSec     int32
	ErrorCode ErrorCode
	CRealm    string // empty is absent
	CName     *PrincipalName
	Realm     string
	SName     PrincipalName
	EText     string // empty is absent
	EData     []byte // nil is absent
}

// PAEncTSEnc is RFC 4120 section 5.2.7.2.
type PAEncTSEnc struct {
	PATimestamp time.Time
	PAUSec      int32
	HasPAUSec   bool
}

// ETypeInfoEntry is RFC 4120 section 5.2.7.4.
type ETypeInfoEntry struct {
	EType kcrypto.EType
	Salt  []byte // nil is absent
}

// ETypeInfo2Entry is RFC 4120 section 5.2.7.5.
type ETypeInfo2Entry struct {
	EType     kcrypto.EType
	Salt      string
	HasSalt   bool
	S2KParams []byte // nil is absent
}

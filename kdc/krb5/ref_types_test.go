package krb5

import (
	"time"

	"github.com/jcmturner/gofork/encoding/asn1"
)

// The reference codec: RFC 4120 section 5 as structs that gofork's asn1 reads and writes by reflection. It shares no code with the codec that
// it judges but the public types and the bounds.

// refAbsent is an optional INTEGER that is not there; no 32-bit value.
const refAbsent = -1 << 62

type refName struct {
	NameType   int64    `asn1:"explicit,tag:0"`
	NameString []string `asn1:"generalstring,explicit,tag:1"`
}

// refText is an optional KerberosString whose presence counts even when it is empty: [n] with one GeneralString in it, read as an implicitly tagged SEQUENCE.
type refText struct {
	Raw asn1.RawContent
	S   string `asn1:"generalstring"`
}

type refPAData struct {
	Type  int64  `asn1:"explicit,tag:1"`
	Value []byte `asn1:"explicit,tag:2"`
}

// refTyped is HostAddress, an AuthorizationData element, EncryptionKey, Checksum or TransitedEncoding.
type refTyped struct {
	Type  int64  `asn1:"explicit,tag:0"`
	Value []byte `asn1:"explicit,tag:1"`
}

type refEncryptedData struct {
	EType  int64  `asn1:"explicit,tag:0"`
	KVNO   int64  `asn1:"explicit,optional,tag:1,default:-4611686018427387904"`
	Cipher []byte `asn1:"explicit,tag:2"`
}

type refLastReq struct {
	Type  int64     `asn1:"explicit,tag:0"`
	Value time.Time `asn1:"generalized,explicit,tag:1"`
}

type refTicket struct {
	VNO     int64            `asn1:"explicit,tag:0"`
	Realm   string           `asn1:"generalstring,explicit,tag:1"`
	SName   refName          `asn1:"explicit,tag:2"`
	EncPart refEncryptedData `asn1:"explicit,tag:3"`
}

type refEncTicketPart struct {
	Flags     asn1.BitString `asn1:"explicit,tag:0"`
	Key       refTyped       `asn1:"explicit,tag:1"`
	CRealm    string         `asn1:"generalstring,explicit,tag:2"`
	CName     refName        `asn1:"explicit,tag:3"`
	Transited refTyped       `asn1:"explicit,tag:4"`
	AuthTime  time.Time      `asn1:"generalized,explicit,tag:5"`
	StartTime time.Time      `asn1:"generalized,explicit,optional,tag:6"`
	EndTime   time.Time      `asn1:"generalized,explicit,tag:7"`
	RenewTill time.Time      `asn1:"generalized,explicit,optional,tag:8"`
	CAddr     []refTyped     `asn1:"explicit,optional,tag:9"`
	AuthData  []refTyped     `asn1:"explicit,optional,tag:10"`
}

type refKDCReqBody struct {
	Options   asn1.BitString   `asn1:"explicit,tag:0"`
	CName     refName          `asn1:"explicit,optional,tag:1"`
	Realm     string           `asn1:"generalstring,explicit,tag:2"`
	SName     refName          `asn1:"explicit,optional,tag:3"`
	From      time.Time        `asn1:"generalized,explicit,optional,tag:4"`
	Till      time.Time        `asn1:"generalized,explicit,tag:5"`
	RTime     time.Time        `asn1:"generalized,explicit,optional,tag:6"`
	Nonce     int64            `asn1:"explicit,tag:7"`
	EType     []int64          `asn1:"explicit,tag:8"`
	Addresses []refTyped       `asn1:"explicit,optional,tag:9"`
	EncAuth   refEncryptedData `asn1:"explicit,optional,tag:10"`
	Tickets   asn1.RawValue    `asn1:"optional,tag:11"` // [11] with all in it: gofork ignores the tag of a RawValue
}

type refKDCReq struct {
	PVNO    int64         `asn1:"explicit,tag:1"`
	MsgType int64         `asn1:"explicit,tag:2"`
	PAData  []refPAData   `asn1:"explicit,optional,tag:3"`
	Body    refKDCReqBody `asn1:"explicit,tag:4"`
}

type refKDCRep struct {
	PVNO    int64            `asn1:"explicit,tag:0"`
	MsgType int64            `asn1:"explicit,tag:1"`
	PAData  []refPAData      `asn1:"explicit,optional,tag:2"`
	CRealm  string           `asn1:"generalstring,explicit,tag:3"`
	CName   refName          `asn1:"explicit,tag:4"`
	Ticket  asn1.RawValue    // [5]
	EncPart refEncryptedData `asn1:"explicit,tag:6"`
}

type refEncKDCRepPart struct {
	Key           refTyped       `asn1:"explicit,tag:0"`
	LastReq       []refLastReq   `asn1:"explicit,tag:1"`
	Nonce         int64          `asn1:"explicit,tag:2"`
	KeyExpiration time.Time      `asn1:"generalized,explicit,optional,tag:3"`
	Flags         asn1.BitString `asn1:"explicit,tag:4"`
	AuthTime      time.Time      `asn1:"generalized,explicit,tag:5"`
	StartTime     time.Time      `asn1:"generalized,explicit,optional,tag:6"`
	EndTime       time.Time      `asn1:"generalized,explicit,tag:7"`
	RenewTill     time.Time      `asn1:"generalized,explicit,optional,tag:8"`
	SRealm        string         `asn1:"generalstring,explicit,tag:9"`
	SName         refName        `asn1:"explicit,tag:10"`
	CAddr         []refTyped     `asn1:"explicit,optional,tag:11"`
	EncPAData     []refPAData    `asn1:"explicit,optional,tag:12"`
}

type refAPReq struct {
	PVNO    int64            `asn1:"explicit,tag:0"`
	MsgType int64            `asn1:"explicit,tag:1"`
	Options asn1.BitString   `asn1:"explicit,tag:2"`
	Ticket  asn1.RawValue    // [3]
	Auth    refEncryptedData `asn1:"explicit,tag:4"`
}

type refAuthenticator struct {
	VNO      int64      `asn1:"explicit,tag:0"`
	CRealm   string     `asn1:"generalstring,explicit,tag:1"`
	CName    refName    `asn1:"explicit,tag:2"`
	Cksum    refTyped   `asn1:"explicit,optional,tag:3"`
	CUSec    int64      `asn1:"explicit,tag:4"`
	CTime    time.Time  `asn1:"generalized,explicit,tag:5"`
	SubKey   refTyped   `asn1:"explicit,optional,tag:6"`
	Seq      int64      `asn1:"explicit,optional,tag:7,default:-4611686018427387904"`
	AuthData []refTyped `asn1:"explicit,optional,tag:8"`
}

type refAPRep struct {
	PVNO    int64            `asn1:"explicit,tag:0"`
	MsgType int64            `asn1:"explicit,tag:1"`
	EncPart refEncryptedData `asn1:"explicit,tag:2"`
}

type refEncAPRepPart struct {
	CTime  time.Time `asn1:"generalized,explicit,tag:0"`
	CUSec  int64     `asn1:"explicit,tag:1"`
	SubKey refTyped  `asn1:"explicit,optional,tag:2"`
	Seq    int64     `asn1:"explicit,optional,tag:3,default:-4611686018427387904"`
}

type refKRBSafeBody struct {
	UserData  []byte    `asn1:"explicit,tag:0"`
	Timestamp time.Time `asn1:"generalized,explicit,optional,tag:1"`
	USec      int64     `asn1:"explicit,optional,tag:2,default:-4611686018427387904"`
	Seq       int64     `asn1:"explicit,optional,tag:3,default:-4611686018427387904"`
	SAddress  refTyped  `asn1:"explicit,tag:4"`
	RAddress  refTyped  `asn1:"explicit,optional,tag:5"`
}

type refKRBSafe struct {
	PVNO    int64          `asn1:"explicit,tag:0"`
	MsgType int64          `asn1:"explicit,tag:1"`
	Body    refKRBSafeBody `asn1:"explicit,tag:2"`
	Cksum   refTyped       `asn1:"explicit,tag:3"`
}

type refKRBPriv struct {
	PVNO    int64            `asn1:"explicit,tag:0"`
	MsgType int64            `asn1:"explicit,tag:1"`
	EncPart refEncryptedData `asn1:"explicit,tag:3"`
}

type refKRBCred struct {
	PVNO    int64            `asn1:"explicit,tag:0"`
	MsgType int64            `asn1:"explicit,tag:1"`
	Tickets asn1.RawValue    // [2]
	EncPart refEncryptedData `asn1:"explicit,tag:3"`
}

type refKRBCredInfo struct {
	Key       refTyped       `asn1:"explicit,tag:0"`
	PRealm    refText        `asn1:"optional,tag:1"`
	PName     refName        `asn1:"explicit,optional,tag:2"`
	Flags     asn1.BitString `asn1:"explicit,optional,tag:3"`
	AuthTime  time.Time      `asn1:"generalized,explicit,optional,tag:4"`
	StartTime time.Time      `asn1:"generalized,explicit,optional,tag:5"`
	EndTime   time.Time      `asn1:"generalized,explicit,optional,tag:6"`
	RenewTill time.Time      `asn1:"generalized,explicit,optional,tag:7"`
	SRealm    refText        `asn1:"optional,tag:8"`
	SName     refName        `asn1:"explicit,optional,tag:9"`
	CAddr     []refTyped     `asn1:"explicit,optional,tag:10"`
}

type refEncKRBCredPart struct {
	TicketInfo []refKRBCredInfo `asn1:"explicit,tag:0"`
	Nonce      int64            `asn1:"explicit,optional,tag:1,default:-4611686018427387904"`
	Timestamp  time.Time        `asn1:"generalized,explicit,optional,tag:2"`
	USec       int64            `asn1:"explicit,optional,tag:3,default:-4611686018427387904"`
	SAddress   refTyped         `asn1:"explicit,optional,tag:4"`
	RAddress   refTyped         `asn1:"explicit,optional,tag:5"`
}

type refKRBError struct {
	PVNO    int64     `asn1:"explicit,tag:0"`
	MsgType int64     `asn1:"explicit,tag:1"`
	CTime   time.Time `asn1:"generalized,explicit,optional,tag:2"`
	CUSec   int64     `asn1:"explicit,optional,tag:3,default:-4611686018427387904"`
	STime   time.Time `asn1:"generalized,explicit,tag:4"`
	SUSec   int64     `asn1:"explicit,tag:5"`
	Code    int64     `asn1:"explicit,tag:6"`
	CRealm  refText   `asn1:"optional,tag:7"`
	CName   refName   `asn1:"explicit,optional,tag:8"`
	Realm   string    `asn1:"generalstring,explicit,tag:9"`
	SName   refName   `asn1:"explicit,tag:10"`
	EText   refText   `asn1:"optional,tag:11"`
	EData   []byte    `asn1:"explicit,optional,tag:12"`
}

type refPAEncTSEnc struct {
	Time time.Time `asn1:"generalized,explicit,tag:0"`
	USec int64     `asn1:"explicit,optional,tag:1,default:-4611686018427387904"`
}

type refETypeInfoEntry struct {
	EType int64  `asn1:"explicit,tag:0"`
	Salt  []byte `asn1:"explicit,optional,tag:1"`
}

type refETypeInfo2Entry struct {
	EType     int64   `asn1:"explicit,tag:0"`
	Salt      refText `asn1:"optional,tag:1"`
	S2KParams []byte  `asn1:"explicit,optional,tag:2"`
}

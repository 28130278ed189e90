package krb5

import "strconv"

// PADataType is a padata-type, RFC 4120 section 7.5.2 and the RFCs that add to it.
type PADataType int32

const (
	PATGSReq             PADataType = 1   // PA-TGS-REQ
	PAEncTimestamp       PADataType = 2   // PA-ENC-TIMESTAMP
	PAPWSalt             PADataType = 3   // PA-PW-SALT
	PAEncUnixTime        PADataType = 5   // PA-ENC-UNIX-TIME
	PASandiaSecurID      PADataType = 6   // PA-SANDIA-SECUREID
	PASesame             PADataType = 7   // PA-SESAME
	PAOSFDCE             PADataType = 8   // PA-OSF-DCE
	PACybersafeSecurID   PADataType = 9   // PA-CYBERSAFE-SECUREID
	PAAFS3Salt           PADataType = 10  // PA-AFS3-SALT
	PAETypeInfo          PADataType = 11  // PA-ETYPE-INFO
	PASAMChallenge       PADataType = 12  // PA-SAM-CHALLENGE
	PASAMResponse        PADataType = 13  // PA-SAM-RESPONSE
	PAPKASReqOld         PADataType = 14  // PA-PK-AS-REQ_OLD
	PAPKASRepOld         PADataType = 15  // PA-PK-AS-REP_OLD
	PAPKASReq            PADataType = 16  // PA-PK-AS-REQ, RFC 4556
	PAPKASRep            PADataType = 17  // PA-PK-AS-REP, RFC 4556
	PAPKOCSPResponse     PADataType = 18  // PA-PK-OCSP-RESPONSE, RFC 4557
	PAETypeInfo2         PADataType = 19  // PA-ETYPE-INFO2
	PASvrReferralInfo    PADataType = 20  // PA-SVR-REFERRAL-INFO, RFC 6806
	PASAMRedirect        PADataType = 21  // PA-SAM-REDIRECT
	PAGetFromTypedData   PADataType = 22  // PA-GET-FROM-TYPED-DATA
	PASAMETypeInfo       PADataType = 23  // PA-SAM-ETYPE-INFO
	PAAltPrinc           PADataType = 24  // PA-ALT-PRINC
	PAServerReferral     PADataType = 25  // PA-SERVER-REFERRAL, RFC 6806
	PASAMChallenge2      PADataType = 30  // PA-SAM-CHALLENGE2
	PASAMResponse2       PADataType = 31  // PA-SAM-RESPONSE2
	PAExtraTGT           PADataType = 41  // PA-EXTRA-TGT
	PAFXFastArmor        PADataType = 71  // PA-FX-FAST-ARMOR, RFC 6113
	PAPACRequest         PADataType = 128 // PA-PAC-REQUEST, MS-KILE
	PAForUser            PADataType = 129 // PA-FOR-USER, MS-SFU
	PAForX509User        PADataType = 130 // PA-FOR-X509-USER (PA-S4U-X509-USER), MS-SFU
	PAForCheckDups       PADataType = 131 // PA-FOR-CHECK_DUPS, MS-KILE
	PAASChecksum         PADataType = 132 // PA-AS-CHECKSUM, MS-PKCA
	PAFXCookie           PADataType = 133 // PA-FX-COOKIE, RFC 6113
	PAAuthenticationSet  PADataType = 134 // PA-AUTHENTICATION-SET, RFC 6113
	PAAuthSetSelected    PADataType = 135 // PA-AUTH-SET-SELECTED, RFC 6113
	PAFXFast             PADataType = 136 // PA-FX-FAST, RFC 6113
	PAFXError            PADataType = 137 // PA-FX-ERROR, RFC 6113
	PAEncryptedChallenge PADataType = 138 // PA-ENCRYPTED-CHALLENGE, RFC 6113
	PAOTPChallenge       PADataType = 141 // PA-OTP-CHALLENGE, RFC 6560
	PAOTPRequest         PADataType = 142 // PA-OTP-REQUEST, RFC 6560
	PAOTPConfirm         PADataType = 143 // PA-OTP-CONFIRM, RFC 6560 (obsolete)
	PAOTPPinChange       PADataType = 144 // PA-OTP-PIN-CHANGE, RFC 6560
	PAEPAKASReq          PADataType = 145 // PA-EPAK-AS-REQ, draft
	PAEPAKASRep          PADataType = 146 // PA-EPAK-AS-REP, draft
	PAPKINITKX           PADataType = 147 // PA-PKINIT-KX, RFC 8062
	PAPKU2UName          PADataType = 148 // PA-PKU2U-NAME, draft-zhu-pku2u
	PAReqEncPARep        PADataType = 149 // PA-REQ-ENC-PA-REP, RFC 6806
	PAASFreshness        PADataType = 150 // PA-AS-FRESHNESS, RFC 8070
	PASPAKE              PADataType = 151 // PA-SPAKE, RFC 9588
	PARedHatIDPOAuth2    PADataType = 152 // PA-REDHAT-IDP-OAUTH2, SSSD/FreeIPA
	PARedHatPasskey      PADataType = 153 // PA-REDHAT-PASSKEY, SSSD/FreeIPA
	PAKeyListReq         PADataType = 161 // KERB-KEY-LIST-REQ, MS-KILE
	PAKeyListRep         PADataType = 162 // KERB-KEY-LIST-REP, MS-KILE
	PASupportedEncTypes  PADataType = 165 // PA-SUPPORTED-ENCTYPES, MS-KILE
	PAPACOptions         PADataType = 167 // PA-PAC-OPTIONS, MS-KILE
	PAGSS                PADataType = 655 // PA-GSS, draft-perez-krb-wg-gss-preauth
)

var paDataTypeNames = map[PADataType]string{
	PATGSReq:             "PA-TGS-REQ",
	PAEncTimestamp:       "PA-ENC-TIMESTAMP",
	PAPWSalt:             "PA-PW-SALT",
	PAEncUnixTime:        "PA-ENC-UNIX-TIME",
	PASandiaSecurID:      "PA-SANDIA-SECUREID",
	PASesame:             "PA-SESAME",
	PAOSFDCE:             "PA-OSF-DCE",
	PACybersafeSecurID:   "PA-CYBERSAFE-SECUREID",
	PAAFS3Salt:           "PA-AFS3-SALT",
	PAETypeInfo:          "PA-ETYPE-INFO",
	PASAMChallenge:       "PA-SAM-CHALLENGE",
	PASAMResponse:        "PA-SAM-RESPONSE",
	PAPKASReqOld:         "PA-PK-AS-REQ_OLD",
	PAPKASRepOld:         "PA-PK-AS-REP_OLD",
	PAPKASReq:            "PA-PK-AS-REQ",
	PAPKASRep:            "PA-PK-AS-REP",
	PAPKOCSPResponse:     "PA-PK-OCSP-RESPONSE",
	PAETypeInfo2:         "PA-ETYPE-INFO2",
	PASvrReferralInfo:    "PA-SVR-REFERRAL-INFO",
	PASAMRedirect:        "PA-SAM-REDIRECT",
	PAGetFromTypedData:   "PA-GET-FROM-TYPED-DATA",
	PASAMETypeInfo:       "PA-SAM-ETYPE-INFO",
	PAAltPrinc:           "PA-ALT-PRINC",
	PAServerReferral:     "PA-SERVER-REFERRAL",
	PASAMChallenge2:      "PA-SAM-CHALLENGE2",
	PASAMResponse2:       "PA-SAM-RESPONSE2",
	PAExtraTGT:           "PA-EXTRA-TGT",
	PAFXFastArmor:        "PA-FX-FAST-ARMOR",
	PAPACRequest:         "PA-PAC-REQUEST",
	PAForUser:            "PA-FOR-USER",
	PAForX509User:        "PA-FOR-X509-USER",
	PAForCheckDups:       "PA-FOR-CHECK_DUPS",
	PAASChecksum:         "PA-AS-CHECKSUM",
	PAFXCookie:           "PA-FX-COOKIE",
	PAAuthenticationSet:  "PA-AUTHENTICATION-SET",
	PAAuthSetSelected:    "PA-AUTH-SET-SELECTED",
	PAFXFast:             "PA-FX-FAST",
	PAFXError:            "PA-FX-ERROR",
	PAEncryptedChallenge: "PA-ENCRYPTED-CHALLENGE",
	PAOTPChallenge:       "PA-OTP-CHALLENGE",
	PAOTPRequest:         "PA-OTP-REQUEST",
	PAOTPConfirm:         "PA-OTP-CONFIRM",
	PAOTPPinChange:       "PA-OTP-PIN-CHANGE",
	PAEPAKASReq:          "PA-EPAK-AS-REQ",
	PAEPAKASRep:          "PA-EPAK-AS-REP",
	PAPKINITKX:           "PA-PKINIT-KX",
	PAPKU2UName:          "PA-PKU2U-NAME",
	PAReqEncPARep:        "PA-REQ-ENC-PA-REP",
	PAASFreshness:        "PA-AS-FRESHNESS",
	PASPAKE:              "PA-SPAKE",
	PARedHatIDPOAuth2:    "PA-REDHAT-IDP-OAUTH2",
	PARedHatPasskey:      "PA-REDHAT-PASSKEY",
	PAKeyListReq:         "KERB-KEY-LIST-REQ",
	PAKeyListRep:         "KERB-KEY-LIST-REP",
	PASupportedEncTypes:  "PA-SUPPORTED-ENCTYPES",
	PAPACOptions:         "PA-PAC-OPTIONS",
	PAGSS:                "PA-GSS",
}

// String is the RFC's spelling; what is not registered prints as "PA 1234".
func (t PADataType) String() string {
	if s, ok := paDataTypeNames[t]; ok {
		return s
	}
	return "PA " + strconv.Itoa(int(t))
}

// NameType is a name-type, RFC 4120 section 6.2. It is a hint: two names that differ only in it are equal.
type NameType int32

const (
	NTUnknown           NameType = 0    // NT-UNKNOWN
	NTPrincipal         NameType = 1    // NT-PRINCIPAL
	NTSrvInst           NameType = 2    // NT-SRV-INST
	NTSrvHst            NameType = 3    // NT-SRV-HST
	NTSrvXHst           NameType = 4    // NT-SRV-XHST
	NTUID               NameType = 5    // NT-UID
	NTX500Principal     NameType = 6    // NT-X500-PRINCIPAL
	NTSMTPName          NameType = 7    // NT-SMTP-NAME
	NTEnterprise        NameType = 10   // NT-ENTERPRISE, RFC 6806
	NTWellKnown         NameType = 11   // NT-WELLKNOWN, RFC 6111
	NTSrvHstDomain      NameType = 12   // NT-SRV-HST-DOMAIN, RFC 5179
	NTMSPrincipal       NameType = -128 // NT-MS-PRINCIPAL, Windows
	NTMSPrincipalAndID  NameType = -129 // NT-MS-PRINCIPAL-AND-ID, Windows
	NTEntPrincipalAndID NameType = -130 // NT-ENT-PRINCIPAL-AND-ID, Windows
)

var nameTypeNames = map[NameType]string{
	NTUnknown:           "NT-UNKNOWN",
	NTPrincipal:         "NT-PRINCIPAL",
	NTSrvInst:           "NT-SRV-INST",
	NTSrvHst:            "NT-SRV-HST",
	NTSrvXHst:           "NT-SRV-XHST",
	NTUID:               "NT-UID",
	NTX500Principal:     "NT-X500-PRINCIPAL",
	NTSMTPName:          "NT-SMTP-NAME",
	NTEnterprise:        "NT-ENTERPRISE",
	NTWellKnown:         "NT-WELLKNOWN",
	NTSrvHstDomain:      "NT-SRV-HST-DOMAIN",
	NTMSPrincipal:       "NT-MS-PRINCIPAL",
	NTMSPrincipalAndID:  "NT-MS-PRINCIPAL-AND-ID",
	NTEntPrincipalAndID: "NT-ENT-PRINCIPAL-AND-ID",
}

// String is the RFC's spelling; what is not registered prints as "NT 1234".
func (t NameType) String() string {
	if s, ok := nameTypeNames[t]; ok {
		return s
	}
	return "NT " + strconv.Itoa(int(t))
}

// MsgType is a msg-type, RFC 4120 section 7.5.7; it is also the number of the message's application tag.
type MsgType int32

const (
	MsgASReq  MsgType = 10 // KRB-AS-REQ
	MsgASRep  MsgType = 11 // KRB-AS-REP
	MsgTGSReq MsgType = 12 // KRB-TGS-REQ
	MsgTGSRep MsgType = 13 // KRB-TGS-REP
	MsgAPReq  MsgType = 14 // KRB-AP-REQ
	MsgAPRep  MsgType = 15 // KRB-AP-REP
	MsgSafe   MsgType = 20 // KRB-SAFE
	MsgPriv   MsgType = 21 // KRB-PRIV
	MsgCred   MsgType = 22 // KRB-CRED
	MsgError  MsgType = 30 // KRB-ERROR
)

var msgTypeNames = map[MsgType]string{
	MsgASReq:  "KRB-AS-REQ",
	MsgASRep:  "KRB-AS-REP",
	MsgTGSReq: "KRB-TGS-REQ",
	MsgTGSRep: "KRB-TGS-REP",
	MsgAPReq:  "KRB-AP-REQ",
	MsgAPRep:  "KRB-AP-REP",
	MsgSafe:   "KRB-SAFE",
	MsgPriv:   "KRB-PRIV",
	MsgCred:   "KRB-CRED",
	MsgError:  "KRB-ERROR",
}

// String is the RFC's spelling without ambiguity ("KRB-AS-REQ"); any other number prints as "message type 99".
func (t MsgType) String() string {
	if s, ok := msgTypeNames[t]; ok {
		return s
	}
	return "message type " + strconv.Itoa(int(t))
}

// Application tags of types that are not messages of their own, RFC 4120 section 5.10.
const (
	tagTicket         = 1  // Ticket
	tagAuthenticator  = 2  // Authenticator
	tagEncTicketPart  = 3  // EncTicketPart
	tagEncASRepPart   = 25 // EncASRepPart
	tagEncTGSRepPart  = 26 // EncTGSRepPart
	tagEncAPRepPart   = 27 // EncAPRepPart
	tagEncKRBPrivPart = 28 // EncKrbPrivPart
	tagEncKRBCredPart = 29 // EncKrbCredPart
)

// Authorization data types, RFC 4120 section 7.5.4 and the RFCs that add to it.
const (
	ADIfRelevant              int32 = 1   // AD-IF-RELEVANT
	ADKDCIssued               int32 = 4   // AD-KDCIssued
	ADAndOr                   int32 = 5   // AD-AND-OR
	ADMandatoryForKDC         int32 = 8   // AD-MANDATORY-FOR-KDC
	ADInitialVerifiedCAs      int32 = 9   // AD-INITIAL-VERIFIED-CAS, RFC 4556
	ADAuthenticationStrength  int32 = 70  // AD-authentication-strength, RFC 6113
	ADFXFastArmor             int32 = 71  // AD-fx-fast-armor, RFC 6113
	ADFXFastUsed              int32 = 72  // AD-fx-fast-used, RFC 6113
	ADCAMMAC                  int32 = 96  // AD-CAMMAC, RFC 7751
	ADAuthenticationIndicator int32 = 97  // AD-AUTHENTICATION-INDICATOR, RFC 8129
	ADWin2KPAC                int32 = 128 // AD-WIN2K-PAC, RFC 4120 / MS-PAC
	ADETypeNegotiation        int32 = 129 // AD-ETYPE-NEGOTIATION, RFC 4537
	ADAPOptions               int32 = 143 // AD-AUTH-DATA-AP-OPTIONS, MS-KILE
	ADTargetPrincipal         int32 = 144 // AD-TARGET-PRINCIPAL, MS-KILE
)

// Address types, RFC 4120 section 7.5.3. An IPv4 address has 4 octets, an IPv6 address 16, a NetBIOS name 16 padded with spaces.
const (
	AddrIPv4        int32 = 2
	AddrDirectional int32 = 3
	AddrNetBIOS     int32 = 20
	AddrIPv6        int32 = 24
)

// Last-request types, RFC 4120 section 5.4.2. A negative one speaks of this KDC alone.
const (
	LRNone            int32 = 0
	LRInitialTGT      int32 = 1
	LRInitial         int32 = 2
	LRNewestTGT       int32 = 3
	LRRenewal         int32 = 4
	LRAny             int32 = 5
	LRPasswordExpires int32 = 6
	LRAccountExpires  int32 = 7
)

// TRDomainX500Compress is the one transited encoding there is, RFC 4120 section 3.3.3.2.
const TRDomainX500Compress int32 = 1 // DOMAIN-X500-COMPRESS

package kcrypto

// Usage is a key usage number: what a derived key is for (RFC 3961 section 3, RFC 4120 section 7.5.1).
type Usage uint32

const (
	UsagePAEncTimestamp        Usage = 1   // AS-REQ PA-ENC-TIMESTAMP, client key
	UsageTicket                Usage = 2   // Ticket enc-part, service key
	UsageASRepEncPart          Usage = 3   // AS-REP enc-part, reply key
	UsageTGSReqAuthDataSession Usage = 4   // TGS-REQ enc-authorization-data, session key
	UsageTGSReqAuthDataSubKey  Usage = 5   // TGS-REQ enc-authorization-data, authenticator subkey
	UsageTGSReqChecksum        Usage = 6   // PA-TGS-REQ authenticator cksum, session key
	UsageTGSReqAuthenticator   Usage = 7   // PA-TGS-REQ authenticator, session key
	UsageTGSRepSession         Usage = 8   // TGS-REP enc-part, session key
	UsageTGSRepSubKey          Usage = 9   // TGS-REP enc-part, authenticator subkey
	UsageAPReqChecksum         Usage = 10  // AP-REQ authenticator cksum, session key
	UsageAPReqAuthenticator    Usage = 11  // AP-REQ authenticator, session key
	UsageAPRepEncPart          Usage = 12  // AP-REP enc-part, session key
	UsageKRBPriv               Usage = 13  // KRB-PRIV enc-part
	UsageKRBCred               Usage = 14  // KRB-CRED enc-part
	UsageKRBSafe               Usage = 15  // KRB-SAFE cksum
	UsageNonKerbEncrypt        Usage = 16  // KERB_NON_KERB_SALT: encryption by applications; MIT's KRB5_KEYUSAGE_APP_DATA_ENCRYPT
	UsageNonKerbChecksum       Usage = 17  // KERB_NON_KERB_CKSUM_SALT: PAC signatures (MS-PAC section 2.8), PA-FOR-USER (MS-SFU section 2.2.1)
	UsageKRBErrorChecksum      Usage = 18  // KRB-ERROR cksum of RFC 1510 bis; unused
	UsageADKDCIssued           Usage = 19  // AD-KDC-ISSUED checksum, session key
	UsageGSSAcceptorSeal       Usage = 22  // RFC 4121 section 2
	UsageGSSAcceptorSign       Usage = 23  // RFC 4121 section 2
	UsageGSSInitiatorSeal      Usage = 24  // RFC 4121 section 2
	UsageGSSInitiatorSign      Usage = 25  // RFC 4121 section 2
	UsageS4UX509UserRequest    Usage = 26  // PA-S4U-X509-USER checksum in the request, MS-SFU section 2.2.2
	UsageS4UX509UserReply      Usage = 27  // PA-S4U-X509-USER checksum in the reply, MS-SFU section 2.2.2
	UsageGSSFinished           Usage = 41  // KEY_USAGE_FINISHED of the GSS extension drafts
	UsageIAKERBFinished        Usage = 42  // KRB-FINISHED of IAKERB
	UsagePKINITKX              Usage = 44  // PA-PKINIT-KX, RFC 8062 section 4
	UsageOTPRequest            Usage = 45  // PA-OTP-REQUEST encData, RFC 6560 section 4.2
	UsageFASTReqChecksum       Usage = 50  // KEY_USAGE_FAST_REQ_CHKSUM, armor key, RFC 6113 section 5.4.2
	UsageFASTEnc               Usage = 51  // KEY_USAGE_FAST_ENC, armor key, RFC 6113 section 5.4.2
	UsageFASTRep               Usage = 52  // KEY_USAGE_FAST_REP, armor key, RFC 6113 section 5.4.3
	UsageFASTFinished          Usage = 53  // KEY_USAGE_FAST_FINISHED, armor key, RFC 6113 section 5.4.3
	UsageEncChallengeClient    Usage = 54  // KEY_USAGE_ENC_CHALLENGE_CLIENT, RFC 6113 section 5.4.6
	UsageEncChallengeKDC       Usage = 55  // KEY_USAGE_ENC_CHALLENGE_KDC, RFC 6113 section 5.4.6
	UsageASReq                 Usage = 56  // KEY_USAGE_AS_REQ: PA-REQ-ENC-PA-REP over the AS-REQ, reply key, RFC 6806 section 11
	UsageCAMMAC                Usage = 64  // CAMMAC verifiers, RFC 7751 section 4
	UsageSPAKE                 Usage = 65  // KEY_USAGE_SPAKE: factor and encdata, RFC 9588 section 11.1
	UsageKDCCookie             Usage = 513 // FAST cookie, private to a KDC (the number MIT took)
)

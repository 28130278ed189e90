package krb5

import "strconv"

// ErrorCode is the error-code of a KRB-ERROR, RFC 4120 section 7.5.9 and the RFCs that add to it.
// Its String is the RFC's spelling; a code that is not registered prints as "error code 1234".
type ErrorCode int32

const (
	ErrNone                            ErrorCode = 0   // KDC_ERR_NONE
	ErrNameExp                         ErrorCode = 1   // KDC_ERR_NAME_EXP
	ErrServiceExp                      ErrorCode = 2   // KDC_ERR_SERVICE_EXP
	ErrBadPVNO                         ErrorCode = 3   // KDC_ERR_BAD_PVNO
	ErrClientOldMasterKVNO             ErrorCode = 4   // KDC_ERR_C_OLD_MAST_KVNO
	ErrServiceOldMasterKVNO            ErrorCode = 5   // KDC_ERR_S_OLD_MAST_KVNO
	ErrCPrincipalUnknown               ErrorCode = 6   // KDC_ERR_C_PRINCIPAL_UNKNOWN
	ErrSPrincipalUnknown               ErrorCode = 7   // KDC_ERR_S_PRINCIPAL_UNKNOWN
	ErrPrincipalNotUnique              ErrorCode = 8   // KDC_ERR_PRINCIPAL_NOT_UNIQUE
	ErrNullKey                         ErrorCode = 9   // KDC_ERR_NULL_KEY
	ErrCannotPostdate                  ErrorCode = 10  // KDC_ERR_CANNOT_POSTDATE
	ErrNeverValid                      ErrorCode = 11  // KDC_ERR_NEVER_VALID
	ErrPolicy                          ErrorCode = 12  // KDC_ERR_POLICY
	ErrBadOption                       ErrorCode = 13  // KDC_ERR_BADOPTION
	ErrEtypeNoSupp                     ErrorCode = 14  // KDC_ERR_ETYPE_NOSUPP
	ErrSumTypeNoSupp                   ErrorCode = 15  // KDC_ERR_SUMTYPE_NOSUPP
	ErrPADataTypeNoSupp                ErrorCode = 16  // KDC_ERR_PADATA_TYPE_NOSUPP
	ErrTRTypeNoSupp                    ErrorCode = 17  // KDC_ERR_TRTYPE_NOSUPP
	ErrClientRevoked                   ErrorCode = 18  // KDC_ERR_CLIENT_REVOKED
	ErrServiceRevoked                  ErrorCode = 19  // KDC_ERR_SERVICE_REVOKED
	ErrTGTRevoked                      ErrorCode = 20  // KDC_ERR_TGT_REVOKED
	ErrClientNotYet                    ErrorCode = 21  // KDC_ERR_CLIENT_NOTYET
	ErrServiceNotYet                   ErrorCode = 22  // KDC_ERR_SERVICE_NOTYET
	ErrKeyExpired                      ErrorCode = 23  // KDC_ERR_KEY_EXPIRED
	ErrPreauthFailed                   ErrorCode = 24  // KDC_ERR_PREAUTH_FAILED
	ErrPreauthRequired                 ErrorCode = 25  // KDC_ERR_PREAUTH_REQUIRED
	ErrServerNoMatch                   ErrorCode = 26  // KDC_ERR_SERVER_NOMATCH
	ErrMustUseUser2User                ErrorCode = 27  // KDC_ERR_MUST_USE_USER2USER
	ErrPathNotAccepted                 ErrorCode = 28  // KDC_ERR_PATH_NOT_ACCEPTED
	ErrSvcUnavailable                  ErrorCode = 29  // KDC_ERR_SVC_UNAVAILABLE
	ErrBadIntegrity                    ErrorCode = 31  // KRB_AP_ERR_BAD_INTEGRITY
	ErrTktExpired                      ErrorCode = 32  // KRB_AP_ERR_TKT_EXPIRED
	ErrTktNYV                          ErrorCode = 33  // KRB_AP_ERR_TKT_NYV
	ErrRepeat                          ErrorCode = 34  // KRB_AP_ERR_REPEAT
	ErrNotUs                           ErrorCode = 35  // KRB_AP_ERR_NOT_US
	ErrBadMatch                        ErrorCode = 36  // KRB_AP_ERR_BADMATCH
	ErrSkew                            ErrorCode = 37  // KRB_AP_ERR_SKEW
	ErrBadAddr                         ErrorCode = 38  // KRB_AP_ERR_BADADDR
	ErrBadVersion                      ErrorCode = 39  // KRB_AP_ERR_BADVERSION
	ErrMsgType                         ErrorCode = 40  // KRB_AP_ERR_MSG_TYPE
	ErrModified                        ErrorCode = 41  // KRB_AP_ERR_MODIFIED
	ErrBadOrder                        ErrorCode = 42  // KRB_AP_ERR_BADORDER
	ErrBadKeyVer                       ErrorCode = 44  // KRB_AP_ERR_BADKEYVER
	ErrNoKey                           ErrorCode = 45  // KRB_AP_ERR_NOKEY
	ErrMutFail                         ErrorCode = 46  // KRB_AP_ERR_MUT_FAIL
	ErrBadDirection                    ErrorCode = 47  // KRB_AP_ERR_BADDIRECTION
	ErrMethod                          ErrorCode = 48  // KRB_AP_ERR_METHOD
	ErrBadSeq                          ErrorCode = 49  // KRB_AP_ERR_BADSEQ
	ErrInappCksum                      ErrorCode = 50  // KRB_AP_ERR_INAPP_CKSUM
	ErrAPPathNotAccepted               ErrorCode = 51  // KRB_AP_PATH_NOT_ACCEPTED
	ErrResponseTooBig                  ErrorCode = 52  // KRB_ERR_RESPONSE_TOO_BIG
	ErrGeneric                         ErrorCode = 60  // KRB_ERR_GENERIC
	ErrFieldTooLong                    ErrorCode = 61  // KRB_ERR_FIELD_TOOLONG
	ErrClientNotTrusted                ErrorCode = 62  // KDC_ERROR_CLIENT_NOT_TRUSTED
	ErrKDCNotTrusted                   ErrorCode = 63  // KDC_ERROR_KDC_NOT_TRUSTED
	ErrInvalidSig                      ErrorCode = 64  // KDC_ERROR_INVALID_SIG
	ErrKeyTooWeak                      ErrorCode = 65  // KDC_ERR_KEY_TOO_WEAK
	ErrCertificateMismatch             ErrorCode = 66  // KDC_ERR_CERTIFICATE_MISMATCH
	ErrNoTGT                           ErrorCode = 67  // KRB_AP_ERR_NO_TGT
	ErrWrongRealm                      ErrorCode = 68  // KDC_ERR_WRONG_REALM
	ErrUserToUserRequired              ErrorCode = 69  // KRB_AP_ERR_USER_TO_USER_REQUIRED
	ErrCantVerifyCertificate           ErrorCode = 70  // KDC_ERR_CANT_VERIFY_CERTIFICATE
	ErrInvalidCertificate              ErrorCode = 71  // KDC_ERR_INVALID_CERTIFICATE
	ErrRevokedCertificate              ErrorCode = 72  // KDC_ERR_REVOKED_CERTIFICATE
	ErrRevocationStatusUnknown         ErrorCode = 73  // KDC_ERR_REVOCATION_STATUS_UNKNOWN
	ErrRevocationStatusUnavailable     ErrorCode = 74  // KDC_ERR_REVOCATION_STATUS_UNAVAILABLE
	ErrClientNameMismatch              ErrorCode = 75  // KDC_ERR_CLIENT_NAME_MISMATCH
	ErrKDCNameMismatch                 ErrorCode = 76  // KDC_ERR_KDC_NAME_MISMATCH
	ErrInconsistentKeyPurpose          ErrorCode = 77  // KDC_ERR_INCONSISTENT_KEY_PURPOSE, RFC 4556
	ErrDigestInCertNotAccepted         ErrorCode = 78  // KDC_ERR_DIGEST_IN_CERT_NOT_ACCEPTED, RFC 4556
	ErrPAChecksumMustBeIncluded        ErrorCode = 79  // KDC_ERR_PA_CHECKSUM_MUST_BE_INCLUDED, RFC 4556
	ErrDigestInSignedDataNotAccepted   ErrorCode = 80  // KDC_ERR_DIGEST_IN_SIGNED_DATA_NOT_ACCEPTED, RFC 4556
	ErrPublicKeyEncryptionNotSupported ErrorCode = 81  // KDC_ERR_PUBLIC_KEY_ENCRYPTION_NOT_SUPPORTED, RFC 4556
	ErrIAKERBKDCNotFound               ErrorCode = 85  // KRB_AP_ERR_IAKERB_KDC_NOT_FOUND, draft IAKERB
	ErrIAKERBKDCNoResponse             ErrorCode = 86  // KRB_AP_ERR_IAKERB_KDC_NO_RESPONSE, draft IAKERB
	ErrPreauthExpired                  ErrorCode = 90  // KDC_ERR_PREAUTH_EXPIRED, RFC 6113
	ErrMorePreauthDataRequired         ErrorCode = 91  // KDC_ERR_MORE_PREAUTH_DATA_REQUIRED, RFC 6113
	ErrPreauthBadAuthenticationSet     ErrorCode = 92  // KDC_ERR_PREAUTH_BAD_AUTHENTICATION_SET, RFC 6113
	ErrUnknownCriticalFASTOptions      ErrorCode = 93  // KDC_ERR_UNKNOWN_CRITICAL_FAST_OPTIONS, RFC 6113
	ErrInvalidHashAlg                  ErrorCode = 94  // KDC_ERR_INVALID_HASH_ALG, RFC 6560
	ErrInvalidIterationCount           ErrorCode = 95  // KDC_ERR_INVALID_ITERATION_COUNT, RFC 6560
	ErrNoAcceptableKDF                 ErrorCode = 100 // KDC_ERR_NO_ACCEPTABLE_KDF, RFC 8636
)

var errorCodeNames = map[ErrorCode]string{
	ErrNone:                            "KDC_ERR_NONE",
	ErrNameExp:                         "KDC_ERR_NAME_EXP",
	ErrServiceExp:                      "KDC_ERR_SERVICE_EXP",
	ErrBadPVNO:                         "KDC_ERR_BAD_PVNO",
	ErrClientOldMasterKVNO:             "KDC_ERR_C_OLD_MAST_KVNO",
	ErrServiceOldMasterKVNO:            "KDC_ERR_S_OLD_MAST_KVNO",
	ErrCPrincipalUnknown:               "KDC_ERR_C_PRINCIPAL_UNKNOWN",
	ErrSPrincipalUnknown:               "KDC_ERR_S_PRINCIPAL_UNKNOWN",
	ErrPrincipalNotUnique:              "KDC_ERR_PRINCIPAL_NOT_UNIQUE",
	ErrNullKey:                         "KDC_ERR_NULL_KEY",
	ErrCannotPostdate:                  "KDC_ERR_CANNOT_POSTDATE",
	ErrNeverValid:                      "KDC_ERR_NEVER_VALID",
	ErrPolicy:                          "KDC_ERR_POLICY",
	ErrBadOption:                       "KDC_ERR_BADOPTION",
	ErrEtypeNoSupp:                     "KDC_ERR_ETYPE_NOSUPP",
	ErrSumTypeNoSupp:                   "KDC_ERR_SUMTYPE_NOSUPP",
	ErrPADataTypeNoSupp:                "KDC_ERR_PADATA_TYPE_NOSUPP",
	ErrTRTypeNoSupp:                    "KDC_ERR_TRTYPE_NOSUPP",
	ErrClientRevoked:                   "KDC_ERR_CLIENT_REVOKED",
	ErrServiceRevoked:                  "KDC_ERR_SERVICE_REVOKED",
	ErrTGTRevoked:                      "KDC_ERR_TGT_REVOKED",
	ErrClientNotYet:                    "KDC_ERR_CLIENT_NOTYET",
	ErrServiceNotYet:                   "KDC_ERR_SERVICE_NOTYET",
	ErrKeyExpired:                      "KDC_ERR_KEY_EXPIRED",
	ErrPreauthFailed:                   "KDC_ERR_PREAUTH_FAILED",
	ErrPreauthRequired:                 "KDC_ERR_PREAUTH_REQUIRED",
	ErrServerNoMatch:                   "KDC_ERR_SERVER_NOMATCH",
	ErrMustUseUser2User:                "KDC_ERR_MUST_USE_USER2USER",
	ErrPathNotAccepted:                 "KDC_ERR_PATH_NOT_ACCEPTED",
	ErrSvcUnavailable:                  "KDC_ERR_SVC_UNAVAILABLE",
	ErrBadIntegrity:                    "KRB_AP_ERR_BAD_INTEGRITY",
	ErrTktExpired:                      "KRB_AP_ERR_TKT_EXPIRED",
	ErrTktNYV:                          "KRB_AP_ERR_TKT_NYV",
	ErrRepeat:                          "KRB_AP_ERR_REPEAT",
	ErrNotUs:                           "KRB_AP_ERR_NOT_US",
	ErrBadMatch:                        "KRB_AP_ERR_BADMATCH",
	ErrSkew:                            "KRB_AP_ERR_SKEW",
	ErrBadAddr:                         "KRB_AP_ERR_BADADDR",
	ErrBadVersion:                      "KRB_AP_ERR_BADVERSION",
	ErrMsgType:                         "KRB_AP_ERR_MSG_TYPE",
	ErrModified:                        "KRB_AP_ERR_MODIFIED",
	ErrBadOrder:                        "KRB_AP_ERR_BADORDER",
	ErrBadKeyVer:                       "KRB_AP_ERR_BADKEYVER",
	ErrNoKey:                           "KRB_AP_ERR_NOKEY",
	ErrMutFail:                         "KRB_AP_ERR_MUT_FAIL",
	ErrBadDirection:                    "KRB_AP_ERR_BADDIRECTION",
	ErrMethod:                          "KRB_AP_ERR_METHOD",
	ErrBadSeq:                          "KRB_AP_ERR_BADSEQ",
	ErrInappCksum:                      "KRB_AP_ERR_INAPP_CKSUM",
	ErrAPPathNotAccepted:               "KRB_AP_PATH_NOT_ACCEPTED",
	ErrResponseTooBig:                  "KRB_ERR_RESPONSE_TOO_BIG",
	ErrGeneric:                         "KRB_ERR_GENERIC",
	ErrFieldTooLong:                    "KRB_ERR_FIELD_TOOLONG",
	ErrClientNotTrusted:                "KDC_ERROR_CLIENT_NOT_TRUSTED",
	ErrKDCNotTrusted:                   "KDC_ERROR_KDC_NOT_TRUSTED",
	ErrInvalidSig:                      "KDC_ERROR_INVALID_SIG",
	ErrKeyTooWeak:                      "KDC_ERR_KEY_TOO_WEAK",
	ErrCertificateMismatch:             "KDC_ERR_CERTIFICATE_MISMATCH",
	ErrNoTGT:                           "KRB_AP_ERR_NO_TGT",
	ErrWrongRealm:                      "KDC_ERR_WRONG_REALM",
	ErrUserToUserRequired:              "KRB_AP_ERR_USER_TO_USER_REQUIRED",
	ErrCantVerifyCertificate:           "KDC_ERR_CANT_VERIFY_CERTIFICATE",
	ErrInvalidCertificate:              "KDC_ERR_INVALID_CERTIFICATE",
	ErrRevokedCertificate:              "KDC_ERR_REVOKED_CERTIFICATE",
	ErrRevocationStatusUnknown:         "KDC_ERR_REVOCATION_STATUS_UNKNOWN",
	ErrRevocationStatusUnavailable:     "KDC_ERR_REVOCATION_STATUS_UNAVAILABLE",
	ErrClientNameMismatch:              "KDC_ERR_CLIENT_NAME_MISMATCH",
	ErrKDCNameMismatch:                 "KDC_ERR_KDC_NAME_MISMATCH",
	ErrInconsistentKeyPurpose:          "KDC_ERR_INCONSISTENT_KEY_PURPOSE",
	ErrDigestInCertNotAccepted:         "KDC_ERR_DIGEST_IN_CERT_NOT_ACCEPTED",
	ErrPAChecksumMustBeIncluded:        "KDC_ERR_PA_CHECKSUM_MUST_BE_INCLUDED",
	ErrDigestInSignedDataNotAccepted:   "KDC_ERR_DIGEST_IN_SIGNED_DATA_NOT_ACCEPTED",
	ErrPublicKeyEncryptionNotSupported: "KDC_ERR_PUBLIC_KEY_ENCRYPTION_NOT_SUPPORTED",
	ErrIAKERBKDCNotFound:               "KRB_AP_ERR_IAKERB_KDC_NOT_FOUND",
	ErrIAKERBKDCNoResponse:             "KRB_AP_ERR_IAKERB_KDC_NO_RESPONSE",
	ErrPreauthExpired:                  "KDC_ERR_PREAUTH_EXPIRED",
	ErrMorePreauthDataRequired:         "KDC_ERR_MORE_PREAUTH_DATA_REQUIRED",
	ErrPreauthBadAuthenticationSet:     "KDC_ERR_PREAUTH_BAD_AUTHENTICATION_SET",
	ErrUnknownCriticalFASTOptions:      "KDC_ERR_UNKNOWN_CRITICAL_FAST_OPTIONS",
	ErrInvalidHashAlg:                  "KDC_ERR_INVALID_HASH_ALG",
	ErrInvalidIterationCount:           "KDC_ERR_INVALID_ITERATION_COUNT",
	ErrNoAcceptableKDF:                 "KDC_ERR_NO_ACCEPTABLE_KDF",
}

func (c ErrorCode) String() string {
	if s, ok := errorCodeNames[c]; ok {
		return s
	}
	return "error code " + strconv.Itoa(int(c))
}

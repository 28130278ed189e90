package kcrypto

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// EType is an encryption type number of the IANA registry "Kerberos Encryption Type Numbers". Any int32 may come off the wire.
type EType int32

const (
	AES128SHA1 EType = 17 // aes128-cts-hmac-sha1-96, RFC 3962
	AES256SHA1 EType = 18 // aes256-cts-hmac-sha1-96, RFC 3962
	AES128SHA2 EType = 19 // aes128-cts-hmac-sha256-128, RFC 8009
	AES256SHA2 EType = 20 // aes256-cts-hmac-sha384-192, RFC 8009
	RC4HMAC    EType = 23 // rc4-hmac, RFC 4757; called arcfour-hmac by MIT, and so here
)

// ChecksumType is a number of the IANA registry "Kerberos Checksum Type Numbers".
type ChecksumType int32

const (
	MD5                  ChecksumType = 7    // rsa-md5, unkeyed: a number to recognise, never verified here
	SHA1                 ChecksumType = 14   // sha1, unkeyed: a number to recognise, never verified here
	HMACSHA196AES128     ChecksumType = 15   // hmac-sha1-96-aes128, 12 octets
	HMACSHA196AES256     ChecksumType = 16   // hmac-sha1-96-aes256, 12 octets
	HMACSHA256128AES128  ChecksumType = 19   // hmac-sha256-128-aes128, 16 octets
	HMACSHA384192AES256  ChecksumType = 20   // hmac-sha384-192-aes256, 24 octets
	HMACMD5              ChecksumType = -138 // KERB_CHECKSUM_HMAC_MD5, 16 octets
	checksumUnregistered ChecksumType = 0
)

var (
	// ErrEType is an enctype that this package does not implement, or a key of the wrong size for it.
	ErrEType = errors.New("kcrypto: enctype not supported")
	// ErrIntegrity is a ciphertext or checksum that is not what this key and usage make of these octets. It never says which part failed.
	ErrIntegrity = errors.New("kcrypto: integrity check failed")
	// ErrChecksumType is a checksum type that is unkeyed or belongs to another enctype than the key's.
	ErrChecksumType = errors.New("kcrypto: checksum type does not fit the key")
	// ErrParams is a string-to-key parameter that is malformed or asks for too few or too many iterations.
	ErrParams = errors.New("kcrypto: bad string-to-key parameters")
)

// profile is what differs between enctypes in size and name; the algorithms are in one file an RFC.
type profile struct {
	etype    EType
	name     string
	short    string
	aliases  []string
	keySize  int // octets; also the key-generation seed length
	macSize  int // octets of the truncated HMAC in a ciphertext and of a checksum
	confSize int // octets of confounder
	prfSize  int // octets of PRF output
	cksum    ChecksumType
	sum      *hashAlgo // of the HMAC
}

// profiles is in order of preference. Aliases are those of MIT krb5 and Heimdal.
var profiles = [...]profile{
	{AES256SHA2, "aes256-cts-hmac-sha384-192", "aes256-sha2", nil, 32, 24, 16, 48, HMACSHA384192AES256, &algoSHA384},
	{AES128SHA2, "aes128-cts-hmac-sha256-128", "aes128-sha2", nil, 16, 16, 16, 32, HMACSHA256128AES128, &algoSHA256},
	{AES256SHA1, "aes256-cts-hmac-sha1-96", "aes256-sha1", []string{"aes256-cts"}, 32, 12, 16, 16, HMACSHA196AES256, &algoSHA1},
	{AES128SHA1, "aes128-cts-hmac-sha1-96", "aes128-sha1", []string{"aes128-cts"}, 16, 12, 16, 16, HMACSHA196AES128, &algoSHA1},
	{RC4HMAC, "arcfour-hmac", "rc4", []string{"rc4-hmac", "arcfour-hmac-md5"}, 16, 16, 8, 20, HMACMD5, &algoMD5},
}

// profileOf is nil for an enctype that is not implemented.
func profileOf(e EType) *profile {
	switch e {
	case AES256SHA2:
		return &profiles[0]
	case AES128SHA2:
		return &profiles[1]
	case AES256SHA1:
		return &profiles[2]
	case AES128SHA1:
		return &profiles[3]
	case RC4HMAC:
		return &profiles[4]
	}
	return nil
}

// String is the registered name ("aes256-cts-hmac-sha1-96"), with "arcfour-hmac" for 23 as MIT prints it, and "etype 3" for what is not implemented.
func (e EType) String() string {
	if p := profileOf(e); p != nil {
		return p.name
	}
	return "etype " + strconv.Itoa(int(e))
}

// Short is the name for tables: "aes256-sha2", "aes128-sha1", "rc4"; "etype 3" for what is not implemented.
func (e EType) Short() string {
	if p := profileOf(e); p != nil {
		return p.short
	}
	return e.String()
}

// Supported says whether this package implements e. It does not say that using it is wise: RC4 is supported.
func (e EType) Supported() bool { return profileOf(e) != nil }

// KeySize is the length of a key in octets; 0 for what is not implemented.
func (e EType) KeySize() int {
	if p := profileOf(e); p != nil {
		return p.keySize
	}
	return 0
}

// ChecksumType is the keyed checksum that goes with e (RFC 3961 section 3, "required checksum mechanism"); 0 for what is not implemented.
func (e EType) ChecksumType() ChecksumType {
	if p := profileOf(e); p != nil {
		return p.cksum
	}
	return checksumUnregistered
}

// ParseEType reads a registered name, an alias of MIT krb5, a short name (all in any case) or a decimal number.
// What this package does not implement is refused with ErrEType.
func ParseEType(s string) (EType, error) {
	want := strings.ToLower(strings.TrimSpace(s))
	for i := range profiles {
		p := &profiles[i]
		if want == p.name || want == p.short || want == strconv.Itoa(int(p.etype)) {
			return p.etype, nil
		}
		for _, a := range p.aliases {
			if want == a {
				return p.etype, nil
			}
		}
	}
	return 0, fmt.Errorf("%w: %q", ErrEType, s)
}

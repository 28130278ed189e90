package krb5

import (
	"errors"
	"fmt"
	"io"

	"github.com/charon-kdc/charon/kdc/krb5/kcrypto"
)

// Open decrypts ed under k and reads the plaintext with decode, which is one of this package's decoders:
//
//	ts, err := krb5.Open(k, kcrypto.UsagePAEncTimestamp, ed, krb5.DecodePAEncTSEnc)
//
// kcrypto.ErrEType: ed is of another enctype than k. kcrypto.ErrIntegrity: it does not open. ErrDecode: it opens into something else.
func Open[T any](k *kcrypto.Key, u kcrypto.Usage, ed EncryptedData, decode func([]byte) (T, error)) (T, error) {
	var none T
	if ed.EType != k.EType() {
		return none, fmt.Errorf("opening with a key of %v what is sealed with %v: %w", k.EType(), ed.EType, kcrypto.ErrEType)
	}
	plain, err := k.Decrypt(u, ed.Cipher)
	if err != nil {
		return none, err
	}
	return decode(plain)
}

// Seal encrypts DER under k. kvno 0 leaves the kvno out, as session keys and user-to-user tickets have none.
func Seal(k *kcrypto.Key, kvno uint32, rand io.Reader, u kcrypto.Usage, plain []byte) (EncryptedData, error) {
	cipher, err := k.Encrypt(rand, u, plain)
	if err != nil {
		return EncryptedData{}, err
	}
	return EncryptedData{EType: k.EType(), KVNO: kvno, HasKVNO: kvno != 0, Cipher: cipher}, nil
}

// OpenTicket opens a ticket's enc-part under the service's key (usage 2). Errors are those of Open.
func OpenTicket(k *kcrypto.Key, t *Ticket) (*EncTicketPart, error) {
	return Open(k, kcrypto.UsageTicket, t.EncPart, DecodeEncTicketPart)
}

// SealTicket seals a ticket's enc-part under the service's key. kvno 0 is absent: for user-to-user.
func SealTicket(k *kcrypto.Key, kvno uint32, rand io.Reader, part *EncTicketPart) (EncryptedData, error) {
	plain, err := EncodeEncTicketPart(part)
	if err != nil {
		return EncryptedData{}, err
	}
	defer clear(plain) // it holds the session key
	return Seal(k, kvno, rand, kcrypto.UsageTicket, plain)
}

var errNilKey = errors.New("no key")

// NewChecksum is the keyed checksum of k's enctype over data.
func NewChecksum(k *kcrypto.Key, u kcrypto.Usage, data []byte) (*Checksum, error) {
	sum, err := k.Checksum(u, data)
	if err != nil {
		return nil, err
	}
	return &Checksum{CksumType: k.EType().ChecksumType(), Checksum: sum}, nil
}

// VerifyChecksum holds a keyed checksum over data: an absent, unkeyed or foreign checksum is KRB_AP_ERR_INAPP_CKSUM, a wrong one KRB_AP_ERR_MODIFIED.
func VerifyChecksum(c *Checksum, k *kcrypto.Key, u kcrypto.Usage, data []byte) error {
	if c == nil {
		return &Error{Code: ErrInappCksum, Status: "INAPP_CKSUM"}
	}
	switch err := k.VerifyChecksum(c.CksumType, u, data, c.Checksum); {
	case errors.Is(err, kcrypto.ErrChecksumType):
		return &Error{Code: ErrInappCksum, Status: "INAPP_CKSUM", Err: err}
	case err != nil:
		return &Error{Code: ErrModified, Status: "MODIFIED", Err: err}
	}
	return nil
}

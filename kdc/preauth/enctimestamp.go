package preauth

import (
	"github.com/charon-kdc/charon/kdc/kdb"
	"github.com/charon-kdc/charon/kdc/krb5"
	"github.com/charon-kdc/charon/kdc/krb5/kcrypto"
)

// EncTimestamp is PA-ENC-TIMESTAMP (RFC 4120 section 5.2.7.2): the client's time, sealed with a key of the client. Only an
// active key of the current version counts: an old password is a wrong one.
type EncTimestamp struct{}

// Type is PA-ENC-TIMESTAMP.
func (EncTimestamp) Type() krb5.PADataType { return krb5.PAEncTimestamp }

// Name is "enc-ts".
func (EncTimestamp) Name() string { return "enc-ts" }

// Offer is an empty hint to whoever has a key.
func (EncTimestamp) Offer(client *kdb.Principal) ([]byte, bool) {
	for i := range client.Keys {
		if k := &client.Keys[i]; k.KVNO == client.KVNO && k.State == kdb.KeyActive {
			return nil, true
		}
	}
	return nil, false
}

// Verify opens the timestamp. A value that is no EncryptedData, one that does not open and one that opens into something else are all
// the same to the sender: KDC_ERR_PREAUTH_FAILED.
func (EncTimestamp) Verify(x *Exchange, pa krb5.PAData) (Proof, error) {
	ed, err := krb5.DecodeEncryptedData(pa.PADataValue)
	if err != nil {
		return Proof{}, &krb5.Error{Code: krb5.ErrPreauthFailed, Status: "BAD_PADATA", Err: err}
	}
	k, ok := x.Client.CurrentKey(ed.EType)
	if !ok {
		return Proof{}, &krb5.Error{Code: krb5.ErrEtypeNoSupp, Status: "NO_KEY_OF_ETYPE"}
	}
	ts, err := krb5.Open(k, kcrypto.UsagePAEncTimestamp, *ed, krb5.DecodePAEncTSEnc)
	if err != nil {
		return Proof{Seen: ed.Cipher}, &krb5.Error{Code: krb5.ErrPreauthFailed, Status: "PREAUTH_FAILED", Err: err}
	}
	if ts.Time().Sub(x.Now).Abs() > x.Skew {
		return Proof{}, &krb5.Error{Code: krb5.ErrSkew, Status: "CLOCK_SKEW"}
	}
	return Proof{Key: k, Seen: ed.Cipher, Time: ts.Time()}, nil
}

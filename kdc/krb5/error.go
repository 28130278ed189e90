package krb5

import "errors"

// Error is a protocol refusal, made where it is decided. It leaves as a KRB-ERROR in one place.
type Error struct {
	Code ErrorCode
	// Status is MIT's word for the log and the e-text ("CLIENT_NOT_FOUND"). May be empty.
	Status string
	// EData is the e-data: METHOD-DATA or TYPED-DATA in DER. Nil is absent.
	EData []byte
	// Err is what caused it, for logs on this side only. May be nil.
	Err error
}

func (e *Error) Error() string {
	s := e.Code.String()
	if e.Status != "" {
		s += " (" + e.Status + ")"
	}
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

func (e *Error) Unwrap() error { return e.Err }

var (
	// ErrDecode is wrapped by every error of a decoder: the octets are not such a message, or are over a bound.
	ErrDecode = errors.New("krb5: malformed message")
	// ErrDecodeVersion is wrapped, with ErrDecode, when pvno, tkt-vno or authenticator-vno is not 5.
	ErrDecodeVersion = errors.New("krb5: protocol version is not 5")
	// ErrDecodeType is wrapped, with ErrDecode, when msg-type is another than the application tag says, or the tag is of another message.
	ErrDecodeType = errors.New("krb5: message of another type")
	// ErrEncode is wrapped by every error of an encoder: a mandatory field is missing, or a value is over a bound that decoders hold.
	ErrEncode = errors.New("krb5: message cannot be encoded")
)

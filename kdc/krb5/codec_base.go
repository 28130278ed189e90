package krb5

import (
	"golang.org/x/crypto/cryptobyte"

	"github.com/charon-kdc/charon/kdc/krb5/kcrypto"
)

// pvno is the version in every message, RFC 4120 section 7.5.6.
const pvno = 5

// The types that stand inside others, RFC 4120 section 5.2.

func readPAData(r *reader, out *PAData) {
	out.PADataType = PADataType(r.int32(r.field(1, "PA-DATA padata-type"), "PA-DATA padata-type"))
	out.PADataValue = r.octets(r.field(2, "PA-DATA padata-value"), "PA-DATA padata-value")
}

func writePAData(w *writer, v *PAData) {
	w.octets(2, v.PADataValue)
	w.integer(1, int64(v.PADataType))
}

func readHostAddress(r *reader, out *HostAddress) {
	out.AddrType = r.int32(r.field(0, "HostAddress addr-type"), "HostAddress addr-type")
	out.Address = r.octets(r.field(1, "HostAddress address"), "HostAddress address")
}

func writeHostAddress(w *writer, v *HostAddress) {
	w.octets(1, v.Address)
	w.integer(0, int64(v.AddrType))
}

func readAuthorizationDataElement(r *reader, out *AuthorizationDataElement) {
	out.ADType = r.int32(r.field(0, "AuthorizationData ad-type"), "AuthorizationData ad-type")
	out.ADData = r.octets(r.field(1, "AuthorizationData ad-data"), "AuthorizationData ad-data")
}

func writeAuthorizationDataElement(w *writer, v *AuthorizationDataElement) {
	w.octets(1, v.ADData)
	w.integer(0, int64(v.ADType))
}

func readLastReq(r *reader, out *LastReq) {
	out.LRType = r.int32(r.field(0, "LastReq lr-type"), "LastReq lr-type")
	out.LRValue = r.time(r.field(1, "LastReq lr-value"), "LastReq lr-value")
}

func writeLastReq(w *writer, v *LastReq) {
	w.time(1, v.LRValue, "LastReq lr-value")
	w.integer(0, int64(v.LRType))
}

// sequence reads all of s as one SEQUENCE whose fields body reads.
func sequence[T any](r *reader, s cryptobyte.String, what string, out *T, body func(r *reader, out *T)) {
	within(r, r.whole(s, tagSequence, what), what, out, body)
}

// writeSequence writes the SEQUENCE whose fields body writes.
func writeSequence[T any](w *writer, v *T, body func(w *writer, v *T)) {
	mark := w.len()
	body(w, v)
	w.head(tagSequence, mark)
}

// sequenceField is writeSequence as field [n].
func sequenceField[T any](w *writer, n uint8, v *T, body func(w *writer, v *T)) {
	mark := w.len()
	writeSequence(w, v, body)
	w.field(n, mark)
}

func readEncryptedData(r *reader, out *EncryptedData) {
	out.EType = kcrypto.EType(r.int32(r.field(0, "EncryptedData etype"), "EncryptedData etype"))
	if f, ok := r.optional(1, "EncryptedData kvno"); ok {
		out.KVNO, out.HasKVNO = r.integer(f, "EncryptedData kvno"), true
	}
	out.Cipher = r.octets(r.field(2, "EncryptedData cipher"), "EncryptedData cipher")
}

func writeEncryptedData(w *writer, v *EncryptedData) {
	w.octets(2, v.Cipher)
	if v.HasKVNO {
		w.integer(1, int64(v.KVNO))
	}
	w.integer(0, int64(v.EType))
}

func readChecksum(r *reader, out *Checksum) {
	out.CksumType = kcrypto.ChecksumType(r.int32(r.field(0, "Checksum cksumtype"), "Checksum cksumtype"))
	out.Checksum = r.octets(r.field(1, "Checksum checksum"), "Checksum checksum")
}

func writeChecksum(w *writer, v *Checksum) {
	w.octets(1, v.Checksum)
	w.integer(0, int64(v.CksumType))
}

// DecodeEncryptedData reads DER, one EncryptedData (RFC 4120 section 5.2.9): a PA-ENC-TIMESTAMP's value, or a PA-ENCRYPTED-CHALLENGE's.
func DecodeEncryptedData(b []byte) (*EncryptedData, error) {
	return decodeSequence(b, "EncryptedData", readEncryptedData)
}

// EncodeEncryptedData gives DER, one EncryptedData.
func EncodeEncryptedData(m *EncryptedData) ([]byte, error) {
	return encodeSequence(m, writeEncryptedData)
}

// DecodeChecksum reads DER, one Checksum (RFC 4120 section 5.2.9): a PA-REQ-ENC-PA-REP's value in a reply (RFC 6806 section 11).
func DecodeChecksum(b []byte) (*Checksum, error) { return decodeSequence(b, "Checksum", readChecksum) }

// EncodeChecksum gives DER, one Checksum.
func EncodeChecksum(m *Checksum) ([]byte, error) { return encodeSequence(m, writeChecksum) }

// DecodePAEncTSEnc reads DER, one PA-ENC-TS-ENC (RFC 4120 section 5.2.7.2).
func DecodePAEncTSEnc(b []byte) (*PAEncTSEnc, error) {
	return decodeSequence(b, "PA-ENC-TS-ENC", readPAEncTSEnc)
}

// EncodePAEncTSEnc gives DER, one PA-ENC-TS-ENC.
func EncodePAEncTSEnc(m *PAEncTSEnc) ([]byte, error) { return encodeSequence(m, writePAEncTSEnc) }

func readPAEncTSEnc(r *reader, out *PAEncTSEnc) {
	out.PATimestamp = r.time(r.field(0, "PA-ENC-TS-ENC patimestamp"), "PA-ENC-TS-ENC patimestamp")
	if f, ok := r.optional(1, "PA-ENC-TS-ENC pausec"); ok {
		out.PAUSec, out.HasPAUSec = r.int32(f, "PA-ENC-TS-ENC pausec"), true
	}
}

func writePAEncTSEnc(w *writer, v *PAEncTSEnc) {
	if v.HasPAUSec {
		w.integer(1, int64(v.PAUSec))
	}
	w.time(0, v.PATimestamp, "PA-ENC-TS-ENC patimestamp")
}

func readETypeInfoEntry(r *reader, out *ETypeInfoEntry) {
	out.EType = kcrypto.EType(r.int32(r.field(0, "ETYPE-INFO-ENTRY etype"), "ETYPE-INFO-ENTRY etype"))
	if f, ok := r.optional(1, "ETYPE-INFO-ENTRY salt"); ok {
		out.Salt = r.octets(f, "ETYPE-INFO-ENTRY salt")
	}
}

func writeETypeInfoEntry(w *writer, v *ETypeInfoEntry) {
	if v.Salt != nil {
		w.octets(1, v.Salt)
	}
	w.integer(0, int64(v.EType))
}

func readETypeInfo2Entry(r *reader, out *ETypeInfo2Entry) {
	out.EType = kcrypto.EType(r.int32(r.field(0, "ETYPE-INFO2-ENTRY etype"), "ETYPE-INFO2-ENTRY etype"))
	if f, ok := r.optional(1, "ETYPE-INFO2-ENTRY salt"); ok {
		out.Salt, out.HasSalt = r.generalString(f, "ETYPE-INFO2-ENTRY salt"), true
	}
	if f, ok := r.optional(2, "ETYPE-INFO2-ENTRY s2kparams"); ok {
		out.S2KParams = r.octets(f, "ETYPE-INFO2-ENTRY s2kparams")
	}
}

func writeETypeInfo2Entry(w *writer, v *ETypeInfo2Entry) {
	if v.S2KParams != nil {
		w.octets(2, v.S2KParams)
	}
	if v.HasSalt {
		w.text(1, v.Salt)
	}
	w.integer(0, int64(v.EType))
}

// DecodeMethodData reads DER, one METHOD-DATA (RFC 4120 section 5.9.1), which may be empty.
func DecodeMethodData(b []byte) ([]PAData, error) { return decodeList(b, "METHOD-DATA", readPAData) }

// EncodeMethodData gives DER, one METHOD-DATA; nil is an empty one.
func EncodeMethodData(m []PAData) ([]byte, error) { return encodeList(m, writePAData) }

// DecodeETypeInfo reads DER, one ETYPE-INFO (RFC 4120 section 5.2.7.4).
func DecodeETypeInfo(b []byte) ([]ETypeInfoEntry, error) {
	return decodeList(b, "ETYPE-INFO", readETypeInfoEntry)
}

// EncodeETypeInfo gives DER, one ETYPE-INFO.
func EncodeETypeInfo(m []ETypeInfoEntry) ([]byte, error) { return encodeList(m, writeETypeInfoEntry) }

// DecodeETypeInfo2 reads DER, one ETYPE-INFO2 (RFC 4120 section 5.2.7.5).
func DecodeETypeInfo2(b []byte) ([]ETypeInfo2Entry, error) {
	return decodeList(b, "ETYPE-INFO2", readETypeInfo2Entry)
}

// EncodeETypeInfo2 gives DER, one ETYPE-INFO2.
func EncodeETypeInfo2(m []ETypeInfo2Entry) ([]byte, error) {
	return encodeList(m, writeETypeInfo2Entry)
}

// DecodeAuthorizationData reads DER, one AuthorizationData (RFC 4120 section 5.2.6): also the contents of AD-IF-RELEVANT.
func DecodeAuthorizationData(b []byte) (AuthorizationData, error) {
	return decodeList(b, "AuthorizationData", readAuthorizationDataElement)
}

// EncodeAuthorizationData gives DER, one AuthorizationData; nil is an empty one.
func EncodeAuthorizationData(m AuthorizationData) ([]byte, error) {
	return encodeList(m, writeAuthorizationDataElement)
}

func decodeSequence[T any](b []byte, what string, body func(r *reader, out *T)) (*T, error) {
	r := readers.Get().(*reader)
	return decode(r, r.whole(b, tagSequence, what), what, body)
}

// decode reads the fields of a message and gives the reader back. Nothing is allocated unless the outer headers fit.
func decode[T any](r *reader, fields cryptobyte.String, what string, body func(r *reader, out *T)) (*T, error) {
	if r.err != nil {
		return nil, r.done()
	}
	out := new(T)
	within(r, fields, what, out, body)
	if err := r.done(); err != nil {
		return nil, err
	}
	return out, nil
}

func encodeSequence[T any](m *T, body func(w *writer, m *T)) ([]byte, error) {
	return encode(nil, m, func(w *writer, m *T) { writeSequence(w, m, body) })
}

func decodeList[T any](b []byte, what string, each func(r *reader, out *T)) ([]T, error) {
	r := readers.Get().(*reader)
	out := list(r, b, what, each)
	return out, r.done()
}

func encodeList[T any](m []T, each func(w *writer, e *T)) ([]byte, error) {
	return encode(nil, &m, func(w *writer, m *[]T) { writeList(w, *m, each) })
}

// decodeApplication reads b as [APPLICATION n] SEQUENCE.
func decodeApplication[T any](b []byte, n uint8, what string, body func(r *reader, out *T)) (*T, error) {
	r := readers.Get().(*reader)
	return decode(r, r.application(b, n, what), what, body)
}

func encodeApplication[T any](dst []byte, m *T, n uint8, body func(w *writer, m *T)) ([]byte, error) {
	return encode(dst, m, func(w *writer, m *T) {
		mark := w.len()
		body(w, m)
		w.application(n, mark)
	})
}

package krb5

import (
	"golang.org/x/crypto/cryptobyte"
)

// DecodeTicket reads DER, one Ticket (RFC 4120 section 5.3).
func DecodeTicket(b []byte) (*Ticket, error) {
	return decodeApplication(b, tagTicket, "Ticket", readTicket)
}

// EncodeTicket gives DER, one Ticket.
func EncodeTicket(m *Ticket) ([]byte, error) {
	return encodeApplication(nil, m, tagTicket, writeTicket)
}

func readTicket(r *reader, out *Ticket) {
	r.version(0, "Ticket tkt-vno")
	out.Realm = r.realmName(r.field(1, "Ticket realm"), "Ticket realm")
	out.SName = r.name(r.field(2, "Ticket sname"), "Ticket sname")
	sequence(r, r.field(3, "Ticket enc-part"), "Ticket enc-part", &out.EncPart, readEncryptedData)
}

func writeTicket(w *writer, v *Ticket) {
	sequenceField(w, 3, &v.EncPart, writeEncryptedData)
	w.name(2, &v.SName, "Ticket sname")
	w.realmName(1, v.Realm, "Ticket realm")
	w.integer(0, pvno)
}

// readTicketField reads all of s as one Ticket with its application tag.
func readTicketField(r *reader, s cryptobyte.String, out *Ticket) {
	within(r, r.application(s, tagTicket, "Ticket"), "Ticket", out, readTicket)
}

func writeTicketField(w *writer, n uint8, v *Ticket) {
	mark := w.len()
	writeTicket(w, v)
	w.application(tagTicket, mark)
	w.field(n, mark)
}

// ticketOctetsMin is the length of the shortest Ticket: empty realm, one empty component, empty cipher. A list has no more tickets than fit.
const ticketOctetsMin = 41

// readTickets reads all of s as one SEQUENCE OF Ticket.
func readTickets(r *reader, s cryptobyte.String, what string) []Ticket {
	rest, n := r.elements(s, appTag(tagTicket), what)
	if n > len(rest)/ticketOctetsMin {
		r.fail(what, nil)
	}
	if r.err != nil {
		return nil
	}
	out := make([]Ticket, n)
	for i := range out {
		var e cryptobyte.String
		e, rest, _ = element(rest, appTag(tagTicket))
		if sequence(r, e, what, &out[i], readTicket); r.err != nil {
			return nil
		}
	}
	return out
}

func writeTickets(w *writer, n uint8, v []Ticket) {
	end := w.len()
	for i := len(v) - 1; i >= 0; i-- {
		mark := w.len()
		writeTicket(w, &v[i])
		w.application(tagTicket, mark)
	}
	w.head(tagSequence, end)
	w.field(n, end)
}

// DecodeEncTicketPart reads DER, one EncTicketPart (RFC 4120 section 5.3). A session key of an enctype that kcrypto lacks is refused with kcrypto.ErrEType.
func DecodeEncTicketPart(b []byte) (*EncTicketPart, error) {
	return decodeApplication(b, tagEncTicketPart, "EncTicketPart", readEncTicketPart)
}

// EncodeEncTicketPart gives DER, one EncTicketPart. It holds the session key: the caller clears it after use.
func EncodeEncTicketPart(m *EncTicketPart) ([]byte, error) { return AppendEncTicketPart(nil, m) }

// AppendEncTicketPart appends DER, one EncTicketPart, to dst.
func AppendEncTicketPart(dst []byte, m *EncTicketPart) ([]byte, error) {
	return encodeApplication(dst, m, tagEncTicketPart, writeEncTicketPart)
}

func readEncTicketPart(r *reader, out *EncTicketPart) {
	out.Flags = TicketFlags(r.flags(r.field(0, "EncTicketPart flags"), "EncTicketPart flags"))
	out.Key = r.key(r.field(1, "EncTicketPart key"), "EncTicketPart key")
	out.CRealm = r.realmName(r.field(2, "EncTicketPart crealm"), "EncTicketPart crealm")
	out.CName = r.name(r.field(3, "EncTicketPart cname"), "EncTicketPart cname")
	sequence(r, r.field(4, "EncTicketPart transited"), "EncTicketPart transited", &out.Transited, readTransitedEncoding)
	out.AuthTime = r.time(r.field(5, "EncTicketPart authtime"), "EncTicketPart authtime")
	if f, ok := r.optional(6, "EncTicketPart starttime"); ok {
		out.StartTime = r.time(f, "EncTicketPart starttime")
	}
	out.EndTime = r.time(r.field(7, "EncTicketPart endtime"), "EncTicketPart endtime")
	if f, ok := r.optional(8, "EncTicketPart renew-till"); ok {
		out.RenewTill = r.time(f, "EncTicketPart renew-till")
	}
	if f, ok := r.optional(9, "EncTicketPart caddr"); ok {
		out.CAddr = list(r, f, "EncTicketPart caddr", readHostAddress)
	}
	if f, ok := r.optional(10, "EncTicketPart authorization-data"); ok {
		out.AuthorizationData = list(r, f, "EncTicketPart authorization-data", readAuthorizationDataElement)
	}
}

func writeEncTicketPart(w *writer, v *EncTicketPart) {
	listField(w, 10, v.AuthorizationData, writeAuthorizationDataElement)
	listField(w, 9, v.CAddr, writeHostAddress)
	w.optionalTime(8, v.RenewTill, "EncTicketPart renew-till")
	w.time(7, v.EndTime, "EncTicketPart endtime")
	w.optionalTime(6, v.StartTime, "EncTicketPart starttime")
	w.time(5, v.AuthTime, "EncTicketPart authtime")
	sequenceField(w, 4, &v.Transited, writeTransitedEncoding)
	w.name(3, &v.CName, "EncTicketPart cname")
	w.realmName(2, v.CRealm, "EncTicketPart crealm")
	w.key(1, v.Key, "EncTicketPart key")
	w.flags(0, uint32(v.Flags))
}

func readTransitedEncoding(r *reader, out *TransitedEncoding) {
	out.TRType = r.int32(r.field(0, "TransitedEncoding tr-type"), "TransitedEncoding tr-type")
	out.Contents = r.octets(r.field(1, "TransitedEncoding contents"), "TransitedEncoding contents")
}

func writeTransitedEncoding(w *writer, v *TransitedEncoding) {
	w.octets(1, v.Contents)
	w.integer(0, int64(v.TRType))
}

package kdc

import (
	"encoding/hex"
	"time"

	"github.com/charon-kdc/charon/kdc/krb5"
	"github.com/charon-kdc/charon/kdc/krb5/kcrypto"
)

// issue is a decided reply: all that is left is DER and encryption.
type issue struct {
	msgType   krb5.MsgType
	part      *krb5.EncTicketPart
	srealm    string
	sname     krb5.PrincipalName
	ticketKey *kcrypto.Key
	kvno      uint32 // 0: none, the ticket is sealed in a session key
	replyKey  *kcrypto.Key
	replyKVNO uint32 // 0: none
	usage     kcrypto.Usage
	pas       []krb5.PAData // in clear
	encPAs    []krb5.PAData // sealed (RFC 6806 section 11)
	lastReq   []krb5.LastReq
	keyExpiry time.Time // zero: absent
}

// seal makes the KDC-REP: the ticket, the part for the client, the message (RFC 4120 section 5.4.2).
func (s *Server) seal(q *request, i *issue) ([]byte, error) {
	ticket := krb5.Ticket{Realm: i.srealm, SName: i.sname}
	var err error
	if ticket.EncPart, err = krb5.SealTicket(i.ticketKey, i.kvno, s.cfg.Rand, i.part); err != nil {
		return nil, err
	}
	p := i.part
	rep := krb5.EncKDCRepPart{
		Key:             p.Key,
		LastReq:         i.lastReq,
		Nonce:           q.msg.ReqBody.Nonce,
		KeyExpiration:   i.keyExpiry,
		Flags:           p.Flags,
		AuthTime:        p.AuthTime,
		StartTime:       p.StartTime,
		EndTime:         p.EndTime,
		RenewTill:       p.RenewTill,
		SRealm:          i.srealm,
		SName:           i.sname,
		CAddr:           p.CAddr,
		EncryptedPAData: i.encPAs,
	}
	plain, err := krb5.EncodeEncKDCRepPart(i.msgType, &rep)
	if err != nil {
		return nil, err
	}
	enc, err := krb5.Seal(i.replyKey, i.replyKVNO, s.cfg.Rand, i.usage, plain)
	clear(plain) // it holds the session key
	if err != nil {
		return nil, err
	}
	s.observe(q, i, &ticket)
	return krb5.EncodeKDCRep(&krb5.KDCRep{
		MsgType: i.msgType,
		PAData:  i.pas,
		CRealm:  p.CRealm,
		CName:   p.CName,
		Ticket:  ticket,
		EncPart: enc,
	})
}

func (s *Server) observe(q *request, i *issue, t *krb5.Ticket) {
	if s.cfg.Observe == nil {
		return
	}
	ev := q.ev
	ev.Server = s.text(i.sname, i.srealm)
	ev.SessionEType, ev.TicketEType, ev.ReplyEType = i.part.Key.EType(), i.ticketKey.EType(), i.replyKey.EType()
	ev.TicketID = ticketID(t)
	ev.AuthTime, ev.EndTime, ev.Flags = i.part.AuthTime, i.part.EndTime, i.part.Flags
}

// ticketID chains the events of a ticket: see Event.
func ticketID(t *krb5.Ticket) string {
	c := t.EncPart.Cipher
	return hex.EncodeToString(c[max(0, len(c)-8):])
}

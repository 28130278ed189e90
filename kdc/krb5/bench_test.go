package krb5

import (
	"testing"
)

// tgsExchange is one TGS exchange of the captures as the KDC sees it: what it reads and what it writes.
type tgsExchange struct {
	req, apReq, ticket, auth []byte
	part                     *EncTicketPart
	rep                      *KDCRep
	repPart                  *EncKDCRepPart
}

func loadExchange(b *testing.B) tgsExchange {
	var x tgsExchange
	must := func(err error) {
		if err != nil {
			b.Fatal(err)
		}
	}
	for _, c := range loadCaptures() {
		var err error
		switch c.where {
		case "tgs-no-pac/messages/0/request":
			x.req = c.der
			m, err := DecodeKDCReq(c.der)
			must(err)
			x.apReq = m.PAData[0].PADataValue
		case "tgs-no-pac/messages/0/request/decrypted/0":
			x.ticket = c.der
		case "tgs-no-pac/messages/0/request/decrypted/1":
			x.auth = c.der
		case "tgs-no-pac/messages/0/reply":
			x.rep, err = DecodeKDCRep(c.der)
		case "tgs-no-pac/messages/0/reply/decrypted/0":
			x.part, err = DecodeEncTicketPart(c.der)
		case "tgs-no-pac/messages/0/reply/decrypted/1", "tgs-no-pac/messages/0/reply/decrypted/2", "tgs-no-pac/messages/0/reply/decrypted/3":
			if c.codec == "EncTGSRepPart" {
				x.repPart, err = DecodeEncKDCRepPart(c.der)
			}
		}
		must(err)
	}
	if x.req == nil || x.apReq == nil || x.ticket == nil || x.auth == nil || x.part == nil || x.rep == nil || x.repPart == nil {
		b.Fatal("the capture tgs-no-pac lacks a message")
	}
	return x
}

// BenchmarkDecodeTGS reads what a KDC reads of a TGS exchange: TGS-REQ, AP-REQ, EncTicketPart, Authenticator.
func BenchmarkDecodeTGS(b *testing.B) {
	x := loadExchange(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := DecodeKDCReq(x.req); err != nil {
			b.Fatal(err)
		}
		if _, err := DecodeAPReq(x.apReq); err != nil {
			b.Fatal(err)
		}
		if _, err := DecodeEncTicketPart(x.ticket); err != nil {
			b.Fatal(err)
		}
		if _, err := DecodeAuthenticator(x.auth); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkEncodeTGS writes what a KDC writes of a TGS exchange: EncTicketPart, EncTGSRepPart, TGS-REP.
func BenchmarkEncodeTGS(b *testing.B) {
	x := loadExchange(b)
	buf := make([]byte, 0, 8192)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := AppendEncTicketPart(buf, x.part); err != nil {
			b.Fatal(err)
		}
		if _, err := AppendEncKDCRepPart(buf, MsgTGSRep, x.repPart); err != nil {
			b.Fatal(err)
		}
		if _, err := AppendKDCRep(buf, x.rep); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkReferenceTGS is BenchmarkDecodeTGS with the reference codec: why there are two.
func BenchmarkReferenceTGS(b *testing.B) {
	x := loadExchange(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := refDecodeKDCReq(x.req); err != nil {
			b.Fatal(err)
		}
		if _, err := refDecodeAPReq(x.apReq); err != nil {
			b.Fatal(err)
		}
		if _, err := refDecodeEncTicketPart(x.ticket); err != nil {
			b.Fatal(err)
		}
		if _, err := refDecodeAuthenticator(x.auth); err != nil {
			b.Fatal(err)
		}
	}
}

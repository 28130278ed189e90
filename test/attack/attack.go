// Package attack makes the requests of somebody who has captured an honest client's, and sends them where an honest client would not.
package attack

import (
	"crypto/rand"
	"errors"
	mathrand "math/rand/v2"
	"net"
	"os"
	"testing"
	"time"

	"github.com/charon-kdc/charon/kdc/krb5"
	"github.com/charon-kdc/charon/kdc/krb5/client"
	"github.com/charon-kdc/charon/kdc/krb5/kcrypto"
)

// Pair are two TGS-REQs under one authenticator, which differ only outside what its checksum covers.
type Pair struct{ First, Other []byte }

// NewPair makes one with tgt for server, in the ticket's realm.
func NewPair(tgt *client.Credential, server krb5.PrincipalName) (Pair, error) {
	body := krb5.KDCReqBody{
		Realm: tgt.ClientRealm, SName: &server, Till: tgt.EndTime, Nonce: mathrand.Uint32() >> 1,
		EType: []kcrypto.EType{kcrypto.AES256SHA2, kcrypto.AES256SHA1},
	}
	der, err := krb5.EncodeKDCReqBody(&body)
	if err != nil {
		return Pair{}, err
	}
	ap, _, err := krb5.NewAPReq(rand.Reader, time.Now(), tgt.Ticket, tgt.Key, tgt.ClientRealm, tgt.Client, krb5.APReqOptions{TGS: true, Body: der})
	if err != nil {
		return Pair{}, err
	}
	proof := krb5.PAData{PADataType: krb5.PATGSReq, PADataValue: ap}
	more := krb5.PAData{PADataType: -4711, PADataValue: []byte("another request")}
	first, err := krb5.EncodeKDCReq(&krb5.KDCReq{MsgType: krb5.MsgTGSReq, PAData: []krb5.PAData{proof}, ReqBody: body})
	if err != nil {
		return Pair{}, err
	}
	other, err := krb5.EncodeKDCReq(&krb5.KDCReq{MsgType: krb5.MsgTGSReq, PAData: []krb5.PAData{proof, more}, ReqBody: body})
	return Pair{first, other}, err
}

// Silence is what Ask returns when a node did not answer in time: it was dead, or held the request.
const Silence krb5.ErrorCode = -1

// Ask sends one message to one node over UDP, a few times as a client does, and returns the error code, 0 for a ticket.
func Ask(t testing.TB, kdc string, msg []byte) krb5.ErrorCode {
	t.Helper()
	c, err := net.Dial("udp", kdc)
	if err != nil {
		t.Error(err)
		return Silence
	}
	defer c.Close()
	buf := make([]byte, 65536)
	for range 4 {
		if _, err := c.Write(msg); err != nil {
			continue
		}
		c.SetReadDeadline(time.Now().Add(time.Second))
		n, err := c.Read(buf)
		if err != nil {
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				time.Sleep(50 * time.Millisecond) // refused: the node is down
			}
			continue
		}
		if e, err := krb5.DecodeKRBError(buf[:n]); err == nil {
			return e.ErrorCode
		}
		if _, err := krb5.DecodeKDCRep(buf[:n]); err != nil {
			t.Errorf("%s: neither error nor reply: %v", kdc, err)
		}
		return 0
	}
	return Silence
}

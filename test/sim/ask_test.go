package sim

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"fmt"
	"net/netip"
	"time"

	"github.com/charon-kdc/charon/kdc"
	"github.com/charon-kdc/charon/kdc/krb5"
	"github.com/charon-kdc/charon/kdc/krb5/client"
	"github.com/charon-kdc/charon/kdc/krb5/kcrypto"
	"github.com/charon-kdc/charon/node/pki"
)

func staticRoots(a *pki.Authority) func() *x509.CertPool {
	pool := roots(a)
	return func() *x509.CertPool { return pool }
}

// answer is one reply of a node.
type answer struct {
	node string
	data []byte
	// fresh: the node was fresh before it looked at the request.
	fresh bool
	// off is how far its clock was from the true time.
	off time.Duration
	// took is when the node took the request up.
	took time.Time
}

// holdMax is how long a node may hold a request in the simulation.
const holdMax = 12 * time.Second

// ask sends a request to a node by datagram; what comes back goes to replies, which must have room.
func (w *world) ask(n *node, from string, msg []byte, replies chan<- answer) {
	w.net.Send(from, n.ip, func() {
		p := n.process()
		if p == nil || !p.isUp() || !p.serving.Load() {
			return
		}
		a := answer{node: n.name, fresh: p.store.KDB().Fresh(), off: time.Duration(n.offset.Load()), took: time.Now()}
		ctx, cancel := context.WithTimeout(p.ctx, holdMax)
		defer cancel()
		peer := netip.AddrPortFrom(netip.MustParseAddr(from), 40000)
		a.data = p.kdc.Answer(ctx, kdc.Request{Data: msg, Peer: peer, Local: netip.AddrPortFrom(netip.MustParseAddr(n.ip), 88)})
		if a.data == nil || p.dead.Load() {
			return
		}
		w.net.Send(n.ip, from, func() {
			select {
			case replies <- a:
			default:
			}
		})
	})
}

// outcome is what a reply says.
type outcome struct {
	answer
	issued bool
	code   krb5.ErrorCode
	rep    *krb5.KDCRep
	text   string
}

func read(a answer) outcome {
	o := outcome{answer: a}
	if e, err := krb5.DecodeKRBError(a.data); err == nil {
		o.code, o.text = e.ErrorCode, e.EText
		return o
	}
	rep, err := krb5.DecodeKDCRep(a.data)
	if err != nil {
		o.code, o.text = krb5.ErrGeneric, "unreadable: "+err.Error()
		return o
	}
	o.issued, o.rep = true, rep
	return o
}

// fewPasses is how often a client goes through its list of KDCs, as MIT's does.
const fewPasses = 3

// exchange asks one node after the other until one gives a definite answer: MIT's schedule, a second for each, then 2 and 4 s; a reply to an earlier
// packet still counts; KDC_ERR_SVC_UNAVAILABLE moves on at once.
func (w *world) exchange(from string, order []*node, msg []byte) (outcome, bool) {
	replies := make(chan answer, 4*fewPasses*len(order))
	out := outcome{}
	wait := func(d time.Duration) (definite, moveOn bool) {
		t := time.NewTimer(d)
		defer t.Stop()
		for {
			select {
			case a := <-replies:
				o := read(a)
				if o.code == krb5.ErrSvcUnavailable {
					out = o
					return false, true
				}
				out = o
				return true, false
			case <-t.C:
				return false, false
			case <-w.ctx.Done():
				return false, true
			}
		}
	}
	for pass := range fewPasses {
		for _, n := range order {
			w.ask(n, from, msg, replies)
			if ok, _ := wait(time.Second); ok {
				return out, true
			}
		}
		if ok, _ := wait(time.Duration(2<<pass) * time.Second); ok {
			return out, true
		}
	}
	return out, false
}

// asRequest is an AS-REQ with an encrypted timestamp under a password's key.
func (w *world) asRequest(name, password, salt string) []byte {
	return w.asRequestWith(name, w.key(password, salt))
}

func (w *world) asRequestWith(name string, k *kcrypto.Key) []byte {
	pa, err := client.EncTimestamp(rand.Reader, time.Now(), k)
	if err != nil {
		panic(err)
	}
	return w.encode(&krb5.KDCReq{MsgType: krb5.MsgASReq, PAData: []krb5.PAData{pa}, ReqBody: w.asBody(name)})
}

func (w *world) asBody(name string) krb5.KDCReqBody {
	cname, sname := principal(name), krb5.TGSName(realmName)
	return krb5.KDCReqBody{
		CName: &cname, Realm: realmName, SName: &sname, Till: time.Now().Add(8 * time.Hour).UTC().Truncate(time.Second), Nonce: nonce(), EType: []kcrypto.EType{etype},
	}
}

func (w *world) encode(m *krb5.KDCReq) []byte {
	b, err := krb5.EncodeKDCReq(m)
	if err != nil {
		panic(err)
	}
	return b
}

func nonce() uint32 {
	var b [4]byte
	_, _ = rand.Read(b[:])
	return uint32(b[0])<<23 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
}

// openTGT reads an AS-REP.
func (w *world) openTGT(o outcome, k *kcrypto.Key) (*client.Credential, error) {
	part, err := krb5.Open(k, kcrypto.UsageASRepEncPart, o.rep.EncPart, krb5.DecodeEncKDCRepPart)
	if err != nil {
		return nil, err
	}
	return &client.Credential{
		ClientRealm: o.rep.CRealm, Client: o.rep.CName, ServerRealm: part.SRealm, Server: part.SName,
		Ticket: o.rep.Ticket, Key: part.Key, Flags: part.Flags, AuthTime: part.AuthTime, StartTime: part.StartTime, EndTime: part.EndTime,
	}, nil
}

// tgsRequest is a TGS-REQ for a service, with the subkey that its reply comes under.
func (w *world) tgsRequest(tgt *client.Credential, service string) ([]byte, *kcrypto.Key) {
	sname := principal(service)
	body := &krb5.KDCReqBody{
		Realm: realmName, SName: &sname, Till: tgt.EndTime, Nonce: nonce(), EType: []kcrypto.EType{etype},
	}
	subkey, err := kcrypto.GenerateKey(rand.Reader, etype)
	if err != nil {
		panic(err)
	}
	via := &client.Via{Now: time.Now, Rand: rand.Reader}
	msg, err := client.TGSMessage(via, tgt, body, subkey)
	if err != nil {
		panic(err)
	}
	return msg, subkey
}

// otherRequest is another request with the authenticator of one: what an attacker can make of a packet without the session key.
func otherRequest(msg []byte, i int) []byte {
	m, err := krb5.DecodeKDCReq(msg)
	if err != nil {
		panic(err)
	}
	m.PAData = append(m.PAData, krb5.PAData{PADataType: krb5.PAReqEncPARep, PADataValue: []byte(fmt.Sprint(i))})
	b, err := krb5.EncodeKDCReq(m)
	if err != nil {
		panic(err)
	}
	return b
}

// checkTicket holds a service ticket against what may be issued (docs/testing.md, C).
func (w *world) checkTicket(o outcome, user, service string) {
	k := w.key(passwordOf(service), realmName+service)
	part, err := krb5.OpenTicket(k, &o.rep.Ticket)
	switch {
	case err != nil:
		w.violation("C: tickets", "%s: a ticket for %s that its key does not open: %v", o.node, service, err)
	case !part.Flags.Has(krb5.FlagPreAuthent):
		w.violation("C: tickets", "%s: a ticket of %s without pre-authentication", o.node, user)
	case !part.CName.Equal(principal(user)):
		w.violation("C: tickets", "%s: a ticket of %v instead of %s", o.node, part.CName, user)
	case part.EndTime.Sub(part.AuthTime) > 10*time.Hour:
		w.violation("C: tickets", "%s: a ticket for %v", o.node, part.EndTime.Sub(part.AuthTime))
	}
}

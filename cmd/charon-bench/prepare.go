package main

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/charon-kdc/charon/kdc/krb5"
	"github.com/charon-kdc/charon/kdc/krb5/client"
	"github.com/charon-kdc/charon/kdc/krb5/kcrypto"
)

// job is one prepared exchange: its messages are sent one after the other, and the last reply is the one that counts.
type job struct {
	messages [][]byte
	nonce    uint32
	user     int          // index of the client's key (AS) or TGT (TGS)
	service  int          // TGS: index of the service
	subkey   *kcrypto.Key // TGS: what the reply is sealed with; nil for an AS exchange
}

// preparer makes jobs. No two have the same bytes, proof or nonce, so that no cache of a KDC can answer for it.
type preparer struct {
	o     *options
	users []user
	tgts  []*client.Credential
	made  int
}

func newPreparer(ctx context.Context, o *options, progress io.Writer) (*preparer, error) {
	p := &preparer{o: o}
	var err error
	if p.users, err = loadUsers(o, progress); err != nil {
		return nil, err
	}
	if o.mode == "tgs" || o.mode == "mixed" {
		p.tgts, err = login(ctx, o, p.users, progress)
	}
	return p, err
}

// prepare makes n jobs on every processor.
func (p *preparer) prepare(n int) ([]job, error) {
	jobs := make([]job, n)
	first := p.made
	p.made += n
	err := parallel(n, func(i int) (err error) {
		k := first + i
		switch {
		case p.o.mode == "tgs", p.o.mode == "mixed" && k*37%100 >= p.o.mix:
			jobs[i], err = p.tgs(k)
		default:
			jobs[i], err = p.as(k, p.o.mode == "kinit")
		}
		return err
	})
	return jobs, err
}

// as is an AS exchange of the k-th user in turn; twice makes the refused request that a client begins with, too.
func (p *preparer) as(k int, twice bool) (job, error) {
	j := job{user: k % len(p.users)}
	u := p.users[j.user]
	server := krb5.TGSName(p.o.realm)
	req := krb5.KDCReq{MsgType: krb5.MsgASReq, ReqBody: krb5.KDCReqBody{
		KDCOptions: krb5.KDCOptRenewableOK, CName: &u.name, Realm: p.o.realm, SName: &server,
		Till: time.Now().UTC().Truncate(time.Second).Add(24 * time.Hour), EType: []kcrypto.EType{p.o.etype},
	}}
	for _, proven := range []bool{false, true} {
		if !proven && !twice {
			continue
		}
		req.ReqBody.Nonce = nonce()
		if proven {
			pa, err := client.EncTimestamp(rand.Reader, time.Now(), u.key)
			if err != nil {
				return j, err
			}
			req.PAData = []krb5.PAData{pa}
		}
		m, err := krb5.EncodeKDCReq(&req)
		if err != nil {
			return j, err
		}
		j.messages = append(j.messages, m)
	}
	j.nonce = req.ReqBody.Nonce
	return j, nil
}

// tgs is a TGS exchange with an authenticator and a subkey of its own, as MIT's clients make it.
func (p *preparer) tgs(k int) (job, error) {
	j := job{user: k % len(p.tgts), service: k % len(p.o.services), nonce: nonce()}
	tgt := p.tgts[j.user]
	var err error
	if j.subkey, err = kcrypto.GenerateKey(rand.Reader, p.o.etype); err != nil {
		return j, err
	}
	body := krb5.KDCReqBody{Realm: p.o.realm, SName: &p.o.services[j.service], Till: tgt.EndTime, Nonce: j.nonce, EType: []kcrypto.EType{p.o.etype}}
	m, err := client.TGSMessage(&client.Via{}, tgt, &body, j.subkey)
	j.messages = [][]byte{m}
	return j, err
}

func nonce() uint32 {
	var b [4]byte
	rand.Read(b[:])
	return binary.BigEndian.Uint32(b[:]) & 0x7fffffff
}

// check opens the replies that a turn kept.
func (p *preparer) check(t *turn, r *report) {
	for _, s := range t.samples {
		err := p.open(s)
		r.Checked++
		if err != nil {
			if r.Bad == 0 {
				r.FirstBad = err.Error()
			}
			r.Bad++
		}
	}
}

// open tells whether a reply is what its request asked for: it opens with the right key, and has its nonce, names and enctype.
func (p *preparer) open(s sample) error {
	rep, part, err := p.unseal(s)
	if err != nil {
		return err
	}
	client, server := p.users[s.job.user].name, krb5.TGSName(p.o.realm)
	if s.job.subkey != nil {
		client, server = p.tgts[s.job.user].Client, p.o.services[s.job.service]
	}
	switch {
	case part.Nonce != s.job.nonce:
		return errors.New("the nonce is another request's")
	case !rep.CName.Equal(client) || rep.CRealm != p.o.realm:
		return fmt.Errorf("the client is %s, not %s", rep.CName, client)
	case !part.SName.Equal(server) || !rep.Ticket.SName.Equal(server):
		return fmt.Errorf("the server is %s, not %s", part.SName, server)
	case part.Key.EType() != p.o.etype:
		return fmt.Errorf("the session key is of %v, not %v", part.Key.EType(), p.o.etype)
	}
	return nil
}

func (p *preparer) unseal(s sample) (*krb5.KDCRep, *krb5.EncKDCRepPart, error) {
	if s.job.subkey != nil {
		return client.OpenTGSReply(s.reply, nil, s.job.subkey)
	}
	rep, err := krb5.DecodeKDCRep(s.reply)
	if err != nil {
		return nil, nil, err
	}
	part, err := krb5.Open(p.users[s.job.user].key, kcrypto.UsageASRepEncPart, rep.EncPart, krb5.DecodeEncKDCRepPart)
	return rep, part, err
}

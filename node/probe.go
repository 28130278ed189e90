package node

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/charon-kdc/charon/kdc/kdb"
	"github.com/charon-kdc/charon/kdc/krb5"
	"github.com/charon-kdc/charon/kdc/krb5/kcrypto"
)

// prober asks this node's own port 88 for a ticket, as a client would: UDP, AS-REQ, and the reply opened with the probe
// principal's key. So it goes through socket, database, master key and encryption.
type prober struct {
	store kdb.Store
	realm func() (string, error)
	addr  netip.AddrPort // a KDC address of this node
	now   func() time.Time

	// from is the address that probes come from: they are neither counted nor audited.
	from atomic.Pointer[netip.AddrPort]
	conn *net.UDPConn
}

// probePadding is a padata-type that nobody uses; a KDC ignores what it does not know (RFC 4120 section 5.2.7).
const probePadding krb5.PADataType = -0x43686172

// reachableHere is where a node finds its own wildcard address.
func reachableHere(a netip.AddrPort) netip.AddrPort {
	if !a.Addr().IsUnspecified() {
		return a
	}
	if a.Addr().Is4() {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), a.Port())
	}
	return netip.AddrPortFrom(netip.IPv6Loopback(), a.Port())
}

// own tells whether a request is this prober's.
func (p *prober) own(peer netip.AddrPort) bool {
	f := p.from.Load()
	return f != nil && peer.Port() == f.Port() && peer.Addr().Unmap() == f.Addr()
}

// probe makes one exchange within ctx.
func (p *prober) probe(ctx context.Context) error {
	realm, err := p.realm()
	if err != nil {
		return errors.New("this node has no realm yet")
	}
	if err := p.dial(); err != nil {
		return err
	}
	req, nonce, err := p.request(realm)
	if err != nil {
		return err
	}
	deadline, _ := ctx.Deadline()
	if err := p.conn.SetDeadline(deadline); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = p.conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if _, err := p.conn.Write(req); err != nil {
		return fmt.Errorf("own KDC: %w", err)
	}
	buf := make([]byte, 8192)
	for {
		n, err := p.conn.Read(buf)
		if err != nil {
			return fmt.Errorf("own KDC does not answer: %w", err)
		}
		mine, err := p.check(realm, buf[:n], nonce)
		if mine || err != nil {
			return err
		}
	}
}

func (p *prober) dial() error {
	if p.conn != nil {
		return nil
	}
	c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(p.addr))
	if err != nil {
		return fmt.Errorf("own KDC: %w", err)
	}
	local := c.LocalAddr().(*net.UDPAddr).AddrPort()
	local = netip.AddrPortFrom(local.Addr().Unmap(), local.Port())
	p.from.Store(&local)
	p.conn = c
	return nil
}

func (p *prober) close() {
	if p.conn != nil {
		p.conn.Close()
	}
}

func (p *prober) request(realm string) (der []byte, nonce uint32, err error) {
	var n [4]byte
	if _, err := rand.Read(n[:]); err != nil {
		return nil, 0, err
	}
	nonce = binary.BigEndian.Uint32(n[:]) & 0x7fffffff
	cname, sname := probeName(realm), krb5.TGSName(realm)
	// A reply to somebody who has proved nothing is at most three times the request: padding makes room for a ticket.
	padding := []krb5.PAData{{PADataType: probePadding, PADataValue: make([]byte, 256)}}
	der, err = krb5.EncodeKDCReq(&krb5.KDCReq{MsgType: krb5.MsgASReq, PAData: padding, ReqBody: krb5.KDCReqBody{
		CName: &cname, Realm: realm, SName: &sname, Till: p.now().Add(probeLife).UTC().Truncate(time.Second), Nonce: nonce,
		EType: DefaultETypes,
	}})
	return der, nonce, err
}

// check opens a reply. mine is false for a late reply to an earlier probe.
func (p *prober) check(realm string, b []byte, nonce uint32) (mine bool, err error) {
	rep, err := krb5.DecodeKDCRep(b)
	if err != nil {
		if e, kerr := krb5.DecodeKRBError(b); kerr == nil {
			return true, fmt.Errorf("own KDC says %v", e.ErrorCode)
		}
		return true, errors.New("own KDC sends what is no reply")
	}
	client, err := p.store.Principal(realm, probeName(realm))
	if err != nil {
		return true, fmt.Errorf("looking up %s: %w", probeName(realm), err)
	}
	key, ok := client.CurrentKey(rep.EncPart.EType)
	if !ok {
		return true, errors.New("own KDC uses a key that the probe does not have")
	}
	plain, err := key.Decrypt(kcrypto.UsageASRepEncPart, rep.EncPart.Cipher)
	if err != nil {
		return true, errors.New("own KDC's reply does not open")
	}
	part, err := krb5.DecodeEncKDCRepPart(plain)
	if err != nil {
		return true, errors.New("own KDC's reply can't be read")
	}
	return part.Nonce == nonce, nil
}

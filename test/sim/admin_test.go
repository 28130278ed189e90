package sim

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	mrand "math/rand/v2"
	"net"
	"sync"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"github.com/charon-kdc/charon/kdc/krb5"
	charon "github.com/charon-kdc/charon/node"
	adminv1 "github.com/charon-kdc/charon/proto/charon/admin/v1"
)

const (
	pairs      = 5 // pairs of names that writers change; the last ones have no renames and are logged in to
	loginPairs = 2
	callLimit  = 8 * time.Second
)

func pairName(p, i int) string { return fmt.Sprintf("p%d%c", p, 'a'+i) }

// desk is where admin clients work from: connections to the nodes, and the history of what was done.
type desk struct {
	w  *world
	ip string

	connsMu sync.Mutex
	conns   map[string]*grpc.ClientConn

	mu      sync.Mutex
	history [pairs]*history
	// passwords by name: every password that a call tried to set.
	passwords map[string][]*password
	logins    []login
	serial    int
	writes    int // acknowledged
}

// password is one that a call has set, or may have.
type password struct {
	text, mark string
	kvno       uint32 // 0: not known
	call, ret  time.Time
	// done: acknowledged; never: certainly not set.
	done, never bool
	// gone: not a password but the end of the principal of that name.
	gone bool
}

func (w *world) newDesk() *desk {
	d := &desk{w: w, ip: "10.0.3.1", conns: map[string]*grpc.ClientConn{}, passwords: map[string][]*password{}}
	for i := range d.history {
		d.history[i] = &history{pair: i}
	}
	return d
}

func (d *desk) close() {
	d.connsMu.Lock()
	defer d.connsMu.Unlock()
	for _, c := range d.conns {
		c.Close()
	}
}

// conn to a node's admin port.
func (d *desk) conn(n *nodeRef) (*grpc.ClientConn, error) {
	d.connsMu.Lock()
	defer d.connsMu.Unlock()
	if c := d.conns[n.addr]; c != nil {
		return c, nil
	}
	stack := d.w.net.Client(d.ip)
	c, err := grpc.NewClient("passthrough:///"+n.addr,
		grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{
			MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{d.w.admin}, NextProtos: []string{"h2"},
			InsecureSkipVerify: true, // nodes are named by id; whom the client talks to is not what is simulated
		})),
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) { return stack.Dial(ctx, addr) }),
		grpc.WithIdleTimeout(0), grpc.WithDisableServiceConfig(),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff: backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, MaxDelay: time.Second}, MinConnectTimeout: 2 * time.Second,
		}))
	if err == nil {
		d.conns[n.addr] = c
	}
	return c, err
}

func (d *desk) drop(addr string) {
	d.connsMu.Lock()
	defer d.connsMu.Unlock()
	if c := d.conns[addr]; c != nil {
		c.Close()
		delete(d.conns, addr)
	}
}

type nodeRef struct{ name, addr string }

// reason is the ErrorInfo that the API put into an error.
func reason(err error) (why, outcome string) {
	st, ok := status.FromError(err)
	if !ok {
		return "", ""
	}
	for _, x := range st.Details() {
		if info, ok := x.(*errdetails.ErrorInfo); ok && info.GetDomain() == "charon" {
			return info.GetReason(), info.GetMetadata()["outcome"]
		}
	}
	return "", ""
}

// definite: the leader decided, knowing what became of earlier tries with the request id.
func definite(err error) bool {
	why, _ := reason(err)
	if why == "" {
		return false
	}
	switch status.Code(err) {
	case codes.NotFound, codes.AlreadyExists, codes.Aborted, codes.FailedPrecondition, codes.InvalidArgument:
		return true
	}
	return false
}

// call is one logical operation: tried at one node after the other with one request id, by the rules of the client library, until it is decided
// or the limit is reached. A read may be tried again as it likes.
func (d *desk) call(r *mrand.Rand, limit time.Duration, write bool, do func(ctx context.Context, cc *grpc.ClientConn) error) (err error, unknown bool) {
	ctx, cancel := context.WithTimeout(d.w.ctx, limit)
	defer cancel()
	for wait := 50 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		n := pick(r, d.w.members())
		cc, cerr := d.conn(&nodeRef{n.name, n.adminAddr()})
		if cerr != nil {
			return cerr, unknown
		}
		once, stop := context.WithTimeout(ctx, min(limit/2, 5*time.Second))
		err = do(once, cc)
		stop()
		if why, _ := reason(err); err != nil && why == "" {
			d.drop(n.adminAddr()) // perhaps a connection that is half-open
		}
		if err == nil || definite(err) {
			return err, false
		}
		if _, outcome := reason(err); outcome != "not_applied" {
			unknown = unknown || write
		}
		select {
		case <-ctx.Done():
			return err, unknown
		case <-time.After(wait):
		}
	}
}

// says makes an output of an error.
func says(err error, unknown bool) string {
	switch {
	case err == nil:
		return saysOK
	case unknown:
		return saysUnknown
	case status.Code(err) == codes.NotFound:
		return saysNotFound
	case status.Code(err) == codes.AlreadyExists:
		return saysExists
	}
	return saysRefused
}

// writer does operations until stop closes; what is unknown then is asked again until it is known.
func (d *desk) writer(client int, r *mrand.Rand, stop <-chan struct{}) {
	for {
		t := time.NewTimer(time.Duration(100+r.IntN(1000)) * time.Millisecond)
		select {
		case <-stop:
			t.Stop()
			return
		case <-t.C:
		}
		p := r.IntN(pairs)
		in := input{verb: pick(r, []string{opCreate, opPassword, opPassword, opUpdate, opUpdate, opGet, opGet, opRename, opDelete}), name: r.IntN(2)}
		if p >= pairs-loginPairs {
			in = input{verb: pick(r, []string{opPassword, opPassword, opPassword, opGet, opUpdate, opCreate})}
		}
		d.do(client, r, p, in)
	}
}

// do is one operation with its place in the history.
func (d *desk) do(client int, r *mrand.Rand, p int, in input) output {
	d.mu.Lock()
	d.serial++
	in.mark = fmt.Sprintf("m%d", d.serial)
	d.mu.Unlock()
	name, id := pairName(p, in.name), charon.NewRequestID(time.Now())
	var pw *password
	if in.verb == opPassword || in.verb == opCreate {
		pw = d.trying(name, in.mark, false)
	}
	if in.verb == opDelete || in.verb == opRename {
		pw = d.trying(name, "", true)
	}
	call := time.Now()
	out := output{}
	op := d.operation(name, in, id[:], pw, &out)
	limit := callLimit
	if client >= writers {
		limit = time.Minute // the checks
	}
	if client < writers && r.IntN(4) == 0 {
		limit = 1500 * time.Millisecond // an impatient one
	}
	err, unknown := d.call(r, limit, in.verb != opGet, op)
	out.says = says(err, unknown)
	if out.says == saysUnknown && r.IntN(8) > 0 {
		// The same request id again tells what became of it: as soon as a node answers.
		err, unknown = d.call(r, time.Minute, true, op)
		if out.says = says(err, unknown); err != nil && !unknown && !definite(err) {
			out.says = saysUnknown
		}
	}
	ret := time.Now()
	d.mu.Lock()
	defer d.mu.Unlock()
	if pw != nil {
		pw.call, pw.ret, pw.done, pw.kvno = call, ret, out.says == saysOK, out.kvno
		pw.never = out.says != saysOK && out.says != saysUnknown
	}
	if in.verb == opGet && (out.says == saysRefused || out.says == saysUnknown) {
		return out // a read that nobody answered
	}
	d.history[p].add(client, in, out, call, ret)
	if out.says == saysOK && in.verb != opGet {
		d.writes++
		d.w.rep.count("acknowledged writes")
	}
	return out
}

func (d *desk) trying(name, mark string, gone bool) *password {
	d.mu.Lock()
	defer d.mu.Unlock()
	pw := &password{text: fmt.Sprintf("%s%s-%s", canary, name, mark), mark: mark, call: time.Now(), gone: gone}
	d.passwords[name] = append(d.passwords[name], pw)
	return pw
}

// operation is the call of the API for one input.
func (d *desk) operation(name string, in input, id []byte, pw *password, out *output) func(context.Context, *grpc.ClientConn) error {
	fill := func(p *adminv1.Principal) { out.kvno, out.mark = p.GetKvno(), p.GetStrings()["mark"] }
	return func(ctx context.Context, cc *grpc.ClientConn) error {
		*out = output{}
		c := adminv1.NewPrincipalsClient(cc)
		switch in.verb {
		case opCreate:
			resp, err := c.CreatePrincipal(ctx, &adminv1.CreatePrincipalRequest{
				RequestId: id, Name: name, NoPolicy: true, Keys: withPassword(pw.text), Strings: map[string]string{"mark": in.mark},
			})
			fill(resp.GetPrincipal())
			return err
		case opDelete:
			_, err := c.DeletePrincipal(ctx, &adminv1.DeletePrincipalRequest{RequestId: id, Name: name})
			return err
		case opPassword:
			resp, err := c.SetPassword(ctx, &adminv1.SetPasswordRequest{RequestId: id, Name: name, Keys: withPassword(pw.text)})
			out.kvno = resp.GetKvno()
			return err
		case opUpdate:
			resp, err := c.UpdatePrincipal(ctx, &adminv1.UpdatePrincipalRequest{RequestId: id, Name: name, SetStrings: map[string]string{"mark": in.mark}})
			fill(resp.GetPrincipal())
			return err
		case opRename:
			other := name[:len(name)-1] + string('a'+'b'-name[len(name)-1])
			resp, err := c.RenamePrincipal(ctx, &adminv1.RenamePrincipalRequest{RequestId: id, Name: name, NewName: other})
			fill(resp.GetPrincipal())
			return err
		case opGet:
			resp, err := c.GetPrincipal(ctx, &adminv1.GetPrincipalRequest{Name: name})
			fill(resp.GetPrincipal())
			return err
		}
		return errors.New("no such verb")
	}
}

func withPassword(text string) *adminv1.NewKeys {
	return &adminv1.NewKeys{Source: &adminv1.NewKeys_Password{Password: text}}
}

// login is one try with a password that somebody set or may have set.
type login struct {
	name string
	pw   *password
	sent time.Time
	end  time.Time
	outcome
}

// loginer logs in as the principals whose passwords change, with new and old passwords, at any node.
func (d *desk) loginer(i int, r *mrand.Rand, stop <-chan struct{}) {
	from := fmt.Sprintf("10.0.4.%d", i+1)
	for {
		t := time.NewTimer(time.Duration(50+r.IntN(400)) * time.Millisecond)
		select {
		case <-stop:
			t.Stop()
			return
		case <-t.C:
		}
		name := pairName(pairs-1-r.IntN(loginPairs), 0)
		d.mu.Lock()
		list := d.passwords[name]
		if len(list) == 0 {
			d.mu.Unlock()
			continue
		}
		pw := list[len(list)-1-min(len(list)-1, r.IntN(4))]
		d.mu.Unlock()
		d.tryLogin(from, name, pw, d.w.members(), r)
	}
}

// tryLogin sends one request to one node, and notes what it says.
func (d *desk) tryLogin(from, name string, pw *password, nodes []*node, r *mrand.Rand) {
	if pw.gone {
		return
	}
	w := d.w
	replies := make(chan answer, 2)
	l := login{name: name, pw: pw, sent: time.Now()}
	w.ask(pick(r, nodes), from, w.asRequest(name, pw.text, realmName+name), replies)
	t := time.NewTimer(5 * time.Second)
	defer t.Stop()
	select {
	case a := <-replies:
		l.outcome, l.end = read(a), time.Now()
	case <-t.C:
		return
	case <-w.ctx.Done():
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.logins = append(d.logins, l)
}

// judgeLogins holds what nodes said against what was acknowledged (docs/testing.md, D).
func (d *desk) judgeLogins() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, l := range d.logins {
		switch {
		case l.issued && l.fresh:
			for _, o := range d.passwords[l.name] {
				if o != l.pw && o.done && l.pw.done && o.call.After(l.pw.ret) && o.ret.Before(l.took) {
					d.w.violation("D: passwords", "%s took %s for %s at %s, although %s had been acknowledged at %s", l.node, l.pw, l.name, stamp(l.took), o, stamp(o.ret))
					return
				}
			}
		case l.code == krb5.ErrPreauthFailed || l.code == krb5.ErrCPrincipalUnknown:
			if !l.pw.done || !l.pw.ret.Before(l.sent) {
				continue
			}
			sure := true
			for _, o := range d.passwords[l.name] {
				if o != l.pw && !o.never && !(o.done && o.ret.Before(l.pw.call)) && o.call.Before(l.end) {
					sure = false
				}
			}
			if sure {
				d.w.violation("D: passwords", "%s refused %s for %s at %s (code %d), which had been acknowledged at %s and nobody changed since",
					l.node, l.pw, l.name, stamp(l.took), l.code, stamp(l.pw.ret))
				return
			}
		}
		d.w.rep.count("logins judged")
	}
	d.logins = d.logins[:0]
	// What was set long ago can't be mistaken for anything any more.
	for name, list := range d.passwords {
		if len(list) > 12 {
			d.passwords[name] = append(list[:0:0], list[len(list)-12:]...)
		}
	}
}

func (p *password) String() string {
	if p.gone {
		return "the end of it"
	}
	return p.text[len(canary):]
}

func stamp(t time.Time) string { return t.UTC().Format("15:04:05.000") }

package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/charon-kdc/charon/kdc/krb5"
	"github.com/charon-kdc/charon/kdc/krb5/client"
	"github.com/charon-kdc/charon/kdc/krb5/kcrypto"
	"github.com/charon-kdc/charon/kdc/krb5/keytab"
	"github.com/charon-kdc/charon/node"
	adminv1 "github.com/charon-kdc/charon/proto/charon/admin/v1"
)

const (
	demoRealm    = "DEMO.CHARON"
	demoUser     = "alice"
	demoPassword = "styx and stones"
	demoService  = "HTTP/web"
	demoSkew     = 5 * time.Minute
)

func newDemoCommand() *cobra.Command {
	var keep bool
	c := &cobra.Command{
		Use:    "demo",
		Short:  "three nodes, tickets, a replay refused, the leader killed: what make demo runs",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			d, err := newDemo(cmd, keep)
			if err == nil {
				err = d.run(cmd.Context())
			}
			return errors.Join(err, d.end(context.WithoutCancel(cmd.Context()), err == nil))
		},
	}
	c.Flags().BoolVar(&keep, "keep", false, "leave the realm running, and print how to use it")
	return c
}

// demo measures what it prints: nothing in it is told that did not happen.
type demo struct {
	out    io.Writer
	keep   bool
	realm  *devRealm
	nodes  *processes
	leader int
	others []int // followers
	tgt    *client.Credential
}

func newDemo(cmd *cobra.Command, keep bool) (*demo, error) {
	d := &demo{out: cmd.OutOrStdout(), keep: keep, nodes: newProcesses(keep)}
	dir, err := os.MkdirTemp("", "charon-demo-")
	if err != nil {
		return d, err
	}
	o := &devOptions{nodes: 3, realm: demoRealm, principals: []string{demoUser + "=" + demoPassword}, services: []string{demoService}}
	d.realm, err = o.make(cmd.Context(), dir, d.nodes)
	if err != nil {
		err = errors.Join(err, d.realm.keepLogs(cmd.ErrOrStderr()))
	}
	return d, err
}

func (d *demo) run(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	for _, step := range []func(context.Context) error{d.introduce, d.kinit, d.kvno, d.kill, d.write} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

// end leaves nothing behind, or says what it leaves.
func (d *demo) end(ctx context.Context, good bool) error {
	if d.realm == nil {
		return d.nodes.stopAll()
	}
	if d.keep && good {
		for i := range d.realm.Nodes {
			if _, running := node.RunningPID(d.realm.Nodes[i].Dir); !running {
				if err := d.nodes.start(&d.realm.Nodes[i]); err != nil {
					return err
				}
			}
		}
		if err := d.realm.save(); err != nil {
			return err
		}
		fmt.Fprintf(d.out, "all good. The realm runs on, all three nodes; %s's password is %q:\n", demoUser, demoPassword)
		fmt.Fprintf(d.out, "  export KRB5_CONFIG=%s\n  export CHARON_ADDR=%s\n  kinit %s && klist -e\n  %s status\nEnd it:  %s dev stop --rm %s\n",
			d.realm.KRB5Conf, d.realm.Admin, demoUser, os.Args[0], os.Args[0], d.realm.Dir)
		return nil
	}
	err := errors.Join(d.nodes.stopAll(), os.RemoveAll(d.realm.Dir))
	if err == nil && good {
		fmt.Fprintln(d.out, "all good. Try it by hand:  make demo KEEP=1   (prints the KRB5_CONFIG to use)")
	}
	return err
}

func (d *demo) introduce(ctx context.Context) error {
	var err error
	if d.leader, err = d.findLeader(ctx, -1); err != nil {
		return err
	}
	d.others = nil
	text := "three nodes on loopback: "
	for i, n := range d.realm.Nodes {
		if i > 0 {
			text += ", "
		}
		text += n.Name
		if i == d.leader {
			text += " leader"
		} else {
			d.others = append(d.others, i)
		}
	}
	fmt.Fprintf(d.out, "%-51s realm %s\n", text, d.realm.Realm)
	return nil
}

// findLeader asks every node but one until one says that it leads.
func (d *demo) findLeader(ctx context.Context, but int) (int, error) {
	for {
		for i := range d.realm.Nodes {
			if i == but {
				continue
			}
			if ok, _ := d.realm.Nodes[i].ready(ctx, "?role=leader"); ok {
				return i, nil
			}
		}
		select {
		case <-ctx.Done():
			return 0, fmt.Errorf("waiting for a leader: %w", ctx.Err())
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// line is one exchange: what, ticket, enctype, life, node, time.
func (d *demo) line(what, server, etype, life, at string, took time.Duration) {
	fmt.Fprintf(d.out, "%-21s %-19s %-12s %-17s %-4s %5.1f ms\n", what, server, etype, life, at, float64(took.Microseconds())/1000)
}

func (d *demo) login(ctx context.Context, user, password string, kdcs ...string) (*client.Credential, error) {
	return client.AS(ctx, client.ASRequest{
		Via: client.Via{KDCs: kdcs}, Realm: d.realm.Realm, Client: krb5.MkName(krb5.NTPrincipal, user), Secret: client.Password(password),
	})
}

func (d *demo) kinit(ctx context.Context) error {
	n := d.realm.Nodes[d.others[0]]
	begun := time.Now()
	var err error
	if d.tgt, err = d.login(ctx, demoUser, demoPassword, n.KDC); err != nil {
		return err
	}
	d.line("kinit "+demoUser, d.tgt.Server.String(), d.tgt.Ticket.EncPart.EType.Short(), "valid "+hours(d.tgt.EndTime.Sub(d.tgt.AuthTime)), n.Name, time.Since(begun))
	return nil
}

func hours(life time.Duration) string { return fmt.Sprintf("%g h", life.Hours()) }

// kvno gets a service ticket, uses it, and then plays a thief who has seen the request go by.
func (d *demo) kvno(ctx context.Context) error {
	n := d.realm.Nodes[d.others[1]]
	sname := krb5.MkName(krb5.NTSrvInst, "HTTP", "web")
	subkey, err := kcrypto.GenerateKey(rand.Reader, d.tgt.Key.EType())
	if err != nil {
		return err
	}
	body := &krb5.KDCReqBody{Realm: d.realm.Realm, SName: &sname, Till: d.tgt.EndTime, Nonce: uint32(time.Now().UnixNano() & 0x7fffffff), EType: client.DefaultETypes}
	msg, err := client.TGSMessage(&client.Via{}, d.tgt, body, subkey)
	if err != nil {
		return err
	}
	begun := time.Now()
	reply, _, err := client.Exchange(ctx, []string{n.KDC}, msg, client.ExchangeOptions{})
	if err != nil {
		return err
	}
	rep, part, err := client.OpenTGSReply(reply, d.tgt.Key, subkey)
	if err != nil {
		if e, kerr := krb5.DecodeKRBError(reply); kerr == nil {
			return fmt.Errorf("kvno %s at %s: %v %s", demoService, n.Name, e.ErrorCode, e.EText)
		}
		return err
	}
	d.line("kvno "+demoService, part.SName.String(), rep.Ticket.EncPart.EType.Short(), "", n.Name, time.Since(begun))
	if err := d.apExchange(rep.Ticket, part.Key); err != nil {
		return err
	}
	return d.replay(ctx, msg)
}

// apExchange is RFC 4120 section 3.2 with mutual authentication, the service's half from its keytab.
func (d *demo) apExchange(ticket krb5.Ticket, session *kcrypto.Key) error {
	kt, err := keytab.Read(d.realm.serviceKeytab(demoService))
	if err != nil {
		return err
	}
	now := time.Now()
	req, auth, err := krb5.NewAPReq(rand.Reader, now, ticket, session, d.tgt.ClientRealm, d.tgt.Client, krb5.APReqOptions{Options: krb5.APOptMutualRequired})
	if err != nil {
		return err
	}
	accepted, err := krb5.AcceptAPReq(req, func(realm string, sname krb5.PrincipalName, kvno uint32, etype kcrypto.EType) (*kcrypto.Key, error) {
		key, _, ok := kt.Find(realm, sname, kvno, etype)
		if !ok {
			return nil, fmt.Errorf("no key of %v in the keytab", sname)
		}
		return key, nil
	}, now, demoSkew)
	if err != nil {
		return fmt.Errorf("the service refuses its ticket: %w", err)
	}
	if name, _ := accepted.Client(); !name.Equal(d.tgt.Client) {
		return fmt.Errorf("the service sees %v", name)
	}
	rep, err := accepted.Rep(rand.Reader, krb5.APRepOptions{})
	if err != nil {
		return err
	}
	if _, err := krb5.VerifyAPRep(rep, session, auth); err != nil {
		return fmt.Errorf("the client refuses the service: %w", err)
	}
	fmt.Fprintf(d.out, "AP exchange %-9s client proved, server proved (mutual)\n", demoService)
	return nil
}

// replay sends the authenticator of msg in a request of other bytes to another node. The body, over which the authenticator's
// checksum runs, is the same: it is the shared replay cache alone that can tell.
func (d *demo) replay(ctx context.Context, msg []byte) error {
	req, err := krb5.DecodeKDCReq(msg)
	if err != nil {
		return err
	}
	const unknownPAData krb5.PADataType = -1
	copied, err := krb5.EncodeKDCReq(&krb5.KDCReq{MsgType: req.MsgType, PAData: append(req.PAData, krb5.PAData{PADataType: unknownPAData}), ReqBody: req.ReqBody})
	if err != nil {
		return err
	}
	n := d.realm.Nodes[d.leader]
	reply, _, err := client.Exchange(ctx, []string{n.KDC}, copied, client.ExchangeOptions{})
	if err != nil {
		return err
	}
	e, err := krb5.DecodeKRBError(reply)
	if err != nil {
		return fmt.Errorf("a replayed authenticator got a ticket at %s", n.Name)
	}
	if e.ErrorCode != krb5.ErrRepeat {
		return fmt.Errorf("a replayed authenticator got %v at %s", e.ErrorCode, n.Name)
	}
	fmt.Fprintf(d.out, "%-74s refused\n", fmt.Sprintf("replay of that TGS-REQ's authenticator at %s:  %v", n.Name, e.ErrorCode))
	return nil
}

// kill ends the leader without warning, and logs in all the while.
func (d *demo) kill(ctx context.Context) error {
	dead := d.realm.Nodes[d.leader]
	fmt.Fprintf(d.out, "kill -9 %s (the leader)\n", dead.Name)
	if err := syscall.Kill(dead.PID, syscall.SIGKILL); err != nil {
		return fmt.Errorf("killing %s: %w", dead.Name, err)
	}
	begun := time.Now()
	logins := d.loginLoops(ctx)
	leader, err := d.findLeader(ctx, d.leader)
	took := time.Since(begun)
	good, all, failure := logins()
	if err != nil {
		return err
	}
	fmt.Fprintf(d.out, "  new leader %s after %.1f s; kinit during the election: %d of %d ok\n", d.realm.Nodes[leader].Name, took.Seconds(), good, all)
	if good != all || all == 0 {
		return fmt.Errorf("%d of %d logins failed while the nodes elected a leader, one with: %w", all-good, all, failure)
	}
	d.others = []int{3 - d.leader - leader} // the other survivor
	d.leader = leader
	return nil
}

// loginLoops log in again and again, one loop for each node that is asked first, the dead one included. What it returns ends them and
// counts.
func (d *demo) loginLoops(ctx context.Context) (end func() (good, all int, failure error)) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	var good, all int
	var failure error
	stop := make(chan struct{})
	for first := range d.realm.Nodes {
		var kdcs []string
		for k := range d.realm.Nodes {
			kdcs = append(kdcs, d.realm.Nodes[(first+k)%len(d.realm.Nodes)].KDC)
		}
		wg.Go(func() {
			for {
				_, err := d.login(ctx, demoUser, demoPassword, kdcs...)
				mu.Lock()
				all++
				if err == nil {
					good++
				} else {
					failure = err
				}
				mu.Unlock()
				select {
				case <-stop:
					return
				case <-time.After(20 * time.Millisecond):
				}
			}
		})
	}
	return func() (int, int, error) {
		close(stop)
		wg.Wait()
		return good, all, failure
	}
}

// write adds a principal on the new leader, finds it in the other node's own state, and logs in as it there.
func (d *demo) write(ctx context.Context) error {
	const user, password = "bob", "the river again"
	at, other := d.realm.Nodes[d.leader], d.realm.Nodes[d.others[0]]
	cc, err := dialSocket(at.Dir + "/admin.sock")
	if err != nil {
		return err
	}
	defer cc.Close()
	id := node.NewRequestID(time.Now())
	if _, err := adminv1.NewPrincipalsClient(cc).CreatePrincipal(ctx, &adminv1.CreatePrincipalRequest{
		RequestId: id[:], Name: user, Keys: &adminv1.NewKeys{Source: &adminv1.NewKeys_Password{Password: password}},
	}); err != nil {
		return fmt.Errorf("adding a principal on %s: %w", at.Name, err)
	}
	there, err := dialSocket(other.Dir + "/admin.sock")
	if err != nil {
		return err
	}
	defer there.Close()
	for {
		_, err := adminv1.NewPrincipalsClient(there).GetPrincipal(ctx, &adminv1.GetPrincipalRequest{Name: user, Consistency: adminv1.Consistency_CONSISTENCY_LOCAL})
		if err == nil {
			break
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the new principal does not show on %s: %w", other.Name, err)
		case <-time.After(5 * time.Millisecond):
		}
	}
	if _, err := d.login(ctx, user, password, other.KDC); err != nil {
		return fmt.Errorf("logging in as the new principal at %s: %w", other.Name, err)
	}
	fmt.Fprintf(d.out, "%-51s ok\n", fmt.Sprintf("principal added on the new leader, visible on %s", other.Name))
	return nil
}

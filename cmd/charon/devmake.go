package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/charon-kdc/charon/adminapi/jointoken"
	"github.com/charon-kdc/charon/kdc/krb5"
	"github.com/charon-kdc/charon/kdc/krb5/kcrypto"
	"github.com/charon-kdc/charon/kdc/krb5/keytab"
	"github.com/charon-kdc/charon/node"
	adminv1 "github.com/charon-kdc/charon/proto/charon/admin/v1"
	"google.golang.org/grpc"
)

// devDeadline bounds how long a throw-away realm may take to come up.
const devDeadline = 60 * time.Second

// make makes the realm and leaves its nodes running. After an error the caller stops them; d may be nil.
func (o *devOptions) make(ctx context.Context, dir string, nodes *processes) (d *devRealm, err error) {
	ctx, cancel := context.WithTimeout(ctx, devDeadline)
	defer cancel()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	d = &devRealm{Dir: dir, Realm: o.realm, KRB5Conf: filepath.Join(dir, "krb5.conf"), Admin: "unix://" + filepath.Join(dir, "n1", "admin.sock")}
	configs, err := o.place(d)
	if err != nil {
		return d, err
	}
	if _, err := node.Init(ctx, node.InitOptions{Realm: o.realm, Name: "n1", Config: configs[0], Version: version, Lax: true, Logger: quietLogger(io.Discard), FeatureLevel: o.level}); err != nil {
		return d, err
	}
	if err := d.save(); err != nil {
		return d, err
	}
	if err := d.startNode(ctx, nodes, 0); err != nil {
		return d, err
	}
	cc, err := dialSocket(configs[0].SocketPath())
	if err != nil {
		return d, err
	}
	defer cc.Close()
	for i := 1; i < o.nodes; i++ {
		if err := d.joinNode(ctx, cc, configs[i], i, o.level); err != nil {
			return d, err
		}
		if err := nodes.start(&d.Nodes[i]); err != nil {
			return d, err
		}
	}
	if err := o.populate(ctx, cc, d); err != nil {
		return d, err
	}
	if err := os.WriteFile(d.KRB5Conf, d.krb5Conf(o.services), 0o644); err != nil {
		return d, err
	}
	if err := d.waitReady(ctx); err != nil {
		return d, err
	}
	return d, d.save()
}

// place chooses ports and writes each node's configuration.
func (o *devOptions) place(d *devRealm) ([]*node.Config, error) {
	ports := &portPicker{}
	defer ports.release()
	var out []*node.Config
	for i := range o.nodes {
		n := devNode{Name: fmt.Sprintf("n%d", i+1)}
		n.Dir = filepath.Join(d.Dir, n.Name)
		var err error
		if o.kdcPorts != nil {
			n.KDC = fmt.Sprintf("127.0.0.1:%d", o.kdcPorts[i])
		} else if n.KDC, err = ports.both(); err != nil {
			return nil, err
		}
		if o.kpasswdPorts != nil {
			n.Kpasswd = fmt.Sprintf("127.0.0.1:%d", o.kpasswdPorts[i])
		}
		for _, p := range []*string{&n.Admin, &n.Peer, &n.HTTP} {
			if *p, err = ports.tcp(); err != nil {
				return nil, err
			}
		}
		text := fmt.Sprintf("dir = %q\n\n[kdc]\naddresses = [%q]\n\n[admin]\naddress = %q\n\n[peer]\naddress = %q\n\n[http]\naddress = %q\n\n[raft]\npromote_after = \"50ms\"\n\n[drain]\nnotice = \"0s\"\n",
			n.Dir, n.KDC, n.Admin, n.Peer, n.HTTP)
		path := filepath.Join(n.Dir, "charon.toml")
		c, err := node.ParseConfig(path, []byte(text))
		if err != nil {
			return nil, err
		}
		if err := os.MkdirAll(n.Dir, 0o700); err != nil {
			return nil, err
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			return nil, err
		}
		d.Nodes, out = append(d.Nodes, n), append(out, c)
	}
	return out, nil
}

// portPicker keeps what it has picked bound until all are picked, so that no port is given twice.
type portPicker struct{ held []io.Closer }

func (p *portPicker) tcp() (string, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("looking for a free port: %w", err)
	}
	p.held = append(p.held, ln)
	return ln.Addr().String(), nil
}

// both is a port that is free over TCP and UDP.
func (p *portPicker) both() (string, error) {
	for range 100 {
		addr, err := p.tcp()
		if err != nil {
			return "", err
		}
		if c, err := net.ListenPacket("udp", addr); err == nil {
			p.held = append(p.held, c)
			return addr, nil
		}
	}
	return "", errors.New("looking for a port that is free over TCP and UDP: none in a hundred tries")
}

func (p *portPicker) release() {
	for _, c := range p.held {
		c.Close()
	}
}

func (d *devRealm) joinNode(ctx context.Context, cc grpc.ClientConnInterface, c *node.Config, i int, level uint32) error {
	id := node.NewRequestID(time.Now())
	r, err := adminv1.NewClusterClient(cc).CreateToken(ctx, &adminv1.CreateTokenRequest{RequestId: id[:], NodeName: d.Nodes[i].Name, Ttl: 300})
	if err != nil {
		return fmt.Errorf("making a token for %s: %w", d.Nodes[i].Name, err)
	}
	tok, err := jointoken.Parse(r.GetToken())
	if err != nil {
		return err
	}
	_, err = node.Join(ctx, node.JoinOptions{Token: tok, Config: c, Version: version, Timeout: devDeadline, FeatureLevelMax: level})
	return err
}

// populate makes the principals that were asked for, and keytabs of the services.
func (o *devOptions) populate(ctx context.Context, cc grpc.ClientConnInterface, d *devRealm) error {
	for _, p := range o.principals {
		name, password, _ := strings.Cut(p, "=")
		id := node.NewRequestID(time.Now())
		if _, err := adminv1.NewPrincipalsClient(cc).CreatePrincipal(ctx, &adminv1.CreatePrincipalRequest{
			RequestId: id[:], Name: name, Keys: &adminv1.NewKeys{Source: &adminv1.NewKeys_Password{Password: password}},
		}); err != nil {
			return fmt.Errorf("making principal %s: %w", name, err)
		}
	}
	for _, s := range o.services {
		id := node.NewRequestID(time.Now())
		r, err := adminv1.NewKeytabsClient(cc).EnsureKeytab(ctx, &adminv1.EnsureKeytabRequest{RequestId: id[:], Name: s})
		if err != nil {
			return fmt.Errorf("making service %s: %w", s, err)
		}
		entries, err := devEntries(r, o.realm)
		if err != nil {
			return err
		}
		for _, path := range []string{d.serviceKeytab(s), filepath.Join(d.Dir, "krb5.keytab")} {
			if err := keytab.Append(path, entries...); err != nil {
				return err
			}
		}
	}
	return nil
}

// serviceKeytab is DIR/HTTP_web.example.com.keytab.
func (d *devRealm) serviceKeytab(service string) string {
	return filepath.Join(d.Dir, strings.NewReplacer("/", "_", "@", "_").Replace(service)+".keytab")
}

func devEntries(r *adminv1.EnsureKeytabResponse, realm string) ([]keytab.Entry, error) {
	name, realm, err := krb5.ParsePrincipal(r.GetName(), realm)
	if err != nil {
		return nil, err
	}
	var out []keytab.Entry
	for _, k := range r.GetKeys() {
		key, err := kcrypto.NewKey(kcrypto.EType(k.GetEtype()), k.GetKey())
		if err != nil {
			return nil, err
		}
		out = append(out, keytab.Entry{Realm: realm, Name: name, Timestamp: time.Now(), KVNO: k.GetKvno(), Key: key})
	}
	return out, nil
}

// krb5Conf asks no DNS and nothing outside the directory.
func (d *devRealm) krb5Conf(services []string) []byte {
	var b strings.Builder
	fmt.Fprintf(&b, "[libdefaults]\n\tdefault_realm = %s\n\tdns_lookup_kdc = false\n\tdns_lookup_realm = false\n\tdns_canonicalize_hostname = false\n\trdns = false\n"+
		"\tdefault_keytab_name = FILE:%s\n\tdefault_ccache_name = FILE:%s\n\n[realms]\n\t%s = {\n",
		d.Realm, filepath.Join(d.Dir, "krb5.keytab"), filepath.Join(d.Dir, "ccache_%{uid}"), d.Realm)
	for _, n := range d.Nodes {
		fmt.Fprintf(&b, "\t\tkdc = %s\n", n.KDC)
	}
	fmt.Fprintf(&b, "\t}\n\n[domain_realm]\n")
	domain := strings.ToLower(d.Realm)
	fmt.Fprintf(&b, "\t.%s = %s\n\t%s = %s\n", domain, d.Realm, domain, d.Realm)
	seen := map[string]bool{domain: true}
	for _, s := range services {
		name, _, err := krb5.ParsePrincipal(s, d.Realm)
		if err != nil || len(name.NameString) < 2 {
			continue
		}
		if host := strings.ToLower(name.NameString[1]); !seen[host] {
			seen[host] = true
			fmt.Fprintf(&b, "\t%s = %s\n", host, d.Realm)
		}
	}
	return []byte(b.String())
}

// start brings every node of a stopped realm up.
func (d *devRealm) start(ctx context.Context, nodes *processes) error {
	ctx, cancel := context.WithTimeout(ctx, devDeadline)
	defer cancel()
	for i := range d.Nodes {
		if _, running := node.RunningPID(d.Nodes[i].Dir); running {
			continue
		}
		if err := nodes.start(&d.Nodes[i]); err != nil {
			return err
		}
	}
	if err := d.waitReady(ctx); err != nil {
		return err
	}
	return d.save()
}

// startNode starts one node and waits until it serves.
func (d *devRealm) startNode(ctx context.Context, nodes *processes, i int) error {
	if err := nodes.start(&d.Nodes[i]); err != nil {
		return err
	}
	return d.Nodes[i].await(ctx, "")
}

// waitReady waits until every node serves and votes in both groups: from then on any one may die.
func (d *devRealm) waitReady(ctx context.Context) error {
	for i := range d.Nodes {
		if err := d.Nodes[i].await(ctx, "?role=voter"); err != nil {
			return err
		}
	}
	return nil
}

// await polls /readyz.
func (n *devNode) await(ctx context.Context, query string) error {
	last := errors.New("it does not answer")
	for {
		ok, err := n.ready(ctx, query)
		if ok {
			return nil
		}
		if err != nil && ctx.Err() == nil {
			last = err
		}
		if _, running := node.RunningPID(n.Dir); !running && n.PID > 0 && !alive(n.PID) {
			return fmt.Errorf("node %s ended; its log is %s", n.Name, filepath.Join(n.Dir, "charon.log"))
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("node %s is not ready: %w", n.Name, last)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (n *devNode) ready(ctx context.Context, query string) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+n.HTTP+"/readyz"+query, nil)
	if err != nil {
		return false, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return false, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 4096))
	if resp.StatusCode != http.StatusOK && err == nil {
		err = errors.New(strings.TrimSpace(string(b)))
	}
	return err == nil, err
}

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/charon-kdc/charon/kdc/krb5"
	"github.com/charon-kdc/charon/kdc/krb5/kcrypto"
	"github.com/charon-kdc/charon/kdc/krb5/keytab"
	adminv1 "github.com/charon-kdc/charon/proto/charon/admin/v1"
)

// charon is a realm that `charon dev` made. Its nodes are then started here, as `charon dev` starts them, so that they can be pinned
// to processors, killed and counted.
type charon struct {
	label string
	bin   string
	dir   string
	pin   pinning
	nodes []*charonNode
}

type charonNode struct {
	Name string `json:"name"`
	Dir  string `json:"dir"`
	KDC  string `json:"kdc"`
	HTTP string `json:"http"`

	p *process
}

func makeCharon(ctx context.Context, o *options, pin pinning, name, dir string, nodes int) (*charon, error) {
	c := &charon{label: name, bin: o.charon, dir: dir, pin: pin}
	home := filepath.Join(dir, "dev")
	text, err := output(ctx, nil, o.charon, "dev", "--nodes", fmt.Sprint(nodes), "--realm", realm, "--dir", home, "--json", "--detach")
	if err != nil {
		return nil, err
	}
	var made struct {
		Nodes []*charonNode `json:"nodes"`
	}
	if err := json.Unmarshal(text, &made); err != nil {
		return nil, fmt.Errorf("reading what charon dev printed: %w", err)
	}
	c.nodes = made.Nodes
	err = c.addPrincipals(ctx, o.users)
	_, stopped := output(ctx, nil, o.charon, "dev", "stop", home)
	return c, errors.Join(err, stopped)
}

// admin calls f with a connection to a node's admin socket.
func (n *charonNode) admin(f func(*grpc.ClientConn) error) error {
	conn, err := grpc.NewClient("unix://"+filepath.Join(n.Dir, "admin.sock"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	return errors.Join(f(conn), conn.Close())
}

// newRequestID is what the admin API tells a repeated call by (UUIDv7).
func newRequestID() []byte {
	id := uuid.Must(uuid.NewV7())
	return id[:]
}

// addPrincipals makes the service and the users with random keys, and the users' keytab.
func (c *charon) addPrincipals(ctx context.Context, users int) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	kt := &keytab.Keytab{}
	err := c.nodes[0].admin(func(conn *grpc.ClientConn) error {
		principals, keytabs := adminv1.NewPrincipalsClient(conn), adminv1.NewKeytabsClient(conn)
		for i := -1; i < users; i++ {
			name := service
			if i >= 0 {
				name = userName(i)
			}
			_, err := principals.CreatePrincipal(ctx, &adminv1.CreatePrincipalRequest{
				RequestId: newRequestID(), Name: name, Keys: &adminv1.NewKeys{Source: &adminv1.NewKeys_Random{Random: true}},
			})
			if err != nil {
				return fmt.Errorf("creating %s: %w", name, err)
			}
			if i < 0 {
				continue
			}
			got, err := keytabs.GetKeytab(ctx, &adminv1.GetKeytabRequest{Name: name})
			if err != nil {
				return fmt.Errorf("getting the keys of %s: %w", name, err)
			}
			for _, k := range got.GetKeys() {
				key, err := kcrypto.NewKey(kcrypto.EType(k.GetEtype()), k.GetKey())
				if err != nil {
					return err
				}
				kt.Entries = append(kt.Entries, keytab.Entry{Realm: realm, Name: krb5.MkName(krb5.NTPrincipal, name), Timestamp: time.Now(), KVNO: k.GetKvno(), Key: key})
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return kt.WriteFile(c.keytab())
}

func (c *charon) name() string   { return c.label }
func (c *charon) keytab() string { return filepath.Join(c.dir, "users.keytab") }

func (c *charon) kdcs() (out []string) {
	for _, n := range c.nodes {
		out = append(out, n.KDC)
	}
	return out
}

func (c *charon) pids() (out []int) {
	for _, n := range c.nodes {
		out = append(out, n.p.pid())
	}
	return out
}

func (c *charon) metrics() (out []string) {
	for _, n := range c.nodes {
		out = append(out, "http://"+n.HTTP+"/metrics")
	}
	return out
}

func (c *charon) start(ctx context.Context) error {
	for _, n := range c.nodes {
		if err := c.startNode(n); err != nil {
			return errors.Join(err, c.stop())
		}
	}
	if err := c.ready(ctx); err != nil {
		return errors.Join(err, c.stop())
	}
	return nil
}

func (c *charon) startNode(n *charonNode) (err error) {
	argv := append(append([]string(nil), c.pin.server...), c.bin, "server", "--config", filepath.Join(n.Dir, "charon.toml"))
	n.p, err = spawn(filepath.Join(c.dir, n.Name+".log"), nil, argv...)
	return err
}

// ready waits until every node is ready and one leads.
func (c *charon) ready(ctx context.Context) error {
	return waitFor(ctx, "every node to be ready", c.processes(), func() bool {
		for _, n := range c.nodes {
			if !n.is("") {
				return false
			}
		}
		return c.leader() != nil
	})
}

func (c *charon) processes() (out []*process) {
	for _, n := range c.nodes {
		if n.p != nil {
			out = append(out, n.p)
		}
	}
	return out
}

// leader is nil while nobody leads.
func (c *charon) leader() *charonNode {
	for _, n := range c.nodes {
		if n.is("leader") {
			return n
		}
	}
	return nil
}

var httpClient = http.Client{Timeout: 2 * time.Second}

// is asks /readyz, for a role or for none.
func (n *charonNode) is(role string) bool {
	url := "http://" + n.HTTP + "/readyz"
	if role != "" {
		url += "?role=" + role
	}
	resp, err := httpClient.Get(url)
	if err != nil {
		return false
	}
	resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

func (c *charon) stop() error {
	ended := make(chan error, len(c.nodes))
	for _, n := range c.nodes {
		go func() {
			if n.p == nil {
				ended <- nil
				return
			}
			ended <- n.p.end()
		}()
	}
	var errs []error
	for range c.nodes {
		errs = append(errs, <-ended)
	}
	return errors.Join(errs...)
}

// version is what the binary says of itself, for the report.
func version(ctx context.Context, bin string) string {
	out, err := output(ctx, nil, bin, "--version")
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(out))
}

// size is the binary's, in octets.
func size(bin string) int64 {
	info, err := os.Stat(bin)
	if err != nil {
		return 0
	}
	return info.Size()
}

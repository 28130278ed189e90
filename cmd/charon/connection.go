package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	adminv1 "github.com/charon-kdc/charon/proto/charon/admin/v1"
)

const (
	socketDefault    = "/var/lib/charon/admin.sock"
	adminPortDefault = "7749"
	timeoutDefault   = 30 * time.Second
	messageMax       = 16 << 20
)

// addConnectionFlags adds the flags of every verb that talks to a node.
func addConnectionFlags(cmd *cobra.Command) {
	f := cmd.PersistentFlags()
	f.String("addr", "", "admin addresses to ask, in order: unix:///path or host:port, separated by commas (CHARON_ADDR; default unix://"+socketDefault+")")
	f.String("identity", "", "directory with ca.crt and one NAME.crt and NAME.key, for host:port addresses (CHARON_IDENTITY; default ~/.charon)")
	f.Duration("timeout", timeoutDefault, "how long to try")
	f.String("request-id", "", "repeat a change whose outcome was unknown: the id that was printed")
	f.StringP("output", "o", "table", "table, wide, json or yaml")
}

// connection is the admin API at one of several addresses.
type connection struct {
	addrs []string
	conns []*grpc.ClientConn
	at    int
	// local is the meta of the last answer that a node gave from its own state.
	local *adminv1.Meta
}

// connect prepares the connection that flags and environment describe. Nothing is dialled yet.
func connect(cmd *cobra.Command) (*connection, error) {
	c := &connection{addrs: adminAddresses(cmd)}
	var identity credentials.TransportCredentials
	for _, addr := range c.addrs {
		target, creds := addr, insecure.NewCredentials()
		if !strings.HasPrefix(addr, "unix:") {
			if identity == nil {
				var err error
				if identity, err = loadIdentity(identityDir(cmd)); err != nil {
					return nil, err
				}
			}
			target, creds = "dns:///"+addr, identity
		}
		conn, err := grpc.NewClient(target, grpc.WithTransportCredentials(creds), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(messageMax)))
		if err != nil {
			return nil, usage(cmd, "address %q: %v", addr, err)
		}
		c.conns = append(c.conns, conn)
	}
	return c, nil
}

// adminAddresses are unix:///path or host:port.
func adminAddresses(cmd *cobra.Command) []string {
	text, _ := cmd.Flags().GetString("addr")
	if text == "" {
		text = os.Getenv("CHARON_ADDR")
	}
	if text == "" {
		return []string{"unix://" + socketDefault}
	}
	var out []string
	for _, a := range strings.Split(text, ",") {
		a = strings.TrimSpace(a)
		switch {
		case a == "":
			continue
		case strings.HasPrefix(a, "/"):
			a = "unix://" + a
		case strings.HasPrefix(a, "unix:"):
		default:
			if _, _, err := net.SplitHostPort(a); err != nil {
				a = net.JoinHostPort(strings.Trim(a, "[]"), adminPortDefault)
			}
		}
		out = append(out, a)
	}
	return out
}

func identityDir(cmd *cobra.Command) string {
	if dir, _ := cmd.Flags().GetString("identity"); dir != "" {
		return dir
	}
	if dir := os.Getenv("CHARON_IDENTITY"); dir != "" {
		return dir
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return ".charon"
	}
	return filepath.Join(home, ".charon")
}

// loadIdentity reads ca.crt and the one other certificate with its key.
func loadIdentity(dir string) (credentials.TransportCredentials, error) {
	ca, err := os.ReadFile(filepath.Join(dir, "ca.crt"))
	if err != nil {
		return nil, fmt.Errorf("reading the admin identity (charon init makes one in DATADIR/admin; see --identity): %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca) {
		return nil, fmt.Errorf("%s/ca.crt holds no certificate", dir)
	}
	keys, err := filepath.Glob(filepath.Join(dir, "*.key"))
	if err != nil || len(keys) != 1 {
		return nil, fmt.Errorf("%s holds %d *.key files; exactly one is wanted", dir, len(keys))
	}
	pair, err := tls.LoadX509KeyPair(strings.TrimSuffix(keys[0], ".key")+".crt", keys[0])
	if err != nil {
		return nil, fmt.Errorf("reading the admin identity: %w", err)
	}
	return credentials.NewTLS(&tls.Config{MinVersion: tls.VersionTLS13, RootCAs: roots, Certificates: []tls.Certificate{pair}}), nil
}

// Close ends all connections.
func (c *connection) Close() {
	for _, conn := range c.conns {
		conn.Close()
	}
}

// Invoke makes the calls of the generated clients: at the address that worked last, and at the next one when nothing was sent.
func (c *connection) Invoke(ctx context.Context, method string, req, resp any, opts ...grpc.CallOption) error {
	var errs []error
	for range c.conns {
		err := c.conns[c.at].Invoke(ctx, method, req, resp, opts...)
		if !neverSent(err) || ctx.Err() != nil {
			c.note(req, resp, err)
			return err
		}
		errs = append(errs, fmt.Errorf("%s: %w", c.addrs[c.at], err))
		c.next()
	}
	return &unreachableError{c.addrs, errors.Join(errs...)}
}

// note keeps what a LOCAL answer says of itself.
func (c *connection) note(req, resp any, err error) {
	q, ok := req.(interface{ GetConsistency() adminv1.Consistency })
	a, has := resp.(interface{ GetMeta() *adminv1.Meta })
	if err == nil && ok && has && q.GetConsistency() == adminv1.Consistency_CONSISTENCY_LOCAL {
		c.local = a.GetMeta()
	}
}

// tellLocal says on standard error whose own state was read, and how fresh it can be, if the user asked for a node's own state.
func (c *connection) tellLocal(cmd *cobra.Command) {
	if asked, _ := cmd.Flags().GetBool("local"); asked && c.local != nil {
		age := time.Duration(c.local.GetContactMs()) * time.Millisecond
		fmt.Fprintf(cmd.ErrOrStderr(), "%s's own state, index %d; it last heard from the leader %v ago\n", c.local.GetNode(), c.local.GetIndex(), age)
	}
}

// NewStream opens a stream at the address that worked last. Whether anybody answers there is known with the first message: a caller that finds
// that nothing was sent calls next and tries again.
func (c *connection) NewStream(ctx context.Context, d *grpc.StreamDesc, method string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	return c.conns[c.at].NewStream(ctx, d, method, opts...)
}

// next has the following calls begin with the next address.
func (c *connection) next() { c.at = (c.at + 1) % len(c.conns) }

func (c *connection) principals() adminv1.PrincipalsClient { return adminv1.NewPrincipalsClient(c) }
func (c *connection) keytabs() adminv1.KeytabsClient       { return adminv1.NewKeytabsClient(c) }
func (c *connection) policies() adminv1.PoliciesClient     { return adminv1.NewPoliciesClient(c) }
func (c *connection) roles() adminv1.RolesClient           { return adminv1.NewRolesClient(c) }
func (c *connection) rotation() adminv1.RotationClient     { return adminv1.NewRotationClient(c) }
func (c *connection) backups() adminv1.BackupsClient       { return adminv1.NewBackupsClient(c) }
func (c *connection) cluster() adminv1.ClusterClient       { return adminv1.NewClusterClient(c) }

// unreachableError says that no address took the call.
type unreachableError struct {
	addrs []string
	err   error
}

func (e *unreachableError) Error() string {
	return fmt.Sprintf("no node answers at %s: nothing was done; is it running, and is this its address (--addr, CHARON_ADDR)?", strings.Join(e.addrs, ", "))
}
func (e *unreachableError) Unwrap() error { return e.err }

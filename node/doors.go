package node

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"

	"github.com/charon-kdc/charon/adminapi"
	"github.com/charon-kdc/charon/node/pki"
	"github.com/charon-kdc/charon/raftstore/realm"
)

const (
	// The connections that are open at a time, in all and of one IPv4 address or IPv6 /64.
	adminConnsMax        = 1024
	adminConnsPerAddress = 256
	httpConnsMax         = 256
	httpConnsPerAddress  = 64

	adminMessageMax = 4 << 20
	adminStreamsMax = 256
)

func adminServerOptions(creds credentials.TransportCredentials) []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.Creds(creds),
		grpc.MaxRecvMsgSize(adminMessageMax),
		grpc.MaxConcurrentStreams(adminStreamsMax),
		grpc.ConnectionTimeout(10 * time.Second),
		grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionIdle: 15 * time.Minute, Time: time.Minute, Timeout: 20 * time.Second}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second, PermitWithoutStream: true}),
	}
}

// adminTLS takes client certificates of the admin authority and no other. The authority is read from the realm state at each
// handshake: a node that has just joined does not have it yet.
func adminTLS(cert func() *tls.Certificate, cluster [16]byte, db *realm.DB, now func() time.Time) *tls.Config {
	base := &tls.Config{MinVersion: tls.VersionTLS13, Time: now, NextProtos: []string{"h2"}}
	base.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return cert(), nil } // it is renewed without a restart
	base.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		s, err := db.Secret(pki.Admins.SecretName())
		if err != nil {
			return nil, fmt.Errorf("reading the admin authority: %w", err)
		}
		authority, err := x509.ParseCertificate(s.GetCertificate())
		if err != nil {
			return nil, fmt.Errorf("reading the admin authority: %w", err)
		}
		c := base.Clone()
		c.GetConfigForClient = nil
		c.ClientAuth, c.ClientCAs = tls.RequireAndVerifyClientCert, x509.NewCertPool()
		c.ClientCAs.AddCert(authority)
		c.SessionTicketsDisabled = true
		c.VerifyConnection = func(cs tls.ConnectionState) error {
			var chain [][]byte
			for _, p := range cs.PeerCertificates {
				chain = append(chain, p.Raw)
			}
			_, err := pki.VerifyAdmin(authority, cluster, chain, now())
			return err
		}
		return c, nil
	}
	return base
}

// listenUnix makes the admin socket, for this user alone. A socket that a killed process left behind is in the way of nobody:
// the directory's lock is ours.
func listenUnix(path string) (net.Listener, error) {
	if len(path) > 107 {
		return nil, fmt.Errorf("the admin socket's path %s is longer than the 107 bytes that unix sockets have; set admin.socket", path)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("making the admin socket: %w", err)
	}
	ln, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("making the admin socket: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(err, ln.Close())
	}
	return ln, nil
}

// adminDoors are the API's two listeners of a node; calls that other nodes forward come in by the peer port.
type adminDoors struct {
	servers   []*grpc.Server
	listeners []net.Listener
}

func openAdminDoors(c *Config, api *adminapi.Service, tlsConf *tls.Config) (*adminDoors, error) {
	unixLn, err := listenUnix(c.SocketPath())
	if err != nil {
		return nil, err
	}
	tcp, err := net.Listen("tcp", c.Admin.Address)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("opening the admin port (admin.address): %w", err), unixLn.Close())
	}
	byUnix := grpc.NewServer(adminServerOptions(adminapi.UnixCredentials())...)
	api.Register(byUnix, adminapi.DoorUnix)
	byTLS := grpc.NewServer(adminServerOptions(keeping{credentials.NewTLS(tlsConf)})...)
	api.Register(byTLS, adminapi.DoorTLS)
	return &adminDoors{
		servers: []*grpc.Server{byUnix, byTLS},
		// The socket is this user's own, and must stay one that the kernel can be asked about.
		listeners: []net.Listener{unixLn, evicting(tcp, adminConnsMax, adminConnsPerAddress)},
	}, nil
}

// stop lets calls at work finish until ctx ends.
func (d *adminDoors) stop(ctx context.Context) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		for _, s := range d.servers {
			s.GracefulStop()
		}
	}()
	select {
	case <-done:
	case <-ctx.Done():
		for _, s := range d.servers {
			s.Stop()
		}
		<-done
	}
}

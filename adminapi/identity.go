package adminapi

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
)

// Caller is who makes a call: "root" (every right), or a subject of the role table such as "cert:alice".
type Caller struct {
	Root    bool
	Subject string
}

const rootSubject = "root"

// metaCaller carries the caller's identity from a follower to the leader. It counts on DoorPeer alone.
const metaCaller = "charon-caller"

type callerKey struct{}

func withCaller(ctx context.Context, c Caller) context.Context {
	return context.WithValue(ctx, callerKey{}, c)
}

// callerOf is the caller that the guard put into ctx; without one it is nobody, who has no rights.
func callerOf(ctx context.Context) Caller {
	c, _ := ctx.Value(callerKey{}).(Caller)
	return c
}

// identify tells who calls. An error means that the door did not prove anybody.
func (s *Service) identify(ctx context.Context, door Door) (Caller, error) {
	if door == DoorPeer {
		return forwardedCaller(ctx)
	}
	p, ok := peer.FromContext(ctx)
	if !ok {
		return Caller{}, errors.New("no peer")
	}
	switch door {
	case DoorUnix:
		info, ok := p.AuthInfo.(unixAuthInfo)
		if !ok {
			return Caller{}, errors.New("no peer credentials")
		}
		if info.uid == 0 || info.uid == s.OwnUID {
			return Caller{Root: true, Subject: rootSubject}, nil
		}
		return Caller{}, fmt.Errorf("uid %d is neither root nor the server's user", info.uid)
	case DoorTLS:
		info, ok := p.AuthInfo.(credentials.TLSInfo)
		if !ok || len(info.State.VerifiedChains) == 0 || len(info.State.VerifiedChains[0]) == 0 {
			return Caller{}, errors.New("no verified client certificate")
		}
		leaf := info.State.VerifiedChains[0][0]
		if s.Now().After(leaf.NotAfter) {
			return Caller{}, errors.New("the client certificate has ended since the connection was made")
		}
		return certCaller(leaf.Subject.CommonName)
	}
	return Caller{}, errors.New("unknown door")
}

// certCaller refuses names that could be taken for a glob or for another kind of subject.
func certCaller(cn string) (Caller, error) {
	if cn == "" || len(cn) > 256 || strings.ContainsAny(cn, "*?[]\\ \t\r\n") {
		return Caller{}, fmt.Errorf("certificate name %q is not a caller's name", cn)
	}
	return Caller{Subject: "cert:" + cn}, nil
}

func forwardedCaller(ctx context.Context) (Caller, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	v := md.Get(metaCaller)
	if len(v) != 1 {
		return Caller{}, errors.New("no forwarded caller")
	}
	if v[0] == rootSubject {
		return Caller{Root: true, Subject: rootSubject}, nil
	}
	if name, ok := strings.CutPrefix(v[0], "cert:"); ok {
		return certCaller(name)
	}
	return Caller{}, errors.New("forwarded caller is not understood")
}

// unixAuthInfo is what the kernel says of the process at the other end of a unix socket.
type unixAuthInfo struct {
	credentials.CommonAuthInfo
	uid uint32
}

func (unixAuthInfo) AuthType() string { return "unix" }

type unixCredentials struct{}

// UnixCredentials are server credentials for a unix socket: they ask the kernel who is at the other end (SO_PEERCRED).
func UnixCredentials() credentials.TransportCredentials { return unixCredentials{} }

func (unixCredentials) ServerHandshake(c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	sc, ok := c.(syscall.Conn)
	if !ok {
		return nil, nil, errors.New("not a unix socket")
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return nil, nil, err
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return nil, nil, err
	}
	if credErr != nil {
		return nil, nil, fmt.Errorf("asking for peer credentials: %w", credErr)
	}
	return c, unixAuthInfo{credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity}, cred.Uid}, nil
}

func (unixCredentials) ClientHandshake(_ context.Context, _ string, c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return c, unixAuthInfo{CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity}}, nil
}

func (unixCredentials) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "unix"}
}
func (unixCredentials) Clone() credentials.TransportCredentials { return unixCredentials{} }
func (unixCredentials) OverrideServerName(string) error         { return nil }

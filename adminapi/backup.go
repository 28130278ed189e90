package adminapi

import (
	"bufio"
	"context"
	"errors"
	"io"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	adminv1 "github.com/charon-kdc/charon/proto/charon/admin/v1"
)

// Backups makes backups of this node's applied state; node has one.
type Backups interface {
	// Check refuses texts that are no public keys, too many, or such as can't stand together.
	Check(recipients []string, kit bool) error
	// Save writes one backup to w. kit adds the recovery kit's recipient and the configured ones.
	Save(ctx context.Context, w io.Writer, recipients []string, kit bool) (*adminv1.BackupSummary, error)
	// Confirm tells the cluster of a backup that Save has made. ErrUnknownBackup when it has made none of that hash of late.
	Confirm(ctx context.Context, sha256 []byte) error
}

// ErrUnknownBackup says that this node has not made such a backup of late.
var ErrUnknownBackup = errors.New("no such backup was made here")

type backupServer struct {
	adminv1.UnimplementedBackupsServer
	*Service
}

const (
	// backupPart is how much of a backup one message holds.
	backupPart = 256 << 10
	// backupStall is how long a receiver may take nothing: the state can't reuse its pages while it is read.
	backupStall = time.Minute
)

func (s backupServer) SaveBackup(req *adminv1.SaveBackupRequest, out grpc.ServerStreamingServer[adminv1.SaveBackupResponse]) error {
	ctx := out.Context()
	if err := requireEverywhere(ctx, VerbBackup); err != nil {
		return err
	}
	if s.Backups == nil {
		return refuse(codes.Unimplemented, "UNIMPLEMENTED", "this node makes no backups")
	}
	// Who names a recipient of his own can read every key of the realm.
	if len(req.GetRecipients()) > 0 {
		if err := requireEverywhere(ctx, VerbExtract); err != nil {
			return err
		}
	} else if req.GetOnlyRecipients() {
		return invalid("recipients", "without the recovery kit's key there must be recipients")
	}
	if err := s.Backups.Check(req.GetRecipients(), !req.GetOnlyRecipients()); err != nil {
		return invalid("recipients", "%v", err)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stall := time.AfterFunc(backupStall, func() { cancel(errStalled) })
	defer stall.Stop()
	w := bufio.NewWriterSize(&parts{ctx: ctx, out: out, taken: func() { stall.Reset(backupStall) }}, backupPart)
	sum, err := s.Backups.Save(ctx, w, req.GetRecipients(), !req.GetOnlyRecipients())
	if err == nil {
		err = w.Flush()
	}
	switch {
	case errors.Is(err, errStalled):
		return refuse(codes.DeadlineExceeded, "STALLED", "%v", errStalled)
	case errors.Is(err, ErrBackupBusy):
		return refuse(codes.ResourceExhausted, "BUSY", "%v", err).after(backupStall / 4)
	case err != nil && ctx.Err() == nil:
		s.Logger.Error("backup", "error", err)
		return refuse(codes.Internal, "BACKUP_FAILED", "the backup was not made: %v", err)
	case err != nil:
		return err
	}
	return out.Send(&adminv1.SaveBackupResponse{Part: &adminv1.SaveBackupResponse_Done{Done: sum}})
}

// ErrBackupBusy says that as many backups as may be at a time are being made.
var ErrBackupBusy = errors.New("other backups are being made on this node; wait for them, or ask another node (--addr)")

var errStalled = errors.New("the receiver took nothing of the backup for a minute")

// parts sends what is written as data parts. A Send that blocks goes on in the background once ctx has ended; the stream's end ends it.
type parts struct {
	ctx   context.Context
	out   grpc.ServerStreamingServer[adminv1.SaveBackupResponse]
	taken func()
}

func (p *parts) Write(b []byte) (int, error) {
	for n := 0; n < len(b); n += backupPart {
		part := b[n:min(n+backupPart, len(b))]
		sent := make(chan error, 1)
		go func() {
			sent <- p.out.Send(&adminv1.SaveBackupResponse{Part: &adminv1.SaveBackupResponse_Data{Data: append([]byte(nil), part...)}})
		}()
		select {
		case err := <-sent:
			if err != nil {
				return n, err
			}
		case <-p.ctx.Done():
			return n, context.Cause(p.ctx)
		}
		p.taken()
	}
	return len(b), nil
}

func (s backupServer) ConfirmBackup(ctx context.Context, req *adminv1.ConfirmBackupRequest) (*adminv1.ConfirmBackupResponse, error) {
	if err := requireEverywhere(ctx, VerbBackup); err != nil {
		return nil, err
	}
	if s.Backups == nil {
		return nil, refuse(codes.Unimplemented, "UNIMPLEMENTED", "this node makes no backups")
	}
	switch err := s.Backups.Confirm(ctx, req.GetSha256()); {
	case errors.Is(err, ErrUnknownBackup):
		return nil, refuse(codes.NotFound, "NOT_FOUND", "this node has not made a backup of that SHA-256 of late")
	case err != nil:
		return nil, err
	}
	return &adminv1.ConfirmBackupResponse{Meta: s.readMeta()}, nil
}

// lastBackup is the newest backup as status shows it.
func (s *Service) lastBackup() (*adminv1.LastBackup, error) {
	cl, err := s.Reader.Cluster()
	n := cl.GetLastBackup()
	if err != nil || n == nil {
		return nil, err
	}
	return &adminv1.LastBackup{
		Index: n.GetIndex(), At: n.GetAt(), Bytes: n.GetBytes(), Sha256: n.GetSha256(), Node: n.GetNode(), Verified: n.GetVerified(), CheckedAt: n.GetCheckedAt(),
	}, nil
}

// guardedStreams are desc's streams behind the guard. They are answered by the node that is asked: a stream is not handed on.
func (s *Service) guardedStreams(desc *grpc.ServiceDesc, door Door) []grpc.StreamDesc {
	var out []grpc.StreamDesc
	for _, d := range desc.Streams {
		inner, method := d.Handler, "/"+desc.ServiceName+"/"+d.StreamName
		d.Handler = func(srv any, stream grpc.ServerStream) error { return s.serveStream(door, method, srv, stream, inner) }
		out = append(out, d)
	}
	return out
}

// serveStream is one streaming call: who, may he, do it, and one audit event.
func (s *Service) serveStream(door Door, method string, srv any, stream grpc.ServerStream, h grpc.StreamHandler) (err error) {
	start, begun := s.Now(), time.Now()
	g := &guardedStream{ServerStream: stream, ctx: stream.Context()}
	c, err := s.identify(g.ctx, door)
	defer func() {
		if p := recover(); p != nil {
			err = panicked(method, p)
		}
		err = s.conclude(method, g.req, err)
		s.audit(method, c, g.req, err, start, time.Since(begun), false)
	}()
	if err != nil {
		return refuse(codes.Unauthenticated, "UNAUTHENTICATED", "%v", err)
	}
	end, err := s.calls.begin(door)
	if err != nil {
		return err
	}
	defer end()
	r, known := rules[method]
	if !known {
		return refuse(codes.PermissionDenied, "PERMISSION_DENIED", "no rule for %s", method)
	}
	if err := s.trustworthy(method); err != nil {
		return err
	}
	if g.ctx, err = s.admit(g.ctx, door, c, r); err != nil {
		return err
	}
	return h(srv, g)
}

// guardedStream has the guard's context, and remembers the request for the audit log.
type guardedStream struct {
	grpc.ServerStream
	ctx context.Context
	req proto.Message
}

func (g *guardedStream) Context() context.Context { return g.ctx }

func (g *guardedStream) RecvMsg(m any) error {
	err := g.ServerStream.RecvMsg(m)
	if p, ok := m.(proto.Message); ok && g.req == nil {
		g.req = p
	}
	return err
}

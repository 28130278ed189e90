package raftstore

import (
	"bufio"
	"io"

	"github.com/hashicorp/raft"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	peerv1 "github.com/charon-kdc/charon/proto/charon/peer/v1"
	"github.com/charon-kdc/charon/raftstore/forward"
)

// fetchChunk is how much of a state one message has.
const fetchChunk = 64 << 10

// FetchState gives this node's applied state to a member whose own is damaged, unless this one's is.
func (v *service) FetchState(req *peerv1.FetchStateRequest, out grpc.ServerStreamingServer[peerv1.FetchStateResponse]) error {
	s := v.s
	if _, ok := forward.Caller(out.Context()); !ok {
		return status.Error(codes.PermissionDenied, "not a member")
	}
	switch {
	case !s.started.Load():
		return status.Error(codes.Unavailable, "not started")
	case s.integrity.out.Load():
		return status.Error(codes.FailedPrecondition, s.Diverged())
	}
	if req.GetReplay() {
		return s.giveReplay(out)
	}
	return s.giveRealm(out)
}

func (s *Store) giveRealm(out grpc.ServerStreamingServer[peerv1.FetchStateResponse]) error {
	snap, err := s.db.Snapshot()
	if err != nil {
		return err
	}
	defer snap.Close()
	head := &peerv1.FetchStateResponse{Index: snap.Info.Index, Term: snap.Info.Term, ConfigurationIndex: snap.Info.ConfigIndex}
	if err := out.Send(head); err != nil || head.Index == 0 {
		return err
	}
	_, err = io.CopyBuffer(struct{ io.Writer }{chunks{out}}, snap, make([]byte, fetchChunk))
	return err
}

func (s *Store) giveReplay(out grpc.ServerStreamingServer[peerv1.FetchStateResponse]) error {
	snap, index, term, conf := s.caching.cut()
	head := &peerv1.FetchStateResponse{Index: index, Term: term}
	if snap != nil {
		head.ConfigurationIndex, head.Configuration = conf.index, raft.EncodeConfiguration(raft.Configuration{Servers: conf.servers})
	}
	if err := out.Send(head); err != nil || snap == nil {
		return err
	}
	w := bufio.NewWriterSize(chunks{out}, fetchChunk)
	if _, err := snap.WriteTo(w); err != nil {
		return err
	}
	return w.Flush()
}

// chunks sends what is written to it.
type chunks struct {
	out grpc.ServerStreamingServer[peerv1.FetchStateResponse]
}

func (c chunks) Write(p []byte) (int, error) {
	for n := 0; n < len(p); {
		k := min(len(p)-n, fetchChunk)
		if err := c.out.Send(&peerv1.FetchStateResponse{Data: p[n : n+k]}); err != nil {
			return n, err
		}
		n += k
	}
	return len(p), nil
}

// fetched reads the data of a FetchState answer.
type fetched struct {
	in   grpc.ServerStreamingClient[peerv1.FetchStateResponse]
	rest []byte
}

func (f *fetched) Read(p []byte) (int, error) {
	for len(f.rest) == 0 {
		m, err := f.in.Recv()
		if err != nil {
			return 0, err
		}
		f.rest = m.GetData()
	}
	n := copy(p, f.rest)
	f.rest = f.rest[n:]
	return n, nil
}

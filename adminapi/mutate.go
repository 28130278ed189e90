package adminapi

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/charon-kdc/charon/internal/mutant"
	"github.com/charon-kdc/charon/kdc/kdb/masterkey"
	adminv1 "github.com/charon-kdc/charon/proto/charon/admin/v1"
	statev1 "github.com/charon-kdc/charon/proto/charon/state/v1"
	"github.com/charon-kdc/charon/raftstore"
	"github.com/charon-kdc/charon/raftstore/realm"
)

// conflictRetries is how often a change that nobody tied to a revision is decided anew when another call came between.
const conflictRetries = 5

// mutation is a request that changes something.
type mutation interface {
	proto.Message
	GetRequestId() []byte
}

// change is one decided change: the command without its request id, and the answer that a retry will get. The answer holds no secret.
type change struct {
	what   string // the record, for errors
	cmd    *statev1.Command
	answer proto.Message
}

// mutate makes a change once for a request id and returns when it holds on every node: until then its outcome is not known to the
// caller, since a node that answers from before it would say that nothing was done ("Client not found", or a lock not in force).
func (s *Service) mutate(ctx context.Context, req mutation, answer proto.Message, tied bool, build func() (*change, error)) (*statev1.Result, error) {
	res, err := s.once(ctx, req, answer, tied, build)
	if err != nil {
		return nil, err
	}
	return res, s.settle(ctx, res.GetIndex())
}

// settle waits until no node answers from a state before index.
func (s *Service) settle(ctx context.Context, index uint64) error {
	if _, err := s.Store.WaitAllApplied(ctx, index); err != nil {
		return unknownOutcome()
	}
	return nil
}

// once decides by build, which reads the state, and proposes. answer receives what was answered, now or to an earlier call with
// this request id. With tied (the caller gave an expected revision) a conflict is the answer; else build decides anew.
func (s *Service) once(ctx context.Context, req mutation, answer proto.Message, tied bool, build func() (*change, error)) (*statev1.Result, error) {
	id := req.GetRequestId()
	if err := checkRequestID(id); err != nil {
		return nil, err
	}
	hash, err := s.requestHash(callerOf(ctx), req)
	if err != nil {
		return nil, err
	}
	for attempt := 0; ; attempt++ {
		last := tied || attempt == conflictRetries
		res, err := s.earlier(id, hash)
		if err != nil {
			return nil, err
		}
		what := "the record"
		if res == nil {
			res, what, err = s.propose(ctx, id, hash, build)
		}
		if err != nil || res.GetCode() != statev1.Code_CODE_CONFLICT || last {
			return finish(res, err, answer, what)
		}
		if err := s.Store.VerifyLeader(ctx); err != nil {
			return nil, err
		}
		id = followUp(id)
	}
}

func (s *Service) propose(ctx context.Context, id, hash []byte, build func() (*change, error)) (*statev1.Result, string, error) {
	ch, err := build()
	if err != nil {
		return s.noteRefusal(ctx, id, hash, err)
	}
	if ch.cmd.Response, err = proto.Marshal(ch.answer); err != nil {
		return nil, "", err
	}
	ch.cmd.RequestId, ch.cmd.RequestHash = id, hash
	res, err := s.Store.Propose(ctx, ch.cmd)
	return res, ch.what, err
}

// noteRefusal keeps, under its request id, that a call was refused for what the state is now. Another try of the call may still be under way,
// held back by the network; it must not be carried out once its caller was told that nothing was done. If such a try was carried out
// before, its outcome is the answer.
func (s *Service) noteRefusal(ctx context.Context, id, hash []byte, refused error) (*statev1.Result, string, error) {
	code := statev1.Code_CODE_OK
	if r, ok := refused.(*refusal); ok { // not one that is part of another answer, as where a keytab is there already
		switch r.code {
		case codes.NotFound:
			code = statev1.Code_CODE_NOT_FOUND
		case codes.AlreadyExists:
			code = statev1.Code_CODE_EXISTS
		}
	}
	cl, err := s.Reader.Cluster()
	if err != nil || cl.GetFeatureLevel() < refusalLevel || code == statev1.Code_CODE_OK {
		return nil, "", refused
	}
	res, err := s.Store.Propose(ctx, &statev1.Command{
		RequestId: id, RequestHash: hash, Op: &statev1.Command_NoteRefusal{NoteRefusal: &statev1.NoteRefusal{Code: code}},
	})
	switch {
	case err != nil:
		return nil, "", err
	case res.GetReplayed():
		return res, "the record", nil
	}
	return nil, "", refused
}

// refusalLevel is the feature level from which refusals are kept.
const refusalLevel = 2

// followUp is the request id under which a change is decided anew after a conflict, which the state remembers as the outcome of
// id. It follows from id, so a retry walks the same ids and finds the one that was done.
func followUp(id []byte) []byte {
	sum := sha256.Sum256(id)
	out := append(append([]byte{}, id[:6]...), sum[:10]...)
	out[6] = out[6]&0x0f | 0x70
	out[8] = out[8]&0x3f | 0x80
	return out
}

// earlier is the outcome of an earlier call with this request id, or nil. A retry must find it before anything is decided: what it
// asked for is done, and by rules such as a password's minimum life it could not be done again.
func (s *Service) earlier(id, hash []byte) (*statev1.Result, error) {
	out, err := s.Reader.Outcome(id)
	if errors.Is(err, realm.ErrNotFound) || mutant.On(mutant.RequestIDIgnored) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if subtle.ConstantTimeCompare(out.GetRequestHash(), hash) != 1 {
		return &statev1.Result{Code: statev1.Code_CODE_REQUEST_ID_REUSED}, nil
	}
	out.Result.Replayed = true
	return out.Result, nil
}

func finish(res *statev1.Result, err error, answer proto.Message, what string) (*statev1.Result, error) {
	if err == nil {
		err = resultError(res, what)
	}
	if err != nil {
		return nil, err
	}
	if err := proto.Unmarshal(res.GetResponse(), answer); err != nil {
		return nil, fmt.Errorf("reading a kept answer: %w", err)
	}
	return res, nil
}

func checkRequestID(id []byte) error {
	if len(id) != 16 || id[6]>>4 != 7 || id[8]>>6 != 2 {
		return invalid("request_id", "request_id must be a UUIDv7 of 16 bytes, made once per change")
	}
	return nil
}

// requestHash tells requests apart under one request id: HMAC-SHA-256 over the caller, the kind of request and the request as
// received without its id. It is keyed, with a key that only master key holders have, because the state keeps it in
// clear and the request may hold a password.
func (s *Service) requestHash(c Caller, req mutation) ([]byte, error) {
	key, err := s.requestHashKey()
	if err != nil {
		return nil, err
	}
	m := proto.Clone(req).ProtoReflect()
	m.Clear(m.Descriptor().Fields().ByName("request_id"))
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m.Interface())
	if err != nil {
		return nil, err
	}
	h := hmac.New(sha256.New, key)
	fmt.Fprintf(h, "%s\x00%s\x00", c.Subject, m.Descriptor().FullName())
	h.Write(b)
	return h.Sum(nil), nil
}

// requestHashKey is made of the replay key.
func (s *Service) requestHashKey() ([]byte, error) {
	sec, err := s.Reader.Secret(raftstore.ReplayKeyName)
	if err != nil {
		return nil, fmt.Errorf("secret %s: %w", raftstore.ReplayKeyName, err)
	}
	s.hashMu.Lock()
	defer s.hashMu.Unlock()
	if s.hashKey != nil && s.hashRev == sec.GetRevision() {
		return s.hashKey, nil
	}
	cl, err := s.Reader.Cluster()
	if err != nil {
		return nil, err
	}
	raw, err := s.Sealer.Open(masterkey.SecretAAD(cl.GetId(), raftstore.ReplayKeyName), sec.GetKey())
	if err != nil {
		return nil, err
	}
	h := hmac.New(sha256.New, raw)
	h.Write([]byte("charon admin request hash 1"))
	s.hashKey, s.hashRev = h.Sum(nil), sec.GetRevision()
	return s.hashKey, nil
}

// meta of an answer to a mutation.
func (s *Service) meta(res *statev1.Result) *adminv1.Meta {
	return &adminv1.Meta{Node: s.NodeName, Revision: res.GetRevision(), Index: res.GetIndex(), Replayed: res.GetReplayed()}
}

// readMeta of an answer to a read. It is taken before the read, so the answer is at least as new.
func (s *Service) readMeta() *adminv1.Meta {
	index, _ := s.Reader.Applied()
	return &adminv1.Meta{Node: s.NodeName, Index: index, ContactMs: s.Store.LastContact().Milliseconds()}
}

// atRevision is the condition that a record is still what was read, and what the caller expected.
func atRevision(read, expected uint64, what string) (*statev1.Expect, error) {
	if expected != 0 && expected != read {
		return nil, conflict(what).with("revision", fmt.Sprint(read))
	}
	return &statev1.Expect{Condition: &statev1.Expect_Revision{Revision: read}}, nil
}

func absent() *statev1.Expect {
	return &statev1.Expect{Condition: &statev1.Expect_Absent{Absent: true}}
}

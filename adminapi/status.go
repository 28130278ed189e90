package adminapi

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/charon-kdc/charon/raftstore"

	statev1 "github.com/charon-kdc/charon/proto/charon/state/v1"
)

// ErrorDomain is the ErrorInfo domain of every error made here.
const ErrorDomain = "charon"

// refusal is an answer of no, decided here. It becomes a status in toStatus and nowhere else.
type refusal struct {
	code   codes.Code
	reason string
	msg    string
	meta   map[string]string
	retry  time.Duration // 0: retrying does not help
}

func (r *refusal) Error() string { return r.msg }

func refuse(code codes.Code, reason, format string, args ...any) *refusal {
	return &refusal{code: code, reason: reason, msg: fmt.Sprintf(format, args...), meta: map[string]string{}}
}

// with adds metadata, given as key, value, key, value.
func (r *refusal) with(kv ...string) *refusal {
	for i := 0; i+1 < len(kv); i += 2 {
		r.meta[kv[i]] = kv[i+1]
	}
	return r
}

func (r *refusal) after(d time.Duration) *refusal { r.retry = d; return r }

// retryWait is about one election.
const retryWait = time.Second

// toStatus is the only door from an error to a gRPC status. What is our own fault says nothing of its inside.
func toStatus(err error, node string, requestID []byte) error {
	if err == nil {
		return nil
	}
	if _, ok := status.FromError(err); ok {
		return err // decided elsewhere: by the leader, when the call was forwarded
	}
	r := asRefusal(err)
	if len(requestID) > 0 {
		r.with("request_id", hex.EncodeToString(requestID))
	}
	r.with("node", node)
	details := []protoadapt.MessageV1{protoadapt.MessageV1Of(&errdetails.ErrorInfo{Reason: r.reason, Domain: ErrorDomain, Metadata: r.meta})}
	if r.retry > 0 {
		details = append(details, protoadapt.MessageV1Of(&errdetails.RetryInfo{RetryDelay: durationpb.New(r.retry)}))
	}
	st, detailErr := status.New(r.code, r.msg).WithDetails(details...)
	if detailErr != nil {
		return status.Error(r.code, r.msg)
	}
	return st.Err()
}

func asRefusal(err error) *refusal {
	if r, ok := errors.AsType[*refusal](err); ok {
		return &refusal{r.code, r.reason, r.msg, cloneMeta(r.meta), r.retry}
	}
	if e, ok := errors.AsType[*raftstore.LevelError](err); ok {
		return refuse(codes.FailedPrecondition, "FEATURE_LEVEL", "nothing was done: this %v", e)
	}
	if errors.Is(err, raftstore.ErrNoQuorum) {
		return noQuorum()
	}
	if e, ok := errors.AsType[*raftstore.NotAppliedError](err); ok {
		return notApplied(e.Leader.AdminAddress)
	}
	if _, ok := errors.AsType[*raftstore.UnknownOutcomeError](err); ok {
		return unknownOutcome()
	}
	switch {
	case errors.Is(err, raftstore.ErrNoLeader):
		return notApplied("")
	case errors.Is(err, context.DeadlineExceeded):
		return refuse(codes.DeadlineExceeded, "DEADLINE_EXCEEDED", "the call's time was over before there was an answer").after(retryWait)
	case errors.Is(err, context.Canceled):
		return refuse(codes.Canceled, "CANCELED", "the caller went away")
	}
	return refuse(codes.Internal, "INTERNAL", "internal error; the node's log says more")
}

func cloneMeta(m map[string]string) map[string]string {
	out := make(map[string]string, len(m)+2)
	for k, v := range m {
		out[k] = v
	}
	return out
}

// notApplied: certainly nothing was done.
func notApplied(leader string) *refusal {
	r := refuse(codes.Unavailable, "NOT_APPLIED", "no leader with a quorum: nothing was done; try again, or see: charon status")
	if leader != "" {
		r.with("leader", leader)
	}
	return r.with("outcome", "not_applied").after(retryWait)
}

// noQuorum: certainly nothing was done, and trying again does nothing for as long as too few nodes answer.
func noQuorum() *refusal {
	return refuse(codes.Unavailable, "NO_QUORUM", "no quorum: nothing was done, and nothing can be until a majority of the nodes is back; see: charon status").
		with("outcome", "not_applied")
}

// unknownOutcome: the change may be done, now or later. The same request id asks what became of it.
func unknownOutcome() *refusal {
	return refuse(codes.Unavailable, "OUTCOME_UNKNOWN", "it is unknown whether the change was made: repeat the call with the same request id").
		with("outcome", "unknown").after(retryWait)
}

// resultError is the refusal that a state machine's result stands for; nil when the command was applied. what names the record.
func resultError(res *statev1.Result, what string) error {
	switch res.GetCode() {
	case statev1.Code_CODE_OK:
		return nil
	case statev1.Code_CODE_NOT_FOUND:
		return notFound(what)
	case statev1.Code_CODE_EXISTS:
		return refuse(codes.AlreadyExists, "EXISTS", "%s", cmp.Or(res.GetMessage(), what+" exists"))
	case statev1.Code_CODE_CONFLICT:
		return conflict(what)
	case statev1.Code_CODE_INVALID:
		return refuse(codes.InvalidArgument, "INVALID", "%s", res.GetMessage())
	case statev1.Code_CODE_REQUEST_ID_REUSED:
		return refuse(codes.InvalidArgument, "REQUEST_ID_REUSED", "this request id was used for another request; make a new one")
	case statev1.Code_CODE_REQUEST_ID_EXPIRED:
		return refuse(codes.InvalidArgument, "REQUEST_ID_EXPIRED", "this request id is too old to act once, or was made under a clock that is an hour slow; see what the state is and make a new one")
	case statev1.Code_CODE_REQUEST_IDS_FULL:
		return refuse(codes.ResourceExhausted, "REQUEST_IDS_FULL", "too many changes in the last hour").after(time.Minute)
	case statev1.Code_CODE_TOKEN_REFUSED:
		return refuse(codes.PermissionDenied, "TOKEN_REFUSED", "the join token was used or has expired")
	case statev1.Code_CODE_IN_USE:
		return refuse(codes.FailedPrecondition, "IN_USE", "%s", res.GetMessage())
	}
	return fmt.Errorf("result code %d: %s", res.GetCode(), res.GetMessage())
}

func notFound(what string) *refusal {
	return refuse(codes.NotFound, "NOT_FOUND", "%s does not exist", what)
}

func exists(what string) *refusal {
	return refuse(codes.AlreadyExists, "EXISTS", "%s exists", what)
}

func conflict(what string) *refusal {
	return refuse(codes.Aborted, "CONFLICT", "%s was changed by another call: read it again and decide anew", what)
}

// errorInfo is the ErrorInfo of a status that this API made, or nil.
func errorInfo(err error) *errdetails.ErrorInfo {
	st, ok := status.FromError(err)
	if err == nil || !ok {
		return nil
	}
	for _, d := range st.Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok && info.GetDomain() == ErrorDomain {
			return info
		}
	}
	return nil
}

package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/charon-kdc/charon/node"
)

// statusOf is the gRPC status inside err, as the server sent it; status.FromError would put wrappers' text into its message.
func statusOf(err error) (*status.Status, bool) {
	var s interface{ GRPCStatus() *status.Status }
	if err == nil || !errors.As(err, &s) {
		return nil, false
	}
	return s.GRPCStatus(), true
}

// neverSent tells that a call's connection was not made, so that another address may be tried.
func neverSent(err error) bool {
	return status.Code(err) == codes.Unavailable && details(err) == nil && strings.Contains(err.Error(), "Error while dialing")
}

// details is what the admin API says about its error, or nil.
func details(err error) *errdetails.ErrorInfo {
	st, ok := statusOf(err)
	if !ok {
		return nil
	}
	for _, d := range st.Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok && info.GetDomain() == "charon" {
			return info
		}
	}
	return nil
}

// retryAfter is how long the server asks to wait; 0 when it says nothing.
func retryAfter(err error) time.Duration {
	st, _ := statusOf(err)
	for _, d := range st.Details() {
		if r, ok := d.(*errdetails.RetryInfo); ok {
			return r.GetRetryDelay().AsDuration()
		}
	}
	return 0
}

// outcomeUnknown tells that a mutation may have been made.
func outcomeUnknown(err error) bool {
	if neverSent(err) {
		return false
	}
	if _, ok := errors.AsType[*unreachableError](err); ok {
		return false
	}
	switch status.Code(err) {
	case codes.Unavailable:
		return details(err) == nil || details(err).GetMetadata()["outcome"] == "unknown"
	case codes.DeadlineExceeded, codes.Canceled:
		return true
	}
	return false
}

func apiExitCode(err error) (int, bool) {
	if _, ok := errors.AsType[*unreachableError](err); ok {
		return exitNotDone, true
	}
	st, ok := statusOf(err)
	if !ok {
		return 0, false
	}
	switch st.Code() {
	case codes.NotFound:
		return exitNotFound, true
	case codes.AlreadyExists, codes.Aborted, codes.FailedPrecondition:
		return exitConflict, true
	case codes.Unavailable, codes.ResourceExhausted, codes.DeadlineExceeded:
		return exitNotDone, true
	case codes.InvalidArgument:
		if details(err).GetReason() == "INVALID" {
			return exitUsage, true
		}
	}
	return exitError, true
}

// apiText is the API's message and the node it comes from.
func apiText(err error) (string, bool) {
	if _, ok := errors.AsType[*unreachableError](err); ok {
		return "", false
	}
	if _, ok := errors.AsType[*codedError](err); ok {
		return "", false
	}
	st, ok := statusOf(err)
	if !ok {
		return "", false
	}
	if st.Code() == codes.Unavailable && details(err) == nil {
		return "the connection broke before there was an answer; run the same line again, or ask another node (--addr)", true
	}
	if node := details(err).GetMetadata()["node"]; node != "" {
		return fmt.Sprintf("%s (node %s)", st.Message(), node), true
	}
	return st.Message(), true
}

// timeLimit is the context for one verb's calls.
func timeLimit(cmd *cobra.Command) (context.Context, context.CancelFunc) {
	d, err := cmd.Flags().GetDuration("timeout")
	if err != nil || d <= 0 {
		d = timeoutDefault
	}
	return context.WithTimeout(cmd.Context(), d)
}

// withConnection runs f with a connection and a deadline.
func withConnection(cmd *cobra.Command, f func(ctx context.Context, c *connection) error) error {
	c, err := connect(cmd)
	if err != nil {
		return err
	}
	defer c.Close()
	ctx, cancel := timeLimit(cmd)
	defer cancel()
	if err := f(ctx, c); err != nil {
		return err
	}
	c.tellLocal(cmd)
	return nil
}

// tryLeast is how much time another try needs at least, where nothing was done so far.
const tryLeast = 250 * time.Millisecond

// mutate makes one change: with one request id, repeated while its outcome is unknown or nothing was done for want of a leader, until
// the deadline. Once a try's outcome was unknown, only an answer that the leader gave after it had looked the id up settles it; a try that did nothing says nothing of the
// one before it.
func mutate[R any](ctx context.Context, cmd *cobra.Command, call func(ctx context.Context, id []byte) (R, error)) (R, error) {
	var none R
	id, err := requestID(cmd)
	if err != nil {
		return none, err
	}
	unknown := cmd.Flags().Changed("request-id") // the try that it repeats was
	for wait := 50 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		begun := time.Now()
		r, err := call(ctx, id)
		unknown = unknown || outcomeUnknown(err)
		if err == nil || !unknown && !leaderless(err) || definite(err) {
			return r, err
		}
		why := ""
		pause := max(wait, min(retryAfter(err), time.Second))
		if end, ok := ctx.Deadline(); ok && !unknown && time.Until(end)-pause < max(2*time.Since(begun), tryLeast) {
			return none, err // the deadline would cut another try off, which then might have done something
		}
		if refusedOutright(err) {
			why = ", and now: " + describe(err)
		} else {
			select {
			case <-ctx.Done():
			case <-time.After(pause):
				continue
			}
		}
		if !unknown {
			return none, err // nothing was done
		}
		return none, coded(exitUnknown, "it is unknown whether this was done%s; run the same line again with --request-id %s", why, formatUUID(id))
	}
}

// leaderless tells that nothing was done since the cluster had no leader, as during an election.
func leaderless(err error) bool { return details(err).GetReason() == "NOT_APPLIED" }

// definite tells that the leader decided, knowing what became of earlier tries with the request id.
func definite(err error) bool {
	if details(err) == nil {
		return false
	}
	switch status.Code(err) {
	case codes.NotFound, codes.AlreadyExists, codes.Aborted, codes.FailedPrecondition, codes.InvalidArgument:
		return true
	}
	return false
}

// refusedOutright tells that the caller's rights ended the call before the request id was looked up, and would again.
func refusedOutright(err error) bool {
	return status.Code(err) == codes.PermissionDenied || status.Code(err) == codes.Unauthenticated
}

// requestID is the one the user repeats, or a new one.
func requestID(cmd *cobra.Command) ([]byte, error) {
	text, _ := cmd.Flags().GetString("request-id")
	if text == "" {
		id := node.NewRequestID(time.Now())
		return id[:], nil
	}
	id, err := hex.DecodeString(strings.ReplaceAll(text, "-", ""))
	if err != nil || len(id) != 16 {
		return nil, usage(cmd, "--request-id %q is not a UUID", text)
	}
	return id, nil
}

func formatUUID(id []byte) string {
	h := hex.EncodeToString(id)
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

package main

import (
	"context"
	"regexp"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// apiError is an error as the admin API answers it.
func apiError(t *testing.T, code codes.Code, reason, outcome string) error {
	t.Helper()
	info := &errdetails.ErrorInfo{Domain: "charon", Reason: reason, Metadata: map[string]string{"node": "n1"}}
	if outcome != "" {
		info.Metadata["outcome"] = outcome
	}
	st, err := status.New(code, strings.ToLower(reason)).WithDetails(info)
	if err != nil {
		t.Fatal(err)
	}
	return st.Err()
}

// A change whose outcome was unknown once is not reported as not done by a later try that did nothing: the first may still be made.
func TestMutateAfterUnknown(t *testing.T) {
	unknown := apiError(t, codes.Unavailable, "OUTCOME_UNKNOWN", "unknown")
	cut := status.Error(codes.Unavailable, "error reading from server: EOF") // the connection broke while the call was under way
	notApplied := apiError(t, codes.Unavailable, "NOT_APPLIED", "not_applied")
	noQuorum := apiError(t, codes.Unavailable, "NO_QUORUM", "not_applied")
	unreachable := &unreachableError{[]string{"n1:7749"}, status.Error(codes.Unavailable, "Error while dialing")}
	exists := apiError(t, codes.AlreadyExists, "EXISTS", "")
	denied := apiError(t, codes.PermissionDenied, "PERMISSION_DENIED", "")
	busy := apiError(t, codes.ResourceExhausted, "REQUEST_IDS_FULL", "")
	for _, c := range []struct {
		name    string
		answers []error // the last one is given from then on
		id      string  // --request-id
		want    int
		tries   int // 0: until the deadline
	}{
		{"done at once", []error{nil}, "", exitOK, 1},
		{"an election, then done", []error{notApplied, notApplied, nil}, "", exitOK, 3},
		{"no leader for long", []error{notApplied}, "", exitNotDone, 0},
		{"no quorum", []error{noQuorum}, "", exitNotDone, 1},
		{"unknown, then no quorum", []error{unknown, noQuorum}, "", exitUnknown, 0},
		{"no leader, then unknown", []error{notApplied, unknown}, "", exitUnknown, 0},
		{"no leader, then a definite no", []error{notApplied, exists}, "", exitConflict, 2},
		{"nobody there at once", []error{unreachable}, "", exitNotDone, 1},
		{"unknown, then done", []error{unknown, nil}, "", exitOK, 2},
		{"unknown, then no leader, then done", []error{cut, notApplied, unreachable, nil}, "", exitOK, 4},
		{"unknown, then no leader", []error{unknown, notApplied}, "", exitUnknown, 0},
		{"unknown, then nobody there", []error{cut, unreachable}, "", exitUnknown, 0},
		{"unknown, then too many", []error{cut, busy}, "", exitUnknown, 0},
		{"unknown, then refused before it was looked up", []error{cut, denied}, "", exitUnknown, 2},
		{"unknown, then a definite no", []error{unknown, notApplied, exists}, "", exitConflict, 3},
		// Who gives a request id had an unknown outcome before.
		{"repeated by hand, no leader", []error{notApplied}, "01938c7e-5a00-7000-8000-000000000001", exitUnknown, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			cmd := root()
			if c.id != "" {
				if err := cmd.ParseFlags([]string{"--request-id", c.id}); err != nil {
					t.Fatal(err)
				}
			}
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			tries := 0
			var ids []string
			_, err := mutate(ctx, cmd, func(_ context.Context, id []byte) (struct{}, error) {
				ids = append(ids, formatUUID(id))
				answer := c.answers[min(tries, len(c.answers)-1)]
				tries++
				return struct{}{}, answer
			})
			if got := exitOf(err); got != c.want {
				t.Errorf("exit %d, want %d: %v", got, c.want, err)
			}
			// 0: not before the deadline; where nothing was done, not before another try would run into it.
			early := c.want == exitUnknown && ctx.Err() == nil || tries < 2
			if c.tries != 0 && tries != c.tries || c.tries == 0 && early {
				t.Errorf("%d tries, want %d; deadline %v", tries, c.tries, ctx.Err())
			}
			for _, id := range ids {
				if id != ids[0] {
					t.Errorf("tried with ids %v", ids)
				}
			}
			if c.want == exitUnknown {
				if m := regexp.MustCompile(`--request-id (\S+)`).FindStringSubmatch(describe(err)); m == nil || m[1] != ids[0] {
					t.Errorf("%q does not give the request id %s", describe(err), ids[0])
				}
			}
		})
	}
}

func exitOf(err error) int {
	if err == nil {
		return exitOK
	}
	return exitCode(err)
}

// What gRPC says of a connection that broke is nothing for a user.
func TestBrokenConnectionText(t *testing.T) {
	err := status.Error(codes.Unavailable, `closing transport due to: connection error: desc = "error reading from server: EOF"`)
	if text := describe(err); !strings.HasPrefix(text, "the connection broke before there was an answer; ") || exitOf(err) != exitNotDone {
		t.Errorf("exit %d: %s", exitOf(err), text)
	}
}

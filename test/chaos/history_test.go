package chaos

import (
	"context"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	adminv1 "github.com/charon-kdc/charon/proto/charon/admin/v1"
)

// The administrators work on families of two names each, so that renames stay inside one history.
const families = 8

type verb string

const (
	create verb = "create"
	read   verb = "read"
	update verb = "update"
	remove verb = "delete"
	rename verb = "rename"
)

// call is one operation on a family; name is 0 or 1, a rename goes to the other one.
type call struct {
	verb   verb
	family int
	name   int
	life   int64 // for create and update
}

type outcome string

const (
	done     outcome = "done"
	missing  outcome = "not found"
	exists   outcome = "exists"
	nothing  outcome = "nothing done"
	unknown  outcome = "unknown"
	surprise outcome = "surprise"
)

type answer struct {
	outcome outcome
	life    int64 // of a read
}

// family is the model's state: each name's maximum life, 0 when it does not exist.
type family [2]int64

// step is what the promise says, invariant A: calls act at one instant between their begin and their end.
func step(s family, c call, a answer) (bool, family) {
	was := s[c.name]
	next := s
	var want outcome = done
	switch c.verb {
	case create:
		if was != 0 {
			want = exists
		} else {
			next[c.name] = c.life
		}
	case read:
		if was == 0 {
			want = missing
		}
		return a.outcome == want && (want == missing || a.life == was), s
	case update:
		if was == 0 {
			want = missing
		} else {
			next[c.name] = c.life
		}
	case remove:
		if was == 0 {
			want = missing
		} else {
			next[c.name] = 0
		}
	case rename:
		switch {
		case was == 0:
			want = missing
		case s[1-c.name] != 0:
			want = exists
		default:
			next[1-c.name], next[c.name] = was, 0
		}
	}
	if want != done {
		next = s
	}
	return a.outcome == want || a.outcome == unknown, next
}

// model is porcupine's form of step. A call whose outcome is unknown may have acted at any time after its begin, or never: it ends with the
// history, where acting contradicts nobody.
var model = porcupine.Model{
	Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
		out := make([][]porcupine.Operation, families)
		for _, op := range history {
			f := op.Input.(call).family
			out[f] = append(out[f], op)
		}
		return out
	},
	Init: func() any { return family{} },
	Step: func(state, input, output any) (bool, any) {
		return step(state.(family), input.(call), output.(answer))
	},
	DescribeOperation: func(input, output any) string {
		c, a := input.(call), output.(answer)
		return fmt.Sprintf("%s f%d%c %d -> %s %d", c.verb, c.family, 'a'+c.name, c.life, a.outcome, a.life)
	},
	DescribeState: func(state any) string { return fmt.Sprint(state) },
}

// recorder keeps the history.
type recorder struct {
	begun time.Time
	mu    sync.Mutex
	ops   []porcupine.Operation
	count map[outcome]int
	// late are unknown outcomes: they end with the history.
	late []int
}

func newRecorder() *recorder { return &recorder{begun: time.Now(), count: map[outcome]int{}} }

func (r *recorder) add(client int, c call, a answer, from, to time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.count[a.outcome]++
	if a.outcome == nothing || c.verb == read && a.outcome == unknown {
		return
	}
	if a.outcome == unknown {
		r.late = append(r.late, len(r.ops))
	}
	r.ops = append(r.ops, porcupine.Operation{ClientId: client, Input: c, Output: a, Call: int64(from.Sub(r.begun)), Return: int64(to.Sub(r.begun))})
}

// check holds the history against the model and leaves it as HTML in dir when it does not fit.
func (r *recorder) check(t *testing.T, dir string) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	end := int64(time.Since(r.begun))
	for n, i := range r.late {
		r.ops[i].Return = end
		// A client does one thing at a time: what may act later is no longer that client's.
		r.ops[i].ClientId = 1000 + n
	}
	result, info := porcupine.CheckOperationsVerbose(model, r.ops, time.Minute)
	if result == porcupine.Ok {
		return
	}
	path := filepath.Join(dir, "history.html")
	if err := porcupine.VisualizePath(model, info, path); err != nil {
		t.Error(err)
	}
	t.Errorf("the administrators' history is not linearizable (%v): %s", result, path)
}

// admin calls the API of one or another node, through the sockets.
type admin struct {
	c     *cluster
	conns []adminv1.PrincipalsClient
}

func newAdmin(c *cluster) *admin {
	a := &admin{c: c}
	for _, h := range c.hosts {
		cc, err := grpc.NewClient(h.socket(), grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.5, MaxDelay: 500 * time.Millisecond}, MinConnectTimeout: time.Second}))
		if err != nil {
			c.t.Fatal(err)
		}
		c.t.Cleanup(func() { cc.Close() })
		a.conns = append(a.conns, adminv1.NewPrincipalsClient(cc))
	}
	return a
}

func (a *admin) any() adminv1.PrincipalsClient { return a.conns[rand.IntN(len(a.conns))] }

// requestID is a UUIDv7 (RFC 9562 section 5.7).
func requestID() []byte {
	id := make([]byte, 16)
	for i := range id {
		id[i] = byte(rand.Uint32())
	}
	ms := uint64(time.Now().UnixMilli())
	for i := range 6 {
		id[i] = byte(ms >> (40 - 8*i))
	}
	id[6], id[8] = id[6]&0x0f|0x70, id[8]&0x3f|0x80
	return id
}

// outcomeOf is what an answer of the API says about the change.
func outcomeOf(err error) outcome {
	if err == nil {
		return done
	}
	for _, d := range status.Convert(err).Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok && info.GetMetadata()["outcome"] == "not_applied" {
			return nothing
		}
	}
	switch status.Code(err) {
	case codes.NotFound:
		return missing
	case codes.AlreadyExists:
		return exists
	case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled:
		return unknown
	case codes.ResourceExhausted:
		return nothing
	}
	return surprise
}

func nameOf(family, name int) string { return fmt.Sprintf("f%d%c", family, 'a'+name) }

// do makes one call at one node.
func do(ctx context.Context, api adminv1.PrincipalsClient, c call, id []byte) (int64, error) {
	name := nameOf(c.family, c.name)
	var err error
	switch c.verb {
	case create:
		_, err = api.CreatePrincipal(ctx, &adminv1.CreatePrincipalRequest{RequestId: id, Name: name, MaxLife: c.life, Keys: &adminv1.NewKeys{Source: &adminv1.NewKeys_None{None: true}}})
	case read:
		var r *adminv1.GetPrincipalResponse
		if r, err = api.GetPrincipal(ctx, &adminv1.GetPrincipalRequest{Name: name}); err == nil {
			return r.GetPrincipal().GetMaxLife(), nil
		}
	case update:
		_, err = api.UpdatePrincipal(ctx, &adminv1.UpdatePrincipalRequest{RequestId: id, Name: name, MaxLife: &c.life})
	case remove:
		_, err = api.DeletePrincipal(ctx, &adminv1.DeletePrincipalRequest{RequestId: id, Name: name})
	case rename:
		_, err = api.RenamePrincipal(ctx, &adminv1.RenamePrincipalRequest{RequestId: id, Name: name, NewName: nameOf(c.family, 1-c.name)})
	}
	return 0, err
}

// administrator works on random families until ctx ends. Every other one repeats a call whose outcome it does not know, at another node and
// with the same request id; the rest leave it at that.
func (a *admin) administrator(ctx context.Context, n int, r *recorder) {
	rng := rand.New(rand.NewPCG(uint64(n), uint64(time.Now().UnixNano())))
	verbs := []verb{create, create, read, read, read, update, update, remove, rename}
	for life := int64(1); ctx.Err() == nil; life++ {
		c := call{verb: verbs[rng.IntN(len(verbs))], family: rng.IntN(families), name: rng.IntN(2)}
		if c.verb == create || c.verb == update {
			c.life = int64(n)*1_000_000 + life // every written value is another one
		}
		a.one(ctx, n, c, n%2 == 0, r)
		pause(ctx, time.Duration(20+rng.IntN(60))*time.Millisecond)
	}
}

func (a *admin) one(ctx context.Context, n int, c call, retry bool, r *recorder) {
	id := requestID()
	from := time.Now()
	tries, limit := 1, 8*time.Second // long enough for a node without a quorum to say what it knows
	if retry {
		tries, limit = 12, 3*time.Second
	}
	var got answer
	maybe := false // an earlier try may have acted
	for range tries {
		tctx, cancel := context.WithTimeout(ctx, limit)
		life, err := do(tctx, a.any(), c, id)
		cancel()
		got = answer{outcomeOf(err), life}
		if got.outcome == surprise {
			a.c.t.Errorf("%v: %v", c, err)
			return
		}
		if got.outcome != unknown && got.outcome != nothing || ctx.Err() != nil {
			break
		}
		maybe = maybe || got.outcome == unknown
		pause(ctx, 250*time.Millisecond)
	}
	if got.outcome == nothing && maybe {
		got.outcome = unknown
	}
	r.add(n, c, got, from, time.Now())
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// acknowledged is how many changes were acknowledged.
func (r *recorder) acknowledged() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.count[done]
}

func (r *recorder) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var b strings.Builder
	for _, o := range []outcome{done, missing, exists, nothing, unknown} {
		fmt.Fprintf(&b, "%d %s, ", r.count[o], o)
	}
	return strings.TrimSuffix(b.String(), ", ")
}

// TestModel shows that the checker can fail: a lost write, a write that acts twice and a stale read do not fit.
func TestModel(t *testing.T) {
	op := func(c call, a answer, from, to int64) porcupine.Operation {
		return porcupine.Operation{Input: c, Output: a, Call: from, Return: to}
	}
	set := func(v verb, life int64) call { return call{verb: v, life: life} }
	for name, x := range map[string]struct {
		fits bool
		ops  []porcupine.Operation
	}{
		"in order": {true, []porcupine.Operation{
			op(set(create, 1), answer{outcome: done}, 0, 1), op(set(read, 0), answer{done, 1}, 2, 3)}},
		"lost": {false, []porcupine.Operation{
			op(set(create, 1), answer{outcome: done}, 0, 1), op(set(read, 0), answer{outcome: missing}, 2, 3)}},
		"stale": {false, []porcupine.Operation{
			op(set(create, 1), answer{outcome: done}, 0, 1), op(set(update, 2), answer{outcome: done}, 2, 3), op(set(read, 0), answer{done, 1}, 4, 5)}},
		"twice": {false, []porcupine.Operation{
			op(set(create, 1), answer{outcome: done}, 0, 1), op(set(remove, 0), answer{outcome: done}, 2, 3), op(set(read, 0), answer{done, 1}, 4, 5)}},
		"unknown, acted late": {true, []porcupine.Operation{
			op(set(create, 1), answer{outcome: unknown}, 0, 9), op(set(read, 0), answer{outcome: missing}, 2, 3), op(set(read, 0), answer{done, 1}, 4, 5)}},
		"unknown, never acted": {true, []porcupine.Operation{
			op(set(create, 1), answer{outcome: unknown}, 0, 9), op(set(read, 0), answer{outcome: missing}, 2, 3)}},
		"renamed over another": {false, []porcupine.Operation{
			op(set(create, 1), answer{outcome: done}, 0, 1), op(call{verb: create, name: 1, life: 2}, answer{outcome: done}, 2, 3),
			op(call{verb: rename}, answer{outcome: done}, 4, 5)}},
	} {
		if got := porcupine.CheckOperations(model, x.ops); got != x.fits {
			t.Errorf("%s: fits %v, want %v", name, got, x.fits)
		}
	}
}

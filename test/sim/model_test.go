package sim

import (
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"
)

// The verbs of the admin history.
const (
	opCreate   = "create"
	opDelete   = "delete"
	opPassword = "password"
	opUpdate   = "update"
	opRename   = "rename"
	opGet      = "get"
	// opLogin is a login with the password that the operation of that mark set, at a node that knows all.
	opLogin = "login"
)

// What an operation may say.
const (
	saysOK       = "ok"
	saysNotFound = "not found"
	saysExists   = "exists"
	saysRefused  = "refused" // certainly nothing was done
	saysUnknown  = "unknown"
)

// input is an operation on a pair of names, between which renames go.
type input struct {
	verb string
	name int // 0 or 1
	mark string
}

// output is what was answered.
type output struct {
	says string
	kvno uint32
	mark string
}

func (i input) String() string { return fmt.Sprintf("%s %d %s", i.verb, i.name, i.mark) }
func (o output) String() string {
	return strings.TrimSpace(fmt.Sprintf("%s kvno=%d %s", o.says, o.kvno, o.mark))
}

// record is one principal. The mark is a string attribute.
type record struct {
	there bool
	kvno  uint32
	mark  string
	// password is the mark of the operation that set it; anyPassword is not known.
	password string
}

const anyPassword = "?"

// pair is the state of a pair of names.
type pair [2]record

// step is what the operation does to s if it takes effect, and what it says then.
func (s pair) step(in input) (pair, output) {
	p := &s[in.name]
	if in.verb != opCreate && !p.there {
		return s, output{says: saysNotFound}
	}
	switch in.verb {
	case opCreate:
		if p.there {
			return s, output{says: saysExists}
		}
		*p = record{true, 1, in.mark, in.mark}
	case opDelete:
		*p = record{}
	case opPassword:
		p.kvno, p.password = p.kvno+1, in.mark
	case opUpdate:
		p.mark = in.mark
	case opRename:
		other := &s[1-in.name]
		if other.there {
			return s, output{says: saysExists}
		}
		*other, *p = *p, record{}
		return s, output{says: saysOK, kvno: other.kvno}
	}
	return s, output{says: saysOK, kvno: p.kvno, mark: p.mark}
}

// follows tells which states an answer leaves possible.
func (s pair) follows(in input, out output) []any {
	if in.verb == opLogin {
		p := s[in.name]
		if p.password == anyPassword || (p.there && p.password == in.mark) == (out.says == saysOK) {
			return []any{s}
		}
		return nil
	}
	next, says := s.step(in)
	switch out.says {
	case saysRefused:
		return []any{s}
	case saysUnknown:
		if next == s {
			return []any{s}
		}
		return []any{s, next}
	}
	if says.says != out.says || out.says == saysOK && (out.kvno != 0 && out.kvno != says.kvno || in.verb == opGet && out.mark != says.mark) {
		return nil
	}
	return []any{next}
}

// model of a pair that begins in a state.
func model(begin pair) porcupine.Model {
	m := porcupine.NondeterministicModel{
		Init:              func() []any { return []any{begin} },
		Step:              func(s, in, out any) []any { return s.(pair).follows(in.(input), out.(output)) },
		DescribeOperation: func(in, out any) string { return fmt.Sprintf("%v: %v", in, out) },
	}
	return m.ToModel()
}

// history is what was done to a pair since a moment at which its state was known.
type history struct {
	pair  int
	begin pair
	ops   []porcupine.Operation
}

func (h *history) add(clientID int, in input, out output, call, ret time.Time) {
	op := porcupine.Operation{ClientId: clientID, Input: in, Output: out, Call: call.UnixNano(), Return: ret.UnixNano()}
	if out.says == saysUnknown {
		op.Return = math.MaxInt64
	}
	h.ops = append(h.ops, op)
}

// check tells whether the history is linearizable (docs/testing.md, A).
func (h *history) check() bool { return porcupine.CheckOperations(model(h.begin), h.ops) }

func (h *history) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "pair %d begins as %v\n", h.pair, h.begin)
	for _, o := range h.ops {
		ret := "-"
		if o.Return != math.MaxInt64 {
			ret = time.Unix(0, o.Return).UTC().Format("15:04:05.000")
		}
		fmt.Fprintf(&b, "    %s %s client %d: %v: %v\n", time.Unix(0, o.Call).UTC().Format("15:04:05.000"), ret, o.ClientId, o.Input, o.Output)
	}
	return b.String()
}

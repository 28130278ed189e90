package krb5

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"testing"
)

// faultSeed is the message of that kind with the most elements, optional ones included: what the generators below break.
func faultSeed(t testing.TB, c codec) []byte {
	var best []byte
	most := 0
	for _, b := range seedsOf(t, c.name) {
		if len(b) >= 1200 {
			continue
		}
		if n := len((&derNode{children: parseDER(t, b)}).all()); n > most {
			best, most = b, n
		}
	}
	if best == nil {
		t.Fatalf("no seed for %s", c.name)
	}
	return best
}

// broken are one element's ways to be wrong: left out, emptied, doubled, of another type, contradicting its neighbour. Each returns false when it does not apply.
var broken = []struct {
	name string
	do   func(parent *derNode, i int) bool
}{
	{"drop", func(p *derNode, i int) bool {
		p.children = slices.Delete(p.children, i, i+1)
		return true
	}},
	{"empty", func(p *derNode, i int) bool {
		p.children[i].children, p.children[i].value = nil, nil
		return true
	}},
	{"double", func(p *derNode, i int) bool {
		p.children = slices.Insert(p.children, i, p.children[i].clone())
		return true
	}},
	{"swap", func(p *derNode, i int) bool {
		if i == 0 {
			return false
		}
		p.children[i], p.children[i-1] = p.children[i-1], p.children[i]
		return true
	}},
	{"retag", func(p *derNode, i int) bool {
		p.children[i].tag ^= 1
		return true
	}},
	{"primitive", func(p *derNode, i int) bool {
		e := p.children[i]
		if e.tag&0x20 == 0 {
			return false
		}
		b := e.bytes()
		e.tag, e.value, e.children = e.tag&^0x20, b, nil
		return true
	}},
	{"one", func(p *derNode, i int) bool {
		if p.children[i].tag&0x20 != 0 {
			return false
		}
		p.children[i].value = []byte{0x01}
		return true
	}},
	{"ones", func(p *derNode, i int) bool {
		if p.children[i].tag&0x20 != 0 {
			return false
		}
		p.children[i].value = bytes.Repeat([]byte{0xff}, max(len(p.children[i].value), 1))
		return true
	}},
	{"huge", func(p *derNode, i int) bool {
		if p.children[i].tag&0x20 != 0 {
			return false
		}
		p.children[i].value = bytes.Repeat([]byte{0x41}, 1300)
		return true
	}},
}

// spot is an element by its parent and its place.
type spot struct {
	parent *derNode
	i      int
}

func spots(e *derNode) []spot {
	var out []spot
	for i, c := range e.children {
		out = append(out, spot{e, i})
		out = append(out, spots(c)...)
	}
	return out
}

// TestBrokenFields breaks every element of every message in every way, and pairs of elements (the class of
// MIT's CVE-2011-1530, 2012-1016, 2013-1415 to 1418, 2016-3120 and 2021-36222). Decoders answer with a message or an error, as the reference does.
func TestBrokenFields(t *testing.T) {
	for _, c := range codecs {
		t.Run(c.name, func(t *testing.T) {
			root := &derNode{tag: 0x30, children: parseDER(t, faultSeed(t, c))}
			n := len(spots(root))
			for i := range n {
				for _, b := range broken {
					c.breakAt(t, root, b.do, i)
				}
			}
			c.breakPairs(t, root, n)
		})
	}
}

// breakAt breaks element i of a copy of root and holds both codecs against each other.
func (c codec) breakAt(t *testing.T, root *derNode, do func(*derNode, int) bool, i int) *derNode {
	t.Helper()
	m := root.clone()
	s := spots(m)[i]
	if !do(s.parent, s.i) {
		return nil
	}
	c.same(t, inside(m))
	return m
}

// breakPairs drops or empties two elements at once: all pairs of a small message, a random 150 of a larger one.
func (c codec) breakPairs(t *testing.T, root *derNode, n int) {
	t.Helper()
	pairs := n * n
	rng := rand.New(rand.NewPCG(1, uint64(n)))
	for k := range min(pairs, 150) {
		if pairs > 150 {
			k = rng.IntN(pairs)
		}
		first, second := k/n, k%n
		m := c.breakAt(t, root, broken[k%2].do, first)
		if rest := spots(m); second < len(rest) {
			c.breakAt(t, m, broken[k/2%2].do, second)
		}
	}
}

// inside is the DER of what the artificial root holds.
func inside(root *derNode) []byte {
	var out []byte
	for _, e := range root.children {
		out = append(out, e.bytes()...)
	}
	return out
}

// TestTruncations cuts every message at every length (of the longer ones, at some), and puts an octet behind it: only the whole is accepted.
func TestTruncations(t *testing.T) {
	for _, c := range codecs {
		seed := faultSeed(t, c)
		if c.same(t, seed) == nil {
			t.Errorf("%s: the seed itself is refused", c.name)
		}
		for n := 0; n < len(seed); n += 1 + n/200 {
			if c.same(t, seed[:n]) != nil {
				t.Errorf("%s: accepted when cut to %d of %d octets", c.name, n, len(seed))
			}
		}
		if c.same(t, append(bytes.Clone(seed), 0)) != nil {
			t.Errorf("%s: accepted with an octet too many", c.name)
		}
	}
}

// TestFlippedBits flips one bit in eleven of a message of each kind, in each place of an octet in turn.
func TestFlippedBits(t *testing.T) {
	for _, c := range codecs {
		seed := faultSeed(t, c)
		for i := 0; i < min(len(seed), 400)*8; i += 11 {
			b := bytes.Clone(seed)
			b[i/8] ^= 1 << (i % 8)
			c.same(t, b)
		}
	}
}

// TestForeignMessages gives every message to every decoder: it is taken by its own and by nobody else.
func TestForeignMessages(t *testing.T) {
	for _, from := range codecs {
		seed := faultSeed(t, from)
		for _, to := range codecs {
			if got := to.same(t, seed); got != nil && wireForm(from.name) != wireForm(to.name) {
				t.Errorf("a %s is read as %s", from.name, to.name)
			}
		}
	}
}

// wireForm is one name for codecs of the same type on the wire.
func wireForm(name string) string {
	switch name {
	case "EncASRepPart":
		return "EncTGSRepPart"
	case "AuthorizationData": // both are lists of an Int32 and an OCTET STRING under tags 0 and 1
		return "ETypeInfo"
	}
	return name
}

// TestEncodersRefuse gives encoders what decoders would refuse.
func TestEncodersRefuse(t *testing.T) {
	long := string(bytes.Repeat([]byte{'a'}, 257))
	for i, m := range []*KDCReqBody{
		{Realm: vRealm},            // no till
		{Realm: long, Till: vTime}, // realm too long
		{Realm: vRealm, Till: vTime, SName: &PrincipalName{}},
		{Realm: vRealm, Till: vTime, SName: &PrincipalName{1, make([]string, 11)}},
		{Realm: vRealm, Till: vTime, SName: &PrincipalName{1, []string{long}}},
		{Realm: vRealm, Till: vTime, SName: &PrincipalName{1, slices.Repeat([]string{long[:250]}, 5)}},
		{Realm: vRealm, Till: vTime.AddDate(9000, 0, 0)},
		{Realm: vRealm, Till: vTime.AddDate(-900, 0, 0)},
	} {
		if out, err := EncodeKDCReqBody(m); err == nil {
			t.Errorf("case %d is encoded as %x", i, out)
		}
		codecNamed(t, "KDCReqBody").sameEncoding(t, m)
	}
	// The zero value of these lacks nothing: their fields are octets, lists and numbers.
	whole := []string{"EncryptedData", "Checksum", "KRBPriv", "APRep", "KRBSafe", "KRBSafeBody", "EncKRBPrivPart", "KRBCred", "EncKRBCredPart", "MethodData", "ETypeInfo", "ETypeInfo2", "AuthorizationData"}
	for _, c := range codecs {
		if out := c.sameEncoding(t, c.zero()); (out != nil) != slices.Contains(whole, c.name) {
			t.Errorf("an empty %s is encoded as %x", c.name, out)
		}
	}
	if _, err := EncodeEncKDCRepPart(MsgAPReq, &EncKDCRepPart{}); err == nil {
		t.Error("an EncKDCRepPart of an AP-REQ is encoded")
	}
	if _, err := EncodeTicket(nil); err == nil {
		t.Error("a nil ticket is encoded")
	}
	if _, err := EncodeEncryptedData(&EncryptedData{Cipher: make([]byte, inputMax)}); err == nil {
		t.Error("more than 1 MiB is encoded")
	}
}

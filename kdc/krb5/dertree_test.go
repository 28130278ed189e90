package krb5

import (
	"bytes"
	"testing"
)

// derNode is one element of a DER tree; a primitive one has no children.
type derNode struct {
	tag      byte
	value    []byte // of a primitive one
	children []*derNode
}

// parseDER reads the elements in b, into constructed ones too. It knows the tags below 31, which are all that Kerberos has.
func parseDER(t testing.TB, b []byte) []*derNode {
	t.Helper()
	var out []*derNode
	for len(b) > 0 {
		n, head := int(b[1]), 2
		if n >= 0x80 {
			count := n & 0x7f
			n = 0
			for _, c := range b[2 : 2+count] {
				n = n<<8 | int(c)
			}
			head += count
		}
		e := &derNode{tag: b[0], value: b[head : head+n]}
		if b[0]&0x20 != 0 {
			e.children = parseDER(t, e.value)
		}
		out = append(out, e)
		b = b[head+n:]
	}
	return out
}

// bytes writes e with the shortest lengths.
func (e *derNode) bytes() []byte {
	body := e.value
	if e.tag&0x20 != 0 {
		body = nil
		for _, c := range e.children {
			body = append(body, c.bytes()...)
		}
	}
	out := []byte{e.tag}
	switch n := len(body); {
	case n < 0x80:
		out = append(out, byte(n))
	case n < 0x100:
		out = append(out, 0x81, byte(n))
	case n < 0x10000:
		out = append(out, 0x82, byte(n>>8), byte(n))
	default:
		out = append(out, 0x83, byte(n>>16), byte(n>>8), byte(n))
	}
	return append(out, body...)
}

// all gives e and everything in it.
func (e *derNode) all() []*derNode {
	out := []*derNode{e}
	for _, c := range e.children {
		out = append(out, c.all()...)
	}
	return out
}

func (e *derNode) clone() *derNode {
	c := *e
	c.children = nil
	for _, k := range e.children {
		c.children = append(c.children, k.clone())
	}
	return &c
}

// replaceElement puts the element new in place of every element old.
func replaceElement(t testing.TB, der, old, new []byte) []byte {
	t.Helper()
	root := parseDER(t, der)[0]
	for _, e := range root.all() {
		if bytes.Equal(e.bytes(), old) {
			*e = *parseDER(t, new)[0]
		}
	}
	return root.bytes()
}

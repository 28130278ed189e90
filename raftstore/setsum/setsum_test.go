package setsum

import (
	"bytes"
	"testing"
)

func TestSum(t *testing.T) {
	long := bytes.Repeat([]byte("v"), 2000)
	var a, b Sum
	a.Put(1, []byte("k"), []byte("v"))
	a.Put(2, []byte("key"), long)
	b.Put(2, []byte("key"), long)
	b.Put(3, []byte("x"), nil)
	b.Put(1, []byte("k"), []byte("v"))
	if a == b {
		t.Fatal("another record, the same sum")
	}
	b.Delete(3, []byte("x"), nil)
	if a != b {
		t.Fatalf("the order matters: %v, %v", a, b)
	}
	if got := Decode(a.Append(nil)); got != a {
		t.Fatalf("decoded %v, encoded %v", got, a)
	}
	a.Delete(1, []byte("k"), []byte("v"))
	a.Delete(2, []byte("key"), long)
	if a != (Sum{}) {
		t.Fatalf("an empty set's sum is %v", a)
	}
}

// Where key ends and value begins is part of a record, and so is its kind; the short way and the long one agree.
func TestSumTellsRecordsApart(t *testing.T) {
	seen := map[Sum]string{}
	for _, r := range []struct {
		name       string
		kind       byte
		key, value []byte
	}{
		{"ab|c", 1, []byte("ab"), []byte("c")}, {"a|bc", 1, []byte("a"), []byte("bc")}, {"kind 2", 2, []byte("ab"), []byte("c")},
		{"507 bytes", 1, []byte("a"), make([]byte, 506)}, {"508 bytes", 1, []byte("a"), make([]byte, 507)}, {"509 bytes", 1, []byte("a"), make([]byte, 508)},
	} {
		var s Sum
		s.Put(r.kind, r.key, r.value)
		if other, ok := seen[s]; ok {
			t.Errorf("%s and %s have one sum", r.name, other)
		}
		seen[s] = r.name
	}
}

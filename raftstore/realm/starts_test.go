package realm

import (
	"strings"
	"testing"

	statev1 "github.com/charon-kdc/charon/proto/charon/state/v1"
)

// A node's record never counts fewer starts than before: whoever says so runs on an old copy of the node's disk.
func TestStartsDoNotFall(t *testing.T) {
	db := openTest(t)
	put := func(starts uint64, e *statev1.Expect) *statev1.Result {
		n := putN("id1", "n1", e)
		n.GetPutNode().GetNode().BootCounter = starts
		return apply(t, db, n)
	}
	for i, c := range []struct {
		starts uint64
		e      *statev1.Expect
		code   statev1.Code
	}{
		{0, absent(), statev1.Code_CODE_OK},
		{3, present(), statev1.Code_CODE_OK},
		{3, present(), statev1.Code_CODE_OK}, // another address, say
		{2, present(), statev1.Code_CODE_INVALID},
		{0, nil, statev1.Code_CODE_INVALID},
		{4, nil, statev1.Code_CODE_OK},
	} {
		r := put(c.starts, c.e)
		if r.GetCode() != c.code {
			t.Errorf("step %d: %v %s, want %v", i, r.GetCode(), r.GetMessage(), c.code)
		}
		if c.code == statev1.Code_CODE_INVALID && !strings.Contains(r.GetMessage(), "old copy") {
			t.Errorf("step %d: %q", i, r.GetMessage())
		}
	}
	if n, err := db.Node(id16("id1")); err != nil || n.GetBootCounter() != 4 {
		t.Errorf("%v, %v", n, err)
	}
}

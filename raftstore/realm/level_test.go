package realm

import (
	"errors"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	statev1 "github.com/charon-kdc/charon/proto/charon/state/v1"
)

// Each operation of the first release is of level 1, each later one of level 2, alone and in a batch.
func TestCommandLevel(t *testing.T) {
	fields := (&statev1.Command{}).ProtoReflect().Descriptor().Fields()
	for i := range fields.Len() {
		fd := fields.Get(i)
		if fd.ContainingOneof() == nil {
			continue
		}
		want := uint32(1)
		if fd.Number() > 26 {
			want = 2
		}
		cmd := &statev1.Command{}
		cmd.ProtoReflect().Set(fd, cmd.ProtoReflect().NewField(fd))
		if got := CommandLevel(cmd); got != want {
			t.Errorf("%s: level %d, want %d", fd.Name(), got, want)
		}
		if got := CommandLevel(batch(putPol("p", nil), cmd)); fd.Name() != "batch" && got != want {
			t.Errorf("%s in a batch: level %d, want %d", fd.Name(), got, want)
		}
	}
	unknown := putPol("p", nil)
	unknown.GetPutPolicy().GetPolicy().ProtoReflect().SetUnknown(protoreflect.RawFields{0xfa, 0x3f, 0})
	staged := putP(principal("a"), nil)
	staged.GetPutPrincipal().GetPrincipal().GetKeys()[0].State = statev1.KeyState_KEY_STATE_RETIRING
	odd := proto.CloneOf(staged)
	odd.GetPutPrincipal().GetPrincipal().GetKeys()[0].State = 99
	raised := putC("c", 1, nil)
	raised.GetPutCluster().GetCluster().FeatureLevelAt = 1
	for name, c := range map[string]struct {
		cmd  *statev1.Command
		want uint32
	}{
		"retiring key":         {staged, 1},
		"unknown enum":         {odd, FeatureLevelMax + 1},
		"unknown field":        {unknown, FeatureLevelMax + 1},
		"a field of level 2":   {raised, 2},
		"made at level 2":      {putC("c", 2, nil), 2},
		"set level 2":          {setLevel(2), 2},
		"set level 1":          {setLevel(1), 1},
		"level 2 in a batch":   {batch(putPol("p", nil), raised), 2},
		"batch within another": {batch(batch(setLevel(2))), 1},
	} {
		if got := CommandLevel(c.cmd); got != c.want {
			t.Errorf("%s: level %d, want %d", name, got, c.want)
		}
	}
}

// The table is what the first release had: it must not grow with state.proto.
func TestLevel1IsFrozen(t *testing.T) {
	sum := protoreflect.FieldNumber(0)
	for _, n := range level1 {
		sum += n
	}
	if len(level1) != 31 || sum != 161 {
		t.Errorf("%d messages and enums, sum %d: what is new is of level 2", len(level1), sum)
	}
	msgs := statev1.File_charon_state_v1_state_proto.Messages()
	for name := range level1 {
		if msgs.ByName(name) == nil && statev1.File_charon_state_v1_state_proto.Enums().ByName(name) == nil {
			t.Errorf("no message or enum %s", name)
		}
	}
}

func TestPrune(t *testing.T) {
	c := &statev1.Cluster{Id: id16("c"), FeatureLevel: 1, FeatureLevelAt: 5}
	Prune(c, 1)
	if c.FeatureLevelAt != 0 || c.FeatureLevel != 1 {
		t.Error(c)
	}
	b := &statev1.Batch{Commands: []*statev1.Command{putC("c", 1, nil)}}
	b.Commands[0].GetPutCluster().GetCluster().FeatureLevelAt = 5
	Prune(b, 2)
	if CommandLevel(b.Commands[0]) != 2 {
		t.Error("level 2 keeps what it knows")
	}
	Prune(b, 1)
	if CommandLevel(b.Commands[0]) != 1 {
		t.Error("a part in a list was left:", b)
	}
}

func TestLevelsOfARelease(t *testing.T) {
	for _, c := range []struct {
		level, least, most uint32
		err                error
	}{
		{0, 2, 3, nil}, {2, 2, 3, nil}, {3, 2, 3, nil}, {4, 2, 3, ErrTooNew}, {1, 2, 3, ErrTooOld},
	} {
		if err := checkLevel(c.level, c.least, c.most); !errors.Is(err, c.err) {
			t.Errorf("level %d in a release of %d to %d: %v", c.level, c.least, c.most, err)
		}
	}
}

// A node that is held back neither opens, applies nor installs what is above it.
func TestHeldBack(t *testing.T) {
	held := testOptions
	held.FeatureLevelMax = 1
	path := t.TempDir() + "/realm.db"
	db, err := Open(path, held)
	if err != nil {
		t.Fatal(err)
	}
	mustApply(t, db, putC("c", 1, absent()))
	before := hash(t, db)
	for name, cmd := range map[string]*statev1.Command{"an entry of level 2": putC("c", 2, nil), "the level's rise": setLevel(2)} {
		if _, _, err := db.ApplyBatch([]Entry{{Index: 50, Term: 1, Data: envelope(t, cmd, t0)}}); !errors.Is(err, ErrTooNew) || !strings.Contains(err.Error(), "feature level 2, and this node supports up to 1") {
			t.Errorf("%s: %v", name, err)
		}
	}
	newer := base(t)
	mustApply(t, newer, setLevel(2))
	s, err := newer.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.InstallSnapshot(s); !errors.Is(err, ErrTooNew) {
		t.Error("installed:", err)
	}
	if err := errors.Join(s.Close(), db.Close()); err != nil {
		t.Fatal(err)
	}
	again, err := Open(path, testOptions)
	if err != nil {
		t.Fatal(err)
	}
	if hash(t, again) != before {
		t.Error("the state changed")
	}
	mustApply(t, again, setLevel(2))
	if err := again.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path, held); !errors.Is(err, ErrTooNew) {
		t.Error("opened:", err)
	}
}

// No record of a node that lags behind the level, no level that a recorded node lags behind, whatever comes first.
func TestNodesAndLevel(t *testing.T) {
	node := func(id string, most uint32) *statev1.Command {
		c := putN(id, id, nil)
		c.GetPutNode().GetNode().FeatureLevelMax = most
		return c
	}
	db := openTest(t)
	mustApply(t, db, putC("c", 1, absent()), node("a", 2), node("b", 1))
	if r := apply(t, db, setLevel(2)); r.Code != statev1.Code_CODE_INVALID || !strings.Contains(r.Message, "node b supports feature level 1 only") {
		t.Error(describe(r))
	}
	mustApply(t, db, node("b", 2), setLevel(2))
	if r := apply(t, db, node("c", 1)); r.Code != statev1.Code_CODE_INVALID || !strings.Contains(r.Message, "the cluster is at 2") {
		t.Error(describe(r))
	}
	c, err := db.Cluster()
	if err != nil || c.FeatureLevelAt != t0 {
		t.Error(c, err)
	}
	mustApply(t, db, setLevel(2))
}

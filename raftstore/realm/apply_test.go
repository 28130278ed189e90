package realm

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"

	statev1 "github.com/charon-kdc/charon/proto/charon/state/v1"
)

func TestRequestIDs(t *testing.T) {
	const hour = outcomeWindow
	db := openTest(t)
	create := func() *statev1.Command { return putP(principal("alice"), absent()) }
	for i, c := range []struct {
		at       int64
		cmd      *statev1.Command
		code     statev1.Code
		replayed bool
	}{
		{t0, withID(create(), uuid7(t0, 1), "create alice"), statev1.Code_CODE_OK, false},
		{t0 + 1, withID(create(), uuid7(t0, 1), "create alice"), statev1.Code_CODE_OK, true},
		{t0 + 2, withID(create(), uuid7(t0, 1), "create bob"), statev1.Code_CODE_REQUEST_ID_REUSED, false},
		{t0 + 3, withID(create(), uuid7(t0, 2), "create alice"), statev1.Code_CODE_EXISTS, false}, // somebody else's
		{t0 + 4, withID(create(), uuid7(t0, 2), "create alice"), statev1.Code_CODE_EXISTS, true},
		{t0 + 5, delP("alice", nil), statev1.Code_CODE_OK, false},
		{t0 + 6, withID(create(), uuid7(t0, 2), "create alice"), statev1.Code_CODE_EXISTS, true},
		{t0 + hour, withID(create(), uuid7(t0, 1), "create alice"), statev1.Code_CODE_OK, true}, // does not act twice
		{t0 + hour + 1, withID(create(), uuid7(t0, 1), "create alice"), statev1.Code_CODE_REQUEST_ID_EXPIRED, false},
		{t0 + hour + 1, withID(create(), uuid7(t0, 3), "create alice"), statev1.Code_CODE_REQUEST_ID_EXPIRED, false},
		{t0, withID(create(), uuid7(t0, 3), "create alice"), statev1.Code_CODE_REQUEST_ID_EXPIRED, false}, // time does not go back
		{t0, withID(create(), uuid7(t0+2*hour+2, 4), "create alice"), statev1.Code_CODE_INVALID, false},   // from the future
		{t0, withID(create(), uuid7(t0+2*hour+1, 5), "create alice"), statev1.Code_CODE_OK, false},
		{t0, delP("alice", nil), statev1.Code_CODE_OK, false},
		// Made ahead of the leader's time, it is remembered until it is old by its own time.
		{t0 + 3*hour + 1, withID(create(), uuid7(t0+2*hour+1, 5), "create alice"), statev1.Code_CODE_OK, true},
		{t0 + 3*hour + 2, withID(create(), uuid7(t0+2*hour+1, 5), "create alice"), statev1.Code_CODE_REQUEST_ID_EXPIRED, false},
		{t0, withID(create(), []byte("short"), ""), statev1.Code_CODE_INVALID, false},
		{t0, withID(create(), make([]byte, 16), ""), statev1.Code_CODE_INVALID, false}, // no UUIDv7
		{t0, func() *statev1.Command {
			c := withID(create(), uuid7(t0+3*hour, 6), "")
			c.RequestHash = nil
			return c
		}(), statev1.Code_CODE_INVALID, false},
	} {
		r := applyAt(t, db, c.at, c.cmd)
		if r.Code != c.code || r.Replayed != c.replayed {
			t.Errorf("step %d: %s replayed=%v, want %v %v", i, describe(r), r.Replayed, c.code, c.replayed)
		}
		if r.Code == statev1.Code_CODE_OK && !bytes.Equal(r.Response, c.cmd.Response) {
			t.Errorf("step %d: response %q", i, r.Response)
		}
		if r.Replayed && r.Index >= uint64(i+1) {
			t.Errorf("step %d: a replayed outcome of index %d", i, r.Index)
		}
	}
}

func TestRequestIDsAreBounded(t *testing.T) {
	db := openTest(t)
	db.outcomesMax = 1500
	for i := range 1500 {
		if r := applyAt(t, db, t0, withID(putPol("p", nil), uuid7(t0, i), "p")); r.Code != statev1.Code_CODE_OK {
			t.Fatal(i, describe(r))
		}
	}
	if r := applyAt(t, db, t0, withID(putPol("p", nil), uuid7(t0, 2000), "p")); r.Code != statev1.Code_CODE_REQUEST_IDS_FULL {
		t.Error(describe(r))
	}
	if r := applyAt(t, db, t0, withID(putPol("p", nil), uuid7(t0, 7), "p")); !r.Replayed {
		t.Error("a remembered id was refused:", describe(r))
	}
	if r := applyAt(t, db, t0, putPol("p", nil)); r.Code != statev1.Code_CODE_OK {
		t.Error("an internal command was refused:", describe(r))
	}
	// A silence later one entry forgets a part, the next ones the rest.
	later := t0 + outcomeWindow + 1
	for _, want := range []uint64{501, 2, 3} {
		if r := applyAt(t, db, later, withID(putPol("p", nil), uuid7(later, int(want)), "p")); r.Code != statev1.Code_CODE_OK {
			t.Error(describe(r))
		}
		if got := db.Counts().RequestIDs; got != want {
			t.Errorf("%d ids remembered, want %d", got, want)
		}
	}
}

func TestAppliedEntriesAreSkipped(t *testing.T) {
	db := openTest(t)
	entries := []Entry{
		{Index: 3, Term: 1, Data: envelope(t, putP(principal("alice"), absent()), t0)},
		{Index: 5, Term: 2, Config: []byte("configuration")},
		{Index: 6, Term: 2, Data: envelope(t, delP("alice", nil), t0)},
	}
	if _, _, err := db.ApplyBatch(entries[:2]); err != nil {
		t.Fatal(err)
	}
	rs, changes, err := db.ApplyBatch(entries)
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []statev1.Code{statev1.Code_CODE_ALREADY_APPLIED, statev1.Code_CODE_ALREADY_APPLIED, statev1.Code_CODE_OK} {
		if rs[i].Code != want {
			t.Errorf("entry %d: %s", i, describe(rs[i]))
		}
	}
	if want := []Change{{KindPrincipal, NameKey("R", []string{"alice"})}}; !slices.Equal(changes, want) {
		t.Error(changes)
	}
	if index, term := db.Applied(); index != 6 || term != 2 {
		t.Error(index, term)
	}
	if index, config := db.Configuration(); index != 5 || string(config) != "configuration" {
		t.Error(index, config)
	}
	if db.Now() != t0 {
		t.Error(db.Now())
	}
}

// A batch with an entry that can't be applied leaves nothing behind.
func TestErrorsChangeNothing(t *testing.T) {
	db := base(t)
	before, calls := hash(t, db), 0
	db.Subscribe(func([]Change) { calls++ })
	good := Entry{Index: 100, Term: 1, Data: envelope(t, delP("alice", nil), t0)}
	unknown := envelope(t, delP("alice", nil), t0)
	unknown = append(unknown[:envelopeHeader], 0xfa, 0x3f, 0) // field 1023
	level := func(b []byte) []byte { b[3] = FeatureLevelMax + 1; return b }(envelope(t, delP("bob", nil), t0))
	format := func(b []byte) []byte { b[0]++; return b }(envelope(t, delP("bob", nil), t0))
	typ := func(b []byte) []byte { b[1]++; return b }(envelope(t, delP("bob", nil), t0))
	future, err := proto.Marshal(setLevel(FeatureLevelMax + 1))
	if err != nil {
		t.Fatal(err)
	}
	inBatch, err := proto.Marshal(batch(putPol("p", nil), &statev1.Command{}))
	if err != nil {
		t.Fatal(err)
	}
	header := envelope(t, delP("bob", nil), t0)[:envelopeHeader]
	for _, c := range []struct {
		name string
		data []byte
		err  error
	}{
		{"empty", nil, ErrCorrupt},
		{"header only", header, ErrTooNew},
		{"cut header", header[:envelopeHeader-1], ErrCorrupt},
		{"no protobuf", append(slices.Clone(header), 0xff), ErrCorrupt},
		{"unknown operation", unknown, ErrTooNew},
		{"unknown operation in a batch", append(slices.Clone(header), inBatch...), ErrTooNew},
		{"feature level", level, ErrTooNew},
		{"format", format, ErrTooNew},
		{"type", typ, ErrTooNew},
		{"feature level to be set", append(slices.Clone(header), future...), ErrTooNew},
	} {
		_, _, err := db.ApplyBatch([]Entry{good, {Index: 101, Term: 1, Data: c.data}})
		if !errors.Is(err, c.err) {
			t.Errorf("%s: %v, want %v", c.name, err, c.err)
		}
	}
	if hash(t, db) != before || calls != 0 {
		t.Error("state changed, or subscribers were told")
	}
}

func TestEncodeRefusesWhatCouldNotBeApplied(t *testing.T) {
	for name, cmd := range map[string]*statev1.Command{
		"nothing":       {},
		"feature level": setLevel(FeatureLevelMax + 1),
		"cluster level": putC("c", FeatureLevelMax+1, nil),
		"not UTF-8":     putPol("\xff", nil),
		"too large":     putP(with(principal("a"), func(p *statev1.Principal) { p.Strings = map[string]string{"a": string(make([]byte, EnvelopeMax))} }), nil),
	} {
		if b, err := EncodeEnvelope(cmd, t0); err == nil {
			t.Errorf("%s: encoded in %d bytes", name, len(b))
		}
	}
}

func TestSubscribers(t *testing.T) {
	db := base(t)
	var got []Change
	db.Subscribe(func(c []Change) {
		if index, _ := db.Applied(); index != 10 && index != 11 {
			t.Error("told before it can be read:", index)
		}
		got = append(got, c...)
	})
	r := apply(t, db, renP("alice", pinned("alicia", "new"), nil))
	if r.Code != statev1.Code_CODE_OK {
		t.Fatal(describe(r))
	}
	want := []string{"alice", "al", "alice/alias", "new", "alicia"}
	for _, w := range want {
		if !slices.Contains(got, Change{KindPrincipal, textKey("R", w)}) {
			t.Errorf("no change of %q in %q", w, got)
		}
	}
	if len(got) != len(want) {
		t.Error(got)
	}
	got = nil
	apply(t, db, delP("nobody", nil))
	if got != nil {
		t.Error("a refusal changed", got)
	}
}

// The bytes on disk are for ever: this fails when a change of the code changes them.
func TestFormatIsFixed(t *testing.T) {
	if got, want := envelope(t, delPol("p", nil), 0x0102030405060708), "\x01\x01\x00\x01\x00\x08\x07\x06\x05\x04\x03\x02\x01\x72\x03\x0a\x01p"; string(got) != want {
		t.Errorf("envelope %q", got)
	}
	if got, want := sealRecord(policies, []byte("p"), []byte("payload")), "\x01payload"; string(got[:len(got)-4]) != want {
		t.Errorf("record %q", got)
	}
	if got, want := NameKey("R", []string{"a/b", "c@\\\n\t\b\x00"}), "R\x00a\\/b/c\\@\\\\\\n\\t\\b\\0"; got != want {
		t.Errorf("key %q", got)
	}
	order := []string{"principals", "aliases", "policies", "realms", "nodes", "tokens", "roles", "secrets", "cluster", "idem", "idem_by_time"}
	for i, name := range bucketNames {
		if string(name) != order[i] {
			t.Errorf("bucket %d is %s", i, name)
		}
	}
}

// The state of a killed process is that of some batch's end.
func TestReopen(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "realm.db")
	db, err := Open(path, Options{MmapSize: 64 << 20})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path, testOptions); err == nil {
		t.Fatal("a file that is open was opened again")
	}
	mustApply(t, db, putP(principal("alice", "al"), absent()), putC("c", 1, absent()))
	want := hash(t, db)
	image, err := os.ReadFile(path) // what kill -9 leaves
	if err != nil {
		t.Fatal(err)
	}
	mustApply(t, db, delP("alice", nil))
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := db.GetPrincipal("R", []string{"alice"}); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
	if _, _, err := db.ApplyBatch(nil); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
	killed := filepath.Join(dir, "killed.db")
	if err := os.WriteFile(killed, image, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, index := range map[string]uint64{killed: 2, path: 3} {
		db, err := Open(path, testOptions)
		if err != nil {
			t.Fatal(err)
		}
		if i, _ := db.Applied(); i != index || db.FeatureLevel() != 1 {
			t.Errorf("%s: applied %d, level %d", path, i, db.FeatureLevel())
		}
		if got := hash(t, db); (got == want) != (index == 2) {
			t.Errorf("%s: hash %x", path, got)
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

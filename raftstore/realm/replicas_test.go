package realm

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"testing"

	"google.golang.org/protobuf/proto"

	statev1 "github.com/charon-kdc/charon/proto/charon/state/v1"
)

// randomCommand is a command over a few names, so that most of them meet what others left.
func randomCommand(r *rand.Rand, now int64, depth int) *statev1.Command {
	texts := []string{"a", "b", "c", "d/e", "f", "al1", "al2", "al3"}
	text := func() string { return texts[r.IntN(len(texts))] }
	expect := func() *statev1.Expect {
		return []*statev1.Expect{nil, nil, absent(), present(), atRevision(uint64(r.IntN(40)))}[r.IntN(5)]
	}
	p := func() *statev1.Principal {
		p := principal(text())
		p.Id = id16(fmt.Sprint(r.IntN(3)))
		for range r.IntN(3) {
			p.Aliases = append(p.Aliases, text())
		}
		p.Strings = map[string]string{"x": fmt.Sprint(r.IntN(100)), "y": "1", "z": "2"}
		return p
	}
	short := func() string { return string(rune('a' + r.IntN(4))) }
	var cmd *statev1.Command
	switch r.IntN(22) {
	case 0, 1, 2, 3, 4:
		cmd = putP(p(), expect())
	case 5, 6:
		cmd = delP(text(), expect())
	case 7, 8:
		cmd = renP(text(), p(), expect())
	case 9:
		cmd = putPol(short(), expect())
	case 10:
		cmd = delPol(short(), expect())
	case 11:
		cmd = putRealm(short(), expect())
	case 12:
		cmd = putN(short(), short(), expect())
	case 13:
		cmd = delN(short(), expect())
	case 14:
		tok := token(short())
		tok.ExpiresAt = now + r.Int64N(10_000_000)
		cmd = putT(tok)
	case 15:
		cmd = []*statev1.Command{useT(short(), short()), delT(short())}[r.IntN(2)]
	case 16:
		cmd = []*statev1.Command{putRole(short(), expect()), delRole(short(), expect())}[r.IntN(2)]
	case 17:
		cmd = putS(short(), expect())
	case 18:
		cmd = []*statev1.Command{putC("c", 1, expect()), setLevel(uint32(r.IntN(2)))}[r.IntN(2)]
	case 19, 20:
		cmd = randomRotation(r, text)
	default:
		var parts []*statev1.Command
		for range r.IntN(5) {
			if depth == 0 {
				parts = append(parts, randomCommand(r, now, 1))
			}
		}
		cmd = batch(parts...)
	}
	if depth == 0 && r.IntN(2) == 0 {
		made := now - r.Int64N(outcomeWindow*5/4)
		cmd = withID(cmd, uuid7(made-made%600_000, r.IntN(3)), fmt.Sprint(r.IntN(2)))
	}
	return cmd
}

func randomLog(t *testing.T, r *rand.Rand, n int) []Entry {
	var log []Entry
	index, term, now := uint64(0), uint64(1), t0
	for range n {
		index += 1 + uint64(r.IntN(3)/2)
		term += uint64(r.IntN(20) / 19)
		now += r.Int64N(60_000) - 5_000
		e := Entry{Index: index, Term: term}
		if r.IntN(20) == 0 {
			e.Config = fmt.Appendf(nil, "configuration %d", index)
		} else {
			e.Data = envelope(t, randomCommand(r, now, 0), now)
		}
		log = append(log, e)
	}
	return log
}

// Replicas that apply one log in batches of any size, are restarted, handed entries again, and get the state of another one
// instead of some entries, hold the same bytes and give the same answers.
func TestReplicas(t *testing.T) {
	r := seeded(t)
	for round := range 2 {
		log := randomLog(t, r, 400)
		one := openTest(t)
		var results []*statev1.Result
		hashes := make([][32]byte, len(log))
		snapshots := make([][]byte, len(log))
		codes := map[statev1.Code]int{}
		for i, e := range log {
			rs, _, err := one.ApplyBatch([]Entry{e})
			if err != nil {
				t.Fatal(err)
			}
			results = append(results, rs[0])
			codes[rs[0].Code]++
			snapshots[i], hashes[i] = snapshotBytes(t, one), hash(t, one)
		}
		checkAliases(t, one)
		for replica := range 3 {
			runReplica(t, r, log, results, hashes, snapshots)
			if t.Failed() {
				t.Fatalf("round %d, replica %d", round, replica)
			}
		}
		if round == 0 {
			t.Log(codes)
		}
	}
}

func runReplica(t *testing.T, r *rand.Rand, log []Entry, results []*statev1.Result, hashes [][32]byte, snapshots [][]byte) {
	path := filepath.Join(t.TempDir(), "replica.db")
	db, err := Open(path, testOptions)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	}()
	for done := 0; done < len(log); {
		switch r.IntN(8) {
		case 0: // restart
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
			if db, err = Open(path, testOptions); err != nil {
				t.Fatal(err)
			}
			continue
		case 1: // the state of one that is ahead
			done = min(done+1+r.IntN(20), len(log))
			if _, err := db.InstallSnapshot(bytes.NewReader(snapshots[done-1])); err != nil {
				t.Fatal(err)
			}
		default:
			from := max(0, done-r.IntN(10)) // some of them again
			to := min(len(log), done+1+r.IntN(30))
			rs, _, err := db.ApplyBatch(log[from:to])
			if err != nil {
				t.Fatal(err)
			}
			for i, got := range rs {
				if from+i < done {
					if got.Code != statev1.Code_CODE_ALREADY_APPLIED {
						t.Errorf("entry %d again: %s", from+i, describe(got))
					}
				} else if !proto.Equal(got, results[from+i]) {
					t.Errorf("entry %d: %v, the other replica says %v", from+i, got, results[from+i])
				}
			}
			done = to
		}
		if hash(t, db) != hashes[done-1] {
			t.Fatalf("another state after entry %d", done-1)
		}
	}
	checkAliases(t, db)
}

func BenchmarkApplyPut(b *testing.B) {
	db := openTest(b)
	i := uint64(0)
	for b.Loop() {
		i++
		p := principal(fmt.Sprintf("user%d", i%10_000))
		if _, _, err := db.ApplyBatch([]Entry{{Index: i, Term: 1, Data: envelope(b, putP(p, nil), t0)}}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkGetPrincipal(b *testing.B) {
	db := openTest(b)
	for i := range 1000 {
		mustApply(b, db, putP(principal(fmt.Sprintf("user%d", i)), nil))
	}
	i := 0
	for b.Loop() {
		i++
		if _, err := db.GetPrincipal("R", []string{fmt.Sprintf("user%d", i%1000)}); err != nil {
			b.Fatal(err)
		}
	}
}

package realm

import (
	"crypto/sha256"
	"encoding/binary"
	"flag"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"testing"
	"time"

	statev1 "github.com/charon-kdc/charon/proto/charon/state/v1"
)

var seedFlag = flag.Uint64("seed", 0, "seed of the random tests; 0 takes a new one")

// seeded is a random source whose seed is printed when the test fails.
func seeded(t testing.TB) *rand.Rand {
	seed := *seedFlag
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("to run again: -seed %d", seed)
		}
	})
	return rand.New(rand.NewPCG(seed, 1))
}

// The map is larger than any test's file: a write that must enlarge it waits for open snapshots.
var testOptions = Options{MmapSize: 64 << 20, NoSync: true}

func openTest(t testing.TB) *DB {
	t.Helper()
	db, err := Open(filepath.Join(t.TempDir(), "realm.db"), testOptions)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}

// t0 is the leader time of the tests, in ms.
const t0 = int64(1_800_000_000_000)

func envelope(t testing.TB, cmd *statev1.Command, at int64) []byte {
	t.Helper()
	b, err := EncodeEnvelope(cmd, at)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// applyAt applies one command as the next entry.
func applyAt(t testing.TB, db *DB, at int64, cmd *statev1.Command) *statev1.Result {
	t.Helper()
	index, _ := db.Applied()
	rs, _, err := db.ApplyBatch([]Entry{{Index: index + 1, Term: 1, Data: envelope(t, cmd, at)}})
	if err != nil {
		t.Fatal(err)
	}
	return rs[0]
}

func apply(t testing.TB, db *DB, cmd *statev1.Command) *statev1.Result {
	t.Helper()
	return applyAt(t, db, t0, cmd)
}

// mustApply applies commands that are to succeed.
func mustApply(t testing.TB, db *DB, cmds ...*statev1.Command) {
	t.Helper()
	for _, c := range cmds {
		if r := apply(t, db, c); r.Code != statev1.Code_CODE_OK {
			t.Fatalf("%v: %v", c, r)
		}
	}
}

func hash(t testing.TB, db *DB) [32]byte {
	t.Helper()
	h, err := db.Hash()
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func id16(s string) []byte { h := sha256.Sum256([]byte(s)); return h[:16] }
func id8(s string) []byte  { return id16(s)[:8] }
func sum32(s string) []byte {
	h := sha256.Sum256([]byte(s))
	return h[:]
}

func principal(text string, aliases ...string) *statev1.Principal {
	name, err := ParseName(text)
	if err != nil {
		panic(err)
	}
	return &statev1.Principal{
		Id: id16(text), Realm: "R", Name: name, NameType: 1, Aliases: aliases, Kvno: 1,
		Keys: []*statev1.Key{{Kvno: 1, Etype: 18, Salt: "R" + text, Key: &statev1.Sealed{MasterKeyVersion: 1, Box: []byte("box of " + text)}}},
	}
}

func absent() *statev1.Expect {
	return &statev1.Expect{Condition: &statev1.Expect_Absent{Absent: true}}
}

func present() *statev1.Expect {
	return &statev1.Expect{Condition: &statev1.Expect_Present{Present: true}}
}

func atRevision(r uint64) *statev1.Expect {
	return &statev1.Expect{Condition: &statev1.Expect_Revision{Revision: r}}
}

func putP(p *statev1.Principal, e *statev1.Expect) *statev1.Command {
	return &statev1.Command{Op: &statev1.Command_PutPrincipal{PutPrincipal: &statev1.PutPrincipal{Principal: p, Expect: e}}}
}

func delP(text string, e *statev1.Expect) *statev1.Command {
	name, err := ParseName(text)
	if err != nil {
		panic(err)
	}
	return &statev1.Command{Op: &statev1.Command_DeletePrincipal{DeletePrincipal: &statev1.DeletePrincipal{Realm: "R", Name: name, Expect: e}}}
}

func renP(old string, p *statev1.Principal, e *statev1.Expect) *statev1.Command {
	name, err := ParseName(old)
	if err != nil {
		panic(err)
	}
	return &statev1.Command{Op: &statev1.Command_RenamePrincipal{RenamePrincipal: &statev1.RenamePrincipal{Realm: "R", OldName: name, Principal: p, Expect: e}}}
}

func putPol(name string, e *statev1.Expect) *statev1.Command {
	return &statev1.Command{Op: &statev1.Command_PutPolicy{PutPolicy: &statev1.PutPolicy{Policy: &statev1.Policy{Name: name, MinLength: 8}, Expect: e}}}
}

func delPol(name string, e *statev1.Expect) *statev1.Command {
	return &statev1.Command{Op: &statev1.Command_DeletePolicy{DeletePolicy: &statev1.DeletePolicy{Name: name, Expect: e}}}
}

func putRealm(name string, e *statev1.Expect) *statev1.Command {
	return &statev1.Command{Op: &statev1.Command_PutRealm{PutRealm: &statev1.PutRealm{Realm: &statev1.Realm{Name: name, MaxLife: 86400}, Expect: e}}}
}

func putN(id, name string, e *statev1.Expect) *statev1.Command {
	return &statev1.Command{Op: &statev1.Command_PutNode{PutNode: &statev1.PutNode{Node: &statev1.Node{Id: id16(id), Name: name, FeatureLevelMax: FeatureLevelMax}, Expect: e}}}
}

func delN(id string, e *statev1.Expect) *statev1.Command {
	return &statev1.Command{Op: &statev1.Command_DeleteNode{DeleteNode: &statev1.DeleteNode{Id: id16(id), Expect: e}}}
}

func token(id string) *statev1.Token {
	return &statev1.Token{Id: id8(id), NodeName: "n2", SecretHash: sum32("secret"), ExpiresAt: t0 + 60_000, CreatedAt: t0}
}

func putT(tok *statev1.Token) *statev1.Command {
	return &statev1.Command{Op: &statev1.Command_PutToken{PutToken: &statev1.PutToken{Token: tok}}}
}

func useT(id, key string) *statev1.Command {
	return &statev1.Command{Op: &statev1.Command_UseToken{UseToken: &statev1.UseToken{Id: id8(id), UsedBy: sum32(key)}}}
}

func delT(id string) *statev1.Command {
	return &statev1.Command{Op: &statev1.Command_DeleteToken{DeleteToken: &statev1.DeleteToken{Id: id8(id)}}}
}

func putRole(id string, e *statev1.Expect) *statev1.Command {
	return &statev1.Command{Op: &statev1.Command_PutRole{PutRole: &statev1.PutRole{Role: &statev1.Role{Id: id, Subject: "cert:alice", Verbs: []string{"*"}}, Expect: e}}}
}

func delRole(id string, e *statev1.Expect) *statev1.Command {
	return &statev1.Command{Op: &statev1.Command_DeleteRole{DeleteRole: &statev1.DeleteRole{Id: id, Expect: e}}}
}

func putS(name string, e *statev1.Expect) *statev1.Command {
	return &statev1.Command{Op: &statev1.Command_PutSecret{PutSecret: &statev1.PutSecret{Secret: &statev1.Secret{Name: name, Key: &statev1.Sealed{Box: []byte("sealed")}}, Expect: e}}}
}

func putC(id string, level uint32, e *statev1.Expect) *statev1.Command {
	return &statev1.Command{Op: &statev1.Command_PutCluster{PutCluster: &statev1.PutCluster{Cluster: &statev1.Cluster{Id: id16(id), DefaultRealm: "R", FeatureLevel: level}, Expect: e}}}
}

func setLevel(level uint32) *statev1.Command {
	return &statev1.Command{Op: &statev1.Command_SetFeatureLevel{SetFeatureLevel: &statev1.SetFeatureLevel{Level: level}}}
}

func batch(cmds ...*statev1.Command) *statev1.Command {
	return &statev1.Command{Op: &statev1.Command_Batch{Batch: &statev1.Batch{Commands: cmds}}}
}

// uuid7 is a request id made at a time in ms.
func uuid7(ms int64, n int) []byte {
	b := binary.BigEndian.AppendUint64(nil, uint64(ms)<<16|0x7000|uint64(n)&0xfff)
	return binary.BigEndian.AppendUint64(b, 1<<63|uint64(n))
}

// withID gives a command a request id; its hash is that of what.
func withID(cmd *statev1.Command, id []byte, what string) *statev1.Command {
	cmd.RequestId, cmd.RequestHash, cmd.Response = id, sum32(what), []byte("response to "+what)
	return cmd
}

func TestUUID7(t *testing.T) {
	if ms, valid := requestTime(uuid7(t0, 77)); !valid || ms != t0 {
		t.Fatal(ms, valid)
	}
}

func names(ps []*statev1.Principal) (out []string) {
	for _, p := range ps {
		out = append(out, NameText(p.Name))
	}
	return out
}

func describe(r *statev1.Result) string { return fmt.Sprintf("%v %s", r.Code, r.Message) }

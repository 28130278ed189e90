package realm

import (
	"bytes"
	"compress/gzip"
	"os"
	"path/filepath"
	"testing"

	statev1 "github.com/charon-kdc/charon/proto/charon/state/v1"
)

// goldenLog are the commands of a level's golden log, 100 ms apart. Each operation stands in it once as what succeeds, and some as what is refused.
// A new operation of the newest level is added to its list before that level's first release.
func goldenLog(level uint32) []*statev1.Command {
	if level == 1 {
		return append(goldenBasics(1), goldenLevel1()...)
	}
	return append(goldenBasics(1), goldenLevel2()...)
}

// goldenBasics is what charon init and two joins write.
func goldenBasics(level uint32) []*statev1.Command {
	c := putC("c", level, absent())
	cl := c.GetPutCluster().GetCluster()
	cl.CreatedAt, cl.MasterKeyVersion, cl.RecoveryRecipient = t0, 1, "age1recipient"
	s := putS("replay-key", absent())
	s.GetPutSecret().GetSecret().Key.MasterKeyVersion = 1
	ca := putS("ca/node", absent())
	ca.GetPutSecret().GetSecret().Certificate, ca.GetPutSecret().GetSecret().Key.MasterKeyVersion = []byte("DER"), 1
	r := putRealm("R", absent())
	r.GetPutRealm().GetRealm().MaxLife, r.GetPutRealm().GetRealm().MaxRenewableLife, r.GetPutRealm().GetRealm().Etypes = 36000, 604800, []int32{20, 19, 18, 17}
	return []*statev1.Command{
		goldenNode("id1", "n1", "", ""), batch(c, r, goldenPolicy("default", absent()), putRole("root", absent()), s, ca), putP(goldenPrincipal("krbtgt/R"), absent()),
		putT(token("t1")), useT("t1", "key of n2"), goldenNode("id2", "n2", "key of n2", "t1"), useT("t1", "another key"),
	}
}

func goldenNode(id, name, key, tok string) *statev1.Command {
	c := putN(id, name, absent())
	n := c.GetPutNode().GetNode()
	n.ReplayId, n.PeerAddress, n.AdminAddress, n.KdcAddress, n.HttpAddress = id16("replay of "+id), name+".example.com:7750", name+".example.com:7749", name+".example.com:88", name+".example.com:7780"
	n.Version, n.FeatureLevelMax, n.JoinedAt, n.BootCounter = "1.0.0", 2, t0, 1
	if key != "" {
		n.KeyHash, n.TokenId, n.BootCounter = sum32(key), id8(tok), 0
	}
	return c
}

func goldenPolicy(name string, e *statev1.Expect) *statev1.Command {
	c := putPol(name, e)
	p := c.GetPutPolicy().GetPolicy()
	p.MinLength, p.MinClasses, p.History, p.MinLife, p.MaxLife, p.MaxFailures, p.LockoutDuration, p.FailureWindow = 8, 2, 3, 60, 7776000, 5, 300, 300
	p.AllowedKeysalts, p.Attributes, p.MaxTicketLife, p.MaxRenewableLife, p.ModifiedAt, p.ModifiedBy = []string{"aes256-sha2:normal"}, 128, 3600, 7200, t0, "root"
	return c
}

// goldenPrincipal has every field of level 1.
func goldenPrincipal(text string, aliases ...string) *statev1.Principal {
	return with(principal(text, aliases...), func(p *statev1.Principal) {
		p.Kvno, p.Attributes, p.MaxLife, p.MaxRenewableLife, p.Expiration, p.PasswordExpiration = 3, 128, 36000, 604800, t0+1e9, t0+2e9
		p.LastPasswordChange, p.Policy, p.Strings, p.UnlockedAt = t0, "default", map[string]string{"b": "2", "a": "1"}, t0
		p.CreatedAt, p.CreatedBy, p.ModifiedAt, p.ModifiedBy = t0, "root", t0+1, "cert:alice"
		key := func(kvno uint32, etype int32, state statev1.KeyState, retire int64) *statev1.Key {
			return &statev1.Key{Kvno: kvno, Etype: etype, Salt: "R" + text, SaltDefault: true, State: state, RetireAt: retire,
				Key: &statev1.Sealed{MasterKeyVersion: 1, Box: []byte("box of " + text)}}
		}
		p.Keys = []*statev1.Key{key(3, 20, statev1.KeyState_KEY_STATE_ACTIVE, 0), key(4, 20, statev1.KeyState_KEY_STATE_STAGED, 0), key(2, 18, statev1.KeyState_KEY_STATE_RETIRING, t0+500)}
		p.KeyHistory = []*statev1.KeyHistory{{Kvno: 1, Keys: []*statev1.Key{key(1, 18, 0, 0)}}}
	})
}

func goldenLevel1() []*statev1.Command {
	id := func(n int, cmd *statev1.Command, what string) *statev1.Command {
		return withID(cmd, uuid7(t0, n), what)
	}
	renamed := with(goldenPrincipal("alicia"), func(p *statev1.Principal) { p.Id = id16("alice") })
	for _, k := range renamed.GetKeys() {
		k.Salt, k.SaltDefault = "Ralice", false
	}
	return []*statev1.Command{
		id(1, putP(goldenPrincipal("alice", "al"), absent()), "create alice"), id(1, putP(goldenPrincipal("alice", "al"), absent()), "create alice"),
		id(1, delP("alice", nil), "another request"), putP(goldenPrincipal("alice"), absent()), putP(goldenPrincipal("bob"), absent()),
		putP(goldenPrincipal("bob"), atRevision(1)), id(2, renP("alice", renamed, present()), "rename"), id(3, delP("nobody", nil), "delete nobody"), delP("bob", present()),
		goldenPolicy("strict", absent()), delPol("strict", nil), putRole("auditor", absent()), delRole("auditor", nil), delRole("auditor", nil),
		putRealm("OTHER", absent()), putT(token("t2")), delT("t2"), delN("id2", nil), setLevel(1),
		batch(putP(goldenPrincipal("carol"), absent()), putP(goldenPrincipal("carol"), absent())), batch(putP(goldenPrincipal("dave"), absent()), goldenPolicy("strict", absent())),
	}
}

func goldenLevel2() []*statev1.Command {
	member := token("t3")
	member.NodeName, member.NodeId = "n1", id16("id1")
	staged := stageMK(2, false)
	// By then the principal has revision 8 and the secrets 6 and 7: see state.txt.
	krbtgt := goldenPrincipal("krbtgt/R")
	krbtgt.Revision = 8
	refusal := func(n int, code statev1.Code) *statev1.Command {
		return withID(&statev1.Command{Op: &statev1.Command_NoteRefusal{NoteRefusal: &statev1.NoteRefusal{Code: code}}}, uuid7(t0, n), "refused")
	}
	return []*statev1.Command{
		putP(goldenPrincipal("alice"), absent()), setLevel(3), setLevel(2), setLevel(2), setLevel(1),
		{Op: &statev1.Command_SetAutoRemoval{SetAutoRemoval: &statev1.SetAutoRemoval{After: 86400, Voters: 3}}},
		renew("id2", "second", func(c *statev1.RenewNode) { c.Present = sum32("key of n2") }), renew("id2", "second", activate), renew("id2", "third", activate),
		putT(member), useT("t3", "new"), note(5, t0), note(5, t0-1),
		staged, activateMK(2, "id1"), activateMK(2, "id1", "id2"), resealed(2, anew(krbtgt, 2)),
		{Op: &statev1.Command_Reseal{Reseal: &statev1.Reseal{Version: 2, Secrets: []*statev1.ResealSecret{{Name: "replay-key", Revision: 6, Key: &statev1.Sealed{MasterKeyVersion: 2, Box: []byte("anew")}}}}}},
		retireMK(2), finishMK(2), retireMK(2), dropRetiredOf("alice", "krbtgt/R", "nobody"),
		refusal(9, statev1.Code_CODE_NOT_FOUND), withID(delP("alice", nil), uuid7(t0, 9), "refused"), refusal(10, statev1.Code_CODE_OK),
	}
}

// makeGolden writes what is missing of a level's golden directory.
func makeGolden(t *testing.T, dir string, level uint32) {
	t.Helper()
	entries := []Entry{{Index: 1, Term: 1, Config: []byte("a raft configuration")}}
	for i, cmd := range goldenLog(level) {
		if CommandLevel(cmd) > level {
			continue // what this level can't hold is refused before it is proposed
		}
		entries = append(entries, Entry{Index: uint64(i + 2), Term: 1 + uint64(i/10), Data: envelope(t, cmd, t0+100*int64(i))})
	}
	path := filepath.Join(t.TempDir(), "state.db")
	db, err := Open(path, testOptions)
	if err != nil {
		t.Fatal(err)
	}
	results, err := replayGolden(db, entries)
	if err != nil {
		t.Fatal(err)
	}
	var stream, packed bytes.Buffer
	if _, err := db.WriteSnapshot(&stream); err != nil {
		t.Fatal(err)
	}
	keepGolden(t, dir, "log.txt", []byte(formatLog(entries)))
	keepGolden(t, dir, "results.txt", []byte(results))
	keepGolden(t, dir, "state.txt", []byte(dump(t, db)))
	keepGolden(t, dir, "snapshot", stream.Bytes())
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	file, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	z := gzip.NewWriter(&packed)
	if _, err := z.Write(file); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	keepGolden(t, dir, "state.db.gz", packed.Bytes())
}

package adminapi

import (
	"context"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/charon-kdc/charon/kdc/kdb"
	adminv1 "github.com/charon-kdc/charon/proto/charon/admin/v1"
	statev1 "github.com/charon-kdc/charon/proto/charon/state/v1"
)

// setPassword as subject; the reason of what it got.
func (b *bench) setPassword(subject, name, pw string) error {
	_, err := b.principals().SetPassword(as(subject), &adminv1.SetPasswordRequest{RequestId: b.fresh(), Name: name, Keys: password(pw)})
	return err
}

func TestPasswordQuality(t *testing.T) {
	pol := &statev1.Policy{Name: "p", MinLength: 8, MinClasses: 3}
	n := name{realm: testRealm, components: []string{"Alice-Smith1"}}
	for _, c := range []struct{ pw, want string }{
		{"Abcdef1", "PASSWORD_TOO_SHORT"}, {"abcdefg1", "PASSWORD_TOO_FEW_CLASSES"}, {"Abcdefg1", "OK"},
		{"ábcdefg1", "OK"}, {"ääää1A", "PASSWORD_TOO_SHORT"}, {"ALICE-smith1", "PASSWORD_IS_NAME"}, {"", "PASSWORD_EMPTY"},
	} {
		if got := reasonOf(toStatus(checkPassword(c.pw, n, pol), "n1", nil)); got != c.want {
			t.Errorf("%q: %s, want %s", c.pw, got, c.want)
		}
	}
	if err := checkPassword("x", n, nil); err != nil {
		t.Errorf("without a policy: %v", err)
	}
}

func TestSetPassword(t *testing.T) {
	b := newBench(t)
	p := b.add("alice", password("one"), uint32(kdb.RequiresPWChange))
	r, err := b.principals().SetPassword(as("root"), &adminv1.SetPasswordRequest{RequestId: b.fresh(), Name: "alice", Keys: password("two"), KeepOld: true})
	if err != nil || r.GetKvno() != 2 {
		t.Fatalf("%v %v", r, err)
	}
	if b.store.Waited() != r.GetMeta().GetIndex() || r.GetMeta().GetIndex() == 0 {
		t.Errorf("acknowledged at index %d, waited for %d", r.GetMeta().GetIndex(), b.store.Waited())
	}
	rec := b.record("alice")
	if !b.opens(rec, "two") || rec.GetAttributes()&attrRequiresPWChange != 0 || string(rec.GetId()) != string(p.GetId()) {
		t.Errorf("record %v", rec)
	}
	for _, k := range keysOf(rec, 1) {
		if k.GetState() != statev1.KeyState_KEY_STATE_RETIRING {
			t.Errorf("an old key is %v", k.GetState())
		}
	}
	if len(keysOf(rec, 1)) != 2 {
		t.Errorf("old keys: %v", rec.GetKeys())
	}
	if _, err := b.principals().SetPassword(as("root"), &adminv1.SetPasswordRequest{RequestId: b.fresh(), Name: "alice", Keys: random(), OneTime: true}); err != nil {
		t.Fatal(err)
	}
	rec = b.record("alice")
	if rec.GetKvno() != 3 || len(rec.GetKeys()) != 2 || rec.GetAttributes()&attrRequiresPWChange == 0 {
		t.Errorf("record %v", rec)
	}
	_, err = b.principals().SetPassword(as("root"), &adminv1.SetPasswordRequest{RequestId: b.fresh(), Name: "alice"})
	wantReason(t, err, codes.InvalidArgument, "INVALID")
}

// A change that is not known to hold everywhere is not acknowledged, and its retry waits again without acting again.
func TestSetPasswordIsEverywhere(t *testing.T) {
	b := newBench(t)
	b.add("alice", password("one"), 0)
	b.store.FailWait(context.DeadlineExceeded)
	req := &adminv1.SetPasswordRequest{RequestId: b.fresh(), Name: "alice", Keys: password("two")}
	_, err := b.principals().SetPassword(as("root"), req)
	wantReason(t, err, codes.Unavailable, "OUTCOME_UNKNOWN")
	b.store.FailWait(nil)
	r, err := b.principals().SetPassword(as("root"), req)
	if err != nil || r.GetKvno() != 2 || !r.GetMeta().GetReplayed() || b.store.Waited() == 0 {
		t.Errorf("retry: %v %v, waited %d", r, err, b.store.Waited())
	}
}

func TestPasswordHistory(t *testing.T) {
	b := newBench(t)
	if _, err := b.policies().CreatePolicy(as("root"), &adminv1.CreatePolicyRequest{RequestId: b.fresh(), Policy: &adminv1.Policy{Name: "default", History: 3, MaxLife: 86400}}); err != nil {
		t.Fatal(err)
	}
	p := b.add("alice", password("one"), 0)
	if p.GetPolicy() != "default" || p.GetPasswordExpiration() != t0.Add(24*time.Hour).UnixMilli() {
		t.Errorf("policy of a new principal: %v", p)
	}
	for _, c := range []struct{ pw, want string }{
		{"one", "PASSWORD_REUSED"}, {"two", "OK"}, {"one", "PASSWORD_REUSED"}, {"three", "OK"}, {"one", "PASSWORD_REUSED"},
		{"two", "PASSWORD_REUSED"}, {"four", "OK"}, {"one", "OK"},
	} {
		if err := b.setPassword("root", "alice", c.pw); reasonOf(err) != c.want {
			t.Errorf("%s: %v, want %s", c.pw, err, c.want)
		}
	}
	if n := len(b.record("alice").GetKeyHistory()); n != 2 {
		t.Errorf("%d remembered", n)
	}
	// A rename keeps the memory: the old keys' salts are in it.
	if _, err := b.principals().RenamePrincipal(as("root"), &adminv1.RenamePrincipalRequest{RequestId: b.fresh(), Name: "alice", NewName: "al"}); err != nil {
		t.Fatal(err)
	}
	wantReason(t, b.setPassword("root", "al", "four"), codes.InvalidArgument, "PASSWORD_REUSED")
}

// The minimum life binds who changes his own password, and a retry of a change is not too soon after itself.
func TestPasswordMinLife(t *testing.T) {
	b := newBench(t)
	if _, err := b.policies().CreatePolicy(as("root"), &adminv1.CreatePolicyRequest{RequestId: b.fresh(), Policy: &adminv1.Policy{Name: "default", MinLife: 3600}}); err != nil {
		t.Fatal(err)
	}
	b.add("alice", password("one"), 0)
	b.grant(&adminv1.Role{Subject: "cert:alice", Verbs: []string{"changepw"}, Own: true})
	wantReason(t, b.setPassword("cert:alice", "alice", "two"), codes.FailedPrecondition, "PASSWORD_TOO_SOON")
	if err := b.setPassword("root", "alice", "two"); err != nil {
		t.Errorf("an administrator: %v", err)
	}
	b.advance(time.Hour)
	req := &adminv1.SetPasswordRequest{RequestId: b.fresh(), Name: "alice", Keys: password("three")}
	for range 2 {
		if _, err := b.principals().SetPassword(as("cert:alice"), req); err != nil {
			t.Error(err)
		}
	}
	b.add("bob", password("one"), 0)
	wantReason(t, b.setPassword("cert:alice", "bob", "two"), codes.PermissionDenied, "PERMISSION_DENIED")
	// Who must change his password may.
	if _, err := b.principals().UpdatePrincipal(as("root"), &adminv1.UpdatePrincipalRequest{RequestId: b.fresh(), Name: "alice", SetAttributes: attrRequiresPWChange}); err != nil {
		t.Fatal(err)
	}
	if err := b.setPassword("cert:alice", "alice", "four"); err != nil {
		t.Errorf("told to change: %v", err)
	}
}

func TestKeysaltsOfPolicy(t *testing.T) {
	b := newBench(t)
	if _, err := b.policies().CreatePolicy(as("root"), &adminv1.CreatePolicyRequest{RequestId: b.fresh(),
		Policy: &adminv1.Policy{Name: "legacy", AllowedKeysalts: []string{"rc4:normal", "aes256-sha1:onlyrealm"}}}); err != nil {
		t.Fatal(err)
	}
	create := func(n string, ks ...*adminv1.KeySalt) error {
		_, err := b.principals().CreatePrincipal(as("root"), &adminv1.CreatePrincipalRequest{RequestId: b.fresh(), Name: n, Policy: "legacy",
			Keys: &adminv1.NewKeys{Source: &adminv1.NewKeys_Password{Password: "pw"}, Keysalts: ks}})
		return err
	}
	if err := create("a"); err != nil {
		t.Fatal(err)
	}
	rec := b.record("a")
	if len(rec.GetKeys()) != 2 || rec.GetKeys()[0].GetEtype() != 23 || rec.GetKeys()[1].GetSalt() != testRealm || !b.opens(rec, "pw") {
		t.Errorf("keys %v", rec.GetKeys())
	}
	if err := create("b", &adminv1.KeySalt{Etype: 18, Salt: "onlyrealm"}, &adminv1.KeySalt{Etype: 18, Salt: "onlyrealm"}); err != nil {
		t.Fatal(err)
	}
	if n := len(b.record("b").GetKeys()); n != 1 {
		t.Errorf("%d keys of one enctype", n)
	}
	wantReason(t, create("c", &adminv1.KeySalt{Etype: 17}), codes.InvalidArgument, "INVALID")
}

func TestPurgeKeys(t *testing.T) {
	b := newBench(t)
	b.add("alice", password("one"), 0)
	for _, pw := range []string{"two", "three"} {
		if _, err := b.principals().SetPassword(as("root"), &adminv1.SetPasswordRequest{RequestId: b.fresh(), Name: "alice", Keys: password(pw), KeepOld: true}); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		req  *adminv1.PurgeKeysRequest
		want uint32
	}{
		{&adminv1.PurgeKeysRequest{KeepKvno: 2}, 2}, {&adminv1.PurgeKeysRequest{}, 2}, {&adminv1.PurgeKeysRequest{KeepKvno: 9}, 0}, {&adminv1.PurgeKeysRequest{All: true}, 2},
	} {
		c.req.RequestId, c.req.Name = b.fresh(), "alice"
		r, err := b.principals().PurgeKeys(as("root"), c.req)
		if err != nil || r.GetRemoved() != c.want {
			t.Errorf("%v: %v %v", c.req, r, err)
		}
	}
}

func TestLockoutIsShown(t *testing.T) {
	b := newBench(t)
	if _, err := b.policies().CreatePolicy(as("root"), &adminv1.CreatePolicyRequest{RequestId: b.fresh(), Policy: &adminv1.Policy{Name: "default", MaxFailures: 3, LockoutDuration: 60}}); err != nil {
		t.Fatal(err)
	}
	p := b.add("alice", random(), 0)
	b.svc.Activity = activity{kdb.ID(p.GetId()): {Failures: 3, LastFailure: t0.Add(time.Second), LastSuccess: t0}}
	b.advance(2 * time.Second)
	show := func() *adminv1.Principal {
		r, err := b.principals().GetPrincipal(as("root"), &adminv1.GetPrincipalRequest{Name: "alice"})
		if err != nil {
			t.Fatal(err)
		}
		return r.GetPrincipal()
	}
	if v := show(); !v.GetLockedOut() || v.GetFailures() != 3 || v.GetLastSuccess() != t0.UnixMilli() {
		t.Errorf("locked out: %v", v)
	}
	b.advance(time.Minute)
	if v := show(); v.GetLockedOut() {
		t.Errorf("after the lockout: %v", v)
	}
	if _, err := b.principals().UpdatePrincipal(as("root"), &adminv1.UpdatePrincipalRequest{RequestId: b.fresh(), Name: "alice", Unlock: true, MaxLife: proto.Int64(1)}); err != nil {
		t.Fatal(err)
	}
	if v := show(); v.GetFailures() != 0 {
		t.Errorf("unlocked: %v", v)
	}
}

type activity map[kdb.ID]kdb.Activity

func (a activity) Activity(id kdb.ID) kdb.Activity { return a[id] }

package adminapi

import (
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/charon-kdc/charon/kdc/kdb"
	"github.com/charon-kdc/charon/kdc/krb5/kcrypto"
	adminv1 "github.com/charon-kdc/charon/proto/charon/admin/v1"
	statev1 "github.com/charon-kdc/charon/proto/charon/state/v1"
)

const web = "HTTP/web.example.com"

func (b *bench) ensure(name string) *adminv1.EnsureKeytabResponse {
	b.t.Helper()
	r, err := b.keytabs().EnsureKeytab(as("root"), &adminv1.EnsureKeytabRequest{RequestId: b.fresh(), Name: name})
	if err != nil {
		b.t.Fatal(err)
	}
	return r
}

// matches tells whether the extracted keys are the record's.
func (b *bench) matches(p *statev1.Principal, keys []*adminv1.ExtractedKey, kvno uint32) bool {
	b.t.Helper()
	recs := keysOf(p, kvno)
	if len(recs) != len(keys) || len(keys) == 0 {
		return false
	}
	for i, rec := range recs {
		k, err := b.svc.openKey(make([]byte, 16), p, rec)
		if err != nil {
			b.t.Fatal(err)
		}
		got, err := kcrypto.NewKey(kcrypto.EType(keys[i].GetEtype()), keys[i].GetKey())
		if err != nil || !got.Equal(k) || keys[i].GetKvno() != kvno {
			return false
		}
	}
	return true
}

func TestEnsureKeytab(t *testing.T) {
	b := newBench(t)
	first := b.ensure(web)
	if !first.GetCreated() || first.GetKvno() != 1 || !b.matches(b.record("HTTP", "web.example.com"), first.GetKeys(), 1) {
		t.Errorf("first: %v", first)
	}
	n := b.store.Proposals()
	again := b.ensure(web)
	if again.GetCreated() || again.GetKvno() != 1 || b.store.Proposals() != n || !b.matches(b.record("HTTP", "web.example.com"), again.GetKeys(), 1) {
		t.Errorf("again: %v, %d proposals", again, b.store.Proposals()-n)
	}
	req := &adminv1.EnsureKeytabRequest{RequestId: b.fresh(), Name: "HTTP/retried"}
	for i := range 2 {
		r, err := b.keytabs().EnsureKeytab(as("root"), req)
		if err != nil || !r.GetCreated() || r.GetMeta().GetReplayed() != (i == 1) {
			t.Errorf("call %d: %v %v", i, r.GetMeta(), err)
		}
	}
	b.add("nokey", nil, 0)
	_, err := b.keytabs().EnsureKeytab(as("root"), &adminv1.EnsureKeytabRequest{RequestId: b.fresh(), Name: "nokey"})
	wantReason(t, err, codes.FailedPrecondition, "NO_KEYS")
}

// The state keeps no key material of an outcome for a retry to find.
func TestOutcomesHoldNoKeys(t *testing.T) {
	b := newBench(t)
	id := b.fresh()
	r, err := b.keytabs().EnsureKeytab(as("root"), &adminv1.EnsureKeytabRequest{RequestId: id, Name: web})
	if err != nil {
		t.Fatal(err)
	}
	out, err := b.store.DB.Outcome(id)
	if err != nil {
		t.Fatal(err)
	}
	var kept adminv1.EnsureKeytabResponse
	if err := unmarshal(out.GetResult().GetResponse(), &kept); err != nil || len(kept.GetKeys()) != 0 || len(r.GetKeys()) == 0 {
		t.Errorf("kept %v %v", &kept, err)
	}
}

func TestRotateAndActivate(t *testing.T) {
	b := newBench(t)
	b.ensure(web)
	staged, err := b.keytabs().RotateKeytab(as("root"), &adminv1.RotateKeytabRequest{RequestId: b.fresh(), Name: web, Stage: true})
	if err != nil || staged.GetKvno() != 2 {
		t.Fatalf("stage: %v %v", staged, err)
	}
	rec := b.record("HTTP", "web.example.com")
	if rec.GetKvno() != 1 || !b.matches(rec, staged.GetKeys(), 2) || keysOf(rec, 2)[0].GetState() != statev1.KeyState_KEY_STATE_STAGED {
		t.Errorf("staged: %v", rec)
	}
	if got := b.ensure(web); got.GetKvno() != 1 {
		t.Errorf("ensure gives kvno %d while 2 is staged", got.GetKvno())
	}
	for _, stage := range []bool{true, false} {
		_, err = b.keytabs().RotateKeytab(as("root"), &adminv1.RotateKeytabRequest{RequestId: b.fresh(), Name: web, Stage: stage})
		wantReason(t, err, codes.FailedPrecondition, "ALREADY_STAGED")
	}

	req := &adminv1.ActivateKeytabRequest{RequestId: b.fresh(), Name: web, RetireAfter: 3600}
	for range 2 {
		r, err := b.keytabs().ActivateKeytab(as("root"), req)
		if err != nil || r.GetKvno() != 2 || r.GetPreviousKvno() != 1 || r.GetRetireAt() != t0.Add(time.Hour).UnixMilli() || r.GetNodes() != 1 || r.GetMembers() != 1 {
			t.Errorf("activate: %v %v", r, err)
		}
	}
	rec = b.record("HTTP", "web.example.com")
	if rec.GetKvno() != 2 || keysOf(rec, 1)[0].GetState() != statev1.KeyState_KEY_STATE_RETIRING || keysOf(rec, 2)[0].GetState() != statev1.KeyState_KEY_STATE_ACTIVE {
		t.Errorf("active: %v", rec)
	}
	_, err = b.keytabs().ActivateKeytab(as("root"), &adminv1.ActivateKeytabRequest{RequestId: b.fresh(), Name: web})
	wantReason(t, err, codes.FailedPrecondition, "NOTHING_STAGED")

	// The next change sweeps out what has retired; a plain rotation keeps the old keys for opening.
	b.advance(2 * time.Hour)
	r, err := b.keytabs().RotateKeytab(as("root"), &adminv1.RotateKeytabRequest{RequestId: b.fresh(), Name: web})
	if err != nil || r.GetKvno() != 3 {
		t.Fatal(r, err)
	}
	rec = b.record("HTTP", "web.example.com")
	if len(keysOf(rec, 1)) != 0 || len(keysOf(rec, 2)) != 2 || rec.GetKvno() != 3 {
		t.Errorf("rotated: %v", rec)
	}
	if r, err = b.keytabs().RotateKeytab(as("root"), &adminv1.RotateKeytabRequest{RequestId: b.fresh(), Name: web, DropOld: true}); err != nil || r.GetKvno() != 4 {
		t.Fatal(r, err)
	}
	if rec = b.record("HTTP", "web.example.com"); len(rec.GetKeys()) != 2 {
		t.Errorf("old keys dropped: %v", rec)
	}
	for _, bad := range []*adminv1.RotateKeytabRequest{{Stage: true, DropOld: true}, {Stage: true, RetireAfter: 1}, {DropOld: true, RetireAfter: 1}, {RetireAfter: -1}} {
		bad.RequestId, bad.Name = b.fresh(), web
		_, err := b.keytabs().RotateKeytab(as("root"), bad)
		wantReason(t, err, codes.InvalidArgument, "INVALID")
	}
}

func TestRotateRetryGivesTheSameKeys(t *testing.T) {
	b := newBench(t)
	b.ensure(web)
	req := &adminv1.RotateKeytabRequest{RequestId: b.fresh(), Name: web}
	b.store.Lose(true)
	_, err := b.keytabs().RotateKeytab(as("root"), req)
	wantReason(t, err, codes.Unavailable, "OUTCOME_UNKNOWN")
	r, err := b.keytabs().RotateKeytab(as("root"), req)
	if err != nil || r.GetKvno() != 2 || !b.matches(b.record("HTTP", "web.example.com"), r.GetKeys(), 2) {
		t.Errorf("retry: %v %v", r, err)
	}
}

func TestGetKeytab(t *testing.T) {
	b := newBench(t)
	b.ensure(web)
	if _, err := b.keytabs().RotateKeytab(as("root"), &adminv1.RotateKeytabRequest{RequestId: b.fresh(), Name: web}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		req  *adminv1.GetKeytabRequest
		keys int
	}{{&adminv1.GetKeytabRequest{}, 2}, {&adminv1.GetKeytabRequest{Kvno: 1}, 2}, {&adminv1.GetKeytabRequest{All: true}, 4}} {
		c.req.Name = web
		r, err := b.keytabs().GetKeytab(as("root"), c.req)
		if err != nil || len(r.GetKeys()) != c.keys {
			t.Errorf("%v: %v %v", c.req, r, err)
		}
	}
	_, err := b.keytabs().GetKeytab(as("root"), &adminv1.GetKeytabRequest{Name: web, Kvno: 9})
	wantReason(t, err, codes.NotFound, "NO_KEYS")
}

// MIT's rule: over the wire no key of a lockdown_keys principal leaves, and it can't be replaced by one without the attribute.
func TestLockdownKeys(t *testing.T) {
	b := newBench(t)
	b.add("kadmin/x", random(), uint32(kdb.LockdownKeys))
	b.grant(&adminv1.Role{Subject: "cert:chief", Verbs: []string{"*", "extract"}})
	calls := func(subject string) map[string]error {
		ctx, out := as(subject), map[string]error{}
		_, out["get"] = b.keytabs().GetKeytab(ctx, &adminv1.GetKeytabRequest{Name: "kadmin/x"})
		_, out["ensure"] = b.keytabs().EnsureKeytab(ctx, &adminv1.EnsureKeytabRequest{RequestId: b.fresh(), Name: "kadmin/x"})
		_, out["rotate"] = b.keytabs().RotateKeytab(ctx, &adminv1.RotateKeytabRequest{RequestId: b.fresh(), Name: "kadmin/x"})
		_, out["password"] = b.principals().SetPassword(ctx, &adminv1.SetPasswordRequest{RequestId: b.fresh(), Name: "kadmin/x", Keys: password("pw")})
		_, out["purge"] = b.principals().PurgeKeys(ctx, &adminv1.PurgeKeysRequest{RequestId: b.fresh(), Name: "kadmin/x"})
		_, out["rename"] = b.principals().RenamePrincipal(ctx, &adminv1.RenamePrincipalRequest{RequestId: b.fresh(), Name: "kadmin/x", NewName: "kadmin/y"})
		_, out["clear"] = b.principals().UpdatePrincipal(ctx, &adminv1.UpdatePrincipalRequest{RequestId: b.fresh(), Name: "kadmin/x", ClearAttributes: uint32(kdb.LockdownKeys)})
		_, out["delete"] = b.principals().DeletePrincipal(ctx, &adminv1.DeletePrincipalRequest{RequestId: b.fresh(), Name: "kadmin/x"})
		return out
	}
	for call, err := range calls("cert:chief") {
		if reasonOf(err) != "LOCKDOWN_KEYS" {
			t.Errorf("%s: %v", call, err)
		}
	}
	if _, err := b.principals().SetPassword(as("cert:chief"), &adminv1.SetPasswordRequest{RequestId: b.fresh(), Name: "kadmin/x", Keys: random()}); err != nil {
		t.Errorf("random keys that stay inside: %v", err)
	}
	for call, err := range calls("root") {
		if reasonOf(err) == "LOCKDOWN_KEYS" {
			t.Errorf("root, %s: %v", call, err)
		}
	}
}

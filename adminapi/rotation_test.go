package adminapi

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/charon-kdc/charon/kdc/kdb"
	adminv1 "github.com/charon-kdc/charon/proto/charon/admin/v1"
	statev1 "github.com/charon-kdc/charon/proto/charon/state/v1"
	"github.com/charon-kdc/charon/raftstore"
	"github.com/charon-kdc/charon/raftstore/peer"
)

const testTGS = "krbtgt/" + testRealm

// newRotationBench has a krbtgt.
func newRotationBench(t *testing.T) *bench {
	b := newBench(t)
	b.add(testTGS, random(), 0)
	return b
}

func (b *bench) stored(name ...string) *statev1.Principal {
	b.t.Helper()
	p, err := b.store.DB.GetPrincipal(testRealm, name)
	if err != nil {
		b.t.Fatal(err)
	}
	return p
}

func (b *bench) tgs() *statev1.Principal { return b.stored("krbtgt", testRealm) }

// states of a principal's keys, as "2:active 1:retiring".
func states(p *statev1.Principal) string {
	var out []string
	for _, k := range p.GetKeys() {
		text := fmt.Sprintf("%d:%s", k.GetKvno(), strings.ToLower(strings.TrimPrefix(k.GetState().String(), "KEY_STATE_")))
		if !slices.Contains(out, text) {
			out = append(out, text)
		}
	}
	return strings.Join(out, " ")
}

func (b *bench) rotateKrbtgt(req *adminv1.RotateKrbtgtRequest) (*adminv1.RotateKrbtgtResponse, error) {
	if req.RequestId == nil {
		req.RequestId = b.fresh()
	}
	return b.rotation().RotateKrbtgt(as("root"), req)
}

func TestRotateKrbtgt(t *testing.T) {
	b := newRotationBench(t)
	req := &adminv1.RotateKrbtgtRequest{}
	r, err := b.rotateKrbtgt(req)
	if err != nil || r.GetKvno() != 2 || r.GetPreviousKvno() != 1 || r.GetNodes() != 1 || r.GetMembers() != 1 {
		t.Fatalf("%v %v", r, err)
	}
	// A TGT can be postdated by a renewable life, lives 10 h, and is taken for a while longer by a slow clock.
	until := t0.Add(7*24*time.Hour + 10*time.Hour + 5*time.Minute).UnixMilli()
	if r.GetAcceptsUntil() != until || states(b.tgs()) != "2:active 1:retiring" {
		t.Errorf("until %v: %s", time.UnixMilli(r.GetAcceptsUntil()).UTC(), states(b.tgs()))
	}
	if again, err := b.rotateKrbtgt(req); err != nil || again.GetKvno() != 2 || again.GetAcceptsUntil() != until || !again.GetMeta().GetReplayed() || states(b.tgs()) != "2:active 1:retiring" {
		t.Errorf("a retry: %v %v, %s", again, err, states(b.tgs()))
	}
	// Without postdated tickets a shorter time will do; the first one's end stays.
	p := b.tgs()
	p.Attributes |= uint32(kdb.DisallowPostdated)
	p.MaxLife = 3600
	b.put(p)
	b.advance(time.Hour)
	if r, err = b.rotateKrbtgt(&adminv1.RotateKrbtgtRequest{}); err != nil || r.GetAcceptsUntil() != t0.Add(2*time.Hour+5*time.Minute).UnixMilli() || states(b.tgs()) != "3:active 2:retiring 1:retiring" {
		t.Errorf("the second: %v %v, %s", r, err, states(b.tgs()))
	}
	if got := b.tgs().GetKeys(); got[len(got)-1].GetRetireAt() != t0.Add(2*time.Hour+5*time.Minute).UnixMilli() {
		t.Errorf("kvno 1 retires at %v", time.UnixMilli(got[len(got)-1].GetRetireAt()).UTC())
	}
	if r, err = b.rotateKrbtgt(&adminv1.RotateKrbtgtRequest{RetireAfter: 60}); err != nil || r.GetAcceptsUntil() != b.now().Add(time.Minute).UnixMilli() {
		t.Errorf("with an end of its own: %v %v", r, err)
	}
	if r, err = b.rotateKrbtgt(&adminv1.RotateKrbtgtRequest{RevokeOld: true}); err != nil || r.GetAcceptsUntil() != 0 || states(b.tgs()) != "5:active" {
		t.Errorf("revoked: %v %v, %s", r, err, states(b.tgs()))
	}
	for _, bad := range []*adminv1.RotateKrbtgtRequest{{RetireAfter: -1}, {RetireAfter: 1, RevokeOld: true}} {
		_, err := b.rotateKrbtgt(bad)
		wantReason(t, err, codes.InvalidArgument, "INVALID")
	}
	_, err = b.rotateKrbtgt(&adminv1.RotateKrbtgtRequest{Realm: "OTHER"})
	wantReason(t, err, codes.NotFound, "NOT_FOUND")
}

func (b *bench) put(p *statev1.Principal) {
	b.t.Helper()
	if res, err := b.store.Apply(putPrincipal(p, nil)); err != nil || res.GetCode() != statev1.Code_CODE_OK {
		b.t.Fatal(res, err)
	}
}

var errDied = errors.New("the leader died here")

// A leader that dies at any step of a rotation of krbtgt leaves what the next one ends, and the caller's retry acts once.
func TestKrbtgtSteps(t *testing.T) {
	for _, revoke := range []bool{false, true} {
		for _, step := range []string{"krbtgt staged", "krbtgt everywhere", "krbtgt active"} {
			for _, by := range []string{"the schedule", "a retry"} {
				t.Run(fmt.Sprint(step, " ", by, " ", revoke), func(t *testing.T) {
					b := newRotationBench(t)
					died := 0
					b.svc.at = func(s string) error {
						if s == step && died == 0 {
							died++
							return errDied
						}
						return nil
					}
					req := &adminv1.RotateKrbtgtRequest{RequestId: b.fresh(), RevokeOld: revoke}
					_, err := b.rotateKrbtgt(req)
					wantReason(t, err, codes.Unavailable, "OUTCOME_UNKNOWN")
					if died != 1 {
						t.Fatal("that step was not taken")
					}
					if staged := strings.HasPrefix(states(b.tgs()), "2:staged"); staged == (step == "krbtgt active") {
						t.Errorf("%s", states(b.tgs()))
					}
					if by == "the schedule" {
						if err := b.svc.onDuty(t.Context(), b.svc.tendKrbtgts); err != nil {
							t.Fatal(err)
						}
					}
					r, err := b.rotateKrbtgt(req)
					want := "2:active 1:retiring"
					if revoke {
						want = "2:active"
					}
					if err != nil || r.GetKvno() != 2 || states(b.tgs()) != want || (r.GetAcceptsUntil() == 0) != revoke {
						t.Errorf("%v %v, %s", r, err, states(b.tgs()))
					}
				})
			}
		}
	}
}

func TestKrbtgtSchedule(t *testing.T) {
	b := newRotationBench(t)
	look := func() {
		t.Helper()
		if err := b.svc.onDuty(t.Context(), b.svc.tendKrbtgts); err != nil {
			t.Fatal(err)
		}
	}
	set := func(n int64) *adminv1.Realm {
		t.Helper()
		r, err := b.cluster().UpdateRealm(as("root"), &adminv1.UpdateRealmRequest{RequestId: b.fresh(), KrbtgtRotation: proto.Int64(n)})
		if err != nil {
			t.Fatal(err)
		}
		return r.GetRealm()
	}
	kvno := func() uint32 { return b.tgs().GetKvno() }
	look()
	b.advance(90*24*time.Hour - time.Second)
	look()
	if kvno() != 1 {
		t.Fatal("rotated early")
	}
	b.advance(time.Second)
	look()
	look()
	if kvno() != 2 || b.tgs().GetModifiedBy() != systemCaller {
		t.Fatalf("after 90 days: kvno %d by %s", kvno(), b.tgs().GetModifiedBy())
	}
	if r := set(-7); r.GetKrbtgtRotation() != -1 || r.GetKrbtgtRotatesAt() != 0 {
		t.Errorf("off: %v", r)
	}
	b.advance(1000 * 24 * time.Hour)
	look()
	if kvno() != 2 {
		t.Fatal("rotated though that is off")
	}
	if r := set(3600); r.GetKrbtgtRotation() != 3600 || r.GetKrbtgtRotatesAt() == 0 {
		t.Errorf("hourly: %v", r)
	}
	look()
	if kvno() != 3 {
		t.Fatal("not rotated")
	}
	if r := set(0); r.GetKrbtgtRotation() != 90*86400 {
		t.Errorf("the default: %v", r)
	}
	_, err := b.cluster().UpdateRealm(as("root"), &adminv1.UpdateRealmRequest{RequestId: b.fresh(), KrbtgtRotation: proto.Int64(60)})
	wantReason(t, err, codes.InvalidArgument, "INVALID")
	scheduled := slices.IndexFunc(b.audit, func(e AuditEvent) bool { return e.Caller == systemCaller })
	if scheduled < 0 || b.audit[scheduled].Method != adminv1.Rotation_RotateKrbtgt_FullMethodName || b.audit[scheduled].Code != "OK" {
		t.Errorf("audit: %v", b.audit)
	}
}

// A node that did not answer may have gone on issuing: its tickets count.
func TestKrbtgtWaitsForWhoIsLate(t *testing.T) {
	r := &statev1.Realm{MaxLife: 100, MaxRenewableLife: 1000}
	p := &statev1.Principal{MaxLife: 50}
	rot := &statev1.KrbtgtRotation{}
	if got := acceptsFor(r, p, rot, false); got != 1050*time.Second+clockSlack {
		t.Error(got)
	}
	if got := acceptsFor(r, p, rot, true); got != 1050*time.Second+clockSlack+cutOffSlack {
		t.Error(got)
	}

	b := newRotationBench(t)
	b.store.Late = []raftstore.NodeRef{{Name: "n2"}}
	staged := uint64(0)
	b.svc.at = func(step string) error {
		switch step {
		case "krbtgt staged":
			staged, _ = b.store.DB.Applied()
		case "krbtgt everywhere":
			if got := b.store.Waited(); got != staged || staged == 0 {
				t.Errorf("staged at index %d, waited for %d", staged, got)
			}
		}
		return nil
	}
	resp, err := b.rotateKrbtgt(&adminv1.RotateKrbtgtRequest{})
	until := t0.Add(7*24*time.Hour + 10*time.Hour + clockSlack + cutOffSlack).UnixMilli()
	if err != nil || resp.GetAcceptsUntil() != until || !slices.Equal(resp.GetLate(), []string{"n2"}) || resp.GetNodes() != 0 {
		t.Errorf("with a node that is late: %v, %v", resp, err)
	}
}

// Keys of krbtgt that were set by hand in the middle end the rotation, too.
func TestKrbtgtChangedByHand(t *testing.T) {
	b := newRotationBench(t)
	b.svc.at = func(step string) error { return errDied }
	_, err := b.rotateKrbtgt(&adminv1.RotateKrbtgtRequest{})
	wantReason(t, err, codes.Unavailable, "OUTCOME_UNKNOWN")
	b.svc.at = nil
	if _, err := b.principals().SetPassword(as("root"), &adminv1.SetPasswordRequest{RequestId: b.fresh(), Name: testTGS, Keys: random(), KeepOld: true}); err != nil {
		t.Fatal(err)
	}
	if err := b.svc.onDuty(t.Context(), b.svc.tendKrbtgts); err != nil {
		t.Fatal(err)
	}
	if r, err := b.rotateKrbtgt(&adminv1.RotateKrbtgtRequest{}); err != nil || r.GetPreviousKvno() != 3 || r.GetKvno() != 4 {
		t.Errorf("%v %v: %s", r, err, states(b.tgs()))
	}
}

func TestRotationsNeedTheLevel(t *testing.T) {
	b := newRotationBench(t)
	b.svc.Reader = oldLevel{b.svc.Reader}
	_, err := b.rotateKrbtgt(&adminv1.RotateKrbtgtRequest{})
	wantReason(t, err, codes.FailedPrecondition, "FEATURE_LEVEL")
	_, err = b.rotation().RotateMasterKey(as("root"), &adminv1.RotateMasterKeyRequest{RequestId: b.fresh()})
	wantReason(t, err, codes.FailedPrecondition, "FEATURE_LEVEL")
	_, err = b.cluster().UpdateRealm(as("root"), &adminv1.UpdateRealmRequest{RequestId: b.fresh(), KrbtgtRotation: proto.Int64(-1)})
	wantReason(t, err, codes.FailedPrecondition, "FEATURE_LEVEL")
	b.advance(100 * 24 * time.Hour)
	before := b.store.Proposals()
	for _, duty := range []func(context.Context) error{b.svc.tendKrbtgts, b.svc.tendMasterKey, b.svc.tendRetired} {
		if err := b.svc.onDuty(t.Context(), duty); err != nil || b.store.Proposals() != before {
			t.Errorf("%v, %d proposals", err, b.store.Proposals()-before)
		}
	}
}

type oldLevel struct{ Reader }

func (o oldLevel) Cluster() (*statev1.Cluster, error) {
	cl, err := o.Reader.Cluster()
	cl.FeatureLevel = 1
	return cl, err
}

func (b *bench) tendMasterKey() error { return b.svc.onDuty(b.t.Context(), b.svc.tendMasterKey) }

func TestRotateMasterKey(t *testing.T) {
	b := newRotationBench(t)
	for i := range 700 {
		p := b.stored("krbtgt", testRealm)
		p.Id = append([]byte{1, byte(i), byte(i >> 8)}, make([]byte, 13)...)
		p.Name, p.Attributes = []string{"p", fmt.Sprint(i)}, 0
		var err error
		if p.Keys, err = b.svc.makeKeys(p, 1, nil, []keySalt{{18, "normal"}}); err != nil {
			t.Fatal(err)
		}
		p.KeyHistory = []*statev1.KeyHistory{{Kvno: 1, Keys: p.Keys[:1]}}
		b.put(p)
	}
	req := &adminv1.RotateMasterKeyRequest{RequestId: b.fresh()}
	for range 2 {
		r, err := b.rotation().RotateMasterKey(as("root"), req)
		if err != nil || r.GetVersion() != 2 || r.GetPreviousVersion() != 1 {
			t.Fatalf("%v %v", r, err)
		}
	}
	_, err := b.rotation().RotateMasterKey(as("root"), &adminv1.RotateMasterKeyRequest{RequestId: b.fresh()})
	wantReason(t, err, codes.FailedPrecondition, "IN_PROGRESS")
	_, err = b.rotation().RetireMasterKeys(as("root"), &adminv1.RetireMasterKeysRequest{RequestId: b.fresh()})
	wantReason(t, err, codes.FailedPrecondition, "IN_PROGRESS")
	show := func() *adminv1.GetMasterKeyResponse {
		t.Helper()
		r, err := b.rotation().GetMasterKey(as("root"), &adminv1.GetMasterKeyRequest{})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	if r := show(); r.GetVersion() != 1 || r.GetRotation().GetPhase() != adminv1.MasterKeyProgress_PHASE_HANDING_OUT || r.GetRotation().GetStartedBy() != "root" {
		t.Errorf("%v", r)
	}
	resealing := 0
	b.svc.at = func(step string) error {
		if step == "master key resealing" {
			if resealing++; resealing == 2 {
				if p := show().GetRotation(); p.GetPhase() != adminv1.MasterKeyProgress_PHASE_RESEALING || p.GetDone() == 0 || p.GetDone() >= p.GetTotal() {
					t.Errorf("half way: %v", p)
				}
			}
		}
		return nil
	}
	for range 2 {
		if err := b.tendMasterKey(); err != nil {
			t.Fatal(err)
		}
	}
	if n, err := b.store.DB.CountStale(2); n != 0 || err != nil || resealing < 3 {
		t.Errorf("%d records under another version, %v; %d commands", n, err, resealing)
	}
	if r := show(); r.GetVersion() != 2 || r.GetRotation() != nil || r.GetRotatedAt() == 0 || r.GetFloor() != 0 {
		t.Errorf("%v", r)
	}
	for i := range 700 {
		p := b.stored("p", fmt.Sprint(i))
		if _, err := b.svc.extract(p, func(*statev1.Key) bool { return true }); err != nil {
			t.Fatal(err)
		}
		if _, err := b.svc.openKey(make([]byte, 16), p, p.GetKeyHistory()[0].GetKeys()[0]); err != nil {
			t.Fatal(err)
		}
	}
	if r, err := b.rotation().RetireMasterKeys(as("root"), &adminv1.RetireMasterKeysRequest{RequestId: b.fresh()}); err != nil || r.GetVersion() != 2 || show().GetFloor() != 2 {
		t.Errorf("%v %v", r, err)
	}
}

func TestMasterKeyOfWhoCanNotStoreIt(t *testing.T) {
	b := newRotationBench(t)
	rotate := func() error {
		_, err := b.rotation().RotateMasterKey(as("root"), &adminv1.RotateMasterKeyRequest{RequestId: b.fresh()})
		return err
	}
	down := member(3, "follower", false)
	b.store.Nodes.Nodes = append(b.store.Nodes.Nodes, down)
	err := rotate()
	wantReason(t, err, codes.FailedPrecondition, "NODE_UNREACHABLE")
	if !strings.Contains(err.Error(), "charon node remove n3") {
		t.Error(err)
	}
	fixed := member(3, "follower", true)
	fixed.MasterKeysFixed = "it comes as a systemd credential"
	b.store.Nodes.Nodes[1] = fixed
	err = rotate()
	wantReason(t, err, codes.FailedPrecondition, "CAN_NOT_STORE")
	if !strings.Contains(err.Error(), "systemd") {
		t.Error(err)
	}
	// A node that goes away in the middle is waited for, by name.
	b.store.Nodes.Nodes = b.store.Nodes.Nodes[:1]
	if err := rotate(); err != nil {
		t.Fatal(err)
	}
	if res, err := b.store.Apply(&statev1.Command{Op: &statev1.Command_PutNode{PutNode: &statev1.PutNode{Node: &statev1.Node{
		Id: append([]byte{7}, make([]byte, 15)...), ReplayId: append([]byte{8}, make([]byte, 15)...), Name: "n7", PeerAddress: "n7:1", FeatureLevelMax: 2,
	}}}}); err != nil || res.GetCode() != statev1.Code_CODE_OK {
		t.Fatal(res, err)
	}
	b.store.HandErr = errors.New("does not answer")
	if err := b.tendMasterKey(); err == nil || !strings.Contains(err.Error(), "n7: does not answer") {
		t.Errorf("%v", err)
	}
	r, err := b.rotation().GetMasterKey(as("root"), &adminv1.GetMasterKeyRequest{})
	if err != nil || len(r.GetRotation().GetWaiting()) != 1 || r.GetVersion() != 1 {
		t.Errorf("%v %v", r, err)
	}
	b.store.HandErr = nil
	for range 2 {
		if err := b.tendMasterKey(); err != nil {
			t.Fatal(err)
		}
	}
	if len(b.store.Handed) == 0 || b.store.Handed[0] != (peer.NodeID{7}) {
		t.Errorf("handed to %v", b.store.Handed)
	}
	if cl, _ := b.store.DB.Cluster(); cl.GetMasterKeyVersion() != 2 || cl.GetMasterKeyRotation() != nil {
		t.Errorf("%v", cl)
	}
}

// A password that is changed while its record is sealed anew is the new one afterwards.
func TestPasswordWhileResealing(t *testing.T) {
	b := newRotationBench(t)
	b.add("alice", password("first"), 0)
	if _, err := b.rotation().RotateMasterKey(as("root"), &adminv1.RotateMasterKeyRequest{RequestId: b.fresh()}); err != nil {
		t.Fatal(err)
	}
	change := func() {
		if _, err := b.principals().SetPassword(as("root"), &adminv1.SetPasswordRequest{RequestId: b.fresh(), Name: "alice", Keys: password("second")}); err != nil {
			t.Error(err)
		}
	}
	b.svc.at = func(step string) error {
		if step == "master key active" {
			b.store.Before(change) // between reading the records and the command
		}
		return nil
	}
	for range 3 {
		if err := b.tendMasterKey(); err != nil {
			t.Fatal(err)
		}
	}
	p := b.stored("alice")
	if n, _ := b.store.DB.CountStale(2); n != 0 || p.GetKvno() != 2 {
		t.Errorf("%d stale, kvno %d", n, p.GetKvno())
	}
	want, err := b.svc.makeKeys(p, 2, proto.String("second"), []keySalt{{17, "normal"}})
	if err != nil {
		t.Fatal(err)
	}
	a, err := b.svc.openKey(make([]byte, 16), p, want[0])
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(p.GetKeys(), func(k *statev1.Key) bool { return k.GetEtype() == 17 })
	if got, err := b.svc.openKey(make([]byte, 16), p, p.GetKeys()[i]); err != nil || !got.Equal(a) {
		t.Errorf("alice's key is not that of her new password: %v", err)
	}
}

func TestRetiredKeysGo(t *testing.T) {
	b := newRotationBench(t)
	sweep := func() {
		t.Helper()
		if err := b.svc.onDuty(t.Context(), b.svc.tendRetired); err != nil {
			t.Fatal(err)
		}
	}
	rotate := func(name string, stage bool) {
		t.Helper()
		if _, err := b.keytabs().RotateKeytab(as("root"), &adminv1.RotateKeytabRequest{RequestId: b.fresh(), Name: name, Stage: stage}); err != nil {
			t.Fatal(err)
		}
	}
	b.add("HTTP/web", random(), 0)
	b.add("HTTP/old", random(), 0)
	rotate("HTTP/old", false) // its earlier key has no end
	sweep()
	rotate("HTTP/web", true)
	for range 3 { // days in which the keytab is delivered
		b.advance(24 * time.Hour)
		sweep()
	}
	if got := states(b.stored("HTTP", "web")); got != "2:staged 1:active" {
		t.Fatal(got)
	}
	a, err := b.keytabs().ActivateKeytab(as("root"), &adminv1.ActivateKeytabRequest{RequestId: b.fresh(), Name: "HTTP/web", RetireAfter: 3600})
	if err != nil {
		t.Fatal(err)
	}
	b.advance(time.Hour - time.Millisecond)
	sweep()
	if got := states(b.stored("HTTP", "web")); got != "2:active 1:retiring" {
		t.Fatal(got)
	}
	// Another leader knows nothing but the state.
	b.svc.tender.retiring.lookAgain()
	b.advance(time.Millisecond)
	before := b.store.Proposals()
	sweep()
	if got := states(b.stored("HTTP", "web")); got != "2:active" || b.now().UnixMilli() != a.GetRetireAt() {
		t.Errorf("at its time: %s", got)
	}
	sweep()
	b.advance(time.Hour)
	sweep()
	if n := b.store.Proposals() - before; n != 1 {
		t.Errorf("%d commands for one retirement", n)
	}
	if got := states(b.stored("HTTP", "old")); got != "2:active 1:retiring" {
		t.Errorf("a key without an end: %s", got)
	}
}

// Nobody but a leader has duties.
func TestFollowersDoNothing(t *testing.T) {
	b := newRotationBench(t)
	b.advance(100 * 24 * time.Hour)
	b.store.Depose()
	before := b.store.Proposals()
	if err := b.svc.onDuty(t.Context(), b.svc.tendKrbtgts); err != nil || b.store.Proposals() != before {
		t.Errorf("%v, %d proposals", err, b.store.Proposals()-before)
	}
}

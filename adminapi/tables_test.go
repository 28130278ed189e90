package adminapi

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/charon-kdc/charon/adminapi/jointoken"
	adminv1 "github.com/charon-kdc/charon/proto/charon/admin/v1"
	statev1 "github.com/charon-kdc/charon/proto/charon/state/v1"
	"github.com/charon-kdc/charon/raftstore"
	"github.com/charon-kdc/charon/raftstore/peer"
	"github.com/charon-kdc/charon/raftstore/realm"
)

func unmarshal(b []byte, m proto.Message) error { return proto.Unmarshal(b, m) }

func TestPolicies(t *testing.T) {
	b := newBench(t)
	req := &adminv1.CreatePolicyRequest{RequestId: b.fresh(), Policy: &adminv1.Policy{Name: "strict", MinLength: 12, AllowedKeysalts: []string{"aes256-cts:normal"}, Revision: 99, ModifiedBy: "me"}}
	for i := range 2 {
		r, err := b.policies().CreatePolicy(as("root"), req)
		p := r.GetPolicy()
		if err != nil || p.GetMinLength() != 12 || p.GetModifiedBy() != "root" || p.GetRevision() == 99 || p.GetAllowedKeysalts()[0] != "aes256-cts-hmac-sha1-96:normal" || r.GetMeta().GetReplayed() != (i == 1) {
			t.Errorf("created: %v %v", r, err)
		}
	}
	u, err := b.policies().UpdatePolicy(as("root"), &adminv1.UpdatePolicyRequest{RequestId: b.fresh(), Name: "strict", MinLength: proto.Uint32(0), History: proto.Uint32(5), ClearAllowedKeysalts: true})
	if err != nil || u.GetPolicy().GetMinLength() != 0 || u.GetPolicy().GetHistory() != 5 || len(u.GetPolicy().GetAllowedKeysalts()) != 0 {
		t.Errorf("updated: %v %v", u, err)
	}
	_, err = b.policies().UpdatePolicy(as("root"), &adminv1.UpdatePolicyRequest{RequestId: b.fresh(), Name: "strict", ExpectedRevision: 1})
	wantReason(t, err, codes.Aborted, "CONFLICT")
	_, err = b.policies().CreatePolicy(as("root"), &adminv1.CreatePolicyRequest{RequestId: b.fresh(), Policy: &adminv1.Policy{Name: "strict"}})
	wantReason(t, err, codes.AlreadyExists, "EXISTS")
	_, err = b.policies().GetPolicy(as("root"), &adminv1.GetPolicyRequest{Name: "nope"})
	wantReason(t, err, codes.NotFound, "NOT_FOUND")
	for _, p := range []*adminv1.Policy{{}, {Name: "x", MinClasses: 6}, {Name: "x", History: 101}, {Name: "x", MinLife: -1}, {Name: "x", MinLife: 2, MaxLife: 1}, {Name: "x", MinLength: 5000}, {Name: "x", AllowedKeysalts: []string{"des"}}} {
		_, err := b.policies().CreatePolicy(as("root"), &adminv1.CreatePolicyRequest{RequestId: b.fresh(), Policy: p})
		wantReason(t, err, codes.InvalidArgument, "INVALID")
	}
	for i := range 4 {
		if _, err := b.policies().CreatePolicy(as("root"), &adminv1.CreatePolicyRequest{RequestId: b.fresh(), Policy: &adminv1.Policy{Name: fmt.Sprintf("p%d", i)}}); err != nil {
			t.Fatal(err)
		}
	}
	var names []string
	list := &adminv1.ListPoliciesRequest{Filter: "p*", PageSize: 3}
	for pages := 0; pages < 5; pages++ {
		r, err := b.policies().ListPolicies(as("root"), list)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range r.GetPolicies() {
			names = append(names, p.GetName())
		}
		if list.PageToken = r.GetNextPageToken(); list.PageToken == "" {
			break
		}
	}
	if strings.Join(names, " ") != "p0 p1 p2 p3" {
		t.Errorf("listed %v", names)
	}
	if _, err := b.policies().DeletePolicy(as("root"), &adminv1.DeletePolicyRequest{RequestId: b.fresh(), Name: "p0"}); err != nil {
		t.Error(err)
	}
}

func TestRoles(t *testing.T) {
	b := newBench(t)
	g, err := b.roles().GrantRole(as("root"), &adminv1.GrantRoleRequest{RequestId: b.fresh(), Role: &adminv1.Role{Subject: "cert:alice", Verbs: []string{"list"}}})
	if err != nil || !strings.HasPrefix(g.GetRole().GetId(), "cert:alice-") || b.store.Waited() != g.GetMeta().GetIndex() {
		t.Fatalf("granted: %v %v", g, err)
	}
	for _, r := range []*adminv1.Role{{Subject: "alice", Verbs: []string{"list"}}, {Subject: "uid:0", Verbs: []string{"list"}}, {Subject: "cert:", Verbs: []string{"list"}}, {Subject: "krb:alice@" + testRealm, Verbs: []string{"list"}}, {Subject: "cert:a"}, {Subject: "cert:a", Verbs: []string{"fly"}}} {
		_, err := b.roles().GrantRole(as("root"), &adminv1.GrantRoleRequest{RequestId: b.fresh(), Role: r})
		wantReason(t, err, codes.InvalidArgument, "INVALID")
	}
	p, err := b.roles().GetPrivileges(as("cert:alice"), &adminv1.GetPrivilegesRequest{})
	if err != nil || p.GetRoot() || len(p.GetRoles()) != 1 {
		t.Errorf("privileges: %v %v", p, err)
	}
	_, err = b.roles().GetPrivileges(as("cert:bob"), &adminv1.GetPrivilegesRequest{})
	wantReason(t, err, codes.PermissionDenied, "PERMISSION_DENIED")
	l, err := b.roles().ListRoles(as("root"), &adminv1.ListRolesRequest{Filter: "cert:a*"})
	if err != nil || len(l.GetRoles()) != 1 {
		t.Errorf("listed: %v %v", l, err)
	}
	if _, err := b.roles().RevokeRole(as("root"), &adminv1.RevokeRoleRequest{RequestId: b.fresh(), Id: g.GetRole().GetId()}); err != nil {
		t.Error(err)
	}
	_, err = b.principals().ListPrincipals(as("cert:alice"), &adminv1.ListPrincipalsRequest{NamesOnly: true})
	wantReason(t, err, codes.PermissionDenied, "PERMISSION_DENIED")
}

func TestRealm(t *testing.T) {
	b := newBench(t)
	r, err := b.cluster().GetRealm(as("root"), &adminv1.GetRealmRequest{})
	if err != nil || r.GetRealm().GetName() != testRealm || len(r.GetNodes()) != 1 || r.GetNodes()[0].GetRole() != "leader" {
		t.Errorf("realm: %v %v", r, err)
	}
	u, err := b.cluster().UpdateRealm(as("root"), &adminv1.UpdateRealmRequest{RequestId: b.fresh(), MaxLife: proto.Int64(7200), Etypes: []int32{18}})
	if err != nil || u.GetRealm().GetMaxLife() != 7200 || len(u.GetRealm().GetEtypes()) != 1 {
		t.Errorf("updated: %v %v", u, err)
	}
	for _, req := range []*adminv1.UpdateRealmRequest{{MaxLife: proto.Int64(1)}, {Etypes: []int32{3}}, {Etypes: []int32{18, 18}}, {MaxRenewableLife: proto.Int64(-1)}, {MaxRenewableLife: proto.Int64(0)}, {MaxLife: proto.Int64(0)}} {
		req.RequestId = b.fresh()
		_, err := b.cluster().UpdateRealm(as("root"), req)
		wantReason(t, err, codes.InvalidArgument, "INVALID")
	}
}

func TestTokens(t *testing.T) {
	b := newBench(t)
	req := &adminv1.CreateTokenRequest{RequestId: b.fresh(), NodeName: "kdc2", Ttl: 600}
	r, err := b.cluster().CreateToken(as("root"), req)
	if err != nil {
		t.Fatal(err)
	}
	tok, err := jointoken.Parse(r.GetToken())
	if err != nil || tok.NodeName != "kdc2" || tok.Address != "n1.example.com:7750" || r.GetInfo().GetExpiresAt() != t0.Add(10*time.Minute).UnixMilli() {
		t.Errorf("token %v %v %v", tok, r.GetInfo(), err)
	}
	_, err = b.cluster().CreateToken(as("root"), req)
	wantReason(t, err, codes.AlreadyExists, "TOKEN_SHOWN")
	for _, bad := range []*adminv1.CreateTokenRequest{{NodeName: "n1"}, {NodeName: "Not A Name"}, {Ttl: -1}, {Ttl: 8 * 86400}} {
		bad.RequestId = b.fresh()
		if _, err := b.cluster().CreateToken(as("root"), bad); reasonOf(err) != "INVALID" && reasonOf(err) != "EXISTS" {
			t.Errorf("%v: %v", bad, err)
		}
	}
	l, err := b.cluster().ListTokens(as("root"), &adminv1.ListTokensRequest{})
	if err != nil || len(l.GetTokens()) != 1 || l.GetTokens()[0].GetCreatedBy() != "root" {
		t.Errorf("listed: %v %v", l, err)
	}
	if _, err := b.cluster().RevokeToken(as("root"), &adminv1.RevokeTokenRequest{RequestId: b.fresh(), Id: tok.ID[:]}); err != nil {
		t.Error(err)
	}
	_, err = b.cluster().RevokeToken(as("root"), &adminv1.RevokeTokenRequest{RequestId: b.fresh(), Id: tok.ID[:]})
	wantReason(t, err, codes.NotFound, "NOT_FOUND")
}

// A store that missed the answer to its proposal makes it again and reads the kept outcome: the token is the caller's all the same.
func TestTokenOfARetriedProposal(t *testing.T) {
	b := newBench(t)
	b.store.Again()
	req := &adminv1.CreateTokenRequest{RequestId: b.fresh(), NodeName: "kdc2"}
	r, err := b.cluster().CreateToken(as("root"), req)
	if err != nil {
		t.Fatal(err)
	}
	tok, err := jointoken.Parse(r.GetToken())
	if err != nil || string(tok.ID[:]) != string(r.GetInfo().GetId()) {
		t.Fatalf("token %v %v of %v", tok, err, r.GetInfo())
	}
	if rec, err := b.store.DB.Token(tok.ID[:]); err != nil || !bytes.Equal(rec.GetSecretHash(), tok.Record(t0, t0, "").GetSecretHash()) {
		t.Errorf("the realm does not know that token: %v %v", rec, err)
	}
	// Another call under the id did not make the secret and can't show it, but says which token to revoke.
	_, err = b.cluster().CreateToken(as("root"), req)
	wantReason(t, err, codes.AlreadyExists, "TOKEN_SHOWN")
	if id := fmt.Sprintf("%x", tok.ID[:]); !strings.Contains(err.Error(), "charon token revoke "+id) {
		t.Errorf("%v does not name token %s", err, id)
	}
}

func member(i byte, role string, up bool) raftstore.NodeStatus {
	return raftstore.NodeStatus{NodeRef: raftstore.NodeRef{ID: peer.NodeID{i}, Name: fmt.Sprintf("n%d", i)}, Role: role, Reachable: up}
}

// members has the cluster have these, n1 as it is.
func (b *bench) members(all ...raftstore.NodeStatus) {
	b.t.Helper()
	b.store.Nodes.Nodes = all
	for _, m := range all[1:] {
		replayID := m.ID
		replayID[15] = 1
		if res, err := b.store.Apply(&statev1.Command{Op: &statev1.Command_PutNode{PutNode: &statev1.PutNode{Node: &statev1.Node{
			Id: m.ID[:], ReplayId: replayID[:], Name: m.Name, PeerAddress: m.Name + ".example.com:7750", FeatureLevelMax: realm.FeatureLevelMax,
		}}}}); err != nil || res.GetCode() != statev1.Code_CODE_OK {
			b.t.Fatal(res, err)
		}
	}
}

func TestRemoveNode(t *testing.T) {
	b := newBench(t)
	remove := func(n string, force bool) (*adminv1.RemoveNodeResponse, error) {
		return b.cluster().RemoveNode(as("root"), &adminv1.RemoveNodeRequest{RequestId: b.fresh(), Name: n, Force: force})
	}
	b.members(member(1, "leader", true), member(2, "follower", true), member(3, "follower", false), member(4, "non-voter", true))
	// Two left is a cluster that any loss stops; and without n2 only one of two answers.
	_, err := remove("n2", false)
	wantReason(t, err, codes.FailedPrecondition, "QUORUM_AT_RISK")
	if r, err := remove("n4", false); err != nil || r.GetVoters() != 3 || len(r.GetRotate()) == 0 {
		t.Errorf("a non-voter: %v %v", r, err)
	}
	if r, err := remove("n2", true); err != nil || r.GetVoters() != 2 {
		t.Errorf("by force: %v %v", r, err)
	}
	_, err = remove("n1", true)
	wantReason(t, err, codes.FailedPrecondition, "IS_LEADER")
	_, err = remove("n9", true)
	wantReason(t, err, codes.NotFound, "NOT_FOUND")
	if len(b.store.Removed) != 2 {
		t.Errorf("removed %v", b.store.Removed)
	}
}

func TestStatus(t *testing.T) {
	b := newBench(t)
	other := newBench(t)
	other.svc.Stats = func() *adminv1.NodeStats { return &adminv1.NodeStats{AsPerSecond: 208} }
	b.svc.Stats = func() *adminv1.NodeStats { return &adminv1.NodeStats{AsPerSecond: 212} }
	b.svc.Forwarder = oneHop{other.peer}
	b.add("alice", random(), 0)
	b.add("bob", random(), attrDisallowAllTix)
	b.store.Nodes.Nodes = append(b.store.Nodes.Nodes, member(2, "follower", true), member(3, "follower", false))
	b.store.Nodes.Voters, b.store.Nodes.Tolerates = 3, 0
	r, err := b.cluster().GetStatus(as("root"), &adminv1.GetStatusRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if r.GetRealm() != testRealm || r.GetVotersAlive() != 2 || !r.GetQuorum() || r.GetLeader() != "n1" || r.GetPrincipals() != 2 || r.GetLocked() != 1 || !r.GetCounted() {
		t.Errorf("status: %v", r)
	}
	n := r.GetNodes()
	if len(n) != 3 || n[0].GetStats().GetAsPerSecond() != 212 || n[1].GetStats().GetAsPerSecond() != 208 || n[2].GetHealth() != "down" || n[2].Stats != nil {
		t.Errorf("nodes: %v", n)
	}
	for i := range b.store.Nodes.Nodes {
		b.store.Nodes.Nodes[i].ReplayState = "cut-off"
	}
	if r, err = b.cluster().GetStatus(as("root"), &adminv1.GetStatusRequest{}); err != nil {
		t.Fatal(err)
	}
	if n := r.GetNodes(); n[0].GetHealth() != "cut-off" || n[1].GetHealth() != "cut-off" || n[2].GetHealth() != "down" {
		t.Errorf("nodes without verdicts of the replay cache: %v", n)
	}
	if _, err := b.cluster().TransferLeadership(as("root"), &adminv1.TransferLeadershipRequest{}); err != nil {
		t.Error(err)
	}
}

// The first outcome stands under the request id, though by now there is no such node.
func TestRemoveNodeAgain(t *testing.T) {
	b := newBench(t)
	b.members(member(1, "leader", true), member(2, "follower", true), member(3, "follower", true), member(4, "follower", true))
	req := &adminv1.RemoveNodeRequest{RequestId: b.fresh(), Name: "n4"}
	first, err := b.cluster().RemoveNode(as("root"), req)
	if err != nil || first.GetVoters() != 3 || first.GetMeta().GetReplayed() {
		t.Fatalf("removed: %v %v", first, err)
	}
	b.store.Nodes.Nodes = b.store.Nodes.Nodes[:3]
	again, err := b.cluster().RemoveNode(as("root"), req)
	if err != nil || again.GetVoters() != 3 || len(again.GetRotate()) == 0 || !again.GetMeta().GetReplayed() {
		t.Errorf("again: %v %v", again, err)
	}
	req.Name = "n3"
	_, err = b.cluster().RemoveNode(as("root"), req)
	wantReason(t, err, codes.InvalidArgument, "REQUEST_ID_REUSED")
	if len(b.store.Removed) != 1 {
		t.Errorf("removed %v", b.store.Removed)
	}
	// A removal whose outcome was unknown is found done by a retry.
	for what, harm := range map[string]func(){
		"the commit's answer was lost": func() { b.store.Lose(true) },
		"the groups lag":               func() { b.store.FailWait(context.DeadlineExceeded) },
	} {
		b.members(append(b.store.Nodes.Nodes[:2:2], member(3, "follower", true), member(4, "follower", true))...)
		req := &adminv1.RemoveNodeRequest{RequestId: b.fresh(), Name: "n3"}
		harm()
		_, err := b.cluster().RemoveNode(as("root"), req)
		wantReason(t, err, codes.Unavailable, "OUTCOME_UNKNOWN")
		b.store.FailWait(nil)
		b.store.Nodes.Nodes = b.store.Nodes.Nodes[:2]
		if r, err := b.cluster().RemoveNode(as("root"), req); err != nil || r.GetVoters() != 3 || !r.GetMeta().GetReplayed() {
			t.Errorf("%s: again: %v %v", what, r, err)
		}
	}
	// One whose record is gone but that the groups have still.
	b.store.Nodes.Nodes = append(b.store.Nodes.Nodes, member(3, "follower", true), member(5, "follower", true))
	if r, err := b.cluster().RemoveNode(as("root"), &adminv1.RemoveNodeRequest{RequestId: b.fresh(), Name: "n3"}); err != nil || r.GetVoters() != 3 {
		t.Errorf("half removed: %v %v", r, err)
	}
}

// A node that left the groups in a removal that was cut off has its record still: the removal can be ended.
func TestRemoveNodeByRecord(t *testing.T) {
	b := newBench(t)
	id := append([]byte{7}, make([]byte, 15)...)
	if res, err := b.store.Apply(&statev1.Command{Op: &statev1.Command_PutNode{PutNode: &statev1.PutNode{Node: &statev1.Node{
		Id: id, ReplayId: append([]byte{8}, make([]byte, 15)...), Name: "n7", PeerAddress: "n7.example.com:7750", FeatureLevelMax: realm.FeatureLevelMax,
	}}}}); err != nil || res.GetCode() != statev1.Code_CODE_OK {
		t.Fatal(res, err)
	}
	if r, err := b.cluster().RemoveNode(as("root"), &adminv1.RemoveNodeRequest{RequestId: b.fresh(), Name: "n7"}); err != nil || r.GetVoters() != 1 {
		t.Errorf("removed: %v %v", r, err)
	}
	if len(b.store.Removed) != 1 || b.store.Removed[0] != (peer.NodeID{7}) {
		t.Errorf("removed %v", b.store.Removed)
	}
}

// Status is for when there is no leader, too.
func TestStatusWithoutLeader(t *testing.T) {
	b := newBench(t)
	b.store.Depose()
	b.store.Nodes.Quorum, b.store.Nodes.Leader = false, raftstore.NodeRef{}
	r, err := b.cluster().GetStatus(as("root"), &adminv1.GetStatusRequest{})
	if err != nil || r.GetQuorum() || r.GetLeader() != "" {
		t.Errorf("status: %v %v", r, err)
	}
	ctx, cancel := context.WithTimeout(as("root"), 100*time.Millisecond)
	defer cancel()
	_, err = b.roles().ListRoles(ctx, &adminv1.ListRolesRequest{})
	wantReason(t, err, codes.Unavailable, "NOT_APPLIED")
	// Once it is known that the quorum is lost, nobody waits for a leader.
	b.store.NoQuorum = true
	long, stop := context.WithTimeout(as("root"), 20*time.Second)
	defer stop()
	begun := time.Now()
	_, err = b.principals().DeletePrincipal(long, &adminv1.DeletePrincipalRequest{RequestId: b.fresh(), Name: "alice"})
	wantReason(t, err, codes.Unavailable, "NO_QUORUM")
	if info := errorInfo(err); info.GetMetadata()["outcome"] != "not_applied" || !strings.Contains(err.Error(), "nothing was done") || time.Since(begun) > 2*time.Second {
		t.Errorf("after %v: %v", time.Since(begun), err)
	}
	if l, err := b.roles().ListRoles(as("root"), &adminv1.ListRolesRequest{Consistency: adminv1.Consistency_CONSISTENCY_LOCAL}); err != nil {
		t.Errorf("a local read: %v %v", l, err)
	}
}

package adminapi

import (
	"context"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	adminv1 "github.com/charon-kdc/charon/proto/charon/admin/v1"
)

// Done means done on every node: no change is acknowledged while a node may still answer from before it, and a retry waits again
// without acting again.
func TestEveryChangeIsEverywhere(t *testing.T) {
	life := int64(3600)
	changes := []struct {
		method string
		req    mutation
	}{
		{"Principals/CreatePrincipal", &adminv1.CreatePrincipalRequest{Name: "new", Keys: random()}},
		{"Principals/UpdatePrincipal", &adminv1.UpdatePrincipalRequest{Name: "alice", SetAttributes: attrDisallowAllTix}},
		{"Principals/UpdatePrincipal", &adminv1.UpdatePrincipalRequest{Name: "alice", AddAliases: []string{"al"}}},
		{"Principals/RenamePrincipal", &adminv1.RenamePrincipalRequest{Name: "alice", NewName: "alicia"}},
		{"Principals/SetPassword", &adminv1.SetPasswordRequest{Name: "alice", Keys: random()}},
		{"Principals/PurgeKeys", &adminv1.PurgeKeysRequest{Name: "alice"}},
		{"Principals/DeletePrincipal", &adminv1.DeletePrincipalRequest{Name: "alice"}},
		{"Keytabs/EnsureKeytab", &adminv1.EnsureKeytabRequest{Name: "HTTP/new"}},
		{"Keytabs/EnsureKeytab", &adminv1.EnsureKeytabRequest{Name: "alice"}}, // is there, but since when?
		{"Keytabs/RotateKeytab", &adminv1.RotateKeytabRequest{Name: "alice", Stage: true}},
		{"Keytabs/ActivateKeytab", &adminv1.ActivateKeytabRequest{Name: "staged"}},
		{"Policies/CreatePolicy", &adminv1.CreatePolicyRequest{Policy: &adminv1.Policy{Name: "new"}}},
		{"Policies/UpdatePolicy", &adminv1.UpdatePolicyRequest{Name: "p", MaxLife: &life}},
		{"Policies/DeletePolicy", &adminv1.DeletePolicyRequest{Name: "p"}},
		{"Roles/GrantRole", &adminv1.GrantRoleRequest{Role: &adminv1.Role{Subject: "cert:x", Verbs: []string{"list"}}}},
		{"Roles/RevokeRole", &adminv1.RevokeRoleRequest{Id: "r"}},
		{"Cluster/UpdateRealm", &adminv1.UpdateRealmRequest{MaxLife: &life}},
		{"Rotation/RetireMasterKeys", &adminv1.RetireMasterKeysRequest{}},
		{"Upgrade/FinalizeUpgrade", &adminv1.FinalizeUpgradeRequest{}},
		{"Cluster/SetAutoRemoval", &adminv1.SetAutoRemovalRequest{After: 3600}},
		{"Cluster/RevokeToken", &adminv1.RevokeTokenRequest{}}, // its id is filled in below
	}
	covered := map[string]bool{
		// These change who is in the cluster; and a token's secret is for the call that made it, which must not lose it to a slow node.
		api + "Cluster/RemoveNode": true, api + "Cluster/TransferLeadership": true, api + "Cluster/IssueAdminCertificate": true, api + "Cluster/CreateToken": true,
		// What nobody sees until it is active, and that waits for every node by itself.
		api + "Rotation/RotateMasterKey": true,
		// Goes on under a retry until it is at its end: rotation_test.go.
		api + "Rotation/RotateKrbtgt": true,
	}
	for _, c := range changes {
		covered[api+c.method] = true
		t.Run(c.method, func(t *testing.T) {
			b := newBench(t)
			b.add("alice", random(), 0)
			b.add("staged", random(), 0)
			call := func(method string, req proto.Message) (proto.Message, error) {
				resp, err := answerOf(api + method)
				if err != nil {
					t.Fatal(err)
				}
				return resp, b.peer.Invoke(as("root"), api+method, req, resp)
			}
			var token *adminv1.CreateTokenResponse
			for _, made := range []struct {
				method string
				req    proto.Message
			}{
				{"Keytabs/RotateKeytab", &adminv1.RotateKeytabRequest{RequestId: b.fresh(), Name: "staged", Stage: true}},
				{"Policies/CreatePolicy", &adminv1.CreatePolicyRequest{RequestId: b.fresh(), Policy: &adminv1.Policy{Name: "p"}}},
				{"Roles/GrantRole", &adminv1.GrantRoleRequest{RequestId: b.fresh(), Role: &adminv1.Role{Id: "r", Subject: "cert:r", Verbs: []string{"list"}}}},
				{"Cluster/CreateToken", &adminv1.CreateTokenRequest{RequestId: b.fresh(), NodeName: "n9"}},
			} {
				resp, err := call(made.method, made.req)
				if err != nil {
					t.Fatal(made.method, err)
				}
				token, _ = resp.(*adminv1.CreateTokenResponse)
			}
			req := proto.Clone(c.req)
			if r, ok := req.(*adminv1.RevokeTokenRequest); ok {
				r.Id = token.GetInfo().GetId()
			}
			m := req.ProtoReflect()
			m.Set(m.Descriptor().Fields().ByName("request_id"), protoreflect.ValueOfBytes(b.fresh()))

			b.store.FailWait(context.DeadlineExceeded)
			_, err := call(c.method, req)
			wantReason(t, err, codes.Unavailable, "OUTCOME_UNKNOWN")
			if b.store.Waited() == 0 {
				t.Error("the first call waited for nobody")
			}
			before := b.store.Proposals()
			b.store.FailWait(nil)
			resp, err := call(c.method, req)
			if err != nil {
				t.Fatalf("retry: %v", err)
			}
			index := resp.(interface{ GetMeta() *adminv1.Meta }).GetMeta().GetIndex()
			if b.store.Waited() != index || index == 0 {
				t.Errorf("the retry answers for index %d and waited for %d", index, b.store.Waited())
			}
			if b.store.Proposals() != before {
				t.Error("the retry acted again")
			}
		})
	}
	for method, r := range rules {
		if r.leader && !covered[method] {
			t.Errorf("%s is not tried here", method)
		}
	}
}

// A try of a call that the network held back, while a later try with the same request id was refused, must not be carried out any more: its caller was
// told that nothing was done. (Found by the simulation: a principal that came back after it was deleted.)
func TestRefusedCallStaysRefused(t *testing.T) {
	for name, c := range map[string]struct {
		taken bool
		call  func(b *bench, id []byte) error
		code  codes.Code
	}{
		"create": {true, func(b *bench, id []byte) error {
			_, err := b.principals().CreatePrincipal(as("root"), &adminv1.CreatePrincipalRequest{RequestId: id, Name: "alice", Keys: random()})
			return err
		}, codes.AlreadyExists},
		"update": {false, func(b *bench, id []byte) error {
			_, err := b.principals().UpdatePrincipal(as("root"), &adminv1.UpdatePrincipalRequest{RequestId: id, Name: "alice", Unlock: true})
			return err
		}, codes.NotFound},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			if c.taken {
				b.add("alice", random(), 0)
			}
			id := b.fresh()
			if err := c.call(b, id); status.Code(err) != c.code {
				t.Fatalf("the try that came first: %v", err)
			}
			if c.taken {
				if _, err := b.principals().DeletePrincipal(as("root"), &adminv1.DeletePrincipalRequest{RequestId: b.fresh(), Name: "alice"}); err != nil {
					t.Fatal(err)
				}
			} else {
				b.add("alice", random(), 0)
			}
			if err := c.call(b, id); status.Code(err) != c.code {
				t.Errorf("the try that was held back: %v, want %v as its caller was told", err, c.code)
			}
		})
	}
}

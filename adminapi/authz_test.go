package adminapi

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	adminv1 "github.com/charon-kdc/charon/proto/charon/admin/v1"
)

// matrix lists every method and field that needs a right: which verbs, over which names, let it pass. In the other direction each
// single verb, and each role over another name, must be refused.
var matrix = []struct {
	what string
	call func(b *bench, ctx context.Context) error
	// need: all of these verbs, each over the principal "web/target"; or everywhere when global is set.
	need   []string
	global bool
	// also needs the first verb over this other name.
	final string
}{
	{what: "create", need: []string{"add"}, call: func(b *bench, ctx context.Context) error {
		_, err := b.principals().CreatePrincipal(ctx, &adminv1.CreatePrincipalRequest{RequestId: b.fresh(), Name: "web/target"})
		return err
	}},
	{what: "get", need: []string{"inquire"}, call: func(b *bench, ctx context.Context) error {
		_, err := b.principals().GetPrincipal(ctx, &adminv1.GetPrincipalRequest{Name: "web/target"})
		return err
	}},
	{what: "update", need: []string{"modify"}, call: func(b *bench, ctx context.Context) error {
		_, err := b.principals().UpdatePrincipal(ctx, &adminv1.UpdatePrincipalRequest{RequestId: b.fresh(), Name: "web/target", Unlock: true})
		return err
	}},
	{what: "update by alias", need: []string{"modify"}, call: func(b *bench, ctx context.Context) error {
		_, err := b.principals().UpdatePrincipal(ctx, &adminv1.UpdatePrincipalRequest{RequestId: b.fresh(), Name: "free/alias", Unlock: true})
		return err
	}},
	{what: "update: kvno", need: []string{"modify", "setkey"}, call: func(b *bench, ctx context.Context) error {
		k := uint32(5)
		_, err := b.principals().UpdatePrincipal(ctx, &adminv1.UpdatePrincipalRequest{RequestId: b.fresh(), Name: "web/target", Kvno: &k})
		return err
	}},
	{what: "update: alias", need: []string{"modify"}, final: "web/alias", call: func(b *bench, ctx context.Context) error {
		_, err := b.principals().UpdatePrincipal(ctx, &adminv1.UpdatePrincipalRequest{RequestId: b.fresh(), Name: "web/target", AddAliases: []string{"web/alias"}})
		return err
	}},
	{what: "rename", need: []string{"delete"}, final: "web/new", call: func(b *bench, ctx context.Context) error {
		_, err := b.principals().RenamePrincipal(ctx, &adminv1.RenamePrincipalRequest{RequestId: b.fresh(), Name: "web/target", NewName: "web/new"})
		return err
	}},
	{what: "password", need: []string{"changepw"}, call: func(b *bench, ctx context.Context) error {
		_, err := b.principals().SetPassword(ctx, &adminv1.SetPasswordRequest{RequestId: b.fresh(), Name: "web/target", Keys: password("x")})
		return err
	}},
	{what: "purge", need: []string{"modify"}, call: func(b *bench, ctx context.Context) error {
		_, err := b.principals().PurgeKeys(ctx, &adminv1.PurgeKeysRequest{RequestId: b.fresh(), Name: "web/target"})
		return err
	}},
	{what: "delete", need: []string{"delete"}, call: func(b *bench, ctx context.Context) error {
		_, err := b.principals().DeletePrincipal(ctx, &adminv1.DeletePrincipalRequest{RequestId: b.fresh(), Name: "web/target"})
		return err
	}},
	{what: "keytab get", need: []string{"extract"}, call: func(b *bench, ctx context.Context) error {
		_, err := b.keytabs().GetKeytab(ctx, &adminv1.GetKeytabRequest{Name: "web/target"})
		return err
	}},
	{what: "keytab ensure, there", need: []string{"extract"}, call: func(b *bench, ctx context.Context) error {
		_, err := b.keytabs().EnsureKeytab(ctx, &adminv1.EnsureKeytabRequest{RequestId: b.fresh(), Name: "web/target"})
		return err
	}},
	{what: "keytab rotate", need: []string{"extract", "changepw"}, call: func(b *bench, ctx context.Context) error {
		_, err := b.keytabs().RotateKeytab(ctx, &adminv1.RotateKeytabRequest{RequestId: b.fresh(), Name: "web/target"})
		return err
	}},
	{what: "keytab activate", need: []string{"changepw"}, call: func(b *bench, ctx context.Context) error {
		_, err := b.keytabs().ActivateKeytab(ctx, &adminv1.ActivateKeytabRequest{RequestId: b.fresh(), Name: "web/target"})
		return err
	}},
	{what: "policy add", need: []string{"policy"}, global: true, call: func(b *bench, ctx context.Context) error {
		_, err := b.policies().CreatePolicy(ctx, &adminv1.CreatePolicyRequest{RequestId: b.fresh(), Policy: &adminv1.Policy{Name: "p"}})
		return err
	}},
	{what: "policy delete", need: []string{"policy"}, global: true, call: func(b *bench, ctx context.Context) error {
		_, err := b.policies().DeletePolicy(ctx, &adminv1.DeletePolicyRequest{RequestId: b.fresh(), Name: "p"})
		return err
	}},
	{what: "policy update", need: []string{"policy"}, global: true, call: func(b *bench, ctx context.Context) error {
		_, err := b.policies().UpdatePolicy(ctx, &adminv1.UpdatePolicyRequest{RequestId: b.fresh(), Name: "p"})
		return err
	}},
	{what: "role list", need: []string{"role"}, global: true, call: func(b *bench, ctx context.Context) error {
		_, err := b.roles().ListRoles(ctx, &adminv1.ListRolesRequest{})
		return err
	}},
	{what: "role revoke", need: []string{"role"}, global: true, call: func(b *bench, ctx context.Context) error {
		_, err := b.roles().RevokeRole(ctx, &adminv1.RevokeRoleRequest{RequestId: b.fresh(), Id: "nope"})
		return err
	}},
	{what: "realm update", need: []string{"cluster"}, global: true, call: func(b *bench, ctx context.Context) error {
		_, err := b.cluster().UpdateRealm(ctx, &adminv1.UpdateRealmRequest{RequestId: b.fresh()})
		return err
	}},
	{what: "node list", need: []string{"cluster"}, global: true, call: func(b *bench, ctx context.Context) error {
		_, err := b.cluster().ListNodes(ctx, &adminv1.ListNodesRequest{})
		return err
	}},
	{what: "node remove", need: []string{"cluster"}, global: true, call: func(b *bench, ctx context.Context) error {
		_, err := b.cluster().RemoveNode(ctx, &adminv1.RemoveNodeRequest{RequestId: b.fresh(), Name: "nope"})
		return err
	}},
	{what: "upgrade plan", need: []string{"cluster"}, global: true, call: func(b *bench, ctx context.Context) error {
		_, err := adminv1.NewUpgradeClient(b.peer).GetUpgradePlan(ctx, &adminv1.GetUpgradePlanRequest{})
		return err
	}},
	{what: "upgrade finalize", need: []string{"cluster"}, global: true, call: func(b *bench, ctx context.Context) error {
		_, err := adminv1.NewUpgradeClient(b.peer).FinalizeUpgrade(ctx, &adminv1.FinalizeUpgradeRequest{RequestId: b.fresh()})
		return err
	}},
	{what: "diagnose", need: []string{"cluster"}, global: true, call: func(b *bench, ctx context.Context) error {
		_, err := adminv1.NewDiagnosisClient(b.peer).Diagnose(ctx, &adminv1.DiagnoseRequest{})
		return err
	}},
	{what: "auto removal", need: []string{"cluster"}, global: true, call: func(b *bench, ctx context.Context) error {
		_, err := b.cluster().SetAutoRemoval(ctx, &adminv1.SetAutoRemovalRequest{RequestId: b.fresh()})
		return err
	}},
	{what: "transfer", need: []string{"cluster"}, global: true, call: func(b *bench, ctx context.Context) error {
		_, err := b.cluster().TransferLeadership(ctx, &adminv1.TransferLeadershipRequest{})
		return err
	}},
	{what: "token create", need: []string{"cluster"}, global: true, call: func(b *bench, ctx context.Context) error {
		_, err := b.cluster().CreateToken(ctx, &adminv1.CreateTokenRequest{RequestId: b.fresh()})
		return err
	}},
	{what: "token list", need: []string{"cluster"}, global: true, call: func(b *bench, ctx context.Context) error {
		_, err := b.cluster().ListTokens(ctx, &adminv1.ListTokensRequest{})
		return err
	}},
	{what: "krbtgt rotate", need: []string{"cluster"}, global: true, call: func(b *bench, ctx context.Context) error {
		_, err := b.rotation().RotateKrbtgt(ctx, &adminv1.RotateKrbtgtRequest{RequestId: b.fresh(), RetireAfter: -1})
		return err
	}},
	{what: "master key rotate", need: []string{"cluster"}, global: true, call: func(b *bench, ctx context.Context) error {
		_, err := b.rotation().RotateMasterKey(ctx, &adminv1.RotateMasterKeyRequest{RequestId: b.fresh()})
		return err
	}},
	{what: "master key show", need: []string{"cluster"}, global: true, call: func(b *bench, ctx context.Context) error {
		_, err := b.rotation().GetMasterKey(ctx, &adminv1.GetMasterKeyRequest{})
		return err
	}},
	{what: "master key retire", need: []string{"cluster"}, global: true, call: func(b *bench, ctx context.Context) error {
		_, err := b.rotation().RetireMasterKeys(ctx, &adminv1.RetireMasterKeysRequest{RequestId: b.fresh()})
		return err
	}},
	{what: "admin certificate", need: []string{"cluster", "role"}, global: true, call: func(b *bench, ctx context.Context) error {
		_, err := b.cluster().IssueAdminCertificate(ctx, &adminv1.IssueAdminCertificateRequest{Name: "somebody"})
		return err
	}},
	{what: "token revoke", need: []string{"cluster"}, global: true, call: func(b *bench, ctx context.Context) error {
		_, err := b.cluster().RevokeToken(ctx, &adminv1.RevokeTokenRequest{RequestId: b.fresh(), Id: make([]byte, 8)})
		return err
	}},
	{what: "backup", need: []string{"backup"}, global: true, call: func(b *bench, ctx context.Context) error {
		_, _, err := b.saveBackup(ctx, &adminv1.SaveBackupRequest{})
		return err
	}},
	{what: "backup to a key of one's own", need: []string{"backup", "extract"}, global: true, call: func(b *bench, ctx context.Context) error {
		_, _, err := b.saveBackup(ctx, &adminv1.SaveBackupRequest{Recipients: []string{"age1own"}})
		return err
	}},
	{what: "backup confirm", need: []string{"backup"}, global: true, call: func(b *bench, ctx context.Context) error {
		_, err := b.backups().ConfirmBackup(ctx, &adminv1.ConfirmBackupRequest{})
		return err
	}},
}

// finalVerb is the right over the name that a change ends up with.
const finalVerb = "add"

func TestMatrix(t *testing.T) {
	for _, row := range matrix {
		t.Run(row.what, func(t *testing.T) {
			full := func(target string) []*adminv1.Role {
				out := []*adminv1.Role{{Verbs: row.need, Target: target}}
				if row.final != "" {
					out = append(out, &adminv1.Role{Verbs: []string{finalVerb}, Target: row.final})
				}
				return out
			}
			target := "web/*"
			if row.global {
				target = ""
			}
			fresh := func() *bench {
				b := newBench(t)
				b.add("web/target", random(), 0)
				if _, err := b.principals().UpdatePrincipal(as("root"), &adminv1.UpdatePrincipalRequest{RequestId: b.fresh(), Name: "web/target", AddAliases: []string{"free/alias"}}); err != nil {
					t.Fatal(err)
				}
				return b
			}
			// What is refused changes nothing, so one realm does for all of it; each caller is another.
			shared, callers := fresh(), 0
			check := func(what string, allowed bool, roles ...*adminv1.Role) {
				t.Helper()
				b := shared
				if allowed {
					b = fresh()
				}
				callers++
				caller := fmt.Sprintf("cert:admin%d", callers)
				for _, r := range roles {
					r.Subject = caller
					b.grant(r)
				}
				err := row.call(b, as(caller))
				if denied := status.Code(err) == codes.PermissionDenied; denied == allowed {
					t.Errorf("%s: %v", what, err)
				}
			}
			check("no role", false)
			check("exactly what it needs", true, full(target)...)
			check("over another name", false, full("other/*")...)
			check("over its own entry alone", false, &adminv1.Role{Verbs: []string{"*", "extract"}, Own: true})
			check("everything", true, &adminv1.Role{Verbs: []string{"*", "extract"}})
			check("the star", !slices.Contains(row.need, "extract"), &adminv1.Role{Verbs: []string{"*"}})
			var others []string
			for _, v := range verbs {
				if !slices.Contains(row.need, string(v)) && !(row.final != "" && string(v) == finalVerb) {
					others = append(others, string(v))
				}
			}
			check("every other verb", false, &adminv1.Role{Verbs: others})
			for i := range row.need {
				if len(row.need) > 1 {
					check("without "+row.need[i], false, &adminv1.Role{Verbs: slices.Delete(slices.Clone(row.need), i, i+1)})
				}
			}
			if row.final != "" {
				check("without a right over the final name", false, &adminv1.Role{Verbs: row.need, Target: "web/target"})
				check("without a right over the first name", false, &adminv1.Role{Verbs: []string{finalVerb}})
			}
			if row.global {
				check("with a target, which a global right can't have", false, &adminv1.Role{Verbs: row.need, Target: "web/*"})
			}
		})
	}
}

func TestOwnEntry(t *testing.T) {
	b := newBench(t)
	b.add("alice", random(), 0)
	b.add("alice/admin", random(), 0)
	b.grant(&adminv1.Role{Subject: "cert:*", Verbs: []string{"inquire"}, Own: true})
	for _, c := range []struct {
		subject, name string
		code          codes.Code
	}{
		{"cert:alice", "alice", codes.OK}, {"cert:alice", "alice/admin", codes.PermissionDenied}, {"cert:bob", "alice", codes.PermissionDenied},
		{"cert:alice/admin", "alice/admin", codes.OK}, {"cert:alice@EXAMPLE.COM", "alice", codes.OK}, {"cert:alice@OTHER", "alice", codes.PermissionDenied},
	} {
		_, err := b.principals().GetPrincipal(as(c.subject), &adminv1.GetPrincipalRequest{Name: c.name})
		if status.Code(err) != c.code {
			t.Errorf("%s reads %s: %v", c.subject, c.name, err)
		}
	}
}

// Who may not read a name does not learn whether it exists.
func TestNoOracle(t *testing.T) {
	b := newBench(t)
	b.add("secret", random(), 0)
	b.grant(&adminv1.Role{Subject: "cert:web", Verbs: []string{"*", "extract"}, Target: "HTTP/*"})
	for _, n := range []string{"secret", "nobody"} {
		_, err := b.principals().GetPrincipal(as("cert:web"), &adminv1.GetPrincipalRequest{Name: n})
		wantReason(t, err, codes.PermissionDenied, "PERMISSION_DENIED")
		_, err = b.keytabs().EnsureKeytab(as("cert:web"), &adminv1.EnsureKeytabRequest{RequestId: b.fresh(), Name: n})
		wantReason(t, err, codes.PermissionDenied, "PERMISSION_DENIED")
		_, err = b.principals().CreatePrincipal(as("cert:web"), &adminv1.CreatePrincipalRequest{RequestId: b.fresh(), Name: n})
		wantReason(t, err, codes.PermissionDenied, "PERMISSION_DENIED")
	}
	if b.store.Proposals() != 2 {
		t.Errorf("%d proposals", b.store.Proposals())
	}
}

// Nobody hands out, takes away or replaces rights that he does not hold.
func TestGrantsDoNotGrow(t *testing.T) {
	b := newBench(t)
	b.grant(&adminv1.Role{Id: "chief", Subject: "cert:chief", Verbs: []string{"*", "extract"}})
	b.grant(&adminv1.Role{Id: "deputy", Subject: "cert:deputy", Verbs: []string{"role", "inquire"}})
	b.grant(&adminv1.Role{Id: "web", Subject: "cert:deputy", Verbs: []string{"modify"}, Target: "HTTP/*"})
	try := func(subject string, r *adminv1.Role) error {
		r.Subject = "cert:new"
		_, err := b.roles().GrantRole(as(subject), &adminv1.GrantRoleRequest{RequestId: b.fresh(), Role: r})
		return err
	}
	for _, c := range []struct {
		what, subject string
		role          *adminv1.Role
		ok            bool
	}{
		{"what he has", "cert:deputy", &adminv1.Role{Verbs: []string{"inquire"}}, true},
		{"less than he has", "cert:deputy", &adminv1.Role{Verbs: []string{"inquire"}, Target: "a*"}, true},
		{"within his target", "cert:deputy", &adminv1.Role{Verbs: []string{"modify"}, Target: "HTTP/*"}, true},
		{"beyond his target", "cert:deputy", &adminv1.Role{Verbs: []string{"modify"}}, false},
		{"what he lacks", "cert:deputy", &adminv1.Role{Verbs: []string{"extract"}}, false},
		{"the star", "cert:deputy", &adminv1.Role{Verbs: []string{"*"}}, false},
		{"all", "cert:chief", &adminv1.Role{Verbs: []string{"*", "extract"}}, true},
	} {
		if err := try(c.subject, c.role); (err == nil) != c.ok {
			t.Errorf("%s: %v", c.what, err)
		}
	}
	_, err := b.roles().RevokeRole(as("cert:deputy"), &adminv1.RevokeRoleRequest{RequestId: b.fresh(), Id: "chief"})
	wantReason(t, err, codes.PermissionDenied, "PERMISSION_DENIED")
	_, err = b.roles().GrantRole(as("cert:deputy"), &adminv1.GrantRoleRequest{RequestId: b.fresh(), ExpectedRevision: 1, Role: &adminv1.Role{Id: "chief", Subject: "cert:x", Verbs: []string{"inquire"}}})
	wantReason(t, err, codes.PermissionDenied, "PERMISSION_DENIED")
}

func TestSubjectKindsAreApart(t *testing.T) {
	for _, c := range []struct {
		pattern, subject string
		want             bool
	}{
		{"cert:*", "cert:alice", true}, {"cert:*", "krb:alice@R", false}, {"*", "cert:alice", false}, {"*:*", "cert:alice", false},
		{"cert:a*", "cert:alice", true}, {"cert:alice", "cert:alicex", false}, {"cert:*", "cert:", false}, {"cert:*", "root", false},
	} {
		if got := subjectMatches(c.pattern, c.subject); got != c.want {
			t.Errorf("%s over %s: %v", c.pattern, c.subject, got)
		}
	}
}

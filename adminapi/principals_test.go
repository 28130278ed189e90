package adminapi

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/charon-kdc/charon/kdc/kdb"
	"github.com/charon-kdc/charon/kdc/krb5/kcrypto"
	adminv1 "github.com/charon-kdc/charon/proto/charon/admin/v1"
	statev1 "github.com/charon-kdc/charon/proto/charon/state/v1"
	"github.com/charon-kdc/charon/raftstore/realm"
)

// record is what the state holds.
func (b *bench) record(components ...string) *statev1.Principal {
	b.t.Helper()
	p, err := b.store.DB.GetPrincipal(testRealm, components)
	if err != nil {
		b.t.Fatal(err)
	}
	return p
}

// opens tells whether p's current keys are those of a password under the salts that stand in the record.
func (b *bench) opens(p *statev1.Principal, pw string) bool {
	b.t.Helper()
	for _, rec := range keysOf(p, p.GetKvno()) {
		k, err := b.svc.openKey(make([]byte, 16), p, rec)
		if err != nil {
			b.t.Fatal(err)
		}
		want, err := kcrypto.StringToKey(kcrypto.EType(rec.GetEtype()), pw, rec.GetSalt(), nil)
		if err != nil {
			b.t.Fatal(err)
		}
		if !k.Equal(want) {
			return false
		}
	}
	return len(p.GetKeys()) > 0
}

func TestCreatePrincipal(t *testing.T) {
	b := newBench(t)
	p := b.add("alice", password("s3cret"), 0)
	if p.GetName() != "alice@EXAMPLE.COM" || p.GetKvno() != 1 || len(p.GetKeys()) != 2 || p.GetRevision() == 0 || p.GetCreatedBy() != "root" ||
		p.GetAttributes() != uint32(kdb.RequiresPreAuth) || len(p.GetId()) != 16 || p.GetLastPasswordChange() != t0.UnixMilli() {
		t.Errorf("created %v", p)
	}
	rec := b.record("alice")
	if !b.opens(rec, "s3cret") || b.opens(rec, "other") || rec.GetKeys()[0].GetSalt() != "EXAMPLE.COMalice" || !rec.GetKeys()[0].GetSaltDefault() {
		t.Errorf("keys %v", rec.GetKeys())
	}
	_, err := b.principals().CreatePrincipal(as("root"), &adminv1.CreatePrincipalRequest{RequestId: b.fresh(), Name: "alice", Keys: random()})
	wantReason(t, err, codes.AlreadyExists, "EXISTS")
	if !strings.Contains(err.Error(), "alice@EXAMPLE.COM exists (kvno 1, created 2026-11-02); to change the password: charon principal password alice") {
		t.Errorf("message %v", err)
	}
	if n := b.add("nokey", nil, 0); n.GetKvno() != 0 || len(n.GetKeys()) != 0 {
		t.Errorf("without keys: %v", n)
	}
	other := b.add("bob", random(), 0)
	if string(other.GetId()) == string(p.GetId()) {
		t.Error("two principals, one id")
	}
}

// An alias of that form would make a principal's keys those of a ticket-granting service. As a principal of its own it is a cross-realm
// key, which takes the right to add it.
func TestNoAliasIsATicketGrantingService(t *testing.T) {
	b := newBench(t)
	b.add("alice", random(), 0)
	for _, alias := range []string{"krbtgt/EXAMPLE.COM", "krbtgt/OTHER.COM", "krbtgt/a/b", "krbtgt/OTHER.COM@EXAMPLE.COM", "krbtgt"} {
		_, err := b.principals().UpdatePrincipal(as("root"), &adminv1.UpdatePrincipalRequest{RequestId: b.fresh(), Name: "alice", AddAliases: []string{alias}})
		wantReason(t, err, codes.FailedPrecondition, "PROTECTED")
	}
	if a := b.record("alice").GetAliases(); len(a) != 0 {
		t.Errorf("aliases %v", a)
	}
	create := func(who string) error {
		_, err := b.principals().CreatePrincipal(as(who), &adminv1.CreatePrincipalRequest{RequestId: b.fresh(), Name: "krbtgt/OTHER.COM", Keys: random()})
		return err
	}
	b.grant(&adminv1.Role{Subject: "cert:users", Verbs: []string{"add", "modify"}, Target: "*@EXAMPLE.COM"})
	wantReason(t, create("cert:users"), codes.PermissionDenied, "PERMISSION_DENIED")
	b.grant(&adminv1.Role{Subject: "cert:realms", Verbs: []string{"add"}, Target: "krbtgt/*"})
	if err := create("cert:realms"); err != nil {
		t.Error(err)
	}
}

func TestCreateRefusals(t *testing.T) {
	b := newBench(t)
	for what, req := range map[string]*adminv1.CreatePrincipalRequest{
		"no name":           {Keys: random()},
		"another realm":     {Name: "x@NOT.HERE", Keys: random()},
		"unknown attribute": {Name: "x", SetAttributes: 1 << 30},
		"negative life":     {Name: "x", MaxLife: -1},
		"long string":       {Name: "x", Strings: map[string]string{"k": strings.Repeat("v", stringValueMax+1)}},
		"empty password":    {Name: "x", Keys: password("")},
		"DES":               {Name: "x", Keys: &adminv1.NewKeys{Source: &adminv1.NewKeys_Random{Random: true}, Keysalts: []*adminv1.KeySalt{{Etype: 3}}}},
		"AFS salt":          {Name: "x", Keys: &adminv1.NewKeys{Source: &adminv1.NewKeys_Random{Random: true}, Keysalts: []*adminv1.KeySalt{{Etype: 18, Salt: "afs3"}}}},
	} {
		req.RequestId = b.fresh()
		if _, err := b.principals().CreatePrincipal(as("root"), req); reasonOf(err) == "OK" || reasonOf(err) == "INTERNAL" {
			t.Errorf("%s: %v", what, err)
		}
	}
	for what, id := range map[string][]byte{"none": nil, "short": {1}, "version 4": append([]byte{0, 0, 0, 0, 0, 0, 0x40, 0, 0x80}, make([]byte, 7)...)} {
		_, err := b.principals().CreatePrincipal(as("root"), &adminv1.CreatePrincipalRequest{RequestId: id, Name: "x"})
		if reasonOf(err) != "INVALID" {
			t.Errorf("request id %s: %v", what, err)
		}
	}
	if b.store.Proposals() != 1 { // that the other realm was not found is kept under its request id
		t.Errorf("%d proposals", b.store.Proposals())
	}
}

// One request id acts once, whoever loses which answer.
func TestRetryActsOnce(t *testing.T) {
	b := newBench(t)
	req := &adminv1.CreatePrincipalRequest{RequestId: b.rid(1), Name: "alice", Keys: random()}
	first, err := b.principals().CreatePrincipal(as("root"), req)
	if err != nil {
		t.Fatal(err)
	}
	again, err := b.principals().CreatePrincipal(as("root"), req)
	if err != nil || !again.GetMeta().GetReplayed() || !proto.Equal(again.GetPrincipal(), first.GetPrincipal()) {
		t.Errorf("again: %v %v", again, err)
	}
	other := proto.CloneOf(req)
	other.Name = "bob"
	_, err = b.principals().CreatePrincipal(as("root"), other)
	wantReason(t, err, codes.InvalidArgument, "REQUEST_ID_REUSED")
	// The same bytes as another kind of request, and as another caller's, are other requests, too.
	_, err = b.principals().DeletePrincipal(as("root"), &adminv1.DeletePrincipalRequest{RequestId: req.GetRequestId(), Name: "alice"})
	wantReason(t, err, codes.InvalidArgument, "REQUEST_ID_REUSED")
	b.grant(&adminv1.Role{Subject: "cert:x", Verbs: []string{"add"}})
	_, err = b.principals().CreatePrincipal(as("cert:x"), req)
	wantReason(t, err, codes.InvalidArgument, "REQUEST_ID_REUSED")

	b.advance(2 * time.Hour)
	late := &adminv1.CreatePrincipalRequest{RequestId: req.GetRequestId(), Name: "carol", Keys: random()}
	b.add("dave", random(), 0) // the log's time moves on
	_, err = b.principals().CreatePrincipal(as("root"), late)
	wantReason(t, err, codes.InvalidArgument, "REQUEST_ID_EXPIRED")
}

func TestUnknownOutcome(t *testing.T) {
	b := newBench(t)
	for _, committed := range []bool{true, false} {
		name := fmt.Sprintf("lost-%v", committed)
		req := &adminv1.CreatePrincipalRequest{RequestId: b.fresh(), Name: name, Keys: random()}
		b.store.Lose(committed)
		_, err := b.principals().CreatePrincipal(as("root"), req)
		wantReason(t, err, codes.Unavailable, "OUTCOME_UNKNOWN")
		if info := errorInfo(err); info.GetMetadata()["request_id"] != fmt.Sprintf("%x", req.GetRequestId()) || info.GetMetadata()["outcome"] != "unknown" {
			t.Errorf("metadata %v", info)
		}
		r, err := b.principals().CreatePrincipal(as("root"), req)
		if err != nil || r.GetMeta().GetReplayed() != committed {
			t.Errorf("retry after committed=%v: %v %v", committed, r.GetMeta(), err)
		}
	}
}

// Without an expected revision a change that another call overtook is decided anew; with one it is the caller's to decide.
func TestConflicts(t *testing.T) {
	b := newBench(t)
	p := b.add("alice", random(), 0)
	overtake := func() {
		b.store.Before(func() {
			rec := b.record("alice")
			rec.MaxLife++
			if _, err := b.store.Apply(putPrincipal(rec, nil)); err != nil {
				t.Error(err)
			}
		})
	}
	overtake()
	req := &adminv1.UpdatePrincipalRequest{RequestId: b.rid(1), Name: "alice", MaxRenewableLife: proto.Int64(99)}
	r, err := b.principals().UpdatePrincipal(as("root"), req)
	if err != nil || r.GetPrincipal().GetMaxLife() != 1 || r.GetPrincipal().GetMaxRenewableLife() != 99 {
		t.Errorf("overtaken: %v %v", r, err)
	}
	// Its retry finds what was done under the id that followed.
	n := b.store.Proposals()
	again, err := b.principals().UpdatePrincipal(as("root"), req)
	if err != nil || !again.GetMeta().GetReplayed() || again.GetMeta().GetRevision() != r.GetMeta().GetRevision() || b.store.Proposals() != n {
		t.Errorf("retried: %v %v", again, err)
	}
	_, err = b.principals().UpdatePrincipal(as("root"), &adminv1.UpdatePrincipalRequest{RequestId: b.fresh(), Name: "alice", ExpectedRevision: p.GetRevision(), MaxLife: proto.Int64(5)})
	wantReason(t, err, codes.Aborted, "CONFLICT")
	overtake()
	_, err = b.principals().UpdatePrincipal(as("root"), &adminv1.UpdatePrincipalRequest{RequestId: b.fresh(), Name: "alice", ExpectedRevision: b.record("alice").GetRevision(), MaxLife: proto.Int64(5)})
	wantReason(t, err, codes.Aborted, "CONFLICT")
}

func TestUpdatePrincipal(t *testing.T) {
	b := newBench(t)
	b.add("alice", password("pw"), 0)
	r, err := b.principals().UpdatePrincipal(as("root"), &adminv1.UpdatePrincipalRequest{
		RequestId: b.fresh(), Name: "alice", SetAttributes: uint32(kdb.DisallowAllTix), ClearAttributes: uint32(kdb.RequiresPreAuth),
		Expiration: proto.Int64(77), Policy: proto.String("ghost"), Unlock: true, SetStrings: map[string]string{"a": "1", "b": "2"},
		AddAliases: []string{"al", "al@EXAMPLE.COM"}, Kvno: proto.Uint32(7),
	})
	if err != nil {
		t.Fatal(err)
	}
	p := r.GetPrincipal()
	if p.GetAttributes() != uint32(kdb.DisallowAllTix) || p.GetExpiration() != 77 || p.GetPolicy() != "ghost" || p.GetPolicyExists() ||
		p.GetUnlockedAt() != t0.UnixMilli() || p.GetStrings()["b"] != "2" || len(p.GetAliases()) != 1 || p.GetKvno() != 7 {
		t.Errorf("updated: %v", p)
	}
	if !b.opens(b.record("alice"), "pw") {
		t.Error("a renumbered key does not open")
	}
	byAlias, err := b.principals().GetPrincipal(as("root"), &adminv1.GetPrincipalRequest{Name: "al"})
	if err != nil || byAlias.GetPrincipal().GetName() != "alice@EXAMPLE.COM" {
		t.Errorf("by alias: %v %v", byAlias, err)
	}
	r, err = b.principals().UpdatePrincipal(as("root"), &adminv1.UpdatePrincipalRequest{
		RequestId: b.fresh(), Name: "al", DeleteStrings: []string{"a"}, RemoveAliases: []string{"al"}, Policy: proto.String(""),
	})
	if err != nil || len(r.GetPrincipal().GetAliases()) != 0 || len(r.GetPrincipal().GetStrings()) != 1 || r.GetPrincipal().GetPolicy() != "" {
		t.Errorf("updated: %v %v", r, err)
	}
	b.add("bob", random(), 0)
	_, err = b.principals().UpdatePrincipal(as("root"), &adminv1.UpdatePrincipalRequest{RequestId: b.fresh(), Name: "alice", AddAliases: []string{"bob"}})
	wantReason(t, err, codes.AlreadyExists, "EXISTS")
	_, err = b.principals().UpdatePrincipal(as("root"), &adminv1.UpdatePrincipalRequest{RequestId: b.fresh(), Name: "nobody"})
	wantReason(t, err, codes.NotFound, "NOT_FOUND")
}

// Regression of a clustered KDC backend: a rename must not brick the password.
func TestRenamePinsSalts(t *testing.T) {
	b := newBench(t)
	p := b.add("alice", password("pw"), 0)
	r, err := b.principals().RenamePrincipal(as("root"), &adminv1.RenamePrincipalRequest{RequestId: b.fresh(), Name: "alice", NewName: "alicia"})
	if err != nil || r.GetPrincipal().GetName() != "alicia@EXAMPLE.COM" || string(r.GetPrincipal().GetId()) != string(p.GetId()) {
		t.Fatalf("renamed: %v %v", r, err)
	}
	rec := b.record("alicia")
	if !b.opens(rec, "pw") || rec.GetKeys()[0].GetSalt() != "EXAMPLE.COMalice" || rec.GetKeys()[0].GetSaltDefault() {
		t.Errorf("keys after rename: %v", rec.GetKeys())
	}
	if _, err := b.store.DB.GetPrincipal(testRealm, []string{"alice"}); err != realm.ErrNotFound {
		t.Errorf("the old name: %v", err)
	}
	b.add("bob", random(), 0)
	_, err = b.principals().RenamePrincipal(as("root"), &adminv1.RenamePrincipalRequest{RequestId: b.fresh(), Name: "alicia", NewName: "bob"})
	wantReason(t, err, codes.AlreadyExists, "EXISTS")
	_, err = b.principals().RenamePrincipal(as("root"), &adminv1.RenamePrincipalRequest{RequestId: b.fresh(), Name: "alicia", NewName: "x@OTHER"})
	wantReason(t, err, codes.InvalidArgument, "INVALID")
}

func TestDeletePrincipal(t *testing.T) {
	b := newBench(t)
	b.add("alice", random(), 0)
	req := &adminv1.DeletePrincipalRequest{RequestId: b.fresh(), Name: "alice"}
	for range 2 { // the second is a retry
		if _, err := b.principals().DeletePrincipal(as("root"), req); err != nil {
			t.Fatal(err)
		}
	}
	_, err := b.principals().DeletePrincipal(as("root"), &adminv1.DeletePrincipalRequest{RequestId: b.fresh(), Name: "alice"})
	wantReason(t, err, codes.NotFound, "NOT_FOUND")
	b.add("krbtgt/EXAMPLE.COM", random(), 0)
	_, err = b.principals().DeletePrincipal(as("root"), &adminv1.DeletePrincipalRequest{RequestId: b.fresh(), Name: "krbtgt/EXAMPLE.COM"})
	wantReason(t, err, codes.FailedPrecondition, "PROTECTED")
}

func TestListPrincipals(t *testing.T) {
	b := newBench(t)
	for i := range 25 {
		b.add(fmt.Sprintf("host/h%02d", i), random(), 0)
	}
	b.add("alice", random(), 0)
	list := func(ctx context.Context, req *adminv1.ListPrincipalsRequest) (names []string, pages int) {
		t.Helper()
		for {
			r, err := b.principals().ListPrincipals(ctx, req)
			if err != nil {
				t.Fatal(err)
			}
			pages++
			for _, p := range r.GetPrincipals() {
				names = append(names, p.GetName())
			}
			if req.PageToken = r.GetNextPageToken(); req.PageToken == "" {
				return names, pages
			}
		}
	}
	names, pages := list(as("root"), &adminv1.ListPrincipalsRequest{Filter: "host/*", PageSize: 10})
	if len(names) != 25 || pages != 3 || names[0] != "host/h00@EXAMPLE.COM" || names[24] != "host/h24@EXAMPLE.COM" {
		t.Errorf("%d pages: %v", pages, names)
	}
	if names, _ = list(as("root"), &adminv1.ListPrincipalsRequest{Filter: "*@EXAMPLE.COM"}); len(names) != 26 {
		t.Errorf("with realm: %v", names)
	}
	// A caller sees what his roles reach.
	b.grant(&adminv1.Role{Subject: "cert:web", Verbs: []string{"list"}, Target: "host/h1*"})
	if names, _ = list(as("cert:web"), &adminv1.ListPrincipalsRequest{NamesOnly: true}); len(names) != 10 {
		t.Errorf("within a role: %v", names)
	}
	if names, _ = list(as("cert:web"), &adminv1.ListPrincipalsRequest{}); len(names) != 0 {
		t.Errorf("records need inquire: %v", names)
	}
	if _, err := b.principals().UpdatePrincipal(as("root"), &adminv1.UpdatePrincipalRequest{RequestId: b.fresh(), Name: "alice", Expiration: proto.Int64(t0.Add(time.Hour).UnixMilli())}); err != nil {
		t.Fatal(err)
	}
	if names, _ = list(as("root"), &adminv1.ListPrincipalsRequest{ExpiringBefore: t0.Add(2 * time.Hour).UnixMilli()}); len(names) != 1 {
		t.Errorf("expiring: %v", names)
	}
	for _, req := range []*adminv1.ListPrincipalsRequest{{PageSize: 1001}, {PageSize: -1}, {PageToken: "!"}, {Filter: strings.Repeat("x", globMax+1)}} {
		_, err := b.principals().ListPrincipals(as("root"), req)
		wantReason(t, err, codes.InvalidArgument, "INVALID")
	}
	_, err := b.principals().ListPrincipals(as("root"), &adminv1.ListPrincipalsRequest{Realm: "NOT.HERE"})
	wantReason(t, err, codes.NotFound, "NOT_FOUND")
}

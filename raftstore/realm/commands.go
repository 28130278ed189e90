package realm

import (
	"bytes"
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/charon-kdc/charon/internal/mutant"
	statev1 "github.com/charon-kdc/charon/proto/charon/state/v1"
)

// executeOne runs a command that is no batch. An error means that the file can't be trusted.
func executeOne(o *overlay, cmd *statev1.Command) (*statev1.Result, error) {
	switch op := cmd.GetOp().(type) {
	case *statev1.Command_PutPrincipal:
		return putPrincipal(o, op.PutPrincipal)
	case *statev1.Command_DeletePrincipal:
		return deletePrincipal(o, op.DeletePrincipal)
	case *statev1.Command_RenamePrincipal:
		return renamePrincipal(o, op.RenamePrincipal)
	case *statev1.Command_PutPolicy:
		p := op.PutPolicy.GetPolicy()
		return put(o, policies, KindPolicy, p.GetName(), checkLabel("policy", p.GetName()), p, op.PutPolicy.GetExpect(), nil)
	case *statev1.Command_DeletePolicy:
		// A policy that principals name may go, as in MIT since 1.12: it is then as if they had none.
		return remove(o, policies, KindPolicy, op.DeletePolicy.GetName(), new(statev1.Policy), op.DeletePolicy.GetExpect())
	case *statev1.Command_PutRealm:
		r := op.PutRealm.GetRealm()
		return put(o, realms, KindRealm, r.GetName(), checkRealmName(r.GetName()), r, op.PutRealm.GetExpect(), nil)
	case *statev1.Command_PutNode:
		return putNode(o, op.PutNode)
	case *statev1.Command_DeleteNode:
		return deleteNode(o, op.DeleteNode)
	case *statev1.Command_PutToken:
		return putToken(o, op.PutToken)
	case *statev1.Command_DeleteToken:
		return remove(o, tokens, KindToken, string(op.DeleteToken.GetId()), new(statev1.Token), nil)
	case *statev1.Command_UseToken:
		return useToken(o, op.UseToken)
	case *statev1.Command_PutRole:
		r := op.PutRole.GetRole()
		return put(o, roles, KindRole, r.GetId(), checkLabel("role", r.GetId()), r, op.PutRole.GetExpect(), nil)
	case *statev1.Command_DeleteRole:
		return remove(o, roles, KindRole, op.DeleteRole.GetId(), new(statev1.Role), op.DeleteRole.GetExpect())
	case *statev1.Command_PutSecret:
		s := op.PutSecret.GetSecret()
		return put(o, secrets, KindSecret, s.GetName(), checkLabel("secret", s.GetName()), s, op.PutSecret.GetExpect(),
			func(old *statev1.Secret, _ bool) (*statev1.Result, error) {
				return sealedNow(o, "the secret", []*statev1.Sealed{s.GetKey()}, []*statev1.Sealed{old.GetKey()})
			})
	case *statev1.Command_PutCluster:
		return putCluster(o, op.PutCluster)
	case *statev1.Command_SetFeatureLevel:
		return setFeatureLevel(o, op.SetFeatureLevel.GetLevel())
	case *statev1.Command_RenewNode:
		return renewNode(o, op.RenewNode)
	case *statev1.Command_SetAutoRemoval:
		return setAutoRemoval(o, op.SetAutoRemoval)
	case *statev1.Command_NoteBackup:
		return noteBackup(o, op.NoteBackup.GetNote())
	case *statev1.Command_StageMasterKey:
		return stageMasterKey(o, op.StageMasterKey)
	case *statev1.Command_ActivateMasterKey:
		return activateMasterKey(o, op.ActivateMasterKey)
	case *statev1.Command_Reseal:
		return reseal(o, op.Reseal)
	case *statev1.Command_FinishReseal:
		return finishReseal(o, op.FinishReseal)
	case *statev1.Command_RetireMasterKeys:
		return retireMasterKeys(o, op.RetireMasterKeys)
	case *statev1.Command_DropRetired:
		return dropRetired(o, op.DropRetired)
	case *statev1.Command_NoteRefusal:
		return noteRefusal(op.NoteRefusal), nil
	}
	return nil, fmt.Errorf("%w: operation %T", ErrTooNew, cmd.GetOp())
}

// record is a message of the state that has a revision field.
type record interface {
	proto.Message
	GetRevision() uint64
}

// expectation holds a record, present or not, against a condition; nil means that it holds.
func expectation(e *statev1.Expect, what, key string, found bool, revision uint64) *statev1.Result {
	switch c := e.GetCondition().(type) {
	case *statev1.Expect_Absent:
		if !c.Absent {
			return refuse(statev1.Code_CODE_INVALID, "expectation absent=false")
		}
		if found {
			return refuse(statev1.Code_CODE_EXISTS, "%s %q exists", what, key)
		}
	case *statev1.Expect_Present:
		if !c.Present {
			return refuse(statev1.Code_CODE_INVALID, "expectation present=false")
		}
		if !found {
			return refuse(statev1.Code_CODE_NOT_FOUND, "%s %q does not exist", what, key)
		}
	case *statev1.Expect_Revision:
		if !found {
			return refuse(statev1.Code_CODE_NOT_FOUND, "%s %q does not exist", what, key)
		}
		if c.Revision != revision && !mutant.On(mutant.RevisionIgnored) {
			return refuse(statev1.Code_CODE_CONFLICT, "%s %q is at revision %d, not %d", what, key, revision, c.Revision)
		}
	}
	return nil
}

var kindNames = [...]string{
	KindPrincipal: "principal", KindPolicy: "policy", KindRealm: "realm", KindNode: "node", KindToken: "token",
	KindRole: "role", KindSecret: "secret", KindCluster: "cluster", KindEverything: "everything",
	KindBackup: "backup",
}

// String is the kind's English word.
func (k Kind) String() string {
	if int(k) < len(kindNames) && k > 0 {
		return kindNames[k]
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

// put is what most records need: a checked key, room, the condition, a new revision. invalid is the outcome of checking the
// key. check, if not nil, sees the old record (zero when there is none) after the condition and may refuse.
func put[M record](o *overlay, id bucketID, kind Kind, key string, invalid error, m M, e *statev1.Expect,
	check func(old M, found bool) (*statev1.Result, error),
) (*statev1.Result, error) {
	if invalid != nil {
		return refuse(statev1.Code_CODE_INVALID, "%v", invalid), nil
	}
	old := m.ProtoReflect().New().Interface().(M)
	found, err := o.load(id, key, old)
	if err != nil {
		return nil, err
	}
	if r := expectation(e, kind.String(), printable(kind, key), found, old.GetRevision()); r != nil {
		return r, nil
	}
	if check != nil {
		if r, err := check(old, found); err != nil || r != nil {
			return r, err
		}
	}
	if limit := bucketMax[id]; !found && limit > 0 && o.counts[id] >= limit {
		return refuse(statev1.Code_CODE_LIMIT, "%d records of kind %s, and no more are allowed", o.counts[id], kind), nil
	}
	return store(o, id, kind, key, m)
}

// store gives m its revision and puts it.
func store[M record](o *overlay, id bucketID, kind Kind, key string, m M) (*statev1.Result, error) {
	if n := proto.Size(m); n > recordMax {
		return refuse(statev1.Code_CODE_INVALID, "%s %q of %d bytes, at most %d", kind, printable(kind, key), n, recordMax), nil
	}
	rev := o.nextRevision()
	setRevision(m, rev)
	o.changed(kind, key)
	return ok(rev), o.save(id, key, m)
}

// recordMax bounds one record, in bytes of protobuf: half of what an entry may hold.
const recordMax = EnvelopeMax / 2

func setRevision(m proto.Message, rev uint64) {
	switch m := m.(type) {
	case *statev1.Principal:
		m.Revision = rev
	case *statev1.Policy:
		m.Revision = rev
	case *statev1.Realm:
		m.Revision = rev
	case *statev1.Node:
		m.Revision = rev
	case *statev1.Role:
		m.Revision = rev
	case *statev1.Secret:
		m.Revision = rev
	case *statev1.Cluster:
		m.Revision = rev
	}
}

func remove[M proto.Message](o *overlay, id bucketID, kind Kind, key string, old M, e *statev1.Expect) (*statev1.Result, error) {
	found, err := o.load(id, key, old)
	if err != nil {
		return nil, err
	}
	var rev uint64
	if r, has := any(old).(record); has {
		rev = r.GetRevision()
	}
	if r := expectation(e, kind.String(), printable(kind, key), found, rev); r != nil {
		return r, nil
	}
	if !found {
		return refuse(statev1.Code_CODE_NOT_FOUND, "%s %q does not exist", kind, printable(kind, key)), nil
	}
	o.changed(kind, key)
	return ok(rev), o.remove(id, key)
}

// printable is a key as a message shows it.
func printable(kind Kind, key string) string {
	switch kind {
	case KindNode, KindToken:
		return fmt.Sprintf("%x", key)
	case KindPrincipal:
		if realm, text, ok := bytes.Cut([]byte(key), []byte{0}); ok {
			return string(text) + "@" + string(realm)
		}
	}
	return key
}

// noteRefusal answers what the leader had answered already; applyCommand keeps it as the outcome of the request id.
func noteRefusal(op *statev1.NoteRefusal) *statev1.Result {
	switch op.GetCode() {
	case statev1.Code_CODE_NOT_FOUND, statev1.Code_CODE_EXISTS:
		return refuse(op.GetCode(), "refused before")
	}
	return refuse(statev1.Code_CODE_INVALID, "a refusal with code %v is not kept", op.GetCode())
}

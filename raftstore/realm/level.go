package realm

import (
	"fmt"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	statev1 "github.com/charon-kdc/charon/proto/charon/state/v1"
)

// The feature levels of a cluster that this release can be a node of. Two adjacent releases mix, so that one node after the other can be
// upgraded: the level is raised by the operator once no node of the older release is left, and never falls.
const (
	FeatureLevelMin = 1
	FeatureLevelMax = 2
)

// level1 is what a command of feature level 1 may hold: of each message the highest field number, of Command thereby the operations 10 to
// 26, and of each enum the highest value. Numbers above, and messages that are not here, need feature level 2: an operation or field
// that is added to state.proto is gated without another line. With feature level 3, level2 is frozen beside it.
var level1 = map[protoreflect.Name]protoreflect.FieldNumber{
	"Sealed": 2, "Key": 7, "Principal": 22, "KeyHistory": 2, "Policy": 16, "Realm": 5, "Node": 15, "Token": 9, "Role": 8, "Secret": 4, "Cluster": 7,
	"Expect": 3, "PutPrincipal": 2, "DeletePrincipal": 3, "RenamePrincipal": 4, "PutPolicy": 2, "DeletePolicy": 2, "PutRealm": 2, "PutNode": 2,
	"DeleteNode": 2, "PutToken": 1, "DeleteToken": 1, "UseToken": 2, "PutRole": 2, "DeleteRole": 2, "PutSecret": 2, "PutCluster": 2,
	"SetFeatureLevel": 1, "Batch": 1, "Command": 26,

	"KeyState": 2,
}

// known is the feature level at which number belongs to a message or enum.
func known(name protoreflect.Name, number protoreflect.FieldNumber) uint32 {
	if number <= level1[name] {
		return 1
	}
	return 2
}

// CommandLevel is the least feature level that a node must support to apply cmd: what it holds, and what level it sets. Above
// FeatureLevelMax for a command with parts that this release does not know, as one that a newer node forwards.
func CommandLevel(cmd *statev1.Command) uint32 {
	level := max(1, messageLevel(cmd.ProtoReflect()))
	switch op := cmd.GetOp().(type) {
	case *statev1.Command_SetFeatureLevel:
		level = max(level, op.SetFeatureLevel.GetLevel())
	case *statev1.Command_PutCluster:
		level = max(level, op.PutCluster.GetCluster().GetFeatureLevel())
	case *statev1.Command_Batch:
		for _, c := range op.Batch.GetCommands() {
			if _, nested := c.GetOp().(*statev1.Command_Batch); !nested { // that one is refused when it is applied
				level = max(level, CommandLevel(c))
			}
		}
	}
	return level
}

func messageLevel(m protoreflect.Message) (level uint32) {
	if len(m.GetUnknown()) > 0 {
		return FeatureLevelMax + 1
	}
	name := m.Descriptor().Name()
	m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		level = max(level, known(name, fd.Number()))
		switch {
		case fd.IsMap():
		case fd.IsList():
			for i := range v.List().Len() {
				level = max(level, valueLevel(fd, v.List().Get(i)))
			}
		default:
			level = max(level, valueLevel(fd, v))
		}
		return true
	})
	return level
}

func valueLevel(fd protoreflect.FieldDescriptor, v protoreflect.Value) uint32 {
	switch {
	case fd.Message() != nil:
		return messageLevel(v.Message())
	case fd.Enum() != nil:
		if fd.Enum().Values().ByNumber(v.Enum()) == nil {
			return FeatureLevelMax + 1
		}
		return known(fd.Enum().Name(), protoreflect.FieldNumber(v.Enum()))
	}
	return 0
}

// Prune takes out of a record of state.proto what a cluster of that feature level does not know yet. It is for records that a node must be
// able to write at any level, such as its own; a change that an operator asked for is refused instead.
func Prune(m proto.Message, level uint32) {
	r := m.ProtoReflect()
	name := r.Descriptor().Name()
	r.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case known(name, fd.Number()) > level:
			r.Clear(fd)
		case fd.Message() == nil || fd.IsMap():
		case fd.IsList():
			for i := range v.List().Len() {
				Prune(v.List().Get(i).Message().Interface(), level)
			}
		default:
			Prune(v.Message().Interface(), level)
		}
		return true
	})
}

// checkLevel refuses state of a cluster that a release, whose levels are least to most, can't be a node of. 0 is no cluster yet.
func checkLevel(level, least, most uint32) error {
	switch {
	case level > most:
		return fmt.Errorf("%w: the cluster is at feature level %d, and this release supports up to %d: install the release that the other nodes run",
			ErrTooNew, level, most)
	case level != 0 && level < least:
		return fmt.Errorf("%w: the cluster is at feature level %d, and this release needs %d at least: upgrade by way of a release in between, and run charon upgrade finalize there",
			ErrTooOld, level, least)
	}
	return nil
}

// FeatureLevelMax is the highest level that this node supports: the release's, or less where Options hold it back.
func (db *DB) FeatureLevelMax() uint32 { return db.levelMax }

// FeatureLevel is the cluster's feature level; 0 before there is a cluster record.
func (db *DB) FeatureLevel() uint32 { return db.applied.Load().featureLevel }

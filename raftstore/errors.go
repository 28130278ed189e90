package raftstore

import (
	"errors"
	"fmt"
)

// ErrNoLeader says that no leader of the realm group is known. Nothing was done.
var ErrNoLeader = errors.New("no leader: the realm has no quorum or is electing")

// ErrNoQuorum says that no leader of the realm group was heard of for so long that this is no election. Nothing was done.
var ErrNoQuorum = errors.New("no quorum: the realm can't be changed")

// ErrNotMember says that the named node is not in the cluster.
var ErrNotMember = errors.New("no such node")

// ErrTaken says that another node has the name, address, ids, key or token of one that is to be added, or that its token is not good for it
// any more. Trying again does not help.
var ErrTaken = errors.New("not to be added")

// NotAppliedError says that a command was certainly not appended: try again, there.
type NotAppliedError struct {
	// Leader is the node to try, if known.
	Leader NodeRef
	Err    error
	// again: trying once more may do.
	again bool
}

func (e *NotAppliedError) Error() string { return fmt.Sprintf("nothing was done: %v", e.Err) }
func (e *NotAppliedError) Unwrap() error { return e.Err }

// UnknownOutcomeError says that a command may or may not take effect. Repeating it with its request id tells.
type UnknownOutcomeError struct {
	Err error
}

func (e *UnknownOutcomeError) Error() string { return fmt.Sprintf("outcome unknown: %v", e.Err) }
func (e *UnknownOutcomeError) Unwrap() error { return e.Err }

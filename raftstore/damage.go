package raftstore

import (
	"errors"
	"fmt"
	"strings"

	"github.com/charon-kdc/charon/raftstore/logstore"
	"github.com/charon-kdc/charon/raftstore/realm"
)

// ErrStateDamaged says that a state, not the log, is damaged or gone. Nothing that others rely on is lost with it: Rebuild fetches it from
// another member, and the node stays who it is.
var ErrStateDamaged = errors.New("state is damaged")

const (
	rebuildRemedy = "nothing was served from it; fetch the state from another node: charon server --rebuild"
	replaceRemedy = "this node must not vote as who it was: on another node run charon node remove, then here move the data directory away and charon join with a new token"
)

// stateDamage says which state, what is wrong and what to do.
func stateDamage(path string, why error) error {
	return fmt.Errorf("%w: %w: %s", ErrStateDamaged, naming(path, why), rebuildRemedy)
}

// logDamage likewise for what a node must not vote without: its log and its identity.
func logDamage(path string, why error) error {
	return fmt.Errorf("%w: %w: %s", ErrBroken, naming(path, why), replaceRemedy)
}

// naming has the path in an error, once.
func naming(path string, why error) error {
	if strings.Contains(why.Error(), path) {
		return why
	}
	return fmt.Errorf("%s: %w", path, why)
}

// damage turns what the parts say of their files into what the operator does.
func damage(path string, err error) error {
	switch {
	case err == nil, errors.Is(err, ErrBroken), errors.Is(err, ErrStateDamaged):
		return err
	case errors.Is(err, logstore.ErrDamaged):
		return logDamage(path, err)
	case errors.Is(err, realm.ErrCorrupt), errors.Is(err, errSnapshotDamaged):
		return stateDamage(path, err)
	}
	return err
}

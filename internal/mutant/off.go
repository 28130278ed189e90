//go:build !charon_mutants

package mutant

// Built tells whether bugs can be planted in this binary.
const Built = false

// On tells whether the bug is planted: never, in this build.
func On(Name) bool { return false }

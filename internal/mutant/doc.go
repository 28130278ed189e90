// Package mutant plants named bugs for `make mutants`, which shows that the simulation finds each of them.
//
// Code with a planted bug asks On(name). Without the build tag charon_mutants On is a function that says false, which the
// compiler takes away together with whatever it guards: a release has no trace of this package, and TestReleaseHasNone
// looks. With the tag the bug named by the environment variable CHARON_MUTANT, or by Plant, is on in the whole process.
//
// It must not know what the bugs do.
package mutant

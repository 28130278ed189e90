package mutant

import "strings"

// prefix of every name, so that a search through a binary finds them all.
const prefix = "charon-mutant:"

// A Name is one planted bug. Its constant says what the code does wrong while it is on.
type Name string

// Short is the name as CHARON_MUTANT has it.
func (n Name) Short() string { return strings.TrimPrefix(string(n), prefix) }

// The planted bugs, by where they sit. A new one gets a constant, a line in Names and a line in the table of test/mutants.
const (
	// Log and votes (raftstore/logstore, raftstore/vouch.go).

	SkipLogFsync       Name = prefix + "skip-log-fsync"       // an append returns before the log is on disk
	SkipStateFsync     Name = prefix + "skip-state-fsync"     // a transaction of the state returns before it is on disk
	FailedWriteIgnored Name = prefix + "failed-write-ignored" // a write to the log that failed is called good
	TornVote           Name = prefix + "torn-vote"            // term and candidate of a vote are two writes
	BootCounterIgnored Name = prefix + "boot-counter-ignored" // an old copy of a data directory votes
	UnvouchedVotes     Name = prefix + "unvouched-votes"      // a node votes before anyone has said that its disk is the newest

	// Proposals and reads (raftstore).

	AckBeforeCommit     Name = prefix + "ack-before-commit"      // a write is acknowledged once it is proposed
	UnknownAsNotApplied Name = prefix + "unknown-as-not-applied" // an unclear outcome is called "nothing done"
	ReadWithoutVerify   Name = prefix + "read-without-verify"    // a linearizable read does not ask whether its leader still leads
	LeadsBeforeApplied  Name = prefix + "leads-before-applied"   // a new leader answers before it has applied what was committed before its term
	AckBeforeAllApplied Name = prefix + "ack-before-all-applied" // a change is acknowledged before every fresh node has it
	LeaseNeverEnds      Name = prefix + "lease-never-ends"       // a node stays fresh without its leader
	CacheNotInvalidated Name = prefix + "cache-not-invalidated"  // a principal in the cache outlives its record

	// The realm's state machine (raftstore/realm) and the calls that change it (adminapi).

	RequestIDIgnored   Name = prefix + "request-id-ignored"    // a request id is not looked up: the same call acts again
	RequestIDForgotten Name = prefix + "request-id-forgotten"  // request ids are forgotten when another node begins to lead
	OutcomeNotStored   Name = prefix + "outcome-not-stored"    // the request id is known but not what came of it
	RevisionIgnored    Name = prefix + "revision-ignored"      // a change does not look at the revision it was based on
	RefusalLeavesParts Name = prefix + "refusal-leaves-parts"  // what a command did before it was refused stays
	RenameMovesSalt    Name = prefix + "rename-moves-salt"     // a renamed principal's salt follows its name
	PasswordLogged     Name = prefix + "password-logged"       // a new password stands in the log
	AppliedTwice       Name = prefix + "applied-twice"         // entries at or below the applied index are applied again
	ApplyReadsOwnState Name = prefix + "apply-reads-own-state" // applying depends on more than the log

	// The replay cache (raftstore/replay and what feeds it).

	ProofWithoutAuthenticator Name = prefix + "proof-without-authenticator" // K is over the request: a copied authenticator looks new
	RequestTagIgnored         Name = prefix + "request-tag-ignored"         // R is not compared: another request looks like a resend
	ResendIsRepeat            Name = prefix + "resend-is-repeat"            // R is not compared: a resend looks like a replay
	ExpiryByLocalClock        Name = prefix + "expiry-by-local-clock"       // proofs expire by the clock of whoever leads, alone
	ForgottenAtRestart        Name = prefix + "forgotten-at-restart"        // a snapshot that is restored gives no proofs back
	AttemptCountedTwice       Name = prefix + "attempt-counted-twice"       // a resend of an attempt counts again
	LostAtFailover            Name = prefix + "lost-at-failover"            // proofs in flight are not sent again when another node leads
	NotJournalled             Name = prefix + "not-journalled"              // what a node accepts while it is cut off is not kept for the others to compare

	// The KDC (kdc).

	VerdictNotAwaited Name = prefix + "verdict-not-awaited" // a ticket leaves before the verdict on its authenticator is in
	GuessNotAwaited   Name = prefix + "guess-not-awaited"   // a wrong guess is answered before it is counted
)

// Names is every planted bug, in the order of the constants.
var Names = []Name{
	SkipLogFsync, SkipStateFsync, FailedWriteIgnored, TornVote, BootCounterIgnored, UnvouchedVotes,
	AckBeforeCommit, UnknownAsNotApplied, ReadWithoutVerify, LeadsBeforeApplied, AckBeforeAllApplied, LeaseNeverEnds, CacheNotInvalidated,
	RequestIDIgnored, RequestIDForgotten, OutcomeNotStored, RevisionIgnored, RefusalLeavesParts, RenameMovesSalt, PasswordLogged, AppliedTwice, ApplyReadsOwnState,
	ProofWithoutAuthenticator, RequestTagIgnored, ResendIsRepeat, ExpiryByLocalClock, ForgottenAtRestart, AttemptCountedTwice, LostAtFailover, NotJournalled,
	VerdictNotAwaited, GuessNotAwaited,
}

package mutant

// prefix of every name, so that a search through a binary finds them all.
const prefix = "charon-mutant:"

// A Name is one planted bug. Its constant says what the code does wrong while it is on.
type Name string

// The planted bugs, by where they sit. A new one gets a constant and a line in Names.
const (
	// Log and votes (raftstore/logstore, raftstore/vouch.go).

	SkipLogFsync       Name = prefix + "skip-log-fsync"       // an append returns before the log is on disk
	SkipStateFsync     Name = prefix + "skip-state-fsync"     // a transaction of the state returns before it is on disk
	TornVote           Name = prefix + "torn-vote"            // term and candidate of a vote are two writes
	BootCounterIgnored Name = prefix + "boot-counter-ignored" // an old copy of a data directory votes
	UnvouchedVotes     Name = prefix + "unvouched-votes"      // a node votes before anyone has said that its disk is the newest

	// Proposals and reads (raftstore).

	AckBeforeCommit        Name = prefix + "ack-before-commit"         // a write is acknowledged once it is proposed
	UnknownAsNotApplied    Name = prefix + "unknown-as-not-applied"    // an unclear outcome is called "nothing done"
	ReadWithoutVerify      Name = prefix + "read-without-verify"       // a linearizable read does not ask whether its leader still leads
	AckBeforeAllApplied    Name = prefix + "ack-before-all-applied"    // a password change is acknowledged before every fresh node has it
	LeaseNeverEnds         Name = prefix + "lease-never-ends"          // a node stays fresh without its leader
	CacheNotInvalidated    Name = prefix + "cache-not-invalidated"     // a principal in the cache outlives its record
	RemovedNodeVotes       Name = prefix + "removed-node-votes"        // a removed node's messages still count
	PromotedBeforeCaughtUp Name = prefix + "promoted-before-caught-up" // a node votes before it has the log
	CutOffServes           Name = prefix + "cut-off-serves"            // a node without a quorum issues tickets as if it had one

	// The realm's state machine (raftstore/realm).

	RequestIDIgnored   Name = prefix + "request-id-ignored"    // a request id is not looked up: the same call acts again
	RequestIDForgotten Name = prefix + "request-id-forgotten"  // request ids live in memory and do not survive a restart or a snapshot
	OutcomeNotStored   Name = prefix + "outcome-not-stored"    // the id is known but not what came of it
	RevisionIgnored    Name = prefix + "revision-ignored"      // a change does not look at the revision it was based on
	RenameMovesSalt    Name = prefix + "rename-moves-salt"     // a renamed principal's salt follows its name
	AppliedTwice       Name = prefix + "applied-twice"         // entries at or below the applied index are applied again
	SnapshotIndexEarly Name = prefix + "snapshot-index-early"  // a snapshot's index is read outside of its transaction
	ApplyReadsClock    Name = prefix + "apply-reads-own-state" // applying depends on more than the log

	// The replay cache (raftstore/replay and what feeds it).

	ProofWithoutAuthenticator Name = prefix + "proof-without-authenticator" // K is over the request: a copied authenticator looks new
	RequestTagIgnored         Name = prefix + "request-tag-ignored"         // R is not compared: another request looks like a resend
	ResendIsRepeat            Name = prefix + "resend-is-repeat"            // R is not compared: a resend looks like a replay
	ExpiryByLocalClock        Name = prefix + "expiry-by-local-clock"       // proofs expire by the clock of whoever leads, alone
	LowMarkFalls              Name = prefix + "low-mark-falls"              // the expiry mark starts at zero after a restart
	AttemptCountedTwice       Name = prefix + "attempt-counted-twice"       // a resend of an attempt counts again
	AttemptLostAtFailover     Name = prefix + "attempt-lost-at-failover"    // attempts in flight when the leader changes are dropped
	VerdictNotAwaited         Name = prefix + "verdict-not-awaited"         // a ticket leaves before the verdict is in

	// The KDC (kdc).

	LookasideIgnoresBody Name = prefix + "lookaside-ignores-body" // another request with the same authenticator gets the kept reply
)

// Names is every planted bug, in the order of the constants.
var Names = []Name{
	SkipLogFsync, SkipStateFsync, TornVote, BootCounterIgnored, UnvouchedVotes,
	AckBeforeCommit, UnknownAsNotApplied, ReadWithoutVerify, AckBeforeAllApplied, LeaseNeverEnds, CacheNotInvalidated,
	RemovedNodeVotes, PromotedBeforeCaughtUp, CutOffServes,
	RequestIDIgnored, RequestIDForgotten, OutcomeNotStored, RevisionIgnored, RenameMovesSalt, AppliedTwice, SnapshotIndexEarly, ApplyReadsClock,
	ProofWithoutAuthenticator, RequestTagIgnored, ResendIsRepeat, ExpiryByLocalClock, LowMarkFalls,
	AttemptCountedTwice, AttemptLostAtFailover, VerdictNotAwaited,
	LookasideIgnoresBody,
}

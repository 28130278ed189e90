package main

import (
	"path"
	"time"

	"github.com/charon-kdc/charon/internal/mutant"
)

// A finder is one bounded run that may find a bug.
type finder struct {
	// by is the kind: replicas, sim, chaos or test.
	by  string
	pkg string // below the module
	// args of the test binary; seed is given to it as well, where it takes one.
	args  []string
	limit time.Duration
	// apart: the binary is built without the bugs, and builds or starts what has them.
	apart bool
}

// String names a finder as the table does.
func (f finder) String() string {
	s := f.by + " " + f.pkg
	for _, a := range f.args {
		s += " " + a
	}
	return s
}

const startup = 4 * time.Minute // of a binary that builds charon and sets a realm up, on a busy machine

// replicas is a seeded run of a state machine against others of its kind.
func replicas(pkg, test string) finder {
	return finder{by: "replicas", pkg: pkg, args: []string{"-test.run", "^" + test + "$"}, limit: time.Minute}
}

// simulated is a run of test/sim for span of simulated time.
func simulated(span time.Duration) finder {
	return finder{by: "sim", pkg: "test/sim", args: []string{"-test.run", "^TestSim$", "-span", span.String(), "-each", span.String()}, limit: 10 * time.Minute}
}

// chaos is a run of test/chaos for d under the faults that only names, a regular expression.
func chaos(d time.Duration, only string) finder {
	return finder{by: "chaos", pkg: "test/chaos", args: []string{"-test.run", "^TestChaos$", "-chaos.for", d.String(), "-chaos.only", only}, limit: d + startup, apart: true}
}

// named is one test of a package, for what no fault shows from outside.
func named(pkg, test string) finder {
	return finder{by: "test", pkg: pkg, args: []string{"-test.run", "^" + test + "$"}, limit: 2 * time.Minute}
}

const (
	short = 20 * time.Second
	while = 90 * time.Second
	// moves are the faults after which another node leads.
	moves = "leader"
)

// table has the finders of every name, in the order in which they are tried.
var table = map[mutant.Name][]finder{
	// A process that dies leaves what it wrote to the kernel: only a power cut shows what was not flushed, and that is simulated.
	mutant.SkipLogFsync:   {simulated(20 * time.Minute)},
	mutant.SkipStateFsync: {simulated(20 * time.Minute)},
	// The node goes on where it should have ended, with a gap in its log.
	mutant.FailedWriteIgnored: {chaos(while, "disk full|EIO"), named("raftstore/logstore", "TestWriteErrorIsFatal")},
	// The crash must come between the two writes of a vote; a vote takes a millisecond.
	mutant.TornVote: {named("raftstore/logstore", "TestTornVote"), simulated(20 * time.Minute)},
	// Nobody puts an old copy back in chaos.
	mutant.BootCounterIgnored: {named("raftstore", "TestOldCopyNeverVotes"), simulated(20 * time.Minute)},
	mutant.UnvouchedVotes:     {named("raftstore", "TestOldCopyNeverVotes"), simulated(20 * time.Minute)},

	mutant.AckBeforeCommit:     {chaos(short, "")},
	mutant.UnknownAsNotApplied: {chaos(while, "one-way cut|cut the leader|unplug the leader"), simulated(10 * time.Minute)},
	mutant.ReadWithoutVerify:   {chaos(while, "stop the leader|cut the leader|unplug the leader"), simulated(10 * time.Minute), named("raftstore", "TestPartitionedLeader")},
	mutant.LeadsBeforeApplied:  {chaos(while, "kill the leader|moved"), simulated(10 * time.Minute)},
	mutant.AckBeforeAllApplied: {chaos(while, "moved"), simulated(10 * time.Minute)},
	// A wrong guess at a node that was cut off a moment ago is told apart from one that waits by its silence alone.
	mutant.LeaseNeverEnds:      {simulated(10 * time.Minute), named("raftstore", "TestAcknowledgedPastAPartitionedMember|TestCutOff")},
	mutant.CacheNotInvalidated: {chaos(short, "")},

	mutant.RequestIDIgnored:   {chaos(while, moves), simulated(10 * time.Minute)},
	mutant.RequestIDForgotten: {chaos(while, moves), simulated(10 * time.Minute)},
	mutant.OutcomeNotStored:   {chaos(while, moves), simulated(10 * time.Minute)},
	mutant.RevisionIgnored:    {chaos(while, "moved"), simulated(10 * time.Minute)},
	mutant.RefusalLeavesParts: {chaos(while, "moved")},
	mutant.RenameMovesSalt:    {chaos(short, "")},
	mutant.PasswordLogged:     {chaos(short, "")},
	mutant.AppliedTwice:       {replicas("raftstore/realm", "TestReplicas")},
	mutant.ApplyReadsOwnState: {replicas("raftstore/realm", "TestReplicas")},

	mutant.ProofWithoutAuthenticator: {chaos(short, "")},
	mutant.RequestTagIgnored:         {chaos(short, "")},
	mutant.ResendIsRepeat:            {chaos(short, "")},
	mutant.ExpiryByLocalClock:        {chaos(while, "year|five")},
	mutant.ForgottenAtRestart:        {replicas("raftstore/replay", "TestReplicas")},
	mutant.AttemptCountedTwice:       {replicas("raftstore/replay", "TestEntriesAgainChangeNothing")},
	mutant.LostAtFailover:            {chaos(while, "kill the leader|moved"), simulated(10 * time.Minute)},
	mutant.NotJournalled:             {chaos(while, "cut all|cut a follower|cut the leader"), simulated(10 * time.Minute)},

	mutant.VerdictNotAwaited: {chaos(short, "")},
	// The order of two events within one node: an attacker sees no more than the time of an answer.
	mutant.GuessNotAwaited: {named("kdc", "TestFailureIsCountedBeforeItsReply")},
}

// binary is the file name of a package's test binary.
func (f finder) binary() string { return path.Base(path.Dir(f.pkg)) + "-" + path.Base(f.pkg) + ".test" }

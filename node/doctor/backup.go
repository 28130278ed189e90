package doctor

import "time"

// Backup is what the state says of the last one.
type Backup struct {
	At       time.Time // zero: there was none
	Verified bool
	Node     string
	// Made is when the cluster was made, Changed whether something changed since the backup.
	Made    time.Time
	Changed bool
}

const (
	backupWarn = 48 * time.Hour
	backupFail = 14 * 24 * time.Hour
	// backupGrace: a new realm is not blamed at once.
	backupGrace = 24 * time.Hour
)

func backupAge(f *ClusterFacts) []Finding {
	b := f.Backup
	if b == nil {
		return nil
	}
	const fix = "charon backup save, and a schedule: docs/backup.md"
	age := f.Now.Sub(b.At)
	switch {
	case b.At.IsZero() && f.Now.Sub(b.Made) < backupGrace:
		return nil
	case b.At.IsZero():
		return warn(fix, "there is no backup: a mistake, or the loss of a majority of disks, can't be undone")
	case !b.Changed:
		return good("nothing has changed since the last backup, %s ago", span(age))
	case age > backupFail:
		return fail(fix, "the last backup is %s old", span(age))
	case age > backupWarn:
		return warn(fix, "the last backup is %s old", span(age))
	case !b.Verified:
		return warn("charon backup verify, or make another with charon backup save", "the last backup, %s ago, was not verified", span(age))
	}
	return good("the last backup is %s old, and verified", span(max(age, 0)))
}

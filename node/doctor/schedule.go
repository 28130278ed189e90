package doctor

// Schedule is what the node that leads the realm does about backups by itself.
type Schedule struct {
	Dir     string
	Problem string // why the last backup that was due here could not be written; empty: it could, or another node leads
}

func backupSchedule(f *NodeFacts) []Finding {
	s := f.Schedule
	switch {
	case s == nil:
		return nil
	case s.Problem != "":
		return fail("what it says; the directory must be there, and the service may have to be allowed to write to it: docs/backup.md",
			"%s can't write its backups to %s: %s", nameOf(f), s.Dir, s.Problem)
	}
	return good("%s writes backups to %s while it leads the realm", nameOf(f), s.Dir)
}

package doctor

import (
	"io/fs"
)

// Files are what a node's data directory shows from outside.
type Files struct {
	Dir     string
	Missing bool // there is no such directory
	// NoNode: nothing was made or joined there. Partial: charon init or charon join has not come to its end.
	NoNode, Partial bool
	// Removed, Diverged: marks that say why the node must not serve; empty: none.
	Removed, Diverged string
	// DirMode and KeyMode are permissions; 0: unknown. KeyErr is why the master key can't be used.
	DirMode, KeyMode fs.FileMode
	KeyPath, KeyErr  string
	// Owner is the uid that owns the directory, RunAs that of who looks or runs; -1: unknown.
	Owner, RunAs int
	// Broken: parts of the replicated state are missing or do not belong together.
	Broken string
	// SocketMode is 0 while there is no socket.
	SocketMode fs.FileMode
}

const others = 0o077

func filesDirectory(f *NodeFacts) []Finding {
	d := f.Files
	switch {
	case d == nil:
		return nil
	case d.Missing:
		return fail("charon init, or charon join; or name another with --config", "there is no data directory %s", d.Dir)
	case d.DirMode&others != 0:
		return warn("chmod 700 "+d.Dir, "%s: %s has mode %04o: others can look into it", nameOf(f), d.Dir, d.DirMode)
	case d.Owner >= 0 && d.RunAs > 0 && d.Owner != d.RunAs:
		return fail("chown -R to the user that charon runs as: "+d.Dir, "%s: %s belongs to uid %d, and charon runs as uid %d", nameOf(f), d.Dir, d.Owner, d.RunAs)
	}
	return good("%s: %s is the node's alone", nameOf(f), d.Dir)
}

func filesMasterKey(f *NodeFacts) []Finding {
	d := f.Files
	switch {
	case d == nil || d.Missing || d.NoNode:
		return nil
	case d.KeyMode&others != 0:
		return fail("chmod 600 "+d.KeyPath, "%s: the master key %s has mode %04o: whoever reads it has every key of the realm", nameOf(f), d.KeyPath, d.KeyMode)
	case d.KeyErr != "":
		return fail("copy master.key from another node, over a safe channel, mode 0600", "%s can't use its master key: %s", nameOf(f), d.KeyErr)
	}
	return good("%s: the master key is the node's alone", nameOf(f))
}

func filesSocket(f *NodeFacts) []Finding {
	d := f.Files
	if d == nil || d.SocketMode == 0 {
		return nil
	}
	if d.SocketMode&others != 0 {
		return fail("restart the node, which makes it anew; nothing else may change it", "%s: the admin socket has mode %04o", nameOf(f), d.SocketMode)
	}
	return good("%s: the admin socket is the node's alone", nameOf(f))
}

// nodeState tells of marks in the data directory that keep a node from serving.
func nodeState(f *NodeFacts) []Finding {
	d := f.Files
	switch {
	case d == nil || d.Missing:
		return nil
	case d.Partial:
		return fail("run the same charon init or charon join again: it goes on where it was", "%s: charon init or join in %s has not come to its end", nameOf(f), d.Dir)
	case d.NoNode:
		return fail("charon init makes a realm, charon join joins one", "there is no node in %s", d.Dir)
	case d.Removed != "":
		return fail("move the data directory away and charon join with a new token", "%s was removed from the cluster", nameOf(f))
	case d.Diverged != "":
		return fail("docs/integrity.md, \"A node that differs\"", "%s differs from the other nodes: %s", nameOf(f), d.Diverged)
	case d.Broken != "":
		return fail("move the data directory away, remove the node and join again: docs/integrity.md", "%s: %s", nameOf(f), d.Broken)
	}
	return good("%s: the data directory holds a whole node", nameOf(f))
}

package node

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/charon-kdc/charon/kdc/kdb/masterkey"
	"github.com/charon-kdc/charon/node/doctor"
	"github.com/charon-kdc/charon/node/wallclock"
	"github.com/charon-kdc/charon/raftstore"
)

// Examine is what can be said of a node whose server does not answer, from its data directory alone. It writes nothing and takes no lock, so
// it may run beside a server that hangs. answers tells that the admin socket took a call.
func Examine(c *Config, answers bool) []doctor.Finding {
	f := hostFacts(c, wallclock.Now())
	if f.Files.Missing || f.Files.NoNode {
		return doctor.Node(f)
	}
	pid, running := RunningPID(c.Dir)
	f.Process = &doctor.Process{Running: running, PID: pid, Answers: answers, Dir: c.Dir}
	return doctor.Node(f)
}

// hostFacts are what files and file systems show.
func hostFacts(c *Config, now time.Time) *doctor.NodeFacts {
	f := &doctor.NodeFacts{Now: now, Files: fileFacts(c)}
	if f.Files.Missing {
		return f
	}
	if !f.Files.NoNode {
		f.Name, f.Certs = certFacts(c.Dir, now)
	}
	f.Disks = diskFacts(c)
	return f
}

func fileFacts(c *Config) *doctor.Files {
	d := &doctor.Files{Dir: c.Dir, KeyPath: c.MasterKeyPath(), Owner: -1, RunAs: os.Geteuid()}
	st, err := os.Stat(c.Dir)
	if errors.Is(err, os.ErrNotExist) {
		d.Missing = true
		return d
	}
	if err == nil {
		d.DirMode = st.Mode().Perm()
		if sys, ok := st.Sys().(*syscall.Stat_t); ok {
			d.Owner = int(sys.Uid)
		}
	}
	there := func(name string) bool { _, err := os.Stat(filepath.Join(c.Dir, name)); return err == nil }
	d.Partial = there(partialFile) || there(joinKeyFile)
	d.NoNode = !there(nodeCertFile)
	if there(removedFile) {
		d.Removed = errRemoved.Error()
	}
	if st, err := os.Stat(d.KeyPath); err == nil {
		d.KeyMode = st.Mode().Perm()
	}
	if _, err := masterkey.Load(d.KeyPath); err != nil {
		d.KeyErr = err.Error()
	}
	if st, err := os.Stat(c.SocketPath()); err == nil && st.Mode().Type() == fs.ModeSocket {
		d.SocketMode = st.Mode().Perm()
	}
	if !d.NoNode && !d.Partial {
		if err := raftstore.Whole(c.raftPath()); err != nil {
			d.Broken = err.Error()
		}
	}
	return d
}

// certFacts also gives the node's name, which its certificate has.
func certFacts(dir string, now time.Time) (name string, out *doctor.Certs) {
	out = &doctor.Certs{}
	if leaf, err := readCert(filepath.Join(dir, nodeCertFile)); err != nil {
		out.Err = err.Error()
	} else {
		name = leaf.Subject.CommonName
		out.Node = doctor.Cert{Name: name, From: leaf.NotBefore, To: leaf.NotAfter}
		// Dates are judged by the check; here, whether the rest holds.
		if _, _, err := readCredentials(dir, between(leaf.NotBefore, now, leaf.NotAfter)); err != nil && !errors.Is(err, errRemoved) {
			out.Err = err.Error()
		}
	}
	paths, _ := filepath.Glob(filepath.Join(dir, adminDir, "*.crt")) // the pattern is well formed
	for _, p := range paths {
		if filepath.Base(p) == caFile {
			continue
		}
		if leaf, err := readCert(p); err == nil {
			out.Admins = append(out.Admins, doctor.Cert{Name: p, From: leaf.NotBefore, To: leaf.NotAfter})
		}
	}
	return name, out
}

func between(first, t, last time.Time) time.Time {
	if t.Before(first) {
		return first
	}
	if t.After(last) {
		return last
	}
	return t
}

func readCert(path string) (*x509.Certificate, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, errors.New(path + " is not PEM")
	}
	return x509.ParseCertificate(block.Bytes)
}

// diskFacts are the file systems of the data directory and, if it is another, of the audit file.
func diskFacts(c *Config) []doctor.Disk {
	var out []doctor.Disk
	seen := map[unix.Fsid]bool{}
	add := func(what, path string) {
		var st unix.Statfs_t
		if unix.Statfs(path, &st) != nil || seen[st.Fsid] && len(out) > 0 {
			return
		}
		seen[st.Fsid] = true
		out = append(out, doctor.Disk{
			What: what, Path: path, Free: st.Bavail * uint64(st.Bsize), Total: st.Blocks * uint64(st.Bsize),
			Inodes: st.Ffree, InodesTotal: st.Files, ReadOnly: st.Flags&unix.ST_RDONLY != 0,
		})
	}
	add("data", c.Dir)
	if c.Audit.Target == "file" {
		add("audit", filepath.Dir(c.AuditPath()))
	}
	return out
}

package node

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/charon-kdc/charon/kdc/kdb/masterkey"
	"github.com/charon-kdc/charon/node/audit"
	"github.com/charon-kdc/charon/node/doctor"
	"github.com/charon-kdc/charon/node/wallclock"
	"github.com/charon-kdc/charon/raftstore"
)

// IsDamage tells whether a node ended or did not start because its data directory is damaged, so that starting it again would do no good.
func IsDamage(err error) bool {
	return errors.Is(err, raftstore.ErrBroken) || errors.Is(err, raftstore.ErrStateDamaged)
}

// damageExit is the status of a process that finds its files damaged while it runs, as charon's other errors have 1.
const damageExit = 7

// fatal ends the process: what it rests on has failed. The last line says what, and what to do.
func fatal(err error) {
	fmt.Fprintln(os.Stderr, "charon: fatal:", err)
	if IsDamage(err) {
		os.Exit(damageExit)
	}
	os.Exit(70)
}

// Checked is what CheckFiles has found in order.
type Checked struct {
	raftstore.Examined
	// Sum is over everything that was read, credentials and keys included.
	Sum [sha256.Size]byte
}

// CheckFiles reads all files of a stopped node as a start does, and changes nothing.
func CheckFiles(c *Config) (out Checked, err error) {
	err = c.offline(func() error {
		out, err = checkFiles(c)
		return err
	})
	return out, err
}

func checkFiles(c *Config) (out Checked, err error) {
	creds, err := loadCredentials(c.Dir, wallclock.Now())
	if err != nil {
		return out, err
	}
	ring, err := masterkey.Load(c.MasterKeyPath())
	if err != nil {
		return out, err
	}
	if out.Examined, err = raftstore.Examine(c.raftPath()); err != nil {
		return out, err
	}
	h := sha256.New()
	for _, der := range creds.cert.Load().Certificate {
		h.Write(der)
	}
	h.Write(ring.Text())
	h.Write(out.Examined.Sum[:])
	out.Sum = [sha256.Size]byte(h.Sum(nil))
	return out, nil
}

// rebuild fetches this node's states from another.
func (s *server) rebuild(ctx context.Context) error {
	creds, err := loadCredentials(s.c.Dir, wallclock.Now())
	if err != nil {
		return err
	}
	r := raftstore.Rebuild{Dir: s.c.raftPath(), Identity: identityOf(creds), From: s.o.RebuildFrom, Logger: s.log}
	from, err := r.Run(ctx)
	if err == nil {
		s.log.Info("this node's state is rebuilt", "from", from)
	}
	return err
}

// mendCA writes ca.crt again, from the authority that vouches for this node, where it is not that authority's. Nobody here reads it: it is what
// administrators hold this node against.
func mendCA(dir string, creds *ownCert, log *slog.Logger) error {
	path := filepath.Join(dir, caFile)
	want := pemCertificates(creds.authority.Raw)
	if have, err := os.ReadFile(path); err == nil && bytes.Equal(have, want) {
		return nil
	}
	log.Warn("the node authority's certificate was not as it was written; writing it again", "file", path)
	return writeFile(path, want, 0o644)
}

// strayed and disputed are told once each by the store.
func (s *server) strayed(why string) {
	s.metrics.diverged.Set(1)
	s.auditNode(audit.NodeEvent{Status: "STATE_DIVERGED", Reason: why})
}

func (s *server) disputed(what string) {
	if what == "" {
		s.metrics.disputed.Set(0)
		s.auditNode(audit.NodeEvent{Status: "STATE_ALIKE"})
		return
	}
	s.metrics.disputed.Set(1)
	s.auditNode(audit.NodeEvent{Status: "STATE_DISPUTED", Reason: what})
}

// stateFacts are what comparing the states has shown.
func stateFacts(st raftstore.Status) *doctor.States {
	out := &doctor.States{Diverged: map[string]string{}, Dispute: st.Dispute}
	for _, n := range st.Nodes {
		if n.Diverged != "" {
			out.Diverged[n.Name] = n.Diverged
		}
	}
	return out
}

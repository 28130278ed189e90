package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/charon-kdc/charon/adminapi"
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
	s.auditState("DIVERGED", why)
}

func (s *server) disputed(what string) {
	if what == "" {
		s.metrics.disputed.Set(0)
		s.auditState("ALIKE", "the nodes' states are alike again")
		return
	}
	s.metrics.disputed.Set(1)
	s.auditState("DISPUTED", what)
}

func (s *server) auditState(code, why string) {
	if s.audit != nil {
		s.audit.Admin(adminapi.AuditEvent{Time: wallclock.Now(), Method: "state", Caller: "node", Target: s.creds.Name, Code: code, Reason: why})
	}
}

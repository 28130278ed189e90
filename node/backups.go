package node

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"filippo.io/age"

	"github.com/charon-kdc/charon/adminapi"
	"github.com/charon-kdc/charon/node/backup"
	"github.com/charon-kdc/charon/node/wallclock"
	adminv1 "github.com/charon-kdc/charon/proto/charon/admin/v1"
	statev1 "github.com/charon-kdc/charon/proto/charon/state/v1"
	"github.com/charon-kdc/charon/raftstore/realm"
)

const (
	// backupsAtOnce are made at a time: each reads the whole state, whose pages can't be reused meanwhile.
	backupsAtOnce = 2
	// backupsRemembered are those of late that a client may confirm.
	backupsRemembered = 16
	// backupCatchUp is how long a backup that was asked for waits to hold everything that was acknowledged before.
	backupCatchUp = 3 * time.Second
	// notesLevel is the feature level from which on the cluster remembers its newest backup.
	notesLevel = 2
)

// backups is what this node does about backups: it makes those that are asked for, and on a schedule its own.
type backups struct {
	s        *server
	source   backup.Source
	schedule *backup.Schedule // nil: no directory is configured
	slots    chan struct{}
	// changed is the place in the log, or a later one, of the last change to what a backup holds.
	changed atomic.Pointer[logPlace]

	mu    sync.Mutex
	made  []*statev1.BackupNote // for clients, not yet confirmed
	noted *statev1.BackupNote   // the newest that this node knows of by itself
}

type logPlace struct{ term, index uint64 }

func (s *server) newBackups() *backups {
	b := &backups{s: s, slots: make(chan struct{}, backupsAtOnce), source: backup.Source{
		DB: s.store.DB(), Ring: s.ring, Node: s.creds.Name, Version: s.o.Version, Now: wallclock.Now, ClockSkew: s.store.ClockSkewMax,
	}}
	// What was applied before this start may have changed since any backup.
	db := s.store.DB()
	change := func() {
		index, term := db.Applied()
		b.changed.Store(&logPlace{term, index})
	}
	change()
	db.Subscribe(func(changes []realm.Change) {
		if slices.ContainsFunc(changes, func(c realm.Change) bool { return c.Kind != realm.KindBackup }) {
			change()
		}
	})
	if c := s.c.Backup; c.Directory != "" {
		b.schedule = &backup.Schedule{
			Dir: c.Directory, Every: c.Every.Duration, Keep: c.Keep, Node: s.creds.Name, Now: wallclock.Now, Log: s.log,
			Leads: s.store.IsLeader, Changed: func() (term, index uint64) { at := b.changed.Load(); return at.term, at.index }, Last: b.last, Note: b.note,
			Applied: func() (term, index uint64) { index, term = db.Applied(); return term, index },
			Cluster: func() ([]byte, error) { cl, err := db.Cluster(); return cl.GetId(), err },
			Save:    func(w io.Writer) (*backup.Summary, error) { return backup.Save(w, b.source, c.Recipients, true) },
			Result:  func(r string) { s.metrics.backups.WithLabelValues(r).Inc() },
		}
	}
	return b
}

// all are the recipients besides the kit's.
func (b *backups) all(named []string, kit bool) []string {
	if !kit {
		return named
	}
	return append(slices.Clone(b.s.c.Backup.Recipients), named...)
}

// Check implements adminapi.Backups.
func (b *backups) Check(recipients []string, kit bool) error {
	all := b.all(recipients, kit)
	if kit {
		cl, err := b.source.DB.Cluster()
		if err != nil {
			return err
		}
		if cl.GetRecoveryRecipient() != "" {
			all = append(all, cl.GetRecoveryRecipient())
		}
	}
	to, err := backup.ParseRecipients(all)
	if err != nil {
		return err
	}
	if len(to) == 0 {
		return fmt.Errorf("%w: there is none", backup.ErrRecipient)
	}
	if _, err := age.Encrypt(io.Discard, to...); err != nil {
		return fmt.Errorf("%w: %w", backup.ErrRecipient, err) // post-quantum and classic keys do not go together
	}
	return nil
}

// Save implements adminapi.Backups.
func (b *backups) Save(ctx context.Context, w io.Writer, recipients []string, kit bool) (*adminv1.BackupSummary, error) {
	select {
	case b.slots <- struct{}{}:
		defer func() { <-b.slots }()
	default:
		return nil, adminapi.ErrBackupBusy
	}
	// A realm without a quorum is backed up all the more, and its backup says so.
	wait, cancel := context.WithTimeout(ctx, backupCatchUp)
	behind := b.s.store.KDB().CatchUp(wait)
	cancel()
	contact := b.s.store.LastContact()
	sum, err := backup.Save(w, b.source, b.all(recipients, kit), kit)
	if err != nil {
		return nil, err
	}
	b.remember(backup.NoteOf(sum, b.source.Node))
	h := sum.Header
	return &adminv1.BackupSummary{
		Node: h.GetNode(), ClusterId: h.GetClusterId(), Realm: h.GetRealm(), Index: h.GetIndex(), Principals: h.GetPrincipals(), Keys: sum.Keys,
		Bytes: sum.Bytes, Sha256: sum.SHA256[:], CreatedAt: h.GetCreatedAt(), Recipients: h.GetRecipients(),
		WithoutLeader: behind != nil, ContactMs: contact.Milliseconds(),
	}, nil
}

func (b *backups) remember(n *statev1.BackupNote) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.made = append(b.made[max(0, len(b.made)-backupsRemembered+1):], n)
}

// Confirm implements adminapi.Backups.
func (b *backups) Confirm(ctx context.Context, sum []byte) error {
	b.mu.Lock()
	i := slices.IndexFunc(b.made, func(n *statev1.BackupNote) bool { return bytes.Equal(n.GetSha256(), sum) })
	var n *statev1.BackupNote
	if i >= 0 {
		n = b.made[i]
	}
	b.mu.Unlock()
	if n == nil {
		return adminapi.ErrUnknownBackup
	}
	return b.note(ctx, n)
}

// note tells the cluster of a backup; below the feature level of notes only this node knows.
func (b *backups) note(ctx context.Context, n *statev1.BackupNote) error {
	b.mu.Lock()
	if n.GetAt() >= b.noted.GetAt() {
		b.noted = n
	}
	b.mu.Unlock()
	if b.source.DB.FeatureLevel() < notesLevel {
		return nil
	}
	r, err := b.s.store.Propose(ctx, &statev1.Command{Op: &statev1.Command_NoteBackup{NoteBackup: &statev1.NoteBackup{Note: n}}})
	if err != nil {
		return err
	}
	if r.GetCode() != statev1.Code_CODE_OK {
		return fmt.Errorf("noting a backup: %v: %s", r.GetCode(), r.GetMessage())
	}
	return nil
}

// last is the newest backup known, or nil.
func (b *backups) last() *statev1.BackupNote {
	cl, err := b.source.DB.Cluster()
	b.mu.Lock()
	defer b.mu.Unlock()
	if n := cl.GetLastBackup(); err == nil && n.GetAt() >= b.noted.GetAt() && n != nil {
		return n
	}
	return b.noted
}

// age is how long ago a backup held everything; negative when there was never one.
func (b *backups) age() time.Duration {
	n := b.last()
	if n == nil {
		return -1
	}
	return max(0, wallclock.Now().Sub(time.UnixMilli(max(n.GetAt(), n.GetCheckedAt()))))
}

// problem is why a backup that was due here could not be written, or "".
func (b *backups) problem() string {
	if b.schedule == nil || b.schedule.Failure() == nil {
		return ""
	}
	return b.schedule.Failure().Error()
}

package backup

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"time"

	statev1 "github.com/charon-kdc/charon/proto/charon/state/v1"
)

const (
	// lookEvery is how often the schedule looks whether a backup is due.
	lookEvery = 10 * time.Second
	// retryEvery is how soon a failed backup is tried again, or Every if that is less.
	retryEvery = time.Minute
	// noteWait bounds telling the cluster of a backup.
	noteWait = 10 * time.Second
)

// What became of a look that found something to do.
const (
	Written = "written"
	Checked = "checked" // nothing has changed since the newest, which was read again
	Failed  = "failed"
)

// Schedule writes backups to a directory by itself. It runs on every node, and only the one that leads the realm writes.
type Schedule struct {
	Dir   string
	Every time.Duration
	Keep  int
	// Leads tells whether this node leads the realm.
	Leads func() bool
	// Changed is the place in the log, or a later one, of the last change to what a backup holds; empty entries and notes of backups are none. After a
	// recovery from a lost quorum the log may go on from a lower index, in a later term.
	Changed func() (term, index uint64)
	// Applied is the place in the log that this node has applied. A file that claims a later one is of another life of the cluster, or forged.
	Applied func() (term, index uint64)
	// Cluster is the cluster's id.
	Cluster func() ([]byte, error)
	// Save writes one backup.
	Save func(io.Writer) (*Summary, error)
	// Last is the newest note that the cluster has, or nil; Note gives it another.
	Last func() *statev1.BackupNote
	Note func(ctx context.Context, n *statev1.BackupNote) error
	Node string // this one's name, for notes
	Now  func() time.Time
	// Result is called with what came of each look that found something to do. May be nil.
	Result func(string)
	Log    *slog.Logger

	mu      sync.Mutex
	failure error     // of the last try; nil after one that ended well, or when this node does not lead
	retry   time.Time // not before
	checked time.Time // when the newest file was last read again here
	written string    // the last file
}

// Run looks again and again until ctx ends.
func (s *Schedule) Run(ctx context.Context) {
	t := time.NewTicker(min(lookEvery, s.Every))
	defer t.Stop()
	for {
		s.Look(ctx)
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}

// Failure is why the last backup that was due here could not be written; nil: it could, or none is due here.
func (s *Schedule) Failure() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failure
}

// Look writes a backup if one is due, checks the newest if that still holds everything, and removes old ones.
func (s *Schedule) Look(ctx context.Context) {
	now := s.Now()
	if !s.Leads() {
		s.settle(nil, time.Time{})
		return
	}
	if now.Before(s.retryAt()) {
		return
	}
	result, err := s.look(ctx, now)
	if err != nil {
		s.Log.Error("scheduled backup", "dir", s.Dir, "error", err)
		result = Failed
		s.settle(err, now.Add(min(retryEvery, s.Every)))
	} else {
		s.settle(nil, time.Time{})
	}
	if result != "" && s.Result != nil {
		s.Result(result)
	}
}

func (s *Schedule) retryAt() time.Time { s.mu.Lock(); defer s.mu.Unlock(); return s.retry }

func (s *Schedule) settle(err error, retry time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failure, s.retry = err, retry
}

func (s *Schedule) look(ctx context.Context, now time.Time) (string, error) {
	cluster, err := s.Cluster()
	if err != nil {
		return "", err
	}
	list, err := List(s.Dir, cluster)
	if err != nil {
		return "", err
	}
	list = upTo(list, s.Applied)
	if len(list) == 0 {
		return s.write(ctx, cluster)
	}
	newest := list[len(list)-1]
	made := time.UnixMilli(newest.Header.GetCreatedAt())
	if age := now.Sub(made); age >= 0 && age < s.Every || age < 0 && age > -s.Every {
		return "", nil
	}
	if term, index := s.Changed(); newest.before(term, index) {
		return s.write(ctx, cluster)
	}
	if now.Sub(s.checked) < s.Every {
		return "", nil
	}
	return s.check(ctx, cluster, newest, now)
}

func (s *Schedule) write(ctx context.Context, cluster []byte) (string, error) {
	begun := s.Now()
	path, sum, err := WriteFile(s.Dir+string(os.PathSeparator), s.Save)
	if err != nil {
		return "", err
	}
	s.checked, s.written = s.Now(), path
	h := sum.Header
	s.Log.Info("backup written", "path", path, "index", h.GetIndex(), "principals", h.GetPrincipals(), "bytes", sum.Bytes, "took", s.Now().Sub(begun))
	s.note(ctx, NoteOf(sum, s.Node))
	removed, err := Prune(s.Dir, h, s.Keep)
	if removed > 0 {
		s.Log.Info("old backups removed", "dir", s.Dir, "files", removed)
	}
	if err != nil {
		return "", err
	}
	return Written, nil
}

// check reads the newest backup again, which still holds the present state, and tells the cluster that it is there. One that has changed on its
// disk, can't be read, or that the cluster does not know by its hash, is written anew; a damaged one goes once the other is there.
func (s *Schedule) check(ctx context.Context, cluster []byte, f File, now time.Time) (string, error) {
	sum, n, err := hashFile(f.Path)
	last := s.Last()
	known := last.GetIndex() == f.Header.GetIndex() && last.GetAt() == f.Header.GetCreatedAt()
	if err == nil && !known {
		return s.write(ctx, cluster) // what it says of itself in clear proves nothing
	}
	if err == nil && !bytes.Equal(sum, last.GetSha256()) {
		err = fmt.Errorf("%w: it is not what was written", ErrDamaged)
	}
	if err != nil {
		s.Log.Error("the newest backup can't be trusted; writing another", "path", f.Path, "error", err)
		result, err := s.write(ctx, cluster)
		if err != nil || s.written == f.Path {
			return result, err
		}
		if err := os.Remove(f.Path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("removing a damaged backup: %w", err)
		}
		return result, nil
	}
	s.checked = now
	s.note(ctx, &statev1.BackupNote{
		Index: f.Header.GetIndex(), At: f.Header.GetCreatedAt(), Bytes: n, Sha256: sum, Node: f.Header.GetNode(),
		Verified: last.GetVerified(), CheckedAt: now.UnixMilli(),
	})
	return Checked, nil
}

// note tells the cluster; that nobody can be told is no failure of the backup.
func (s *Schedule) note(ctx context.Context, n *statev1.BackupNote) {
	ctx, cancel := context.WithTimeout(ctx, noteWait)
	defer cancel()
	if err := s.Note(ctx, n); err != nil && ctx.Err() == nil {
		s.Log.Warn("telling the cluster of a backup", "error", err)
	}
}

// NoteOf is what the cluster remembers of a backup that was written and read back.
func NoteOf(s *Summary, node string) *statev1.BackupNote {
	return &statev1.BackupNote{
		Index: s.Header.GetIndex(), At: s.Header.GetCreatedAt(), Bytes: s.Bytes, Sha256: s.SHA256[:], Node: node, Verified: true,
	}
}

func hashFile(path string) (sum []byte, n uint64, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, 0, err
	}
	h := sha256.New()
	size, err := io.Copy(h, f)
	return h.Sum(nil), uint64(size), errors.Join(err, f.Close())
}

package node

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"time"

	"filippo.io/age"

	"github.com/charon-kdc/charon/adminapi/jointoken"
	"github.com/charon-kdc/charon/kdc/kdb/masterkey"
	"github.com/charon-kdc/charon/node/backup"
	"github.com/charon-kdc/charon/node/pki"
	"github.com/charon-kdc/charon/node/wallclock"
	backupv1 "github.com/charon-kdc/charon/proto/charon/backup/v1"
	statev1 "github.com/charon-kdc/charon/proto/charon/state/v1"
	"github.com/charon-kdc/charon/raftstore"
	"github.com/charon-kdc/charon/raftstore/realm"
)

// RestoreOptions say what to restore, and as what node.
type RestoreOptions struct {
	Backup     io.Reader
	Identities []age.Identity // one of them must open the backup
	Name       string         // of the node
	Config     *Config
	Version    string
	// NewKit makes a recovery kit, for when the old one is lost or was seen. Else the old one goes on being what backups are encrypted to.
	NewKit bool
	// NoEpoch serves service tickets at once, though an authenticator that the lost cluster has accepted is then accepted again.
	NoEpoch bool
	Logger  *slog.Logger
}

// RestoreResult is what charon backup restore prints.
type RestoreResult struct {
	Header        *backupv1.Header
	Keys, Secrets uint64 // that were opened and sealed anew
	Name          string
	ClusterID     [16]byte
	CAPin         string // sha256 of the node authority, hex
	MasterKey     string // path
	AdminDir      string // the first admin client's certificate
	Recovery      string // the new kit, shown once; "" without NewKit
	Epoch         time.Time
	SelfRecord    *statev1.Node
}

// Restore makes a new cluster of one node in the data directory from a backup.
//
// What clients hold goes on working: principals, their ids, keys, kvnos, salts and histories, policies, roles, and with krbtgt's keys every
// ticket. What the lost cluster's nodes hold is worthless: the cluster's id, its master key and the authorities of nodes and admin clients are
// new, its nodes and join tokens are gone. The authority of PKINIT stays, since clients hold it, and what is remembered of request ids, and the key
// that those are hashed under, since it agrees with the state. A replay epoch begins, unless NoEpoch. Errors: backup's, ErrExists, *LockedError, or what
// failed; the directory is then as before.
func Restore(ctx context.Context, o RestoreOptions) (*RestoreResult, error) {
	if err := jointoken.CheckNodeName(o.Name); err != nil {
		return nil, err
	}
	r, err := backup.Open(o.Backup, o.Identities...)
	if err != nil {
		return nil, err
	}
	lock, err := lockDir(o.Config.Dir)
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	if err := beginInit(o.Config.Dir); err != nil {
		return nil, err
	}
	out, err := restore(ctx, o, r)
	if err != nil {
		return nil, errors.Join(err, undoInit(o.Config.Dir))
	}
	return out, nil
}

// undoInit takes away what an init or restore that failed has made.
func undoInit(dir string) error {
	var errs []error
	for _, f := range []string{nodeCertFile, nodeKeyFile, caFile, adminDir, raftDir, masterKeyFile, partialFile} {
		errs = append(errs, os.RemoveAll(filepath.Join(dir, f)))
	}
	return errors.Join(errs...)
}

func restore(ctx context.Context, o RestoreOptions, r *backup.Reader) (*RestoreResult, error) {
	c, h := o.Config, r.Header
	self, err := c.selfRecord(o.Name, o.Version)
	if err != nil {
		return nil, err
	}
	e, err := newRestored(h, slices.Max(r.Ring.Versions())+1, wallclock.Now(), o.NewKit)
	if err != nil {
		return nil, err
	}
	keyPath := filepath.Join(c.Dir, masterKeyFile)
	if err := e.ring.WriteFile(keyPath); err != nil {
		return nil, err
	}
	id, _, err := raftstore.Prepare(c.raftPath())
	if err != nil {
		return nil, err
	}
	if err := e.seed(c, id, self.GetPeerAddress(), r); err != nil {
		return nil, err
	}
	mine, err := e.issueNode(pki.NodeIdentity{Cluster: e.cluster, Node: id, Name: o.Name}, c.hosts(o.Name))
	if err != nil {
		return nil, err
	}
	first := &raftstore.Bootstrap{Restored: true}
	if !o.NoEpoch {
		first.Epoch = epochOf(h, e.now, c.KDC.ClockSkew.Duration)
	}
	if err := e.bootstrap(ctx, c, self, mine, first, o.Logger); err != nil {
		return nil, fmt.Errorf("making a cluster of the backup: %w", err)
	}
	admin, err := e.issueAdmin()
	if err != nil {
		return nil, err
	}
	if err := writeAdmin(c.Dir, admin, e.nodes.Cert.Raw); err != nil {
		return nil, err
	}
	if err := writeCredentials(c.Dir, mine.key, mine.cert, e.nodes.Cert.Raw); err != nil {
		return nil, err
	}
	if err := os.Remove(filepath.Join(c.Dir, partialFile)); err != nil {
		return nil, err
	}
	pin := e.nodes.Pin()
	_, keys, secrets := r.Counts()
	return &RestoreResult{
		Header: h, Keys: keys, Secrets: secrets, Name: o.Name, ClusterID: e.cluster, CAPin: hex.EncodeToString(pin[:]), MasterKey: keyPath,
		AdminDir: filepath.Join(c.Dir, adminDir), Recovery: e.kit, Epoch: first.Epoch, SelfRecord: self,
	}, syncDir(c.Dir)
}

// epochOf is up to when authenticators are refused: the lost cluster may have accepted any until now, or until the backup was made where this machine's clock
// is behind that, by the wider of both clock skews.
func epochOf(h *backupv1.Header, now time.Time, skew time.Duration) time.Time {
	if made := time.UnixMilli(h.GetCreatedAt()); made.After(now) {
		now = made
	}
	return raftstore.EpochAfter(now, max(skew, time.Duration(h.GetClockSkew())*time.Second))
}

// restored is a cluster that is made from a backup: a genesis whose realm comes from elsewhere.
type restored struct {
	genesis
	recipient string                     // of a new kit, or ""
	secrets   map[string]*statev1.Secret // that take the place of the backup's, by name; those found are taken out
}

func newRestored(h *backupv1.Header, version uint32, now time.Time, newKit bool) (*restored, error) {
	e := &restored{genesis: genesis{realm: h.GetRealm(), now: now}, secrets: map[string]*statev1.Secret{}}
	if _, err := io.ReadFull(rand.Reader, e.cluster[:]); err != nil {
		return nil, fmt.Errorf("making a cluster id: %w", err)
	}
	var err error
	if e.ring, err = masterkey.GenerateVersion(rand.Reader, version); err != nil {
		return nil, err
	}
	if newKit {
		if e.kit, e.recipient, err = NewRecoveryKit(); err != nil {
			return nil, err
		}
	}
	if e.nodes, err = e.newAuthority(pki.Nodes); err != nil {
		return nil, err
	}
	e.admins, err = e.newAuthority(pki.Admins)
	return e, err
}

func (e *restored) newAuthority(kind pki.Kind) (*pki.Authority, error) {
	a, err := pki.NewAuthority(rand.Reader, kind, e.cluster, e.now)
	if err != nil {
		return nil, err
	}
	key, err := a.MarshalKey()
	if err != nil {
		return nil, err
	}
	name := kind.SecretName()
	sealed, err := e.ring.Seal(rand.Reader, masterkey.SecretAAD(e.cluster[:], name), key)
	e.secrets[name] = &statev1.Secret{Name: name, Certificate: a.Cert.Raw, Key: sealed}
	return a, err
}

// seed makes the first state of the new cluster, and believes the backup only once it has come to its end.
func (e *restored) seed(c *Config, id [16]byte, address string, r *backup.Reader) error {
	r.Rekey(e.ring, e.cluster, rand.Reader)
	info, err := raftstore.Seed(c.raftPath(), id, address, 0, r.State(), func(rec realm.Record) (bool, error) {
		if err := r.Record(rec); err != nil {
			return false, err
		}
		return e.edit(rec), nil
	})
	if err != nil {
		return backup.Refusal(err)
	}
	if err := r.Agrees(info); err != nil {
		return err
	}
	if err := r.Finish(); err != nil {
		return err
	}
	if len(e.secrets) > 0 {
		return fmt.Errorf("%w: authorities of nodes or admin clients are missing in it", backup.ErrDamaged)
	}
	return nil
}

// edit changes what is the cluster's and not the realm's; keep = false leaves a record out.
func (e *restored) edit(rec realm.Record) (keep bool) {
	switch m := rec.Message.(type) {
	case *statev1.Node, *statev1.Token:
		return false
	case *statev1.Secret:
		if s := e.secrets[m.GetName()]; s != nil {
			m.Certificate, m.Key = s.GetCertificate(), s.GetKey()
			delete(e.secrets, m.GetName())
		}
	case *statev1.Cluster:
		m.Id, m.MasterKeyVersion, m.LastBackup = e.cluster[:], e.ring.Current(), nil
		// Everything is sealed under one version; a rotation that was under way is over.
		m.MasterKeyRotation, m.MasterKeyLast, m.MasterKeyFloor = nil, 0, 0
		if e.recipient != "" {
			m.RecoveryRecipient = e.recipient
		}
	}
	return true
}
